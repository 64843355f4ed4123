"""From embeddings as they are to the float32 rows that are searched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.rows import RandomRows
from resmem_cli.types import Metric, Progress, no_progress, row_blocks

# The mean is summed in blocks of this many rows, so that its bits do not depend on who reads the rows how.
_MEAN_ROWS = 4096
_LARGEST, _SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).smallest_subnormal)
_SUM_COLUMNS = 1 << 12  # einsum cuts longer sums at the ends of its buffers, wherever those fall in a row


def squared_norms(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Sum the squares along the last axis in float64: the same bits whatever stands beside a row."""
    return sum_squares(np.ascontiguousarray(rows, np.float64))


def sum_squares(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum the squares along the last axis: the same bits whatever stands beside a row."""
    total = np.zeros(rows.shape[:-1], np.float64)
    for columns in row_blocks(rows.shape[-1], _SUM_COLUMNS):
        part = rows[..., columns]
        total += np.einsum("...d,...d->...", part, part)
    return total


def directions(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Divide rows by their norms, in float64; a row of zeros stays one."""
    norms = np.sqrt(squared_norms(rows))
    norms[norms == 0] = 1
    divided: NDArray[np.float64] = np.divide(rows, norms[..., None], dtype=np.float64)
    return divided


@dataclass(frozen=True)
class Space:
    """Where the searched rows live: a Euclidean space whose nearest rows are the metric's nearest rows.

    Attributes
    ----------
    metric : Metric
        With cosine, rows are divided by their norms first.
    mean : (d,) float64
        Subtracted from every row: small numbers lose less where squares cancel.
    axes : (d, r) float64 or None
        Orthonormal columns; with them, centred rows are given in their coordinates.
    """

    metric: Metric
    mean: NDArray[np.float64]
    axes: NDArray[np.float64] | None = None

    @property
    def dimension(self) -> int:
        """Of the searched rows."""
        return len(self.mean) if self.axes is None else self.axes.shape[1]

    def centred(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Give (m, d) rows minus the mean, as directions with cosine, in float64."""
        if self.metric == Metric.COSINE:
            rows = directions(rows)
        centred: NDArray[np.float64] = np.subtract(rows, self.mean, dtype=np.float64)
        return centred

    def searched(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Give (m, d) rows as they are searched: (m, `dimension`) float32."""
        centred = self.centred(rows)
        if self.axes is not None:
            centred = centred @ self.axes
        with np.errstate(over="ignore"):
            return centred.astype(np.float32, order="C")


def mean_row(
    vectors: RandomRows, metric: Metric = Metric.EUCLIDEAN, *, progress: Progress = no_progress
) -> NDArray[np.float64]:
    """Compute the mean of (n, d) rows in float64, always in the same blocks of rows.

    Raises
    ------
    DataError
        If a row holds NaN or infinity, or, with cosine, only zeros.
    """
    n, d = vectors.shape
    total = np.zeros(d, np.float64)
    for block in progress(row_blocks(n, _MEAN_ROWS), "averaging"):
        rows = vectors.read(block.start, block.stop)
        check_rows(rows, metric, first=block.start)
        total += (directions(rows) if metric == Metric.COSINE else rows).sum(axis=0, dtype=np.float64)
    return total / n


def check_rows(rows: NDArray[Any], metric: Metric, *, first: int = 0, what: str = "row") -> None:
    """Refuse rows that are not finite in float32 and, with cosine, rows that have no direction.

    Raises
    ------
    DataError
        Naming the first such row; `first` is the number of the first one given.
    """
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{what} {first + int(np.argmin(finite)):,} holds NaN or infinity", remedy="remove or repair it"
        )
    wide = rows.dtype.itemsize > 4
    if wide and rows.size:
        large = (np.abs(rows) > _LARGEST).any(axis=1)
        if large.any():
            raise DataError(
                f"{what} {first + int(np.argmax(large)):,} holds values beyond float32's range",
                expected=f"at most {_LARGEST:.4g}",
                remedy="divide all rows by one number",
            )
    if metric == Metric.COSINE:
        # Squares of numbers that float32 has not would be lost in float64.
        zero = ~((np.abs(rows) >= _SMALLEST) if wide else rows).any(axis=1)
        if zero.any():
            raise DataError(
                f"{what} {first + int(np.argmax(zero)):,} is all zeros and has no direction for cosine",
                remedy="remove it, or use the euclidean metric",
            )
