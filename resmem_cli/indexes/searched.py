"""The float32 rows that a search compares with, in blocks, and the search of candidates among them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.indexes.one_thread import one_faiss_thread
from resmem_cli.indexes.space import Space, check_rows, squared_norms
from resmem_cli.memory_size import part_of_memory
from resmem_cli.rows import RandomRows
from resmem_cli.threads import for_each_block, n_threads
from resmem_cli.types import Progress, no_progress, row_blocks

KEPT_BYTES = 1 << 25
"""A centred copy of the memory up to this size is kept; of a larger one, blocks are made again each time."""

BLOCK_BYTES = 1 << 26
"""Bytes of a block that is made again each time."""

_PRODUCT_ELEMENTS = 2_000
_LEAST_PRODUCT, _MOST_PRODUCT = 128, 1024  # queries
_SHARED_WORK = 1 << 25  # multiplications that are worth the start of threads
_FEW_QUERIES = 32  # for a thread, and products of matrices get slow
_CENTRED_ELEMENTS = 1 << 18  # float64 values of rows being centred by one thread


def kept_bytes() -> int:
    """Give the largest size of a centred copy that is kept: 32 MiB, or an eighth of the memory."""
    return part_of_memory(8, most=KEPT_BYTES)


def _block_bytes() -> int:
    return part_of_memory(16, most=BLOCK_BYTES)


class SearchedRows(Protocol):
    """(n, e) float32 rows, read a block at a time; the same object as long as its rows are the same."""

    block_rows: int

    @property
    def shape(self) -> tuple[int, int]:
        """`(n, e)`."""

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Give rows `start` to `stop`, C-contiguous."""


class Engine(Protocol):
    """Finds the rows whose squared distances come out smallest in float32."""

    reads_all_columns: bool
    """Whether comparing fewer columns saves it nothing."""

    def nearest(
        self, queries: NDArray[np.float32], memory: SearchedRows, count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find candidates.

        Parameters
        ----------
        queries : (n_queries, e) float32
            C-contiguous.
        memory : SearchedRows
            (n, e).
        count : int
            From 1 to n.

        Returns
        -------
        squares, rows : (n_queries, count) float32 and int64
            Smallest first, computed in float32 by any order of summation; −1 where the squares of the
            rows that are left are NaN or infinite.
        """


class StoredRows:
    """Float32 rows as they are stored."""

    def __init__(self, rows: RandomRows) -> None:
        self._rows = rows
        n, e = rows.shape
        self.shape = (n, e)
        first = rows.read(0, 2)
        as_they_are = first.flags.c_contiguous and first.dtype == np.float32
        self.block_rows = n if as_they_are else max(1, _block_bytes() // (4 * e))

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Give rows `start` to `stop`, as a view where they are C-contiguous."""
        return np.ascontiguousarray(self._rows.read(start, stop), np.float32)


class CentredRows:
    """The memory's rows in their space: a copy if it is small, or made again block by block.

    Parameters
    ----------
    vectors : (n, d) floats
        The memory.
    space : Space
        Without axes.

    Attributes
    ----------
    kept : bool
        Whether a copy is kept.

    Raises
    ------
    DataError
        When a row is read that is not finite or, with cosine, all zeros.
    """

    def __init__(self, vectors: RandomRows, space: Space) -> None:
        self._vectors, self._space = vectors, space
        n, d = vectors.shape
        self.shape = (n, d)
        self._step = max(1, _CENTRED_ELEMENTS // d)
        self.kept = 4 * n * d <= kept_bytes()
        self.block_rows = n if self.kept else max(1, _block_bytes() // (4 * d))
        self._copy = self._make(0, n) if self.kept else None

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Give rows `start` to `stop`."""
        return self._make(start, stop) if self._copy is None else self._copy[start:stop]

    def largest_norm(self, *, progress: Progress = no_progress) -> float:
        """Compute the largest norm of a row."""
        largest = 0.0
        for block in progress(row_blocks(self.shape[0], min(self.block_rows, 1 << 16)), "centring"):
            rows = self.read(block.start, block.stop)
            for part in row_blocks(len(rows), self._step):
                largest = max(largest, float(squared_norms(rows[part]).max()))
        return math.sqrt(largest)

    def _make(self, start: int, stop: int) -> NDArray[np.float32]:
        read = self._vectors.read(start, stop)
        made = np.empty(read.shape, np.float32)

        def fill(part: slice) -> None:
            check_rows(read[part], self._space.metric, first=start + part.start)
            made[part] = self._space.searched(read[part])

        for_each_block(fill, row_blocks(len(read), self._step))
        return made


class FaissSearch:
    """Candidates by faiss, on all cores.

    Parameters
    ----------
    differences : bool
        Whether squares are taken by differences, for a few queries; otherwise by products of matrices.
    """

    reads_all_columns = False

    def __init__(self, *, differences: bool = False) -> None:
        self._threshold = 1 << 30 if differences else _PRODUCT_ELEMENTS

    def nearest(
        self, queries: NDArray[np.float32], memory: SearchedRows, count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find candidates; see `Engine`."""
        squares = np.empty((len(queries), 0), np.float32)
        rows = np.empty((len(queries), 0), np.int64)
        with _thresholds(self._threshold):
            for block in row_blocks(memory.shape[0], memory.block_rows):
                points = memory.read(block.start, block.stop)
                for first, more_squares, more_rows in _search(queries, points, count):
                    squares, rows = _merge(squares, rows, more_squares, more_rows, block.start + first, count)
                del points  # before the next block is made
        return squares, rows


def check_mean(mean: NDArray[np.float64]) -> None:
    """Refuse a mean row that is none.

    Raises
    ------
    DataError
        If it is not finite.
    """
    if not np.isfinite(mean).all():
        raise DataError("the mean row holds NaN or infinity", remedy="build the index again")


def _search(
    queries: NDArray[np.float32], points: NDArray[np.float32], count: int
) -> list[tuple[int, NDArray[np.float32], NDArray[np.int64]]]:
    """Search one block on all cores, which share the queries, or the points if there are few queries.

    Returns
    -------
    list of (int, squares, rows)
        What was found in each part of the points: the first row of the part, from which rows are counted.
    """
    cores = n_threads() if len(queries) * points.size >= _SHARED_WORK else 1
    share_queries = len(queries) >= _FEW_QUERIES * cores
    part_rows = len(points) if share_queries else -(-len(points) // cores)
    found: list[tuple[int, NDArray[np.float32], NDArray[np.int64]]] = []
    for part in row_blocks(len(points), part_rows):
        shape = (len(queries), min(count, part.stop - part.start))
        found.append((part.start, np.empty(shape, np.float32), np.empty(shape, np.int64)))

    def search(block: slice) -> None:
        some = block if share_queries else slice(0, len(queries))
        with one_faiss_thread():
            for first, squares, rows in found if share_queries else found[block]:
                squares[some], rows[some] = faiss.knn(
                    queries[some], points[first : first + part_rows], squares.shape[1]
                )

    if share_queries:
        for_each_block(search, row_blocks(len(queries), max(1, -(-len(queries) // cores))))
    else:
        for_each_block(search, row_blocks(len(found), 1))
    return found


def _merge(
    squares: NDArray[np.float32],
    rows: NDArray[np.int64],
    more_squares: NDArray[np.float32],
    more_rows: NDArray[np.int64],
    first: int,
    count: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Merge the candidates of one more block, whose row numbers begin at `first`."""
    if not first:
        return more_squares, more_rows
    more_rows[more_rows >= 0] += first
    # faiss gives rows of −1 whatever is farthest, so they stay last.
    squares = np.concatenate([squares, more_squares], axis=1)
    rows = np.concatenate([rows, more_rows], axis=1)
    squares[rows < 0] = np.inf
    if squares.shape[1] > count:
        nearest = np.argpartition(squares, count - 1, axis=1)[:, :count]
        squares = np.take_along_axis(squares, nearest, axis=1)
        rows = np.take_along_axis(rows, nearest, axis=1)
    order = np.argsort(squares, axis=1, kind="stable")
    return np.take_along_axis(squares, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _product_queries() -> int:
    """Give the queries of one matrix product of faiss: each core holds the products with 1,024 rows."""
    product_bytes = 4 * int(faiss.cvar.distance_compute_blas_database_bs) * n_threads()
    return max(_LEAST_PRODUCT, part_of_memory(32, most=_MOST_PRODUCT * product_bytes) // product_bytes)


@contextmanager
def _thresholds(product_elements: int) -> Iterator[None]:
    """Have faiss use matrix products from so many values of queries on, and its reservoir from k = 50 on.

    Its own thresholds (128,000; k ≥ 100) made 1,000 queries 6.7 times slower, and k + 32 about a tenth.
    """
    values = {
        "distance_compute_blas_threshold": product_elements,
        "distance_compute_min_k_reservoir": 50,
        "distance_compute_blas_query_bs": _product_queries(),
    }
    before: dict[str, Any] = {name: getattr(faiss.cvar, name) for name in values}
    try:
        for name, value in values.items():
            setattr(faiss.cvar, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(faiss.cvar, name, value)
