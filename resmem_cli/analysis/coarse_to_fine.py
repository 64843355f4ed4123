"""Whether memory corrects answers that were coarsely right already."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.columns import check_columns, check_range

_Z_95 = 1.959963984540054  # the 97.5 % point of the normal distribution


@dataclass(frozen=True)
class CoarseToFine:
    """How often the base network's wrong answer lay in the true class's group of classes.

    Attributes
    ----------
    groups : int
        Groups of classes.
    n_corrected, n_base_errors : int
        Wrong answers that memory corrected, and all of them.
    corrected_in_group, uncorrected_in_group, errors_in_group : float or None
        Share in the group: of the errors corrected, of the others, and of all; None of no errors.
    difference : float or None
        `corrected_in_group − errors_in_group`.
    interval : (float, float) or None
        Of the difference, 95 %; None unless some errors were corrected and some were not.
    """

    groups: int
    n_corrected: int
    n_base_errors: int
    corrected_in_group: float | None
    uncorrected_in_group: float | None
    errors_in_group: float | None
    difference: float | None
    interval: tuple[float, float] | None


def coarse_to_fine(
    labels: NDArray[Any], base_predicted: NDArray[Any], predicted: NDArray[Any], groups: NDArray[Any]
) -> CoarseToFine:
    """Measure whether memory refines answers that are coarsely right (Yang et al. 2023, section 4.4).

    The corrected errors are among all errors, so the two shares are not independent. Those of the corrected
    and of the other errors are, and with `n_c` of `n_e` errors corrected

        `p_corrected − p_all = (1 − n_c/n_e) · (p_corrected − p_uncorrected)`.

    So the interval is that of the difference on the right (`difference_interval`) times its factor: it
    holds for the share of errors that were corrected here.

    Parameters
    ----------
    labels, base_predicted, predicted : (n,) integers
        True classes, and the answers without and with memory, in [0, C).
    groups : (C,) integers
        The group of each class.

    Raises
    ------
    DataError
        If the columns are not of one length, or hold classes that there are not.
    """
    check_columns(labels=labels, base_predicted=base_predicted, predicted=predicted)
    check_range(labels, len(groups), "labels")
    check_range(base_predicted, len(groups), "base_predicted")
    wrong = base_predicted != labels
    inside = wrong & (groups[labels] == groups[base_predicted])
    corrected = wrong & (predicted == labels)
    n, n_c = int(np.count_nonzero(wrong)), int(np.count_nonzero(corrected))
    n_inside, c_inside = int(np.count_nonzero(inside)), int(np.count_nonzero(inside & corrected))
    difference, interval = None, None
    if n_c:
        difference = c_inside / n_c - n_inside / n
    if 0 < n_c < n:
        low, high = difference_interval(c_inside, n_c, n_inside - c_inside, n - n_c)
        interval = (1 - n_c / n) * low, (1 - n_c / n) * high
    return CoarseToFine(
        groups=len(np.unique(groups)),
        n_corrected=n_c,
        n_base_errors=n,
        corrected_in_group=c_inside / n_c if n_c else None,
        uncorrected_in_group=(n_inside - c_inside) / (n - n_c) if n > n_c else None,
        errors_in_group=n_inside / n if n else None,
        difference=difference,
        interval=interval,
    )


def difference_interval(count_a: int, n_a: int, count_b: int, n_b: int) -> tuple[float, float]:
    """Compute a 95 % interval of `p_a − p_b`, two independent shares of n ≥ 1 each.

    Newcombe's hybrid of Wilson's score intervals, without continuity correction (method 10 of Newcombe 1998,
    "Interval estimation for the difference between independent proportions", Statistics in Medicine 17).
    """
    p, (p_low, p_high) = count_a / n_a, _wilson_interval(count_a, n_a)
    q, (q_low, q_high) = count_b / n_b, _wilson_interval(count_b, n_b)
    return p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)


def _wilson_interval(count: int, n: int) -> tuple[float, float]:
    spread = _Z_95 * math.sqrt(_Z_95**2 + 4 * count * (n - count) / n)
    middle, whole = 2 * count + _Z_95**2, 2 * (n + _Z_95**2)
    return (middle - spread) / whole, (middle + spread) / whole
