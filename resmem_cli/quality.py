"""How good probabilities are: columns of one number a query, what they add up to, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.calibration import FLOOR
from resmem_cli.errors import DataError, UsageError
from resmem_cli.exponential import log
from resmem_cli.metrics import compare
from resmem_cli.residuals import check_labels
from resmem_cli.threads import for_each_block
from resmem_cli.types import row_blocks

N_BINS = 15
"""Bins of the calibration error, each of as many queries."""

# Probabilities looked at together by one thread: they stay in the processor's cache.
_BLOCK_ELEMENTS = 1 << 16
# Resampled differences held at once.
_RESAMPLE_ELEMENTS = 1 << 20
# Up to so many distinct differences, drawing how often each occurs beats drawing the queries.
_FEW_VALUES = 16
# How far a row's sum may be from 1: probabilities may have been stored in float16.
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Outcomes:
    """What became of each query: all that the metrics need, without its C probabilities.

    Attributes
    ----------
    predicted : (n,) int32
        The predicted class.
    label_probability : (n,) float32
        `p_y`, of the true class.
    confidence : (n,) float32
        `max_c p_c`.
    squares : (n,) float32
        `Σ_c p_c²`.
    label_rank : (n,) int32
        How many classes rank above the true one; 0 exactly where it is predicted.
    """

    predicted: NDArray[np.int32]
    label_probability: NDArray[np.float32]
    confidence: NDArray[np.float32]
    squares: NDArray[np.float32]
    label_rank: NDArray[np.int32]


@dataclass(frozen=True)
class ReliabilityBin:
    """Queries of neighbouring confidence.

    Attributes
    ----------
    confidence, accuracy : float
        Mean confidence, and the share predicted right.
    n : int
        Queries.
    """

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Quality:
    """How good the probabilities of a set of queries are.

    Attributes
    ----------
    accuracy, top5_accuracy : float
        Shares of 1 whose true class ranks first, and among the first five.
    nll : float
        Mean of `−log max(p_y, FLOOR)`, in nats.
    brier : float
        Mean of `Σ_c (p_c − 1[c = y])²`, in [0, 2].
    ece : float
        Expected calibration error: `Σ_b n_b/n · |confidence_b − accuracy_b|` over the bins.
    reliability : tuple of ReliabilityBin
        The bins, of rising confidence: 15 of as equal size as can be, or one a query if there are fewer.
    """

    accuracy: float
    top5_accuracy: float
    nll: float
    brier: float
    ece: float
    reliability: tuple[ReliabilityBin, ...]


def outcomes(
    probabilities: NDArray[Any],
    labels: NDArray[Any],
    *,
    predicted: NDArray[Any] | None = None,
    scores: NDArray[Any] | None = None,
) -> Outcomes:
    """Reduce each query's probabilities to what the metrics need.

    Parameters
    ----------
    probabilities : (n, C) floats
        Rows at least 0 that sum to 1.
    labels : (n,) integers
        True classes, in [0, C).
    predicted : (n,) integers, optional
        The predicted classes, where they are the argmax of finer numbers in which rounding made no ties.
        They rank first; the other classes follow by score.
    scores : (n, C) floats, optional
        What the probabilities were made of, where making them made ties, as clipping does: classes rank by
        these, or if left out by probability. Ties go to the lower class.

    Raises
    ------
    DataError
        If the rows are no probabilities, or the columns do not fit them.
    """
    check_labels(probabilities, labels)
    if predicted is not None:
        check_labels(probabilities, predicted)
    if scores is not None:
        check_labels(scores, labels)
    n, n_classes = probabilities.shape
    classes = np.arange(n_classes)
    result = Outcomes(
        predicted=np.empty(n, np.int32),
        label_probability=np.empty(n, np.float32),
        confidence=np.empty(n, np.float32),
        squares=np.empty(n, np.float32),
        label_rank=np.empty(n, np.int32),
    )

    def reduce(block: slice) -> None:
        part = probabilities[block].astype(np.float32, order="C")
        _check_probabilities(part, block.start)
        rows, label = np.arange(len(part)), labels[block].astype(np.int64)
        first = (part.argmax(axis=1) if predicted is None else predicted[block]).astype(np.int64)
        own = part[rows, label]
        ranked = part if scores is None else scores[block]
        of_label = ranked[rows, label][:, None]
        above = ranked == of_label
        above &= classes < label[:, None]
        above |= ranked > of_label
        # The predicted class counts as above every other, even where the probabilities say less.
        above[rows, first] = first != label
        above[first == label] = False
        result.predicted[block] = first
        result.label_probability[block] = own
        result.confidence[block] = part.max(axis=1)
        result.squares[block] = np.square(part, dtype=np.float64).sum(axis=1)
        result.label_rank[block] = np.count_nonzero(above, axis=1)

    for_each_block(reduce, row_blocks(n, max(1, _BLOCK_ELEMENTS // max(1, n_classes))))
    return result


def summarize(outcomes: Outcomes, labels: NDArray[Any]) -> Quality:
    """Compute accuracies, likelihood, Brier score and calibration of a set of queries.

    Parameters
    ----------
    outcomes : Outcomes
        Of n ≥ 1 queries.
    labels : (n,) integers
        The true classes that the outcomes were computed with.

    Raises
    ------
    DataError
        If there are no queries, or the labels are others.
    """
    right = _right(outcomes, labels)
    own = outcomes.label_probability.astype(np.float64)
    bins = _reliability(outcomes.confidence, right)
    return Quality(
        accuracy=float(right.mean()),
        top5_accuracy=float(np.mean(outcomes.label_rank < 5)),
        nll=float(-log(np.maximum(own, FLOOR)).mean()),
        brier=float((outcomes.squares - 2 * own + 1).mean()),
        ece=sum(b.n * abs(b.confidence - b.accuracy) for b in bins) / len(right),
        reliability=bins,
    )


def bootstrap_interval(
    differences: NDArray[Any], *, seed: int = 0, n_resamples: int = 10_000, level: float = 0.95
) -> tuple[float, float]:
    """Compute a percentile bootstrap interval of a mean, the queries drawn anew with replacement.

    With the differences of two methods on the same queries it is the paired bootstrap. Where they take few
    distinct values, how often each occurs in a resample is drawn from the multinomial distribution,
    which is the same in law. Efron and Tibshirani (1993), chapter 13.

    Parameters
    ----------
    differences : (n,) numbers
        One a query, finite; n ≥ 1.
    seed : int
        The same seed gives the same interval.
    n_resamples : int
        At least 1.
    level : float
        Share of the resampled means to enclose, between 0 and 1.

    Returns
    -------
    (float, float)
        Lower and upper end.

    Raises
    ------
    DataError
        If the differences are not one finite column with at least one entry.
    UsageError
        If the number of resamples or the level is out of range.
    """
    if differences.ndim != 1 or not len(differences) or not np.isfinite(differences).all():
        raise DataError(
            "no differences to resample",
            expected="(n,) finite numbers, n at least 1",
            found=differences.shape,
        )
    if n_resamples < 1:
        raise UsageError("resamples out of range", expected="at least 1", found=n_resamples)
    if not 0 < level < 1:
        raise UsageError("level out of range", expected="a number between 0 and 1", found=level)
    rng = np.random.default_rng(seed)
    sample = differences.astype(np.float64)
    n = len(sample)
    values, counts = np.unique(sample, return_counts=True)
    if len(values) <= _FEW_VALUES:
        means = (rng.multinomial(n, counts / n, size=n_resamples) / n * values).sum(axis=1)
    else:
        means = np.empty(n_resamples)
        for block in row_blocks(n_resamples, max(1, _RESAMPLE_ELEMENTS // n)):
            means[block] = sample[rng.integers(n, size=(block.stop - block.start, n))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Compute the mean of one figure over runs, and its standard deviation (`n − 1` in the divisor).

    The deviation of a single run is not known: None.

    Raises
    ------
    DataError
        If there are no values.
    """
    if not len(values):
        raise DataError("no values to average", expected="at least 1")
    wide = np.asarray(values, np.float64)
    return float(wide.mean()), float(wide.std(ddof=1)) if len(wide) > 1 else None


def mcnemar(labels: NDArray[Any], predicted_a: NDArray[Any], predicted_b: NDArray[Any]) -> float:
    """Compute the p-value of McNemar's exact test that two methods are right equally often.

    Parameters
    ----------
    labels, predicted_a, predicted_b : (n,) integers
        True classes, and both methods' predictions; n ≥ 1.

    Raises
    ------
    DataError
        If they are not three columns of one length.
    """
    return compare(labels, predicted_a, predicted_b).p_value


def _check_probabilities(part: NDArray[np.float32], first_row: int) -> None:
    # Put so that NaN fails as well.
    good = (part.min(axis=1) >= 0) & (np.abs(part.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    if not good.all():
        raise DataError(
            f"row {first_row + np.flatnonzero(~good)[0]:,} holds no probabilities",
            expected="numbers of at least 0 that sum to 1",
            remedy="make probabilities of scores first (to_probabilities)",
        )


def _right(outcomes: Outcomes, labels: NDArray[Any]) -> NDArray[np.bool_]:
    if labels.shape != outcomes.predicted.shape or not len(labels):
        raise DataError(
            "labels do not fit the outcomes",
            expected=f"{outcomes.predicted.shape}, at least 1",
            found=labels.shape,
        )
    right: NDArray[np.bool_] = outcomes.predicted == labels
    if not np.array_equal(right, outcomes.label_rank == 0):
        raise DataError("labels other than those the outcomes were computed with")
    return right


def _reliability(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    """Cut the queries into bins of equal size by confidence; ties stay in the order of their rows."""
    order = np.argsort(confidence, kind="stable")
    bins = np.array_split(order, min(N_BINS, len(order)))
    return tuple(
        ReliabilityBin(
            float(confidence[rows].mean(dtype=np.float64)),
            float(right[rows].mean()),
            len(rows),
        )
        for rows in bins
    )
