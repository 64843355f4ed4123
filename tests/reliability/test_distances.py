"""Distances and neighbours against float64: differences of numpy, whatever the memory looks like."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reliability.processes import ForkServer
from reliability.tally import Tally
from resmem_cli.errors import DataError
from resmem_cli.indexes.base import Build, index_kinds
from resmem_cli.memory_size import memory_budget
from resmem_cli.types import Metric

NORMS, SPREADS = (1.0, 10.0, 100.0, 1000.0), (10.0, 1.0, 0.1, 0.01)
COUNTS, THREADS = (1, 19, 20, 1999, 2000, 5000), (1, 2, 8)
APPROXIMATE = tuple(sorted(set(index_kinds()) - {"exact"}))
K = 10
ROUNDING = 2.0**-52
# Rows enough for lists and codes, for threads to share the work, and for more than one block.
N, D = 640, 13

Case = dict[str, Any]
Servers = Callable[..., ForkServer]


def covering() -> list[Case]:
    """Choose 48 of the 288 cases in which every two values of two factors meet."""
    return [
        _case(i, j, (i + j + 2 * t) % len(COUNTS), t)
        for i, j, t in itertools.product(range(len(NORMS)), range(len(SPREADS)), range(len(THREADS)))
    ]


def all_cases() -> list[Case]:
    factors = (NORMS, SPREADS, COUNTS, THREADS)
    return [_case(*places) for places in itertools.product(*(range(len(factor)) for factor in factors))]


def _case(i: int, j: int, c: int, t: int) -> Case:
    kind = APPROXIMATE[(i + 2 * j + 3 * c + t) % len(APPROXIMATE)]
    return {
        "memory": "cloud",
        "norm": NORMS[i],
        "spread": SPREADS[j],
        "queries": COUNTS[c],
        "threads": THREADS[t],
        "kinds": ["exact", kind],
    }


SHAPES = (
    "clusters far apart",
    "duplicates",
    "all rows equal",
    "d = 1",
    "k = n",
    "one row",
    "integers",
    "huge",
    "tiny",
    "many columns",
    "far from the origin",
)
# Metric, type of the memory, queries, threads, bytes of memory to stay within: blocks of rows are small then.
SETTINGS = (
    ("euclidean", "float32", 20, 2, 8 << 30),
    ("cosine", "float32", 300, 8, 8 << 30),
    ("euclidean", "float16", 300, 1, 1 << 20),
    ("cosine", "float16", 20, 2, 1 << 20),
    ("euclidean", "float32", 700, 8, 1 << 20),
)
_NAMES = ("memory", "metric", "type", "queries", "threads", "budget")
SPECIAL = [
    dict(zip(_NAMES, (shape, *SETTINGS[(i + j) % len(SETTINGS)]), strict=True))
    for i, shape in enumerate(SHAPES)
    for j in (0, 2)
]
SPECIAL_LONG = [
    case
    for shape in SHAPES
    for setting in itertools.product(*map(dict.fromkeys, zip(*SETTINGS, strict=True)))
    if (case := dict(zip(_NAMES, (shape, *setting), strict=True))) not in SPECIAL
][::3]


def test_the_quick_part_has_every_pair_of_values_of_two_factors() -> None:
    names = ("norm", "spread", "queries", "threads")
    for one, other in itertools.combinations(names, 2):
        met = {(case[one], case[other]) for case in covering()}
        assert met == {(case[one], case[other]) for case in all_cases()}, (one, other)


def _parts(cases: Iterable[Case], together: int, *marks: pytest.MarkDecorator) -> list[Any]:
    # Those of one number of threads together: one server does.
    cases, name = sorted(cases, key=lambda case: case["threads"]), "long" if marks else "quick"
    return [
        pytest.param(cases[first : first + together], id=f"{name}{first}", marks=marks)
        for first in range(0, len(cases), together)
    ]


@pytest.mark.parametrize(
    "cases",
    [
        *_parts(covering(), 16),
        *_parts(SPECIAL, 11),
        *_parts((case for case in all_cases() if case not in covering()), 40, pytest.mark.long),
        *_parts(SPECIAL_LONG, 22, pytest.mark.long),
        *_parts(({**case, "kinds": APPROXIMATE} for case in all_cases()[::2]), 48, pytest.mark.long),
    ],
)
def test_neighbors_are_those_of_float64(cases: list[Case], servers: Servers, tally: Tally) -> None:
    """Hold every index to numpy's differences in float64, each case in a process of its own.

    Seen to fail: with equal distances left in any order ("ivf-pq: not by (distance, row)"), with a bound of
    rounding that is 0, so that every answer counts as proved ("exact: query 1: [9 34 35 …], in truth [7 9
    28 …]"), and with faiss's own distances, without a mean subtracted or a candidate ranked again ("exact:
    distance 0.026884498074…, in truth 0.026884498363…").
    """

    def check(case: Case) -> str:
        threads = str(case["threads"])
        server = servers(OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads)
        # Text, for its type is all that a failure shows.
        return str(server.call(search_and_compare, case, seconds=120))

    tally.each("distances", cases, check)


def search_and_compare(case: Case) -> str:
    """Build each index of a case and compare what it finds; give what was compared."""
    vectors, queries, own, k = draw(case)
    metric = Metric(case.get("metric", "euclidean"))
    truth = distances_by_differences(queries, vectors, metric)
    kinds = case.get("kinds") or [*APPROXIMATE, "exact"]
    refused = 0
    for name in kinds:
        try:
            with memory_budget(case.get("budget", 8 << 30)):
                index = index_kinds()[name].build(
                    vectors, parameters=_parameters(name, len(vectors)), build=Build(metric=metric)
                )
                found = index.search(queries, k)
        except DataError as error:
            # Squares that float32 has not.
            if (
                name not in ("ivf-rabitq", "factory")
                or case["memory"] != "huge"
                or "too large" not in str(error)
            ):
                raise
            refused += 1
            continue
        # A direction is off by the rounding of its norm; half the square of a difference by so much times it.
        rounded = 8 * vectors.shape[1] ** 0.5 * ROUNDING if metric is Metric.COSINE else 0.0
        compare(found.rows, found.distances, truth, vectors.shape[1], name, of_directions=rounded)
        if index.exact:
            _compare_with_all(found.rows, truth, own, k, of_directions=rounded)
    return "refused by kinds that can't hold such rows" if refused else "true and in order"


def compare(
    rows: NDArray[np.int64],
    distances: NDArray[np.float64],
    truth: NDArray[np.float64],
    d: int,
    name: str,
    *,
    of_directions: float = 0.0,
) -> None:
    """Hold what was found to be distinct rows with true distances, by (distance, row)."""
    n = truth.shape[1]
    assert rows.min() >= 0, f"{name}: row {rows.min()}"
    assert rows.max() < n, f"{name}: row {rows.max()} of {n}"
    ordered = np.sort(rows, axis=1)
    assert (ordered[:, 1:] > ordered[:, :-1]).all(), f"{name}: one row twice"
    true = np.take_along_axis(truth, rows, axis=1)
    # Two sums of d squares in another order, and their roots; with cosine, of rounded directions.
    off = np.abs(distances - true) > (d + 4) * ROUNDING * true + of_directions * true**0.5
    assert not off.any(), f"{name}: distance {distances[off][0]!r}, in truth {true[off][0]!r}"
    later = (distances[:, 1:] > distances[:, :-1]) | (
        (distances[:, 1:] == distances[:, :-1]) & (rows[:, 1:] > rows[:, :-1])
    )
    assert later.all(), f"{name}: not by (distance, row)"


def _compare_with_all(
    rows: NDArray[np.int64],
    truth: NDArray[np.float64],
    own: NDArray[np.int64],
    k: int,
    *,
    of_directions: float,
) -> None:
    """Hold what an exact index found to be the nearest of all rows, and a row to be its own nearest."""
    nearest = np.argsort(truth, axis=1, kind="stable")[:, :k]
    wrong = rows != nearest
    if of_directions:
        # Which of two equal cosines comes out smaller is for rounding to say.
        found, right = (np.take_along_axis(truth, which, axis=1) for which in (rows, nearest))
        wrong &= np.abs(found - right) > 64 * ROUNDING * right + 2 * of_directions * right**0.5
    wrong = wrong.any(axis=1)
    assert not wrong.any(), f"exact: query {wrong.argmax()}: {rows[wrong][0]}, in truth {nearest[wrong][0]}"
    of_memory = np.flatnonzero(own >= 0)
    first = rows[of_memory, 0]
    to_itself = truth[of_memory, own[of_memory]]
    assert (to_itself == 0).all(), f"exact: {to_itself.max()} from itself"
    assert (truth[of_memory, first] == 0).all(), "exact: not its own nearest"
    assert (first <= own[of_memory]).all(), "exact: of equal rows not the first"


def distances_by_differences(
    queries: NDArray[Any], vectors: NDArray[Any], metric: Metric
) -> NDArray[np.float64]:
    """Compute all distances; with cosine half the squares of those of the directions."""
    queries, vectors = queries.astype(np.float64), vectors.astype(np.float64)
    if metric is Metric.COSINE:
        queries, vectors = (rows / np.sqrt((rows * rows).sum(axis=1))[:, None] for rows in (queries, vectors))
    squares = np.empty((len(queries), len(vectors)))
    for first in range(0, len(queries), 256):
        part = queries[first : first + 256]
        total = np.zeros((len(part), len(vectors)))
        for column in range(vectors.shape[1]):
            difference = part[:, column, None] - vectors[None, :, column]
            total += difference * difference
        squares[first : first + 256] = total
    return squares / 2 if metric is Metric.COSINE else np.sqrt(squares)


def draw(case: Case) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64], int]:
    """Draw memory and queries, half of which are rows of the memory: vectors, queries, those rows, k."""
    generator = np.random.default_rng(list(json.dumps(case, sort_keys=True).encode()))
    dtype = np.dtype(case.get("type", "float32"))
    vectors, k = _memory(case, generator), K
    if case["memory"] == "k = n":
        k = len(vectors)
    vectors = vectors.astype(dtype)
    k = min(k, len(vectors))
    n_queries = case["queries"]
    own = np.where(np.arange(n_queries) % 2 == 0, generator.integers(len(vectors), size=n_queries), -1)
    queries = vectors[own % len(vectors)].astype(np.float32)
    between = np.flatnonzero(own < 0)
    others = vectors[generator.integers(len(vectors), size=(2, len(between)))].astype(np.float64)
    if case["memory"] in ("cloud", "clusters far apart", "huge", "tiny", "far from the origin"):
        queries[between] = others.mean(axis=0)
    else:
        queries[between] = others[0]
        own[between] = -1
    return vectors, queries, own, k


def _memory(case: Case, generator: np.random.Generator) -> NDArray[np.float64]:
    normal = generator.normal(size=(N, D))
    match case["memory"]:
        case "cloud":
            centre = generator.normal(size=D)
            centre *= case["norm"] / np.linalg.norm(centre)
            return centre + normal * case["spread"]
        case "clusters far apart":
            far = generator.normal(size=(8, D)) * 3e3
            return far[generator.integers(8, size=N)] + normal * 1e-2
        case "duplicates":
            return normal[generator.integers(40, size=N)] + 50
        case "all rows equal":
            return np.repeat(normal[:1] + 7, N, axis=0)
        case "d = 1":
            return normal[:, :1] + 30
        case "k = n":
            return normal[:90] * 0.1 + 20
        case "one row":
            return normal[:1]
        case "integers":
            return generator.integers(1, 4, size=(N, D)).astype(np.float64)
        case "huge":
            return normal * (1e4 if case.get("type") == "float16" else 1e25)
        case "tiny":
            return normal * (1e-4 if case.get("type") == "float16" else 1e-25)
        case "many columns":
            return generator.normal(size=(200, 700))
        case "far from the origin":
            return normal * (1 if case.get("type") == "float16" else 1e-2) + 1e3
    raise AssertionError(case["memory"])


def _parameters(name: str, n: int) -> dict[str, Any]:
    if name == "factory":
        return {"factory": "Flat" if n < 100 else "IVF4,SQ8"}
    return {}
