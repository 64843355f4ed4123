"""What memory changed: accuracies, gain, and how sure one can be of it (Yang et al. 2023, section 4.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError

_Z_95 = 1.959963984540054  # the 97.5 % point of the normal distribution


@dataclass(frozen=True)
class Gain:
    """A method against the base network on the same examples.

    Attributes
    ----------
    n : int
        Examples.
    base_accuracy, accuracy : float
        Of the base network and of the method, shares of 1.
    n_corrected, n_broken : int
        Examples that the method turned from wrong to right, and from right to wrong.
    gain : float
        `accuracy − base_accuracy`, which is also `tpr − fpr`.
    interval : (float, float)
        95 % confidence interval of the gain.
    p_value : float
        McNemar's exact test, two-sided.
    """

    n: int
    base_accuracy: float
    accuracy: float
    n_corrected: int
    n_broken: int
    gain: float
    interval: tuple[float, float]
    p_value: float

    @property
    def tpr(self) -> float:
        """Share of all examples that were corrected."""
        return self.n_corrected / self.n

    @property
    def fpr(self) -> float:
        """Share of all examples that were broken."""
        return self.n_broken / self.n


def compare(labels: NDArray[Any], base_predicted: NDArray[Any], predicted: NDArray[Any]) -> Gain:
    """Set a method's predictions against the base network's.

    Parameters
    ----------
    labels, base_predicted, predicted : (n,) integers
        True classes, and both predictions; n ≥ 1.

    Raises
    ------
    DataError
        If they are not three columns of one length.
    """
    if not labels.shape == base_predicted.shape == predicted.shape or labels.ndim != 1 or not len(labels):
        raise DataError(
            "labels and predictions do not fit together",
            expected="three arrays of shape (n,)",
            found=f"{labels.shape}, {base_predicted.shape} and {predicted.shape}",
        )
    n = len(labels)
    corrected, broken = changed_examples(labels, base_predicted, predicted)
    n_corrected, n_broken = len(corrected), len(broken)
    return Gain(
        n=n,
        base_accuracy=float(np.mean(base_predicted == labels)),
        accuracy=float(np.mean(predicted == labels)),
        n_corrected=n_corrected,
        n_broken=n_broken,
        gain=(n_corrected - n_broken) / n,
        interval=gain_interval(n_corrected, n_broken, n),
        p_value=mcnemar_p_value(n_corrected, n_broken),
    )


def changed_examples(
    labels: NDArray[Any], base_predicted: NDArray[Any], predicted: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the rows that the method corrected, and those it broke."""
    right, base_right = predicted == labels, base_predicted == labels
    return np.flatnonzero(right & ~base_right), np.flatnonzero(base_right & ~right)


def mcnemar_p_value(n_corrected: int, n_broken: int) -> float:
    """Compute McNemar's exact test: the changed examples as fair coin tosses, two-sided."""
    from scipy.special import bdtr  # takes longer to import than most commands take to run

    n_changed = n_corrected + n_broken
    if n_changed == 0:
        return 1.0
    return min(1.0, 2.0 * float(bdtr(min(n_corrected, n_broken), n_changed, 0.5)))


def gain_interval(n_corrected: int, n_broken: int, n: int) -> tuple[float, float]:
    """Compute a 95 % interval of the gain, a difference of paired proportions.

    Wald's interval after adding one example to each kind of change, which keeps its coverage for few
    changes (Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data").
    """
    up, down = (n_corrected + 1) / (n + 2), (n_broken + 1) / (n + 2)
    middle = up - down
    half = _Z_95 * math.sqrt((up + down - middle**2) / (n + 2))
    return max(-1.0, middle - half), min(1.0, middle + half)
