"""Reader of .npz archives: members are streamed through zipfile, never extracted whole."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.base import ArrayFile, ArrayInfo, ArrayRows, RowSource, damage_refused, reads
from resmem_cli.arrays.npy import NpyHeader, read_npy_header
from resmem_cli.errors import DataError

# zipfile reports damage with all of these: RuntimeError for encryption and unknown methods,
# ValueError and struct.error for fields that make no sense.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, struct.error)
_PIECE_BYTES = 1 << 20
# Deflate's densest code is 258 bytes from two bits.
_DEFLATE_MAX_RATIO = 1032


@reads(".npz")
class NpzArrays(ArrayFile):
    """The .npy members of an archive, stored or deflated; other members are passed over."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._size = path.stat().st_size
        with damage_refused(".npz", path, None, *_ZIP_ERRORS):
            self._archive = zipfile.ZipFile(path)
        self._opened: list[_MemberRows] = []
        self._members: dict[str, tuple[zipfile.ZipInfo, NpyHeader]] = {}
        try:
            for member in self._archive.infolist():
                if member.filename.endswith(".npy"):
                    self._add(member)
        except BaseException:
            self.close()
            raise

    def _add(self, member: zipfile.ZipInfo) -> None:
        key = member.filename.removesuffix(".npy")
        self._check_member(member, key)
        with (
            damage_refused(".npz", self.path, key, *_ZIP_ERRORS),
            self._archive.open(member) as stream,
        ):
            header = read_npy_header(stream, file=self.path, key=key)
        self._members[key] = (member, header)

    def _check_member(self, member: zipfile.ZipInfo, key: str) -> None:
        """Refuse a member whose directory entry can't be true, before any of it is read."""
        stored = member.compress_type == zipfile.ZIP_STORED
        largest = member.compress_size * (1 if stored else _DEFLATE_MAX_RATIO)
        problem = None
        if key in self._members:
            problem = "two members of the same name"
        elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            problem = "a member that is neither stored nor deflated, or encrypted"
        elif not 0 <= member.header_offset <= self._size - member.compress_size or member.file_size > largest:
            problem = "a member of impossible size"
        if problem:
            raise DataError(
                problem,
                file=self.path,
                field=key,
                expected="what numpy.savez or numpy.savez_compressed writes",
                found=f"method {member.compress_type}, {member.compress_size} bytes for {member.file_size}",
                remedy="export the arrays again",
            )

    @property
    def arrays(self) -> Mapping[str, ArrayInfo]:
        """The members, without the .npy of their names."""
        return {key: ArrayInfo(header.shape, header.dtype.name) for key, (_, header) in self._members.items()}

    def open(self, key: str) -> RowSource:
        """Open a member for rising block reads; one in Fortran order is read whole here."""
        member, header = self._members[key]
        header.check(member.file_size - header.offset, file=self.path, key=key)
        rows = _MemberRows(self._archive, member, header, file=self.path, key=key)
        self._opened.append(rows)
        if header.interleaved:
            return ArrayRows(rows.read(0, rows.shape[0]).reshape(-1).reshape(header.shape, order="F"))
        return rows

    def notice(self, key: str) -> str | None:
        """Say that a member in Fortran order is held in memory."""
        _, header = self._members[key]
        if not header.interleaved:
            return None
        size = header.n_bytes / 2**20
        return f"{self.path.name}:{key} is in Fortran order, so it was read whole, {size:.1f} MiB"

    def close(self) -> None:
        """Close the archive and the streams into it."""
        for rows in self._opened:
            rows.close()
        self._archive.close()


class _MemberRows:
    """Rows of one member, from a stream that only goes forward; going back opens it again."""

    def __init__(
        self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, header: NpyHeader, *, file: Path, key: str
    ) -> None:
        self._archive = archive
        self._member = member
        self._stored = header.dtype
        self._offset = header.offset
        self._file = file
        self._key = key
        self._stream: IO[bytes] | None = None
        self._row = 0
        self.shape = header.shape
        self.dtype: np.dtype[Any] = header.dtype.newbyteorder("=")
        self._row_bytes = math.prod(self.shape[1:]) * self._stored.itemsize

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows `start` to `stop`, passing over the rows between the last read and `start`."""
        block = np.empty((stop - start, *self.shape[1:]), dtype=self._stored)
        with damage_refused(".npz", self._file, self._key, *_ZIP_ERRORS):
            stream = self._stream_at(start)
            _fill(stream, block.reshape(-1).view(np.uint8).data)
            self._row = stop
            if stop == self.shape[0] and stream.read(1):  # zipfile checks the CRC at the end only
                raise ValueError("bytes behind the last row")
        return block.astype(self.dtype, copy=False)

    def close(self) -> None:
        """Close the stream; a later read opens it again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _stream_at(self, row: int) -> IO[bytes]:
        if self._stream is None or row < self._row:
            self.close()
            self._stream = self._archive.open(self._member)
            self._row = 0
            _skip(self._stream, self._offset)
        _skip(self._stream, (row - self._row) * self._row_bytes)
        self._row = row
        return self._stream


def _fill(stream: IO[bytes], target: memoryview) -> None:
    """Fill `target` from the stream, in pieces, so that no second copy of the block exists."""
    filled = 0
    while filled < len(target):
        piece = stream.read(min(_PIECE_BYTES, len(target) - filled))
        if not piece:
            raise EOFError(f"{len(target) - filled} bytes missing")
        target[filled : filled + len(piece)] = piece
        filled += len(piece)


def _skip(stream: IO[bytes], n_bytes: int) -> None:
    while n_bytes > 0:
        piece = stream.read(min(_PIECE_BYTES, n_bytes))
        if not piece:
            raise EOFError(f"{n_bytes} bytes missing")
        n_bytes -= len(piece)
