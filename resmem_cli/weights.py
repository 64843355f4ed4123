"""How much each neighbour counts (Yang et al. 2023, section 4.1)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import UsageError
from resmem_cli.exponential import exp

SIGMA_PER_SCALE = 0.18
"""The default sigma as a share of the index's distance scale; gives about 0.7 on the paper's embeddings."""

LARGEST_STRENGTH = 1e6
"""Beyond it the network's own share would be lost in float32's rounding."""


def neighbor_weights(distances: NDArray[Any], *, sigma: float) -> NDArray[np.float32]:
    """Compute `exp(−distance / sigma)`, normalised over each query's neighbours.

    The smallest distance is subtracted first, which changes nothing but keeps the exponentials from
    all becoming 0.

    Parameters
    ----------
    distances : (n_queries, k) floats
        Euclidean, not squared.
    sigma : float
        In the unit of the distances; above 0.

    Returns
    -------
    (n_queries, k) float32
        Rows that sum to 1.

    Raises
    ------
    UsageError
        If sigma is not a positive number.
    """
    check_sigma(sigma)
    # In C order, so that each row is summed in the same order whatever the layout of the distances.
    beyond = distances.astype(np.float64, order="C")
    beyond -= beyond.min(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        beyond /= -sigma
    exp(beyond)
    beyond /= beyond.sum(axis=1, keepdims=True)
    return beyond.astype(np.float32)


def default_sigma(distance_scale: float) -> float:
    """Choose sigma from the memory's own distances.

    Parameters
    ----------
    distance_scale : float
        Median distance from memory rows to their 53rd other neighbour, as `index` measures it.

    Raises
    ------
    UsageError
        If the scale is 0: one row has no neighbour, and identical rows have theirs at no distance.
    """
    if not distance_scale > 0:
        raise UsageError(
            "no default sigma: the memory has one row, or its rows are too often identical",
            expected="a distance scale above 0",
            found=distance_scale,
            remedy="give --sigma",
        )
    return SIGMA_PER_SCALE * distance_scale


def check_sigma(sigma: float) -> None:
    """Raise `UsageError` unless sigma is a positive number."""
    if not (math.isfinite(sigma) and sigma > 0):
        raise UsageError("sigma out of range", expected="a number above 0", found=sigma)


def check_strength(strength: float) -> None:
    """Raise `UsageError` unless the memory's strength is a number from 0 to a million."""
    if not 0 <= strength <= LARGEST_STRENGTH:
        raise UsageError("strength out of range", expected=f"0 to {LARGEST_STRENGTH:,.0f}", found=strength)
