"""Logits of which only the largest of each row are stored, read as such and as if they were all there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.base import RowSource
from resmem_cli.errors import DataError
from resmem_cli.exponential import exp, log
from resmem_cli.residuals import TopLogits

_LABEL_LOGIT = "label_logit"

TOP_LOGITS = ("logits_top/classes", "logits_top/values", "logsumexp", _LABEL_LOGIT)
"""The datasets of the embeddings format they are stored in; the last may be missing."""

# The mass that is left is never taken for nothing, whose logarithm would be −∞.
_LEAST_MASS = 1e-12


class TopLogitRows:
    """The stored logits, read by ranges of rows.

    Attributes
    ----------
    shape : (n, C)
        Of all the logits that there were.
    n_kept : int
        How many are stored of each row.
    """

    def __init__(self, path: Path, arrays: Mapping[str, RowSource], n_classes: int) -> None:
        self._path = path
        self._arrays = arrays
        n, self.n_kept = arrays[TOP_LOGITS[0]].shape
        self.shape = (n, n_classes)
        if self.n_kept > n_classes:
            raise self._fault("n_classes", expected=f"at least {self.n_kept:,}", found=n_classes)

    def read(self, start: int, stop: int) -> TopLogits:
        """Read rows `start` to `stop`.

        Raises
        ------
        DataError
            If they are damaged, or of no class, or no numbers.
        """
        classes, values, logsumexp = (self._arrays[name].read(start, stop) for name in TOP_LOGITS[:3])
        label_logit = self._arrays[_LABEL_LOGIT].read(start, stop) if self.has_label_logits else None
        if classes.min() < 0 or classes.max() >= self.shape[1]:
            found = f"{classes.min()} to {classes.max()}"
            raise self._fault(TOP_LOGITS[0], expected=f"0 to {self.shape[1] - 1}", found=found)
        for name, numbers in zip(TOP_LOGITS[1:], (values, logsumexp, label_logit), strict=True):
            if numbers is not None and not np.isfinite(numbers).all():
                raise self._fault(name, expected="finite numbers", found="NaN or infinity")
        return TopLogits(classes, values, logsumexp, label_logit, self.shape[1])

    @property
    def has_label_logits(self) -> bool:
        """Whether the labels' logits are stored too."""
        return _LABEL_LOGIT in self._arrays

    def require_label_logits(self) -> None:
        """Raise `DataError` unless the labels' logits are stored."""
        if not self.has_label_logits:
            raise DataError(
                "has labels, but not their logits",
                file=self._path,
                field=_LABEL_LOGIT,
                remedy="embed again, with the labels",
            )

    def _fault(self, field: str, *, expected: object, found: object) -> DataError:
        return DataError(
            "values that can't be",
            file=self._path,
            field=field,
            expected=expected,
            found=found,
            remedy="make the file again with `resmem embed`",
        )


class SpreadLogits:
    """All C log-probabilities of each row at T = 1, those of most classes made up.

    The classes that are not stored share equally what probability is left. The labels' logits are not
    used: a query's label is not to be known.
    """

    def __init__(self, rows: TopLogitRows) -> None:
        self._rows = rows
        self.shape = rows.shape
        self.dtype = np.dtype(np.float32)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Read rows `start` to `stop`; the argmax of each is that of all its logits."""
        return spread_logits(self._rows.read(start, stop))


def spread_logits(logits: TopLogits) -> NDArray[np.float32]:
    """Give the (n, C) log-probabilities that `SpreadLogits` describes."""
    n, n_kept = logits.classes.shape
    stored = logits.values - logits.logsumexp[:, None]
    n_others = logits.n_classes - n_kept
    largest_other = stored[:, 1].astype(np.float32) if n_kept > 1 else np.full(n, -np.inf, np.float32)
    dense = np.empty((n, logits.n_classes), np.float32)
    if n_others:
        shares = stored.copy()
        exp(shares)
        mass = np.maximum(1 - shares.sum(axis=1), _LEAST_MASS)
        # No entry that was left out is larger than the smallest that was kept.
        share = np.minimum(log(mass / n_others), stored[:, -1]).astype(np.float32)
        dense[:] = share[:, None]
        largest_other = np.maximum(largest_other, share)
    best = stored[:, 0].astype(np.float32)
    # In float32 others may equal the first, and a lower class among them would be taken for the argmax.
    first = np.where(best > largest_other, best, np.nextafter(largest_other, np.float32(np.inf)))
    np.put_along_axis(dense, logits.classes.astype(np.int64), stored.astype(np.float32), axis=1)
    dense[np.arange(n), logits.classes[:, 0]] = first
    return dense
