"""Rows in fewer coordinates, in which no two are farther apart than they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.indexes.one_thread import one_blas_thread
from resmem_cli.indexes.space import squared_norms
from resmem_cli.threads import for_each_block
from resmem_cli.types import row_blocks

PROJECTED_ROWS = 1024
"""Rows projected together: always the same, so that their bits are."""

_WHOLE_COLUMNS = 1024  # up to so many, the covariance is made and decomposed whole
_MORE_AXES = 32  # of a randomised decomposition, which finds the last ones badly
_POWERS = 2
_UNIT = 2.0**-24
_UNIT64 = 2.0**-53
_WORST_AXES = 1e-6


@dataclass(frozen=True)
class Reduction:
    """The first r coordinates of centred rows on orthonormal axes, and the norm of what is left of them.

    Attributes
    ----------
    axes : (d, r) float64
        Orthonormal columns.

    Raises
    ------
    DataError
        If they are not orthonormal.
    """

    axes: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check the axes."""
        if not self._skew < _WORST_AXES:
            raise DataError("the axes are not orthonormal", remedy="build the index again")

    @property
    def columns(self) -> int:
        """`r + 1`."""
        return int(self.axes.shape[1]) + 1

    @cached_property
    def distortion(self) -> float:
        """By how much the distance of two reduced rows may exceed the rows' own, over ‖q‖ + ‖z‖.

        In exact arithmetic it never does: the coordinates' distance is that of two projections, and the
        norms of what is left differ by no more than what is left does. Let u = 2⁻⁵³. A coordinate is a
        sum of d products, off by d·u·‖z‖, and all r are off by d·√r·u·‖z‖; axes whose products differ
        from the unit matrix by η (Frobenius) are within η of orthonormal ones, which adds η·‖z‖. The
        square of the norm that is left is a difference of two, off by ε‖z‖² with ε twice that and
        (d + r)·u, so the norm itself is off by √ε‖z‖. Rounding the point to float32 adds 2⁻²⁴.
        """
        d, r = self.axes.shape
        moved = 1.01 * d * r**0.5 * _UNIT64 + self._skew
        left = (2 * d + r + 8) * _UNIT64 + 2.1 * moved
        return float((moved**2 + left) ** 0.5 + 1.01 * _UNIT)

    def reduce(self, centred: NDArray[np.float64]) -> NDArray[np.float32]:
        """Reduce (m, d) centred rows to (m, r + 1)."""
        reduced = np.empty((len(centred), self.columns), np.float32)
        coordinates = centred @ self.axes
        left = squared_norms(centred) - squared_norms(coordinates)
        with np.errstate(over="ignore"):
            reduced[:, :-1] = coordinates
            reduced[:, -1] = np.sqrt(np.maximum(left, 0))
        return reduced

    @cached_property
    def _skew(self) -> float:
        d, r = self.axes.shape
        with np.errstate(over="ignore", invalid="ignore"):
            products = self.axes.T @ self.axes
            return float(np.linalg.norm(products - np.eye(r)) + d * r * _UNIT64)


def principal_axes(points: NDArray[np.float64], r: int, *, seed: int) -> NDArray[np.float64]:
    """Find the r directions in which some points vary most.

    Parameters
    ----------
    points : (m, d) float64
        Centred.
    r : int
        From 1 to d.
    seed : int
        Of the randomised decomposition that is used for many columns (Halko, Martinsson and Tropp 2011,
        "Finding structure with randomness").

    Returns
    -------
    (d, r) float64
        Orthonormal columns, the most varying first; the same bits for any number of threads.
    """
    d = points.shape[1]
    with one_blas_thread():
        if d <= _WHOLE_COLUMNS or 2 * r > d:
            _, vectors = np.linalg.eigh(product(points.T, points))
            return np.ascontiguousarray(vectors[:, ::-1][:, :r])
        basis = np.random.default_rng(seed).normal(size=(d, r + _MORE_AXES))
        for _ in range(_POWERS):
            basis = np.linalg.qr(product(points.T, product(points, basis)))[0]
        found = product(points, basis)
        _, vectors = np.linalg.eigh(product(found.T, found))
        # Rotated by the decomposition, and orthonormalised once more.
        return np.ascontiguousarray(np.linalg.qr(product(basis, vectors[:, ::-1][:, :r]))[0])


def product(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply two matrices, each thread whole blocks of rows."""
    product = np.empty((left.shape[0], right.shape[1]))

    def multiply(block: slice) -> None:
        product[block] = left[block] @ right

    for_each_block(multiply, row_blocks(len(left), PROJECTED_ROWS // 4))
    return product
