"""Rows of one dataset, in order or at random: each digest block is checked before it is handed out."""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.provenance import DatasetDigest, digest_block
from resmem_cli.errors import DataError
from resmem_cli.threads import for_each_block
from resmem_cli.types import row_blocks

DAMAGED = "create it again or restore a copy"
"""What to do about a file that is not what was written."""


class BlockRows:
    """A dataset read by ranges of rows; each digest block is checked when it is read."""

    def __init__(self, path: Path, dataset: h5py.Dataset, digest: DatasetDigest) -> None:
        self._path = path
        self._name = dataset.name.lstrip("/")
        self._dataset = dataset
        self._digest = digest
        self._span = (0, 0)
        self._values: NDArray[Any] = np.empty((0, *dataset.shape[1:]), dataset.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole dataset."""
        return self._digest.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return np.dtype(self._digest.dtype)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows `start` to `stop`.

        Raises
        ------
        DataError
            If a block's bytes are not those that were written.
        """
        stop = min(stop, self.shape[0])
        if stop <= start:
            return self._values[:0]
        if not (self._span[0] <= start and stop <= self._span[1]):
            # Whole blocks, kept for the next call: ranges that cut blocks still read each block once.
            size = self._digest.block_rows
            first = start // size * size
            last = min(math.ceil(stop / size) * size, self.shape[0])
            self._values = self._load(first, last)
            for block in range(first // size, math.ceil(last / size)):
                low = block * size - first
                self._check(block, self._values[low : low + size])
            self._span = (first, last)
        return self._values[start - self._span[0] : stop - self._span[0]]

    def at(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read the whole dataset, to be indexed with some rows: rows here can't be read one by one."""
        return self.read(0, self.shape[0])

    def _load(self, start: int, stop: int) -> NDArray[Any]:
        try:
            values: NDArray[Any] = self._dataset[start:stop]
        except (OSError, RuntimeError) as error:
            raise DataError(
                "a checksum does not hold", file=self._path, field=self._name, remedy=DAMAGED
            ) from error
        return values

    def _check(self, block: int, values: NDArray[Any]) -> None:
        if digest_block(values) != self._digest.blocks[block].tobytes():
            first = block * self._digest.block_rows
            raise DataError(
                f"a digest does not hold for the rows from {first:,}",
                file=self._path,
                field=self._name,
                remedy=DAMAGED,
            )


class MappedRows(BlockRows):
    """A contiguous dataset in a memory map; a block is checked when one of its rows is first read."""

    def __init__(self, path: Path, dataset: h5py.Dataset, digest: DatasetDigest) -> None:
        super().__init__(path, dataset, digest)
        offset = dataset.id.get_offset()
        if offset is None:
            raise DataError("not contiguous", file=path, field=self._name, remedy=DAMAGED)
        if offset + dataset.nbytes > dataset.file.id.get_filesize():
            raise DataError(
                "its rows lie beyond the end of the file", file=path, field=self._name, remedy=DAMAGED
            )
        # The descriptor that HDF5 itself opened: by name, the file could have been replaced meanwhile.
        pages = mmap.mmap(dataset.file.id.get_vfd_handle(), 0, access=mmap.ACCESS_READ)
        self._map: NDArray[Any] = np.ndarray(dataset.shape, dataset.dtype, buffer=pages, offset=offset)
        self._checked = np.zeros(digest.n_blocks, dtype=bool)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Give rows `start` to `stop` as a view of the map."""
        size = self._digest.block_rows
        self._check_blocks(np.arange(start // size, math.ceil(min(stop, self.shape[0]) / size)))
        return self._map[start:stop]

    def at(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Check the blocks of some rows and give the whole map, to be indexed with those rows."""
        if not self._checked.all():
            wanted = np.zeros(self._digest.n_blocks, dtype=bool)
            wanted[rows // self._digest.block_rows] = True
            self._check_blocks(np.flatnonzero(wanted))
        return self._map

    def _check_blocks(self, blocks: NDArray[np.int64]) -> None:
        size = self._digest.block_rows
        unchecked = blocks[~self._checked[blocks]]

        def check(part: slice) -> None:
            for block in unchecked[part]:
                self._check(block, self._map[block * size : (block + 1) * size])

        for_each_block(check, row_blocks(len(unchecked), 8))
        self._checked[unchecked] = True
