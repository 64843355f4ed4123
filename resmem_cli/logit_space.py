"""Memory in logit space: residuals that turn a network's logits into those usual for the true class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.threads import for_each_block
from resmem_cli.types import row_blocks

_BLOCK_ELEMENTS = 1 << 17


class ClassMeans:
    """The mean logits of each class, from blocks of rows: their sums are taken row by row, in float64.

    Parameters
    ----------
    n_classes : int
        `C`.
    """

    def __init__(self, n_classes: int) -> None:
        self._sums = np.zeros((n_classes, n_classes))
        self._counts = np.zeros(n_classes, np.int64)

    def update(self, logits: NDArray[Any], labels: NDArray[Any]) -> None:
        """Take in the next rows: (b, C) logits and (b,) labels in [0, C)."""
        # One after the other in the order of the rows, so the sums do not depend on the blocks.
        np.add.at(self._sums, labels, logits.astype(np.float64))
        self._counts += np.bincount(labels, minlength=len(self._counts))

    def result(self) -> NDArray[np.float64]:
        """Give the (C, C) means: row y is the mean of f over the rows of class y; 0 where there are none."""
        return self._sums / np.maximum(self._counts, 1)[:, None]


def compute_logit_residuals(
    logits: NDArray[Any], labels: NDArray[Any], means: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Compute `r_i = mean logits of class y_i − f(x_i)`.

    Parameters
    ----------
    logits : (n, C) floats
        `f(x_i)`.
    labels : (n,) integers
        `y_i`, in [0, C).
    means : (C, C) float64
        Mean logits of each class; see `ClassMeans`.

    Returns
    -------
    (n, C) float32
    """
    residuals = np.empty(logits.shape, np.float32)

    def fill(block: slice) -> None:
        residuals[block] = means[labels[block]] - logits[block]

    for_each_block(fill, row_blocks(len(logits), max(1, _BLOCK_ELEMENTS // logits.shape[1])))
    return residuals
