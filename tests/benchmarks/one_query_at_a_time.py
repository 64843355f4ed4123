"""How long one query takes as a library call, beside other libraries' search alone.

    python tests/benchmarks/one_query_at_a_time.py [ARRAYS.npz | MEMORY.h5 QUERIES.h5] [--rounds 10]

"search + mix" is `ResidualMemory.predict` for a single row: search, weights, residuals, softmax. "search" is
its index alone. The peers search only, for one row a call as well: `IndexFlatL2`, a plain numpy product and
selection, scikit-learn by brute force, and the graphs of hnswlib and usearch and the tree of ScaNN where they
are installed, of which the last column says what share of the true neighbours they find. Each round asks
every peer the same queries, one after the other. Without arrays, random ones of CIFAR100's size are made.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from example_arrays import Examples, add_arguments, given_sources
from measuring import NOT_INSTALLED, in_turn, installed, peer, print_setting, print_table, ratio_of_pairs
from numpy.typing import NDArray

from resmem_cli import ResidualMemory

Search = Callable[[NDArray[np.float32]], NDArray[Any]]
"""From one query (1, d) to the rows found."""

OURS = "search + mix"


def numpy_search(memory: NDArray[np.float32], k: int) -> Search:
    squares = np.einsum("nd,nd->n", memory, memory)

    def search(query: NDArray[np.float32]) -> NDArray[Any]:
        return np.argpartition(squares - 2 * (memory @ query[0]), k - 1)[:k]

    return search


def faiss_search(memory: NDArray[np.float32], k: int) -> Search:
    index = faiss.IndexFlatL2(memory.shape[1])
    index.add(memory)
    return lambda query: index.search(query, k)[1][0]


def scikit_learn_search(memory: NDArray[np.float32], k: int) -> Search:
    neighbors = peer("sklearn.neighbors").NearestNeighbors(n_neighbors=k, algorithm="brute").fit(memory)
    return lambda query: neighbors.kneighbors(query)[1][0]


def hnswlib_search(memory: NDArray[np.float32], k: int) -> Search:
    index = peer("hnswlib").Index("l2", memory.shape[1])
    index.init_index(len(memory), M=32, ef_construction=200)
    index.add_items(memory)
    index.set_ef(200)
    return lambda query: index.knn_query(query, k)[0][0].astype(np.int64)


def usearch_search(memory: NDArray[np.float32], k: int) -> Search:
    index = peer("usearch.index").Index(
        ndim=memory.shape[1], metric="l2sq", dtype="f32", expansion_search=200
    )
    index.add(np.arange(len(memory)), memory)
    return lambda query: index.search(query[0], k).keys.astype(np.int64)


def scann_search(memory: NDArray[np.float32], k: int) -> Search:
    builder = peer("scann").scann_ops_pybind.builder(memory, k, "squared_l2")
    builder.tree(num_leaves=2 * round(len(memory) ** 0.5), num_leaves_to_search=60)
    index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(200).build()
    return lambda query: index.search(query[0])[0].astype(np.int64)


PEERS = {
    "IndexFlatL2": ("faiss", faiss_search),
    "numpy": ("numpy", numpy_search),
    "scikit-learn": ("sklearn", scikit_learn_search),
    "hnswlib": ("hnswlib", hnswlib_search),
    "usearch": ("usearch", usearch_search),
    "ScaNN": ("scann", scann_search),
}


def our_searches(memory: ResidualMemory, queries: Examples, k: int) -> dict[str, Callable[[int], Any]]:
    """Give what we do for query i, with and without the mixing."""

    def predict(i: int) -> Any:
        return memory.predict(queries.embeddings[i : i + 1], queries.logits[i : i + 1], k=k)

    return {OURS: predict, "search": lambda i: memory.index.search(queries.embeddings[i : i + 1], k)}


def ask(search: Search, queries: Examples, i: int) -> NDArray[Any]:
    """Search query i."""
    return search(queries.embeddings[i : i + 1])


def times_of(work: Callable[[int], object], n_queries: int) -> NDArray[np.float64]:
    """Time each query by itself, in microseconds."""
    ends = np.empty(n_queries + 1, np.int64)
    ends[0] = time.perf_counter_ns()
    for i in range(n_queries):
        work(i)
        ends[i + 1] = time.perf_counter_ns()
    return np.diff(ends) / 1000


def main() -> None:
    """Build all, ask all in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--n-queries", type=int, default=200, help="queries of a round")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS), metavar="NAME")
    parser.add_argument("-k", type=int, default=53)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources = given_sources(given, Path(folder))
        remembered, queries = sources[0].read(), sources[1].read(given.n_queries)
    memory = ResidualMemory.fit(remembered.embeddings, remembered.logits, remembered.labels)
    print_setting(
        memory=f"{len(remembered):,} x {remembered.embeddings.shape[1]}",
        classes=remembered.logits.shape[1],
        k=given.k,
        queries=f"{given.rounds} rounds of {len(queries)}",
    )
    works = our_searches(memory, queries, given.k)
    searches = {
        name: make(remembered.embeddings, given.k)
        for name, (module, make) in PEERS.items()
        if name in given.peers and installed(module)
    }
    for name, search in searches.items():
        works[name] = partial(ask, search, queries)
    asked = {name: partial(times_of, work, len(queries)) for name, work in works.items()}
    rounds = in_turn(asked, given.rounds)
    true_rows = memory.neighbors(queries.embeddings, k=given.k).rows
    medians = {name: [float(np.median(one)) for one in all_of_it] for name, all_of_it in rounds.items()}
    rows = []
    for name, all_of_it in rounds.items():
        each = np.concatenate(all_of_it)
        ratio = "" if name == OURS else f"{ratio_of_pairs(medians[OURS], medians[name]):.3f}"
        rows.append([name, f"{np.median(each):,.0f}", f"{np.percentile(each, 99):,.0f}", ratio])
        rows[-1].append(recall_of(searches[name], queries, true_rows) if name in searches else "")
    rows += [[name, NOT_INSTALLED] for name in given.peers if name not in searches]
    print_table(["microseconds", "median", "99th percentile", f"{OURS} / it", "recall"], rows)


def recall_of(search: Search, queries: Examples, true_rows: NDArray[np.int64]) -> str:
    """Measure which share of the true neighbours a peer finds."""
    found = [ask(search, queries, i) for i in range(len(queries))]
    shares = [np.isin(true, rows).mean() for true, rows in zip(true_rows, found, strict=True)]
    return f"{np.mean(shares):.4f}"


if __name__ == "__main__":
    main()
