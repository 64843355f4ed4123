"""Inverted lists as one run of bytes: how they lie, are written, and are scanned by faiss in place."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from math import gcd
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.rows import RandomRows
from resmem_cli.types import row_blocks

_ROOM = 8  # a list has room for a multiple of so many rows, so that its row numbers are aligned
_ROW_BYTES = 8
_TOGETHER = 32  # rows of interleaved codes
# The bytes of the first 16 rows among 32, as faiss's FastScan has them in a register.
_PLACES = np.argsort(np.arange(16).reshape(2, 8).T.ravel())


class ListLayout:
    """Where the entries of each list lie: its codes, then its row numbers as int64.

    Parameters
    ----------
    sizes : (l,) int64
        Rows of each list, none negative.
    code_bytes : int
        Bytes of one row's code.
    interleaved : bool
        Whether 32 rows' codes of 4-bit numbers lie together, as faiss's FastScan compares them: 32 bytes
        for each pair of numbers, first the first number of each row and then the second, of row i in the
        low and of row i + 16 in the high half of a byte.

    Attributes
    ----------
    room : (l,) int64
        How many rows each list has room for: its size, rounded up to a multiple of 8, or of 32.
    offsets : (l + 1,) int64
        First byte of each list, then the number of all bytes.
    """

    def __init__(self, sizes: NDArray[np.int64], code_bytes: int, *, interleaved: bool = False) -> None:
        self.sizes, self.code_bytes, self.interleaved = sizes, code_bytes, interleaved
        room = _TOGETHER if interleaved else _ROOM
        self.room = -(-sizes // room) * room
        self.offsets = np.concatenate([[0], np.cumsum(self.room * (code_bytes + _ROW_BYTES))])
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._word = gcd(code_bytes, 8)

    @property
    def n_bytes(self) -> int:
        """Bytes of all lists."""
        return int(self.offsets[-1])

    @property
    def n_rows(self) -> int:
        """Rows of all lists."""
        return int(self._starts[-1])

    def read(
        self, entries: RandomRows, first: int, stop: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
        """Copy a range of entries, counted through all lists.

        Returns
        -------
        lists, rows, codes : (m,), (m,) and (m, code_bytes)
            The list of each entry, its row and its code.
        """
        numbers = np.arange(first, stop)
        lists = np.searchsorted(self._starts, numbers, side="right") - 1
        slots = numbers - self._starts[lists]
        # Only what is read like this is checked against the digests of a file.
        start = self.offsets[lists[0]]
        part = entries.read(int(start), int(self.offsets[lists[-1] + 1]))
        rows = part.view(np.int64)[self._row_words(lists, slots) - start // _ROW_BYTES]
        if self.interleaved:
            places, halves = self._first_numbers(lists, slots)
            places -= start
            one, other = (part[at] >> halves & 0x0F for at in (places, places + _TOGETHER // 2))
            return lists, rows, np.bitwise_or(one, other << 4, dtype=np.uint8)
        codes = part.view(f"u{self._word}")[self._code_words(lists, slots) - start // self._word]
        return lists, rows, codes.view(np.uint8)

    def rows_at(
        self, entries: NDArray[np.uint8], lists: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Give the row numbers in some places of their lists."""
        rows: NDArray[np.int64] = entries.view(np.int64)[self._row_words(lists, slots)]
        return rows

    def codes_at(
        self, entries: NDArray[np.uint8], lists: NDArray[np.int64], slots: NDArray[np.int64], n_bytes: int
    ) -> NDArray[np.uint8]:
        """Give the first bytes, `n_bytes` or a few more, of m codes that are not interleaved."""
        n_words = -(-n_bytes // self._word)
        return entries.view(f"u{self._word}")[self._code_words(lists, slots, n_words)].view(np.uint8)

    def write(
        self,
        entries: NDArray[np.uint8],
        lists: NDArray[np.int64],
        slots: NDArray[np.int64],
        rows: NDArray[np.int64],
        codes: NDArray[np.uint8],
    ) -> None:
        """Put m rows into places of their lists that hold zeros."""
        entries.view(np.int64)[self._row_words(lists, slots)] = rows
        if not self.interleaved:
            entries.view(f"u{self._word}")[self._code_words(lists, slots)] = codes.view(f"u{self._word}")
            return
        places, halves = self._first_numbers(lists, slots)
        # Two rows share a byte, so one half is written after the other.
        for some in (np.flatnonzero(halves == 0), np.flatnonzero(halves)):
            at, half = places[some], halves[some]
            entries[at] |= (codes[some] & 0x0F) << half
            entries[at + _TOGETHER // 2] |= (codes[some] >> 4) << half

    def _code_words(
        self, lists: NDArray[np.int64], slots: NDArray[np.int64], n_words: int | None = None
    ) -> NDArray[np.int64]:
        """Give the places of some codes, or of their first words, in words as wide as codes allow."""
        first = (self.offsets[lists] + slots * self.code_bytes) // self._word
        words: NDArray[np.int64] = first[:, None] + np.arange(n_words or self.code_bytes // self._word)
        return words

    def _first_numbers(
        self, lists: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Give the bytes, (m, code_bytes), of the first of each pair of numbers, and the shift there."""
        block, slot = np.divmod(slots, _TOGETHER)
        high, slot = np.divmod(slot, _TOGETHER // 2)
        first = self.offsets[lists] + block * (_TOGETHER * self.code_bytes) + _PLACES[slot]
        places: NDArray[np.int64] = first[:, None] + np.arange(self.code_bytes) * _TOGETHER
        return places, (4 * high).astype(np.uint8)[:, None]

    def _row_words(self, lists: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the places of some row numbers, in words of 8 bytes."""
        places: NDArray[np.int64] = (
            self.offsets[lists] + self.room[lists] * self.code_bytes
        ) // _ROW_BYTES + slots
        return places


class ListWriter:
    """Fills lists from front to back, whatever the order of the lists that rows come in.

    Parameters
    ----------
    layout : ListLayout
        With the final sizes.
    entries : (layout.n_bytes,) uint8
        Zeros, which the padding stays.
    """

    def __init__(self, layout: ListLayout, entries: NDArray[np.uint8]) -> None:
        self._layout, self._entries = layout, entries
        self._filled = np.zeros(len(layout.sizes), np.int64)

    def append(
        self, lists: NDArray[np.integer[Any]], rows: NDArray[np.int64], codes: NDArray[np.uint8]
    ) -> None:
        """Append m rows, in their order, to the lists named for them."""
        order = np.argsort(lists, kind="stable")
        own = lists[order].astype(np.int64)
        counts = np.bincount(own, minlength=len(self._filled))
        rank = np.arange(len(own)) - (np.cumsum(counts) - counts)[own]
        self._layout.write(self._entries, own, self._filled[own] + rank, rows[order], codes[order])
        self._filled += counts


class MappedLists:
    """Lists that faiss scans where they are: in memory, or in a mapped file, of which it reads only those.

    Parameters
    ----------
    entries : RandomRows
        (layout.n_bytes,) uint8.
    layout : ListLayout
        Where the lists are in it.
    """

    def __init__(self, entries: RandomRows, layout: ListLayout) -> None:
        self._entries, self._layout = entries, layout
        self._checked = np.zeros(len(layout.sizes), bool)
        self._bytes = entries.at(np.empty(0, np.int64))
        lists = faiss.OnDiskInvertedLists()
        lists.nlist, lists.code_size = len(layout.sizes), layout.code_bytes
        # faiss neither reads ahead in threads of its own nor changes anything.
        lists.read_only, lists.prefetch_nthread = True, 0
        for size, room, offset in zip(
            layout.sizes.tolist(), layout.room.tolist(), layout.offsets.tolist(), strict=False
        ):
            one = faiss.OnDiskOneList()
            one.size, one.capacity, one.offset = size, room, offset
            lists.lists.push_back(one)
        lists.ptr, lists.totsize = faiss.swig_ptr(self._bytes), layout.n_bytes
        self.for_faiss = lists
        # It would unmap the bytes, which are not its own.
        weakref.finalize(self, _forget_bytes, lists)

    def rows_at(self, lists: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the row numbers in some places of their lists."""
        return self._layout.rows_at(self._bytes, lists, slots)

    def codes_at(self, lists: NDArray[np.int64], slots: NDArray[np.int64], n_bytes: int) -> NDArray[np.uint8]:
        """Give the first bytes, `n_bytes` or a few more, of m codes that are not interleaved."""
        return self._layout.codes_at(self._bytes, lists, slots, n_bytes)

    def check(self, lists: NDArray[np.int64]) -> None:
        """Check the bytes of some lists against the digests of their file, each list once.

        Raises
        ------
        DataError
            If they are not those that were written.
        """
        wanted = np.zeros(len(self._checked), bool)
        wanted[lists] = True
        new = np.flatnonzero(wanted & ~self._checked)
        # Neighbouring lists are read together.
        for run in np.split(new, np.flatnonzero(np.diff(new) > 1) + 1):
            if len(run):
                self._entries.read(int(self._layout.offsets[run[0]]), int(self._layout.offsets[run[-1] + 1]))
        self._checked[new] = True


def _forget_bytes(lists: Any) -> None:
    lists.ptr, lists.totsize = None, 0


def checked_layout(
    sizes: NDArray[Any], *, n: int, n_bytes: int, code_bytes: int, interleaved: bool = False
) -> ListLayout:
    """Make the layout of lists that come from a file.

    Raises
    ------
    DataError
        If they do not hold n rows, or not as many bytes as that takes.
    """
    sizes = sizes.astype(np.int64)
    # Each is looked at before they are added up, which could overflow.
    if len(sizes) < 1 or sizes.min() < 0 or sizes.max() > n or sizes.sum() != n:
        raise DataError(
            "sizes of lists that do not hold the memory's rows",
            field="lists/sizes",
            expected=f"{n:,} rows in all",
            remedy="build the index again",
        )
    layout = ListLayout(sizes, code_bytes, interleaved=interleaved)
    if layout.n_bytes != n_bytes:
        raise DataError(
            "lists of another length than their sizes say",
            field="lists/entries",
            expected=f"{layout.n_bytes:,} bytes",
            found=f"{n_bytes:,}",
            remedy="build the index again",
        )
    return layout


Entries = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]


def stored_entries(layout: ListLayout, entries: RandomRows, *, block_rows: int) -> Iterator[Entries]:
    """Give all entries, list by list.

    Parameters
    ----------
    layout, entries
        All lists.
    block_rows : int
        Entries to read together.

    Yields
    ------
    lists, rows, codes
        The list of each entry, its row, and its code.

    Raises
    ------
    DataError
        If the lists do not hold each row once.
    """
    n = layout.n_rows
    seen = np.zeros(n, bool)
    for block in row_blocks(n, block_rows):
        lists, rows, codes = layout.read(entries, block.start, block.stop)
        if rows.min() < 0 or rows.max() >= n:
            raise damaged_entries(f"names a row that is not there, of {n:,}")
        seen[rows] = True
        yield lists, rows, codes
    if not seen.all():
        raise damaged_entries(f"lacks row {int(np.argmin(seen)):,}")


def damaged_entries(problem: str) -> DataError:
    """Make the error of lists that can't be."""
    return DataError(problem, field="lists/entries", remedy="build the index again")
