"""Writing an artifact: all of it, checked, or nothing."""

from __future__ import annotations

import base64
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
from numpy.typing import NDArray

from resmem_cli.artifacts.datasets import Block, DatasetWriter
from resmem_cli.artifacts.declaring import Format
from resmem_cli.artifacts.journal import Appended, Created, Record, Written
from resmem_cli.artifacts.provenance import InputRecord, canonical_json, content_digest, header_digest
from resmem_cli.artifacts.reader import DIGEST_GROUP, open_artifact
from resmem_cli.artifacts.resumable import ResumableFile, discard_interrupted
from resmem_cli.artifacts.temporary import TemporaryFile, output_error, refuse_input
from resmem_cli.errors import DataError, OutputError
from resmem_cli.files import check_room
from resmem_cli.version import __version__

_PAGE = 4096
_GENERATED_BY = f"resmem-cli {__version__}"
# h5py chooses the exception by where in HDF5 a write failed: a full disk can be any of these.
_WRITE_ERRORS = (OSError, RuntimeError, ValueError, KeyError)


class ArtifactWriter:
    """A new artifact, in a temporary beside `path` until everything in it was written and checked.

    Use it as a context manager: leaving it normally puts the file in place atomically, leaving it by
    an exception removes the temporary and keeps what was at `path`. Of several artifacts that belong
    together, `finish` all before leaving any.

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
    resumable : mapping, optional
        JSON values that identify the work. With it every block is found again after a kill, for a writer
        of the same format and values; the file has the same bytes with and without.
    resume : bool
        With `resumable`: whether `restore` may take over what an interrupted writer has left, and whether
        this one leaves its work when a signal, a full disk or a lack of memory ends it.

    Attributes
    ----------
    discarded : bool
        Whether interrupted work on the same file was found and removed, not taken over.

    Raises
    ------
    UsageError
        If the output is one of the inputs.
    BusyError
        If another resumable writer of the same file lives.
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
        resumable: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        refuse_input(path, reads)
        self.path = path
        self.format = fmt
        self._inputs = list(inputs)
        self._parameters = dict(parameters or {})
        self._datasets: dict[str, DatasetWriter] = {}
        self._waiting: list[Block] = []
        self._finished = False
        self._resumable: ResumableFile | None = None
        self._temporary: TemporaryFile | ResumableFile
        if resumable is None:
            self._temporary = TemporaryFile(path, clobber=clobber)
            self.discarded = discard_interrupted(path)
        else:
            work = {
                "format": fmt.name,
                "format_version": fmt.version,
                "generated_by": _GENERATED_BY,
                "work": resumable,
            }
            self._resumable = self._temporary = ResumableFile(path, work, clobber=clobber, resume=resume)
            self.discarded = self._resumable.discarded
        try:
            with self._reported():
                # v110 is the oldest bound whose chunk indexes and object headers all have checksums.
                self._file = h5py.File(
                    self._temporary.path,
                    "w",
                    libver=("v110", "v110"),
                    locking=False,
                    # A block is a chunk, written once: it goes to the file at once, and at a fixed place.
                    rdcc_nbytes=0,
                    alignment_threshold=1 << 16,
                    alignment_interval=_PAGE,
                )
        except BaseException as error:
            self._temporary.give_up(error)
            raise

    def create(self, path: str, shape: tuple[int, ...], dtype: Any) -> None:
        """Declare a dataset of the format, to be filled by `append`; do nothing if `restore` did.

        A resumable artifact's datasets that grow by several appends must have one length, and be
        declared before the first append.
        """
        self._create(path, shape, np.dtype(dtype), whole=False)

    def _create(self, path: str, shape: tuple[int, ...], dtype: np.dtype[Any], *, whole: bool) -> None:
        if 0 in shape:
            raise ValueError(f"{path}: nothing to write, the shape is {shape}")
        if path in self._datasets:
            self._datasets[path].check_declared(shape, dtype)
            return
        if self._resumable and not whole and any(shape[0] != other.shape[0] for other in self._growing):
            raise ValueError(f"{path}: {shape[0]} rows, unlike the other datasets that grow")
        spec = self.format.spec(path)
        with self._reported():
            self._datasets[path] = DatasetWriter(self._file, spec, shape, dtype, whole=whole)
        self._record(Created(path, shape, dtype.str, whole))

    @property
    def _growing(self) -> list[DatasetWriter]:
        return [dataset for dataset in self._datasets.values() if not dataset.whole]

    def append(self, path: str, rows: NDArray[Any]) -> None:
        """Write the next rows of a dataset; their type and row shape must be the declared ones."""
        dataset = self._datasets[path]
        dataset.check(rows)
        rows = dataset.unknown(rows)
        if dataset.narrow and len(rows):
            self._record(Appended(path, base64.b64encode(np.ascontiguousarray(rows).data).decode()))
        self._write_ready(self._waiting, dataset.take(rows))

    def write(self, path: str, rows: NDArray[Any]) -> None:
        """Declare a dataset and write all of it."""
        self._create(path, rows.shape, rows.dtype, whole=True)
        self.append(path, rows)

    def shape(self, path: str) -> tuple[int, ...]:
        """Give the declared shape of a dataset."""
        return self._datasets[path].shape

    def restore(self, *, grid: int = 1) -> int:
        """Take over what an interrupted writer of the same work had written, before anything else.

        Every block is read and checked, and written to the new file in the order of the old one: from
        here on both writers do the same.

        Parameters
        ----------
        grid : int
            The caller's batches, which start at its multiples.

        Returns
        -------
        int
            The row from which to append to all datasets that grow: a multiple of `grid`, or their length
            if all is there. What is written in one piece is to be written again.
        """
        if self._resumable is None:
            raise ValueError("not a resumable writer")
        for record, content in self._resumable.interrupted():
            self._replay(record, content)
        self._write_ready(self._waiting, [])
        self._resumable.forget_interrupted()
        n_rows = min((dataset.n_rows for dataset in self._growing), default=0)
        if not all(dataset.complete for dataset in self._growing):
            n_rows -= n_rows % grid
        for dataset in self._datasets.values():
            dataset.expect(0 if dataset.whole else n_rows)
        return n_rows

    def _replay(self, record: Record, content: bytes) -> None:
        if isinstance(record, Created):
            self._create(record.dataset, record.shape, np.dtype(record.dtype), whole=record.whole)
            return
        dataset = self._datasets[record.dataset]
        if isinstance(record, Appended):
            self._record(record)
            self._waiting += dataset.take(dataset.decode(base64.b64decode(record.rows)))
        elif dataset.narrow:
            block = next(block for block in self._waiting if block.path == record.dataset)
            self._waiting.remove(block)
            self._write_block(block)
        else:
            (block,) = dataset.take(dataset.decode(content))
            self._write_block(block)

    def _write_ready(self, old: list[Block], new: list[Block]) -> None:
        """Write the blocks whose turn it is: in the order of their last rows, whatever came first.

        A chunk gets its place in the file when it is written. In this order the places, and so the
        file's bytes, do not depend on how many rows each append brings to datasets that grow together.
        """
        growing = [dataset.n_rows for dataset in self._datasets.values() if not dataset.complete]
        reached = min(growing, default=sys.maxsize)
        ready = [block for block in (*old, *new) if block.last <= reached]
        for block in sorted(ready, key=lambda block: (block.last, block.path)):
            self._write_block(block)
        self._waiting = [block for block in old if block.last > reached]
        # The caller's arrays are the caller's again.
        self._waiting += [
            dataclasses.replace(block, rows=block.rows.copy()) for block in new if block.last > reached
        ]

    def _write_block(self, block: Block) -> None:
        dataset = self._datasets[block.path]
        with self._reported():
            dataset.write(block)
            offset = dataset.offset(block) if self._resumable else 0
        self._record(Written(block.path, offset, block.rows.nbytes, block.digest.hex()))

    def _record(self, record: Record) -> None:
        if self._resumable:
            with self._reported():
                self._resumable.journal.record(record)

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
                self.finish()
            else:
                with contextlib.suppress(*_WRITE_ERRORS):
                    self._file.close()
        except BaseException as failure:
            self._temporary.give_up(failure)
            raise
        if error is None:
            self._temporary.commit()
        else:
            self._temporary.give_up(error)

    def finish(self) -> None:
        """Write what is left, check the whole file and sync it: only its renaming remains.

        Leaving the context does this, if it was not done before; nothing can be written after it.

        Raises
        ------
        DataError, OutputError
            If the file is not a whole artifact of its format, or can't be written.
        """
        if self._finished:
            return
        digests = {path: dataset.digest() for path, dataset in self._datasets.items()}
        attributes: dict[str, bytes | int] = {
            "format": self.format.name.encode(),
            "format_version": self.format.version,
            "generated_by": _GENERATED_BY.encode(),
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
            check_room(self._temporary.path, self._file.id.get_filesize())
            self._file.close()
        try:
            # Checks structure, schema and header.
            open_artifact(self._temporary.path, self.format, trusted=True).close()
        except DataError as error:
            raise error.in_file(self.path) from error
        self._temporary.sync()
        self._finished = True

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
