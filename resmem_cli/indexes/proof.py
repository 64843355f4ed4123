"""True distances of candidates, and the proof that no nearer row was missed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.indexes.distances import rough_squares, straight, true_distances
from resmem_cli.indexes.space import directions, squared_norms
from resmem_cli.rows import RandomRows, as_rows
from resmem_cli.threads import for_each_block
from resmem_cli.types import Metric, row_blocks

__all__ = [
    "Differences",
    "Rounding",
    "nearest_bounded",
    "nearest_candidates",
    "scan",
    "straight",
    "true_distances",
]

_FEW_EXTRA = 8  # rows more than k that are nearly always enough to hold the k nearest
_SCAN_ELEMENTS = 1 << 19  # values of the memory looked at together by a scan
_SCAN_QUERIES = 64
_UNIT = 2.0**-24  # half the distance from 1 to the next float32
_UNDERFLOW = 2.0**-100  # far above what products below float32's range can lose in a sum
_OVERFLOW = 2.0**120  # squares of larger sums come near the end of float32's range


@dataclass(frozen=True)
class Rounding:
    """How far from the truth squared distances of a searched space may come out.

    In a searched space a row z has a float32 point y(z) such that the distance of two points exceeds
    the rows' own distance by no more than distortion·(‖q‖ + ‖z‖), norms being those of the centred rows.

    Attributes
    ----------
    columns : int
        Dimension of the points.
    distortion : float
        As above; 2⁻²⁴ for centred rows that were only rounded to float32.
    largest_norm : float
        At least the largest norm of a centred row.

    Notes
    -----
    A float32 sum of e products, in any order, is off by at most e·u times the sum of their sizes
    (Jeannerod and Rump 2013, "Improved error bounds for inner products in floating-point arithmetic"),
    so the computed square of ‖y(q) − y(z)‖ is off by at most (e + 8)·u·(‖q‖ + ‖z‖)², with room for adding
    up. A row z within R of q has ‖z‖ ≤ ‖q‖ + R by the triangle inequality. So with P = 2‖q‖ + R its
    computed square is at most (R + distortion·P)² + (e + 8)·u·P².
    """

    columns: int
    distortion: float
    largest_norm: float

    def limit(self, norms: NDArray[np.float64], reach: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bound the computed squares of all rows within `reach` of the queries.

        Parameters
        ----------
        norms, reach : (n_queries,) float64
            Norms of the centred queries, and Euclidean distances.

        Returns
        -------
        (n_queries,) float64
            Infinite where squares may leave float32's range: then they are infinite or NaN, and a search
            leaves NaN out.
        """
        together = 2 * norms + reach * (1 + 1e-6)
        squares = (reach + self.distortion * together) ** 2 * (1 + 1e-9)
        sizes = together * (1 + self.distortion)
        error = (self.columns + 8) * _UNIT * sizes**2 * (1 + 1e-4) + _UNDERFLOW
        return np.where(norms + self.largest_norm < _OVERFLOW**0.5, squares + error, np.inf)


@dataclass(frozen=True)
class Differences:
    """As `Rounding`, for squares of distances taken by differences of the float32 rows themselves.

    Attributes
    ----------
    columns : int
        Their dimension d. A sum of d squares of differences is off by at most (d + 4)·2⁻²⁴ of itself.
    """

    columns: int

    def limit(self, norms: NDArray[np.float64], reach: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bound the computed squares of all rows within `reach` of the queries; see `Rounding.limit`."""
        squares = reach**2 * (1 + (self.columns + 16) * _UNIT * (1 + 1e-4)) + _UNDERFLOW
        return np.where(squares < _OVERFLOW, squares, np.inf)


def nearest_candidates(
    queries: NDArray[Any],
    candidates: NDArray[np.int64],
    k: int,
    *,
    vectors: RandomRows | NDArray[Any],
    metric: Metric = Metric.EUCLIDEAN,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose the k nearest of each query's candidates, by (distance, row).

    Parameters
    ----------
    queries : (n_queries, d) floats
        Query vectors.
    candidates : (n_queries, c) int64
        Rows of `vectors`, c ≥ k, none twice for a query; −1 for none.
    k : int
        How many to choose.
    vectors : (n, d) floats
        The memory.
    metric : Metric
        Of the distances.

    Returns
    -------
    rows, distances : (n_queries, k) int64 and float64
        −1 and infinity where a query has fewer than k candidates.
    """
    memory = as_rows(vectors)
    if candidates.shape[1] <= k + 2 * _FEW_EXTRA:
        return _order(candidates, true_distances(queries, candidates, vectors=memory, metric=metric), k)
    squares, error = rough_squares(queries, candidates, vectors=memory, metric=metric)
    return _among(queries, candidates, squares, error, k, vectors=memory, metric=metric)


def nearest_bounded(
    queries: NDArray[Any],
    norms: NDArray[np.float64],
    candidates: NDArray[np.int64],
    bounds: NDArray[np.float32],
    k: int,
    *,
    vectors: RandomRows,
    metric: Metric,
    rounding: Rounding | Differences,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose the k nearest of each query's candidates, leaving unseen what is too far by its bound.

    Parameters
    ----------
    queries, candidates, k, vectors, metric
        As for `nearest_candidates`.
    norms : (n_queries,) float64
        Of the centred queries.
    bounds : (n_queries, c) float32
        The candidates' computed squares in the searched space, rising.
    rounding : Rounding
        Of that space.

    Returns
    -------
    rows, distances : (n_queries, k) int64 and float64
        As `nearest_candidates` gives them.
    """
    width = candidates.shape[1]
    if width <= k + 2 * _FEW_EXTRA:
        return nearest_candidates(queries, candidates, k, vectors=vectors, metric=metric)
    squares = np.full(candidates.shape, np.inf)
    start, stop = 0, min(width, k + 4 * _FEW_EXTRA)
    some = np.arange(len(queries))
    error = 0.0
    while len(some) and start < width:
        seen = candidates[some, start:stop]
        if start:
            kth = np.partition(squares[some, :start], k - 1, axis=1)[:, k - 1]
            reach = np.sqrt(kth * (1 + 2 * error) + _UNDERFLOW)
            within = bounds[some, start:stop] <= rounding.limit(norms[some], reach)[:, None]
            # The bounds rise: where the first is too far, all that follow are.
            some, seen = some[within[:, 0]], np.where(within, seen, -1)[within[:, 0]]
        squares[some, start:stop], error = rough_squares(queries[some], seen, vectors=vectors, metric=metric)
        start, stop = stop, min(width, 2 * stop)
    return _among(queries, candidates, squares, error, k, vectors=vectors, metric=metric)


def _among(
    queries: NDArray[Any],
    candidates: NDArray[np.int64],
    squares: NDArray[np.float64],
    error: float,
    k: int,
    *,
    vectors: RandomRows,
    metric: Metric,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose the k nearest of candidates whose rough squares tell which ones they may be."""
    width = candidates.shape[1]
    kth = np.partition(squares, k - 1, axis=1)[:, k - 1]
    possible = (squares <= (kth * (1 + 4 * error) + 4 * _UNDERFLOW)[:, None]).sum(axis=1)
    rows = np.empty((len(queries), k), np.int64)
    distances = np.empty((len(queries), k), np.float64)
    done = np.zeros(len(queries), bool)
    for m in sorted({min(m, width) for m in (k + 1, k + _FEW_EXTRA, 2 * k + 8 * _FEW_EXTRA, width)}):
        some = np.flatnonzero((possible <= m) & ~done)
        if not len(some):
            continue
        done[some] = True
        near = squares[some]
        columns = np.argpartition(near, m - 1, axis=1)[:, :m] if m < width else np.arange(width)[None]
        chosen = np.take_along_axis(candidates[some], columns, axis=1)
        # Infinite where a bound had shown a row to be too far.
        chosen = np.where(np.isinf(np.take_along_axis(near, columns, axis=1)), -1, chosen)
        found = true_distances(queries[some], chosen, vectors=vectors, metric=metric)
        rows[some], distances[some] = _order(chosen, found, k)
    return rows, distances


def _order(
    rows: NDArray[np.int64], distances: NDArray[np.float64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sort each query's candidates by (distance, row) and keep the first k."""
    # A float32 search leaves nearly all of them in order.
    unsorted = np.flatnonzero(~(distances[:, 1:] > distances[:, :-1]).all(axis=1))
    first_rows, first_distances = rows[:, :k].copy(), distances[:, :k].copy()
    order = np.lexsort((rows[unsorted], distances[unsorted]), axis=1)[:, :k]
    first_rows[unsorted] = np.take_along_axis(rows[unsorted], order, axis=1)
    first_distances[unsorted] = np.take_along_axis(distances[unsorted], order, axis=1)
    return first_rows, first_distances


def scan(
    queries: NDArray[Any],
    k: int,
    *,
    vectors: RandomRows | NDArray[Any],
    metric: Metric = Metric.EUCLIDEAN,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the k nearest rows by true distances alone, streaming over all rows for some queries at a time.

    Parameters
    ----------
    queries : (n_queries, d) floats
        Query vectors.
    k : int
        At most n.
    vectors : (n, d) floats
        The memory.
    metric : Metric
        Of the distances.

    Returns
    -------
    rows, distances : (n_queries, k) int64 and float64
        By (distance, row).

    Notes
    -----
    Squares of distances expanded in float64, and those of distances that were rounded, are off by at most
    (d + 16)·2⁻⁵³·(‖q‖ + ‖z‖)² each; rows whose
    square is by more than that above the k-th distance so far are left out, the others are compared by
    differences.
    """
    rows = np.empty((len(queries), k), np.int64)
    distances = np.empty((len(queries), k), np.float64)
    for block in row_blocks(len(queries), _SCAN_QUERIES):
        rows[block], distances[block] = _scan(queries[block], k, memory=as_rows(vectors), metric=metric)
    return rows, distances


def _scan(
    queries: NDArray[Any], k: int, *, memory: RandomRows, metric: Metric
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    n, d = memory.shape

    def unscaled(values: NDArray[Any]) -> NDArray[Any]:
        return directions(values) if metric == Metric.COSINE else values

    # A shift towards the rows makes the squares' errors small; which one changes nothing in the answer.
    shift = unscaled(memory.read(0, min(n, 1024))).mean(axis=0, dtype=np.float64)
    points = np.subtract(unscaled(queries), shift, dtype=np.float64)
    own = squared_norms(points)
    rows = np.full((len(queries), k), -1, np.int64)
    distances = np.full((len(queries), k), np.inf)
    for block in row_blocks(n, max(1, _SCAN_ELEMENTS // max(d, len(queries)))):
        others = np.subtract(unscaled(memory.read(block.start, block.stop)), shift, dtype=np.float64)
        norms = squared_norms(others)
        squares = own[:, None] - 2 * (points @ others.T) + norms
        error = (2 * d + 32) * 2.0**-52 * (own[:, None] + norms)
        limit = straight(distances[:, -1], metric) ** 2 * (1 + 1e-9)
        if len(norms) > k:
            np.minimum(limit, np.partition(squares + error, k - 1, axis=1)[:, k - 1], out=limit)
        possible = squares - error <= limit[:, None]

        def choose(part: slice, first: int = block.start, possible: NDArray[np.bool_] = possible) -> None:
            for query in range(part.start, part.stop):
                found = first + np.flatnonzero(possible[query])
                rows[query], distances[query] = _nearer(
                    queries[query], found, rows[query], distances[query], memory=memory, metric=metric
                )

        for_each_block(choose, row_blocks(len(queries), 1))
    return rows, distances


def _nearer(
    query: NDArray[Any],
    found: NDArray[np.int64],
    rows: NDArray[np.int64],
    distances: NDArray[np.float64],
    *,
    memory: RandomRows,
    metric: Metric,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Put those of some rows that are nearer among one query's nearest so far."""
    k = len(rows)
    parts = [
        true_distances(query[None], found[block][None], vectors=memory, metric=metric)[0]
        for block in row_blocks(len(found), max(1, (1 << 16) // memory.shape[1]))
    ]
    rows, distances = np.concatenate([rows, found]), np.concatenate([distances, *parts])
    within = distances <= np.partition(distances, k - 1)[k - 1]
    rows, distances = rows[within], distances[within]
    order = np.lexsort((rows, distances))[:k]
    return rows[order], distances[order]
