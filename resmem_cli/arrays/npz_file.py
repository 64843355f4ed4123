"""Writer of .npz archives, array by array and block by block."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

# The first day that a zip archive can tell: with the time of writing, equal arrays had other bytes.
_DAY = (1980, 1, 1, 0, 0, 0)


class NpzWriter:
    """Writes arrays to an open file, which it leaves open; a context that finishes the archive.

    Members are stored, not compressed, as `numpy.savez` does; nothing is pickled, and equal arrays in
    equal order give equal bytes.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._archive = zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED)

    def write(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[NDArray[Any]]
    ) -> None:
        """Write one array.

        Parameters
        ----------
        name : str
            Its key; it may have slashes.
        shape, dtype
            Of the whole array.
        blocks : iterable of arrays
            All its rows in order, or the array itself if it has no axes.
        """
        member = zipfile.ZipInfo(f"{name}.npy", _DAY)
        # Sizes beyond 4 GiB need room in the member's header, which is written first.
        member.file_size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        with self._archive.open(member, "w") as stream:
            npy.write_array_header_1_0(stream, header)
            for block in blocks:
                stream.write(block.tobytes())

    def write_text(self, name: str, text: str) -> None:
        """Write a string as an array without axes."""
        value = np.array(text)
        self.write(name, value.shape, value.dtype, [value])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()
