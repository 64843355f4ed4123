"""The whole method on arrays, against a plain reading of the paper."""

import numpy as np
import pytest

from resmem_cli import Method, ResidualMemory
from resmem_cli.errors import DataError, UsageError

EMBEDDINGS = np.array([[0.0], [1.0], [9.0]], np.float32)
LOGITS = np.zeros((3, 2), np.float32)
LABELS = np.array([0, 0, 1])


@pytest.fixture(scope="module")
def arrays():
    """Draw clusters that a network half knows: its logits favour the label, weakly."""
    rng = np.random.default_rng(0)
    centres = rng.normal(scale=1.5, size=(12, 8))

    def draw(n):
        labels = rng.integers(12, size=n)
        embeddings = (centres[labels] + rng.normal(size=(n, 8))).astype(np.float32)
        logits = (2 * np.eye(12)[labels] + rng.normal(scale=1.5, size=(n, 12))).astype(np.float32)
        return embeddings, logits, labels

    return draw(600), draw(200)


def plain_resmem(train, queries, *, k, sigma, temperature):
    """Follow section 4.1 of Yang et al. 2023 step by step, in float64."""

    def probabilities(logits):
        exponentials = np.exp(logits.astype(np.float64) / temperature)
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    embeddings, logits, labels = train
    residuals = np.eye(logits.shape[1])[labels] - probabilities(logits)
    scores = probabilities(queries[1])
    for query, score in zip(queries[0].astype(np.float64), scores, strict=True):
        distances = np.sqrt(np.square(embeddings - query).sum(axis=1))
        nearest = np.argsort(distances, kind="stable")[:k]
        weights = np.exp(-distances[nearest] / sigma)
        score += weights @ residuals[nearest] / weights.sum()
    return scores


def test_five_lines_are_enough():
    memory = ResidualMemory.fit(EMBEDDINGS, LOGITS, LABELS)
    queries, logits = np.array([[8.0]], np.float32), np.array([[0.1, 0.0]], np.float32)
    prediction = memory.predict(queries, logits, k=1)
    assert prediction.predicted.tolist() == [1]
    assert prediction.base_predicted.tolist() == [0]


def test_three_rows_by_hand():
    memory = ResidualMemory.fit(EMBEDDINGS, LOGITS, LABELS, temperature=2)
    # Equal weights at sigma = 1e9: half of each residual (±1/2) of rows 2 and 1 cancels.
    prediction = memory.predict(np.array([[6.0]], np.float32), np.zeros((1, 2), np.float32), k=2, sigma=1e9)
    np.testing.assert_allclose(prediction.scores, [[0.5, 0.5]], atol=1e-6)
    found = memory.neighbors(np.array([[6.0]], np.float32), k=2)
    assert found.rows.tolist() == [[2, 1]]
    assert found.distances.tolist() == [[3, 5]]


@pytest.mark.parametrize(("k", "sigma", "temperature"), [(1, 0.5, 1.4), (53, 0.7, 1.4), (600, 2, 0.5)])
def test_the_scores_are_the_papers(arrays, k, sigma, temperature):
    train, queries = arrays
    memory = ResidualMemory.fit(*train, temperature=temperature)
    prediction = memory.predict(*queries[:2], k=k, sigma=sigma)
    expected = plain_resmem(train, queries, k=k, sigma=sigma, temperature=temperature)
    np.testing.assert_allclose(prediction.scores, expected, atol=2e-6)
    assert prediction.predicted.tolist() == expected.argmax(axis=1).tolist()
    assert prediction.base_predicted.tolist() == queries[1].argmax(axis=1).tolist()


def test_memory_helps_a_network_that_half_knows(arrays):
    train, (embeddings, logits, labels) = arrays
    prediction = ResidualMemory.fit(*train).predict(embeddings, logits)
    assert (prediction.predicted == labels).mean() > (prediction.base_predicted == labels).mean() + 0.05


def test_the_default_sigma_is_a_share_of_the_distance_to_the_53rd_other_row(arrays):
    embeddings, logits, labels = arrays[0]
    memory = ResidualMemory.fit(embeddings, logits, labels)
    wide = embeddings.astype(np.float64)
    distances = np.sqrt(np.square(wide[:, None] - wide).sum(axis=2))
    assert memory.distance_scale == pytest.approx(np.median(np.sort(distances, axis=1)[:, 53]))


def test_the_default_sigma_goes_with_the_scale_of_the_embeddings(arrays):
    (embeddings, logits, labels), (queries, query_logits, _) = arrays
    scores = [
        ResidualMemory.fit(scale * embeddings, logits, labels).predict(scale * queries, query_logits).scores
        for scale in (1, 1024)
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)


@pytest.mark.parametrize("n", [1, 3])
def test_identical_rows_have_no_default_sigma(n):
    memory = ResidualMemory.fit(np.ones((n, 2), np.float32), LOGITS[:n], LABELS[:n])
    query = np.zeros((1, 2), np.float32)
    with pytest.raises(UsageError, match="no default sigma"):
        memory.predict(query, LOGITS[:1], k=n)
    prediction = memory.predict(query, LOGITS[:1], k=n, sigma=1)
    assert prediction.predicted.tolist() == [0]


def test_training_rows_are_memorised(arrays):
    embeddings, logits, labels = arrays[0]
    prediction = ResidualMemory.fit(embeddings, logits, labels).predict(embeddings, logits, sigma=1e-6)
    assert prediction.predicted.tolist() == labels.tolist()


@pytest.mark.parametrize("method", Method)
def test_every_method(arrays, method):
    train, (embeddings, logits, _) = arrays
    prediction = ResidualMemory.fit(*train).predict(embeddings, logits, method=method)
    expected = {
        Method.RESMEM: prediction.predicted,
        Method.BASE: prediction.base_predicted,
        Method.KNN: prediction.knn_predicted,
    }
    assert np.array_equal(prediction.predicted, expected[method])
    assert np.array_equal(prediction.scores.argmax(axis=1), expected[method])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_embeddings_and_logits_of_other_float_types(arrays, dtype):
    (embeddings, logits, labels), (queries, query_logits, _) = arrays
    narrow = [a.astype(np.float16) for a in (embeddings, logits, queries, query_logits)]
    given = [a.astype(dtype) for a in narrow]
    widened = [a.astype(np.float32) for a in narrow]
    scores = ResidualMemory.fit(given[0], given[1], labels).predict(given[2], given[3]).scores
    expected = ResidualMemory.fit(widened[0], widened[1], labels).predict(widened[2], widened[3]).scores
    assert np.array_equal(scores, expected)


class TestRefusals:
    @pytest.mark.parametrize(
        ("embeddings", "logits", "labels"),
        [
            (EMBEDDINGS[:2], LOGITS, LABELS),
            (EMBEDDINGS, LOGITS[:2], LABELS),
            (EMBEDDINGS, LOGITS, LABELS[:2]),
            (EMBEDDINGS[:0], LOGITS[:0], LABELS[:0]),
            (EMBEDDINGS[:, 0], LOGITS, LABELS),
        ],
    )
    def test_arrays_that_do_not_fit_together(self, embeddings, logits, labels):
        with pytest.raises(DataError, match=r"expected \(n, d\), \(n, C\) and \(n,\), found \("):
            ResidualMemory.fit(embeddings, logits, labels)

    @pytest.mark.parametrize("name", ["embeddings", "logits"])
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_training_arrays_that_are_not_finite(self, name, bad):
        arrays = {"embeddings": EMBEDDINGS.copy(), "logits": LOGITS.copy()}
        arrays[name][1, 0] = bad
        with pytest.raises(DataError, match=f"row 1 of the {name} is not finite"):
            ResidualMemory.fit(**arrays, labels=LABELS)

    def test_labels_that_name_no_class(self):
        with pytest.raises(DataError, match="label of row 2 out of range"):
            ResidualMemory.fit(EMBEDDINGS, LOGITS, np.array([0, 1, 2]))

    @pytest.mark.parametrize("temperature", [0, -1, np.nan])
    def test_temperature(self, temperature):
        with pytest.raises(UsageError, match="temperature out of range"):
            ResidualMemory.fit(EMBEDDINGS, LOGITS, LABELS, temperature=temperature)

    @pytest.mark.parametrize("shape", [(2, 2), (1, 3), (2,)])
    def test_query_logits_of_another_shape(self, shape):
        memory = ResidualMemory.fit(EMBEDDINGS, LOGITS, LABELS)
        with pytest.raises(DataError, match=r"logits do not fit the memory \(expected \(1, 2\), found \("):
            memory.predict(EMBEDDINGS[:1], np.zeros(shape, np.float32), k=1)

    def test_query_embeddings_of_another_dimension(self):
        memory = ResidualMemory.fit(EMBEDDINGS, LOGITS, LABELS)
        with pytest.raises(DataError, match="queries of another dimension"):
            memory.predict(np.zeros((1, 2), np.float32), LOGITS[:1], k=1)

    def test_query_embeddings_that_are_not_finite(self):
        memory = ResidualMemory.fit(EMBEDDINGS, LOGITS, LABELS)
        with pytest.raises(DataError, match="row 0 of the embeddings is not finite"):
            memory.predict(np.array([[np.nan]], np.float32), LOGITS[:1], k=1)

    @pytest.mark.parametrize("k", [0, 4])
    def test_k(self, k):
        memory = ResidualMemory.fit(EMBEDDINGS, LOGITS, LABELS)
        with pytest.raises(UsageError, match="k out of range .expected 1 to 3"):
            memory.predict(EMBEDDINGS, LOGITS, k=k)

    def test_sigma(self):
        memory = ResidualMemory.fit(EMBEDDINGS, LOGITS, LABELS)
        with pytest.raises(UsageError, match="sigma out of range"):
            memory.predict(EMBEDDINGS, LOGITS, k=1, sigma=0)


def test_no_queries_have_no_predictions():
    prediction = ResidualMemory.fit(EMBEDDINGS, LOGITS, LABELS).predict(
        np.empty((0, 1)), np.empty((0, 2)), k=3, sigma=1.0
    )
    assert prediction.scores.shape == (0, 2)
    assert prediction.weights.shape == (0, 3)
