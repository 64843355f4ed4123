"""Least squares over linear functions of bounded norm, by its KKT conditions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_NOTHING = 1e-300  # an L so small is 0: 1/L overflows


@dataclass(frozen=True)
class NormBoundFit:
    """The empirical risk minimiser over a ball of parameters.

    Attributes
    ----------
    theta : (d,) float64
        `θ_n`; the function is `x ↦ ⟨θ_n, x⟩`.
    multiplier : float
        `λ_n ≥ 0`, of the constraint `‖θ‖ ≤ L`; 0 where it does not bind, infinite where L is 0.
    """

    theta: Floats
    multiplier: float


class NormBoundLeastSquares:
    """Solve `min (1/n) Σ (⟨θ, x_i⟩ − y_i)²` over `‖θ‖ ≤ L`, eq. 2 of Yang et al. 2023, for any L.

    By the KKT conditions (their eq. 27 and 28) `θ_n = (Σ_n + λ_n I)⁻¹ Xᵀy/n` with `λ_n ≥ 0`,
    `‖θ_n‖ ≤ L` and `λ_n (‖θ_n‖ − L) = 0`; where `y = Xθ*`, `Xᵀy/n = Σ_n θ*`. In the eigenbasis of
    `Σ_n` this leaves one equation in λ.

    Parameters
    ----------
    covariates : (n, d) floats
        X, one example a row.
    targets : (n,) floats
        y.
    """

    def __init__(self, covariates: NDArray[np.floating], targets: NDArray[np.floating]) -> None:
        x = covariates.astype(np.float64, copy=False)
        n, d = x.shape
        values, vectors = np.linalg.eigh(x.T @ x / n)
        # With n < d some directions carry no data: their eigenvalues are 0 but for rounding.
        seen = values > values[-1] * max(n, d) * np.finfo(np.float64).eps
        self._values: Floats = values[seen]
        self._vectors: Floats = vectors[:, seen]
        self._moments: Floats = self._vectors.T @ (x.T @ targets / n)

    def fit(self, norm_bound: float) -> NormBoundFit:
        """Solve for one L.

        Where several θ have the least empirical risk, as with n < d, it is that of the smallest norm, the
        limit of `λ → 0`.

        Parameters
        ----------
        norm_bound : float
            L, at least 0; infinity for no bound.
        """
        unbounded = self._moments / self._values
        if norm_bound < _NOTHING:
            return NormBoundFit(np.zeros(len(self._vectors)), np.inf)
        if np.linalg.norm(unbounded) <= norm_bound:
            return NormBoundFit(self._vectors @ unbounded, 0.0)
        multiplier = self._multiplier(norm_bound)
        return NormBoundFit(self._vectors @ (self._moments / (self._values + multiplier)), multiplier)

    def _multiplier(self, norm_bound: float) -> float:
        """Find the root of `1/‖θ(λ)‖ = 1/L`, which is nearly a straight line in λ."""
        from scipy.optimize import brentq  # 0.3 s, which only this needs

        def excess(multiplier: float) -> float:
            # hypot, for the squares of small numbers are 0.
            return 1 / math.hypot(*(self._moments / (self._values + multiplier))) - 1 / norm_bound

        # ‖Xᵀy/n‖ / (s + λ) is at least ‖θ(λ)‖ with the smallest eigenvalue s, at most with the largest.
        reach = float(np.linalg.norm(self._moments)) / norm_bound
        low, high = max(0.0, reach - float(self._values[-1])), reach - float(self._values[0])
        # Rounding, or one eigenvalue only: the end of the bracket is the root.
        if excess(low) >= 0:
            return low
        if excess(high) <= 0:
            return high
        return float(brentq(excess, low, high, xtol=1e-15 * high, rtol=4 * np.finfo(np.float64).eps))
