"""The methods that are tuned alike on one search: ResMem, kNN on labels, and kNN-LM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from resmem_cli.memory import Residuals, neighbor_votes
from resmem_cli.prediction import corrected_scores
from resmem_cli.residuals import softmax
from resmem_cli.tuning.grid import Grid, Points
from resmem_cli.tuning.sweep import Mix, Searched, Swept, sweep
from resmem_cli.tuning.tables import DenseTable, SparseTable, Table, Terms
from resmem_cli.types import Progress, ResidualSpace, no_progress

_DENSE_CLASSES = 1 << 11  # up to which a vote is a whole row


@dataclass(frozen=True)
class Tuner:
    """Tries settings on queries whose neighbours were found.

    Attributes
    ----------
    searched : Searched
        The queries.
    memory_labels : (n,) int32
        Classes of the rows that `searched` counts.
    residuals : callable
        Makes, for a temperature, the memory's residuals as they are summed and as `predict` mixes them.
    query_weights : (q,) float64 or None
        How much each query counts; None for all alike.
    space : ResidualSpace
        Of the residuals.
    likelihood : bool
        Whether to compute NLL.
    progress : Progress
    """

    searched: Searched
    memory_labels: NDArray[np.int32]
    residuals: Callable[[float], tuple[Table, Residuals]]
    query_weights: NDArray[np.float64] | None = None
    space: ResidualSpace = ResidualSpace.PROBABILITY
    likelihood: bool = False
    progress: Progress = field(default=no_progress)

    @cached_property
    def base_right(self) -> NDArray[np.bool_]:
        """Which queries the network answers rightly."""
        right: NDArray[np.bool_] = self.searched.logits.argmax(axis=1) == self.searched.labels
        return right

    def resmem(self, grid: Grid) -> Points:
        """Try ResMem at every point of a grid; in logit space temperatures change the likelihood alone."""
        tried: list[Points] = []
        for temperature in grid.temperature:
            table, memory = self.residuals(temperature)
            in_logits = self.space == ResidualSpace.LOGIT

            def recheck(
                mix: Mix,
                queries: NDArray[np.int64],
                weights: NDArray[np.float32],
                memory: Residuals = memory,
                temperature: float = temperature,
            ) -> NDArray[np.bool_]:
                found = self.searched
                scores = corrected_scores(
                    found.logits[queries],
                    rows=found.rows[queries, : weights.shape[1]],
                    weights=weights,
                    residuals=memory,
                    temperature=temperature,
                    strength=mix.memory,
                    space=self.space,
                )
                right: NDArray[np.bool_] = scores.argmax(axis=1) == found.labels[queries]
                return right

            mixes = [Mix(strength, 1.0, None if in_logits else temperature) for strength in grid.strength]
            swept = sweep(
                self.searched,
                table,
                mixes,
                grid.k,
                grid.sigma,
                recheck=recheck,
                likelihood=self.likelihood,
                softmax_temperature=temperature,
                progress=self.progress,
            )
            tried.append(self._points(swept, grid.k, grid.sigma, [temperature] * len(mixes), grid.strength))
        return _together(tried)

    def knn(self, ks: Sequence[int], sigmas: Sequence[float]) -> Points:
        """Try kNN on labels."""
        return self._votes([Mix(1.0, 0.0, 1.0)], ks, sigmas)

    def knn_lm(
        self,
        ks: Sequence[int],
        sigmas: Sequence[float],
        temperatures: Sequence[float],
        vote_weights: Sequence[float],
    ) -> Points:
        """Try kNN-LM: `w · votes + (1 − w) · softmax(f/T)`."""
        return self._votes([Mix(w, 1 - w, t) for t in temperatures for w in vote_weights], ks, sigmas)

    def _votes(self, mixes: Sequence[Mix], ks: Sequence[int], sigmas: Sequence[float]) -> Points:
        swept = sweep(
            self.searched,
            self._votes_table(),
            mixes,
            ks,
            sigmas,
            recheck=self._recheck_votes,
            likelihood=self.likelihood,
            progress=self.progress,
        )
        temperatures = [mix.temperature or 1.0 for mix in mixes]
        return self._points(swept, ks, sigmas, temperatures, [mix.memory for mix in mixes])

    def _votes_table(self) -> Table:
        n_classes = self.searched.logits.shape[1]
        if n_classes > _DENSE_CLASSES:
            return SparseTable.of_labels(self.memory_labels, n_classes)
        return _Votes(np.eye(n_classes, dtype=np.float32), self.memory_labels)

    def _recheck_votes(
        self, mix: Mix, queries: NDArray[np.int64], weights: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        found = self.searched
        labels = self.memory_labels[found.rows[queries, : weights.shape[1]]]
        scores = neighbor_votes(labels, weights, n_classes=found.logits.shape[1])
        if mix.network:
            network = softmax(found.logits[queries], temperature=mix.temperature or 1)
            scores = interpolate(scores, network, weight=mix.memory)
        right: NDArray[np.bool_] = scores.argmax(axis=1) == found.labels[queries]
        return right

    def _points(
        self,
        swept: Swept,
        ks: Sequence[int],
        sigmas: Sequence[float],
        temperatures: Sequence[float],
        strengths: Sequence[float],
    ) -> Points:
        """Turn what a sweep found into points, mix by mix."""
        base_right = self.base_right
        weights = np.ones(len(base_right)) if self.query_weights is None else self.query_weights
        total = weights.sum()
        k, sigma = (values.ravel() for values in np.meshgrid(ks, sigmas, indexing="ij"))
        parts: list[Points] = []
        for m, (temperature, strength) in enumerate(zip(temperatures, strengths, strict=True)):
            right = swept.right[m].reshape(len(base_right), -1)
            tpr, fpr, accuracy = _shares(weights, base_right, right)
            nll = None
            if swept.log_probability is not None:
                logs = swept.log_probability[m].reshape(len(base_right), -1)
                nll = -(weights[:, None] * logs).sum(axis=0) / total
            parts.append(
                Points(
                    k=k.astype(np.int32),
                    sigma=sigma.astype(np.float64),
                    temperature=np.full(len(k), temperature, np.float64),
                    strength=np.full(len(k), strength, np.float64),
                    accuracy=accuracy,
                    tpr=tpr,
                    fpr=fpr,
                    nll=nll,
                )
            )
        return _together(parts)


@dataclass(frozen=True)
class _Votes:
    """One vote for each row's class, written out."""

    onehot: NDArray[np.float32]
    labels: NDArray[np.int32]

    @property
    def n_classes(self) -> int:
        return len(self.onehot)

    @property
    def largest(self) -> float:
        return 1.0

    def terms(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> Terms:
        return DenseTable(self.onehot).terms(self.labels[rows].astype(np.int64), labels)


def interpolate(
    votes: NDArray[np.float32], network: NDArray[np.float32], *, weight: float
) -> NDArray[np.float32]:
    """Compute kNN-LM's probabilities, `weight · votes + (1 − weight) · network`.

    Parameters
    ----------
    votes : (n_queries, C) float32
        Of the neighbours' labels; see `neighbor_votes`.
    network : (n_queries, C) float32
        `softmax(f/T)`.
    weight : float
        In [0, 1] (Khandelwal et al. 2020, "Generalization through memorization").

    Returns
    -------
    (n_queries, C) float32
    """
    mixed = network * np.float32(1 - weight)
    mixed += votes * np.float32(weight)
    return mixed


def _shares(
    weights: NDArray[np.float64], base_right: NDArray[np.bool_], right: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Give the shares of (q, points) answers that were corrected, broken, and right."""
    gained, _ = _weigh(weights[~base_right], right[~base_right])
    stayed, lost = _weigh(weights[base_right], right[base_right])
    total = weights.sum()
    return gained / total, lost / total, (gained + stayed) / total


def _weigh(
    weights: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum the weights of the right and of the wrong of (q, points) answers.

    Queries of one weight are counted first. So points with equal counts have equal sums, to the bit, and
    ties between them are ties.
    """
    distinct, sizes = np.unique(weights, return_counts=True)
    if len(distinct) < 2:
        counts = np.count_nonzero(right, axis=0)[None][: len(distinct)]  # of no queries, no counts
    else:
        starts = np.cumsum(sizes) - sizes
        ordered = right[np.argsort(weights, kind="stable")]
        counts = np.add.reduceat(ordered, starts, axis=0, dtype=np.int64)
    each = distinct[:, None]
    return (each * counts).sum(axis=0), (each * (sizes[:, None] - counts)).sum(axis=0)


def _together(parts: Sequence[Points]) -> Points:
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.followed_by(part)
    return whole
