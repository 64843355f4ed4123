"""Reader of foreign HDF5 files: every dataset of numbers or fixed-length text, by its path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.base import ArrayFile, ArrayInfo, RowSource, check_rows, reads

if TYPE_CHECKING:
    from resmem_cli.artifacts.structure import StoredDataset


@reads(".h5", ".hdf5")
class Hdf5Datasets(ArrayFile):
    """The datasets of one file; nested groups give keys such as ``train/embeddings``."""

    def __init__(self, path: Path) -> None:
        # Only a file of this kind pays for importing h5py.
        from resmem_cli.artifacts.structure import Hdf5File

        super().__init__(path)
        self._file = Hdf5File(path)
        try:
            self._datasets = self._file.datasets()
        except BaseException:
            self.close()
            raise
        self._arrays = {
            key: ArrayInfo(dataset.shape, dataset.dtype.name) for key, dataset in self._datasets.items()
        }

    @property
    def arrays(self) -> Mapping[str, ArrayInfo]:
        """The datasets that can be read safely."""
        return self._arrays

    def open(self, key: str) -> RowSource:
        """Open one dataset."""
        dataset = self._datasets[key]
        check_rows(dataset.shape, dataset.dtype, file=self.path, key=key)
        return _DatasetRows(dataset)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _DatasetRows:
    """Rows of one dataset."""

    def __init__(self, dataset: StoredDataset) -> None:
        self._dataset = dataset
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype[Any] = dataset.dtype.newbyteorder("=")

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows `start` to `stop`."""
        dataset = self._dataset
        # What lies there as it is needs no library; a checksum is only checked by it.
        if dataset.offset is not None:
            block = dataset.read(start, stop)
        else:
            block = dataset.file.read_through(dataset, start, stop)
        return np.ascontiguousarray(block, dtype=self.dtype)
