"""What a reader of exported arrays offers, and the registry of readers by file suffix."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.files import require_file
from resmem_cli.registry import import_modules
from resmem_cli.rows import RowSource as RowSource
from resmem_cli.types import Closing

MAX_AXES = 32


@dataclass(frozen=True)
class ArrayInfo:
    """Shape and type of one array of a file, known without reading it.

    `dtype` is numpy's name, `bfloat16`, or the format's own name for a type numpy does not have.
    """

    shape: tuple[int, ...]
    dtype: str


class ArrayFile(Closing, ABC):
    """An open file of named arrays. A file of one unnamed array gives it the key ``""``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    @abstractmethod
    def arrays(self) -> Mapping[str, ArrayInfo]:
        """Every array of the file, by key, in the file's order; `open` may still refuse its type."""

    @abstractmethod
    def open(self, key: str) -> RowSource:
        """Open one array; raise `DataError` if it is damaged, empty or of a type that is never accepted."""

    def notice(self, key: str) -> str | None:  # noqa: B027 - most formats have nothing to say
        """Say what the user should know about reading this array, such as what it costs."""
        return None

    def close(self) -> None:  # noqa: B027 - most formats have nothing to close
        """Release the file."""


class ArrayRows:
    """Rows of an array that is in memory."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype.newbyteorder("=")

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Copy rows `start` to `stop` into native byte order."""
        return np.array(self._array[start:stop], dtype=self.dtype, order="C")


_Reader = TypeVar("_Reader", bound=Callable[[Path], ArrayFile])
_READERS: dict[str, Callable[[Path], ArrayFile]] = {}


def reads(*suffixes: str) -> Callable[[_Reader], _Reader]:
    """Register a class or function that opens files with these suffixes."""

    def register(reader: _Reader) -> _Reader:
        for suffix in suffixes:
            _READERS[suffix] = reader
        return reader

    return register


@cache
def readers() -> Mapping[str, Callable[[Path], ArrayFile]]:
    """Every registered reader by suffix; importing the package's modules registers them."""
    import_modules(__name__.rpartition(".")[0])
    return dict(sorted(_READERS.items()))


def open_arrays(path: Path) -> ArrayFile:
    """Open a file of exported arrays with the reader of its suffix.

    Raises
    ------
    MissingInputError
        If there is no such file, or it can't be opened for reading.
    DataError
        If no reader knows the suffix, or the content is damaged or hostile.
    MissingExtraError
        If the reader needs an optional package that is not installed.
    """
    require_file(path)
    reader = readers().get(path.suffix.lower())
    if reader is None:
        raise DataError(
            "unknown kind of file",
            file=path,
            expected=f"one of {', '.join(readers())}",
            found=path.suffix or "no suffix",
            remedy="export the arrays in one of these formats",
        )
    return reader(path)


@contextmanager
def damage_refused(kind: str, file: Path, key: str | None, *errors: type[Exception]) -> Iterator[None]:
    """Turn the exceptions with which a library meets a damaged file into one `DataError`."""
    try:
        yield
    except errors as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise MemoryError(f"{file}: no room to map it") from error
        raise DataError(
            "damaged, or of another kind than its suffix says",
            file=file,
            field=key or None,
            expected=kind,
            found=str(error) or type(error).__name__,
            remedy="export the arrays again",
        ) from error


def check_rows(shape: tuple[int, ...], dtype: np.dtype[Any], *, file: Path, key: str) -> None:
    """Refuse an array that has no rows to read, or whose type is never accepted.

    Raises
    ------
    DataError
        For Python objects, structured, complex and extended types, single values and empty arrays.
    """
    field = key or None
    if dtype.hasobject:
        raise DataError(
            "an array of pickled Python objects, which could run code when read",
            file=file,
            field=field,
            expected="numbers or fixed-length text",
            found="dtype object",
            remedy="export it with a numeric type, such as .astype(np.float32)",
        )
    if dtype.kind not in "biufSU" or dtype.itemsize == 0 or (dtype.kind == "f" and dtype.itemsize > 8):
        raise DataError(
            "an array of a type that is not accepted",
            file=file,
            field=field,
            expected="integers, floats of at most 64 bits, or fixed-length text",
            found=f"dtype {dtype}",
            remedy="export it with another type, such as .astype(np.float32)",
        )
    if not shape or len(shape) > MAX_AXES or 0 in shape:
        raise DataError(
            "an array without rows" if not shape else "an empty array" if 0 in shape else "too many axes",
            file=file,
            field=field,
            expected=f"1 to {MAX_AXES} axes, none of length 0",
            found=f"shape {shape}",
            remedy="export one row for each example",
        )
