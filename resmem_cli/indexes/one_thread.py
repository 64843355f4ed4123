"""Libraries with threads of their own, on the calling thread alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import faiss
from threadpoolctl import ThreadpoolController


@contextmanager
def one_faiss_thread() -> Iterator[None]:
    """Have faiss start no threads of its own for what the calling thread asks of it.

    Its threads wait for one another by spinning, many times in a search. Where other programs keep the
    cores busy, as on a shared machine, that made a search of 10,000 queries three times slower than
    threads of ours that share the queries and meet once, at the end. OpenMP keeps the number per thread.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Have numpy's products of matrices made by the thread that asks for them.

    Cut by the number of threads, their last bits may change. And BLAS's own threads go on spinning for a
    while after a product: a search of lists right after one took twice as long.
    """
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@cache
def _libraries() -> ThreadpoolController:
    # Looking for the libraries takes most of a millisecond; numpy's and faiss's are loaded by now.
    return ThreadpoolController()
