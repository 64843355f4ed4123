"""When to let memory answer: only near its rows, and only where the base network is not sure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.columns import check_columns
from resmem_cli.errors import DataError

_N_THRESHOLDS = 64
# Sums of weights that differ by a smaller share of all the weight are equal but for rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Gate:
    """Limits within which memory is used; elsewhere the base network answers.

    Attributes
    ----------
    distance : float or None
        Largest distance to the nearest neighbour; None is no limit.
    confidence : float or None
        Largest confidence of the base network; None is no limit.
    accuracy, plain_accuracy : float or None
        On the queries it was chosen on, with the gate and without; None for a gate that was not chosen.
    share_open : float or None
        Share of those queries that it lets memory answer.
    """

    distance: float | None = None
    confidence: float | None = None
    accuracy: float | None = None
    plain_accuracy: float | None = None
    share_open: float | None = None

    def open(self, nearest: NDArray[Any], confidence: NDArray[Any]) -> NDArray[np.bool_]:
        """Tell which queries memory answers.

        Parameters
        ----------
        nearest : (n,) floats
            Distance to the nearest neighbour.
        confidence : (n,) floats
            The base network's largest probability.

        Returns
        -------
        (n,) bool
            Where neither is above its limit.

        Raises
        ------
        DataError
            If they are not two columns of one length.
        """
        check_columns(nearest=nearest, confidence=confidence)
        opened = np.ones(len(nearest), bool)
        if self.distance is not None:
            opened &= nearest <= self.distance
        if self.confidence is not None:
            opened &= confidence <= self.confidence
        return opened


def select_gate(
    nearest: NDArray[Any],
    base_confidence: NDArray[Any],
    right: NDArray[np.bool_],
    base_right: NDArray[np.bool_],
    weights: NDArray[Any] | None = None,
) -> Gate:
    """Choose the gate with the most right answers.

    All pairs are tried of 64 quantiles of either column, values that occur in it, and no limit. Of equally
    good pairs the one that is open for most queries wins, then that of the larger distance, then that of
    the larger confidence. So there is no limit where none gains.

    Parameters
    ----------
    nearest : (n,) floats
        Distance to the nearest neighbour; n ≥ 1.
    base_confidence : (n,) floats
        The base network's largest probability.
    right, base_right : (n,) bool
        Whether the answers with and without memory are right.
    weights : (n,) numbers, optional
        How much each answer counts, at least 0; all the same if left out.

    Raises
    ------
    DataError
        If the columns are not of one length, empty or not finite, or the weights are no weights.
    """
    check_columns(nearest=nearest, base_confidence=base_confidence, right=right, base_right=base_right)
    if not len(nearest) or not (np.isfinite(nearest).all() and np.isfinite(base_confidence).all()):
        raise DataError("no queries to choose a gate on", expected="finite numbers, at least 1 of each")
    if weights is None:
        weights = np.ones(len(nearest))
    check_columns(nearest=nearest, weights=weights)
    if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.any()):
        raise DataError("weights out of range", expected="finite numbers from 0 on, not all 0")
    weights = weights.astype(np.float64)
    distances, of_distance = _thresholds(nearest)
    confidences, of_confidence = _thresholds(base_confidence)
    cells = of_distance * len(confidences) + of_confidence
    shape = len(distances), len(confidences)

    def within(counts: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Add up what every pair of limits lets through."""
        cut = np.bincount(cells, weights=counts, minlength=shape[0] * shape[1]).reshape(shape)
        return cut.cumsum(axis=0).cumsum(axis=1)

    gained = within(weights * (right.astype(np.int8) - base_right.astype(np.int8)))
    n_open = within(None)
    best = gained >= gained.max() - _ROUNDING * weights.sum()
    # The last of the pairs that are open for most, which has the larger limits.
    most = np.flatnonzero(np.where(best, n_open, -1) == n_open[best].max())[-1]
    row, column = np.unravel_index(most, shape)
    gate = Gate(distances[row], confidences[column])
    opened = gate.open(nearest, base_confidence)
    return Gate(
        distance=gate.distance,
        confidence=gate.confidence,
        accuracy=float(np.average(np.where(opened, right, base_right), weights=weights)),
        plain_accuracy=float(np.average(right, weights=weights)),
        share_open=float(opened.mean()),
    )


def _thresholds(values: NDArray[Any]) -> tuple[list[float | None], NDArray[np.int64]]:
    """Give the limits to try, none the last, and the first of them that lets each value through."""
    # Values that occur, so that a limit means the same in the values' own type as in float64.
    places = -(-len(values) * np.arange(1, _N_THRESHOLDS + 1) // (_N_THRESHOLDS + 1)) - 1
    limits = np.unique(np.sort(values)[places])
    limits = limits[limits < values.max()]
    return [*limits.tolist(), None], np.searchsorted(limits, values)
