"""Strength, logit space, the gate and explanations of a prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resmem_cli.analysis import Gate
from resmem_cli.errors import UsageError
from resmem_cli.logit_space import ClassMeans, compute_logit_residuals
from resmem_cli.memory import DenseMemory, Residuals, TopMemory
from resmem_cli.prediction import Prediction, corrected_scores, predict_from_neighbors
from resmem_cli.residuals import compute_residuals, compute_top_residuals, softmax
from resmem_cli.types import Method, ResidualSpace
from resmem_cli.weights import neighbor_weights

N, C, K, SIGMA, T = 120, 6, 7, 0.8, 1.4
ROUNDING = 2e-6
LOGIT = ResidualSpace.LOGIT


@dataclass(frozen=True)
class Case:
    """A memory, and the neighbours in it of some queries."""

    memory_logits: NDArray[np.float32]
    memory_labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    rows: NDArray[np.int64]
    distances: NDArray[np.float64]

    @property
    def dense(self) -> DenseMemory:
        return DenseMemory(compute_residuals(self.memory_logits, self.memory_labels, temperature=T))

    @property
    def in_logits(self) -> DenseMemory:
        means = ClassMeans(C)
        means.update(self.memory_logits, self.memory_labels)
        return DenseMemory(compute_logit_residuals(self.memory_logits, self.memory_labels, means.result()))

    def memory_in(self, space: ResidualSpace) -> DenseMemory:
        return self.in_logits if space == LOGIT else self.dense

    def predict(self, memory: Residuals | None = None, **options: Any) -> Prediction:
        return self.predict_some(slice(None), memory, **options)

    def predict_some(
        self, chosen: slice, memory: Residuals | None = None, *, space: Any = None, **options: Any
    ) -> Prediction:
        space = space or ResidualSpace.PROBABILITY
        rows = self.rows[chosen]
        return predict_from_neighbors(
            self.logits[chosen],
            rows=rows,
            distances=self.distances[chosen],
            neighbor_labels=self.memory_labels[rows],
            residuals=memory or self.memory_in(space),
            sigma=SIGMA,
            temperature=T,
            space=space,
            **options,
        )


def make_case(seed: int = 0, *, n_queries: int = 60, scale: float = 1.5) -> Case:
    rng = np.random.default_rng(seed)
    labels = rng.integers(C, size=N)
    return Case(
        memory_logits=(rng.normal(size=(N, C)) * scale + 2 * np.eye(C)[labels]).astype(np.float32),
        memory_labels=labels,
        logits=rng.normal(scale=scale, size=(n_queries, C)).astype(np.float32),
        rows=np.array([rng.permutation(N)[:K] for _ in range(n_queries)]),
        distances=np.sort(rng.uniform(0, 3, size=(n_queries, K)), axis=1),
    )


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case()


def wide_weights(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(-distances / SIGMA)
    normalised: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return normalised


def wide_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    scaled = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64) / T)
    normalised: NDArray[np.float64] = scaled / scaled.sum(axis=1, keepdims=True)
    return normalised


# --- strength


def test_one_neighbour_by_hand() -> None:
    prediction = predict_from_neighbors(
        np.zeros((1, 2), np.float32),
        rows=np.array([[0]]),
        distances=np.array([[5.0]]),
        neighbor_labels=np.array([[1]]),
        residuals=DenseMemory(np.array([[-0.25, 0.25]], np.float32)),
        sigma=1,
        temperature=1,
        strength=0.5,
        explain=True,
    )
    assert prediction.scores.tolist() == [[0.375, 0.625]]
    assert (prediction.base_predicted[0], prediction.predicted[0]) == (0, 1)
    assert prediction.explanation is not None
    assert prediction.explanation.runner_up.tolist() == [0]
    assert prediction.explanation.contributions.tolist() == [[0.25]]


@pytest.mark.parametrize("space", list(ResidualSpace))
def test_no_strength_leaves_the_network_s_scores_to_the_bit(case: Case, space: ResidualSpace) -> None:
    prediction = case.predict(strength=0, space=space, explain=True)
    assert prediction.scores.tobytes() == softmax(case.logits, temperature=T).tobytes()
    assert np.array_equal(prediction.predicted, case.logits.argmax(axis=1))
    assert prediction.explanation is not None
    assert not prediction.explanation.contributions.any()


def test_no_strength_leaves_the_network_s_answer_where_probabilities_round_to_a_tie() -> None:
    logits = np.array([[0, 1e-9, -1]], np.float32)
    known = {"rows": np.array([[0]]), "residuals": DenseMemory(np.array([[0.5, -0.5, 0]], np.float32))}
    prediction = predict_from_neighbors(
        logits,
        distances=np.array([[1.0]]),
        neighbor_labels=np.array([[0]]),
        sigma=1,
        temperature=1,
        strength=0,
        **known,
    )
    assert prediction.scores[0, 0] == prediction.scores[0, 1]
    assert prediction.predicted.tolist() == prediction.base_predicted.tolist() == [1]
    scores = corrected_scores(
        logits,
        weights=np.ones((1, 1), np.float32),
        temperature=1,
        strength=0,
        space=ResidualSpace.PROBABILITY,
        **known,
    )
    assert scores.argmax(axis=1).tolist() == [1]


def test_strength_one_is_the_paper_s_sum_to_the_bit(case: Case) -> None:
    expected = softmax(case.logits, temperature=T)
    case.dense.correct(expected, case.rows, neighbor_weights(case.distances, sigma=SIGMA))
    given_one, by_default = case.predict(strength=1), case.predict()
    assert given_one.scores.tobytes() == by_default.scores.tobytes() == expected.tobytes()
    assert given_one.fixed is None


@given(strength=st.floats(0, 8))
@settings(max_examples=30, deadline=None)
def test_scores_are_linear_in_strength(strength: float) -> None:
    case = make_case(1)
    base, whole = case.predict(strength=0).scores, case.predict().scores
    expected = base + strength * (whole.astype(np.float64) - base)
    assert np.abs(case.predict(strength=strength).scores - expected).max() < 1e-6 * (1 + strength)


def test_corrected_scores_have_the_argmax_of_the_prediction(case: Case) -> None:
    for space in ResidualSpace:
        scores = corrected_scores(
            case.logits,
            rows=case.rows,
            weights=neighbor_weights(case.distances, sigma=SIGMA),
            residuals=case.memory_in(space),
            temperature=T,
            strength=0.7,
            space=space,
        )
        assert np.array_equal(scores.argmax(axis=1), case.predict(strength=0.7, space=space).predicted)


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_strengths_out_of_range_are_refused(case: Case, strength: float) -> None:
    with pytest.raises(UsageError, match="strength out of range"):
        case.predict(strength=strength)


# --- logit space


@pytest.mark.parametrize("strength", [0.3, 1.0, 2.5])
def test_logit_space_is_that_of_a_float64_oracle(case: Case, strength: float) -> None:
    wide = case.memory_logits.astype(np.float64)
    means = np.array([wide[case.memory_labels == c].mean(axis=0) for c in range(C)])
    residuals = means[case.memory_labels] - wide
    mixed = np.einsum("qk,qkc->qc", wide_weights(case.distances), residuals[case.rows])
    corrected = case.logits + strength * mixed
    prediction = case.predict(space=LOGIT, strength=strength)
    assert np.abs(prediction.scores - wide_softmax(corrected)).max() < ROUNDING
    assert np.array_equal(prediction.predicted, corrected.argmax(axis=1))
    assert np.abs(prediction.scores.sum(axis=1) - 1).max() < ROUNDING
    assert prediction.scores.min() >= 0


def test_probability_space_is_that_of_a_float64_oracle(case: Case) -> None:
    residuals = np.eye(C)[case.memory_labels] - wide_softmax(case.memory_logits)
    mixed = np.einsum("qk,qkc->qc", wide_weights(case.distances), residuals[case.rows])
    expected = wide_softmax(case.logits) + 0.6 * mixed
    assert np.abs(case.predict(strength=0.6).scores - expected).max() < ROUNDING


# --- the gate

GATES = [
    Gate(distance=0.4),
    Gate(confidence=0.6),
    Gate(distance=0.6, confidence=0.5),
    Gate(distance=-1.0),
    Gate(),
]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("space", list(ResidualSpace))
def test_closed_queries_are_the_network_s_and_open_ones_memory_s(
    case: Case, gate: Gate, space: ResidualSpace
) -> None:
    prediction = case.predict(gate=gate, space=space, strength=0.9, explain=True)
    ungated = case.predict(space=space, strength=0.9, explain=True)
    opened = gate.open(case.distances[:, 0], prediction.base_confidence)
    assert prediction.opened is not None
    assert np.array_equal(prediction.opened, opened)
    base = softmax(case.logits, temperature=T)
    assert prediction.scores[~opened].tobytes() == base[~opened].tobytes()
    assert prediction.scores[opened].tobytes() == ungated.scores[opened].tobytes()
    answers = np.where(opened, ungated.predicted, case.logits.argmax(axis=1))
    assert np.array_equal(prediction.predicted, answers)
    assert prediction.explanation is not None
    assert ungated.explanation is not None
    assert not prediction.explanation.contributions[~opened].any()
    own = ungated.explanation.contributions
    assert np.array_equal(prediction.explanation.contributions[opened], own[opened])
    # The weights stay those of the neighbours: they say who was near, not who was heard.
    assert np.array_equal(prediction.weights, ungated.weights)


def test_gates_of_this_module_open_for_some_queries(case: Case) -> None:
    shares = [case.predict(gate=gate).opened.mean() for gate in GATES]  # type: ignore[union-attr]
    assert all(0.05 < share < 0.95 for share in shares[:3])
    assert shares[3:] == [0, 1]


# --- fixed answers


@given(
    seed=st.integers(0, 10_000),
    strength=st.floats(0, 0.49),
    confidence=st.none() | st.floats(0.3, 1),
    memory_scale=st.floats(0.1, 30),
    query_scale=st.floats(0.1, 8),
)
@settings(max_examples=60, deadline=None)
def test_fixed_queries_keep_the_network_s_answer_whatever_the_memory_is(
    seed: int, strength: float, confidence: float | None, memory_scale: float, query_scale: float
) -> None:
    case = make_case(seed, scale=query_scale)
    rng = np.random.default_rng(seed)
    labels = rng.integers(C, size=N)
    logits = rng.normal(scale=memory_scale, size=(N, C)).astype(np.float32)
    gate = None if confidence is None else Gate(confidence=confidence)
    memory = DenseMemory(compute_residuals(logits, labels, temperature=T))
    prediction = case.predict(memory, strength=strength, gate=gate)
    assert prediction.fixed is not None
    kept = prediction.predicted == prediction.base_predicted
    assert kept[prediction.fixed].all()


def test_the_worst_memory_changes_no_fixed_answer_and_some_answers_just_below() -> None:
    # One neighbour whose residual takes all from the network's class and gives all to the second.
    leads = np.linspace(0.01, 0.99, 99)
    logits = np.log(np.stack([(1 + leads) / 2, (1 - leads) / 2], axis=1)).astype(np.float32)
    prediction = predict_from_neighbors(
        logits,
        rows=np.zeros((99, 1), np.int64),
        distances=np.ones((99, 1)),
        neighbor_labels=np.ones((99, 1), np.int32),
        residuals=DenseMemory(np.array([[-1, 1]], np.float32)),
        sigma=1,
        temperature=1,
        strength=0.2,
    )
    changed = prediction.predicted != prediction.base_predicted
    assert prediction.fixed is not None
    assert not (changed & prediction.fixed).any()
    # Just as tight as it can be: beside a lead of 0.4 itself, all that are not fixed change.
    assert (prediction.fixed | changed | (np.abs(leads - 0.4) < 1e-4)).all()
    assert prediction.fixed.sum() == 59


@pytest.mark.parametrize("strength", [0.05, 0.2, 0.45])
def test_some_answers_are_fixed_at_small_strengths(strength: float) -> None:
    fixed = make_case(2, scale=6).predict(strength=strength).fixed
    assert fixed is not None
    assert 0 < fixed.sum() < len(fixed)


def test_no_answer_is_fixed_by_strengths_from_a_half_on(case: Case) -> None:
    fixed = case.predict(strength=0.5).fixed
    assert fixed is not None
    assert not fixed.any()


def test_in_logit_space_only_the_gate_fixes_answers(case: Case) -> None:
    gate = Gate(distance=1.0, confidence=0.5)
    prediction = case.predict(space=LOGIT, gate=gate)
    assert prediction.fixed is not None
    assert np.array_equal(prediction.fixed, prediction.base_confidence > 0.5)
    assert prediction.fixed.any()


# --- explanations


def lead(scores: NDArray[Any], winner: NDArray[np.int32], other: NDArray[np.int32]) -> NDArray[np.float64]:
    wide = scores.astype(np.float64)
    places = np.arange(len(wide))
    difference: NDArray[np.float64] = wide[places, winner] - wide[places, other]
    return difference


def memories(case: Case) -> dict[str, Residuals]:
    top = compute_top_residuals(case.memory_logits, case.memory_labels, top=3, temperature=T)
    return {"dense": case.dense, "top": TopMemory(top)}


@pytest.mark.parametrize("gate", [None, Gate(distance=0.5)])
@pytest.mark.parametrize("kind", ["dense", "top"])
@pytest.mark.parametrize("strength", [0.4, 1.0, 3.0])
def test_contributions_add_up_to_what_memory_adds_to_the_lead(
    case: Case, kind: str, strength: float, gate: Gate | None
) -> None:
    prediction = case.predict(memories(case)[kind], strength=strength, gate=gate, explain=True)
    explanation = prediction.explanation
    assert explanation is not None
    winner, other = prediction.predicted, explanation.runner_up
    added = explanation.contributions.sum(axis=1, dtype=np.float64)
    base = softmax(case.logits, temperature=T)
    expected = lead(prediction.scores, winner, other) - lead(base, winner, other)
    assert np.abs(added - expected).max() < ROUNDING * (1 + strength)


def test_in_logit_space_contributions_add_up_to_a_lead_of_logits(case: Case) -> None:
    prediction = case.predict(space=LOGIT, strength=0.8, explain=True)
    explanation = prediction.explanation
    assert explanation is not None
    winner, other = prediction.predicted, explanation.runner_up
    corrected = T * np.log(prediction.scores.astype(np.float64))
    expected = lead(corrected, winner, other) - lead(case.logits, winner, other)
    assert np.abs(explanation.contributions.sum(axis=1, dtype=np.float64) - expected).max() < 2e-5


@pytest.mark.parametrize("space", list(ResidualSpace))
def test_the_runner_up_is_the_network_s_class_or_else_the_second_best(
    case: Case, space: ResidualSpace
) -> None:
    prediction = case.predict(space=space, explain=True)
    explanation = prediction.explanation
    assert explanation is not None
    changed = prediction.predicted != prediction.base_predicted
    assert 0 < changed.sum() < len(changed)
    assert np.array_equal(explanation.runner_up[changed], prediction.base_predicted[changed])
    second = np.argsort(-prediction.scores, axis=1, kind="stable")[:, 1]
    assert np.array_equal(explanation.runner_up[~changed], second[~changed])


def test_there_is_no_explanation_unless_asked_for(case: Case) -> None:
    assert case.predict().explanation is None
    for method in (Method.BASE, Method.KNN):
        assert case.predict(method=method, explain=True).explanation is None


@given(seed=st.integers(0, 10_000), top=st.integers(1, C))
@settings(max_examples=30, deadline=None)
def test_dense_and_top_memory_give_the_same_entries(seed: int, top: int) -> None:
    case = make_case(seed, n_queries=9)
    rng = np.random.default_rng(seed)
    kept = compute_top_residuals(case.memory_logits, case.memory_labels, top=top, temperature=T)
    written_out = DenseMemory(kept.to_dense())
    classes = rng.integers(C, size=len(case.rows)).astype(np.int32)
    found = TopMemory(kept).entries(case.rows, classes)
    assert found.dtype == np.float32
    assert np.array_equal(found, written_out.entries(case.rows, classes))
    if top == C:
        assert np.abs(found - case.dense.entries(case.rows, classes)).max() < 1e-5


def test_entries_by_hand() -> None:
    residuals = np.arange(12, dtype=np.float32).reshape(4, 3)
    rows, classes = np.array([[0, 3], [2, 1]]), np.array([2, 0], np.int32)
    assert DenseMemory(residuals).entries(rows, classes).tolist() == [[2, 11], [6, 3]]


# --- batches


@pytest.mark.parametrize("kind", ["dense", "top", "logit"])
@pytest.mark.parametrize("step", [1, 7])
def test_a_query_s_prediction_has_the_same_bits_in_any_batch(kind: str, step: int) -> None:
    case = make_case(3, n_queries=31)
    memory = case.in_logits if kind == "logit" else memories(case)[kind]
    options = {
        "strength": 0.37,
        "gate": Gate(distance=0.7, confidence=0.9),
        "explain": True,
        "space": LOGIT if kind == "logit" else ResidualSpace.PROBABILITY,
    }
    whole = case.predict(memory, **options)
    for start in range(0, 31, step):
        chosen = slice(start, start + step)
        part = case.predict_some(chosen, memory, **options)
        for name in ("scores", "predicted", "base_confidence", "weights", "opened", "fixed"):
            assert getattr(part, name).tobytes() == getattr(whole, name)[chosen].tobytes(), name
        for name in ("runner_up", "contributions"):
            ours, theirs = (getattr(one.explanation, name) for one in (part, whole))
            assert ours.tobytes() == theirs[chosen].tobytes(), name
