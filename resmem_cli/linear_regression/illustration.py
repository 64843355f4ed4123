"""Figure 1 of Yang et al. 2023 in numbers: residual memorization of a function of one variable."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.indexes.exact import ExactIndex
from resmem_cli.linear_regression.erm import NormBoundLeastSquares
from resmem_cli.linear_regression.sampling import ball_radius, draw_ball

_POINTS = 24
_GRID = 1201


def illustrate(*, seed: int) -> dict[str, Any]:
    """Fit a line to points of a curve, and remember its residuals by 1-NN.

    The targets are `x + 0.8 sin(4x)`, which no linear function is; covariates, least squares (without a
    bound on the slope) and search are those of the experiment with d = 1.

    Returns
    -------
    dict of lists of float
        `x`, `target`, `fitted`, `residual` of the training points, by x; `grid`, a fine grid of the same
        interval, with `grid_target`, `grid_fitted`, `grid_memory` (the nearest point's residual) and
        `grid_resmem`, the sum of the two before it.
    """
    generator = np.random.default_rng([seed, 1, _POINTS])
    points = np.sort(draw_ball(generator, _POINTS, 1), axis=0)
    radius = ball_radius(1)
    grid = np.linspace(-radius, radius, _GRID, dtype=np.float32)[:, None]
    target, grid_target = _curve(points), _curve(grid)
    theta = NormBoundLeastSquares(points, target).fit(math.inf).theta
    fitted, grid_fitted = points @ theta, grid @ theta
    residual = target - fitted
    memory = residual.take(ExactIndex.build(points).search(grid, 1).rows[:, 0])
    columns: dict[str, NDArray[np.floating]] = {
        "x": points[:, 0],
        "target": target,
        "fitted": fitted,
        "residual": residual,
        "grid": grid[:, 0],
        "grid_target": grid_target,
        "grid_fitted": grid_fitted,
        "grid_memory": memory,
        "grid_resmem": grid_fitted + memory,
    }
    return {name: values.astype(np.float64).tolist() for name, values in columns.items()}


def _curve(points: NDArray[np.float32]) -> NDArray[np.float64]:
    x = points[:, 0].astype(np.float64)
    return x + 0.8 * np.sin(4 * x)
