"""Writing an artifact: all of it, checked, or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
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
from resmem_cli.artifacts.temporary import TemporaryFile
from resmem_cli.errors import OutputError
from resmem_cli.version import __version__

_PAGE = 4096


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
    clobber : bool
        Whether a file at `path` may be replaced.

    Raises
    ------
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
        clobber: bool = True,
    ) -> None:
        self.path = path
        self.format = fmt
        self._inputs = inputs
        self._parameters = dict(parameters or {})
        self._datasets: dict[str, _DatasetWriter] = {}
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
        spec = self.format.spec(path)
        with self._reported():
            self._datasets[path] = _DatasetWriter(self._file, spec, shape, np.dtype(dtype))

    def append(self, path: str, rows: NDArray[Any]) -> None:
        """Write the next rows of a dataset; their type and row shape must be the declared ones."""
        with self._reported():
            self._datasets[path].append(rows)

    def write(self, path: str, rows: NDArray[Any]) -> None:
        """Declare a dataset and write all of it."""
        self.create(path, rows.shape, rows.dtype)
        self.append(path, rows)

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
                with contextlib.suppress(OSError, RuntimeError):
                    self._file.close()
        except BaseException:
            self._temporary.discard()
            raise
        if error is None:
            self._temporary.commit()
        else:
            self._temporary.discard()

    def _finish(self) -> None:
        digests = {path: dataset.finish() for path, dataset in self._datasets.items()}
        attributes: dict[str, bytes | int] = {
            "format": self.format.name.encode(),
            "format_version": self.format.version,
            "generated_by": f"resmem-cli {__version__}".encode(),
            "parameters": canonical_json(self._parameters).encode(),
            "inputs": canonical_json([dataclasses.asdict(record) for record in self._inputs]).encode(),
            "content_digest": content_digest(digests).encode(),
        }
        attributes["header_digest"] = header_digest(attributes).encode()
        with self._reported():
            for path, digest in sorted(digests.items()):
                self._file.create_dataset(f"{DIGEST_GROUP}/{path}", data=digest.blocks)
            for name, value in attributes.items():
                self._file.attrs[name] = np.bytes_(value) if isinstance(value, bytes) else value
            self._file.close()
        with open_artifact(self._temporary.path, self.format):
            pass  # opening checks the structure, the schema and the header

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise OutputError(
                f"can't be written: {str(error) or type(error).__name__}",
                file=self.path,
                remedy="check the disk's free space and the file size limit",
            ) from error


class _DatasetWriter:
    """Collects rows into whole digest blocks, and writes and digests each block once."""

    def __init__(
        self, file: h5py.File, spec: DatasetSpec, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self._spec = spec
        self._block_rows = block_rows(spec, dtype, shape)
        sequential = spec.layout == Layout.SEQUENTIAL
        creation = h5p.create(h5p.DATASET_CREATE)
        if not sequential:
            # Space is given out here, not at the first write, so that the file's bytes do not depend on how
            # the appends to several datasets take turns. Chunks with a checksum would be written twice.
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
        self._n_written = 0
        self._digests: list[bytes] = []

    def append(self, rows: NDArray[Any]) -> None:
        if rows.dtype != self._dataset.dtype or rows.shape[1:] != self._dataset.shape[1:]:
            raise ValueError(
                f"{self._spec.path}: rows of {rows.dtype} {rows.shape} do not fit "
                f"{self._dataset.dtype} {self._dataset.shape}"
            )
        start = 0
        while start < len(rows):
            take = min(self._block_rows - self._n_pending, len(rows) - start)
            if take == self._block_rows:
                self._write(rows[start : start + take])
            else:
                self._pending[self._n_pending : self._n_pending + take] = rows[start : start + take]
                self._n_pending += take
                if self._n_pending == self._block_rows:
                    self._flush()
            start += take

    def finish(self) -> DatasetDigest:
        self._flush()
        if self._n_written != self._dataset.shape[0]:
            raise ValueError(f"{self._spec.path}: {self._n_written} rows written of {self._dataset.shape[0]}")
        return DatasetDigest(
            dtype=self._dataset.dtype.str,
            shape=self._dataset.shape,
            block_rows=self._block_rows,
            blocks=np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, DIGEST_BYTES),
        )

    def _flush(self) -> None:
        if self._n_pending:
            self._write(self._pending[: self._n_pending])
            self._n_pending = 0

    def _write(self, block: NDArray[Any]) -> None:
        self._dataset[self._n_written : self._n_written + len(block)] = block
        self._digests.append(digest_block(block))
        self._n_written += len(block)
