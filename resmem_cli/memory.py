"""The memory's share of a prediction, and its sum with the network's (Yang et al. 2023, eqs. 7 and 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.residuals import TopResiduals, decode_values, softmax
from resmem_cli.threads import for_each_block
from resmem_cli.truncation import Truncation, bound_truncation
from resmem_cli.types import Method, row_blocks
from resmem_cli.weights import neighbor_weights

# Rows mixed at once: their (rows, C) float32 sums stay in the processor's cache.
_MIX_ELEMENTS = 1 << 15


class Residuals(Protocol):
    """Stored residuals that can be mixed, dense or not."""

    def correct(
        self, scores: NDArray[np.float32], rows: NDArray[np.int64], weights: NDArray[np.float32]
    ) -> Truncation | None:
        """Add `Σ_j weights[:, j] · residuals[rows[:, j]]` to (n_queries, C) scores, in place.

        Gives None where whole residuals are stored.
        """


@dataclass(frozen=True)
class DenseMemory:
    """Residuals with all their entries.

    Attributes
    ----------
    residuals : (n, C) float32
        May be a memory map; only the rows asked for are touched.
    """

    residuals: NDArray[np.float32]

    def correct(
        self, scores: NDArray[np.float32], rows: NDArray[np.int64], weights: NDArray[np.float32]
    ) -> None:
        """Add eq. 7, `r_kNN(x) = Σ w̄_i r_i`, to the scores of a batch of queries.

        The terms are added up in the order of the neighbours, entry by entry in float32, so a query's
        result has the same bits in any batch, on any processor, with any number of threads.

        Parameters
        ----------
        scores : (n_queries, C) float32
            Changed in place.
        rows, weights : (n_queries, k)
            Memory rows, and their normalised weights.
        """
        n_classes = self.residuals.shape[1]

        def correct_block(block: slice) -> None:
            mixed = np.zeros_like(scores[block])
            for rank in range(rows.shape[1]):
                terms = self.residuals.take(rows[block, rank], axis=0)
                terms *= weights[block, rank, None]
                mixed += terms
            scores[block] += mixed

        if rows.size * n_classes <= _MIX_ELEMENTS:
            # A few queries, whose time is that of the calls: the same sums in the same order, in three.
            terms = self.residuals.take(rows, axis=0)
            terms *= weights[:, :, None]
            scores += np.add.reduce(terms, axis=1, initial=0)
            return
        for_each_block(correct_block, row_blocks(len(rows), max(1, _MIX_ELEMENTS // n_classes)))

    def mix(self, rows: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute eq. 7 alone, (n_queries, C) float32."""
        mixed = np.zeros((len(rows), self.residuals.shape[1]), np.float32)
        self.correct(mixed, rows, weights)
        return mixed


@dataclass(frozen=True)
class TopMemory:
    """Residuals of which only the largest entries are stored; the others count as 0."""

    top: TopResiduals

    def correct(
        self, scores: NDArray[np.float32], rows: NDArray[np.int64], weights: NDArray[np.float32]
    ) -> Truncation:
        """Add eq. 7 from the stored entries; as `DenseMemory.correct` of the rows written out, to the bit.

        Raises
        ------
        DataError
            If a stored entry is of no class.
        """
        n_classes = self.top.n_classes
        bound = np.empty(len(rows), np.float32)
        proved = np.empty(len(rows), bool)

        def correct_block(block: slice) -> None:
            classes = self.top.classes[rows[block]]
            stored = self.top.values[rows[block]]
            if classes.min() < 0 or classes.max() >= n_classes:
                raise DataError("top residuals of no class", expected=f"0 to {n_classes - 1}")
            values = decode_values(stored)
            values *= weights[block, :, None]
            cells = classes.astype(np.int64)
            cells += np.arange(len(cells))[:, None, None] * n_classes
            mixed = np.zeros_like(scores[block])
            # Several times faster than bincount: it stays in float32, and lets other threads run.
            np.add.at(mixed.reshape(-1), cells.reshape(-1), values.reshape(-1))
            scores[block] += mixed
            bound[block], proved[block] = bound_truncation(scores[block], weights[block], classes, stored)

        step = max(1, _MIX_ELEMENTS // rows.shape[1] // self.top.values.shape[1])
        for_each_block(correct_block, row_blocks(len(rows), step))
        return Truncation(bound, proved)

    def mix(self, rows: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute eq. 7 alone, (n_queries, C) float32."""
        mixed = np.zeros((len(rows), self.top.n_classes), np.float32)
        self.correct(mixed, rows, weights)
        return mixed


def neighbor_votes(
    labels: NDArray[Any], weights: NDArray[np.float32], *, n_classes: int
) -> NDArray[np.float32]:
    """Sum the weights of each class: kNN on labels, the paper's appendix F.

    Parameters
    ----------
    labels, weights : (n_queries, k)
        Classes of the neighbours, and their normalised weights.

    Returns
    -------
    (n_queries, C) float32
        Rows that sum to 1.
    """
    votes = np.empty((len(labels), n_classes), np.float32)

    def count(block: slice) -> None:
        votes[block] = _votes(labels[block], weights[block], n_classes)

    for_each_block(count, row_blocks(len(labels), max(1, _MIX_ELEMENTS // n_classes)))
    return votes


def _votes(labels: NDArray[Any], weights: NDArray[np.float32], n_classes: int) -> NDArray[np.float32]:
    n_queries = len(labels)
    cells = labels.astype(np.int64) + np.arange(n_queries)[:, None] * n_classes
    votes = np.bincount(cells.ravel(), weights=weights.ravel(), minlength=n_queries * n_classes)
    return votes.reshape(n_queries, n_classes).astype(np.float32)


def _voted(labels: NDArray[Any], weights: NDArray[np.float32], n_classes: int) -> NDArray[np.int32]:
    """Give the argmax of each query's votes, of which only a few queries' are ever written out."""
    voted = np.empty(len(labels), np.int32)

    def choose(block: slice) -> None:
        voted[block] = _votes(labels[block], weights[block], n_classes).argmax(axis=1)

    for_each_block(choose, row_blocks(len(labels), max(1, _MIX_ELEMENTS // n_classes)))
    return voted


@dataclass(frozen=True)
class Prediction:
    """What memory and network say of a batch of queries.

    Attributes
    ----------
    scores : (n_queries, C) float32
        Of the method asked for. ResMem's sum to 1 but may leave [0, 1].
    predicted, base_predicted, knn_predicted : (n_queries,) int32
        The argmax of the method's scores, of the network's logits, of the neighbours' votes; ties go
        to the lower class.
    weights : (n_queries, k) float32
        Normalised weight of each neighbour.
    truncation : Truncation or None
        What whole residuals could change; None where the scores hold none, or whole ones.
    """

    scores: NDArray[np.float32]
    predicted: NDArray[np.int32]
    base_predicted: NDArray[np.int32]
    knn_predicted: NDArray[np.int32]
    weights: NDArray[np.float32]
    truncation: Truncation | None = None


def predict_from_neighbors(
    logits: NDArray[Any],
    *,
    rows: NDArray[np.int64],
    distances: NDArray[np.float64],
    neighbor_labels: NDArray[Any],
    residuals: Residuals,
    sigma: float,
    temperature: float,
    method: Method = Method.RESMEM,
) -> Prediction:
    """Compute eq. 8, `softmax(f(x)/T) + r_kNN(x)`, from a search's neighbours.

    Parameters
    ----------
    logits : (n_queries, C) floats
        The network's output for the queries.
    rows, distances, neighbor_labels : (n_queries, k)
        Neighbours in the memory: their rows, Euclidean distances, and classes.
    residuals : Residuals
        Those of the memory, computed at the same temperature.
    sigma, temperature : float
        Above 0.
    method : Method
        Whose scores to give.

    Raises
    ------
    UsageError
        If sigma or the temperature is out of range.
    """
    weights = neighbor_weights(distances, sigma=sigma)
    n_classes = logits.shape[1]
    truncated = None
    match method:
        case Method.KNN:
            scores = neighbor_votes(neighbor_labels, weights, n_classes=n_classes)
        case Method.BASE:
            scores = softmax(logits, temperature=temperature)
        case Method.RESMEM:
            scores = softmax(logits, temperature=temperature)
            truncated = residuals.correct(scores, rows, weights)
    base_predicted = logits.argmax(axis=1).astype(np.int32)
    return Prediction(
        scores=scores,
        # The argmax of the logits, not of their softmax, where distinct logits can round to a tie.
        predicted=base_predicted if method == Method.BASE else scores.argmax(axis=1).astype(np.int32),
        base_predicted=base_predicted,
        knn_predicted=_voted(neighbor_labels, weights, n_classes),
        weights=weights,
        truncation=truncated,
    )
