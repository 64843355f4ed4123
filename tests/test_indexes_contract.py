"""What exact search must do in each of its forms, against float64 brute force."""

import importlib.util
import json
from dataclasses import dataclass, field

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from resmem_cli.errors import DataError, UsageError
from resmem_cli.indexes.base import Build, search_others
from resmem_cli.indexes.exact import ExactIndex
from resmem_cli.indexes.proof import scan
from resmem_cli.rows import ArrayInMemory
from resmem_cli.types import Metric


@dataclass(frozen=True)
class Variant:
    """The exact kind with parameters or an engine of its own."""

    parameters: dict = field(default_factory=dict)
    torch: bool = False

    def build(self, vectors, metric=Metric.EUCLIDEAN):
        limited = {"axes": min(self.parameters["axes"], vectors.shape[1])} if self.parameters else {}
        parameters = {**self.parameters, **limited}
        return self.own(ExactIndex.build(vectors, parameters=parameters, build=Build(metric=metric)))

    def load(self, datasets, parameters):
        return self.own(ExactIndex.load(datasets, parameters))

    def own(self, index):
        if self.torch:
            from resmem_cli.models.search import TorchSearch

            index.engine = TorchSearch("cpu")
        return index


VARIANTS = {
    "chosen": Variant(),
    "2 axes": Variant({"axes": 2, "candidates": 60}),
    "7 axes": Variant({"axes": 7, "candidates": 200}),
    "all axes": Variant({"axes": 129, "candidates": 54}),
}
if importlib.util.find_spec("torch"):
    VARIANTS["torch"] = Variant(torch=True)
LARGEST = np.finfo(np.float32).max

pytestmark = pytest.mark.parametrize("kind", VARIANTS.values(), ids=VARIANTS)


def brute_force(vectors, queries, k):
    """Find the nearest rows by (distance, row), everything in float64."""
    vectors = vectors.astype(np.float64)
    rows, distances = [], []
    for query in queries.astype(np.float64):
        to_all = np.sqrt(np.square(vectors - query).sum(axis=1))
        nearest = np.lexsort((np.arange(len(vectors)), to_all))[:k]
        rows.append(nearest)
        distances.append(to_all[nearest])
    return np.array(rows).reshape(-1, k), np.array(distances).reshape(-1, k)


def assert_exact(found, vectors, queries, k):
    rows, distances = brute_force(vectors, queries, k)
    assert found.rows.dtype == np.int64
    assert found.distances.dtype == np.float64
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-13)


def same_bits(one, other):
    return np.array_equal(one.rows, other.rows) and np.array_equal(one.distances, other.distances)


def whole(rows):
    return rows.read(0, rows.shape[0])


def on_a_grid(rng, n, d, *, cells=6):
    """Draw points so coarse that many distances tie exactly."""
    return rng.integers(cells, size=(n, d)).astype(np.float32)


def test_three_rows_by_hand(kind):
    index = kind.build(np.array([[0, 0], [3, 4], [0, 1]], np.float32))
    assert index.shape == (3, 2)
    found = index.search(np.array([[0, 0], [3, 5]], np.float32), 3)
    assert found.rows.tolist() == [[0, 2, 1], [1, 2, 0]]
    assert found.distances.tolist() == [[0, 1, 5], [1, 5, np.sqrt(34)]]


@pytest.mark.parametrize("n_queries", [1, 19, 20, 500])
@pytest.mark.parametrize("spread", [10, 1, 0.1, 0.01])
@pytest.mark.parametrize("norm", [1, 10, 1000])
def test_the_answer_is_brute_forces(kind, norm, spread, n_queries):
    rng = np.random.default_rng(0)
    # Four clusters in opposite corners, so that no single shift makes the norms small.
    centres = norm / 4 * rng.choice([-1, 1], size=(4, 16))
    points = centres[rng.integers(4, size=400)] + rng.normal(scale=spread, size=(400, 16))
    vectors = points.astype(np.float32)
    queries = vectors[rng.integers(400, size=n_queries)]
    queries[::2] += rng.normal(scale=spread, size=queries[::2].shape).astype(np.float32)
    assert_exact(kind.build(vectors).search(queries, 10), vectors, queries, 10)


@pytest.mark.parametrize("norm", [1, 100, 1000, 1e6])
def test_self_distance_is_zero_and_first_for_rows_of_large_norm(kind, norm):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(2000, 32)).astype(np.float32)
    vectors *= np.float32(norm) / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = kind.build(vectors).search(vectors, 3)
    assert found.rows[:, 0].tolist() == list(range(2000))
    assert (found.distances[:, 0] == 0).all()
    assert (found.distances[:, 1] > 0).all()


@pytest.mark.parametrize("k", [1, 7, 60, 500])
def test_tied_distances_go_to_the_lower_row(kind, k):
    rng = np.random.default_rng(2)
    vectors = on_a_grid(rng, 500, 3)
    queries = on_a_grid(rng, 100, 3)
    assert_exact(kind.build(vectors).search(queries, k), vectors, queries, k)


@pytest.mark.parametrize("k", [1, 5, 40, 300])
def test_duplicates_are_all_found_by_row(kind, k):
    rng = np.random.default_rng(3)
    vectors = rng.normal(scale=30, size=(5, 24)).astype(np.float32)[rng.integers(5, size=300)]
    assert_exact(kind.build(vectors).search(vectors, k), vectors, vectors, k)


@pytest.mark.parametrize("value", [0, 1, 0.1, -1e4, 1e30])
def test_all_rows_equal(kind, value):
    vectors = np.full((200, 8), value, np.float32)
    found = kind.build(vectors).search(vectors[:3], 5)
    assert found.rows.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert (found.distances == 0).all()


@pytest.mark.parametrize("d", [1, 2, 129, 9001])
def test_any_dimension(kind, d):
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(60, d)).astype(np.float32)
    queries = rng.normal(size=(5, d)).astype(np.float32)
    assert_exact(kind.build(vectors).search(queries, 4), vectors, queries, 4)


@pytest.mark.parametrize("n", [1, 2, 3, 36, 37, 100])
def test_k_may_be_1_or_all_rows(kind, n):
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(n, 6)).astype(np.float32)
    queries = rng.normal(size=(30, 6)).astype(np.float32)
    index = kind.build(vectors)
    for k in {1, max(1, n - 1), n}:
        assert_exact(index.search(queries, k), vectors, queries, k)


def test_two_far_apart_clusters_of_close_rows(kind):
    rng = np.random.default_rng(6)
    vectors = (1e-3 * rng.normal(size=(400, 8))).astype(np.float32)
    vectors[200:, 0] += np.float32(1e4)
    assert_exact(kind.build(vectors).search(vectors[::5], 12), vectors, vectors[::5], 12)


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-30, 1e-20, 1e-10, 1e10, 1e18, 1e19, 1e20, 1e30])
@pytest.mark.parametrize(("n", "n_queries"), [(20, 3), (20, 300), (200, 3), (200, 300)])
def test_values_at_the_ends_of_float32(kind, scale, n, n_queries):
    rng = np.random.default_rng(7)
    vectors = (scale * rng.normal(scale=3, size=(n, 8))).astype(np.float32)
    queries = (scale * rng.normal(scale=3, size=(n_queries, 8))).astype(np.float32)
    assert_exact(kind.build(vectors).search(queries, 5), vectors, queries, 5)


@pytest.mark.parametrize("n", [20, 200])
def test_rows_whose_squares_overflow_among_rows_whose_do_not(kind, n):
    vectors = np.zeros((n, 8), np.float32)
    vectors[:, 0] = np.linspace(-2e18, 0, n)
    vectors[0, 0] = 1.9e19
    queries = np.zeros((400, 8), np.float32)
    queries[:, 0] = np.linspace(0, 1.9e19, 400)
    assert_exact(kind.build(vectors).search(queries, 2), vectors, queries, 2)


def test_the_largest_values_of_float32(kind):
    vectors = np.array([[LARGEST, 0], [-LARGEST, 0], [0, LARGEST], [0, 0]], np.float32)
    queries = np.repeat(vectors, 600, axis=0)
    assert_exact(kind.build(vectors).search(queries, 3), vectors, queries, 3)


@pytest.mark.parametrize("norm", [1, 1000, 60000])
def test_float16_vectors(kind, norm):
    rng = np.random.default_rng(8)
    vectors = (norm / 4 + rng.normal(scale=norm / 100, size=(300, 16))).astype(np.float16)
    index = kind.build(vectors)
    queries = vectors[:40].astype(np.float32)
    queries[::2] += rng.normal(scale=norm / 100, size=(20, 16)).astype(np.float32)
    assert_exact(index.search(queries, 9), vectors, queries, 9)
    assert_exact(index.search(vectors[:40], 9), vectors, vectors[:40], 9)


@pytest.fixture(scope="module")
def hard_vectors():
    """Draw rows that need scans, ties and products of matrices at once."""
    rng = np.random.default_rng(9)
    return np.concatenate(
        [
            rng.normal(size=(300, 12)),
            500 + 1e-3 * rng.normal(size=(100, 12)),
            on_a_grid(rng, 200, 12, cells=2),
            np.ones((60, 12)),
        ]
    ).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_query_has_the_same_bits_in_any_batch_and_order(kind, hard_vectors, data):
    index = kind.build(hard_vectors)
    queries = hard_vectors[::3]
    whole = index.search(queries, 11)
    order = np.random.default_rng(data.draw(st.integers(0, 2**32))).permutation(len(queries))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(queries)), max_size=6)))
    parts = [index.search(part, 11) for part in np.split(queries[order], cuts)]
    assert np.array_equal(np.concatenate([part.rows for part in parts]), whole.rows[order])
    assert np.array_equal(np.concatenate([part.distances for part in parts]), whole.distances[order])


def test_a_query_alone_has_the_same_bits(kind, hard_vectors):
    index = kind.build(hard_vectors)
    whole = index.search(hard_vectors, 11)
    for row in range(0, len(hard_vectors), 7):
        alone = index.search(hard_vectors[row : row + 1], 11)
        assert np.array_equal(alone.rows[0], whole.rows[row])
        assert np.array_equal(alone.distances[0], whole.distances[row])


@pytest.mark.parametrize("n_queries", [1, 30, 660])
@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads_gives_the_same_bits(kind, hard_vectors, threads, n_queries, monkeypatch):
    monkeypatch.setattr("resmem_cli.indexes.searched._SHARED_WORK", 0)
    found = []
    for number in (1, threads):
        monkeypatch.setenv("OMP_NUM_THREADS", str(number))
        with threadpool_limits(number):
            found.append(kind.build(hard_vectors).search(hard_vectors[:n_queries], 11))
    assert same_bits(*found)


def test_faiss_keeps_its_number_of_threads(kind, hard_vectors):
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(3)
        kind.build(hard_vectors).search(hard_vectors, 11)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


def test_memory_layout_and_type_of_the_queries_change_no_bit(kind, hard_vectors):
    index = kind.build(hard_vectors)
    found = index.search(hard_vectors, 11)
    assert same_bits(index.search(np.asfortranarray(hard_vectors), 11), found)
    assert same_bits(index.search(hard_vectors.astype(np.float64), 11), found)
    assert same_bits(index.search(hard_vectors.repeat(2, axis=0)[::2], 11), found)
    assert same_bits(kind.build(np.asfortranarray(hard_vectors)).search(hard_vectors, 11), found)


def test_no_queries_give_no_neighbours(kind, hard_vectors):
    found = kind.build(hard_vectors).search(np.empty((0, 12), np.float32), 4)
    assert found.rows.shape == found.distances.shape == (0, 4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_an_index_rebuilt_from_its_datasets_gives_the_same_bits(kind, hard_vectors, dtype):
    index = kind.build(hard_vectors.astype(dtype))
    stored = {name: whole(rows).copy() for name, rows in index.datasets().items()}
    rows = {name: ArrayInMemory(values) for name, values in stored.items()}
    rebuilt = kind.load(rows, json.loads(json.dumps(index.parameters())))
    assert rebuilt.shape == index.shape
    assert same_bits(rebuilt.search(hard_vectors, 11), index.search(hard_vectors, 11))
    assert rebuilt.parameters() == index.parameters()
    for name, rows in rebuilt.datasets().items():
        assert rows.dtype == stored[name].dtype
        assert np.array_equal(whole(rows), stored[name])


def test_the_vectors_and_queries_are_left_as_they_were(kind, hard_vectors):
    vectors, queries = hard_vectors.copy(), hard_vectors[:9].copy()
    kind.build(vectors).search(queries, 3)
    assert np.array_equal(vectors, hard_vectors)
    assert np.array_equal(queries, hard_vectors[:9])


@pytest.fixture
def thresholds():
    """Set faiss's global thresholds to values of the test's own, and put them back after it."""
    own = {"distance_compute_blas_threshold": 77_777, "distance_compute_min_k_reservoir": 77}
    before = {name: getattr(faiss.cvar, name) for name in own}
    for name, value in own.items():
        setattr(faiss.cvar, name, value)
    yield own
    for name, value in before.items():
        setattr(faiss.cvar, name, value)


def test_faiss_keeps_its_thresholds(kind, hard_vectors, thresholds):
    index = kind.build(hard_vectors)
    index.search(hard_vectors, 11)
    with pytest.raises(UsageError):
        index.search(hard_vectors, 0)
    assert {name: getattr(faiss.cvar, name) for name in thresholds} == thresholds


class TestCosine:
    def brute_force(self, vectors, queries, k):
        """Find the nearest rows by (distance, row), everything in float64."""
        units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (vectors, queries)]
        return brute_force(units[0], units[1], k)

    def test_three_rows_by_hand(self, kind):
        index = kind.build(np.array([[5, 0], [3, 4], [0, -1]], np.float32), Metric.COSINE)
        found = index.search(np.array([[2, 0], [0, -9]], np.float32), 3)
        assert found.rows.tolist() == [[0, 1, 2], [2, 0, 1]]
        np.testing.assert_allclose(found.distances, [[0, 0.4, 1], [0, 1, 1.8]], atol=1e-15)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    @pytest.mark.parametrize("spread", [1, 0.01, 1e-3])
    @pytest.mark.parametrize("k", [1, 9, 60])
    def test_the_answer_is_brute_forces(self, kind, k, spread, dtype):
        rng = np.random.default_rng(11)
        lengths = rng.uniform(0.1, 100, size=(400, 1))
        vectors = (lengths * (1 + spread * rng.normal(size=(400, 16)))).astype(dtype)
        queries = (1 + spread * rng.normal(size=(30, 16))).astype(np.float32)
        found = kind.build(vectors, Metric.COSINE).search(queries, k)
        rows, chords = self.brute_force(vectors.astype(np.float64), queries.astype(np.float64), k)
        assert np.array_equal(found.rows, rows)
        np.testing.assert_allclose(found.distances, chords**2 / 2, rtol=1e-9, atol=1e-18)

    def test_rows_of_one_direction_go_to_the_lower_row(self, kind):
        rng = np.random.default_rng(12)
        vectors = on_a_grid(rng, 50, 4).repeat(8, axis=0) + np.float32(1)
        vectors *= np.float32(2.0) ** rng.integers(-60, 60, size=(400, 1))
        found = kind.build(vectors, Metric.COSINE).search(vectors[::8], 8)
        first = np.array([min(np.flatnonzero(found.distances[q] == 0)) for q in range(50)])
        assert (first == 0).all()
        assert (np.diff(found.rows, axis=1)[found.distances[:, 1:] == found.distances[:, :-1]] > 0).all()
        assert (found.distances == 0).all()

    @pytest.mark.parametrize("scale", [1e-45, 1e-30, 1e30, 3e38])
    def test_lengths_at_the_ends_of_float32(self, kind, scale):
        rng = np.random.default_rng(13)
        vectors = np.maximum(rng.uniform(0.1, 1, size=(200, 5)) * scale, 1e-45).astype(np.float32)
        found = kind.build(vectors, Metric.COSINE).search(vectors[:40], 4)
        wide = vectors.astype(np.float64)
        expected = scan(vectors[:40], 4, vectors=wide, metric=Metric.COSINE)
        assert np.array_equal(found.rows, expected[0])
        assert np.array_equal(found.distances, expected[1])

    def test_rows_and_queries_without_a_direction(self, kind):
        vectors = np.eye(4, dtype=np.float32)
        with pytest.raises(DataError, match="query 1 is all zeros"):
            kind.build(vectors, Metric.COSINE).search(vectors[:2] * [[1], [0]], 1)
        vectors[2] = 0
        with pytest.raises(DataError, match="row 2 is all zeros"):
            kind.build(vectors, Metric.COSINE)


class TestUpdated:
    @pytest.mark.parametrize("metric", Metric)
    @pytest.mark.parametrize(
        ("n_kept", "n_added"), [(250, 50), (300, 7), (300, 0), (1, 0), (0, 20), (150, 0)]
    )
    def test_the_answers_are_those_of_a_memory_built_at_once(self, kind, metric, n_kept, n_added):
        rng = np.random.default_rng(14)
        vectors = (3 + rng.normal(size=(400, 9))).astype(np.float32)
        kept = np.sort(rng.choice(300, size=n_kept, replace=False))
        now = np.concatenate([vectors[kept], vectors[300 : 300 + n_added]])
        index, _ = kind.build(vectors[:300], metric).updated(ArrayInMemory(now), kept)
        kind.own(index)
        at_once = kind.build(now, metric)
        assert index.shape == at_once.shape
        k = min(11, len(now))
        assert same_bits(index.search(vectors[::7], k), at_once.search(vectors[::7], k))
        again = kind.load(index.datasets(), json.loads(json.dumps(index.parameters())))
        assert same_bits(again.search(vectors[::7], k), at_once.search(vectors[::7], k))

    def test_no_removed_row_is_left(self, kind):
        vectors = np.random.default_rng(15).normal(size=(300, 9)).astype(np.float32)
        vectors[77] = 1e6
        kept = np.delete(np.arange(300), 77)
        index, _ = kind.build(vectors).updated(ArrayInMemory(vectors[kept]), kept)
        stored = index.datasets()
        assert whole(stored["vectors"]).max() < 10
        assert np.abs(whole(stored["mean"])).max() < 1
        assert index.parameters()["largest_norm"] < 100
        assert "reduced" not in stored or np.abs(whole(stored["reduced"])).max() < 1e5


class TestRefusals:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    def test_a_query_that_is_not_finite_is_named(self, kind, bad, dtype):
        queries = np.zeros((10, 3), dtype)
        queries[7, 1] = bad
        with pytest.raises(DataError, match="query 7 holds NaN or infinity; remove or repair it"):
            kind.build(np.eye(3, dtype=np.float32)).search(queries, 1)

    def test_a_query_that_float32_does_not_hold(self, kind):
        queries = np.ones((10, 3))
        queries[7, 1] = -1e39
        with pytest.raises(
            DataError, match="query 7 holds values beyond float32's range .expected at most 3.4"
        ):
            kind.build(np.eye(3, dtype=np.float32)).search(queries, 1)
        queries[7] = 1e-200
        index = kind.build(np.eye(3, dtype=np.float32), Metric.COSINE)
        with pytest.raises(DataError, match="query 7 is all zeros"):
            index.search(queries, 1)

    @pytest.mark.parametrize("shape", [(3,), (5, 2), (5, 4), (5, 3, 1)])
    def test_queries_of_another_dimension(self, kind, shape):
        with pytest.raises(DataError, match=r"another dimension \(expected \(n_queries, 3\), found \("):
            kind.build(np.eye(3, dtype=np.float32)).search(np.zeros(shape, np.float32), 1)

    @pytest.mark.parametrize("k", [-1, 0, 4])
    def test_k_out_of_range(self, kind, k):
        index = kind.build(np.eye(3, dtype=np.float32))
        with pytest.raises(UsageError, match=rf"expected 1 to 3 \(the memory's rows\), found {k}\)"):
            index.search(np.zeros((1, 3), np.float32), k)


class TestLeaveOneOut:
    def test_three_rows_by_hand(self, kind):
        index = kind.build(np.array([[0.0], [1.0], [3.0]], np.float32))
        found = search_others(index, np.array([[3.0], [0.0]], np.float32), np.array([2, 0]), 2)
        assert found.rows.tolist() == [[1, 0], [1, 2]]
        assert found.distances.tolist() == [[2, 3], [1, 3]]

    @pytest.mark.parametrize("k", [1, 4, 5, 6, 40, 119])
    def test_the_own_row_is_left_out_and_its_twins_stay(self, kind, k):
        # 20 groups of 6 twins: k = 4 leaves twins out, k = 6 goes beyond them.
        rng = np.random.default_rng(10)
        vectors = rng.normal(scale=100, size=(20, 5)).astype(np.float32).repeat(6, axis=0)
        own = rng.permutation(120)
        found = search_others(kind.build(vectors), vectors[own], own, k)
        for query, row in enumerate(own):
            others = np.delete(np.arange(120), row)
            rows, distances = brute_force(vectors[others], vectors[[row]], k)
            assert found.rows[query].tolist() == others[rows[0]].tolist()
            np.testing.assert_allclose(found.distances[query], distances[0], rtol=1e-13)

    @pytest.mark.parametrize("k", [-1, 0, 3])
    def test_k_out_of_range(self, kind, k):
        index = kind.build(np.eye(3, dtype=np.float32))
        with pytest.raises(UsageError, match=rf"expected 1 to 2 \(the memory's other rows\), found {k}\)"):
            search_others(index, np.eye(3, dtype=np.float32), np.arange(3), k)
