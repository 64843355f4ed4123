"""A query's prediction: the network's and the memory's, added (Yang et al. 2023, eq. 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.gate import Gate
from resmem_cli.memory import Residuals, neighbor_votes, votes_of_block
from resmem_cli.residuals import softmax
from resmem_cli.threads import for_each_block
from resmem_cli.truncation import Truncation
from resmem_cli.types import Method, ResidualSpace, row_blocks
from resmem_cli.weights import check_strength, neighbor_weights

# Scores looked at together by one thread: they stay in the processor's cache.
_BLOCK_ELEMENTS = 1 << 15
_ROUNDING = 1e-5  # of two float32 probabilities and their difference


@dataclass(frozen=True)
class Explanation:
    """Which neighbours made a prediction what it is.

    Attributes
    ----------
    runner_up : (n_queries,) int32
        What the predicted class is compared with: the network's own class where memory changed the answer,
        or else the second best by score.
    contributions : (n_queries, k) float32
        `strength · w̄_i · (r_i[predicted] − r_i[runner_up])`: what each neighbour adds to that lead.
    """

    runner_up: NDArray[np.int32]
    contributions: NDArray[np.float32]


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
    base_confidence : (n_queries,) float32
        The network's largest probability, at the same temperature.
    weights : (n_queries, k) float32
        Normalised weight of each neighbour.
    truncation : Truncation or None
        What whole residuals could change; None where the scores hold none, or whole ones.
    opened : (n_queries,) bool or None
        Where the gate let memory answer; None without a gate.
    fixed : (n_queries,) bool
        Where no residuals whatever could change the network's answer: it leads by more than twice the
        strength, or the gate is closed for so confident an answer.
    explanation : Explanation or None
        For ResMem, if asked for.
    """

    scores: NDArray[np.float32]
    predicted: NDArray[np.int32]
    base_predicted: NDArray[np.int32]
    knn_predicted: NDArray[np.int32]
    base_confidence: NDArray[np.float32]
    weights: NDArray[np.float32]
    truncation: Truncation | None = None
    opened: NDArray[np.bool_] | None = None
    fixed: NDArray[np.bool_] | None = None
    explanation: Explanation | None = None


def predict_from_neighbors(
    logits: NDArray[Any],
    *,
    rows: NDArray[np.int64],
    distances: NDArray[np.float64],
    neighbor_labels: NDArray[Any],
    residuals: Residuals,
    sigma: float,
    temperature: float,
    strength: float = 1.0,
    space: ResidualSpace = ResidualSpace.PROBABILITY,
    method: Method = Method.RESMEM,
    gate: Gate | None = None,
    explain: bool = False,
) -> Prediction:
    """Compute eq. 8, `softmax(f(x)/T) + r_kNN(x)`, from a search's neighbours.

    Parameters
    ----------
    logits : (n_queries, C) floats
        The network's output for the queries.
    rows, distances, neighbor_labels : (n_queries, k)
        Neighbours in the memory: their rows, Euclidean distances, and classes.
    residuals : Residuals
        Those of the memory, computed at the same temperature, in `space`.
    sigma, temperature : float
        Above 0.
    strength : float
        At least 0: the factor of the memory's share, 1 in the paper; 0 leaves the network's own answer.
    space : ResidualSpace
        In logit space the scores are `softmax((f(x) + strength · r_kNN(x)) / T)`.
    method : Method
        Whose scores to give.
    gate : Gate, optional
        Where memory is used at all; elsewhere ResMem's scores are the network's.
    explain : bool
        Whether to compute the neighbours' contributions.

    Raises
    ------
    UsageError
        If sigma, the temperature or the strength is out of range.
    """
    weights = neighbor_weights(distances, sigma=sigma)
    check_strength(strength)
    n_classes = logits.shape[1]
    base_predicted = logits.argmax(axis=1).astype(np.int32)
    scores = softmax(logits, temperature=temperature)
    confidence = base_confidence(scores, base_predicted)
    opened = None if gate is None else gate.open(distances[:, 0], confidence)
    fixed, truncated, explanation = None, None, None
    match method:
        case Method.KNN:
            scores = neighbor_votes(neighbor_labels, weights, n_classes=n_classes)
            predicted = _largest(scores)
        case Method.BASE:
            # The argmax of the logits, not of their softmax, where distinct logits can round to a tie.
            predicted = base_predicted
        case Method.RESMEM:
            if gate is not None or strength != 1:
                fixed = _fixed(scores, base_predicted, confidence, strength, space, gate)
            effective = _effective(weights, strength)
            if opened is not None:
                effective = np.where(opened[:, None], effective, np.float32(0))
            sums = scores if space == ResidualSpace.PROBABILITY else logits.astype(np.float32, order="C")
            truncated = residuals.correct(sums, rows, effective)
            # Without memory the answer is the network's, where distinct logits can round to a tie.
            predicted = _largest(sums) if strength else base_predicted
            if opened is not None:
                predicted = np.where(opened, predicted, base_predicted)
            if explain:
                runner_up = _second(sums, predicted, base_predicted)
                contributions = residuals.entries(rows, predicted) - residuals.entries(rows, runner_up)
                explanation = Explanation(runner_up, contributions * effective)
            if space == ResidualSpace.LOGIT:
                scores = softmax(sums, temperature=temperature)
    return Prediction(
        scores=scores,
        predicted=predicted,
        base_predicted=base_predicted,
        knn_predicted=_voted(neighbor_labels, weights, n_classes),
        base_confidence=confidence,
        weights=weights,
        truncation=truncated,
        opened=opened,
        fixed=fixed,
        explanation=explanation,
    )


def base_confidence(probabilities: NDArray[np.float32], base_predicted: NDArray[Any]) -> NDArray[np.float32]:
    """Give the network's probability of the class it predicts, (n_queries,), as a gate sees it."""
    confidence: NDArray[np.float32] = np.take_along_axis(probabilities, base_predicted[:, None], axis=1)[:, 0]
    return confidence


def corrected_scores(
    logits: NDArray[Any],
    *,
    rows: NDArray[np.int64],
    weights: NDArray[np.float32],
    residuals: Residuals,
    temperature: float,
    strength: float,
    space: ResidualSpace,
) -> NDArray[np.float32]:
    """Compute the numbers whose argmax is ResMem's answer in `predict_from_neighbors`, and those alone.

    Returns
    -------
    (n_queries, C) float32
        Scores, or in logit space the corrected logits; with a strength of 0 the logits.
    """
    if space == ResidualSpace.PROBABILITY and strength:
        sums = softmax(logits, temperature=temperature)
    else:
        sums = logits.astype(np.float32, order="C")
    if strength:
        residuals.correct(sums, rows, _effective(weights, strength))
    return sums


def _effective(weights: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
    # The weights carry the strength, and with it every bound that is computed from them.
    return weights if strength == 1 else weights * np.float32(strength)


def _fixed(
    scores: NDArray[np.float32],
    base_predicted: NDArray[np.int32],
    confidence: NDArray[np.float32],
    strength: float,
    space: ResidualSpace,
    gate: Gate | None,
) -> NDArray[np.bool_]:
    """Find the queries whose answer no memory could change.

    A residual's entries lie in [-1, 1], so one class can gain on another by twice the strength at most.
    """
    fixed = np.full(len(scores), strength == 0)
    if gate is not None and gate.confidence is not None:
        fixed |= confidence > gate.confidence
    if space == ResidualSpace.PROBABILITY:
        second = np.take_along_axis(scores, _second(scores, base_predicted, base_predicted)[:, None], axis=1)
        fixed |= confidence - second[:, 0] > 2 * strength + _ROUNDING
    return fixed


def _largest(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    largest: NDArray[np.int32] = scores.argmax(axis=1).astype(np.int32)
    return largest


def _second(
    scores: NDArray[np.float32], predicted: NDArray[np.int32], base_predicted: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Give the network's class where it is not the predicted one, or else the best other class."""
    other = base_predicted.copy()

    def find(block: slice) -> None:
        same = np.flatnonzero(other[block] == predicted[block]) + block.start
        others = scores[same]
        others[np.arange(len(same)), predicted[same]] = -np.inf
        other[same] = others.argmax(axis=1)

    if scores.shape[1] > 1:
        for_each_block(find, row_blocks(len(scores), max(1, _BLOCK_ELEMENTS // scores.shape[1])))
    return other


def _voted(labels: NDArray[Any], weights: NDArray[np.float32], n_classes: int) -> NDArray[np.int32]:
    """Give the argmax of each query's votes, of which only a few queries' are ever written out."""
    voted = np.empty(len(labels), np.int32)

    def choose(block: slice) -> None:
        voted[block] = votes_of_block(labels[block], weights[block], n_classes).argmax(axis=1)

    for_each_block(choose, row_blocks(len(labels), max(1, _BLOCK_ELEMENTS // n_classes)))
    return voted
