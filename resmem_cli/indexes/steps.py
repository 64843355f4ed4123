"""The steps of an exact search: each proves some queries, and leaves the others to the next."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.indexes.base import SCANNED, Neighbors
from resmem_cli.indexes.proof import (
    Differences,
    Rounding,
    nearest_bounded,
    nearest_candidates,
    scan,
    straight,
)
from resmem_cli.indexes.searched import Engine, SearchedRows
from resmem_cli.indexes.space import squared_norms
from resmem_cli.rows import RandomRows
from resmem_cli.types import Metric, row_blocks

_RERANK_ELEMENTS = 1 << 20  # candidates of queries re-ranked together
_WITHIN_QUERIES = 64
_WITHIN_ELEMENTS = 1 << 21  # computed squares looked at together
_PADDED_QUERIES = 16  # re-ranked together where their numbers of candidates differ


class ExactSearch:
    """One batch of queries on its way.

    Parameters
    ----------
    queries : (n_queries, d) floats
        As they were.
    centred : (n_queries, d) float64
        In the memory's space.
    k : int
        Neighbours.
    vectors : (n, d) floats
        The memory.
    metric : Metric
        Of the distances.

    Attributes
    ----------
    queries, centred
        As above.
    left : (m,) int64
        Queries that no step has proved yet.
    """

    def __init__(
        self,
        queries: NDArray[Any],
        centred: NDArray[np.float64],
        k: int,
        *,
        vectors: RandomRows,
        metric: Metric,
    ) -> None:
        self.centred = centred
        self.left = np.arange(len(queries))
        self.queries, self._k = queries, k
        self._vectors, self._metric = vectors, metric
        self._norms = np.sqrt(squared_norms(centred))
        self._rows = np.full((len(queries), k), -1, np.int64)
        self._distances = np.full((len(queries), k), np.inf)
        self._steps: dict[str, int] = {}

    def by_candidates(
        self,
        name: str,
        points: NDArray[np.float32],
        *,
        memory: SearchedRows,
        width: int,
        rounding: Rounding | Differences,
        engine: Engine,
    ) -> None:
        """Re-rank the rows whose squares in a searched space come out smallest.

        Proved is a query whose k-th true distance is below what the squares of all other rows can mean.

        Parameters
        ----------
        name : str
            Of the step.
        points : (len(left), e) float32
            The queries that are left, in that space.
        memory : SearchedRows
            (n, e).
        width : int
            Rows to re-rank, at least k.
        rounding : Rounding or Differences
            Of that space.
        engine : Engine
            Finds them.
        """
        n = memory.shape[0]
        count = min(width + 1, n)
        squares, rows = engine.nearest(points, memory, count)
        # A search leaves out rows whose squares overflowed, and then the others prove nothing.
        proved = rows.min(axis=1) >= 0
        width = n if count == n else width
        for part in row_blocks(len(rows), max(1, _RERANK_ELEMENTS // width)):
            some = self.left[part]
            self._rows[some], self._distances[some] = nearest_bounded(
                self.queries[some],
                self._norms[some],
                rows[part, :width],
                squares[part, :width],
                self._k,
                vectors=self._vectors,
                metric=self._metric,
                rounding=rounding,
            )
            if count < n:
                limit = rounding.limit(self._norms[some], self._reach(some))
                proved[part] &= squares[part, -1] > limit
        self._done(name, proved)

    def within_reach(
        self,
        name: str,
        points: NDArray[np.float32],
        *,
        memory: SearchedRows,
        most: int,
        rounding: Rounding,
    ) -> None:
        """Re-rank all rows that may lie within the best k-th distance so far.

        Proved is a query with no more than `most` such rows.

        Parameters
        ----------
        name, points, memory, rounding
            As for `by_candidates`.
        most : int
            Rows re-ranked for a query.
        """
        proved = np.zeros(len(self.left), bool)
        for part in row_blocks(len(self.left), _WITHIN_QUERIES):
            some = self.left[part]
            limit = rounding.limit(self._norms[some], self._reach(some))
            which, rows = _rows_below(points[part], limit, memory, most)
            counts = np.bincount(which, minlength=len(some))
            firsts = np.cumsum(counts) - counts
            proved[part] = np.isfinite(limit) & (counts >= self._k) & (counts <= most)
            order = np.argsort(counts, kind="stable")
            order = order[proved[part][order]]
            for block in row_blocks(len(order), _PADDED_QUERIES):
                those = order[block]
                places = np.arange(counts[those].max())
                filled = places < counts[those, None]
                candidates = np.where(filled, rows[np.where(filled, firsts[those, None] + places, 0)], -1)
                self._rows[some[those]], self._distances[some[those]] = nearest_candidates(
                    self.queries[some[those]],
                    candidates,
                    self._k,
                    vectors=self._vectors,
                    metric=self._metric,
                )
        self._done(name, proved)

    def scan(self) -> Neighbors:
        """Compare the queries that are left with all rows by true distances, and give the answer."""
        some = self.left
        if len(some):
            self._rows[some], self._distances[some] = scan(
                self.queries[some], self._k, vectors=self._vectors, metric=self._metric
            )
        self._done(SCANNED, np.ones(len(some), bool))
        return Neighbors(rows=self._rows, distances=self._distances, steps=self._steps)

    def _reach(self, some: NDArray[np.int64]) -> NDArray[np.float64]:
        return straight(self._distances[some, -1], self._metric)

    def _done(self, name: str, proved: NDArray[np.bool_]) -> None:
        self._steps[name] = self._steps.get(name, 0) + int(proved.sum())
        self.left = self.left[~proved]


def _rows_below(
    points: NDArray[np.float32], limit: NDArray[np.float64], memory: SearchedRows, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the rows whose computed squares do not exceed each query's limit.

    A query with more than `most` of them is given some more than that, and not all.

    Returns
    -------
    which, rows : (m,) int64
        A query's number and a row's, by (query, row).
    """
    own = np.einsum("qe,qe->q", points, points)[:, None]
    with np.errstate(over="ignore"):
        # Compared in float32, which takes half the time, so rounded up.
        limits = np.nextafter(limit.astype(np.float32), np.float32(np.inf))
    limits[~np.isfinite(limits)] = -np.inf
    counts = np.zeros(len(points), np.int64)
    found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    step = max(1, _WITHIN_ELEMENTS // max(len(points), memory.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for block in row_blocks(memory.shape[0], min(step, memory.block_rows)):
            rows = memory.read(block.start, block.stop)
            squares = points @ rows.T
            squares *= -2
            squares += np.einsum("ne,ne->n", rows, rows)
            squares += own
            limits[counts > most] = -np.inf
            which, row = np.nonzero(squares <= limits[:, None])
            counts += np.bincount(which, minlength=len(points))
            found.append((which, row + block.start))
    which, row = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(which, kind="stable")
    return which[order], row[order]
