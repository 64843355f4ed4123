"""Search of inverted lists: those with the nearest centres are scanned by faiss, on all cores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.indexes.clustering import Centres
from resmem_cli.indexes.lists import ListLayout, MappedLists
from resmem_cli.indexes.one_thread import one_faiss_thread
from resmem_cli.rows import RandomRows
from resmem_cli.threads import for_each_block, n_threads
from resmem_cli.types import row_blocks

LARGEST_VALUE = 2.0**50
"""Of rows and queries, the sums of whose squares are sure to stay within float32's range."""

_BATCH_ELEMENTS = 1 << 20  # lists or candidates of the queries searched together
_FEW_QUERIES = 8  # are not worth the start of a thread
_TIED = 16  # more candidates than wanted are fetched: seldom are more of them as near as the last
_MOST_TIED = 64  # times as many are fetched at most: beyond, which of equally near codes are taken is open


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
            squared distances of the codes; infinite for a row of −1.

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
            rows[own], found[own] = self._first(*parts, count=count, together=together)
            compared += int(self._layout.sizes[lists].sum())
        if rows.size and (rows.min() < -1 or rows.max() >= n):
            raise DataError(
                f"names a row that is not there, of {n:,}",
                field="lists/entries",
                remedy="build the index again",
            )
        found[rows < 0] = np.inf
        return rows, found, compared / max(1, len(queries))

    def _first(
        self,
        queries: NDArray[np.float32],
        lists: NDArray[np.int64],
        squares: NDArray[np.float32],
        *,
        count: int,
        together: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Give the first `count` rows by (square of the code, row), though not in that order."""
        n = self._layout.n_rows
        rows, found = self._scanned(queries, min(n, count + _TIED), lists, squares, together=together)
        first_rows, first = rows[:, :count].copy(), found[:, :count].copy()
        # faiss leaves it open which of those it gives that are as near as the last.
        left = np.arange(len(queries))
        while rows.shape[1] > count:
            tied = (found[:, count] == found[:, count - 1]) & (rows[:, count] >= 0)
            whole = (found[:, -1] > found[:, count - 1]) | (rows[:, -1] < 0) | (rows.shape[1] == n)
            some = np.flatnonzero(tied & (whole | (rows.shape[1] >= _MOST_TIED * count)))
            order = np.lexsort((rows[some], np.where(rows[some] < 0, np.inf, found[some])))[:, :count]
            first_rows[left[some]] = np.take_along_axis(rows[some], order, axis=1)
            first[left[some]] = np.take_along_axis(found[some], order, axis=1)
            left = left[tied & ~whole] if rows.shape[1] < _MOST_TIED * count else left[:0]
            if not len(left):
                break
            width = min(n, 4 * rows.shape[1])
            rows, found = self._scanned(queries[left], width, lists[left], squares[left], together=together)
        return first_rows, first

    def _scanned(
        self,
        queries: NDArray[np.float32],
        count: int,
        lists: NDArray[np.int64],
        squares: NDArray[np.float32],
        *,
        together: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Scan lists on all cores: faiss shares queries among threads only where it finds the lists too."""
        rows = np.empty((len(queries), count), np.int64)
        found = np.empty((len(queries), count), np.float32)

        def scan(some: slice) -> None:
            with one_faiss_thread():
                parts = (queries[some], count, lists[some], squares[some])
                found[some], rows[some] = self._engine.search_preassigned(*parts)

        step = max(_FEW_QUERIES, -(-len(queries) // n_threads()))
        for_each_block(scan, row_blocks(len(queries), min(step, together)))
        return rows, found
