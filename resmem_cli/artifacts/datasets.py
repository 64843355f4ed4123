"""One dataset of an artifact while it is written: rows in, whole digest blocks out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p
from numpy.typing import NDArray

from resmem_cli.artifacts.declaring import DatasetSpec, Layout
from resmem_cli.artifacts.provenance import DIGEST_BYTES, DatasetDigest, block_rows, digest_block

# A block of rows this narrow is of at least 16,384 rows.
_NARROW_BYTES = 64


@dataclass(frozen=True, eq=False)
class Block:
    """Rows to be written at once: those from `first` to before `last` of the dataset at `path`."""

    last: int
    path: str
    first: int
    rows: NDArray[Any]
    digest: bytes


class DatasetWriter:
    """Collects rows into whole digest blocks, and digests each block once.

    Attributes
    ----------
    whole : bool
        Whether it is written in one piece, and not growing with others.
    narrow : bool
        Whether it grows and has few bytes a row, so that its rows wait long for their block to be whole.
    n_rows : int
        How many rows have come.
    """

    def __init__(
        self, file: h5py.File, spec: DatasetSpec, shape: tuple[int, ...], dtype: np.dtype[Any], *, whole: bool
    ) -> None:
        self._path = spec.path
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
        self.whole = whole
        self.narrow = not whole and dtype.itemsize * math.prod(shape[1:]) <= _NARROW_BYTES
        self.shape = shape
        self.dtype = dtype
        self.n_rows = 0
        self._pending = np.empty((self._block_rows, *shape[1:]), dtype)
        self._n_pending = 0
        self._n_known = 0
        self._digests: list[bytes] = []

    def check_declared(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Raise `ValueError` unless this is how the dataset was declared before."""
        if (shape, dtype) != (self.shape, self.dtype):
            raise ValueError(f"{self._path}: {dtype} {shape}, but {self.dtype} {self.shape} before")

    def check(self, rows: NDArray[Any]) -> None:
        """Raise `ValueError` unless these can be the next rows."""
        if rows.dtype != self.dtype or rows.shape[1:] != self.shape[1:]:
            raise ValueError(
                f"{self._path}: rows of {rows.dtype} {rows.shape} do not fit {self.dtype} {self.shape}"
            )
        total = self.n_rows - self._n_known + len(rows)
        if total > self.shape[0]:
            raise ValueError(f"{self._path}: {total} rows for {self.shape[0]}")

    def unknown(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Leave out of the caller's next rows those that came before it was interrupted."""
        n_known = min(self._n_known, len(rows))
        self._n_known -= n_known
        return rows[n_known:]

    def take(self, rows: NDArray[Any]) -> list[Block]:
        """Take the next rows; give the blocks they complete."""
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
                first = self.n_rows - self._n_pending
                self._digests.append(digest_block(taken))
                complete.append(Block(self.n_rows, self._path, first, taken, self._digests[-1]))
                self._n_pending = 0
                if taken.base is self._pending:
                    self._pending = np.empty_like(self._pending)
            start += n_taken
        return complete

    def decode(self, content: bytes) -> NDArray[Any]:
        """Give rows for the bytes they were written as."""
        return np.frombuffer(content, self.dtype).reshape(-1, *self.shape[1:])

    def expect(self, row: int) -> None:
        """Let the caller's next rows be those from `row` on, though later ones came before."""
        self._n_known = self.n_rows - row

    @property
    def complete(self) -> bool:
        """Whether all rows have come."""
        return self.n_rows == self.shape[0]

    def write(self, block: Block) -> None:
        """Write a block to the file."""
        self._dataset[block.first : block.last] = block.rows

    def offset(self, block: Block) -> int:
        """Find where in the file a written block's rows start."""
        if self._dataset.chunks is None:
            return int(self._dataset.id.get_offset()) + block.first * (block.rows.nbytes // len(block.rows))
        corner = (block.first,) + (0,) * (len(self.shape) - 1)
        return int(self._dataset.id.get_chunk_info_by_coord(corner).byte_offset)

    def digest(self) -> DatasetDigest:
        """Give the digests of all blocks, or raise `ValueError` if rows are missing."""
        if not self.complete:
            raise ValueError(f"{self._path}: {self.n_rows} rows written of {self.shape[0]}")
        return DatasetDigest(
            dtype=self.dtype.str,
            shape=self.shape,
            block_rows=self._block_rows,
            blocks=np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, DIGEST_BYTES),
        )
