"""What the paper promises and what is true of the rates, and how slopes and crossings are measured."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from resmem_cli.linear_regression.sampling import ball_radius
from resmem_cli.results import Estimate

Floats = NDArray[np.float64]

# Squares of what float64 rounds away: such risks are 0, and have no slope.
ROUNDING = 1e-24
_RESAMPLES = 1000


def nearest_bound(n: Floats, d: int) -> Floats:
    """Give `d² [log(n^(1/d)) / n]^(1/d)`, lemma A.1's bound of `E[Z_n]` but for its constant; 0 at n = 1."""
    return d**2 * (np.log(n) / d / n) ** (1 / d)


def estimation_bound(n: Floats, d: int, norm_bound: float) -> Floats:
    """Give `d² L² n^(−2/3)`, the bound of T1 (eq. 39 of Yang et al. 2023) but for its constant."""
    return d**2 * norm_bound**2 * n ** (-2 / 3)


def resmem_bound(n: Floats, d: int, norm_bound: float) -> Floats:
    """Give theorem 3.3's bound, `d² L² n^(−2/3) + d² (1 − L)² [log(n^(1/d)) / n]^(1/d)`."""
    return estimation_bound(n, d, norm_bound) + floor(norm_bound) * nearest_bound(n, d)


def resmem_exponent(d: int, norm_bound: float) -> float:
    """Give the exponent of n of theorem 3.3's slower term, without its logarithm."""
    exponents = [-2 / 3] if norm_bound > 0 else []
    return max([*exponents, -1 / d] if norm_bound < 1 else exponents)


def floor(norm_bound: float) -> float:
    """Give `(1 − L)²`, where the risk of ERM ends (remark B.1); 0 from L = 1 on."""
    return max(0.0, 1 - norm_bound) ** 2


def nearest_limit(n: Floats, d: int) -> Floats:
    """Give what `E[Z_n]` tends to in fixed d: `(d + 2) Γ(1 + 2/d) n^(−2/d)`.

    Away from the ball's surface a point has no neighbour within t with probability
    `(1 − (t/√(d+2))^d)^n`; this is the mean of t² as n grows. Near the surface neighbours are
    farther away, so that smaller n have more.
    """
    return ball_radius(d) ** 2 * math.gamma(1 + 2 / d) * n ** (-2 / d)


def estimation_limit(n: Floats, d: int, norm_bound: float) -> Floats:
    """Give what T1 tends to for 0 ≤ L ≤ 1: `2 L² (1 − L)² (d − 1)(d + 2) / ((d + 4) n)`.

    To first order in `Σ_n − I` the bound's sphere leaves `θ_n − Lθ* = L (1 − L) P (Σ_n − I) θ*` with P
    the projection orthogonal to θ*; each of its d − 1 components has the variance
    `E[x₁² x₂²] / n = (d + 2) / ((d + 4) n)`. T1 counts it at x and at x₍₁₎.
    """
    reached = min(norm_bound, 1.0)
    return 2 * reached**2 * (1 - reached) ** 2 * (d - 1) * (d + 2) / ((d + 4) * n)


def log_log_slope(n: Floats, values: Floats) -> Floats | float:
    """Fit `log(value) = intercept + slope · log(n)` by least squares along the last axis.

    Parameters
    ----------
    n : (n_sizes,) float64
        At least two.
    values : (..., n_sizes) float64
        Positive.
    """
    centred = np.log(n) - np.log(n).mean()
    slopes: Floats = np.log(values) @ centred / (centred @ centred)
    return slopes if slopes.ndim else float(slopes)


def slope_estimate(n: Floats, values: Floats) -> Estimate | float | None:
    """Give the mean slope of the repetitions, with its 95 % interval by Student's t.

    Parameters
    ----------
    n : (n_sizes,) float64
    values : (n_repetitions, n_sizes) float64

    Returns
    -------
    Estimate, float or None
        A plain number for one repetition; None for fewer than two n, and where a value is 0 but for
        rounding.
    """
    if len(n) < 2 or (values <= ROUNDING).any():
        return None
    slopes = np.atleast_1d(log_log_slope(n, values))
    mean = float(slopes.mean())
    if len(slopes) < 2:
        return mean
    from scipy.special import stdtrit  # 0.1 s, which only this needs

    freedom = len(slopes) - 1
    half = float(stdtrit(freedom, 0.975) * slopes.std(ddof=1) / math.sqrt(len(slopes)))
    return Estimate(mean, mean - half, mean + half)


NEVER, ALWAYS = np.inf, 0.0
"""Where a curve ends above the other, and where it is below from the first n on."""


def last_crossing(n: Floats, lower: Floats, upper: Floats) -> Floats:
    """Find the n from which on one curve stays below another, on straight lines in log-log.

    Parameters
    ----------
    n : (n_sizes,) float64
        Rising.
    lower, upper : (..., n_sizes) float64
        At least 0; `lower` is the curve that is to fall below.

    Returns
    -------
    (...) float64
        n; `NEVER` where `lower` is not below at the last n, `ALWAYS` where it is below at all of them.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.where(lower == upper, 0.0, np.log(lower) - np.log(upper))
    below = lower < upper
    last_above = below.shape[-1] - 1 - np.argmax(~below[..., ::-1], axis=-1)
    before = np.minimum(last_above, len(n) - 2) if len(n) > 1 else np.zeros_like(last_above)
    after = np.minimum(before + 1, len(n) - 1)
    first, second = (np.take_along_axis(gap, at[..., None], -1)[..., 0] for at in (before, after))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(np.isfinite(first), first / (first - second), 1.0)
        # Where it falls to 0 it crosses at once, where the other rises from 0 not before that.
        share = np.clip(np.where(np.isfinite(second), share, 0.0), 0, 1)
    place = np.log(n)[before] + share * (np.log(n)[after] - np.log(n)[before])
    crossing = np.where(below[..., -1], np.exp(place), NEVER)
    return np.where(below.all(axis=-1), ALWAYS, crossing)


def crossing_estimate(n: Floats, lower: Floats, upper: Floats, *, seed: int) -> Estimate | float:
    """Find where the mean of one quantity falls below that of another for good.

    Parameters
    ----------
    n : (n_sizes,) float64
    lower, upper : (n_repetitions, n_sizes) float64
    seed : int
        Of the bootstrap.

    Returns
    -------
    Estimate or float
        As `last_crossing` gives it; where it is a number, with the 95 % bootstrap interval over the
        repetitions, if all resamples cross.
    """
    lower, upper = (np.where(values > ROUNDING, values, 0.0) for values in (lower, upper))
    found = float(last_crossing(n, lower.mean(axis=0), upper.mean(axis=0)))
    n_repetitions = len(lower)
    if found in (NEVER, ALWAYS) or n_repetitions < 2:
        return found
    generator = np.random.default_rng(seed)
    shares = generator.multinomial(n_repetitions, [1 / n_repetitions] * n_repetitions, size=_RESAMPLES)
    again = last_crossing(n, shares @ lower / n_repetitions, shares @ upper / n_repetitions)
    if not np.isfinite(again).all() or (again == ALWAYS).any():
        return found
    low, high = np.quantile(again, [0.025, 0.975])
    return Estimate(found, float(low), float(high))


def crossings_of_limits(d: int, norm_bound: float) -> tuple[float | None, float | None, float | None]:
    """Give the n at which the limits cross: 1-NN and ERM, ResMem and ERM, T1 and T2.

    1-NN tends to `E[Z_n] / d`, ResMem to `(1 − L)² E[Z_n] / d`, ERM to `(1 − L)²`. None where the limits do
    not cross or are 0.
    """
    if norm_bound >= 1:
        return None, None, None
    at_one = float(nearest_limit(np.ones(1), d)[0]) / d
    terms = None
    if d > 2 and norm_bound > 0:
        ratio = float(estimation_limit(np.ones(1), d, norm_bound)[0]) / (floor(norm_bound) * at_one)
        terms = ratio ** (d / (d - 2))
    return (at_one / floor(norm_bound)) ** (d / 2), at_one ** (d / 2), terms
