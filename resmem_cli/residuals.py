"""Residuals: what the base network got wrong on each training example (Yang et al. 2023, section 4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError
from resmem_cli.exponential import exp, log
from resmem_cli.largest import largest_entries
from resmem_cli.threads import for_each_block
from resmem_cli.types import row_blocks

VALUE_SCALE = 65535
"""A top residual of size 1 is stored as this integer."""

LARGEST_LOGIT = 2.0**30
"""Up to it `log Σ exp` in float64 tells probabilities to 1.2e-7."""

# Rows handled at once: their float64 copies stay in the processor's cache.
_BLOCK_ELEMENTS = 1 << 17

_SMALLEST = float(np.finfo(np.float32).tiny)
_LARGEST = float(np.finfo(np.float32).max)


_HUGE = np.float32(1e30)


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
    divisor = np.float32(_divisor(temperature))
    # In C order, so that each row is summed in the same order whatever the layout of the logits.
    scores = np.empty(logits.shape, np.float32)

    def fill(block: slice) -> None:
        part = scores[block]
        part[...] = logits[block]
        with np.errstate(over="ignore"):
            # The maximum is subtracted before dividing, or a small temperature would overflow.
            largest = part.max(axis=1, keepdims=True)
            # Below it differences can't overflow; above, those of halves don't, which are exact.
            huge = largest[:, 0] > _HUGE
            halves = (part[huge] / 2 - largest[huge] / 2) / (divisor / 2) if huge.any() else None
            part -= largest
            part /= divisor
            if halves is not None:
                part[huge] = halves
        exp(part)
        part /= part.sum(axis=1, keepdims=True)

    for_each_block(fill, row_blocks(len(logits), max(1, _BLOCK_ELEMENTS // logits.shape[1])))
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
    check_labels(logits, labels)
    residuals = softmax(logits, temperature=temperature)
    np.negative(residuals, out=residuals)
    residuals[np.arange(len(labels)), labels] += np.float32(1)
    return residuals


@dataclass(frozen=True)
class TopResiduals:
    """The entries of largest absolute value of each residual, in fixed-width rows.

    The label's entry is always among the largest, since a residual sums to 0 and all others are
    negative; it stands first. Then come the other classes of largest logit, the largest first.

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


@dataclass(frozen=True)
class TopLogits:
    """The largest logits of each row, with what the rest of a softmax at T = 1 needs.

    Attributes
    ----------
    classes : (n, m) uint16 or int32
        Which classes, the largest logit first; of equal logits the lower class.
    values : (n, m) float32
        Their logits.
    logsumexp : (n,) float64
        `log Σ_c exp(f_c)` over all classes.
    label_logit : (n,) float32 or None
        The label's logit, where there are labels.
    n_classes : int
        `C`, how many logits there were.
    """

    classes: NDArray[Any]
    values: NDArray[np.float32]
    logsumexp: NDArray[np.float64]
    label_logit: NDArray[np.float32] | None
    n_classes: int

    def at(self, rows: NDArray[np.int64] | slice) -> TopLogits:
        """Give some of the rows."""
        own = None if self.label_logit is None else self.label_logit[rows]
        return TopLogits(self.classes[rows], self.values[rows], self.logsumexp[rows], own, self.n_classes)


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
        `m`, from 1 to C; of equal logits the lower class is taken.
    temperature : float
        `T`.

    Raises
    ------
    UsageError
        If `top` or the temperature is out of range.
    DataError
        If the labels do not fit the logits.
    """
    check_labels(logits, labels)
    check_temperature(temperature)
    n_classes = logits.shape[1]
    check_top(top, n_classes=n_classes)
    classes = np.empty((len(logits), top), class_dtype(n_classes))
    stored = np.empty((len(logits), top), np.uint16)

    def fill(block: slice) -> None:
        scores = logits[block].astype(np.float32, order="C")
        own = labels[block].astype(np.int64)[:, None]
        largest, normaliser = _normaliser(scores, temperature)
        own_logits = np.take_along_axis(scores, own, axis=1)
        np.put_along_axis(scores, own, -np.inf, axis=1)
        others = largest_entries(scores, top - 1)
        kept = np.concatenate([own_logits, np.take_along_axis(scores, others, axis=1)], axis=1)
        classes[block] = np.concatenate([own, others], axis=1)
        if temperature == 1:
            # In the order in which `TopLogits` allows it, for the same bits; larger logits swallow the rest.
            small = np.abs(largest) <= LARGEST_LOGIT
            logs = np.where(small, kept - (largest + normaliser), (kept - largest) - normaliser)
        else:
            logs = (kept - largest) / _divisor(temperature) - normaliser
        stored[block] = _encode(logs)

    for_each_block(fill, row_blocks(len(logits), max(1, _BLOCK_ELEMENTS // n_classes)))
    return TopResiduals(classes, stored, n_classes)


def residuals_of_top_logits(logits: TopLogits, labels: NDArray[Any], *, top: int) -> TopResiduals:
    """Compute what `compute_top_residuals` gives at T = 1, from the largest logits alone.

    Parameters
    ----------
    logits : TopLogits
        With the labels' logits.
    labels : (n,) integers
        In [0, C).
    top : int
        `m`, from 1 to the number of logits kept.

    Raises
    ------
    UsageError
        If `top` is out of range.
    DataError
        If the labels do not fit, their logits are missing, or a logit is so large that float64 has no
        digits left for the rest of its softmax.
    """
    n, n_kept = logits.classes.shape
    if not 1 <= top <= n_kept:
        raise UsageError("top out of range", expected=f"1 to {n_kept:,} (the logits kept)", found=top)
    check_labels(np.broadcast_to(np.float32(0), (n, logits.n_classes)), labels)
    if logits.label_logit is None:
        raise DataError("top logits without those of the labels")
    if n and np.abs(logits.logsumexp).max() > LARGEST_LOGIT:
        raise DataError(
            "logits too large for their residuals to follow from the largest",
            field="logits_top",
            expected=f"at most {LARGEST_LOGIT:.3g}",
            found=f"{np.abs(logits.logsumexp).max():.3g}",
            remedy="keep all logits, or divide them",
        )
    own = labels.astype(np.int64)[:, None]
    # The label goes last where it is among the largest; the rest stays in order.
    order = np.argsort(logits.classes == own, axis=1, kind="stable")[:, : top - 1]
    others = np.take_along_axis(logits.classes, order, axis=1)
    kept = np.concatenate(
        [logits.label_logit[:, None], np.take_along_axis(logits.values, order, axis=1)], axis=1
    )
    classes = np.concatenate([own, others], axis=1).astype(class_dtype(logits.n_classes))
    return TopResiduals(classes, _encode(kept - logits.logsumexp[:, None]), logits.n_classes)


def logsumexp(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Compute `log Σ_c exp(f_c)` of each row of (n, C) logits in float64, as `TopLogits` holds it."""
    return np.add(*_normaliser(logits.astype(np.float32, order="C"), 1.0))[:, 0]


def _normaliser(
    scores: NDArray[np.float32], temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute `a = max_c f_c` and `log Σ_c exp((f_c − a) / T)`, each (n, 1)."""
    largest = scores.max(axis=1, keepdims=True).astype(np.float64)
    shifted = scores - largest
    if temperature != 1:
        shifted /= _divisor(temperature)
    exp(shifted)
    return largest, log(shifted.sum(axis=1, keepdims=True))


def _divisor(temperature: float) -> float:
    # Beyond float32's range the division would give 0/0 or ∞/∞.
    return min(max(temperature, _SMALLEST), _LARGEST)


def _encode(log_probabilities: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Store the absolute residuals of (n, m) classes, the first of which are the labels; overwrites them."""
    values = log_probabilities
    exp(values)
    values[:, 0] = 1 - values[:, 0]
    # Rounding can leave a probability just above 1.
    stored: NDArray[np.uint16] = np.rint(np.clip(values, 0, 1) * VALUE_SCALE).astype(np.uint16)
    return stored


def check_top(top: int, *, n_classes: int) -> None:
    """Raise `UsageError` unless so many entries of a residual can be kept."""
    if not 1 <= top <= n_classes:
        raise UsageError("top out of range", expected=f"1 to {n_classes:,} (the classes)", found=top)


def check_temperature(temperature: float) -> None:
    """Raise `UsageError` unless the temperature is a positive number."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise UsageError("temperature out of range", expected="a number above 0", found=temperature)


def check_labels(logits: NDArray[Any], labels: NDArray[Any]) -> None:
    """Raise `DataError` unless the labels are one class of (n, C) logits, or other scores, for each row."""
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
