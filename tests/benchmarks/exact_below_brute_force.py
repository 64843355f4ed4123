"""How long the exact kind of index searches wide embeddings, beside brute force by faiss.

    python tests/benchmarks/exact_below_brute_force.py [ARRAYS.npz | MEMORY.h5 QUERIES.h5]
    python tests/benchmarks/exact_below_brute_force.py --images IMAGES.npz

Both search the same arrays in this process: `ExactIndex.search`, which compares a few coordinates of every
row and proves that this was enough, and `IndexFlatL2.search` as it comes. Prints the medians and the median
ratio of the rounds, which share of the queries each step of the search has proved, and whether the neighbours
of a sample of queries are those that float64 finds by differences. With `--images`, embeddings are the raw
pixels of `x_train` and `x_test`. Without arrays, random ones of 512 dimensions are made.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from example_arrays import add_arguments, given_sources
from measuring import in_turn, print_setting, print_table, ratio_of_pairs, seconds_of
from numpy.typing import NDArray

from resmem_cli import ExactIndex

_CHECKED_ROWS = 4096


def pixels(path: Path, n_queries: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read the images of both splits as rows of numbers from 0 to 255."""
    with np.load(path) as arrays:
        splits = arrays["x_train"], arrays["x_test"][:n_queries]
    memory, queries = (images.reshape(len(images), -1).astype(np.float32) for images in splits)
    return memory, queries


def true_neighbors(
    memory: NDArray[np.float32], query: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the rows nearest to one query, by (distance, row), in float64."""
    squares = np.empty(len(memory))
    for start in range(0, len(memory), _CHECKED_ROWS):
        apart = memory[start : start + _CHECKED_ROWS].astype(np.float64) - query
        squares[start : start + len(apart)] = np.einsum("nd,nd->n", apart, apart)
    rows = np.argsort(squares, kind="stable")[:k]
    return rows, np.sqrt(squares[rows])


def check(memory: NDArray[np.float32], queries: NDArray[np.float32], found: dict[str, Any], k: int) -> None:
    """Print how the results compare with the true ones, for some queries."""
    wrong = dict.fromkeys(found, 0)
    furthest = 0.0
    for i, query in enumerate(queries):
        rows, distances = true_neighbors(memory, query, k)
        for name, result in found.items():
            wrong[name] += int((result[0][i] != rows).any())
        ours = next(iter(found.values()))[1][i]
        furthest = max(
            furthest, float(np.abs(ours / np.maximum(distances, 1e-300) - 1)[distances > 0].max(initial=0))
        )
    print()
    print_table(
        [f"of {len(queries):,} queries", "unlike float64"], [[name, f"{n:,}"] for name, n in wrong.items()]
    )
    print(f"our distances differ from float64's by at most {furthest:.1e} of their size")


def main() -> None:
    """Build both, search in turn, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_arguments(parser, d=512)
    parser.add_argument(
        "--images", type=Path, help="an .npz with x_train and x_test, whose pixels are searched"
    )
    parser.add_argument("--n-queries", type=int, default=2_000, help="queries to search at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checked", type=int, default=100, help="queries to compare with float64")
    parser.add_argument("-k", type=int, default=53)
    given = parser.parse_args()
    if given.images is not None:
        memory, queries = pixels(given.images, given.n_queries)
    else:
        with tempfile.TemporaryDirectory() as folder:
            sources = given_sources(given, Path(folder))
            memory, queries = sources[0].embeddings(), sources[1].embeddings(given.n_queries)
    flat = faiss.IndexFlatL2(memory.shape[1])
    flat.add(memory)
    built: list[ExactIndex] = []
    build_seconds = seconds_of(lambda: built.append(ExactIndex.build(memory)))
    index = built[0]
    print_setting(
        memory=f"{memory.shape[0]:,} x {memory.shape[1]:,}",
        queries=f"{len(queries):,}, k = {given.k}",
        build=f"{build_seconds:.1f} s",
        parameters=index.parameters(),
    )
    works = {
        "ExactIndex": lambda: seconds_of(lambda: index.search(queries, given.k)),
        "IndexFlatL2": lambda: seconds_of(lambda: flat.search(queries, given.k)),
    }
    seconds = in_turn(works, given.rounds)
    rows = [
        [
            name,
            f"{1000 * statistics.median(one):.0f} ms",
            f"{1000 * min(one):.0f} to {1000 * max(one):.0f}",
            f"{ratio_of_pairs(seconds['ExactIndex'], one):.3f}" if name != "ExactIndex" else "",
        ]
        for name, one in seconds.items()
    ]
    print_table(["", "median", "range", "ExactIndex / it"], rows)
    neighbors = index.search(queries, given.k)
    print()
    print_table(
        ["step", "queries", "share"],
        [[step, f"{n:,}", f"{n / len(queries):.2%}"] for step, n in neighbors.steps.items()],
    )
    squares, flat_rows = flat.search(queries[: given.checked], given.k)
    checked = {"ExactIndex": (neighbors.rows, neighbors.distances), "IndexFlatL2": (flat_rows, squares)}
    check(memory, queries[: given.checked], checked, given.k)


if __name__ == "__main__":
    main()
