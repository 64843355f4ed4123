"""How many axes and candidates the exact kind searches with: chosen on a sample, by counting work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.indexes.one_thread import one_blas_thread
from resmem_cli.indexes.principal import principal_axes, product
from resmem_cli.indexes.space import Space
from resmem_cli.rows import RandomRows
from resmem_cli.types import row_blocks

CHOICE_NEIGHBORS = 53
"""Neighbours of a query for which candidates are chosen."""

MIN_COLUMNS, MIN_ROWS = 96, 10_000
"""Smaller memories are compared in all columns without asking a sample."""

_FIT_ROWS, _COMPARED_ROWS, _QUERIES = 8192, 16_384, 256
_FIT_ELEMENTS = 1 << 24  # float64 values of the rows that axes are found from
_COMPARED_BLOCK = 2048
AXES = (31, 63, 127, 191, 255, 319, 383, 511)
"""Numbers of axes to choose from, up to half of the columns."""

_CANDIDATES = (100, 150, 200, 300, 400, 600, 800, 1200, 1600)
_PAYS = 0.8  # of the work in all columns: less would hardly be noticed

# Work in multiplications of a float32 matrix product; measured with faiss 1.15 on an AMD EPYC, two threads,
# which share the memory: of that rerankings take more than products do.
_SELECT_ROW = 30  # looking at one computed distance
_SELECT_CANDIDATE = 2300  # one that is nearer than the farthest candidate so far
_RERANK = 30  # a column of a candidate, fetched and compared in float32
_TRUE = 80  # the same in float64
_PROJECT = 2  # a multiplication in float64
_WITHIN_ROW = 120  # looking at one computed distance where all rows within reach are wanted
_FEW_QUERIES = 1.5  # comparing a few queries in all columns, against comparing many
MOST_WITHIN = 16
"""Queries with more than n over this rows within reach are compared in all columns instead."""


@dataclass(frozen=True)
class Choice:
    """How to search.

    Attributes
    ----------
    axes : (d, r) float64 or None
        None to compare all columns.
    candidates : int
        Rows to fetch for `CHOICE_NEIGHBORS` neighbours.
    sample : mapping
        What it was chosen from, as JSON values: `queries` and `seed`; `proved`, the share of the sample
        that so many candidates prove; `work`, as a share of comparing all columns.
    """

    axes: NDArray[np.float64] | None
    candidates: int
    sample: Mapping[str, Any]


@dataclass(frozen=True)
class Sample:
    """Rows drawn from a memory.

    Attributes
    ----------
    queries, fit, compared : (m,) int64
        To search for, to find the axes of, and to count within reach; apart where there are enough.
    """

    queries: NDArray[np.int64]
    fit: NDArray[np.int64]
    compared: NDArray[np.int64]

    @classmethod
    def draw(cls, n: int, seed: int) -> Sample:
        """Draw from n rows."""
        wanted = min(n, _QUERIES + _FIT_ROWS + _COMPARED_ROWS)
        rows = np.random.default_rng(seed).choice(n, size=wanted, replace=False).astype(np.int64)
        n_queries = min(_QUERIES, max(1, n // 8))
        n_fit = min(_FIT_ROWS, max(1, (wanted - n_queries) // 3)) if n > _FIT_ROWS else n
        queries, rest = rows[:n_queries], rows[n_queries:] if n > _FIT_ROWS else rows
        compared = rest[n_fit:] if n > _FIT_ROWS else rest
        # The rows to find axes of stay as drawn, for their beginning to be a sample too.
        return cls(np.sort(queries), rest[:n_fit], np.sort(compared))


def choose(
    vectors: RandomRows,
    space: Space,
    sample: Sample,
    distances: NDArray[np.float64],
    *,
    axes: int | None,
    seed: int,
) -> Choice:
    """Choose axes and candidates.

    Parameters
    ----------
    vectors : (n, d) floats
        The memory.
    space : Space
        Without axes.
    sample : Sample
        Of its rows.
    distances : (n_queries,) float64
        Euclidean distances, in that space, from the sample's queries to their `CHOICE_NEIGHBORS`-th
        other rows.
    axes : int or None
        How many to use; None to choose them too.
    seed : int
        With which the sample was drawn.
    """
    n, d = vectors.shape
    grid = (axes,) if axes is not None else tuple(r for r in AXES if 2 * r <= d)

    def centred(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return space.centred(vectors.at(rows).take(rows, axis=0))

    fit = sample.fit[: max(2 * max(grid), _FIT_ELEMENTS // d)]
    found = principal_axes(centred(fit), max(grid), seed=seed)
    others = sample.queries[:, None] != sample.compared
    with one_blas_thread():
        counts = np.zeros((len(grid), len(sample.queries)), np.int64)
        queries = centred(sample.queries)
        for block in row_blocks(len(sample.compared), _COMPARED_BLOCK):
            compared = centred(sample.compared[block])
            counts += _count_within(queries, compared, found, grid, distances, others[:, block])
    whole = _all_columns(n, d)
    choices = [
        (_work(n, d, r, candidates, within), r, candidates, float((within < candidates).mean()))
        for r, within in zip(grid, counts * n / len(sample.compared), strict=True)
        for candidates in _CANDIDATES
        if candidates <= max(n // 8, _CANDIDATES[0])
    ]
    work, r, candidates, proved = min(choices)
    said = {
        "queries": len(sample.queries),
        "seed": seed,
        "axes": r,
        "candidates": candidates,
        "proved": round(proved, 4),
        "work": round(work / whole, 3),
    }
    if axes is None and work > _PAYS * whole:
        return Choice(None, 0, said)
    return Choice(np.ascontiguousarray(found[:, :r]), candidates, said)


def candidates_for(k: int, candidates: int) -> int:
    """Scale the candidates for `CHOICE_NEIGHBORS` neighbours to k of them."""
    return k + ceil((candidates - CHOICE_NEIGHBORS) * k / CHOICE_NEIGHBORS)


def _count_within(
    queries: NDArray[np.float64],
    compared: NDArray[np.float64],
    axes: NDArray[np.float64],
    grid: Sequence[int],
    distances: NDArray[np.float64],
    others: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Count the rows no farther from each query in r coordinates than its neighbours are in truth."""
    left, right = product(queries, axes), product(compared, axes)
    left_square, right_square = (np.square(rows).sum(axis=1) for rows in (queries, compared))
    squares = np.zeros((len(queries), len(compared)))
    counts, first = [], 0
    for r in grid:
        one, other = left[:, first:r], right[:, first:r]
        squares += np.square(one).sum(axis=1)[:, None] + np.square(other).sum(axis=1) - 2 * (one @ other.T)
        first = r
        tails = [
            np.sqrt(np.maximum(whole - np.square(part[:, :r]).sum(axis=1), 0))
            for whole, part in ((left_square, left), (right_square, right))
        ]
        bounds = squares + np.square(tails[0][:, None] - tails[1])
        counts.append(((bounds <= np.square(distances)[:, None]) & others).sum(axis=1))
    return np.array(counts)


def _all_columns(n: int, d: int) -> float:
    """Count the work of one query compared with all columns."""
    return n * (d + _SELECT_ROW) + _selection(n, CHOICE_NEIGHBORS) + CHOICE_NEIGHBORS * _TRUE * d


def _work(n: int, d: int, r: int, candidates: int, within: NDArray[np.float64]) -> float:
    """Count the work of one query on average, from the rows within each sample query's reach."""
    seen = np.minimum(within, candidates) + CHOICE_NEIGHBORS
    work = n * (r + 1 + _SELECT_ROW) + _selection(n, candidates) + _PROJECT * d * r
    work += CHOICE_NEIGHBORS * _TRUE * d + float(seen.mean()) * _RERANK * d
    unproved = within >= candidates
    many = within > n / MOST_WITHIN
    again = np.where(unproved, n * (r + 1 + _WITHIN_ROW), 0.0)
    again += np.where(unproved & ~many, within * _RERANK * d, 0.0)
    again += np.where(many, _FEW_QUERIES * _all_columns(n, d), 0.0)
    return work + float(again.mean())


def _selection(n: int, candidates: int) -> float:
    return _SELECT_CANDIDATE * candidates * (1 + log(max(1.0, n / candidates)))
