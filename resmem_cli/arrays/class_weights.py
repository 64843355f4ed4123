"""A weight for each class, from a .npy file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.npy import NpyArray
from resmem_cli.errors import DataError
from resmem_cli.files import require_file


def read_class_weights(path: Path, n_classes: int) -> NDArray[np.float64]:
    """Read (C,) weights, numbers from 0 on.

    Raises
    ------
    MissingInputError
        If there is no such file.
    DataError
        If it holds no such weights.
    """
    require_file(path)
    with NpyArray(path) as file:
        rows = file.open("")
        if rows.shape != (n_classes,) or rows.dtype.kind not in "iuf":
            raise DataError(
                "class weights do not fit the classes",
                file=path,
                expected=f"({n_classes},) numbers",
                found=f"{rows.shape} {rows.dtype}",
            )
        numbers = rows.read(0, n_classes).astype(np.float64)
    wrong = np.flatnonzero(~(np.isfinite(numbers) & (numbers >= 0)))
    if len(wrong):
        raise DataError(
            f"weight of class {wrong[0]:,} out of range",
            file=path,
            expected="a number from 0 on",
            found=float(numbers[wrong[0]]),
        )
    if not numbers.any():
        raise DataError("all class weights are 0", file=path)
    return numbers
