"""The structure of an HDF5 file, read in a process of its own; its rows are read here, by their places.

The HDF5 library is made for files one trusts: of metadata that were changed on purpose some crash it. So
where a file may be a stranger's, the library sees it in another process only (`library`), and what that
says is held against the file's length before any byte is looked at.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.answers import Hdf5Answers
from resmem_cli.artifacts.hdf5 import SHIPPED_FILTERS
from resmem_cli.artifacts.library import LibraryFile
from resmem_cli.errors import DataError
from resmem_cli.files import require_file
from resmem_cli.types import Closing

DAMAGED = "create it again or restore a copy"
"""What to do about a file that is not what was written."""

_MOST_AXES = 32
_MOST_ITEM_BYTES = 1 << 20
_PLACE = np.dtype(np.int64)
_MOST_PLACES = 1 << 31  # bytes

# Where the superblock of an HDF5 file of version 2 or 3 says how long the file is.
_SUPERBLOCK_BYTES, _END_OF_FILE = 48, 28


class Hdf5File(Closing):
    """An open HDF5 file, which is read to the end as it was when it was opened, even if it is replaced.

    Parameters
    ----------
    path : pathlib.Path
    trusted : bool
        Whether this process has just written it, so that the library may see it here.

    Attributes
    ----------
    path : pathlib.Path
    n_bytes : int
        Its length.
    descriptor : int
        The open file.

    Raises
    ------
    MissingInputError
        If the file is not there or may not be read.
    """

    def __init__(self, path: Path, *, trusted: bool = False) -> None:
        require_file(path)
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self.descriptor)
        self.n_bytes = os.fstat(self.descriptor).st_size
        self._answers = Hdf5Answers(Path(f"/dev/fd/{self.descriptor}")) if trusted else None
        self._library = LibraryFile(path, self.descriptor)

    def _ask(self, question: Mapping[str, Any], **how: Any) -> tuple[Any, bytes]:
        return self._answers(question) if self._answers else self._library.ask(question, **how)

    def attributes(self) -> dict[str, bytes | int]:
        """Read the root attributes; see `hdf5.plain_attributes`."""
        value, _ = self._ask({"ask": "attributes"})
        return {
            str(name): int(one) if isinstance(one, int) else bytes.fromhex(one) for name, one in value.items()
        }

    def has_any_attribute(self, *names: str) -> bool:
        """Whether it is HDF5 and has one of these root attributes; nothing else in it is looked at."""
        value, _ = self._ask({"ask": "has attribute", "names": names})
        return bool(value)

    def datasets(self, *, filters: frozenset[int] = SHIPPED_FILTERS) -> dict[str, StoredDataset]:
        """Find every dataset of numbers or fixed-length strings; see `hdf5.readable_datasets`."""
        told, places = self._ask({"ask": "datasets", "filters": sorted(filters)}, at_most=_MOST_PLACES)
        found, first = {}, 0
        try:
            for one in told:
                last = first + int(one["n_chunks"]) * _PLACE.itemsize
                dataset = StoredDataset(self, one, places[first:last])
                found[dataset.name] = dataset
                first = last
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise DataError(f"damaged HDF5 file: {error}", file=self.path, remedy=DAMAGED) from error
        return found

    def read_through(self, dataset: StoredDataset, start: int, stop: int) -> NDArray[Any]:
        """Have the library read rows `start` to `stop`, whatever filters have made of them."""
        values = np.empty((stop - start, *dataset.shape[1:]), dataset.dtype)
        if values.size:
            question = {"ask": "rows", "name": dataset.name, "start": start, "stop": stop}
            self._ask(question, into=values.reshape(-1).view(np.uint8).data)
        return values

    def read_into(self, view: memoryview, place: int, name: str) -> None:
        """Fill `view` with the bytes at `place`.

        Raises
        ------
        DataError
            If the file has become shorter.
        """
        done = 0
        while done < view.nbytes:
            n = os.preadv(self.descriptor, [view[done:]], place + done)
            if not n:
                raise DataError("the file has become shorter", file=self.path, field=name, remedy=DAMAGED)
            done += n

    def check_length(self) -> None:
        """Check that the file is as long as an artifact's first bytes say: the library looks no further.

        Raises
        ------
        DataError
            If something was appended or cut off.
        """
        head = bytearray(_SUPERBLOCK_BYTES)
        self.read_into(memoryview(head), 0, "")
        said = int.from_bytes(head[_END_OF_FILE : _END_OF_FILE + 8], "little")
        # Versions 2 and 3 with numbers of 8 bytes are what artifacts have.
        if head[8] not in (2, 3) or head[9] != 8 or said != self.n_bytes:
            raise DataError(
                "not as long as it was written",
                file=self.path,
                expected=f"{said:,} bytes",
                found=f"{self.n_bytes:,}",
                remedy=DAMAGED,
            )

    def close_library(self) -> None:
        """Have the library forget the file; what is placed can still be read."""
        self._library.close()
        if self._answers:
            self._answers.close()

    def close(self) -> None:
        """Close the file."""
        self.close_library()
        self._close()
        self.descriptor = -1


class StoredDataset:
    """One dataset of a file, with the places of its rows.

    Attributes
    ----------
    file : Hdf5File
    name : str
        Its path, `group/name`.
    shape : tuple of int
        None of them negative.
    dtype : numpy.dtype
        As stored, of either byte order.
    offset : int or None
        Where all rows lie in one run without filters; None if they don't.
    chunk_rows : int or None
        Rows of a chunk, if each chunk is a run of whole rows that no filter but a checksum has changed.
    """

    def __init__(self, file: Hdf5File, told: Mapping[str, Any], places: bytes) -> None:
        self.file = file
        self.name = str(told["name"])
        self.shape = tuple(int(length) for length in told["shape"])
        self.dtype = np.dtype(str(told["dtype"]))
        if len(self.shape) > _MOST_AXES or min(self.shape, default=0) < 0:
            raise self._damaged(f"shape {self.shape}")
        if self.dtype.kind not in "iufS" or not 0 < self.dtype.itemsize <= _MOST_ITEM_BYTES:
            raise self._damaged(f"type {self.dtype}")
        self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        self.offset = None if told["offset"] is None else int(told["offset"])
        self.chunk_rows = None if told["chunk_rows"] is None else int(told["chunk_rows"])
        if self.offset is not None:
            self._check_run(self.offset, self.nbytes)
        self._places: NDArray[np.int64] | None = None
        if self.chunk_rows is not None:
            self._places = self._checked_places(np.frombuffer(places, _PLACE))

    def _checked_places(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Check that all rows of all chunks lie in the file."""
        n, most = self.shape[0], self.chunk_rows or 0
        if most < 1 or len(places) != math.ceil(n / most):
            raise self._damaged(f"{len(places):,} chunks for {n:,} rows")
        needed = np.full(len(places), most * self._row_bytes, np.int64)
        needed[-1] = (n - (len(places) - 1) * most) * self._row_bytes
        # Compared so that nothing overflows.
        if (places < 0).any() or (places > self.file.n_bytes - needed).any():
            raise self._damaged("chunks beyond the end of the file")
        return places

    def _check_run(self, offset: int, n_bytes: int) -> None:
        if not 0 <= offset <= self.file.n_bytes - n_bytes:
            raise self._damaged("rows beyond the end of the file")

    def _damaged(self, found: str) -> DataError:
        return DataError("damaged dataset", file=self.file.path, field=self.name, found=found, remedy=DAMAGED)

    @property
    def placed(self) -> bool:
        """Whether the places of its rows are known."""
        return self.offset is not None or self._places is not None

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows `start` to `stop` of a dataset that is `placed`, in the type that is stored.

        Raises
        ------
        DataError
            If the file has become shorter.
        """
        values = np.empty((stop - start, *self.shape[1:]), self.dtype)
        view = values.reshape(-1).view(np.uint8).data
        for row, place, n_rows in self._runs(start, stop):
            first = (row - start) * self._row_bytes
            self.file.read_into(view[first : first + n_rows * self._row_bytes], place, self.name)
        return values

    def _runs(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """List the runs of rows that lie together: the first row, its place, and how many."""
        if self._places is None:
            return (
                [(start, (self.offset or 0) + start * self._row_bytes, stop - start)] if stop > start else []
            )
        size = self.chunk_rows or 1
        runs = []
        for chunk in range(start // size, math.ceil(stop / size)):
            first, last = max(start, chunk * size), min(stop, (chunk + 1) * size)
            place = int(self._places[chunk]) + (first - chunk * size) * self._row_bytes
            runs.append((first, place, last - first))
        return runs
