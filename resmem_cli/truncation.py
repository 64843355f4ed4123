"""What truncated residuals could have got wrong: a bound for every score, a proof for every prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.residuals import VALUE_SCALE

_U = 2.0**-24  # float32's unit roundoff


@dataclass(frozen=True)
class Truncation:
    """What the residual entries that are not stored could change in a batch of predictions.

    Attributes
    ----------
    bound : (n_queries,) float32
        `ε`: by how much, at most, a class's score exceeds what whole residuals would give it, apart from
        rounding (`E` of `bound_truncation`).
    proved : (n_queries,) bool
        Whether whole residuals are proved to give the same predicted class.
    """

    bound: NDArray[np.float32]
    proved: NDArray[np.bool_]


def bound_truncation(
    scores: NDArray[np.float32],
    weights: NDArray[np.float32],
    classes: NDArray[Any],
    values: NDArray[np.uint16],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Bound what the entries that are not stored could change in scores.

    An entry of neighbour i that is not stored is negative and at most `b_i` in size: the smallest size
    stored, or all that is not stored, which is known as a residual sums to 0. Whole residuals therefore
    change no score but by lowering it, that of class c by at most `Σ w̄_i b_i` over the neighbours that do
    not store c. So the winner w stays the winner if its lead over every other class exceeds its own sum,
    however far the others fall. Rounding takes at most `E` on either side, with u = 2⁻²⁴ and W = Σ w̄_i:

    - half a unit of 1/65535 in each stored value, together W / 131070;
    - in float32: 4 u for a decoded and weighted value, k u for the sum of k of them, and as much for the
      sum over the dense residuals, together (2 k + 8) u W; 2 (1 + W) u where the sums are added to the
      network's probabilities;
    - in the float32 softmax of a dense residual: with x = (f − max f)/T, 3 u |x| from x itself and 8 u of
      exp for each term; 3 u log C + 8 u and (20 + log2 C) u of the pairwise sum for the normaliser;
      2 u for the division and for 1 − p. As p |x| is below 1/e, (48 + 4 log2 C) u W is above all of it.

    Whole residuals are proved to give the same class, where the lead of the winner less its own sum is
    above 2 E. A tie is never proved, whichever class it goes to.

    Parameters
    ----------
    scores : (n_queries, C) float32
        The network's softmax plus the truncated residuals. Written to, and restored.
    weights : (n_queries, k) float32
        Of the neighbours.
    classes, values : (n_queries, k, m)
        What is stored of the neighbours' residuals, as in `TopResiduals`.

    Returns
    -------
    bound : (n_queries,) float32
        `ε = Σ w̄_i b_i` over all neighbours, for it holds for every class; 0 if all classes are stored.
    proved : (n_queries,) bool
    """
    n_queries, n_classes = scores.shape
    _, k, m = classes.shape
    losses = weights * _largest_dropped(values, n_classes)
    winners = scores.argmax(axis=1)
    absent = (classes != winners.astype(classes.dtype)[:, None, None]).all(axis=2)
    own_losses = np.where(absent, losses, 0).sum(axis=1)
    queries = np.arange(n_queries)
    leads = scores[queries, winners].astype(np.float64)
    scores[queries, winners] = -np.inf
    seconds = scores.max(axis=1)
    scores[queries, winners] = leads
    leads -= seconds
    total = weights.sum(axis=1, dtype=np.float64)
    rounding = total * (0.5 / VALUE_SCALE + (2 * k + 8 + 48 + 4 * math.log2(n_classes)) * _U)
    rounding += 2.01 * (1 + total) * _U
    bound = losses.sum(axis=1).astype(np.float32)
    # Rounded up, so that it stays a bound.
    bound[bound > 0] = np.nextafter(bound[bound > 0], np.float32(np.inf))
    return bound, leads - own_losses > 2 * rounding


def _largest_dropped(values: NDArray[np.uint16], n_classes: int) -> NDArray[np.float64]:
    """Bound the size of the entries that are not stored beside (…, m) values."""
    m = values.shape[-1]
    if m == n_classes:
        return np.zeros(values.shape[:-1])
    # In half units. Each stored value may be half a unit too small or too large.
    smallest = 2 * values[..., -1].astype(np.int64) + 1
    others = values[..., 1:].sum(axis=-1, dtype=np.int64)
    left = 2 * (values[..., 0].astype(np.int64) - others) + m
    largest: NDArray[np.float64] = np.minimum(smallest, np.maximum(left, 0)) / (2 * VALUE_SCALE)
    return largest
