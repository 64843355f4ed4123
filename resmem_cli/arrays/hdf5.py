"""Reader of foreign HDF5 files: every dataset of numbers or fixed-length text, by its path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.base import ArrayFile, ArrayInfo, RowSource, check_rows, damage_refused, reads

# h5py raises OSError for damage it can name, RuntimeError for some inner failures of the library,
# and ValueError or KeyError where an object's header makes no sense.
_HDF5_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError)


@reads(".h5", ".hdf5")
class Hdf5Datasets(ArrayFile):
    """The datasets of one file; nested groups give keys such as ``train/embeddings``."""

    def __init__(self, path: Path) -> None:
        # Only a file of this kind pays for importing h5py.
        from resmem_cli.artifacts.hdf5 import open_hdf5, readable_datasets

        super().__init__(path)
        self._file = open_hdf5(path)
        try:
            with damage_refused("HDF5", path, None, *_HDF5_ERRORS):
                self._datasets: dict[str, Any] = readable_datasets(self._file)
                self._arrays = {
                    key: ArrayInfo(dataset.shape, dataset.dtype.name)
                    for key, dataset in self._datasets.items()
                }
        except BaseException:
            self.close()
            raise

    @property
    def arrays(self) -> Mapping[str, ArrayInfo]:
        """The datasets that can be read safely."""
        return self._arrays

    def open(self, key: str) -> RowSource:
        """Open one dataset."""
        dataset = self._datasets[key]
        check_rows(dataset.shape, dataset.dtype, file=self.path, key=key)
        return _DatasetRows(dataset, file=self.path, key=key)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _DatasetRows:
    """Rows of one dataset."""

    def __init__(self, dataset: Any, *, file: Path, key: str) -> None:
        self._dataset = dataset
        self._file = file
        self._key = key
        self.shape: tuple[int, ...] = dataset.shape
        # Built from the type's name: h5py hangs its own metadata on the types of text and booleans.
        self.dtype: np.dtype[Any] = np.dtype(dataset.dtype.str).newbyteorder("=")

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows `start` to `stop`."""
        with damage_refused("HDF5", self._file, self._key, *_HDF5_ERRORS):
            block = self._dataset[start:stop]
        return np.ascontiguousarray(block, dtype=self.dtype)
