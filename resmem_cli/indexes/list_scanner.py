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

    def candidates(
        self, queries: NDArray[np.float32], count: int, *, probe: int, together: int
    ) -> tuple[NDArray[np.int64], float]:
        """Compare each query with the codes of the `probe` lists whose centres are nearest.

        Parameters
        ----------
        queries, count, probe
            As for `ApproximateIndex.candidates`.
        together : int
            Queries that one core searches together.

        Returns
        -------
        rows, compared
            As `ApproximateIndex.candidates` gives them.

        Raises
        ------
        DataError
            If the lists name rows that are not there.
        """
        n = self._layout.n_rows
        rows = np.full((len(queries), count), -1, np.int64)
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
            parts = (some[order], count, lists[order], squares[order])
            rows[usual[block][order]] = self._scanned(*parts, together=together)
            compared += int(self._layout.sizes[lists].sum())
        if rows.size and (rows.min() < -1 or rows.max() >= n):
            raise DataError(
                f"names a row that is not there, of {n:,}",
                field="lists/entries",
                remedy="build the index again",
            )
        return rows, compared / max(1, len(queries))

    def _scanned(
        self,
        queries: NDArray[np.float32],
        count: int,
        lists: NDArray[np.int64],
        squares: NDArray[np.float32],
        *,
        together: int,
    ) -> NDArray[np.int64]:
        """Scan lists on all cores: faiss shares queries among threads only where it finds the lists too."""
        rows = np.empty((len(queries), count), np.int64)

        def scan(some: slice) -> None:
            with one_faiss_thread():
                parts = (queries[some], count, lists[some], squares[some])
                _, rows[some] = self._engine.search_preassigned(*parts)

        step = max(_FEW_QUERIES, -(-len(queries) // n_threads()))
        for_each_block(scan, row_blocks(len(queries), min(step, together)))
        return rows
