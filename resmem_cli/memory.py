"""The memory's share of a prediction, and its sum with the network's (Yang et al. 2023, eqs. 7 and 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.residuals import TopResiduals, decode_values, softmax
from resmem_cli.threads import for_each_block
from resmem_cli.types import Method, row_blocks
from resmem_cli.weights import neighbor_weights

# Rows mixed at once: their (rows, C) float32 sums stay in the processor's cache.
_MIX_ELEMENTS = 1 << 15


class Residuals(Protocol):
    """Stored residuals that can be mixed, dense or not."""

    def mix(self, rows: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute `Σ_j weights[:, j] · residuals[rows[:, j]]`, shape (n_queries, C)."""


@dataclass(frozen=True)
class DenseMemory:
    """Residuals with all their entries.

    Attributes
    ----------
    residuals : (n, C) float32
        May be a memory map; only the rows asked for are touched.
    """

    residuals: NDArray[np.float32]

    def mix(self, rows: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute eq. 7, `r_kNN(x) = Σ w̄_i r_i`, for a batch of queries.

        The terms are added in the order of the neighbours, entry by entry in float32, so a query's
        result has the same bits in any batch, on any processor, with any number of threads.

        Parameters
        ----------
        rows, weights : (n_queries, k)
            Memory rows, and their normalised weights.

        Returns
        -------
        (n_queries, C) float32
        """
        n_classes = self.residuals.shape[1]
        mixed = np.zeros((len(rows), n_classes), np.float32)

        def mix_block(block: slice) -> None:
            for rank in range(rows.shape[1]):
                terms = self.residuals.take(rows[block, rank], axis=0)
                terms *= weights[block, rank, None]
                mixed[block] += terms

        for_each_block(mix_block, row_blocks(len(rows), max(1, _MIX_ELEMENTS // n_classes)))
        return mixed


@dataclass(frozen=True)
class TopMemory:
    """Residuals of which only the largest entries are stored; the others count as 0."""

    top: TopResiduals

    def mix(self, rows: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute eq. 7 from the stored entries; parameters and result as in `DenseMemory.mix`."""
        n_classes = self.top.n_classes
        mixed = np.empty((len(rows), n_classes), np.float32)

        def mix_block(block: slice) -> None:
            classes = self.top.classes[rows[block]].astype(np.int64)
            if classes.min() < 0 or classes.max() >= n_classes:
                raise DataError("top residuals of no class", expected=f"0 to {n_classes - 1}")
            values = decode_values(self.top.values[rows[block]])
            values *= weights[block, :, None]
            n_queries = len(classes)
            classes += np.arange(n_queries)[:, None, None] * n_classes
            mixed[block] = np.bincount(
                classes.ravel(), weights=values.ravel(), minlength=n_queries * n_classes
            ).reshape(n_queries, n_classes)

        step = max(1, _MIX_ELEMENTS // rows.shape[1] // self.top.values.shape[1])
        for_each_block(mix_block, row_blocks(len(rows), step))
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
    n_queries = len(labels)
    cells = labels.astype(np.int64) + np.arange(n_queries)[:, None] * n_classes
    votes = np.bincount(cells.ravel(), weights=weights.ravel(), minlength=n_queries * n_classes)
    return votes.reshape(n_queries, n_classes).astype(np.float32)


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
    """

    scores: NDArray[np.float32]
    predicted: NDArray[np.int32]
    base_predicted: NDArray[np.int32]
    knn_predicted: NDArray[np.int32]
    weights: NDArray[np.float32]


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
    votes = neighbor_votes(neighbor_labels, weights, n_classes=logits.shape[1])
    match method:
        case Method.KNN:
            scores = votes
        case Method.BASE:
            scores = softmax(logits, temperature=temperature)
        case Method.RESMEM:
            scores = softmax(logits, temperature=temperature)
            scores += residuals.mix(rows, weights)
    base_predicted = logits.argmax(axis=1).astype(np.int32)
    return Prediction(
        scores=scores,
        # The argmax of the logits, not of their softmax, where distinct logits can round to a tie.
        predicted=base_predicted if method == Method.BASE else scores.argmax(axis=1).astype(np.int32),
        base_predicted=base_predicted,
        knn_predicted=votes.argmax(axis=1).astype(np.int32),
        weights=weights,
    )
