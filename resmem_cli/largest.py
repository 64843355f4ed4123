"""The largest entries of rows of scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
