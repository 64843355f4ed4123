"""Arrays mapped into memory from a file, whose pages do not pile up as their rows are read."""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.base import ArrayRows


class MappedFile:
    """A file's bytes, mapped for reading; the mapping ends with the last array cut from it.

    Raises
    ------
    OSError, ValueError
        If the file can't be mapped; an empty one can't.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._mapping, dtype=np.uint8)

    def array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Cut out the array that begins at byte `offset`, in C order."""
        cut = self.bytes[offset : offset + math.prod(shape) * dtype.itemsize]
        return cut.view(dtype).reshape(shape)

    def release(self, rows: NDArray[Any]) -> None:
        """Take the pages under whole rows, cut from this file and read by now, out of the process's memory.

        The system counts a mapped page as the process's from the first read on. A released page is
        mapped again when it is read again, at no cost in correctness.
        """
        if not rows.size or not hasattr(mmap, "MADV_DONTNEED"):
            return
        first = _address(rows) - _address(self.bytes)
        # The page that holds the last byte may hold the next block's first ones.
        start, stop = (position // mmap.PAGESIZE * mmap.PAGESIZE for position in (first, first + rows.nbytes))
        if stop > start:
            self._mapping.madvise(mmap.MADV_DONTNEED, start, stop - start)


class MappedRows(ArrayRows):
    """Rows of an array cut from a mapped file; a block's pages are released once it is copied."""

    def __init__(self, array: NDArray[Any], file: MappedFile) -> None:
        super().__init__(array)
        self._file = file

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Copy rows `start` to `stop` into native byte order."""
        block = super().read(start, stop)
        self._file.release(self._array[start:stop])
        return block


def place_in_file(array: NDArray[Any], path: Path) -> int | None:
    """Find the byte of a file at which an array begins that a library has mapped from it.

    None if the array is in memory of its own or not contiguous, or where the system does not tell (only
    Linux does). A library's own mapping can't be released from here, but the file can be mapped anew.
    """
    if not array.flags.c_contiguous or not array.nbytes:
        return None
    address = _address(array)
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as table:
            for line in table:
                bounds, _, offset, _, _, *name = line.rstrip("\n").split(maxsplit=5)
                start, stop = (int(bound, 16) for bound in bounds.split("-"))
                if start <= address and address + array.nbytes <= stop:
                    return int(offset, 16) + address - start if name == [str(path.resolve())] else None
    except OSError:
        pass
    return None


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
