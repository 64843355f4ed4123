"""The proof of a search, given candidates as wrong as rounding can make them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_indexes_contract import brute_force

from resmem_cli.indexes.exact import ExactIndex, mean_row
from resmem_cli.indexes.proof import EXTRA_CANDIDATES, CentredMemory, nearest, true_distances

UNIT = 2.0**-24


def remember(vectors):
    centred = (vectors - mean_row(vectors)).astype(np.float32)
    norms = np.linalg.norm(centred.astype(np.float64), axis=1)
    return CentredMemory(vectors, centred, float(norms.max()))


def centre(queries, memory):
    return (queries - mean_row(memory.vectors)).astype(np.float32)


def search(queries, k, *, memory, width, rounding):
    """Search with squares off by `rounding` (n_queries, n) times what d float32 additions can lose."""
    centred = centre(queries, memory)
    points, others = memory.centred.astype(np.float64), centred.astype(np.float64)
    squares = np.square(others[:, None] - points).sum(axis=2)
    sizes = np.square(np.linalg.norm(others, axis=1)[:, None] + np.linalg.norm(points, axis=1))
    squares = (squares + rounding * (points.shape[1] + 4) * UNIT * sizes).astype(np.float32)
    rows = np.argsort(squares, axis=1, kind="stable")[:, :width]
    return nearest(queries, centred, rows, np.take_along_axis(squares, rows, axis=1), k, memory=memory)


def assert_exact(found, queries, k, *, memory):
    rows, distances = brute_force(memory.vectors, queries, k)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-13)


class TestHandWorked:
    """Rows at 0, 1, 2, 10 and a query at 0.1, each on one axis."""

    memory = remember(np.array([[0.0], [1.0], [2.0], [10.0]], np.float32))
    queries = np.array([[0.1]], np.float32)

    def nearest(self, rows, squares, k):
        return nearest(
            self.queries,
            centre(self.queries, self.memory),
            np.array([rows]),
            np.array([squares], np.float32),
            k,
            memory=self.memory,
        )

    def test_right_candidates_are_proved(self):
        found = self.nearest([0, 1], [0.01, 0.81], 1)
        assert found.rows.tolist() == [[0]]
        np.testing.assert_allclose(found.distances, [[0.1]], rtol=1e-6)
        assert found.n_scanned == 0

    def test_candidates_without_a_margin_are_scanned(self):
        found = self.nearest([0, 1], [0.01, 0.81], 2)
        assert found.rows.tolist() == [[0, 1]]
        assert found.n_scanned == 1

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
        "rows", [[3, -1], [-1, -1], [0, 3, -1], [1, 2, 3, -1], [0, -1, -1, -1], [-1, -1, -1, -1]]
    )
    def test_a_row_of_minus_1_is_never_a_neighbour(self, rows, square):
        squares = [square if row < 0 else (row - 0.1) ** 2 for row in rows]
        found = self.nearest(rows, squares, 2)
        assert found.rows.tolist() == [[0, 1]]
        np.testing.assert_allclose(found.distances, [[0.1, 0.9]], rtol=1e-6)
        assert found.n_scanned == 1

    def test_a_candidate_more_than_needed_leaves_out_the_last_row(self):
        found = self.nearest([0, 1, 2], [0.01, 0.81, 3.61], 2)
        assert found.rows.tolist() == [[0, 1]]
        assert found.n_scanned == 0


# Spacings against norms: from well above what float32 squares resolve to far below.
spreads = st.sampled_from([1, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5])


@settings(max_examples=80, deadline=None)
@given(spreads, st.integers(1, 12), st.integers(0, 40), st.sampled_from([1, 3, 40]), st.integers(0, 2**32))
def test_squares_off_by_as_much_as_rounding_can_change_no_answer(spread, k, extra, d, seed):
    rng = np.random.default_rng(seed)
    centres = rng.choice([-1, 1], size=(2, d))
    vectors = (centres[rng.integers(2, size=60)] + spread * rng.normal(size=(60, d))).astype(np.float32)
    memory = remember(vectors)
    queries = vectors[:8] + (spread * rng.normal(size=(8, d))).astype(np.float32)
    rounding = rng.choice([-1, 1], size=(8, 60)) * rng.uniform(0.9, 1, size=(8, 60))
    found = search(queries, k, memory=memory, width=min(60, k + extra), rounding=rounding)
    assert_exact(found, queries, k, memory=memory)


@settings(max_examples=80, deadline=None)
@given(spreads, st.integers(1, 12), st.integers(1, 20), st.integers(0, 2**32))
def test_squares_that_push_the_true_neighbours_out_change_no_answer(spread, k, extra, seed):
    rng = np.random.default_rng(seed)
    centres = rng.choice([-1, 1], size=(2, 6))
    vectors = (centres[rng.integers(2, size=60)] + spread * rng.normal(size=(60, 6))).astype(np.float32)
    memory = remember(vectors)
    queries = vectors[:8]
    rounding = np.full((8, 60), -1.0)
    np.put_along_axis(rounding, brute_force(vectors, queries, k)[0], 1.0, axis=1)
    found = search(queries, k, memory=memory, width=k + extra, rounding=rounding)
    assert_exact(found, queries, k, memory=memory)


def test_a_neighbour_missing_from_the_candidates_is_found_by_the_scan():
    rng = np.random.default_rng(0)
    vectors = (np.sign(rng.normal(size=(300, 1))) * 100 + 1e-3 * rng.normal(size=(300, 8))).astype(np.float32)
    memory = remember(vectors)
    queries = vectors[:20]
    rounding = np.full((20, 300), -1.0)
    rounding[np.arange(20), np.arange(20)] = 1.0
    found = search(queries, 3, memory=memory, width=10, rounding=rounding)
    assert_exact(found, queries, 3, memory=memory)
    assert found.n_scanned == 20


def test_only_the_queries_in_doubt_are_scanned():
    # Rows 0 to 49 lie apart, rows 50 to 99 closer together than float32 squares resolve at that norm.
    vectors = np.zeros((100, 2), np.float32)
    vectors[:50, 0] = np.arange(50) - 150
    vectors[50:, 0] = 100
    vectors[50:, 1] = 1e-3 * np.arange(50)
    memory = remember(vectors)
    queries = vectors[[3, 60, 20, 75]]
    found = search(queries, 2, memory=memory, width=20, rounding=np.zeros((4, 100)))
    assert_exact(found, queries, 2, memory=memory)
    assert found.n_scanned == 2


def test_a_search_of_well_separated_rows_scans_none():
    rng = np.random.default_rng(1)
    vectors = rng.normal(loc=50, size=(5000, 16)).astype(np.float32)
    assert ExactIndex.build(vectors).search(vectors[:500], 20).n_scanned == 0


def test_more_twins_than_candidates_are_scanned():
    vectors = np.ones((EXTRA_CANDIDATES + 30, 4), np.float32)
    vectors[0] = 5
    found = ExactIndex.build(vectors).search(np.ones((2, 4), np.float32), 3)
    assert found.rows.tolist() == [[1, 2, 3]] * 2
    assert found.n_scanned == 2


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
