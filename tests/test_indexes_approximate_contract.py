"""What every approximate kind of index must do: true distances, the same bits, and a quality as measured."""

import faiss
import numpy as np
import pytest

from resmem_cli.errors import DataError, UsageError
from resmem_cli.indexes.approximate import BUILT_ANEW
from resmem_cli.indexes.base import Build, QualityTarget, index_kinds, search_others
from resmem_cli.indexes.proof import true_distances
from resmem_cli.rows import ArrayInMemory
from resmem_cli.types import Metric

KINDS = {name: kind for name, kind in index_kinds().items() if not kind.exact}
# Every kind with its own choice of parameters, and with some that make another path.
SAMPLE_PARAMETERS = {"factory": {"factory": "SQ8"}}
CASES = [(name, SAMPLE_PARAMETERS.get(name, {})) for name in KINDS] + [
    ("ivf", {"storage": "float32"}),
    ("hnsw", {"links": 4, "ef_construction": 20}),
    ("factory", {"factory": "HNSW8,Flat"}),
]

pytestmark = pytest.mark.parametrize(
    ("name", "parameters"), CASES, ids=[" ".join([name, *map(str, given.values())]) for name, given in CASES]
)


@pytest.fixture
def make(name, parameters):
    """Build an index of the kind; keywords are those of `Build`."""

    def build(vectors, **settings):
        return KINDS[name].build(vectors, parameters=parameters, build=Build(**settings))

    return build


@pytest.fixture
def thread_count():
    """Set faiss's thread count, and put it back after the test."""
    before = faiss.omp_get_max_threads()
    yield faiss.omp_set_num_threads
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="module")
def clusters():
    """Draw 900 rows around 30 centres, and 60 queries, 8 dimensions."""
    rng = np.random.default_rng(0)
    centres = 5 + 3 * rng.normal(size=(30, 8))
    points = (centres[rng.integers(30, size=960)] + rng.normal(size=(960, 8))).astype(np.float32)
    return points[:900], points[900:]


def distances_to_all(vectors, query, metric=Metric.EUCLIDEAN):
    """Compute the distance of one query to all rows in float64."""
    vectors, query = vectors.astype(np.float64), query.astype(np.float64)
    if metric == Metric.COSINE:
        cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
        return 1 - cosines
    return np.sqrt(np.square(vectors - query).sum(axis=1))


def assert_true(found, vectors, queries, metric=Metric.EUCLIDEAN, *, atol=0.0):
    """Check that the answer is well formed, and that every distance is the true one."""
    n = len(vectors)
    assert found.rows.dtype == np.int64
    assert found.distances.dtype == np.float64
    assert ((found.rows >= 0) & (found.rows < n)).all()
    stated = true_distances(queries, found.rows, vectors=vectors, metric=metric)
    assert np.array_equal(found.distances, stated)
    for query, rows, distances in zip(queries, found.rows, found.distances, strict=True):
        assert len(set(rows.tolist())) == len(rows)
        assert np.lexsort((rows, distances)).tolist() == list(range(len(rows)))
        expected = distances_to_all(vectors, query, metric)[rows]
        np.testing.assert_allclose(distances, expected, rtol=1e-12, atol=atol)


def recall(found, vectors, queries, metric=Metric.EUCLIDEAN):
    """Compute the share of rows found that are as near as the true k-th nearest."""
    k = found.rows.shape[1]
    near = 0
    for query, distances in zip(queries, found.distances, strict=True):
        reach = np.sort(distances_to_all(vectors, query, metric))[k - 1]
        near += (distances <= reach + 1e-9).sum()
    return near / found.rows.size


def same_bits(one, other):
    return np.array_equal(one.rows, other.rows) and np.array_equal(one.distances, other.distances)


def stored(index):
    """Copy what an index stores, as a file would hold it."""
    return {
        name: ArrayInMemory(np.array(rows.read(0, rows.shape[0]))) for name, rows in index.datasets().items()
    }


def assert_same_bytes(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].array.dtype == other[name].array.dtype, name
        assert one[name].array.tobytes() == other[name].array.tobytes(), name


def test_three_rows_by_hand(name, make):
    index = make(np.array([[0, 0], [3, 4], [0, 1]], np.float32))
    assert KINDS[index.kind] is type(index)
    assert index.shape == (3, 2)
    assert index.metric == Metric.EUCLIDEAN
    found = index.search(np.array([[0, 0], [3, 5]], np.float32), 3)
    assert found.rows.tolist() == [[0, 2, 1], [1, 2, 0]]
    assert found.distances.tolist() == [[0, 1, 5], [1, 5, np.sqrt(34)]]


@pytest.mark.parametrize("k", [1, 10, 200])
def test_distances_are_true(make, clusters, k):
    vectors, queries = clusters
    assert_true(make(vectors).search(queries, k), vectors, queries)


def test_distances_on_a_grid_are_true_to_the_bit(make):
    # Squares of small whole numbers and their sums are exact, so only the square root is rounded.
    rng = np.random.default_rng(1)
    vectors = rng.integers(9, size=(500, 6)).astype(np.float32)
    queries = rng.integers(9, size=(40, 6)).astype(np.float32)
    found = make(vectors).search(queries, 12)
    assert_true(found, vectors, queries)
    for query, rows, distances in zip(queries, found.rows, found.distances, strict=True):
        assert np.array_equal(distances, distances_to_all(vectors, query)[rows])


def test_distances_of_rows_of_large_norm_are_true(make):
    rng = np.random.default_rng(2)
    vectors = (1000 + rng.normal(size=(400, 8))).astype(np.float32)
    index = make(vectors, quality=QualityTarget(k=5))
    found = index.search(vectors, 5)
    assert_true(found, vectors, vectors)
    assert np.mean(found.rows[:, 0] == np.arange(400)) > 0.9
    assert recall(found, vectors, vectors) > 0.9


def test_cosine(make, clusters):
    vectors, queries = clusters
    index = make(vectors, metric=Metric.COSINE, quality=QualityTarget(k=9))
    assert index.metric == Metric.COSINE
    assert index.parameters()["metric"] == "cosine"
    found = index.search(queries, 9)
    assert_true(found, vectors, queries, Metric.COSINE, atol=1e-14)
    assert recall(found, vectors, queries, Metric.COSINE) > 0.9
    assert same_bits(KINDS[index.kind].load(stored(index), index.parameters()).search(queries, 9), found)


@pytest.mark.parametrize("metric", list(Metric))
def test_float16_vectors(make, clusters, metric):
    vectors, queries = clusters[0].astype(np.float16), clusters[1]
    found = make(vectors, metric=metric).search(queries, 9)
    assert_true(found, vectors, queries, metric, atol=1e-14)


@pytest.mark.parametrize("n", [1, 2, 3, 37])
def test_k_may_be_1_or_all_rows(make, n):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(n, 6)).astype(np.float32)
    queries = rng.normal(size=(7, 6)).astype(np.float32)
    index = make(vectors, quality=QualityTarget())
    for k in {1, max(1, n - 1), n}:
        assert_true(index.search(queries, k), vectors, queries)
    assert np.array_equal(np.sort(index.search(queries, n).rows), np.tile(np.arange(n), (7, 1)))


def test_all_rows_of_a_larger_memory(make, clusters):
    vectors, queries = clusters
    found = make(vectors).search(queries[:5], len(vectors))
    assert_true(found, vectors, queries[:5])


@pytest.mark.parametrize("value", [0, 1, 0.1, -1e4, 1e30])
def test_all_rows_equal(make, value):
    vectors = np.full((100, 8), value, np.float32)
    found = make(vectors, quality=QualityTarget(k=5)).search(vectors[:3], 5)
    assert_true(found, vectors, vectors[:3])
    assert (found.distances == 0).all()


def test_twins(make):
    rng = np.random.default_rng(4)
    vectors = rng.normal(scale=30, size=(10, 8)).astype(np.float32)[rng.integers(10, size=300)]
    index = make(vectors, quality=QualityTarget(k=8))
    found = index.search(vectors[:40], 8)
    assert_true(found, vectors, vectors[:40])
    # More twins than links are an island in a graph; then that is what was measured.
    measured = next(point.recall for point in index.curve if point.effort == index.effort)
    assert recall(found, vectors, vectors[:40]) > min(0.9, measured - 0.1)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e18, 1e30])
def test_values_at_the_ends_of_float32(name, make, scale):
    rng = np.random.default_rng(5)
    vectors = (scale * rng.normal(scale=3, size=(200, 8))).astype(np.float32)
    queries = (scale * rng.normal(scale=3, size=(9, 8))).astype(np.float32)
    if name == "ivf-rabitq" and scale > 1e15:
        with pytest.raises(DataError, match="too large"):
            make(vectors)
        return
    assert_true(make(vectors, quality=QualityTarget(k=5)).search(queries, 5), vectors, queries)


@pytest.mark.parametrize("d", [1, 2, 130])
def test_any_dimension(make, d):
    rng = np.random.default_rng(6)
    vectors = rng.normal(size=(60, d)).astype(np.float32)
    queries = rng.normal(size=(5, d)).astype(np.float32)
    assert_true(make(vectors).search(queries, 4), vectors, queries)


@pytest.mark.parametrize("metric", list(Metric))
def test_a_query_has_the_same_bits_in_any_batch_and_order(make, clusters, metric):
    vectors, queries = clusters
    index = make(vectors, metric=metric)
    whole = index.search(queries, 11)
    order = np.random.default_rng(7).permutation(len(queries))
    parts = [index.search(part, 11) for part in np.split(queries[order], [1, 2, 20, 41])]
    assert np.array_equal(np.concatenate([part.rows for part in parts]), whole.rows[order])
    assert np.array_equal(np.concatenate([part.distances for part in parts]), whole.distances[order])
    for query in range(0, len(queries), 5):
        alone = index.search(queries[query : query + 1], 11)
        assert np.array_equal(alone.rows[0], whole.rows[query])
        assert np.array_equal(alone.distances[0], whole.distances[query])


def test_candidates_are_the_same_in_any_batch(make, clusters):
    vectors, queries = clusters
    index = make(vectors)
    searched = index.space.searched(queries)
    for probe in (index.probes[0], index.probes[-1]):
        whole, compared = index.candidates(searched, 30, probe=probe)
        assert whole.shape == (len(queries), 30)
        assert whole.dtype == np.int64
        assert 0 < compared <= 2 * len(vectors)
        parts = [index.candidates(part, 30, probe=probe)[0] for part in np.split(searched, [1, 7, 30])]
        assert np.array_equal(np.concatenate(parts), whole)


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_threads(
    make, clusters, thread_count, monkeypatch
):
    made, answers = [], []
    for threads in (1, 2, 3):
        thread_count(threads)
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        index = make(clusters[0], seed=5, quality=QualityTarget(k=5, queries=50))
        made.append((stored(index), index.parameters()))
        answers.append(index.search(clusters[1], 11))
    for datasets, parameters in made[1:]:
        assert_same_bytes(datasets, made[0][0])
        assert parameters == made[0][1]
    assert same_bits(answers[0], answers[1])
    assert same_bits(answers[0], answers[2])


def test_faiss_keeps_its_thread_count(make, clusters, thread_count):
    thread_count(3)
    make(clusters[0], quality=QualityTarget(k=5)).search(clusters[1], 3)
    assert faiss.omp_get_max_threads() == 3


def test_memory_layout_and_type_of_vectors_and_queries_change_no_bit(make, clusters):
    vectors, queries = clusters
    index = make(vectors)
    found = index.search(queries, 11)
    assert same_bits(index.search(np.asfortranarray(queries), 11), found)
    assert same_bits(index.search(queries.astype(np.float64), 11), found)
    assert same_bits(make(np.asfortranarray(vectors)).search(queries, 11), found)


def test_the_vectors_and_queries_are_left_as_they_were(make, clusters):
    vectors, queries = clusters[0].copy(), clusters[1].copy()
    make(vectors, quality=QualityTarget(k=5)).search(queries, 3)
    assert np.array_equal(vectors, clusters[0])
    assert np.array_equal(queries, clusters[1])


def test_no_queries_give_no_neighbours(make, clusters):
    found = make(clusters[0]).search(np.empty((0, 8), np.float32), 4)
    assert found.rows.shape == found.distances.shape == (0, 4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_an_index_loaded_from_what_it_stores_is_the_same(make, clusters, dtype):
    vectors, queries = clusters[0].astype(dtype), clusters[1]
    index = make(vectors, quality=QualityTarget(k=7))
    datasets, parameters = stored(index), index.parameters()
    loaded = KINDS[index.kind].load(datasets, parameters)
    assert loaded.shape == index.shape
    assert loaded.effort == index.effort
    assert loaded.measured_k == 7
    assert [(point.effort, point.recall, point.compared) for point in loaded.curve] == [
        (point.effort, point.recall, point.compared) for point in index.curve
    ]
    assert loaded.parameters() == parameters
    assert_same_bytes(stored(loaded), datasets)
    for k in (1, 7, 300):
        assert same_bits(loaded.search(queries, k), index.search(queries, k))


def test_an_index_that_was_not_measured_loads_too(make, clusters):
    index = make(clusters[0])
    assert index.curve == ()
    loaded = KINDS[index.kind].load(stored(index), index.parameters())
    assert loaded.curve == ()
    assert same_bits(loaded.search(clusters[1], 5), index.search(clusters[1], 5))


class TestQuality:
    def test_the_target_is_reached_on_other_queries(self, make, clusters):
        vectors, queries = clusters
        index = make(vectors, quality=QualityTarget(recall=0.95, k=10))
        assert max(point.recall for point in index.curve) >= 0.95
        chosen = next(point for point in index.curve if point.effort == index.effort)
        assert chosen.recall >= 0.95
        assert recall(index.search(queries, 10), vectors, queries) > 0.9

    def test_the_highest_effort_finds_nearly_all(self, make, clusters):
        vectors, queries = clusters
        index = make(vectors)
        index.choose_effort(probe=index.largest_probe, rerank=16)
        assert recall(index.search(queries, 10), vectors, queries) > 0.99

    def test_recall_rises_with_rerank_and_measured_time_is_there(self, make, clusters):
        index = make(clusters[0], quality=QualityTarget(recall=1.0, k=10))
        for point, after in zip(index.curve, index.curve[1:], strict=False):
            assert point.microseconds > 0
            if point.effort.probe == after.effort.probe and not index.queued:
                assert point.effort.rerank < after.effort.rerank
                assert point.recall <= after.recall

    def test_a_smaller_recall_is_not_dearer(self, make, clusters):
        index = make(clusters[0], quality=QualityTarget(k=10))
        best = max(point.recall for point in index.curve)
        cheap, dear = index.cheapest(0.1), index.cheapest(best)
        assert cheap.compared * cheap.effort.rerank <= dear.compared * dear.effort.rerank
        assert index.choose_effort(recall=0.1) == cheap.effort == index.effort

    def test_a_recall_out_of_reach(self, make, clusters):
        index = make(clusters[0], quality=QualityTarget(k=10))
        with pytest.raises(UsageError, match="no measured effort of this index reaches the recall"):
            index.choose_effort(recall=1.1)
        index.curve = ()
        with pytest.raises(UsageError, match="the recall of this index was not measured; set its"):
            index.choose_effort(recall=0.5)

    def test_an_effort_out_of_range(self, make, clusters):
        index = make(clusters[0])
        for probe in (0, -1, index.largest_probe + 1):
            with pytest.raises(UsageError, match=rf"{index.probe_name} out of range \(expected 1 to "):
                index.choose_effort(probe=probe)
        with pytest.raises(UsageError, match="--rerank out of range"):
            index.choose_effort(rerank=0)


class TestUpdate:
    def test_added_rows_are_found(self, make, clusters):
        vectors, queries = clusters
        index = make(vectors[:700], quality=QualityTarget(k=10))
        before = index.search(queries, 10)
        grown, _ = index.updated(ArrayInMemory(vectors), np.arange(700))
        assert grown.shape == vectors.shape
        found = grown.search(queries, 10)
        assert_true(found, vectors, queries)
        assert recall(found, vectors, queries) > 0.9
        own = grown.search(vectors, 1)
        assert np.mean(own.rows[:, 0] == np.arange(900)) > 0.95
        assert same_bits(index.search(queries, 10), before)
        loaded = KINDS[index.kind].load(stored(grown), grown.parameters())
        assert same_bits(loaded.search(queries, 10), found)

    def test_nothing_of_removed_rows_is_found(self, make, clusters):
        vectors, queries = clusters
        index = make(vectors, quality=QualityTarget(k=10))
        # Rows that stand alone far away, so that anything that pointed at them would show.
        kept = np.delete(np.arange(900), np.arange(0, 900, 3))
        rest = vectors[kept]
        shrunk, _ = index.updated(ArrayInMemory(rest), kept)
        assert shrunk.shape == rest.shape
        found = shrunk.search(queries, 10)
        assert_true(found, rest, queries)
        assert recall(found, rest, queries) > 0.9
        for rows in stored(shrunk).values():
            if rows.array.ndim == 2 and rows.array.shape[1] == 8:
                removed = vectors[::3].astype(rows.array.dtype)
                assert not (rows.array[:, None] == removed[None]).all(axis=2).any()

    def test_removed_and_added_at_once(self, make, clusters):
        vectors, queries = clusters
        index = make(vectors[:700], quality=QualityTarget(k=10))
        kept = np.arange(50, 700)
        changed, _ = index.updated(ArrayInMemory(vectors[50:]), kept)
        found = changed.search(queries, 10)
        assert_true(found, vectors[50:], queries)
        assert recall(found, vectors[50:], queries) > 0.9
        own = changed.search(vectors[50:], 1)
        assert np.mean(own.rows[:, 0] == np.arange(850)) > 0.95

    def test_removed_rows_can_not_be_computed_from_what_is_left(self, make, clusters):
        vectors, _ = clusters
        target = QualityTarget(k=10)
        index = make(vectors[:700], quality=target)
        kept = np.delete(np.arange(700), [100, 200])
        changed, notices = index.updated(ArrayInMemory(vectors[kept]), kept, build=Build(quality=target))
        assert notices == (BUILT_ANEW,)
        assert_same_bytes(stored(changed), stored(make(vectors[kept], quality=target)))

    def test_the_metric_stays(self, make, clusters):
        vectors, queries = clusters
        index = make(vectors[:700], metric=Metric.COSINE)
        for kept, rows in ((np.arange(700), vectors), (np.arange(650), vectors[:650])):
            changed, _ = index.updated(ArrayInMemory(rows), kept, build=Build())
            assert changed.metric == Metric.COSINE
            assert_true(changed.search(queries, 5), rows, queries, Metric.COSINE, atol=1e-14)

    def test_an_update_has_the_same_bytes_again(self, make, clusters):
        vectors, _ = clusters
        made = []
        for _ in range(2):
            changed, _ = make(vectors[:700]).updated(ArrayInMemory(vectors), np.arange(700))
            made.append(stored(changed))
        assert_same_bytes(*made)

    def test_one_row_may_be_left(self, make, clusters):
        vectors, queries = clusters
        changed, _ = make(vectors[:60]).updated(ArrayInMemory(vectors[7:8]), np.array([7]))
        assert changed.search(queries, 1).rows.tolist() == [[0]] * len(queries)


class TestRefusals:
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_rows_that_are_not_finite(self, make, bad):
        vectors = np.ones((50, 4), np.float32)
        vectors[7, 1] = bad
        with pytest.raises(DataError, match="row 7 holds NaN or infinity"):
            make(vectors)

    def test_rows_without_a_direction(self, make):
        vectors = np.ones((50, 4), np.float32)
        vectors[7] = 0
        with pytest.raises(DataError, match="row 7 is all zeros and has no direction for cosine"):
            make(vectors, metric=Metric.COSINE)

    def test_queries_that_do_not_fit(self, make, clusters):
        index = make(clusters[0])
        with pytest.raises(DataError, match="queries of another dimension"):
            index.search(np.zeros((3, 7), np.float32), 1)
        with pytest.raises(DataError, match="query 1 holds NaN or infinity"):
            index.search(np.array([[0] * 8, [np.nan] * 8], np.float32), 1)

    @pytest.mark.parametrize("k", [-1, 0, 901])
    def test_k_out_of_range(self, make, clusters, k):
        index = make(clusters[0])
        with pytest.raises(UsageError, match=rf"expected 1 to 900 \(the memory's rows\), found {k}\)"):
            index.search(clusters[1], k)

    def test_an_unknown_parameter(self, name, parameters, clusters):
        with pytest.raises(UsageError, match="no such parameter"):
            KINDS[name].build(clusters[0], parameters={**parameters, "nonsense": 1})

    @pytest.mark.parametrize("key", ["metric", "effort"])
    @pytest.mark.parametrize("value", [None, "nonsense", -1, {"probe": 0, "rerank": 1}])
    def test_damaged_parameters(self, make, clusters, key, value):
        index = make(clusters[0])
        damaged = {**index.parameters(), key: value}
        with pytest.raises(DataError, match=f"parameters.{key}"):
            KINDS[index.kind].load(stored(index), damaged)


def test_leave_one_out(make, clusters):
    vectors, _ = clusters
    own = np.array([4, 899, 17])
    found = search_others(make(vectors), vectors[own], own, 6)
    assert not (found.rows == own[:, None]).any()
    assert (found.distances[:, 0] > 0).all()
