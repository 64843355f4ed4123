"""Writing an artifact: all of it, checked, or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from h5py import h5d, h5p
from numpy.typing import NDArray

from resmem_cli.artifacts.formats import DatasetSpec, Format, Layout
from resmem_cli.artifacts.provenance import (
    DIGEST_BYTES,
    DatasetDigest,
    InputRecord,
    block_rows,
    canonical_json,
    content_digest,
    digest_block,
    header_digest,
)
from resmem_cli.artifacts.reader import DIGEST_GROUP, open_artifact
from resmem_cli.artifacts.temporary import TemporaryFile, output_error, refuse_input
from resmem_cli.errors import DataError, OutputError
from resmem_cli.version import __version__

_PAGE = 4096
# h5py chooses the exception by where in HDF5 a write failed: a full disk can be any of these.
_WRITE_ERRORS = (OSError, RuntimeError, ValueError, KeyError)


class ArtifactWriter:
    """A new artifact, in a temporary beside `path` until everything in it was written and checked.

    Use it as a context manager: leaving it normally puts the file in place atomically, leaving it by
    an exception removes the temporary and keeps what was at `path`.

    Parameters
    ----------
    path : pathlib.Path
        The file to create or replace.
    fmt : Format
        Its format.
    inputs : sequence of InputRecord
        What it is made from.
    parameters : mapping
        JSON values; `set_parameters` adds more while writing.
    reads : sequence of pathlib.Path
        The input files, of which `path` must be none.
    clobber : bool
        Whether a file at `path` may be replaced.

    Raises
    ------
    UsageError
        If the output is one of the inputs.
    OutputError
        If the file can't be created or written. The HDF5 library may then crash when the interpreter
        exits; the command line leaves by `os._exit`.
    """

    def __init__(
        self,
        path: Path,
        fmt: Format,
        *,
        inputs: Sequence[InputRecord] = (),
        parameters: Mapping[str, Any] | None = None,
        reads: Sequence[Path] = (),
        clobber: bool = True,
    ) -> None:
        refuse_input(path, reads)
        self.path = path
        self.format = fmt
        self._inputs = list(inputs)
        self._parameters = dict(parameters or {})
        self._datasets: dict[str, _DatasetWriter] = {}
        self._waiting: list[_Block] = []
        self._temporary = TemporaryFile(path, clobber=clobber)
        try:
            with self._reported():
                # v110 is the oldest bound whose chunk indexes and object headers all have checksums.
                self._file = h5py.File(
                    self._temporary.path,
                    "w",
                    libver=("v110", "v110"),
                    locking=False,
                    alignment_threshold=1 << 16,
                    alignment_interval=_PAGE,
                )
        except BaseException:
            self._temporary.discard()
            raise

    def create(self, path: str, shape: tuple[int, ...], dtype: Any) -> None:
        """Declare a dataset of the format, to be filled by `append`."""
        spec, kind = self.format.spec(path), np.dtype(dtype)
        if 0 in shape:
            raise ValueError(f"{path}: nothing to write, the shape is {shape}")
        with self._reported():
            self._datasets[path] = _DatasetWriter(self._file, spec, shape, kind)

    def append(self, path: str, rows: NDArray[Any]) -> None:
        """Write the next rows of a dataset; their type and row shape must be the declared ones."""
        self._datasets[path].check(rows)
        blocks = self._datasets[path].take(rows)
        waiting = [_Block(first + len(block), path, first, block) for first, block in blocks]
        self._write_ready(self._waiting, waiting)

    def write(self, path: str, rows: NDArray[Any]) -> None:
        """Declare a dataset and write all of it."""
        self.create(path, rows.shape, rows.dtype)
        self.append(path, rows)

    def _write_ready(self, old: list[_Block], new: list[_Block]) -> None:
        """Write the blocks whose turn it is: in the order of their last rows, whatever came first.

        A chunk gets its place in the file when it is written. In this order the places, and so the
        file's bytes, do not depend on how many rows each append brings to datasets that grow together.
        """
        growing = [dataset.n_rows for dataset in self._datasets.values() if not dataset.complete]
        reached = min(growing, default=sys.maxsize)
        ready = [block for block in (*old, *new) if block.last <= reached]
        with self._reported():
            for block in sorted(ready, key=lambda block: (block.last, block.path)):
                self._datasets[block.path].write(block.first, block.rows)
        self._waiting = [block for block in old if block.last > reached]
        # The caller's arrays are the caller's again.
        self._waiting += [
            dataclasses.replace(block, rows=block.rows.copy()) for block in new if block.last > reached
        ]

    def add_inputs(self, *records: InputRecord) -> None:
        """Add to the lineage what takes long to digest: the output is known to be writable by now."""
        self._inputs += records

    def set_parameters(self, **parameters: Any) -> None:
        """Add parameters, JSON values, which become known only while writing."""
        self._parameters.update(parameters)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
            else:
                with contextlib.suppress(*_WRITE_ERRORS):
                    self._file.close()
        except BaseException:
            self._temporary.discard()
            raise
        if error is None:
            self._temporary.commit()
        else:
            self._temporary.discard()

    def _finish(self) -> None:
        digests = {path: dataset.digest() for path, dataset in self._datasets.items()}
        attributes: dict[str, bytes | int] = {
            "format": self.format.name.encode(),
            "format_version": self.format.version,
            "generated_by": f"resmem-cli {__version__}".encode(),
            "parameters": _encoded_json(self._parameters),
            "inputs": _encoded_json([dataclasses.asdict(record) for record in self._inputs]),
            "content_digest": content_digest(digests).encode(),
        }
        attributes["header_digest"] = header_digest(attributes).encode()
        with self._reported():
            for path, digest in sorted(digests.items()):
                self._file.create_dataset(f"{DIGEST_GROUP}/{path}", data=digest.blocks)
            for name, value in attributes.items():
                self._file.attrs[name] = np.bytes_(value) if isinstance(value, bytes) else value
            self._file.close()
        try:
            open_artifact(self._temporary.path, self.format).close()  # checks structure, schema and header
        except DataError as error:
            raise error.in_file(self.path) from error

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except _WRITE_ERRORS as error:
            raise _write_error(self.path, error) from error


def _write_error(path: Path, error: Exception) -> OutputError:
    # HDF5 tells the system's reason in its text; only some of the exceptions carry it as `errno`.
    told = re.search(r"errno = (\d+)", str(error))
    if told:
        return output_error(path, OSError(int(told[1]), ""))
    if isinstance(error, OSError):
        return output_error(path, error)
    return OutputError(
        f"can't be written: {str(error) or type(error).__name__}",
        file=path,
        remedy="check the disk's free space and the file size limit",
    )


def _encoded_json(value: object) -> bytes:
    # A file's name may hold bytes that are not UTF-8; Python carries them as lone surrogates.
    return canonical_json(value).encode(errors="replace")


@dataclasses.dataclass(frozen=True)
class _Block:
    """Rows that wait to be written: those from `first` to before `last` of the dataset at `path`."""

    last: int
    path: str
    first: int
    rows: NDArray[Any]


class _DatasetWriter:
    """Collects rows into whole digest blocks, and digests each block once."""

    def __init__(
        self, file: h5py.File, spec: DatasetSpec, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self._spec = spec
        self._block_rows = block_rows(spec, dtype, shape)
        sequential = spec.layout == Layout.SEQUENTIAL
        creation = h5p.create(h5p.DATASET_CREATE)
        if not sequential:
            # Chunks get their place when they are written; this gives contiguous data one just as fixed.
            creation.set_alloc_time(h5d.ALLOC_TIME_EARLY)
        self._dataset = file.create_dataset(
            spec.path,
            shape=shape,
            dtype=dtype,
            chunks=(self._block_rows, *shape[1:]) if sequential else None,
            fletcher32=sequential,
            fill_time="never",
            track_times=False,
            dcpl=creation,
        )
        self._pending = np.empty((self._block_rows, *shape[1:]), dtype)
        self._n_pending = 0
        self.n_rows = 0
        self._digests: list[bytes] = []

    def check(self, rows: NDArray[Any]) -> None:
        if rows.dtype != self._dataset.dtype or rows.shape[1:] != self._dataset.shape[1:]:
            raise ValueError(
                f"{self._spec.path}: rows of {rows.dtype} {rows.shape} do not fit "
                f"{self._dataset.dtype} {self._dataset.shape}"
            )
        total = self.n_rows + len(rows)
        if total > self._dataset.shape[0]:
            raise ValueError(f"{self._spec.path}: {total} rows for {self._dataset.shape[0]}")

    def take(self, rows: NDArray[Any]) -> list[tuple[int, NDArray[Any]]]:
        """Take the next rows; give the blocks they complete, each with its first row."""
        complete = []
        start = 0
        while start < len(rows):
            n_taken = min(self._block_rows - self._n_pending, len(rows) - start)
            taken = rows[start : start + n_taken]
            if n_taken < self._block_rows:
                self._pending[self._n_pending : self._n_pending + n_taken] = taken
                taken = self._pending[: self._n_pending + n_taken]
            self._n_pending += n_taken
            self.n_rows += n_taken
            if self._n_pending == self._block_rows or self.complete:
                complete.append((self.n_rows - self._n_pending, taken))
                self._digests.append(digest_block(taken))
                self._n_pending = 0
                if taken.base is self._pending:
                    self._pending = np.empty_like(self._pending)
            start += n_taken
        return complete

    @property
    def complete(self) -> bool:
        """Whether all rows have come."""
        return self.n_rows == int(self._dataset.shape[0])

    def write(self, first: int, block: NDArray[Any]) -> None:
        self._dataset[first : first + len(block)] = block

    def digest(self) -> DatasetDigest:
        if not self.complete:
            raise ValueError(f"{self._spec.path}: {self.n_rows} rows written of {self._dataset.shape[0]}")
        return DatasetDigest(
            dtype=self._dataset.dtype.str,
            shape=self._dataset.shape,
            block_rows=self._block_rows,
            blocks=np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, DIGEST_BYTES),
        )
