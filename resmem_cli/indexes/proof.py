"""True distances of candidates, and the proof that no nearer row was missed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.indexes.base import Neighbors
from resmem_cli.threads import for_each_block
from resmem_cli.types import row_blocks

EXTRA_CANDIDATES = 32
"""How many more candidates than k a search fetches; more rows than that can seldom tie by rounding."""

_FEW_EXTRA = 4  # nearly always enough, and re-ranking takes time in proportion
_RERANK_ELEMENTS = 1 << 16  # float64 differences at a time, to stay in the processor's cache
_SUM_COLUMNS = 1 << 12  # einsum cuts longer sums at the ends of its buffers, wherever those fall in a row
_SCAN_QUERIES = 64
_SCAN_ELEMENTS = 1 << 21  # values of the memory looked at together by a scan
_UNIT = 2.0**-24  # half the distance from 1 to the next float32
_UNDERFLOW = 2.0**-100  # far above what products below float32's range can lose in a sum
_OVERFLOW = 2.0**120  # squares of larger sums come near the end of float32's range


@dataclass(frozen=True)
class CentredMemory:
    """Vectors as they were, and as they are searched.

    Attributes
    ----------
    vectors : (n, d) floats
        The original rows; distances are taken from these.
    centred : (n, d) float32
        The rows minus the memory's mean: small numbers lose less where squares cancel.
    largest_norm : float
        The largest norm of a centred row.
    """

    vectors: NDArray[Any]
    centred: NDArray[np.float32]
    largest_norm: float


def nearest(
    queries: NDArray[Any],
    centred_queries: NDArray[np.float32],
    candidate_rows: NDArray[np.int64],
    candidate_squares: NDArray[np.float32],
    k: int,
    *,
    memory: CentredMemory,
) -> Neighbors:
    """Turn the candidates of a float32 search into the exact k nearest rows, every query proved.

    Parameters
    ----------
    queries : (n_queries, d) floats
        As they were.
    centred_queries : (n_queries, d) float32
        Minus the memory's mean.
    candidate_rows, candidate_squares : (n_queries, c)
        The c ≥ k rows whose squared distances between centred vectors came out smallest in float32,
        by whatever order of summation, smallest first. A row of −1 is no candidate.
    k : int
        At most n.
    memory : CentredMemory
        What was searched.

    Returns
    -------
    Neighbors
        By (distance, row).

    Notes
    -----
    A float32 sum of d products, in any order, is off by at most d·u times the sum of their sizes
    (Jeannerod and Rump 2013, "Improved error bounds for inner products in floating-point arithmetic"),
    so a computed squared distance is off by at most E = (d + 16)·u·(‖q‖ + ‖z‖)², with room for centring
    and adding up. Let D be the k-th true squared distance among the candidates. A row with
    ‖z‖ > ‖q‖ + √D is farther than that by the triangle inequality; for any other row that was not
    re-ranked E ≤ (d + 16)·u·(2‖q‖ + √D)², so it is farther if the smallest computed square among them
    exceeds D by more than E. Queries for which this fails, or whose candidates include a row of −1,
    are re-ranked with all their candidates, and then scanned.
    """
    n_queries, width = candidate_rows.shape
    rows = np.empty((n_queries, k), np.int64)
    distances = np.empty((n_queries, k), np.float64)
    norms = np.sqrt(np.einsum("qd,qd->q", centred_queries, centred_queries, dtype=np.float64))
    everything = width == len(memory.vectors)
    # A search leaves out rows whose squares overflowed, and then the others prove nothing.
    filled = candidate_rows.min(axis=1) >= 0
    left = np.arange(n_queries)
    for m in sorted({min(k + _FEW_EXTRA, width), width}):
        found = candidate_rows[left, :m]
        order_rows, order_distances = _order(
            found, true_distances(queries[left], found, vectors=memory.vectors), k
        )
        rows[left], distances[left] = order_rows, order_distances
        proved = filled[left]
        if m < width or not everything:
            bound = candidate_squares[left, min(m, width - 1)].astype(np.float64)
            reach = order_distances[:, -1]
            proved &= bound > reach**2 * (1 + 1e-12) + _rounding(norms[left], reach, memory)
        left = left[~proved]
        if not len(left):
            break
    for block in row_blocks(len(left), _SCAN_QUERIES):
        some = left[block]
        rows[some], distances[some] = _scan(
            queries[some], centred_queries[some], norms[some], distances[some, -1], k, memory=memory
        )
    return Neighbors(rows=rows, distances=distances, n_scanned=len(left))


def true_distances(
    queries: NDArray[Any], rows: NDArray[np.int64], *, vectors: NDArray[Any]
) -> NDArray[np.float64]:
    """Compute Euclidean distances by differences, in float64.

    Parameters
    ----------
    queries : (n_queries, d) floats
        Query vectors.
    rows : (n_queries, m) int64
        The rows of `vectors` to compare each query with; −1 for none.
    vectors : (n, d) floats
        The memory.

    Returns
    -------
    (n_queries, m) float64
        The same bits for a pair of vectors whatever stands beside it; infinite for a row of −1.
    """
    n_queries, m = rows.shape
    d = vectors.shape[1]
    distances = np.zeros((n_queries, m), np.float64)
    step = max(1, _RERANK_ELEMENTS // (m * d))

    def compare(block: slice) -> None:
        differences = np.subtract(vectors[rows[block]], queries[block, None, :], dtype=np.float64)
        for columns in row_blocks(d, _SUM_COLUMNS):
            part = differences[:, :, columns]
            distances[block] += np.einsum("qmd,qmd->qm", part, part)

    for_each_block(compare, row_blocks(n_queries, step))
    np.sqrt(distances, out=distances)
    distances[rows < 0] = np.inf
    return distances


def _rounding(
    norms: NDArray[np.float64], reach: NDArray[np.float64], memory: CentredMemory
) -> NDArray[np.float64]:
    """Bound the error of the computed squares of rows that could lie within `reach` of the queries."""
    d = memory.vectors.shape[1]
    error = (d + 16) * _UNIT * (2 * norms + reach * (1 + 1e-6)) ** 2 * (1 + 1e-6) + _UNDERFLOW
    # Beyond float32's range squares become infinite or NaN, and a search leaves NaN out.
    return np.where((norms + memory.largest_norm) ** 2 < _OVERFLOW, error, np.inf)


def _order(
    rows: NDArray[np.int64], distances: NDArray[np.float64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sort each query's candidates by (distance, row) and keep the first k."""
    # The float32 search leaves nearly all of them in order.
    unsorted = np.flatnonzero(~(distances[:, 1:] > distances[:, :-1]).all(axis=1))
    first_rows, first_distances = rows[:, :k].copy(), distances[:, :k].copy()
    order = np.lexsort((rows[unsorted], distances[unsorted]), axis=1)[:, :k]
    first_rows[unsorted] = np.take_along_axis(rows[unsorted], order, axis=1)
    first_distances[unsorted] = np.take_along_axis(distances[unsorted], order, axis=1)
    return first_rows, first_distances


def _scan(
    queries: NDArray[Any],
    centred_queries: NDArray[np.float32],
    norms: NDArray[np.float64],
    reach: NDArray[np.float64],
    k: int,
    *,
    memory: CentredMemory,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Search all rows for some queries: those that rounding allows to lie within reach, by true distances."""
    n_queries = len(queries)
    step = max(1, _SCAN_ELEMENTS // max(memory.centred.shape[1], n_queries))
    found: list[list[NDArray[np.int64]]] = [[] for _ in range(n_queries)]
    with np.errstate(over="ignore", invalid="ignore"):
        limit = reach**2 * (1 + 1e-12) + _rounding(norms, reach, memory)
        for block in row_blocks(len(memory.centred), step):
            centred = memory.centred[block]
            squares = np.einsum("nd,nd->n", centred, centred) - 2 * (centred_queries @ centred.T)
            # Negated, so that a NaN counts as possible.
            possible = ~(squares + norms[:, None] ** 2 > limit[:, None])
            for query in range(n_queries):
                found[query].append(block.start + np.flatnonzero(possible[query]))
    rows = np.empty((n_queries, k), np.int64)
    distances = np.empty((n_queries, k), np.float64)

    def choose(part: slice) -> None:
        for query in range(part.start, part.stop):
            candidates = np.concatenate(found[query])
            rows[query], distances[query] = _nearest_of(candidates, queries[query], k, memory=memory)

    for_each_block(choose, row_blocks(n_queries, 1))
    return rows, distances


def _nearest_of(
    rows: NDArray[np.int64], query: NDArray[Any], k: int, *, memory: CentredMemory
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose the k nearest of some rows to one query, by (distance, row)."""
    step = max(1, _RERANK_ELEMENTS // memory.centred.shape[1])
    differences = (
        true_distances(query[None], rows[block][None], vectors=memory.vectors)[0]
        for block in row_blocks(len(rows), step)
    )
    distances = np.concatenate(list(differences))
    if len(rows) > k:
        within = distances <= np.partition(distances, k - 1)[k - 1]
        rows, distances = rows[within], distances[within]
    order = np.lexsort((rows, distances))[:k]
    return rows[order], distances[order]
