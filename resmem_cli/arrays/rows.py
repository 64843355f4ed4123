"""Blocks of rows as the stages take them: cast, checked finite, and logits from probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.base import RowSource
from resmem_cli.arrays.selection import Located
from resmem_cli.errors import DataError
from resmem_cli.exponential import log

_JUDGED_ROWS, _JUDGED_ELEMENTS = 1_000, 1 << 20
_SMALLEST = np.nextafter(0.0, 1.0)


class FiniteRows:
    """Rows of numbers, cast by blocks to one type; a NaN or an infinity is refused where it is read.

    Parameters
    ----------
    rows : RowSource
        The array as its file gives it.
    file, field : pathlib.Path, and str or None
        Where it is from, for messages.
    dtype : numpy.dtype
        The type to cast to; an overflow is refused too.
    """

    def __init__(self, rows: RowSource, *, file: Path, field: str | None, dtype: np.dtype[Any]) -> None:
        self._rows = rows
        self._file, self._field = file, field
        self.shape = rows.shape
        self.dtype = dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows `start` to `stop`.

        Raises
        ------
        DataError
            If the file is damaged, or a value is not finite in `dtype`.
        """
        block = self._rows.read(start, stop)
        with np.errstate(over="ignore"):
            cast = block.astype(self.dtype, copy=False)
        if cast.dtype.kind == "f" and not np.isfinite(cast).all():
            raise self._not_finite(block, cast, start)
        return cast

    def _not_finite(self, block: NDArray[Any], cast: NDArray[Any], start: int) -> DataError:
        position = np.unravel_index(int(np.argmin(np.isfinite(cast))), cast.shape)
        value = block[position]
        overflow = bool(np.isfinite(value))
        return DataError(
            f"a value {f'too large for {self.dtype}' if overflow else 'that is not finite'}"
            f" at row {start + int(position[0])}",
            file=self._file,
            field=self._field,
            expected="finite values" + (f" of at most {np.finfo(self.dtype).max:.4g}" if overflow else ""),
            found=value,
            remedy="rescale the array" if overflow else "remove or repair these rows",
        )


class LogProbabilityRows:
    """Logits from probabilities: ``log p``, with the smallest positive double for p = 0.

    Computed in float64 and stored as float32, so that the smallest logit is about −744.4.
    """

    def __init__(self, rows: RowSource, located: Located) -> None:
        self._located = located
        self._rows = _finite(rows, located, np.dtype(np.float64))
        self.shape = self._rows.shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Read rows `start` to `stop`.

        Raises
        ------
        DataError
            If a row is no distribution: a negative value, or a sum that is not 1 within 1e-2.
        """
        block = self._rows.read(start, stop)
        sums = block.sum(axis=1)
        # A value above 1.01 needs no test of its own: the sum would show it.
        wrong = (block < 0).any(axis=1) | (np.abs(sums - 1) > 1e-2)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"row {start + row} is no probability distribution",
                file=self._located.file.path,
                field=self._located.key or None,
                expected="values in [0, 1] with sum 1",
                found=f"values in [{block[row].min():.4g}, {block[row].max():.4g}] with sum {sums[row]:.4g}",
                remedy=f"if these are logits, pass them as --logits {self._located.address}",
            )
        logits: NDArray[np.float32] = log(np.maximum(block, _SMALLEST)).astype(np.float32)
        return logits


def matrix_rows(located: Located) -> FiniteRows:
    """Open ``(n, d)`` numbers as float32, or as float16 where they are stored so.

    Raises
    ------
    DataError
        If the array is damaged, empty, not numeric, or not of two axes.
    """
    rows = _numeric_rows(located, "two axes, one row for each example", exact_axes=2)
    narrow = rows.dtype == np.float16
    return _finite(rows, located, np.dtype(np.float16 if narrow else np.float32))


def input_rows(located: Located) -> FiniteRows:
    """Open a network's inputs ``(n, ...)`` in the type they are stored in.

    Raises
    ------
    DataError
        If the array is damaged, empty, not numeric, or of one axis.
    """
    rows = _numeric_rows(located, "two axes or more, the first for the examples", exact_axes=None)
    return _finite(rows, located, rows.dtype)


def logit_rows(located: Located) -> FiniteRows:
    """Open logits ``(n, C)`` like embeddings, after judging by the first rows that they are logits.

    Raises
    ------
    DataError
        As `matrix_rows`, and if nearly all of the first rows are probability distributions.
    """
    rows = matrix_rows(located)
    block = rows.read(0, _judged(rows.shape)).astype(np.float64)
    sums = block.sum(axis=1)
    # Rounded to bfloat16, the sum of a distribution is off by up to 4e-3; one odd row proves nothing.
    if rows.shape[1] >= 2 and block.min() >= 0 and (np.abs(sums - 1) <= 1e-2).mean() > 0.9:
        raise DataError(
            "these logits are probabilities",
            file=located.file.path,
            field=located.key or None,
            expected="values before the softmax",
            found=f"values in [{block.min():.4g}, {block.max():.4g}] whose rows sum to 1",
            remedy=f"pass them as --probabilities {located.address}",
        )
    return rows


def probability_rows(located: Located) -> LogProbabilityRows:
    """Open probabilities ``(n, C)`` as logits, after checking the first rows.

    Raises
    ------
    DataError
        As `matrix_rows`, and if one of the first rows is no distribution.
    """
    rows = _numeric_rows(located, "two axes, one row for each example", exact_axes=2)
    logits = LogProbabilityRows(rows, located)
    logits.read(0, _judged(rows.shape))
    return logits


def _finite(rows: RowSource, located: Located, dtype: np.dtype[Any]) -> FiniteRows:
    return FiniteRows(rows, file=located.file.path, field=located.key or None, dtype=dtype)


def _judged(shape: tuple[int, ...]) -> int:
    """Count the first rows of (n, C) that are judged by: 1,000, or 2²⁰ numbers."""
    n, n_classes = shape
    return min(n, _JUDGED_ROWS, max(1, _JUDGED_ELEMENTS // max(1, n_classes)))


def _numeric_rows(located: Located, expected: str, *, exact_axes: int | None) -> RowSource:
    rows = located.file.open(located.key)
    n_axes = len(rows.shape)
    if (exact_axes is None and n_axes < 2) or (exact_axes is not None and n_axes != exact_axes):
        raise DataError(
            "an array of the wrong number of axes",
            file=located.file.path,
            field=located.key or None,
            expected=expected,
            found=f"shape {rows.shape}",
            remedy="reshape it, such as .reshape(len(array), -1), or name another array",
        )
    if rows.dtype.kind not in "biuf":
        raise DataError(
            "an array that is not numeric",
            file=located.file.path,
            field=located.key or None,
            expected="integers or floats",
            found=f"dtype {rows.dtype}",
            remedy="name another array",
        )
    return rows
