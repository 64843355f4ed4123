"""Rows of one dataset, in order or at random: each digest block is checked before it is handed out."""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.provenance import DatasetDigest, digest_block
from resmem_cli.artifacts.structure import DAMAGED, StoredDataset
from resmem_cli.errors import DataError
from resmem_cli.threads import for_each_block
from resmem_cli.types import row_blocks


class BlockRows:
    """A dataset read by ranges of rows; each digest block is checked when it is read.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    dataset : StoredDataset
        Where it is in it.
    digest : DatasetDigest
        Of its blocks.
    below : int, optional
        What its values, integers from 0 on, are below.
    finite : bool
        Whether its values, if they are floats, are to be finite.
    """

    def __init__(
        self,
        path: Path,
        dataset: StoredDataset,
        digest: DatasetDigest,
        *,
        below: int | None = None,
        finite: bool = False,
    ) -> None:
        self._path = path
        self._below = below
        self._finite = finite and dataset.dtype.kind == "f"
        self._name = dataset.name
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
            If a block's bytes are not those that were written, or a value is out of its range.
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
        return self._dataset.read(start, stop)

    def _check(self, block: int, values: NDArray[Any]) -> None:
        if digest_block(values) != self._digest.blocks[block].tobytes():
            first = block * self._digest.block_rows
            raise DataError(
                f"a digest does not hold for the rows from {first:,}",
                file=self._path,
                field=self._name,
                remedy=DAMAGED,
            )
        if self._finite and not np.isfinite(values).all():
            raise DataError(
                "values that can't be",
                file=self._path,
                field=self._name,
                expected="finite numbers",
                found="NaN or infinity",
                remedy=DAMAGED,
            )
        if self._below is not None and (values.min() < 0 or values.max() >= self._below):
            raise DataError(
                "values that can't be",
                file=self._path,
                field=self._name,
                expected=f"0 to {self._below - 1:,}",
                found=f"{values.min():,} to {values.max():,}",
                remedy=DAMAGED,
            )


class MappedRows(BlockRows):
    """A contiguous dataset in a memory map; a block is checked when one of its rows is first read."""

    def __init__(self, path: Path, dataset: StoredDataset, digest: DatasetDigest) -> None:
        super().__init__(path, dataset, digest)
        if dataset.offset is None:
            raise DataError("not contiguous", file=path, field=self._name, remedy=DAMAGED)
        pages = mmap.mmap(dataset.file.descriptor, dataset.file.n_bytes, access=mmap.ACCESS_READ)
        self._map: NDArray[Any] = np.ndarray(
            dataset.shape, dataset.dtype, buffer=pages, offset=dataset.offset
        )
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
