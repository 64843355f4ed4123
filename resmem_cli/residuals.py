"""Residuals: what the base network got wrong on each training example (Yang et al. 2023, section 4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError

VALUE_SCALE = 65535
"""A top residual of size 1 is stored as this integer."""

_SMALLEST = float(np.finfo(np.float32).tiny)
_LARGEST = float(np.finfo(np.float32).max)


def softmax(logits: NDArray[Any], *, temperature: float = 1.0) -> NDArray[np.float32]:
    """Compute `softmax(logits / temperature)` in float32, each row's maximum subtracted first.

    Parameters
    ----------
    logits : (n, C) floats
        Narrower types are widened.
    temperature : float
        Above 0.

    Returns
    -------
    (n, C) float32
        Rows that sum to 1.

    Raises
    ------
    UsageError
        If the temperature is not a positive number.
    """
    check_temperature(temperature)
    # In C order, so that each row is summed in the same order whatever the layout of the logits.
    scores = logits.astype(np.float32, order="C")
    # Beyond float32's range the division would give 0/0 or ∞/∞.
    divisor = np.float32(min(max(temperature, _SMALLEST), _LARGEST))
    with np.errstate(over="ignore"):
        # The maximum is subtracted before dividing, or a small temperature would overflow.
        scores -= scores.max(axis=1, keepdims=True)
        scores /= divisor
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores


def compute_residuals(
    logits: NDArray[Any], labels: NDArray[Any], *, temperature: float = 1.4
) -> NDArray[np.float32]:
    """Compute `r_i = onehot(y_i) − softmax(f(x_i) / T)`.

    Parameters
    ----------
    logits : (n, C) floats
        `f(x_i)`, the base network's output.
    labels : (n,) integers
        `y_i`, in [0, C).
    temperature : float
        `T`; the paper takes 1.4 for CIFAR100.

    Returns
    -------
    (n, C) float32
        Rows that sum to 0; only the label's entry is positive.

    Raises
    ------
    UsageError
        If the temperature is not a positive number.
    DataError
        If the labels do not fit the logits.
    """
    _check_labels(logits, labels)
    residuals = softmax(logits, temperature=temperature)
    np.negative(residuals, out=residuals)
    residuals[np.arange(len(labels)), labels] += np.float32(1)
    return residuals


@dataclass(frozen=True)
class TopResiduals:
    """The entries of largest absolute value of each residual, in fixed-width rows.

    The label's entry is always among the largest, since a residual sums to 0 and all others are
    negative; it stands first. Then come the most probable other classes, the most probable first.

    Attributes
    ----------
    classes : (n, m) uint16 or int32
        Which classes.
    values : (n, m) uint16
        `|r| × 65535`, so that a value is at most 7.7e-6 off; the first is positive, the rest negative.
    n_classes : int
        `C`, the length of a whole residual.
    """

    classes: NDArray[Any]
    values: NDArray[np.uint16]
    n_classes: int

    def to_dense(self) -> NDArray[np.float32]:
        """Write the rows out as (n, C) float32; entries that were not kept are 0."""
        dense = np.zeros((len(self.classes), self.n_classes), np.float32)
        np.put_along_axis(dense, self.classes.astype(np.int64), self.signed_values(), axis=1)
        return dense

    def signed_values(self) -> NDArray[np.float32]:
        """Decode the (n, m) values."""
        return decode_values(self.values)


def class_dtype(n_classes: int) -> np.dtype[Any]:
    """Choose the narrowest stored type of class ids: uint16, or int32 above 65,536 classes."""
    return np.dtype(np.uint16 if n_classes <= 1 << 16 else np.int32)


def decode_values(values: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Turn stored values (…, m) into residual entries: the first of each row positive, the rest negative."""
    decoded = values.astype(np.float32)
    decoded *= np.float32(-1 / VALUE_SCALE)
    # np.negative in place leaves numpy 2.4 with wrong numbers where entries lie 16 bytes apart (m = 4).
    decoded[..., 0] *= -1
    return decoded


def compute_top_residuals(
    logits: NDArray[Any], labels: NDArray[Any], *, top: int, temperature: float = 1.4
) -> TopResiduals:
    """Compute the residuals and keep the `top` entries of largest absolute value (paper's appendix E).

    Parameters
    ----------
    logits : (n, C) floats
        The base network's output.
    labels : (n,) integers
        In [0, C).
    top : int
        `m`, from 1 to C; equally probable classes go to the lower class.
    temperature : float
        `T`.

    Raises
    ------
    UsageError
        If `top` or the temperature is out of range.
    DataError
        If the labels do not fit the logits.
    """
    _check_labels(logits, labels)
    n_classes = logits.shape[1]
    check_top(top, n_classes=n_classes)
    probabilities = softmax(logits, temperature=temperature)
    rows = np.arange(len(labels))
    own = 1 - probabilities[rows, labels]
    probabilities[rows, labels] = -1
    others = largest_entries(probabilities, top - 1)
    values = np.concatenate([own[:, None], np.take_along_axis(probabilities, others, axis=1)], axis=1)
    stored = np.rint(values * VALUE_SCALE).astype(np.uint16)
    classes = np.concatenate([labels.astype(np.int64)[:, None], others], axis=1)
    return TopResiduals(classes.astype(class_dtype(n_classes)), stored, n_classes)


def largest_entries(scores: NDArray[np.float32], m: int) -> NDArray[np.int64]:
    """Find the `m` largest entries of each row, largest first; ties go to the lower column.

    Parameters
    ----------
    scores : (n, C) float32
        Not NaN.
    m : int
        At most C.

    Returns
    -------
    (n, m) int64
        Column numbers.
    """
    if m == 0:
        return np.empty((len(scores), 0), np.int64)
    if m < scores.shape[1]:
        # A full sort costs several times a selection. Which of equal entries a selection takes depends
        # on the processor, so the rows with a tie at the cut are sorted instead.
        chosen = np.sort(np.argpartition(scores, -m, axis=1)[:, -m:], axis=1)
        cut = np.take_along_axis(scores, chosen, axis=1).min(axis=1, keepdims=True)
        tied = np.flatnonzero((scores >= cut).sum(axis=1) > m)
        if len(tied):
            chosen[tied] = np.sort(np.argsort(-scores[tied], axis=1, kind="stable")[:, :m], axis=1)
    else:
        chosen = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    order = np.argsort(-np.take_along_axis(scores, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1).astype(np.int64)


def check_top(top: int, *, n_classes: int) -> None:
    """Raise `UsageError` unless so many entries of a residual can be kept."""
    if not 1 <= top <= n_classes:
        raise UsageError("top out of range", expected=f"1 to {n_classes:,} (the classes)", found=top)


def check_temperature(temperature: float) -> None:
    """Raise `UsageError` unless the temperature is a positive number."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise UsageError("temperature out of range", expected="a number above 0", found=temperature)


def _check_labels(logits: NDArray[Any], labels: NDArray[Any]) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise DataError(
            "labels do not fit the logits",
            expected="(n, C) and (n,)",
            found=f"{logits.shape} and {labels.shape}",
        )
    if labels.dtype.kind not in "iu":
        raise DataError("labels that are no integers", expected="an integer type", found=labels.dtype)
    bad = np.flatnonzero((labels < 0) | (labels >= logits.shape[1]))
    if len(bad):
        raise DataError(
            f"label of row {bad[0]:,} out of range",
            expected=f"0 to {logits.shape[1] - 1}",
            found=int(labels[bad[0]]),
        )
