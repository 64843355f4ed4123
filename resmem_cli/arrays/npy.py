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

from resmem_cli.arrays.base import (
    ArrayFile,
    ArrayInfo,
    ArrayRows,
    RowSource,
    check_rows,
    damage_refused,
    reads,
)
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
    """One array mapped into memory: no pages are read before their rows are."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with path.open("rb") as stream:
            self._header = read_npy_header(stream, file=path, key="")
            self._available = os.fstat(stream.fileno()).st_size - self._header.offset

    @property
    def arrays(self) -> Mapping[str, ArrayInfo]:
        """The one array, under the key ``""``."""
        return {"": ArrayInfo(self._header.shape, self._header.dtype.name)}

    def open(self, key: str) -> RowSource:
        """Map the array; its declared size must be the file's."""
        header = self._header
        header.check(self._available, file=self.path, key=key)
        with damage_refused(".npy", self.path, key, OSError, ValueError):
            mapped = np.memmap(
                self.path,
                dtype=header.dtype,
                mode="r",
                offset=header.offset,
                shape=header.shape,
                order="F" if header.fortran_order else "C",
            )
        return ArrayRows(mapped)
