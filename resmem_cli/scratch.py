"""Temporary arrays larger than memory: in files without a name, which vanish with the process."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import OutputError

IN_MEMORY_BYTES = 1 << 20
"""Arrays up to this size are not worth a file."""


class Scratch:
    """Makes temporary arrays.

    Parameters
    ----------
    folder : pathlib.Path or None
        Where their files are made, such as the folder of the output; None keeps every array in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def array(self, shape: Sequence[int], dtype: Any) -> NDArray[Any]:
        """Make an array of zeros; a file's pages are not the process's anonymous memory.

        Raises
        ------
        OutputError
            If the disk has no room for it.
        """
        dtype = np.dtype(dtype)
        n_bytes = prod(shape) * dtype.itemsize
        if self._folder is None or n_bytes <= IN_MEMORY_BYTES:
            return np.zeros(shape, dtype)
        try:
            with tempfile.TemporaryFile(dir=self._folder, prefix=".resmem-scratch-") as file:
                # Reserved now: a full disk met while writing to a map would kill the process.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, n_bytes)
                else:
                    file.truncate(n_bytes)
                pages = mmap.mmap(file.fileno(), n_bytes)
        except OSError as error:
            raise OutputError(
                f"no room for {n_bytes:,} temporary bytes: {os.strerror(error.errno or 0)}",
                file=self._folder,
                remedy="free space there, or write the output to another disk",
            ) from error
        return np.ndarray(tuple(shape), dtype, buffer=pages)
