"""The covariates of assumption 3.1, and the target of assumption 3.2."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def ball_radius(d: int) -> float:
    """Give the radius `√(d + 2)`, with which `E[xxᵀ] = I`."""
    return math.sqrt(d + 2)


def draw_ball(generator: np.random.Generator, n: int, d: int) -> NDArray[np.float32]:
    """Draw points uniformly from the ball of radius `√(d + 2)` around the origin.

    A direction from a normal vector, and a norm `√(d + 2) · u^(1/d)` with u uniform on (0, 1].

    Returns
    -------
    (n, d) float32
        Rounded to the type the index keeps, so that risks and neighbours are of the same points.
    """
    directions = draw_directions(generator, n, d)
    # One minus: a uniform draw may be 0, but is never 1.
    norms = ball_radius(d) * (1 - generator.random(n)) ** (1 / d)
    return (directions * norms[:, None]).astype(np.float32)


def draw_directions(generator: np.random.Generator, n: int, d: int) -> NDArray[np.float64]:
    """Draw unit vectors uniformly, (n, d); one of them is a target θ* with `‖θ*‖ = 1`."""
    normal = generator.normal(size=(n, d))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return normal
