"""Search of inverted lists: those with the nearest centres are scanned by faiss, on all cores."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.indexes.clustering import Centres
from resmem_cli.indexes.lists import ListLayout, MappedLists, damaged_entries
from resmem_cli.indexes.one_thread import one_faiss_thread
from resmem_cli.indexes.rabitq_bounds import LowerBounds, lower_bounds
from resmem_cli.rows import RandomRows
from resmem_cli.threads import for_each_block, n_threads
from resmem_cli.types import row_blocks

LARGEST_VALUE = 2.0**50
"""Of rows and queries, the sums of whose squares are sure to stay within float32's range."""

_BATCH_ELEMENTS = 1 << 20  # lists or candidates of the queries searched together
_FEW_QUERIES = 8  # are not worth the start of a thread
_TIED = 16  # more candidates than wanted are fetched: seldom are more of them as near as the last
_WIDENING = 8  # times as many are fetched where that was not enough, or as few rows are scanned
_MOST_TIED, _MOST_WIDTH = 64, 1 << 16
"""Of codes with lower bounds so many times the candidates are fetched at most, or so many: which of more
equally near ones are taken is open."""


class ListScanner:
    """Finds candidates in stored lists.

    Parameters
    ----------
    engine : faiss.IndexIVF
        Of the codes, without lists.
    centres : Centres
        Of the lists.
    entries : RandomRows
        The lists' bytes.
    layout : ListLayout
        Where the lists are in them.
    """

    def __init__(self, engine: Any, centres: Centres, entries: RandomRows, layout: ListLayout) -> None:
        self._centres, self._layout = centres, layout
        self._lists = MappedLists(entries, layout)
        self._bounds = lower_bounds(engine, self._lists, centres.rows)
        self._engine = engine
        engine.replace_invlists(self._lists.for_faiss, False)
        engine.ntotal = layout.n_rows

    def nearest(
        self, queries: NDArray[np.float32], count: int, *, probe: int, together: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], float]:
        """Compare each query with the codes of the `probe` lists whose centres are nearest.

        Of rows whose codes are equally near, those of the smallest numbers are taken: then the candidates
        are the same in one memory and in its shards.

        Parameters
        ----------
        queries, count, probe
            As for `ApproximateIndex.candidates`.
        together : int
            Queries that one core searches together.

        Returns
        -------
        rows, squares, compared
            `rows` and `compared` as `ApproximateIndex.candidates` gives them, and (n_queries, count) float32
            squared distances of the codes; infinite for a row of −1. (`LowerBounds` raises a few.)

        Raises
        ------
        DataError
            If the lists name rows that are not there.
        """
        n = self._layout.n_rows
        rows = np.full((len(queries), count), -1, np.int64)
        found = np.full((len(queries), count), np.inf, np.float32)
        compared = 0
        self._engine.nprobe = probe
        # Squares of others may overflow, and some kinds count with them on the way.
        usual = np.flatnonzero(np.abs(queries).max(axis=1, initial=0) <= LARGEST_VALUE)
        for block in row_blocks(len(usual), max(1, _BATCH_ELEMENTS // max(probe, count))):
            some = queries[usual[block]]
            lists, squares = self._centres.nearest(some, probe)
            self._lists.check(lists)
            # Near lists have near numbers: in this order queries share what is in the processor's cache.
            order = np.argsort(lists[:, 0], kind="stable")
            parts = (some[order], lists[order], squares[order])
            own = usual[block][order]
            width = min(n, count + _TIED)
            rows[own], found[own] = self._first(*parts, count=count, width=width, together=together)
            compared += int(self._layout.sizes[lists].sum())
        if rows.size and (rows.min() < -1 or rows.max() >= n):
            raise damaged_entries(f"names a row that is not there, of {n:,}")
        found[rows < 0] = np.inf
        return rows, found, compared / max(1, len(queries))

    def _first(
        self,
        queries: NDArray[np.float32],
        lists: NDArray[np.int64],
        squares: NDArray[np.float32],
        *,
        count: int,
        width: int,
        together: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Give the first `count` rows by (square of the code, row), though not in that order.

        faiss leaves it open which of the rows as near as the last it gives. So `width` of them are fetched;
        and more is asked for queries for which those do not end beyond the last.
        """
        rows, found, reach = self._scanned(queries, width, lists, squares, together=together)
        first_rows, first = rows[:, :count].copy(), found[:, :count].copy()
        if width > count:
            tied = np.flatnonzero((found[:, count] == found[:, count - 1]) & (rows[:, count] >= 0))
            ordered = _in_order(rows[tied], found[tied])
            first_rows[tied], first[tied] = (part[:, :count] for part in ordered)
        left = np.flatnonzero(reach <= first[:, -1])
        if self._bounds is None:
            parts = (queries[left], lists[left], squares[left])
            first_rows[left] = self._of_many_tied(*parts, first_rows[left], first[left])
            return first_rows, first
        wider = min(self._layout.n_rows, _WIDENING * width)
        if wider <= max(_MOST_TIED * count, _MOST_WIDTH):
            for block in row_blocks(len(left), max(1, _BATCH_ELEMENTS // wider)):
                some = left[block]
                parts = (queries[some], lists[some], squares[some])
                found_wider = self._first(*parts, count=count, width=wider, together=together)
                first_rows[some], first[some] = found_wider
        return first_rows, first

    def _of_many_tied(
        self,
        queries: NDArray[np.float32],
        lists: NDArray[np.int64],
        squares: NDArray[np.float32],
        rows: NDArray[np.int64],
        found: NDArray[np.float32],
    ) -> NDArray[np.int64]:
        """Give rows with those as near as the last replaced by the first that are."""
        first = rows.copy()

        def choose(some: slice) -> None:
            with one_faiss_thread():
                for place in range(some.start, some.stop):
                    one = slice(place, place + 1)
                    tied = found[place] == found[place].max()
                    parts = (queries[one], lists[one], squares[one])
                    first[place, tied] = self._first_tied(
                        *parts, found[place].max(), int(tied.sum()), len(tied)
                    )

        for_each_block(choose, row_blocks(len(queries), _FEW_QUERIES))
        return first

    def _first_tied(
        self,
        query: NDArray[np.float32],
        lists: NDArray[np.int64],
        squares: NDArray[np.float32],
        square: np.float32,
        wanted: int,
        count: int,
    ) -> NDArray[np.int64]:
        """Give the first rows of a square that more rows have than are fetched.

        Only rows of small numbers are scanned, below a limit found by trying: below it are as many as wanted,
        but not more than are fetched.
        """
        n = self._layout.n_rows
        width = min(n, 2 * count + _TIED)
        # Below the one there are too few, below the other too many.
        few, many = 0, n + 1
        limit = max(1, n // _WIDENING)
        while few + 1 < many:
            rows, found = self._scanned_below(limit, query, width, lists, squares)
            tied = rows[(found == square) & (rows >= 0)]
            whole = rows[-1] < 0 or found[-1] > square or limit <= width
            if whole and len(tied) >= wanted:
                return np.sort(tied)[:wanted]
            if whole:
                few = limit
                limit = 2 * wanted * limit // len(tied) if len(tied) else _WIDENING * limit
            else:
                many = limit
                limit = (few + many) // 2 if few else limit // _WIDENING
            if not few < limit < many:
                limit = (few + many) // 2
        raise damaged_entries("do not hold each row once")

    def _scanned_below(
        self,
        limit: int,
        query: NDArray[np.float32],
        count: int,
        lists: NDArray[np.int64],
        squares: NDArray[np.float32],
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Scan for one query, of all rows only those below a limit."""
        below = faiss.IDSelectorRange(0, limit)
        parameters = faiss.SearchParametersIVF(sel=below, nprobe=lists.shape[1])
        found, rows = _search(self._engine, query, count, lists, squares, parameters=parameters)
        found[np.isnan(found)] = 0
        return rows[0], found[0]

    def _scanned(
        self,
        queries: NDArray[np.float32],
        count: int,
        lists: NDArray[np.int64],
        squares: NDArray[np.float32],
        *,
        together: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Scan lists on all cores: faiss shares queries among threads only where it finds the lists too.

        Returns
        -------
        rows, found, reach
            (n_queries, count) rows and squares, nearest first, and (n_queries,) squares: no other row is
            nearer.
        """
        rows = np.empty((len(queries), count), np.int64)
        found = np.empty((len(queries), count), np.float32)
        reach = np.empty(len(queries), np.float32)

        def scan(some: slice) -> None:
            parts = (queries[some], count, lists[some], squares[some])
            with one_faiss_thread():
                found[some], rows[some] = _search(self._engine, *parts, places=self._bounds is not None)
            # faiss makes it of codes that are all alike, when it divides by how far they are apart.
            found[some][np.isnan(found[some])] = 0
            reach[some] = np.where(rows[some, -1] < 0, np.inf, found[some, -1])
            if self._bounds is not None:
                rows[some] = self._bounded(self._bounds, queries[some], rows[some], found[some])

        step = max(_FEW_QUERIES, -(-len(queries) // n_threads()))
        for_each_block(scan, row_blocks(len(queries), min(step, together)))
        return rows, found, reach if count < self._layout.n_rows else np.full_like(reach, np.inf)

    def _bounded(
        self,
        bounds: LowerBounds,
        queries: NDArray[np.float32],
        places: NDArray[np.int64],
        found: NDArray[np.float32],
    ) -> NDArray[np.int64]:
        """Give the rows in some places, nearest first, when `found` is raised to its lower bounds."""
        there = places >= 0
        lists, slots = places >> 32, places & 0xFFFFFFFF
        raised = np.flatnonzero(bounds.raise_to(found, queries, lists, slots))
        rows = np.full_like(places, -1)
        rows[there] = self._lists.rows_at(lists[there], slots[there])
        rows[raised], found[raised] = _in_order(rows[raised], found[raised])
        return rows


def _in_order(
    rows: NDArray[np.int64], found: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Sort rows by (square, row); those of −1 come last."""
    order = np.lexsort((rows, np.where(rows < 0, np.inf, found)))
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(found, order, axis=1)


def _search(
    engine: Any,
    queries: NDArray[np.float32],
    count: int,
    lists: NDArray[np.int64],
    squares: NDArray[np.float32],
    *,
    places: bool = False,
    parameters: Any = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Do what faiss's `search_preassigned` does not offer from Python.

    With `places` it gives list · 2³² + place there instead of rows; `parameters` are faiss's.
    """
    found = np.empty((len(queries), count), np.float32)
    rows = np.empty((len(queries), count), np.int64)
    arrays = [np.ascontiguousarray(array) for array in (queries, lists, squares)]
    asked, visited, distances = (faiss.swig_ptr(array) for array in arrays)
    given = (faiss.swig_ptr(found), faiss.swig_ptr(rows))
    engine.search_preassigned_c(len(queries), asked, count, visited, distances, *given, places, parameters)
    return found, rows
