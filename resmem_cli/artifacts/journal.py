"""The journal of a resumable artifact: what HDF5 has written to the file, and where.

HDF5 keeps a file's structure in memory while it writes, so that of a killed writer's file only the rows
can be found again, and only by someone who knows their places. Rows that still wait for their block to
be whole are lost, except those of narrow datasets, whose blocks take very many: they are in the journal too.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resmem_cli.artifacts.provenance import canonical_json


@dataclass(frozen=True)
class Created:
    """A dataset was created.

    Attributes
    ----------
    dataset : str
        Its path in the artifact.
    shape, dtype
        Of all its rows; the type as numpy writes it.
    whole : bool
        Whether it is written in one piece, and not growing with others.
    """

    dataset: str
    shape: tuple[int, ...]
    dtype: str
    whole: bool


@dataclass(frozen=True)
class Appended:
    """Rows have come, of a dataset with few bytes a row.

    Attributes
    ----------
    dataset : str
        Its path in the artifact.
    rows : str
        Their bytes, in base64.
    """

    dataset: str
    rows: str


@dataclass(frozen=True)
class Written:
    """The next block of a dataset is in the file.

    Attributes
    ----------
    dataset : str
        Its path in the artifact.
    offset, n_bytes : int
        Where the block lies in the file.
    sha256 : str
        Its digest, in hexadecimal.
    """

    dataset: str
    offset: int
    n_bytes: int
    sha256: str


Record = Created | Appended | Written

_RECORDS = {kind.__name__.lower(): kind for kind in (Created, Appended, Written)}


class Journal:
    """A new journal, of one line a record; a line is the system's to keep when `record` returns.

    Parameters
    ----------
    path : pathlib.Path
        The file to create.
    header : mapping
        JSON values: what the work is.
    """

    def __init__(self, path: Path, header: object) -> None:
        self._stream = path.open("xb")
        self._write(header)

    def record(self, record: Record) -> None:
        """Add a record; of what was written, after it was."""
        self._write({type(record).__name__.lower(): dataclasses.asdict(record)})

    def _write(self, value: object) -> None:
        self._stream.write(_line(value))
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_journal(path: Path, header: object) -> Iterator[Record] | None:
    """Read a journal up to the first line that is not whole; give None if it has another header.

    A journal that is not there or can't be read counts as one of other work.
    """
    try:
        with path.open("rb") as stream:
            if stream.readline() != _line(header):
                return None
    except OSError:
        return None
    return _records(path)


def _records(path: Path) -> Iterator[Record]:
    with path.open("rb") as stream:
        stream.readline()
        for line in stream:
            if not line.endswith(b"\n") or line[:8] != _checksum(line[9:-1]):
                return
            ((kind, fields),) = json.loads(line[9:]).items()
            if "shape" in fields:
                fields["shape"] = tuple(fields["shape"])
            yield _RECORDS[kind](**fields)


def _line(value: object) -> bytes:
    # A file's name may hold bytes that are not UTF-8; Python carries them as lone surrogates.
    text = canonical_json(value).encode(errors="backslashreplace")
    return b"%s %s\n" % (_checksum(text), text)


def _checksum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)
