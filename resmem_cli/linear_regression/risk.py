"""Risks of the regressors of section 3 on one draw: least squares, 1-NN, and 1-NN on the residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resmem_cli.indexes.exact import ExactIndex
from resmem_cli.linear_regression.erm import NormBoundLeastSquares
from resmem_cli.linear_regression.sampling import draw_ball, draw_directions

Floats = NDArray[np.float64]

_ROUNDING = 1e-14  # of a difference of numbers near 1


@dataclass(frozen=True)
class Draw:
    """One training set, one test set, one target.

    Attributes
    ----------
    train : (n, d) float32
    test : (m, d) float32
    target : (d,) float64
        θ*, of norm 1.
    """

    train: NDArray[np.float32]
    test: NDArray[np.float32]
    target: Floats

    @classmethod
    def make(cls, *, d: int, n: int, n_test: int, seed: Sequence[int]) -> Draw:
        """Draw from assumptions 3.1 and 3.2 of Yang et al. 2023.

        Parameters
        ----------
        d, n, n_test : int
        seed : sequence of int
            Of `numpy.random.default_rng`.
        """
        generator = np.random.default_rng(seed)
        [target] = draw_directions(generator, 1, d)
        return cls(draw_ball(generator, n, d), draw_ball(generator, n_test, d), target)


@dataclass(frozen=True)
class Risks:
    """What one draw gives, each a mean over the same test points.

    Attributes
    ----------
    squared_distance : float
        Of `Z_n = ‖x − x₍₁₎‖²` (eq. 11), x₍₁₎ the nearest training point.
    nearest : float
        Of `(f*(x₍₁₎) − f*(x))²`: 1-NN alone.
    erm, resmem : (n_bounds,) float64
        Of `(f_n(x) − f*(x))²`, and of `(f_n(x) + f*(x₍₁₎) − f_n(x₍₁₎) − f*(x))²` (eq. 4 and 5).
    excess : (n_bounds,) float64
        `‖θ_n − θ*‖² − (1 − L)²`: the risk of ERM above its floor, over all x and not over the test points.
    t1, t2 : (n_bounds,) float64
        The two terms of section 3.3; `resmem ≤ 3 (t1 + t2)`.
    """

    squared_distance: float
    nearest: float
    erm: Floats
    excess: Floats
    resmem: Floats
    t1: Floats
    t2: Floats


def measure(draw: Draw, norm_bounds: Sequence[float]) -> Risks:
    """Measure the risks of one draw for several L; the neighbours are the same for all of them.

    With `f_∞ = ⟨Lθ*, ·⟩` (no more than θ* itself) and `r_∞ = f* − f_∞`,
    `T1 = E(f_n(x) − f_∞(x))² + E(f_n(x₍₁₎) − f_∞(x₍₁₎))²` and `T2 = E(r_∞(x) − r_∞(x₍₁₎))²`.

    Parameters
    ----------
    draw : Draw
    norm_bounds : sequence of float
        L, each at least 0.
    """
    rows = ExactIndex.build(draw.train).search(draw.test, 1).rows[:, 0]
    x = draw.test.astype(np.float64)
    nearest = draw.train.take(rows, axis=0).astype(np.float64)
    truth, remembered = x @ draw.target, nearest @ draw.target
    solver = NormBoundLeastSquares(draw.train, draw.train.astype(np.float64) @ draw.target)
    columns: dict[str, list[float]] = {name: [] for name in ("erm", "excess", "resmem", "t1", "t2")}
    for norm_bound in norm_bounds:
        reached = min(norm_bound, 1.0)
        theta = solver.fit(norm_bound).theta
        fitted, fitted_there = x @ theta, nearest @ theta
        residuals = remembered - fitted_there
        columns["erm"].append(_mean_square(fitted - truth))
        excess = float(np.sum((theta - draw.target) ** 2)) - (1 - reached) ** 2
        columns["excess"].append(excess if excess > _ROUNDING else 0.0)
        columns["resmem"].append(_mean_square(fitted + residuals - truth))
        columns["t1"].append(
            _mean_square(fitted - reached * truth) + _mean_square(fitted_there - reached * remembered)
        )
        columns["t2"].append(_mean_square((1 - reached) * truth - (1 - reached) * remembered))
    return Risks(
        squared_distance=float(np.mean(np.sum((x - nearest) ** 2, axis=1))),
        nearest=_mean_square(remembered - truth),
        **{name: np.array(values) for name, values in columns.items()},
    )


def _mean_square(errors: Floats) -> float:
    return float(np.mean(np.square(errors)))
