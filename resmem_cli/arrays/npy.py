"""Reader of .npy files, and the header they share with the members of .npz files."""

from __future__ import annotations

import math
import os
import tokenize
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.base import (
    ArrayFile,
    ArrayInfo,
    RowSource,
    check_rows,
    damage_refused,
    reads,
)
from resmem_cli.arrays.mapped import MappedFile, MappedRows
from resmem_cli.errors import DataError

# Beyond its documented ValueError, numpy's header parser lets through what ast, tokenize and
# np.dtype raise on text that was made to break them.
_HEADER_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    SyntaxError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
    tokenize.TokenError,
    EOFError,
)


@dataclass(frozen=True)
class NpyHeader:
    """Shape, order and type that a .npy header declares, and the bytes before the array."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def n_bytes(self) -> int:
        """Bytes the declared array takes after the header."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def interleaved(self) -> bool:
        """Whether a row's elements lie apart: Fortran order, for an array where the order matters."""
        return self.fortran_order and sum(length > 1 for length in self.shape) > 1

    def check(self, available: int, *, file: Path, key: str) -> None:
        """Refuse an array that is never accepted, or whose declared size is not the `available` bytes."""
        check_rows(self.shape, self.dtype, file=file, key=key)
        if self.n_bytes != available:
            raise DataError(
                "truncated" if available < self.n_bytes else "longer than its header says",
                file=file,
                field=key or None,
                expected=f"{self.n_bytes} bytes for shape {self.shape} of {self.dtype}",
                found=f"{available} bytes",
                remedy="export the array again",
            )


def read_npy_header(stream: IO[bytes], *, file: Path, key: str) -> NpyHeader:
    """Parse the header at the start of a .npy stream and leave the stream behind it.

    Raises
    ------
    DataError
        If it is not a header of format version 1.0 or 2.0 with a possible shape.
    """
    # Version 3.0 is written for structured types only, which `check_rows` would refuse.
    parsers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with damage_refused(".npy", file, key, *_HEADER_ERRORS, OSError), warnings.catch_warnings():
        # Headers written by Python 2 are parsed with a warning; their arrays are as good as any.
        warnings.simplefilter("ignore")
        version = np.lib.format.read_magic(stream)
        if version not in parsers:
            raise ValueError(f"format version {version[0]}.{version[1]}, of which 1.0 and 2.0 are read")
        shape, fortran_order, dtype = parsers[version](stream)
        if any(length < 0 for length in shape):
            raise ValueError(f"shape {shape}")
    return NpyHeader(tuple(int(length) for length in shape), fortran_order, dtype, stream.tell())


@reads(".npy")
class NpyArray(ArrayFile):
    """One array, mapped into memory unless its rows lie apart: nothing is read before its rows are."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._opened: list[IO[bytes]] = []
        with path.open("rb") as stream:
            self._header = read_npy_header(stream, file=path, key="")
            self._available = os.fstat(stream.fileno()).st_size - self._header.offset

    @property
    def arrays(self) -> Mapping[str, ArrayInfo]:
        """The one array, under the key ``""``."""
        return {"": ArrayInfo(self._header.shape, self._header.dtype.name)}

    def open(self, key: str) -> RowSource:
        """Open the array; its declared size must be the file's."""
        header = self._header
        header.check(self._available, file=self.path, key=key)
        with damage_refused(".npy", self.path, key, OSError, ValueError):
            if header.interleaved:
                self._opened.append(self.path.open("rb"))
                return _FortranRows(self._opened[-1], header, file=self.path)
            with self.path.open("rb") as stream:
                mapped = MappedFile(stream)
        return MappedRows(mapped.array(header.offset, header.shape, header.dtype), mapped)

    def close(self) -> None:
        """Close the file."""
        for stream in self._opened:
            stream.close()


class _FortranRows:
    """Rows whose elements lie apart, in as many columns as a row has elements.

    They are read, not mapped: a block of them lies on pages all over the file, and the system maps up to
    2 MiB around each.
    """

    def __init__(self, stream: IO[bytes], header: NpyHeader, *, file: Path) -> None:
        self._stream = stream
        self._header = header
        self._file = file
        self.shape = header.shape
        self.dtype: np.dtype[Any] = header.dtype.newbyteorder("=")

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows `start` to `stop`, column by column."""
        n, *others = self.shape
        item = self._header.dtype.itemsize
        columns = np.empty((math.prod(others), stop - start), dtype=self._header.dtype)
        with damage_refused(".npy", self._file, None, OSError):
            for number, column in enumerate(columns.view(np.uint8)):
                offset = self._header.offset + (number * n + start) * item
                if os.preadv(self._stream.fileno(), [column.data], offset) != len(column):
                    raise OSError("the file ends before its array does")
        block = columns.reshape(*reversed(others), stop - start).T
        return np.array(block, dtype=self.dtype, order="C")
