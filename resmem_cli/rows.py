"""Rows that can be read in order and at random, wherever they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray


class RandomRows(Protocol):
    """One array whose rows are read in ranges or picked: in memory, or mapped from a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole array; the first axis is the rows."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Give rows `start` to `stop`, as a view where that is possible."""

    def at(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Give the whole array, in which these rows may be looked at; the others may be unchecked."""


class ArrayInMemory:
    """Rows of a numpy array, or of a memory map that needs no checks."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole array."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.array.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Give rows `start` to `stop` as a view."""
        return self.array[start:stop]

    def at(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Give the array."""
        return self.array


def as_rows(values: NDArray[Any] | RandomRows) -> RandomRows:
    """Take an array as rows; leave rows as they are."""
    return ArrayInMemory(values) if isinstance(values, np.ndarray) else values


class RowSource(Protocol):
    """Rows of one array, read a block at a time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole array; the first axis is the rows."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of what `read` gives: native byte order, bfloat16 widened to float32."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows `start` to `stop`, 0 ≤ start ≤ stop ≤ n, C-contiguous.

        Any order is allowed; formats that stream (.npz, .parquet) are fast in rising order only.
        """


_Rows = TypeVar("_Rows", bound=RowSource)


class RowRange:
    """A range of the rows of an array, which counts from 0."""

    def __init__(self, rows: RowSource, of: slice) -> None:
        self._rows, self._first = rows, of.start
        self.shape: tuple[int, ...] = (of.stop - of.start, *rows.shape[1:])
        self.dtype = rows.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Give rows `start` to `stop` of the range."""
        return self._rows.read(self._first + start, self._first + min(stop, self.shape[0]))


class ConcatenatedRows(Generic[_Rows]):
    """Arrays one behind the other, read as one.

    Parameters
    ----------
    parts : sequence of rows
        Of one type, though text may be of several widths, and, but for the first axis, one shape.

    Attributes
    ----------
    parts : tuple of rows
    starts : (parts + 1,) int64
        The first row of each, and the number of all rows.
    """

    def __init__(self, parts: Sequence[_Rows]) -> None:
        self.parts = tuple(parts)
        self.starts = np.cumsum([0, *(part.shape[0] for part in parts)])
        self.shape: tuple[int, ...] = (int(self.starts[-1]), *parts[0].shape[1:])
        self.dtype = np.result_type(*(part.dtype for part in parts))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Give rows `start` to `stop`, copied where they are of several parts."""
        stop = min(stop, self.shape[0])
        if stop <= start:
            return np.empty((0, *self.shape[1:]), self.dtype)
        first, last = np.searchsorted(self.starts, (start, stop - 1), side="right") - 1
        read = [
            self.parts[part].read(
                max(start, int(self.starts[part])) - int(self.starts[part]),
                min(stop, int(self.starts[part + 1])) - int(self.starts[part]),
            )
            for part in range(first, last + 1)
        ]
        return read[0] if len(read) == 1 else np.concatenate(read)


class ConcatenatedRandomRows(ConcatenatedRows[RandomRows]):
    """The same, picked at random too: from each part only the rows that are asked for."""

    def at(self, rows: NDArray[np.int64]) -> Any:
        """Give what `take` and an index of rows pick from, as from the whole array."""
        return PickedRows(self.shape, self.dtype, self._pick)

    def _pick(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        owners = np.searchsorted(self.starts, rows, side="right") - 1
        for part in np.unique(owners):
            own = np.flatnonzero(owners == part)
            wanted = rows[own] - self.starts[part]
            found[own] = self.parts[part].at(wanted)[wanted]
        return found


class PickedRows:
    """What stands for an array of which single rows are picked, whatever it takes to get them.

    Parameters
    ----------
    shape, dtype
        Of the whole array.
    pick : callable
        Gives (m, ...) rows by their rising numbers, (m,) int64.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], pick: Callable[[NDArray[np.int64]], NDArray[Any]]
    ) -> None:
        self.shape, self.dtype, self._pick = shape, dtype, pick

    @property
    def ndim(self) -> int:
        """Axes of the whole array."""
        return len(self.shape)

    def take(self, rows: NDArray[np.int64], axis: int = 0) -> NDArray[Any]:
        """Give rows by their numbers, of any shape; those below 0 count from the end, as numpy has it."""
        wanted, places = np.unique(np.where(rows < 0, rows + self.shape[0], rows), return_inverse=True)
        return self._pick(wanted)[places.reshape(np.shape(rows))]

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self.take(rows)
