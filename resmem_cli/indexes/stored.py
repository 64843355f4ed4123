"""What an index artifact holds, taken for what it should be or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.rows import RandomRows


def stored_numbers(
    datasets: Mapping[str, RandomRows], name: str, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Read an array of finite numbers of a known shape; raises `DataError`."""
    if name not in datasets or datasets[name].shape != shape:
        raise damaged(name, f"is not of shape {shape}")
    values = np.ascontiguousarray(datasets[name].read(0, shape[0]), np.float32)
    if not np.isfinite(values).all():
        raise damaged(name, "holds NaN or infinity")
    return values


def whole(datasets: Mapping[str, RandomRows], name: str) -> NDArray[Any]:
    """Read all of a dataset; raises `DataError` if there is none."""
    if name not in datasets:
        raise damaged(name, "is missing")
    return datasets[name].read(0, datasets[name].shape[0])


def positive(value: Any, field: str) -> int:
    """Take a parameter for a number from 1 on; raises `DataError`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise damaged(field, "is no positive whole number")
    return value


def damaged(field: str, problem: str) -> DataError:
    """Make the error of a field that can't be used."""
    return DataError(problem, field=field, remedy="build the index again")
