"""What leaves the device: rows of the right shape in float32, or the largest logits, checked to be finite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError
from resmem_cli.models.extra import torch
from resmem_cli.residuals import TopLogits, class_dtype

_CHUNK_BYTES = 16 << 20
"""What the float64 copy of some rows of logits may take; 64 MiB are half as slow again on a CPU."""


@dataclass(frozen=True)
class Activations:
    """What one batch gave.

    Attributes
    ----------
    embeddings : (r, d) float32
        Finite.
    logits : (r, C) float32 or None
        Finite; None where only the largest were wanted.
    top : TopLogits or None
        The largest logits, where they were wanted.
    """

    embeddings: NDArray[np.float32]
    logits: NDArray[np.float32] | None
    top: TopLogits | None


def one_row_each(logits: torch.Tensor, n_rows: int) -> torch.Tensor:
    """Check that logits are (b, C), or flatten (b, C, 1, 1); `DataError` for other shapes."""
    if logits.ndim < 2 or logits.shape[0] != n_rows or any(length != 1 for length in logits.shape[2:]):
        raise DataError(
            "logits: not one vector per row",
            expected=f"shape ({n_rows}, classes)",
            found=tuple(logits.shape),
            remedy="name the layer that makes them: --logits-layer",
        )
    return logits.flatten(1)


def one_row_a_token(tensor: torch.Tensor, shape: tuple[int, ...], what: str) -> torch.Tensor:
    """Check that it is (b, L, d), or (b·L, d) as some networks flatten it, or raise `DataError`."""
    n_windows, length = shape
    if tensor.shape[:-1] not in ((n_windows, length), (n_windows * length,)):
        raise DataError(
            f"{what}: not one vector per token",
            expected=f"shape ({n_windows}, {length}, any)",
            found=tuple(tensor.shape),
            remedy="give another --logits-layer" if what == "logits" else "give another --layer",
        )
    return tensor


def tokens_at(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Take rows of (b, L, d) or (b·L, d) at flat places of (b, L), without a copy of the rest."""
    if tensor.ndim == 2:
        return tensor[places]
    length = tensor.shape[1]
    return tensor[places // length, places % length]


def float_rows(tensor: torch.Tensor, *, first_row: int, what: str) -> NDArray[np.float32]:
    """Copy (n, d) from the device as float32.

    Parameters
    ----------
    tensor : (n, d)
        On any device.
    first_row : int
        The row of the whole array it begins at, for messages.
    what : str
        Its name, for messages.

    Raises
    ------
    DataError
        If a row is not finite.
    """
    if tensor.shape[1] == 0:
        raise DataError(f"{what}: has no entries", found=tuple(tensor.shape))
    rows = tensor.to(torch.float32)
    finite = _finite_rows(rows)
    if not finite.all():
        raise _not_finite(tensor.dtype, first_row + int(finite.argmin()), what)
    found: NDArray[np.float32] = rows.cpu().contiguous().numpy()
    return found


def kept_logits(
    take: Callable[[slice], torch.Tensor],
    labels: NDArray[Any] | None,
    *,
    n_rows: int,
    n_classes: int,
    top: int | None,
    first_row: int,
) -> tuple[NDArray[np.float32] | None, TopLogits | None]:
    """Take all logits of each row, or with `top` its largest ones: the parameters are those of `top_logits`.

    Raises
    ------
    UsageError
        If `top` is out of range.
    DataError
        If a label is outside the classes, or a row is not finite.
    """
    labels = None if labels is None else labels.astype(np.int64)
    if labels is not None:
        _check_labels(labels, n_classes=n_classes, first_row=first_row)
    if top is None:
        return float_rows(take(slice(0, n_rows)), first_row=first_row, what="logits"), None
    largest = top_logits(take, labels, n_rows=n_rows, n_classes=n_classes, top=top, first_row=first_row)
    return None, largest


def top_logits(
    take: Callable[[slice], torch.Tensor],
    labels: NDArray[np.int64] | None,
    *,
    n_rows: int,
    n_classes: int,
    top: int,
    first_row: int,
    chunk_bytes: int = _CHUNK_BYTES,
) -> TopLogits:
    """Keep the largest logits of each row, on the device, in chunks of rows.

    Parameters
    ----------
    take : callable
        Gives a slice of the rows, (r, C), in the network's type.
    labels : (n_rows,) int64, optional
        In [0, C); their logits are kept too.
    top : int
        `m`, 1 to C; equal logits go to the lower class.
    first_row : int
        The row of the whole array it begins at, for messages.
    chunk_bytes : int
        What a chunk may take in float64.

    Returns
    -------
    TopLogits
        Of the logits as float32; their log-sum-exp is summed in float64.

    Raises
    ------
    UsageError
        If `top` is out of range.
    DataError
        If a row is not finite.
    """
    if not 1 <= top <= n_classes:
        raise UsageError(
            "out of range", field="--top", expected=f"1 to {n_classes:,} (the network's classes)", found=top
        )
    classes = np.empty((n_rows, top), class_dtype(n_classes))
    values = np.empty((n_rows, top), np.float32)
    logsumexp = np.empty(n_rows, np.float64)
    label_logit = None if labels is None else np.empty(n_rows, np.float32)
    step = max(1, chunk_bytes // (8 * n_classes))
    for start in range(0, n_rows, step):
        rows = slice(start, min(start + step, n_rows))
        chunk = take(rows)
        if chunk.device.type == "mps":
            # It has no float64.
            chunk = chunk.cpu()
        logits = chunk.to(torch.float32)
        finite = _finite_rows(logits)
        if not finite.all():
            raise _not_finite(chunk.dtype, first_row + start + int(finite.argmin()), "logits")
        largest, columns = _largest(logits, top)
        # In place: one float64 copy at a time.
        sums = logits.double().sub_(largest[:, :1]).exp_().sum(dim=1)
        classes[rows] = columns.cpu().numpy()
        values[rows] = largest.cpu().numpy()
        logsumexp[rows] = (sums.log_() + largest[:, 0]).cpu().numpy()
        if labels is not None and label_logit is not None:
            wanted = torch.from_numpy(labels[rows]).to(logits.device)
            label_logit[rows] = logits.gather(1, wanted[:, None])[:, 0].cpu().numpy()
    return TopLogits(classes, values, logsumexp, label_logit, n_classes)


def _check_labels(labels: NDArray[np.int64], *, n_classes: int, first_row: int) -> None:
    bad = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if len(bad):
        raise DataError(
            f"label of row {first_row + int(bad[0]):,} out of range",
            expected=f"0 to {n_classes - 1} (the network's classes)",
            found=int(labels[bad[0]]),
        )


def _largest(logits: torch.Tensor, m: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the `m` largest of each row (r, C), largest first and ties to the lower class: values, classes."""
    n_classes = logits.shape[1]
    _, columns = logits.topk(min(m + 1, n_classes), dim=1)
    # Of equal entries a selection takes any, so a tie at its end is settled by a stable sort of the row.
    by_class = columns[:, :m].sort(dim=1).values
    order = logits.gather(1, by_class).sort(dim=1, descending=True, stable=True).indices
    chosen = by_class.gather(1, order)
    if m < n_classes:
        ends = logits.gather(1, columns[:, m - 1 :])
        tied = (ends[:, 0] == ends[:, 1]).nonzero()[:, 0]
        if len(tied):
            chosen[tied] = logits[tied].sort(dim=1, descending=True, stable=True).indices[:, :m]
    return logits.gather(1, chosen), chosen


def _finite_rows(rows: torch.Tensor) -> NDArray[np.bool_]:
    # The extremes carry NaN and infinity, and unlike `isfinite` take no copy as long as the rows.
    least, greatest = rows.aminmax(dim=1)
    found: NDArray[np.bool_] = (least.isfinite() & greatest.isfinite()).cpu().numpy()
    return found


def _not_finite(dtype: torch.dtype, row: int, what: str) -> DataError:
    remedies = {
        torch.float16: "float16 ends at 65,504: try --dtype bfloat16 or float32",
        torch.bfloat16: "try --dtype float32",
    }
    return DataError(f"{what}: row {row} is not finite", remedy=remedies.get(dtype))
