"""Rows that can be read in order and at random, wherever they lie."""

from __future__ import annotations

from typing import Any, Protocol

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
