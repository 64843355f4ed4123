"""Scores as probabilities: three ways to bring ResMem's scores, which may leave [0, 1], onto the simplex."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError
from resmem_cli.exponential import exp, log
from resmem_cli.residuals import check_labels, softmax
from resmem_cli.settings import Softening
from resmem_cli.threads import for_each_block
from resmem_cli.types import ProbabilityMethod, row_blocks

FLOOR = 1e-6
"""No probability in a reported likelihood is taken below it, for any method.

Projection and clipping give whole classes probability 0, and one such label would make the negative
log-likelihood infinite. Every method pays at most `-log(FLOOR)`, about 13.8, for a label.
"""

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 1e-3, 1e3
"""Between these `fit_temperature` searches."""

# Rows handled at once: their float64 copies stay in the processor's cache.
_BLOCK_ELEMENTS = 1 << 16
_LOG_TEMPERATURE_TOLERANCE = 1e-6
_FLOORS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001)  # times 1/C
_LEAST_FLOOR = 1e-30


def to_probabilities(
    scores: NDArray[Any], method: ProbabilityMethod, *, softening: Softening | None = None
) -> NDArray[np.float32]:
    """Make probabilities of scores by one of the three methods.

    Parameters
    ----------
    scores : (n, C) floats
        Finite.
    method : ProbabilityMethod
        See `project_to_simplex`, `clip_and_renormalise` and `soften`.
    softening : Softening, optional
        For the method `temperature`, which needs it; the others take no notice of it.

    Returns
    -------
    (n, C) float32
        Not negative; each row sums to 1 within 1e-6.

    Raises
    ------
    UsageError
        If there is no such method, or the softening is missing or its numbers are not positive.
    DataError
        If the scores are not a finite matrix.
    """
    match method:
        case ProbabilityMethod.SIMPLEX:
            return project_to_simplex(scores)
        case ProbabilityMethod.CLIP:
            return clip_and_renormalise(scores)
        case ProbabilityMethod.TEMPERATURE:
            if softening is None:
                raise UsageError(
                    "the method temperature needs a temperature",
                    remedy="fit one on validation data (fit_softening)",
                )
            return soften(scores, softening)
        case _:
            raise UsageError("no such method", expected=", ".join(ProbabilityMethod), found=method)


def project_to_simplex(scores: NDArray[Any]) -> NDArray[np.float32]:
    """Project each row on the probability simplex: `argmin_p ‖p − s‖₂` over `p ≥ 0, Σ_c p_c = 1`.

    The projection is `p_c = max(s_c − θ, 0)`. With the scores sorted downwards, u_1 ≥ u_2 ≥ …,
    `θ = max_m (u_1 + … + u_m − 1) / m`: keeping too few classes, or too many, gives a smaller value.
    Sorting is due to Held, Wolfe and Crowder (1974) and Duchi et al. (2008). Classes keep their order, but
    float32 can make neighbours equal.

    Parameters
    ----------
    scores : (n, C) floats
        Finite.

    Returns
    -------
    (n, C) float32
        Computed in float64. Not negative; each row sums to 1 within 1e-6.

    Raises
    ------
    DataError
        If the scores are not a finite matrix.
    """
    _check_scores(scores)
    sizes = np.arange(1, scores.shape[1] + 1, dtype=np.float64)
    probabilities = np.empty(scores.shape, np.float32)

    def project(block: slice) -> None:
        part = _below_largest(scores[block])
        # A class that is 1 below the largest has no share whatever the others are.
        np.maximum(part, -1, out=part)
        sums = np.cumsum(np.sort(part, axis=1)[:, ::-1], axis=1)
        sums -= 1
        sums /= sizes
        part -= sums.max(axis=1, keepdims=True)
        probabilities[block] = np.maximum(part, 0, out=part)

    for_each_block(project, _blocks(scores))
    return probabilities


def clip_and_renormalise(scores: NDArray[Any]) -> NDArray[np.float32]:
    """Compute `max(s, 0) / Σ_c max(s_c, 0)` of each row.

    A row without a positive score says nothing of the classes and becomes uniform. ResMem's scores sum
    to 1, so one of them is always positive.

    Parameters
    ----------
    scores : (n, C) floats
        Finite.

    Returns
    -------
    (n, C) float32
        Computed in float64. Not negative; each row sums to 1 within 1e-6.

    Raises
    ------
    DataError
        If the scores are not a finite matrix.
    """
    _check_scores(scores)
    probabilities = np.empty(scores.shape, np.float32)

    def clip(block: slice) -> None:
        part = scores[block].astype(np.float64, order="C")
        np.maximum(part, 0, out=part)
        largest = part.max(axis=1, keepdims=True)
        np.copyto(part, 1, where=largest == 0)
        # By the largest first, so that no sum overflows.
        part /= np.where(largest == 0, 1, largest)
        part /= part.sum(axis=1, keepdims=True)
        probabilities[block] = part

    for_each_block(clip, _blocks(scores))
    return probabilities


def soften(scores: NDArray[Any], softening: Softening) -> NDArray[np.float32]:
    """Compute `max(s, floor)^(1/t) / Σ_c max(s_c, floor)^(1/t)` of each row.

    The softmax of the scores themselves would do badly: they lie between -1 and 2, so that a temperature
    that makes sure answers sure makes all others unsure.

    Parameters
    ----------
    scores : (n, C) floats
        Finite; ResMem's scores.
    softening : Softening
        `fit_softening` finds one.

    Returns
    -------
    (n, C) float32
        Not negative; each row sums to 1 within 1e-6.

    Raises
    ------
    UsageError
        If temperature or floor is not a positive number.
    DataError
        If the scores are not a finite matrix.
    """
    _check_scores(scores)
    return softmax(_logarithms(scores, softening.floor), temperature=softening.temperature)


def fit_softening(
    scores: NDArray[Any], labels: NDArray[Any], *, weights: NDArray[Any] | None = None
) -> Softening:
    """Find the floor and the temperature that give the labels the largest likelihood.

    Floors from 3/C down to 0.001/C are tried, each with its best temperature; see `fit_temperature`, of
    which parameters and errors are the same. Of equally good floors the largest is taken.
    """
    _check_scores(scores)
    tried = []
    for share in _FLOORS:
        floor = share / scores.shape[1]
        logarithms = _logarithms(scores, floor)
        temperature, loss = _fit(logarithms, labels, weights)
        tried.append((loss, Softening(temperature, floor)))
    return min(tried, key=lambda loss_and_softening: loss_and_softening[0])[1]


def _logarithms(scores: NDArray[Any], floor: float) -> NDArray[np.float32]:
    if not (math.isfinite(floor) and floor >= _LEAST_FLOOR):
        raise UsageError("floor out of range", expected=f"a number from {_LEAST_FLOOR:g} on", found=floor)
    logarithms = np.empty(scores.shape, np.float32)

    def fill(block: slice) -> None:
        logarithms[block] = log(np.maximum(scores[block], np.float32(floor)))

    for_each_block(fill, _blocks(scores))
    return logarithms


def fit_temperature(
    scores: NDArray[Any], labels: NDArray[Any], *, weights: NDArray[Any] | None = None
) -> float:
    """Find the temperature t at which `softmax(scores / t)` gives the labels the largest likelihood.

    The negative log-likelihood is convex in 1/t, so over log t it falls and then rises, and a bounded
    search in one dimension finds its minimum. `FLOOR` plays no part in it: a floor would end the
    convexity. Guo et al. (2017), "On calibration of modern neural networks".

    Parameters
    ----------
    scores : (n, C) floats
        Finite, n ≥ 1; of data that the temperature will not be judged on.
    labels : (n,) integers
        In [0, C).
    weights : (n,) floats, optional
        How much each row counts: finite, at least 0, not all 0. All alike if left out.

    Returns
    -------
    float
        In [1e-3, 1e3], exact to about one part in a million; an end of that range where the likelihood
        still grows there. Where several temperatures do equally well, always the same of them.

    Raises
    ------
    DataError
        If there are no rows, or scores, labels and weights do not fit together.
    """
    _check_scores(scores)
    return _fit(scores, labels, weights)[0]


def _fit(scores: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None) -> tuple[float, float]:
    """Give the best temperature and its mean loss."""
    from scipy.optimize import minimize_scalar  # takes longer to import than most commands take to run

    check_labels(scores, labels)
    shares = _shares(len(scores), weights)
    losses = np.empty(len(scores))

    def mean_loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)

        def lose(block: slice) -> None:
            part = _below_largest(scores[block])
            part /= temperature
            own = part[np.arange(len(part)), labels[block]]
            exp(part)
            losses[block] = log(part.sum(axis=1)) - own

        for_each_block(lose, _blocks(scores))
        # Added up over all rows at once, so that the blocks change nothing.
        return float((losses * shares).sum())

    ends = math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE)
    found = minimize_scalar(
        mean_loss, bounds=ends, method="bounded", options={"xatol": _LOG_TEMPERATURE_TOLERANCE}
    )
    # The search never looks at the ends themselves.
    tried = [(float(found.fun), math.exp(float(found.x)))]
    tried += [(mean_loss(math.log(end)), end) for end in (LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)]
    loss, temperature = min(tried, key=lambda loss_and_temperature: loss_and_temperature[0])
    return temperature, loss


def _below_largest(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Copy rows as float64, in C order so that any layout gives the same sums, less their maximum."""
    part = scores.astype(np.float64, order="C")
    part -= part.max(axis=1, keepdims=True)
    return part


def _blocks(scores: NDArray[Any]) -> list[slice]:
    return row_blocks(len(scores), max(1, _BLOCK_ELEMENTS // scores.shape[1]))


def _check_scores(scores: NDArray[Any]) -> None:
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise DataError("scores of another shape", expected="(n, C), C at least 1", found=scores.shape)

    def check(block: slice) -> None:
        bad = np.flatnonzero(~np.isfinite(scores[block]).all(axis=1))
        if len(bad):
            raise DataError(f"scores of row {block.start + bad[0]:,} not finite", expected="finite numbers")

    for_each_block(check, _blocks(scores))


def _shares(n: int, weights: NDArray[Any] | None) -> NDArray[np.float64]:
    """Divide the weights by their sum."""
    if n == 0:
        raise DataError("no rows to fit a temperature to", expected="at least 1")
    if weights is None:
        return np.full(n, 1 / n)
    if weights.shape != (n,):
        raise DataError("weights do not fit the scores", expected=f"({n},)", found=weights.shape)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise DataError("weights out of range", expected="finite numbers of at least 0, not all 0")
    wide = weights.astype(np.float64)
    wide /= wide.max()
    shares: NDArray[np.float64] = wide / wide.sum()
    return shares
