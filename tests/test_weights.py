"""Weights of the neighbours: the formula, and what happens at the ends of the number range."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from resmem_cli.errors import UsageError
from resmem_cli.weights import default_sigma, neighbor_weights

distance_rows = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 6), st.integers(1, 60)), elements=st.floats(0, 1e6)
)


def test_three_neighbours_by_hand():
    distances = 0.5 * np.log(np.array([[1.0, 2.0, 4.0]]))
    weights = neighbor_weights(distances, sigma=0.5)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [[4 / 7, 2 / 7, 1 / 7]], rtol=1e-6)


def test_the_distance_is_not_squared():
    assert neighbor_weights(np.array([[0.0, 3.0]]), sigma=3)[0, 1] == pytest.approx(1 / (np.e + 1))


def test_equal_distances_share_equally():
    assert neighbor_weights(np.full((2, 4), 7.0), sigma=0.1).tolist() == [[0.25] * 4] * 2


def test_a_single_neighbour_has_it_all():
    assert neighbor_weights(np.array([[0.0], [5.0], [1e300]]), sigma=0.7).tolist() == [[1], [1], [1]]


@settings(max_examples=60, deadline=None)
@given(distance_rows, st.floats(1, 1e6))
def test_weights_match_the_formula_where_it_does_not_underflow(distances, sigma):
    distances = distances / 1e6 * 100 * sigma
    expected = np.exp(-distances / sigma)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(neighbor_weights(distances, sigma=sigma), expected, rtol=1e-6, atol=1e-37)


@settings(max_examples=60, deadline=None)
@given(distance_rows, st.sampled_from([5e-324, 1e-310, 1e-3, 0.7, 1e300]))
def test_weights_sum_to_1_and_the_nearest_has_the_most(distances, sigma):
    weights = neighbor_weights(distances, sigma=sigma)
    np.testing.assert_allclose(weights.sum(axis=1, dtype=np.float64), 1, atol=1e-6)
    nearest = distances.argmin(axis=1)
    assert (weights[np.arange(len(weights)), nearest] == weights.max(axis=1)).all()


def test_weights_do_not_underflow_far_away():
    distances = np.array([[1e6, 1e6, 1e6 + 1e-3], [1e6, 1e6 + 1, 2e6]])
    weights = neighbor_weights(distances, sigma=1e-3)
    np.testing.assert_allclose(weights[0], np.array([np.e, np.e, 1]) / (2 * np.e + 1), rtol=1e-4)
    assert weights[1].tolist() == [1, 0, 0]


@pytest.mark.parametrize("sigma", [5e-324, 1e-320, 1e-300])
def test_the_smallest_sigma_leaves_only_the_nearest(sigma):
    assert neighbor_weights(np.array([[2.0, 2.0, 3.0], [0.0, 1e-9, 1.0]]), sigma=sigma).tolist() == [
        [0.5, 0.5, 0],
        [1, 0, 0],
    ]


def test_a_huge_sigma_counts_all_neighbours_alike():
    assert neighbor_weights(np.array([[0.0, 1.0, 1e6, 1e9]]), sigma=1e308).tolist() == [[0.25] * 4]


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(12)), st.integers(0, 12))
def test_a_query_has_the_same_bits_in_any_batch_and_layout(order, cut):
    distances = np.sort(np.random.default_rng(0).gamma(3, size=(12, 57)), axis=1)
    weights = neighbor_weights(distances, sigma=0.7)
    parts = [
        neighbor_weights(distances[order[:cut]], sigma=0.7),
        neighbor_weights(distances[order[cut:]], sigma=0.7),
    ]
    assert np.array_equal(np.concatenate(parts), weights[order])
    assert np.array_equal(neighbor_weights(np.asfortranarray(distances), sigma=0.7), weights)


def test_the_distances_are_left_as_they_were():
    distances = np.array([[1.0, 2.0]])
    neighbor_weights(distances, sigma=1)
    assert distances.tolist() == [[1, 2]]


@pytest.mark.parametrize("sigma", [0, -0.7, np.nan, np.inf])
def test_a_sigma_that_is_not_positive_is_refused(sigma):
    with pytest.raises(UsageError, match="sigma out of range .expected a number above 0, found"):
        neighbor_weights(np.ones((1, 2)), sigma=sigma)


def test_the_default_sigma_is_a_share_of_the_distance_scale():
    assert default_sigma(4.0) == pytest.approx(0.72)


@pytest.mark.parametrize("scale", [0.0, np.nan])
def test_no_default_sigma_without_a_distance_scale(scale):
    with pytest.raises(UsageError, match="too often identical.*give --sigma"):
        default_sigma(scale)
