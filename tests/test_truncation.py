"""What truncated residuals could have got wrong, against whole ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resmem_cli.memory import DenseMemory, TopMemory
from resmem_cli.prediction import predict_from_neighbors
from resmem_cli.residuals import TopResiduals, compute_residuals, compute_top_residuals, softmax
from resmem_cli.truncation import bound_truncation
from resmem_cli.types import Method

UNIT = 1 / 65535


def memories(rng, *, n=60, n_classes=10, top=3, scale=3.0, temperature=1.0):
    logits = rng.normal(scale=scale, size=(n, n_classes)).astype(np.float32)
    labels = rng.integers(n_classes, size=n)
    dense = DenseMemory(compute_residuals(logits, labels, temperature=temperature))
    return dense, TopMemory(compute_top_residuals(logits, labels, top=top, temperature=temperature))


def neighbours(rng, *, n_queries, k, n=60):
    rows = np.array([rng.permutation(n)[:k] for _ in range(n_queries)])
    return rows, rng.dirichlet(np.ones(k), size=n_queries).astype(np.float32)


def close_calls(rng, memory, rows, weights, *, spread):
    """Make probabilities with which two classes are about `spread` apart after mixing."""
    mixed = memory.mix(rows, weights)
    n_queries, n_classes = mixed.shape
    queries = np.arange(n_queries)
    winner, other = np.array([rng.permutation(n_classes)[:2] for _ in range(n_queries)]).T
    lead = rng.uniform(-1, 1, n_queries) * spread
    apart = mixed[queries, other] - mixed[queries, winner] + lead
    probabilities = np.full((n_queries, n_classes), 1e-9)
    probabilities[queries, winner] = np.clip((1 + apart) / 2, 1e-9, 1)
    probabilities[queries, other] = np.clip((1 - apart) / 2, 1e-9, 1)
    return probabilities.astype(np.float32)


def test_two_neighbours_by_hand():
    # Residuals (0.5, −0.3, −0.2, 0) and (−0.6, 0.75, −0.1, −0.05), of which two entries are kept.
    classes = np.array([[[0, 1], [1, 0]]], np.uint16)
    values = np.rint(np.array([[[0.5, 0.3], [0.75, 0.6]]]) / UNIT).astype(np.uint16)
    weights = np.array([[0.75, 0.25]], np.float32)
    # Of the first at most 0.2 is dropped, of the second 0.15: less than the smallest kept.
    sizes = 0.75 * (0.2 + UNIT), 0.25 * (0.15 + UNIT)
    for scores, own_loss, proved in (
        ([0.6, 0.3, 0.1, 0], 0.0, True),
        ([0.1, 0.1, 0.5, 0.3], sum(sizes), True),
        ([0.1, 0.1, 0.5, 0.32], sum(sizes), False),
    ):
        bound, verdict = bound_truncation(np.array([scores], np.float32), weights, classes, values)
        assert bound[0] == pytest.approx(sum(sizes), abs=2 * UNIT)
        lead = np.diff(np.sort(scores)[-2:])[0]
        assert verdict[0] == proved == (lead > own_loss + 1e-4)


def test_the_smallest_kept_bounds_what_is_dropped():
    # 0.9 − 0.1 = 0.8 is dropped, in pieces of at most 0.1.
    classes, values = np.array([[[5, 0]]], np.uint16), np.rint(np.array([[[0.9, 0.1]]]) / UNIT)
    bound, _ = bound_truncation(
        np.zeros((1, 20), np.float32), np.ones((1, 1), np.float32), classes, values.astype(np.uint16)
    )
    assert bound[0] == pytest.approx(0.1, abs=2 * UNIT)
    assert bound[0] >= (np.rint(0.1 / UNIT) + 0.5) * UNIT


@pytest.mark.parametrize("n_classes", [2, 3, 10, 300])
@pytest.mark.parametrize("top", [1, 2, 9, 300])
def test_no_score_is_above_whole_residuals_by_more_than_the_bound(n_classes, top):
    rng = np.random.default_rng(n_classes + top)
    dense, truncated = memories(rng, n_classes=n_classes, top=min(top, n_classes))
    rows, weights = neighbours(rng, n_queries=200, k=7)
    scores = np.zeros((200, n_classes), np.float32)
    bound = truncated.correct(scores, rows, weights).bound
    excess = scores - dense.mix(rows, weights)
    assert bound.dtype == np.float32
    assert (excess.max(axis=1) <= bound + UNIT).all()
    assert (excess >= -UNIT).all()
    if top >= n_classes:
        assert not bound.any()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([(2, 1), (3, 1), (3, 2), (5, 3), (5, 5), (40, 1), (40, 4), (40, 39), (500, 20)]),
    st.sampled_from([1, 2, 20, 53]),
    st.sampled_from([1e-6, 2e-5, 1e-4, 1e-2, 0.3]),
    st.sampled_from([0.5, 3.0, 12.0]),
)
def test_what_is_proved_is_what_whole_residuals_give(seed, sizes, k, spread, scale):
    rng = np.random.default_rng(seed)
    n_classes, top = sizes
    dense, truncated = memories(rng, n_classes=n_classes, top=top, scale=scale)
    rows, weights = neighbours(rng, n_queries=400, k=k)
    probabilities = close_calls(rng, truncated, rows, weights, spread=spread)
    scores, whole = probabilities.copy(), probabilities.copy()
    proved = truncated.correct(scores, rows, weights).proved
    dense.correct(whole, rows, weights)
    assert np.array_equal(scores.argmax(axis=1)[proved], whole.argmax(axis=1)[proved])


def test_leads_that_rounding_could_have_made_are_not_proved():
    rng = np.random.default_rng(5)
    dense, truncated = memories(rng, n_classes=40, top=40)
    rows, weights = neighbours(rng, n_queries=3000, k=20)
    probabilities = close_calls(rng, truncated, rows, weights, spread=1e-5)
    scores, whole = probabilities.copy(), probabilities.copy()
    proved = truncated.correct(scores, rows, weights).proved
    dense.correct(whole, rows, weights)
    lead = np.diff(np.sort(scores, axis=1)[:, -2:], axis=1)[:, 0]
    assert (scores.argmax(axis=1) != whole.argmax(axis=1)).any()
    assert (lead < UNIT).sum() > 1000
    assert not proved[lead < UNIT].any()


def test_the_winners_own_loss_proves_more_than_the_bound_would():
    rng = np.random.default_rng(6)
    dense, truncated = memories(rng, n=500, n_classes=50, top=12, scale=1.5)
    rows, weights = neighbours(rng, n_queries=500, k=20, n=500)
    scores = softmax(rng.normal(scale=3, size=(500, 50)).astype(np.float32))
    whole = scores.copy()
    truncation = truncated.correct(scores, rows, weights)
    dense.correct(whole, rows, weights)
    second, best = np.sort(scores, axis=1)[:, -2:].T
    by_bound = best - second > truncation.bound
    assert not (by_bound & ~truncation.proved).any()
    assert truncation.proved.mean() > by_bound.mean()
    same = scores.argmax(axis=1) == whole.argmax(axis=1)
    assert same[truncation.proved].all()
    assert truncation.proved.mean() > 0.9 * same.mean()


def test_a_tie_is_not_proved():
    top = TopResiduals(np.array([[0, 1]], np.uint16), np.array([[0, 0]], np.uint16), 2)
    scores = np.full((1, 2), 0.5, np.float32)
    truncation = TopMemory(top).correct(scores, np.zeros((1, 1), int), np.ones((1, 1), np.float32))
    assert not truncation.proved[0]
    assert truncation.bound[0] == 0


def test_one_class_is_always_right():
    top = compute_top_residuals(np.zeros((1, 1), np.float32), np.zeros(1, int), top=1)
    scores = np.ones((1, 1), np.float32)
    truncation = TopMemory(top).correct(scores, np.zeros((1, 1), int), np.ones((1, 1), np.float32))
    assert truncation.proved[0]
    assert scores[0, 0] == 1


@pytest.mark.parametrize("threads", ["1", "3"])
def test_truncated_residuals_mix_as_the_same_rows_written_out(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    rng = np.random.default_rng(7)
    _, truncated = memories(rng, n_classes=700, top=20)
    rows, weights = neighbours(rng, n_queries=90, k=30)
    written_out = DenseMemory(truncated.top.to_dense())
    scores = softmax(rng.normal(size=(90, 700)).astype(np.float32))
    expected = scores.copy()
    written_out.correct(expected, rows, weights)
    truncated.correct(scores, rows, weights)
    assert np.array_equal(scores, expected)
    assert np.array_equal(truncated.mix(rows, weights), written_out.mix(rows, weights))


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("kind", ["dense", "truncated"])
def test_a_prediction_tells_of_truncation_only_where_there_is_some(method, kind):
    rng = np.random.default_rng(8)
    residuals = dict(zip(("dense", "truncated"), memories(rng), strict=True))[kind]
    rows, _ = neighbours(rng, n_queries=30, k=5)
    prediction = predict_from_neighbors(
        rng.normal(scale=3, size=(30, 10)).astype(np.float32),
        rows=rows,
        distances=np.sort(rng.gamma(3, size=(30, 5)), axis=1),
        neighbor_labels=rng.integers(10, size=(30, 5)),
        residuals=residuals,
        sigma=1.0,
        temperature=1.0,
        method=method,
    )
    told = kind == "truncated" and method == Method.RESMEM
    assert (prediction.truncation is not None) == told
    if prediction.truncation is not None:
        assert prediction.truncation.bound.shape == prediction.truncation.proved.shape == (30,)
