"""Residuals, weights, mixtures, predictions, bounds and probabilities against plain float64 formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from reliability.properties import (
    FLOATS,
    POSITIVE,
    UNIT,
    classified,
    holds,
    math_log2,
    matrices,
    plain_softmax,
    softmax_error,
    weight_rows,
    within,
)
from resmem_cli import (
    calibration,
    exponential,
    gate,
    largest,
    logit_space,
    memory,
    prediction,
    residuals,
    truncation,
    weights,
)
from resmem_cli.errors import DataError, UsageError
from resmem_cli.settings import Softening
from resmem_cli.types import Method, ProbabilityMethod, ResidualSpace

Arrays = Callable[..., Any]


def _onehot(labels: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
    return np.eye(n_classes)[labels.astype(np.int64)]


# --- residuals


@holds("residuals.softmax", logits=matrices(), temperature=POSITIVE, weight=2)
def test_softmax(logits: NDArray[Any], temperature: float) -> None:
    found = residuals.softmax(logits, temperature=temperature)
    assert found.dtype == np.float32
    within(found, plain_softmax(logits, temperature), softmax_error(logits, temperature))
    within(found.sum(axis=1, dtype=np.float64), np.ones(len(logits)), 1e-6, "sums")
    assert found.tobytes() == residuals.softmax(logits.copy(order="C"), temperature=temperature).tobytes()


@holds(
    "residuals.compute_residuals",
    "residuals.check_labels",
    drawn=classified(),
    temperature=POSITIVE,
    weight=2,
)
def test_residuals(drawn: tuple[NDArray[Any], NDArray[Any]], temperature: float) -> None:
    logits, labels = drawn
    found = residuals.compute_residuals(logits, labels, temperature=temperature)
    wanted = _onehot(labels, logits.shape[1]) - plain_softmax(logits, temperature)
    within(found, wanted, softmax_error(logits, temperature) + UNIT)
    within(found.sum(axis=1, dtype=np.float64), np.zeros(len(logits)), 2e-6, "sums")
    others = _onehot(labels, logits.shape[1]) == 0
    assert (found[others] <= 0).all()
    assert (found[~others] >= 0).all()


@holds(
    "residuals.check_labels", "residuals.check_top", "residuals.check_temperature", "weights.check_sigma",
    "weights.check_strength", "weights.default_sigma",
    number=st.floats(), whole=st.integers(-3, 300), n_classes=st.integers(1, 200),
)  # fmt: skip
def test_ranges(number: float, whole: int, n_classes: int) -> None:
    def refused(check: Callable[[], object], error: type[Exception] = UsageError) -> bool:
        try:
            check()
        except error:
            return True
        return False

    positive = math.isfinite(number) and number > 0
    assert refused(lambda: residuals.check_temperature(number)) is not positive
    assert refused(lambda: weights.check_sigma(number)) is not positive
    assert refused(lambda: weights.check_strength(number)) is not (0 <= number <= 1e6)
    assert refused(lambda: residuals.check_top(whole, n_classes=n_classes)) is not (1 <= whole <= n_classes)
    assert refused(lambda: weights.default_sigma(number)) is not (number > 0)
    if number > 0 and number < 1e300:
        assert weights.default_sigma(number) == 0.18 * number
    logits = np.zeros((1, n_classes), np.float32)
    labels = np.array([whole])
    outside = not 0 <= whole < n_classes
    assert refused(lambda: residuals.check_labels(logits, labels), DataError) is outside
    assert refused(lambda: residuals.check_labels(logits, labels * 1.0), DataError)
    assert refused(lambda: residuals.check_labels(logits, np.zeros(2, int)), DataError)


@holds("exponential.exp", "exponential.log", values=matrices(), weight=2)
def test_exp_and_log(values: NDArray[Any]) -> None:
    """To half a unit in the last place of float32, three of float64."""
    for dtype, units in ((np.float32, 0.51), (np.float64, 3.0)):
        below = -np.abs(values.astype(np.float64)).astype(dtype)
        true = np.array([math.exp(max(-745.0, value)) for value in below.ravel().tolist()])
        found = below.ravel().copy()
        exponential.exp(found)
        size = np.spacing(np.abs(true.astype(dtype))).astype(np.float64)
        within(found, np.where(below.ravel() < -708, 0, true), units * size)
        above = np.maximum(-below, np.finfo(dtype).smallest_subnormal).ravel()
        wanted = np.array([math.log(value) for value in above.tolist()])
        within(exponential.log(above), wanted, 3 * np.spacing(np.abs(wanted)) + 1e-300)


@holds("residuals.logsumexp", logits=matrices())
def test_logsumexp(logits: NDArray[Any]) -> None:
    wanted = [
        max(row) + math.log(math.fsum(math.exp(value - max(row)) for value in row))
        for row in logits.astype(np.float32).astype(np.float64).tolist()
    ]
    within(residuals.logsumexp(logits), wanted, 1e-15 * (np.abs(wanted) + 4))


@holds("largest.largest_entries", scores=matrices(), m=st.integers(0, 7), weight=2)
def test_largest_entries(scores: NDArray[Any], m: int) -> None:
    scores = scores.astype(np.float32)
    m = min(m, scores.shape[1])
    wanted = [sorted(range(len(row)), key=lambda c: (-row[c], c))[:m] for row in scores.tolist()]
    assert largest.largest_entries(scores, m).tolist() == wanted


@holds("residuals.class_dtype", n_classes=st.integers(1, 1 << 31))
def test_class_dtype(n_classes: int) -> None:
    assert np.iinfo(residuals.class_dtype(n_classes)).max >= n_classes - 1


@holds(
    "residuals.compute_top_residuals", "residuals.decode_values", "residuals.TopResiduals.to_dense",
    "residuals.TopResiduals.signed_values",
    drawn=classified(), temperature=POSITIVE, top=st.integers(1, 7), weight=2,
)  # fmt: skip
def test_top_residuals(drawn: tuple[NDArray[Any], NDArray[Any]], temperature: float, top: int) -> None:
    """The label, then the largest others, each within half a step of the formula."""
    logits, labels = drawn
    top = min(top, logits.shape[1])
    found = residuals.compute_top_residuals(logits, labels, top=top, temperature=temperature)
    wide = logits.astype(np.float64)
    wanted = [
        [label, *[c for c in sorted(range(len(row)), key=lambda c: (-row[c], c)) if c != label][: top - 1]]
        for row, label in zip(wide.tolist(), labels.tolist(), strict=True)
    ]
    assert found.classes.tolist() == wanted
    true = _onehot(labels, logits.shape[1]) - plain_softmax(logits, temperature)
    kept = np.take_along_axis(true, np.array(wanted), axis=1)
    within(residuals.decode_values(found.values), kept, 0.5 / 65535 + 2 * UNIT)
    within(found.signed_values(), kept, 7.7e-6)
    dense = np.zeros(logits.shape)
    np.put_along_axis(dense, np.array(wanted), kept, axis=1)
    within(found.to_dense(), dense, 7.7e-6)


@holds(
    "residuals.residuals_of_top_logits", "residuals.TopLogits.at",
    drawn=classified(), kept=st.integers(1, 7), top=st.integers(1, 7),
)  # fmt: skip
def test_residuals_of_top_logits(drawn: tuple[NDArray[Any], NDArray[Any]], kept: int, top: int) -> None:
    logits, labels = drawn[0].astype(np.float32), drawn[1]
    kept = min(kept, logits.shape[1])
    top = min(kept, top)
    classes = largest.largest_entries(logits, kept)
    stored = residuals.TopLogits(
        classes.astype(np.uint16),
        np.take_along_axis(logits, classes, axis=1),
        residuals.logsumexp(logits),
        logits[np.arange(len(labels)), labels.astype(np.int64)],
        logits.shape[1],
    )
    if np.abs(stored.logsumexp).max() > residuals.LARGEST_LOGIT:
        with pytest.raises(DataError, match="too large"):
            residuals.residuals_of_top_logits(stored, labels, top=top)
        return
    found = residuals.residuals_of_top_logits(stored, labels, top=top)
    wanted = residuals.compute_top_residuals(logits, labels, top=top, temperature=1.0)
    assert found.classes.tolist() == wanted.classes.tolist()
    assert found.values.tolist() == wanted.values.tolist()
    alone = residuals.residuals_of_top_logits(stored.at(np.array([0])), labels[:1], top=top)
    assert alone.values.tolist() == wanted.values[:1].tolist()


# --- weights and mixtures


@st.composite
def _distances(draw: Arrays) -> NDArray[Any]:
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 9)))
    element = draw(
        st.sampled_from((st.floats(0, 1e300), st.floats(0, 5), st.sampled_from((0.0, 1.0, 5e-324, 1e300))))
    )
    values = draw(arrays(np.float64, shape, elements=element))
    return np.asfortranarray(values) if draw(st.booleans()) else values


@holds("weights.neighbor_weights", distances=_distances(), sigma=POSITIVE, weight=2)
def test_neighbor_weights(distances: NDArray[Any], sigma: float) -> None:
    found = weights.neighbor_weights(distances, sigma=sigma)
    wanted = []
    for row in distances.tolist():
        raw = [math.exp(-min(1e4, (distance - min(row)) / sigma)) for distance in row]
        wanted.append([one / math.fsum(raw) for one in raw])
    within(found, wanted, np.array(wanted) * 2 * UNIT + 1e-44)
    within(found.sum(axis=1, dtype=np.float64), np.ones(len(found)), 1e-6, "sums")


@st.composite
def _mixtures(draw: Arrays) -> dict[str, Any]:
    """Draw a memory of residuals, neighbours, and their weights."""
    logits, labels = draw(classified(usual=draw(st.booleans())))
    n, queries, k = len(logits), draw(st.integers(1, 4)), draw(st.integers(1, 6))
    rows = draw(arrays(np.int64, (queries, k), elements=st.integers(0, n - 1)))
    return {
        "memory_logits": logits,
        "labels": labels,
        "rows": rows,
        "weights": draw(weight_rows(queries, k)),
        "top": draw(st.integers(1, logits.shape[1])),
        "temperature": draw(st.sampled_from((1.0, 1.4, 0.3, 30.0))),
        "queries": draw(
            matrices(st.just((queries, logits.shape[1])), usual=True)
        ),
    }  # fmt: skip


@holds(
    "memory.DenseMemory.correct", "memory.DenseMemory.mix", "memory.DenseMemory.entries", drawn=_mixtures()
)
def test_dense_memory(drawn: dict[str, Any]) -> None:
    rows, weight = drawn["rows"], drawn["weights"]
    stored = residuals.compute_residuals(drawn["memory_logits"], drawn["labels"])
    dense = memory.DenseMemory(stored)
    wanted = (weight.astype(np.float64)[:, :, None] * stored.astype(np.float64)[rows]).sum(axis=1)
    off = (rows.shape[1] + 2) * UNIT
    within(dense.mix(rows, weight), wanted, off)
    scores = np.full(wanted.shape, 0.25, np.float32)
    dense.correct(scores, rows, weight)
    within(scores, 0.25 + wanted, off + 2 * UNIT)
    classes = np.zeros(len(rows), np.int32)
    assert dense.entries(rows, classes).tolist() == stored[rows, 0].tolist()


@holds(
    "memory.TopMemory.correct", "memory.TopMemory.mix", "memory.TopMemory.entries",
    "truncation.bound_truncation", drawn=_mixtures(), weight=3,
)  # fmt: skip
def test_top_memory_and_its_bound(drawn: dict[str, Any]) -> None:
    """As the rows written out, to the bit; and whole residuals stay within the bound, and prove the proof."""
    rows, weight, t = drawn["rows"], drawn["weights"], drawn["temperature"]
    logits, labels = drawn["memory_logits"], drawn["labels"]
    top = residuals.compute_top_residuals(logits, labels, top=drawn["top"], temperature=t)
    sparse, written_out = memory.TopMemory(top), memory.DenseMemory(top.to_dense())
    assert np.array_equal(sparse.mix(rows, weight), written_out.mix(rows, weight))
    classes = np.full(len(rows), logits.shape[1] - 1, np.int32)
    assert np.array_equal(sparse.entries(rows, classes), written_out.entries(rows, classes))
    network = residuals.softmax(drawn["queries"], temperature=t)
    truncated, whole = network.copy(), network.astype(np.float64)
    said = sparse.correct(truncated, rows, weight)
    true = _onehot(labels, logits.shape[1]) - plain_softmax(logits, t)
    whole += (weight.astype(np.float64)[:, :, None] * true[rows]).sum(axis=1)
    k, n_classes = rows.shape[1], logits.shape[1]
    rounding = 0.5 / 65535 + (2 * k + 60 + 4 * math_log2(n_classes)) * UNIT
    excess = truncated - whole
    assert (excess >= -rounding).all(), f"below whole residuals by {-excess.min()}"
    assert (excess <= said.bound[:, None] + rounding).all(), f"{excess.max()} above {said.bound}"
    assert (truncated.argmax(axis=1) == whole.argmax(axis=1))[said.proved].all(), "proved, and not so"
    again = truncated.copy()
    bound, proved = truncation.bound_truncation(again, weight, top.classes[rows], top.values[rows])
    assert np.array_equal(again, truncated)
    assert np.array_equal(bound, said.bound)
    assert np.array_equal(proved, said.proved)


@holds("memory.neighbor_votes", "memory.votes_of_block", drawn=_mixtures())
def test_votes(drawn: dict[str, Any]) -> None:
    labels, n_classes = drawn["labels"][drawn["rows"]], drawn["memory_logits"].shape[1]
    wanted = (drawn["weights"].astype(np.float64)[:, :, None] * _onehot(labels, n_classes)).sum(axis=1)
    found = memory.neighbor_votes(labels, drawn["weights"], n_classes=n_classes)
    within(found, wanted, UNIT)
    assert np.array_equal(found, memory.votes_of_block(labels, drawn["weights"], n_classes))


@holds(
    "logit_space.ClassMeans.update", "logit_space.ClassMeans.result", "logit_space.compute_logit_residuals",
    drawn=classified(usual=True), cut=st.integers(0, 6),
)  # fmt: skip
def test_logit_space(drawn: tuple[NDArray[Any], NDArray[Any]], cut: int) -> None:
    logits, labels = drawn
    means = logit_space.ClassMeans(logits.shape[1])
    for part in (slice(0, cut), slice(cut, None)):
        means.update(logits[part], labels[part].astype(np.int64))
    wanted = np.zeros((logits.shape[1],) * 2)
    for c in range(logits.shape[1]):
        own = logits[labels == c].astype(np.float64)
        if len(own):
            wanted[c] = own.mean(axis=0)
    within(means.result(), wanted, 1e-12)
    found = logit_space.compute_logit_residuals(logits, labels, means.result())
    within(found, wanted[labels.astype(np.int64)] - logits, 60 * UNIT)


# --- predictions


@holds(
    "prediction.predict_from_neighbors", "prediction.base_confidence", "prediction.corrected_scores",
    "gate.Gate.open",
    drawn=_mixtures(), sigma=st.floats(0.05, 20), strength=st.sampled_from((0.0, 0.3, 1.0, 50.0)),
    space=st.sampled_from(ResidualSpace), method=st.sampled_from(Method),
    limits=st.none() | st.tuples(st.none() | st.floats(0, 3), st.none() | st.floats(0.2, 1)), weight=3,
)  # fmt: skip
def test_prediction(
    drawn: dict[str, Any], sigma: float, strength: float, space: ResidualSpace, method: Method,
    limits: tuple[float | None, float | None] | None,
) -> None:  # fmt: skip
    rows, labels, t = drawn["rows"], drawn["labels"], drawn["temperature"]
    logits, n_classes = drawn["queries"], drawn["memory_logits"].shape[1]
    assume(np.abs(drawn["memory_logits"]).max() < 1e3)
    distances = np.sort(drawn["weights"].astype(np.float64), axis=1) * 4
    if space is ResidualSpace.PROBABILITY:
        stored = residuals.compute_residuals(drawn["memory_logits"], labels, temperature=t)
    else:
        means = logit_space.ClassMeans(n_classes)
        means.update(drawn["memory_logits"], labels.astype(np.int64))
        stored = logit_space.compute_logit_residuals(drawn["memory_logits"], labels, means.result())
    limit = None if limits is None else gate.Gate(*limits)
    found = prediction.predict_from_neighbors(
        logits, rows=rows, distances=distances, neighbor_labels=labels[rows],
        residuals=memory.DenseMemory(stored), sigma=sigma, temperature=t, strength=strength, space=space,
        method=method, gate=limit, explain=True,
    )  # fmt: skip
    raw = np.exp((distances.min(axis=1, keepdims=True) - distances) / sigma)
    normal = raw / raw.sum(axis=1, keepdims=True)
    network = plain_softmax(logits, t)
    base = logits.argmax(axis=1)
    votes = (normal[:, :, None] * _onehot(labels[rows], n_classes)).sum(axis=1)
    confidence = network[np.arange(len(base)), base]
    opened = np.ones(len(base), bool)
    if limits is not None:
        # Ties of float32 confidence and a limit are for the product to say.
        assert found.opened is not None
        near, sure = limits
        opened = found.opened
        clear = sure is None or (np.abs(confidence - sure) > 1e-5).all()
        wanted_open = (near is None or distances[:, 0] <= near) & (sure is None or confidence <= sure)
        assert not clear or np.array_equal(opened, np.broadcast_to(wanted_open, opened.shape))
    mixed = strength * (normal[:, :, None] * stored.astype(np.float64)[rows]).sum(axis=1) * opened[:, None]
    size = 1 + strength * np.abs(stored).max()
    off = (40 + 4 * rows.shape[1]) * UNIT * size
    if space is ResidualSpace.PROBABILITY:
        resmem = network + mixed
    else:
        sums = logits.astype(np.float64) + mixed
        resmem = plain_softmax(sums, t)
        off = off * 4 * (1 + np.abs(sums).max()) / t + 64 * UNIT
    wanted = {Method.BASE: network, Method.KNN: votes, Method.RESMEM: resmem}[method]
    within(found.scores, wanted, off + softmax_error(logits, t).max(), method)
    within(found.weights, normal, 4 * UNIT)
    within(found.base_confidence, confidence, 100 * UNIT)
    assert found.base_predicted.tolist() == base.tolist()
    best = np.take_along_axis(wanted, found.predicted[:, None].astype(np.int64), axis=1)[:, 0]
    assert (best >= wanted.max(axis=1) - 2 * off - 1e-5).all(), "not the largest score"
    if method is Method.RESMEM:
        assert found.explanation is not None
        lead, runner_up = found.predicted, found.explanation.runner_up
        wide = stored.astype(np.float64)
        given = wide[rows, lead[:, None]] - wide[rows, runner_up[:, None]]
        within(
            found.explanation.contributions, strength * normal * given * opened[:, None], 8 * UNIT * 2 * size
        )
        closed = ~opened
        assert (found.predicted[closed] == base[closed]).all()
        if found.fixed is not None:
            assert (found.predicted[found.fixed] == base[found.fixed]).all(), "fixed, and changed"
        ours = prediction.corrected_scores(
            logits, rows=rows, weights=found.weights, residuals=memory.DenseMemory(stored), temperature=t,
            strength=strength, space=space,
        )  # fmt: skip
        assert (ours.argmax(axis=1) == found.predicted)[opened].all()
    within(
        prediction.base_confidence(residuals.softmax(logits, temperature=t), found.base_predicted),
        confidence,
        100 * UNIT,
    )


# --- probabilities


def _scores_matrix() -> st.SearchStrategy[NDArray[Any]]:
    return matrices()


def _project(row: list[float]) -> list[float]:
    """Project on the simplex by looking for θ with Σ max(s − θ, 0) = 1."""
    high = max(row)
    low = high - 1
    for _ in range(200):
        middle = (low + high) / 2
        if math.fsum(max(value - middle, 0) for value in row) > 1:
            low = middle
        else:
            high = middle
    return [max(value - low, 0) for value in row]


@holds("calibration.project_to_simplex", scores=_scores_matrix(), weight=2)
def test_projection(scores: NDArray[Any]) -> None:
    found = calibration.project_to_simplex(scores)
    shifted = scores.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    within(found, [_project(row) for row in shifted.tolist()], 1e-7)
    within(found.sum(axis=1, dtype=np.float64), np.ones(len(found)), 1e-6, "sums")


@holds("calibration.clip_and_renormalise", scores=_scores_matrix())
def test_clipping(scores: NDArray[Any]) -> None:
    found = calibration.clip_and_renormalise(scores)
    for row, probabilities in zip(scores.tolist(), found, strict=True):
        positive = [max(value, 0.0) / max(max(row), 5e-324) for value in row]
        total = math.fsum(positive)
        within(probabilities, [p / total if total else 1 / len(row) for p in positive], 1e-7)


@holds(
    "calibration.soften", "calibration.to_probabilities", scores=_scores_matrix(),
    temperature=POSITIVE, floor=st.floats(1e-30, 1.0),
)  # fmt: skip
def test_softening(scores: NDArray[Any], temperature: float, floor: float) -> None:
    softening = Softening(temperature, floor)
    found = calibration.soften(scores, softening)
    logarithms = np.log(np.maximum(scores.astype(np.float64), float(np.float32(floor))))
    # A logarithm is off by a unit of itself; its quotient by the temperature is what exp is taken of.
    off = np.abs(logarithms).max() * 4 * UNIT / min(max(temperature, 1e-38), 3e38)
    wanted = plain_softmax(logarithms, temperature)
    if off < 0.1:
        within(found, wanted, 3 * off + softmax_error(logarithms, temperature))
    within(found.sum(axis=1, dtype=np.float64), np.ones(len(found)), 1e-6, "sums")
    for method, of_method in (
        (ProbabilityMethod.TEMPERATURE, found),
        (ProbabilityMethod.SIMPLEX, calibration.project_to_simplex(scores)),
        (ProbabilityMethod.CLIP, calibration.clip_and_renormalise(scores)),
    ):
        again = calibration.to_probabilities(scores, method, softening=softening)
        assert again.tobytes() == of_method.tobytes()
        assert (again >= 0).all()


@holds("calibration.fit_temperature", "calibration.fit_softening", drawn=classified(usual=True))
def test_fits_are_as_good_as_any(drawn: tuple[NDArray[Any], NDArray[Any]]) -> None:
    scores, labels = drawn
    own = labels.astype(np.int64)

    def loss(logits: NDArray[Any], temperature: float) -> float:
        shifted = (logits - logits.max(axis=1, keepdims=True)) / temperature
        normaliser = np.log(np.exp(shifted).sum(axis=1))
        return float((normaliser - shifted[np.arange(len(own)), own]).mean())

    wide = scores.astype(np.float64)
    fitted = calibration.fit_temperature(scores, labels)
    tried = np.geomspace(1e-3, 1e3, 61).tolist()
    assert 1e-3 <= fitted <= 1e3
    best = loss(wide, fitted)
    assert best <= min(loss(wide, t) for t in tried) + 1e-6 * (1 + best)
    shares = scores / np.float32(8)
    softening = calibration.fit_softening(shares, labels)

    def softened(t: float, floor: float) -> float:
        return loss(np.log(np.maximum(shares.astype(np.float64), float(np.float32(floor)))), t)

    best = softened(softening.temperature, softening.floor)
    floors = [share / scores.shape[1] for share in (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001)]
    assert best <= min(softened(t, floor) for t in tried for floor in floors) + 1e-5 * (1 + best)


@pytest.mark.parametrize("dtype", FLOATS)
def test_no_rows_at_all(dtype: Any) -> None:
    assert residuals.softmax(np.empty((0, 3), dtype)).shape == (0, 3)
    assert calibration.project_to_simplex(np.empty((0, 3), dtype)).shape == (0, 3)
    assert residuals.compute_residuals(np.empty((0, 3), dtype), np.empty(0, np.int64)).shape == (0, 3)
