"""The memory's share of a prediction: weighted sums of residuals, or of labels (Yang et al. 2023, eq. 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.residuals import TopResiduals, decode_values
from resmem_cli.threads import for_each_block
from resmem_cli.truncation import Truncation, bound_truncation
from resmem_cli.types import row_blocks

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

    def entries(self, rows: NDArray[np.int64], classes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Give `residuals[rows[i, j], classes[i]]`, (n_queries, k)."""


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

    def entries(self, rows: NDArray[np.int64], classes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Give one class's entry of each neighbour's residual; see `Residuals.entries`."""
        return self.residuals[rows, classes[:, None]]

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

    def entries(self, rows: NDArray[np.int64], classes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Give one class's entry of each neighbour's residual, 0 where it is not stored."""
        found = np.zeros(rows.shape, np.float32)

        def look_up(block: slice) -> None:
            same = self.top.classes[rows[block]] == classes[block, None, None]
            values = decode_values(self.top.values[rows[block]])
            found[block] = np.where(same, values, np.float32(0)).sum(axis=-1)

        step = max(1, _MIX_ELEMENTS // rows.shape[1] // self.top.values.shape[1])
        for_each_block(look_up, row_blocks(len(rows), step))
        return found

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
        votes[block] = votes_of_block(labels[block], weights[block], n_classes)

    for_each_block(count, row_blocks(len(labels), max(1, _MIX_ELEMENTS // n_classes)))
    return votes


def votes_of_block(labels: NDArray[Any], weights: NDArray[np.float32], n_classes: int) -> NDArray[np.float32]:
    """Sum the weights of each class, of a few queries; see `neighbor_votes`."""
    n_queries = len(labels)
    cells = labels.astype(np.int64) + np.arange(n_queries)[:, None] * n_classes
    votes = np.bincount(cells.ravel(), weights=weights.ravel(), minlength=n_queries * n_classes)
    return votes.reshape(n_queries, n_classes).astype(np.float32)
