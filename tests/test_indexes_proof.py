"""The proof of a search, given candidates as wrong as rounding can make them."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_indexes_contract import brute_force

from resmem_cli.indexes.exact import EXTRA_CANDIDATES, ExactIndex
from resmem_cli.indexes.proof import Differences, Rounding, nearest_candidates, scan, true_distances
from resmem_cli.indexes.searched import CentredRows, FaissSearch, StoredRows
from resmem_cli.indexes.space import Space, mean_row
from resmem_cli.indexes.steps import ExactSearch
from resmem_cli.rows import ArrayInMemory
from resmem_cli.types import Metric

UNIT = 2.0**-24


@dataclass
class Given:
    """An engine that finds what it is told."""

    squares: np.ndarray
    rows: np.ndarray
    reads_all_columns = True

    def nearest(self, queries, memory, count):
        assert self.rows.shape == (len(queries), count)
        return self.squares.astype(np.float32), self.rows


@dataclass
class Rounded:
    """An engine whose squares are off by `rounding` (n_queries, n) times what d float32 sums can lose."""

    rounding: np.ndarray
    reads_all_columns = True

    def nearest(self, queries, memory, count):
        n, d = memory.shape
        points, others = memory.read(0, n).astype(np.float64), queries.astype(np.float64)
        squares = np.square(others[:, None] - points).sum(axis=2)
        sizes = np.square(np.linalg.norm(others, axis=1)[:, None] + np.linalg.norm(points, axis=1))
        squares = (squares + self.rounding * (d + 4) * UNIT * sizes).astype(np.float32)
        rows = np.argsort(squares, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(squares, rows, axis=1), rows


def start(vectors, queries, k):
    """Begin a search of all columns."""
    rows = ArrayInMemory(vectors)
    space = Space(Metric.EUCLIDEAN, mean_row(rows))
    memory = CentredRows(rows, space)
    rounding = Rounding(vectors.shape[1], 1.01 * UNIT, memory.largest_norm())
    going = ExactSearch(queries, space.centred(queries), k, vectors=rows, metric=Metric.EUCLIDEAN)
    return going, {"memory": memory, "rounding": rounding}, space.searched(queries)


def search(vectors, queries, k, *, width, engine):
    """Search by candidates, and scan what that does not prove."""
    going, arguments, points = start(vectors, queries, k)
    going.by_candidates("all columns", points, width=width, engine=engine, **arguments)
    return going.scan()


def assert_exact(found, vectors, queries, k):
    rows, distances = brute_force(vectors, queries, k)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-13)


class TestHandWorked:
    """Rows at 0, 1, 2, 10 and a query at 0.1, each on one axis."""

    vectors = np.array([[0.0], [1.0], [2.0], [10.0]], np.float32)
    queries = np.array([[0.1]], np.float32)

    def nearest(self, rows, squares, k):
        """Re-rank all but the last, whose square bounds those of the others; or all four."""
        width = len(rows) - (len(rows) < 4)
        engine = Given(np.array([squares]), np.array([rows]))
        return search(self.vectors, self.queries, k, width=width, engine=engine)

    def test_right_candidates_are_proved(self):
        found = self.nearest([0, 1], [0.01, 0.81], 1)
        assert found.rows.tolist() == [[0]]
        np.testing.assert_allclose(found.distances, [[0.1]], rtol=1e-6)
        assert found.steps == {"all columns": 1, "scan": 0}

    def test_candidates_without_a_margin_are_scanned(self):
        found = self.nearest([0, 1, 2], [0.01, 0.81, 0.81], 2)
        assert found.rows.tolist() == [[0, 1]]
        assert found.steps == {"all columns": 0, "scan": 1}

    def test_all_rows_need_no_margin(self):
        found = self.nearest([0, 1, 2, 3], [0.01, 0.81, 3.61, 98.01], 4)
        assert found.rows.tolist() == [[0, 1, 2, 3]]
        assert found.n_scanned == 0

    def test_distances_come_from_the_vectors_not_from_the_squares(self):
        found = self.nearest([1, 0, 2, 3], [0.5, 0.6, 0.7, 0.8], 3)
        assert found.rows.tolist() == [[0, 1, 2]]
        np.testing.assert_allclose(found.distances, [[0.1, 0.9, 1.9]], rtol=1e-6)

    @pytest.mark.parametrize("square", [np.inf, np.finfo(np.float32).max])
    @pytest.mark.parametrize(
        "rows", [[3, 1, -1], [2, -1, -1], [0, 3, -1], [1, 2, 3, -1], [0, -1, -1, -1], [-1, -1, -1, -1]]
    )
    def test_a_row_of_minus_1_is_never_a_neighbour(self, rows, square):
        squares = [square if row < 0 else (row - 0.1) ** 2 for row in rows]
        found = self.nearest(rows, squares, 2)
        assert found.rows.tolist() == [[0, 1]]
        np.testing.assert_allclose(found.distances, [[0.1, 0.9]], rtol=1e-6)
        assert found.n_scanned == 1


# Spacings against norms: from well above what float32 squares resolve to far below.
spreads = st.sampled_from([1, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5])


def two_clusters(rng, spread, d):
    """Draw 60 rows about two opposite corners, and 8 queries near some."""
    centres = rng.choice([-1, 1], size=(2, d))
    vectors = (centres[rng.integers(2, size=60)] + spread * rng.normal(size=(60, d))).astype(np.float32)
    return vectors, vectors[:8] + (spread * rng.normal(size=(8, d))).astype(np.float32)


@settings(max_examples=80, deadline=None)
@given(spreads, st.integers(1, 12), st.integers(0, 60), st.sampled_from([1, 3, 40]), st.integers(0, 2**32))
def test_squares_off_by_as_much_as_rounding_can_change_no_answer(spread, k, extra, d, seed):
    rng = np.random.default_rng(seed)
    vectors, queries = two_clusters(rng, spread, d)
    rounding = rng.choice([-1, 1], size=(8, 60)) * rng.uniform(0.9, 1, size=(8, 60))
    found = search(vectors, queries, k, width=min(60, k + extra), engine=Rounded(rounding))
    assert_exact(found, vectors, queries, k)


@settings(max_examples=80, deadline=None)
@given(spreads, st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**32))
def test_squares_that_push_the_true_neighbours_out_change_no_answer(spread, k, extra, seed):
    vectors, _ = two_clusters(np.random.default_rng(seed), spread, 6)
    queries = vectors[:8]
    rounding = np.full((8, 60), -1.0)
    np.put_along_axis(rounding, brute_force(vectors, queries, k)[0], 1.0, axis=1)
    found = search(vectors, queries, k, width=k + extra, engine=Rounded(rounding))
    assert_exact(found, vectors, queries, k)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1e-30, 1e-18, 1e-3, 1, 1e3, 1e17]), st.integers(1, 40), st.integers(0, 2**32))
def test_no_square_of_differences_comes_out_beyond_its_limit(scale, d, seed):
    rng = np.random.default_rng(seed)
    vectors, queries = (scale * (1 + rng.normal(size=(2, 30, d)))).astype(np.float32)
    rows = ArrayInMemory(vectors)
    engine = FaissSearch(differences=True)
    squares, found = engine.nearest(queries, StoredRows(rows), 30)
    distances = true_distances(queries, found, vectors=vectors)
    for column in range(30):
        assert (squares[:, column] <= Differences(d).limit(np.zeros(30), distances[:, column])).all()


def test_a_neighbour_missing_from_the_candidates_is_found_by_the_scan():
    rng = np.random.default_rng(0)
    vectors = (np.sign(rng.normal(size=(300, 1))) * 100 + 1e-3 * rng.normal(size=(300, 8))).astype(np.float32)
    rounding = np.full((20, 300), -1.0)
    rounding[np.arange(20), np.arange(20)] = 1.0
    found = search(vectors, vectors[:20], 3, width=10, engine=Rounded(rounding))
    assert_exact(found, vectors, vectors[:20], 3)
    assert found.n_scanned == 20


def test_only_the_queries_in_doubt_are_scanned():
    # Rows 0 to 49 lie apart, rows 50 to 99 closer together than float32 squares resolve at that norm.
    vectors = np.zeros((100, 2), np.float32)
    vectors[:50, 0] = np.arange(50) - 150
    vectors[50:, 0] = 100
    vectors[50:, 1] = 1e-3 * np.arange(50)
    queries = vectors[[3, 60, 20, 75]]
    found = search(vectors, queries, 2, width=20, engine=Rounded(np.zeros((4, 100))))
    assert_exact(found, vectors, queries, 2)
    assert found.steps == {"all columns": 2, "scan": 2}


def test_a_search_of_well_separated_rows_scans_none():
    rng = np.random.default_rng(1)
    vectors = rng.normal(loc=50, size=(5000, 16)).astype(np.float32)
    found = ExactIndex.build(vectors).search(vectors[:500], 20)
    assert found.steps == {"all columns": 500, "scan": 0}


@pytest.mark.parametrize(("twins", "scanned"), [(8, 0), (80, 0), (EXTRA_CANDIDATES[-1] + 30, 2)])
def test_more_twins_than_candidates_are_scanned(twins, scanned):
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(twins + 400, 4)).astype(np.float32)
    vectors[1 : twins + 1] = 9
    found = ExactIndex.build(vectors).search(np.full((2, 4), 9, np.float32), 3)
    assert found.rows.tolist() == [[1, 2, 3]] * 2
    assert found.n_scanned == scanned


class TestWithinReach:
    def within(self, vectors, queries, k, *, most, first):
        """Re-rank what lies within the reach of candidates chosen badly: the rows `first`."""
        going, arguments, points = start(vectors, queries, k)
        count = len(first) + 1
        rows = np.tile(np.r_[first, first[-1] + 1], (len(queries), 1))
        engine = Given(np.zeros((len(queries), count)), rows)
        going.by_candidates("bad", points, width=count - 1, engine=engine, **arguments)
        going.within_reach("within", points[going.left], most=most, **arguments)
        return going.scan()

    @pytest.mark.parametrize("spread", [1, 1e-2, 1e-4])
    def test_bad_candidates_still_bound_the_reach(self, spread):
        rng = np.random.default_rng(3)
        vectors, queries = two_clusters(rng, spread, 5)
        found = self.within(vectors, queries, 4, most=60, first=np.arange(20, 30))
        assert_exact(found, vectors, queries, 4)
        assert found.steps == {"bad": 0, "within": 8, "scan": 0}

    @pytest.mark.parametrize("block", [1, 7, 59, 60])
    def test_queries_with_more_rows_within_reach_than_wanted_are_left(self, block, monkeypatch):
        vectors = np.arange(60, dtype=np.float32)[:, None]
        queries = np.array([[0.25], [40.25]], np.float32)
        monkeypatch.setattr("resmem_cli.indexes.steps._WITHIN_ELEMENTS", 2 * block)
        # Rows 5 to 7 reach back to 0 for the first query, and 36 rows down and up for the second.
        found = self.within(vectors, queries, 2, most=10, first=np.arange(5, 8))
        assert_exact(found, vectors, queries, 2)
        assert found.steps == {"bad": 0, "within": 1, "scan": 1}

    @pytest.mark.parametrize("scale", [1e17, 1e19, 1e30])
    def test_squares_beyond_float32_prove_nothing(self, scale):
        vectors, queries = two_clusters(np.random.default_rng(4), 0.1, 5)
        vectors, queries = (scale * rows.astype(np.float64) for rows in (vectors, queries))
        vectors, queries = vectors.astype(np.float32), queries.astype(np.float32)
        found = self.within(vectors, queries, 4, most=60, first=np.arange(20, 30))
        assert_exact(found, vectors, queries, 4)
        assert found.n_scanned == (8 if scale > 1e17 else 0)


class TestMemoryInBlocks:
    @pytest.mark.parametrize("rows", [1, 7, 97, 500])
    @pytest.mark.parametrize("k", [1, 12, 500])
    def test_blocks_of_rows_change_no_bit(self, rows, k, monkeypatch):
        rng = np.random.default_rng(5)
        vectors = rng.integers(4, size=(500, 6)).astype(np.float32)
        expected = ExactIndex.build(vectors).search(vectors[:40], k)
        monkeypatch.setattr("resmem_cli.indexes.searched.KEPT_BYTES", 0)
        monkeypatch.setattr("resmem_cli.indexes.searched.BLOCK_BYTES", 4 * 6 * rows)
        found = ExactIndex.build(vectors).search(vectors[:40], k)
        assert np.array_equal(found.rows, expected.rows)
        assert np.array_equal(found.distances, expected.distances)

    def test_squares_that_overflow_in_one_block_only(self, monkeypatch):
        monkeypatch.setattr("resmem_cli.indexes.searched.KEPT_BYTES", 0)
        monkeypatch.setattr("resmem_cli.indexes.searched.BLOCK_BYTES", 4 * 8 * 50)
        vectors = np.zeros((200, 8), np.float32)
        vectors[:, 0] = np.linspace(-2e18, 0, 200)
        vectors[120:150, 0] = np.linspace(1.9e19, 3e38, 30)
        queries = np.zeros((60, 8), np.float32)
        queries[:, 0] = np.linspace(0, 1.9e19, 60)
        for k in (2, 40, 200):
            assert_exact(ExactIndex.build(vectors).search(queries, k), vectors, queries, k)

    @pytest.mark.parametrize("n_queries", [1, 16])
    @pytest.mark.parametrize("threads", [1, 3])
    def test_a_few_queries_are_compared_with_the_rows_as_stored(self, n_queries, threads, monkeypatch):
        rng = np.random.default_rng(11)
        vectors = np.concatenate([1000 + rng.normal(size=(400, 7)), np.ones((50, 7))]).astype(np.float32)
        queries = np.concatenate([vectors[:10], vectors[-10:]])[:n_queries]
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        monkeypatch.setattr("resmem_cli.indexes.searched.KEPT_BYTES", 0)
        monkeypatch.setattr("resmem_cli.indexes.searched.BLOCK_BYTES", 4 * 7 * 37)
        monkeypatch.setattr("resmem_cli.indexes.searched._SHARED_WORK", 0)
        for rows in (vectors, np.asfortranarray(vectors), vectors.astype(np.float16)):
            for k in (1, 20, 450):
                found = ExactIndex.build(rows).search(queries, k)
                assert_exact(found, rows, queries, k)
        # Without a product of matrices, rows of norm 3,000 lose nothing.
        assert ExactIndex.build(vectors).search(queries[:10], 5).n_scanned == 0

    @pytest.mark.parametrize("scale", [1e-45, 1e-30, 1e-20, 1e17, 1e19, 3e38])
    def test_a_few_queries_at_the_ends_of_float32(self, scale, monkeypatch):
        monkeypatch.setattr("resmem_cli.indexes.searched.KEPT_BYTES", 0)
        rng = np.random.default_rng(12)
        vectors = (scale * rng.uniform(-1, 1, size=(200, 6))).astype(np.float32)
        found = ExactIndex.build(vectors).search(vectors[:9], 5)
        assert_exact(found, vectors, vectors[:9], 5)

    def test_the_engine_finds_what_it_finds_in_one_piece(self, monkeypatch):
        vectors = np.random.default_rng(6).normal(size=(300, 5)).astype(np.float32)
        rows = ArrayInMemory(vectors)
        space = Space(Metric.EUCLIDEAN, mean_row(rows))
        queries = space.searched(vectors[:30])
        whole = FaissSearch().nearest(queries, CentredRows(rows, space), 20)
        monkeypatch.setattr("resmem_cli.indexes.searched.KEPT_BYTES", 0)
        monkeypatch.setattr("resmem_cli.indexes.searched.BLOCK_BYTES", 4 * 5 * 13)
        parts = FaissSearch().nearest(queries, CentredRows(rows, space), 20)
        np.testing.assert_allclose(parts[0], whole[0], rtol=1e-4, atol=1e-5)
        assert np.array_equal(parts[1], whole[1])


class TestNearestCandidates:
    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    @pytest.mark.parametrize("metric", Metric)
    @pytest.mark.parametrize("c", [5, 60, 300])
    def test_candidates_in_any_order(self, metric, c, dtype):
        rng = np.random.default_rng(7)
        vectors = rng.integers(1, 5, size=(300, 4)).astype(dtype)
        queries = rng.normal(size=(20, 4)).astype(np.float32)
        candidates = np.array([rng.permutation(300)[:c] for _ in range(20)])
        rows, distances = nearest_candidates(queries, candidates, 5, vectors=vectors, metric=metric)
        for query in range(20):
            chosen = np.sort(candidates[query])
            expected = scan(queries[query : query + 1], 5, vectors=vectors[chosen], metric=metric)
            assert rows[query].tolist() == chosen[expected[0][0]].tolist()
            assert distances[query].tolist() == expected[1][0].tolist()

    @pytest.mark.parametrize("c", [6, 200])
    def test_rows_of_minus_1_come_last(self, c):
        vectors = np.arange(300, dtype=np.float32)[:, None]
        candidates = np.full((1, c), -1)
        candidates[0, 2:5] = [7, 3, 9]
        rows, distances = nearest_candidates(np.zeros((1, 1), np.float32), candidates, 4, vectors=vectors)
        assert rows.tolist() == [[3, 7, 9, -1]]
        assert distances.tolist() == [[3, 7, 9, np.inf]]

    @pytest.mark.parametrize("scale", [1e-45, 1e-30, 1e-20, 1e19, 1e30, 3e38])
    def test_squares_that_float32_cannot_hold(self, scale):
        rng = np.random.default_rng(8)
        vectors = (scale * rng.uniform(-1, 1, size=(300, 4))).astype(np.float32)
        candidates = np.tile(np.arange(300), (10, 1))
        rows, _ = nearest_candidates(vectors[:10], candidates, 3, vectors=vectors)
        assert np.array_equal(rows, brute_force(vectors, vectors[:10], 3)[0])


class TestScan:
    @pytest.mark.parametrize("elements", [100, 1 << 19])
    @pytest.mark.parametrize("k", [1, 7, 130])
    @pytest.mark.parametrize("scale", [1e-45, 1e-20, 1, 1e30])
    def test_it_is_brute_force(self, scale, k, elements, monkeypatch):
        monkeypatch.setattr("resmem_cli.indexes.proof._SCAN_ELEMENTS", elements)
        rng = np.random.default_rng(9)
        vectors = (scale * rng.integers(-3, 4, size=(130, 3))).astype(np.float32)
        queries = (scale * rng.integers(-3, 4, size=(90, 3))).astype(np.float32)
        rows, distances = scan(queries, k, vectors=vectors)
        expected = brute_force(vectors, queries, k)
        assert np.array_equal(rows, expected[0])
        np.testing.assert_allclose(distances, expected[1], rtol=1e-13)


class TestTrueDistances:
    def test_three_rows_by_hand(self):
        vectors = np.array([[0, 0], [3, 4], [6, 8]], np.float32)
        distances = true_distances(vectors[:2], np.array([[0, 1, 2], [2, 1, 0]]), vectors=vectors)
        assert distances.tolist() == [[0, 5, 10], [5, 0, 5]]

    def test_no_row_is_infinitely_far(self):
        vectors = np.array([[0.0], [1.0]], np.float32)
        assert true_distances(vectors, np.array([[-1, 1], [0, -1]]), vectors=vectors).tolist() == [
            [np.inf, 1],
            [1, np.inf],
        ]

    @pytest.mark.parametrize("value", [1e30, 3e38, 1e-30, 1e-45])
    def test_squares_neither_overflow_nor_underflow(self, value):
        vectors = np.array([[value, 0], [-value, 0]], np.float32)
        expected = 2 * np.float64(vectors[0, 0])
        assert true_distances(vectors[:1], np.array([[1]]), vectors=vectors)[0, 0] == pytest.approx(expected)

    # einsum's buffers hold 8,192 entries, and a block 65,536.
    @pytest.mark.parametrize("d", [1, 2, 3, 64, 1280, 4097, 8193, 9001, 20_000, 70_000])
    def test_a_pair_has_the_same_bits_whatever_stands_beside_it(self, d):
        rng = np.random.default_rng(d)
        vectors = rng.normal(size=(7, d)).astype(np.float32)
        queries = rng.normal(size=(5, d)).astype(np.float32)
        rows = rng.integers(7, size=(5, 13))
        together = true_distances(queries, rows, vectors=vectors)
        for query in range(5):
            for rank in range(13):
                cell = rows[query : query + 1, rank : rank + 1]
                alone = true_distances(queries[query : query + 1], cell, vectors=vectors)
                assert alone[0, 0] == together[query, rank]

    @pytest.mark.parametrize("d", [1, 3, 64, 9001])
    def test_memory_layout_changes_no_bit(self, d):
        rng = np.random.default_rng(d)
        vectors, queries = rng.normal(size=(2, 9, d)).astype(np.float32)
        rows = rng.integers(9, size=(9, 4))
        expected = true_distances(queries, rows, vectors=vectors)
        fortran = true_distances(np.asfortranarray(queries), rows, vectors=np.asfortranarray(vectors))
        assert np.array_equal(fortran, expected)


class TestCosine:
    def test_three_rows_by_hand(self):
        vectors = np.array([[2, 0], [0, 3], [-1, 0]], np.float32)
        rows = np.array([[0, 1, 2, -1]])
        distances = true_distances(vectors[:1], rows, vectors=vectors, metric=Metric.COSINE)
        assert distances.tolist() == [[0, 1, 2, np.inf]]

    def test_it_is_one_minus_the_cosine(self):
        rng = np.random.default_rng(10)
        vectors, queries = rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=(5, 6))
        rows = np.tile(np.arange(40), (5, 1))
        distances = true_distances(queries, rows, vectors=vectors, metric=Metric.COSINE)
        norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors.astype(float), axis=1)
        np.testing.assert_allclose(distances, 1 - queries @ vectors.T.astype(float) / norms, atol=1e-14)

    def test_an_angle_too_small_for_its_cosine(self):
        vectors = np.array([[1, 0], [1, 1e-10]], np.float32)
        found = true_distances(vectors[:1], np.array([[1]]), vectors=vectors, metric=Metric.COSINE)
        assert found[0, 0] == pytest.approx(0.5e-20)


@pytest.mark.parametrize("metric", Metric)
def test_many_candidates_of_one_query_are_compared_in_parts_with_the_same_bits(metric, monkeypatch):
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(500, 20)).astype(np.float32), rng.normal(size=(3, 20))
    rows = rng.integers(-1, 500, size=(3, 700))
    whole = true_distances(queries, rows, vectors=vectors, metric=metric)
    for elements in (1, 60, 20 * 699):
        monkeypatch.setattr("resmem_cli.indexes.distances._PART_ELEMENTS", elements)
        assert np.array_equal(true_distances(queries, rows, vectors=vectors, metric=metric), whole)


def test_rows_as_large_as_float32_holds_give_no_warning():
    vectors = (np.random.default_rng(0).normal(size=(150, 130)) * 3e37).astype(np.float32)
    index = ExactIndex.build(vectors, parameters={"axes": 1})
    assert index.search(vectors[:2], 5).rows[:, 0].tolist() == [0, 1]
