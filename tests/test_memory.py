"""Equations 7 and 8 on hand-worked rows, and what must hold for any batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resmem_cli.errors import UsageError
from resmem_cli.indexes.exact import ExactIndex
from resmem_cli.memory import DenseMemory, TopMemory, neighbor_votes
from resmem_cli.prediction import predict_from_neighbors
from resmem_cli.residuals import compute_residuals, compute_top_residuals, softmax
from resmem_cli.types import Method

RESIDUALS = np.array([[0.5, -0.25, -0.25], [-0.75, 1, -0.25], [-0.5, -0.5, 1]], np.float32)


def memory_of(rng, *, n=200, n_classes=10):
    logits = rng.normal(scale=3, size=(n, n_classes)).astype(np.float32)
    labels = rng.integers(n_classes, size=n)
    return logits, labels


def neighbours_of(rng, *, n_queries, k, n=200):
    rows = np.array([rng.permutation(n)[:k] for _ in range(n_queries)])
    weights = rng.dirichlet(np.ones(k), size=n_queries).astype(np.float32)
    return rows, weights


def both_memories(logits, labels, *, top=7):
    top = min(top, logits.shape[1])
    return {
        "dense": DenseMemory(compute_residuals(logits, labels)),
        "top": TopMemory(compute_top_residuals(logits, labels, top=top)),
    }


class TestMix:
    def test_three_rows_by_hand(self):
        rows = np.array([[0, 2], [1, 1], [2, 0]])
        weights = np.array([[0.5, 0.5], [0.75, 0.25], [1, 0]], np.float32)
        expected = [[0, -0.375, 0.375], [-0.75, 1, -0.25], [-0.5, -0.5, 1]]
        assert DenseMemory(RESIDUALS).mix(rows, weights).tolist() == expected

    def test_entries_that_are_not_stored_count_as_0(self):
        logits = np.log(np.array([[1, 1, 2], [6, 1, 1]])).astype(np.float32)
        top = compute_top_residuals(logits, np.array([2, 1]), top=2, temperature=1)
        mixed = TopMemory(top).mix(np.array([[0, 1]]), np.array([[0.5, 0.5]], np.float32))
        np.testing.assert_allclose(mixed, [[(-1 / 4 - 3 / 4) / 2, 7 / 16, 1 / 4]], atol=1e-5)

    @pytest.mark.parametrize("n_classes", [2, 10, 40_000])
    @pytest.mark.parametrize("kind", ["dense", "top"])
    def test_the_sum_is_float64s(self, kind, n_classes):
        rng = np.random.default_rng(0)
        logits, labels = memory_of(rng, n=20, n_classes=n_classes)
        memory = both_memories(logits, labels)[kind]
        residuals = memory.residuals if kind == "dense" else memory.top.to_dense()
        rows, weights = neighbours_of(rng, n_queries=30, k=9, n=20)
        expected = np.einsum("qk,qkc->qc", weights.astype(np.float64), residuals.astype(np.float64)[rows])
        np.testing.assert_allclose(memory.mix(rows, weights), expected, atol=1e-6)

    # In place on every m-th entry, numpy 2.4 negates wrongly where m is 4.
    @pytest.mark.parametrize("n_classes", [1, 2, 3, 4, 5, 8, 16, 100])
    def test_all_top_entries_mix_as_the_dense_residuals_within_quantisation(self, n_classes):
        rng = np.random.default_rng(1)
        logits, labels = memory_of(rng, n_classes=n_classes)
        rows, weights = neighbours_of(rng, n_queries=100, k=53)
        dense = DenseMemory(compute_residuals(logits, labels)).mix(rows, weights)
        top = TopMemory(compute_top_residuals(logits, labels, top=n_classes)).mix(rows, weights)
        assert np.abs(top - dense).max() <= 7.9e-6

    @pytest.mark.parametrize("kind", ["dense", "top"])
    def test_a_memory_map_mixes_as_an_array(self, kind, tmp_path):
        rng = np.random.default_rng(2)
        logits, labels = memory_of(rng)
        rows, weights = neighbours_of(rng, n_queries=20, k=5)
        memory = both_memories(logits, labels)[kind]
        stored = memory.residuals if kind == "dense" else memory.top.values
        np.save(tmp_path / "values.npy", stored)
        mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
        if kind == "dense":
            again = DenseMemory(mapped)
        else:
            again = TopMemory(type(memory.top)(memory.top.classes, mapped, memory.top.n_classes))
        assert np.array_equal(again.mix(rows, weights), memory.mix(rows, weights))

    @pytest.mark.parametrize("kind", ["dense", "top"])
    def test_no_queries_give_no_sums(self, kind):
        memory = both_memories(*memory_of(np.random.default_rng(0)))[kind]
        assert memory.mix(np.empty((0, 3), np.int64), np.empty((0, 3), np.float32)).shape == (0, 10)


class TestVotes:
    def test_three_queries_by_hand(self):
        labels = np.array([[0, 2, 0], [1, 1, 1], [2, 0, 1]], np.uint8)
        weights = np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.5, 0.5, 0]], np.float32)
        votes = neighbor_votes(labels, weights, n_classes=3)
        assert votes.dtype == np.float32
        assert votes.tolist() == [[0.75, 0, 0.25], [0, 1, 0], [0.5, 0, 0.5]]

    def test_classes_without_a_neighbour_have_no_votes(self):
        assert neighbor_votes(np.array([[0]]), np.ones((1, 1), np.float32), n_classes=4).tolist() == [
            [1, 0, 0, 0]
        ]


def predict(method=Method.RESMEM, *, logits, rows, distances, labels, residuals, sigma=1.0, temperature=1.0):
    return predict_from_neighbors(
        logits,
        rows=rows,
        distances=distances,
        neighbor_labels=labels[rows],
        residuals=DenseMemory(residuals),
        sigma=sigma,
        temperature=temperature,
        method=method,
    )


class TestPrediction:
    """Two queries with probabilities 1/4, 1/4, 1/2 and 3/4, 1/8, 1/8, and weights 2/3, 1/3."""

    arrays = {
        "logits": 1.4 * np.log(np.array([[1, 1, 2], [6, 1, 1]])).astype(np.float32),
        "rows": np.array([[0, 1], [1, 2]]),
        "distances": 5 + 0.5 * np.log(np.array([[1.0, 2.0], [1.0, 2.0]])),
        "labels": np.array([0, 1, 2]),
        "residuals": RESIDUALS,
        "sigma": 0.5,
        "temperature": 1.4,
    }

    def test_resmem_by_hand(self):
        prediction = predict(**self.arrays)
        # 2/3·(0.5, −0.25, −0.25) + 1/3·(−0.75, 1, −0.25), and the same of rows 1 and 2.
        mixed = [[1 / 12, 1 / 6, -1 / 4], [-2 / 3, 1 / 2, 1 / 6]]
        expected = np.array([[1 / 4, 1 / 4, 1 / 2], [3 / 4, 1 / 8, 1 / 8]]) + mixed
        np.testing.assert_allclose(prediction.scores, expected, atol=1e-6)
        np.testing.assert_allclose(prediction.weights, [[2 / 3, 1 / 3]] * 2, rtol=1e-6)
        assert prediction.predicted.tolist() == [1, 1]
        assert prediction.base_predicted.tolist() == [2, 0]
        assert prediction.knn_predicted.tolist() == [0, 1]

    def test_base_by_hand(self):
        prediction = predict(Method.BASE, **self.arrays)
        np.testing.assert_allclose(
            prediction.scores, [[1 / 4, 1 / 4, 1 / 2], [3 / 4, 1 / 8, 1 / 8]], atol=1e-6
        )
        assert prediction.predicted.tolist() == [2, 0]

    def test_knn_by_hand(self):
        prediction = predict(Method.KNN, **self.arrays)
        np.testing.assert_allclose(prediction.scores, [[2 / 3, 1 / 3, 0], [0, 2 / 3, 1 / 3]], rtol=1e-6)
        assert prediction.predicted.tolist() == [0, 1]

    @pytest.mark.parametrize("method", Method)
    def test_every_method_tells_of_network_and_neighbours_alike(self, method):
        prediction = predict(method, **self.arrays)
        assert prediction.base_predicted.tolist() == [2, 0]
        assert prediction.knn_predicted.tolist() == [0, 1]
        assert {a.dtype for a in (prediction.predicted, prediction.base_predicted)} == {np.dtype(np.int32)}
        assert prediction.scores.dtype == prediction.weights.dtype == np.float32

    @pytest.mark.parametrize("method", Method)
    def test_ties_go_to_the_lower_class(self, method):
        prediction = predict(
            method,
            logits=np.array([[0, 1, 1]], np.float32),
            rows=np.array([[0, 1]]),
            distances=np.ones((1, 2)),
            labels=np.array([2, 1]),
            residuals=np.array([[-1, 0.5, 0.5]] * 2, np.float32),
        )
        assert prediction.predicted.tolist() == [1]
        assert prediction.base_predicted.tolist() == [1]
        assert prediction.knn_predicted.tolist() == [1]

    def test_logits_that_softmax_rounds_to_a_tie_still_decide_for_the_network(self):
        logits = np.array([[1, np.nextafter(np.float32(1), np.float32(2))]], np.float32)
        assert len(set(softmax(logits, temperature=100)[0].tolist())) == 1
        prediction = predict(
            Method.BASE,
            logits=logits,
            rows=np.array([[0]]),
            distances=np.zeros((1, 1)),
            labels=np.array([0]),
            residuals=np.zeros((1, 2), np.float32),
            temperature=100,
        )
        assert prediction.predicted.tolist() == [1]

    @pytest.mark.parametrize("parameter", ["sigma", "temperature"])
    @pytest.mark.parametrize("value", [0, -1, np.nan])
    def test_parameters_out_of_range_are_refused(self, parameter, value):
        with pytest.raises(UsageError, match=f"{parameter} out of range"):
            predict(**(self.arrays | {parameter: value}))

    @settings(max_examples=30, deadline=None)
    @given(st.floats(0.05, 20), st.floats(0.01, 100), st.integers(0, 2**32))
    def test_resmem_scores_sum_to_1(self, temperature, sigma, seed):
        rng = np.random.default_rng(seed)
        logits, labels = memory_of(rng)
        rows, _ = neighbours_of(rng, n_queries=20, k=11)
        prediction = predict(
            logits=logits[:20],
            rows=rows,
            distances=np.sort(rng.gamma(3, size=(20, 11)), axis=1),
            labels=labels,
            residuals=compute_residuals(logits, labels, temperature=temperature),
            sigma=sigma,
            temperature=temperature,
        )
        np.testing.assert_allclose(prediction.scores.sum(axis=1, dtype=np.float64), 1, atol=2e-6)


@pytest.fixture(scope="module")
def batch():
    """Draw 60 queries with their neighbours, and memories so wide that some 20 are mixed at once."""
    rng = np.random.default_rng(3)
    logits, labels = memory_of(rng, n_classes=1500)
    rows, _ = neighbours_of(rng, n_queries=60, k=17)
    distances = np.sort(rng.gamma(3, size=(60, 17)), axis=1)
    queries = rng.normal(scale=3, size=(60, 1500)).astype(np.float32)
    return queries, rows, distances, labels, both_memories(logits, labels, top=100)


@settings(max_examples=25, deadline=None)
@given(st.data())
@pytest.mark.parametrize("kind", ["dense", "top"])
def test_a_query_has_the_same_bits_in_any_batch_and_order(batch, kind, data):
    logits, rows, distances, labels, memories = batch

    def scores(some):
        prediction = predict_from_neighbors(
            logits[some],
            rows=rows[some],
            distances=distances[some],
            neighbor_labels=labels[rows[some]],
            residuals=memories[kind],
            sigma=0.7,
            temperature=1.4,
        )
        return np.concatenate([prediction.scores, prediction.weights], axis=1)

    whole = scores(np.arange(60))
    order = np.random.default_rng(data.draw(st.integers(0, 2**32))).permutation(60)
    cuts = sorted(data.draw(st.lists(st.integers(0, 60), max_size=8)))
    parts = [scores(part) for part in np.split(order, cuts)]
    assert np.array_equal(np.concatenate(parts), whole[order])


@pytest.mark.parametrize("method", [Method.RESMEM, Method.KNN])
@pytest.mark.parametrize("sigma", [1e-3, 1e-6, 1e-300, 5e-324])
@pytest.mark.parametrize(("norm", "temperature"), [(1, 1.4), (1000, 0.1), (1000, 10)])
def test_training_rows_are_memorised_exactly_as_sigma_vanishes(norm, temperature, sigma, method):
    """Remark 4.1 of Yang et al. 2023."""
    rng = np.random.default_rng(4)
    embeddings = (norm + rng.normal(size=(1500, 16))).astype(np.float32)
    logits, labels = memory_of(rng, n=1500)
    found = ExactIndex.build(embeddings).search(embeddings, 20)
    prediction = predict(
        method,
        logits=logits,
        rows=found.rows,
        distances=found.distances,
        labels=labels,
        residuals=compute_residuals(logits, labels, temperature=temperature),
        sigma=sigma,
        temperature=temperature,
    )
    assert prediction.predicted.tolist() == labels.tolist()
    assert np.abs(prediction.scores - np.eye(10)[labels]).max() <= 1e-6
