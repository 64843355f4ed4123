"""Checks of columns that belong together, one number a query."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from resmem_cli.errors import DataError


def check_columns(**columns: NDArray[Any]) -> None:
    """Raise `DataError` unless the named arrays are columns of one length."""
    shapes = [column.shape for column in columns.values()]
    if len(shapes[0]) != 1 or len(set(shapes)) > 1:
        raise DataError(
            f"{', '.join(columns)} do not fit together",
            expected="arrays of one shape (n,)",
            found=", ".join(map(str, shapes)),
        )


def check_range(column: NDArray[Any], stop: int, name: str) -> None:
    """Raise `DataError` unless all entries are integers in [0, stop)."""
    if column.dtype.kind not in "iu":
        raise DataError(f"{name} are no integers", expected="integers", found=f"dtype {column.dtype}")
    if len(column) and not (column.min() >= 0 and column.max() < stop):
        raise DataError(
            f"{name} out of range",
            expected=f"0 to {stop - 1}",
            found=f"{column.min()} to {column.max()}",
        )
