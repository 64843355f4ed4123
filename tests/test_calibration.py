"""Scores made probabilities, against hand-worked rows, brute force in float64 and known temperatures."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax

from resmem_cli.calibration import (
    FLOOR,
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    ProbabilityMethod,
    Softening,
    check_labels,
    clip_and_renormalise,
    fit_softening,
    fit_temperature,
    project_to_simplex,
    soften,
    to_probabilities,
)
from resmem_cli.errors import DataError, UsageError
from resmem_cli.residuals import softmax

BLOCK = "resmem_cli.calibration._BLOCK_ELEMENTS"
METHODS = list(ProbabilityMethod)

any_scores = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 9)),
    elements=st.floats(-50, 50, width=32),
)
# Coarse numbers, so that ties and entries on the edge of the support are common.
coarse_scores = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 6)),
    elements=st.integers(-6, 6).map(lambda i: i / 4),
)


def resmem_scores(n, n_classes, seed=0, sharpness=3.0):
    """Scores as eq. 8 gives them: probabilities plus a row that sums to 0."""
    rng = np.random.default_rng(seed)
    scores = softmax(rng.normal(scale=sharpness, size=(n, n_classes)).astype(np.float32))
    votes = softmax(rng.normal(scale=sharpness, size=(n, n_classes)).astype(np.float32))
    return scores + votes - softmax(rng.normal(scale=sharpness, size=(n, n_classes)).astype(np.float32))


def assert_probabilities(probabilities):
    assert probabilities.dtype == np.float32
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1, dtype=np.float64), 1, rtol=0, atol=1e-6)


class TestProjection:
    @pytest.mark.parametrize(
        ("row", "expected"),
        [
            ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),  # probabilities already
            ([1.2, -0.1, -0.1], [1, 0, 0]),
            ([0.8, 0.6, -0.4], [0.6, 0.4, 0]),  # θ = (1.4 − 1)/2
            ([0.5, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]),
            ([2, 1, 0], [1, 0, 0]),  # the second class is on the edge: 1 − θ = 0
            ([-7, -7.5, -9], [0.75, 0.25, 0]),
            ([3], [1]),
        ],
    )
    def test_by_hand(self, row, expected):
        np.testing.assert_allclose(project_to_simplex(np.array([row])), [expected], atol=1e-7)

    @settings(max_examples=100, deadline=None)
    @given(coarse_scores)
    def test_nearest_of_all_candidates_over_every_support(self, scores):
        n_classes = scores.shape[1]
        projected = project_to_simplex(scores)
        for row, found in zip(scores.astype(np.float64), projected, strict=True):
            best, nearest = None, np.inf
            for size in range(1, n_classes + 1):
                for support in map(list, itertools.combinations(range(n_classes), size)):
                    candidate = np.zeros(n_classes)
                    candidate[support] = row[support] - (row[support].sum() - 1) / size
                    if candidate.min() >= 0 and (distance := np.sum((candidate - row) ** 2)) < nearest:
                        best, nearest = candidate, distance
            np.testing.assert_allclose(found, best, atol=1e-6)

    @pytest.mark.parametrize(("n", "n_classes"), [(300, 10), (40, 1000), (3, 32_128)])
    @pytest.mark.parametrize("scale", [1e-3, 1, 1e4])
    def test_meets_the_conditions_of_optimality(self, n, n_classes, scale):
        # p is the projection exactly if s − p is one number θ where p > 0, and s ≤ θ elsewhere.
        scores = np.random.default_rng(1).normal(scale=scale, size=(n, n_classes))
        projected = project_to_simplex(scores)
        assert_probabilities(projected)
        shift = scores - projected
        inside = projected > 0
        theta = np.max(shift, axis=1, where=inside, initial=-np.inf)
        tolerance = 1e-7
        assert np.all(theta - np.min(shift, axis=1, where=inside, initial=np.inf) <= tolerance)
        assert np.all((scores <= theta[:, None] + tolerance) | inside)

    def test_a_uniform_row_of_many_classes_stays_uniform(self):
        np.testing.assert_allclose(project_to_simplex(np.full((2, 32_128), -3.0)), 1 / 32_128, rtol=1e-6)

    def test_huge_scores_do_not_overflow(self):
        largest = np.finfo(np.float32).max
        scores = np.array([[largest, -largest, largest], [largest, -largest, 0]], np.float32)
        assert project_to_simplex(scores).tolist() == [[0.5, 0, 0.5], [1, 0, 0]]

    @settings(max_examples=60, deadline=None)
    @given(any_scores)
    def test_projecting_again_changes_nothing(self, scores):
        once = project_to_simplex(scores)
        np.testing.assert_allclose(project_to_simplex(once), once, atol=2e-7)

    @settings(max_examples=60, deadline=None)
    @given(any_scores, st.floats(-20, 20))
    def test_adding_a_number_to_a_row_changes_nothing(self, scores, shift):
        np.testing.assert_allclose(
            project_to_simplex(scores.astype(np.float64) + shift), project_to_simplex(scores), atol=1e-7
        )

    @settings(max_examples=60, deadline=None)
    @given(any_scores, st.data())
    def test_projections_are_no_farther_apart_than_the_scores(self, scores, data):
        others = data.draw(hnp.arrays(np.float32, scores.shape, elements=st.floats(-50, 50, width=32)))
        before = np.linalg.norm(scores.astype(np.float64) - others, axis=1)
        after = np.linalg.norm(project_to_simplex(scores) - project_to_simplex(others), axis=1)
        assert np.all(after <= before + 1e-6)


class TestClipping:
    @pytest.mark.parametrize(
        ("row", "expected"),
        [
            ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
            ([1.2, -0.1, -0.1], [1, 0, 0]),
            ([0.75, 0.5, -0.25], [0.6, 0.4, 0]),
            ([3], [1]),
        ],
    )
    def test_by_hand(self, row, expected):
        np.testing.assert_allclose(clip_and_renormalise(np.array([row])), [expected], atol=1e-7)

    @pytest.mark.parametrize("row", [[0, 0, 0, 0], [-1, 0, -2, -1], [-1, -1, -2, -3]])
    def test_a_row_without_a_positive_score_becomes_uniform(self, row):
        assert clip_and_renormalise(np.array([row], np.float32)).tolist() == [[0.25] * 4]

    @pytest.mark.parametrize("scale", [1e-320, 1e-45, 1e307])
    def test_scores_of_any_size(self, scale):
        scores = np.array([[2.0, 2.0, -1.0]]) * scale
        assert clip_and_renormalise(scores).tolist() == [[0.5, 0.5, 0]]

    @settings(max_examples=60, deadline=None)
    @given(any_scores)
    def test_clipping_again_changes_nothing(self, scores):
        once = clip_and_renormalise(scores)
        np.testing.assert_allclose(clip_and_renormalise(once), once, atol=2e-7)

    def test_moves_the_scores_farther_than_the_projection_does(self):
        scores = resmem_scores(200, 20)
        clipped = np.linalg.norm(clip_and_renormalise(scores) - scores, axis=1)
        projected = np.linalg.norm(project_to_simplex(scores) - scores, axis=1)
        assert np.all(projected <= clipped + 1e-6)
        assert np.any(projected < clipped - 1e-2)


class TestEveryMethod:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(("n", "n_classes"), [(100, 2), (50, 100), (4, 32_128)])
    def test_gives_probabilities(self, method, n, n_classes):
        assert_probabilities(
            to_probabilities(resmem_scores(n, n_classes), method, softening=Softening(0.2, 0.01))
        )

    @settings(max_examples=60, deadline=None)
    @given(any_scores, st.sampled_from(METHODS), st.floats(0.01, 50))
    def test_gives_probabilities_in_the_order_of_the_scores(self, scores, method, temperature):
        probabilities = to_probabilities(scores, method, softening=Softening(temperature, 0.01))
        assert_probabilities(probabilities)
        order = np.argsort(scores, axis=1)
        assert np.all(np.diff(np.take_along_axis(probabilities, order, axis=1), axis=1) >= 0)

    @pytest.mark.parametrize("method", METHODS)
    def test_the_largest_score_stays_the_largest(self, method):
        scores = resmem_scores(500, 30)
        probabilities = to_probabilities(scores, method, softening=Softening(0.5, 0.01))
        assert np.array_equal(probabilities.argmax(axis=1), scores.argmax(axis=1))

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("block", [1, 70, 10**6])
    def test_blocks_and_layout_change_nothing(self, method, block, monkeypatch):
        scores = resmem_scores(101, 23)
        whole = to_probabilities(scores, method, softening=Softening(0.5, 0.01))
        monkeypatch.setattr(BLOCK, block)
        for layout in (scores, np.asfortranarray(scores)):
            assert np.array_equal(to_probabilities(layout, method, softening=Softening(0.5, 0.01)), whole)

    @pytest.mark.parametrize("method", METHODS)
    def test_leaves_the_scores_as_they_were(self, method):
        scores = resmem_scores(20, 5)
        before = scores.copy()
        to_probabilities(scores, method, softening=Softening(0.5, 0.01))
        assert np.array_equal(scores, before)

    @pytest.mark.parametrize("method", METHODS)
    def test_no_rows(self, method):
        assert to_probabilities(np.empty((0, 4), np.float32), method, softening=Softening(1, 0.01)).shape == (
            0,
            4,
        )

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_scores_that_are_not_finite_are_refused_with_their_row(self, method, value, monkeypatch):
        monkeypatch.setattr(BLOCK, 5)
        scores = resmem_scores(20, 5)
        scores[[13, 18], 2] = value
        with pytest.raises(DataError, match="scores of row 13 not finite"):
            to_probabilities(scores, method, softening=Softening(1, 0.01))

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("shape", [(3,), (3, 0), (2, 3, 4)])
    def test_what_is_no_matrix_is_refused(self, method, shape):
        with pytest.raises(DataError, match="scores of another shape"):
            to_probabilities(np.zeros(shape, np.float32), method, softening=Softening(1, 0.01))


def test_the_methods_by_their_names():
    scores = resmem_scores(20, 5)
    assert np.array_equal(to_probabilities(scores, "simplex"), project_to_simplex(scores))
    assert np.array_equal(to_probabilities(scores, "clip"), clip_and_renormalise(scores))
    softened = to_probabilities(scores, "temperature", softening=Softening(0.3, 0.01))
    assert np.array_equal(softened, soften(scores, Softening(0.3, 0.01)))
    powers = np.maximum(scores.astype(np.float64), 0.01) ** (1 / 0.3)
    assert np.allclose(softened, powers / powers.sum(axis=1, keepdims=True), rtol=1e-5, atol=1e-9)


def test_a_missing_temperature_and_an_unknown_method_are_refused():
    scores = resmem_scores(2, 3)
    with pytest.raises(UsageError, match="needs a temperature"):
        to_probabilities(scores, ProbabilityMethod.TEMPERATURE)
    with pytest.raises(UsageError, match="temperature out of range"):
        to_probabilities(scores, ProbabilityMethod.TEMPERATURE, softening=Softening(0, 0.01))
    for floor in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(UsageError, match="floor out of range"):
            to_probabilities(scores, ProbabilityMethod.TEMPERATURE, softening=Softening(1.0, floor))
    with pytest.raises(UsageError, match="expected simplex, clip, temperature, found sparsemax"):
        to_probabilities(scores, "sparsemax")


class TestTemperature:
    @pytest.mark.parametrize("odds", [1.5, 3, 20])
    def test_two_classes_by_hand(self, odds):
        # Scores ±1/2, and the first class right in `odds` of `odds + 1` cases: 1/t = log(odds).
        scores = np.array([[0.5, -0.5], [0.5, -0.5]])
        labels = np.array([0, 1])
        found = fit_temperature(scores, labels, weights=np.array([odds, 1]))
        assert found == pytest.approx(1 / np.log(odds), rel=1e-5)

    @pytest.mark.parametrize("true", [0.05, 1, 4])
    def test_finds_the_temperature_the_labels_were_drawn_at(self, true):
        rng = np.random.default_rng(0)
        scores = rng.normal(scale=2 * true, size=(20_000, 6))
        labels = np.argmax(scores / true + rng.gumbel(size=scores.shape), axis=1)
        assert fit_temperature(scores, labels) == pytest.approx(true, rel=0.04)

    def test_no_temperature_of_a_fine_grid_does_better(self):
        scores = resmem_scores(400, 12)
        labels = np.where(
            np.random.default_rng(3).random(400) < 0.7, scores.argmax(axis=1), np.arange(400) % 12
        )

        def nll(temperature):
            log_p = log_softmax(scores.astype(np.float64) / temperature, axis=1)
            return -log_p[np.arange(400), labels].mean()

        found = fit_temperature(scores, labels)
        assert LOWEST_TEMPERATURE < found < HIGHEST_TEMPERATURE
        grid = np.geomspace(LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE, 3001)
        assert nll(found) <= min(nll(t) for t in grid) + 1e-12
        # It is the bottom of a bowl: a thousandth to either side is worse.
        assert nll(found) < min(nll(found * 0.999), nll(found * 1.001))

    def test_scores_times_a_number_give_the_temperature_times_that_number(self):
        scores = resmem_scores(300, 8).astype(np.float64)
        labels = np.where(np.arange(300) % 4 == 0, np.arange(300) % 8, scores.argmax(axis=1))
        once = fit_temperature(scores, labels)
        assert fit_temperature(scores * 7, labels) == pytest.approx(once * 7, rel=1e-5)

    def test_weights_count_as_repeated_rows(self):
        scores = resmem_scores(60, 5)
        labels = np.where(np.arange(60) % 3 == 0, np.arange(60) % 5, scores.argmax(axis=1))
        times = np.arange(60) % 4
        repeated = fit_temperature(np.repeat(scores, times, axis=0), np.repeat(labels, times))
        assert fit_temperature(scores, labels, weights=times) == pytest.approx(repeated, rel=1e-5)
        assert fit_temperature(scores, labels, weights=times * 1e-300) == pytest.approx(repeated, rel=1e-5)

    def test_labels_against_the_scores_give_the_highest(self):
        scores = resmem_scores(50, 4)
        assert fit_temperature(scores, scores.argmin(axis=1)) == HIGHEST_TEMPERATURE

    def test_labels_always_largest_give_a_temperature_that_leaves_no_doubt(self):
        scores = np.eye(4, dtype=np.float32)
        temperature = fit_temperature(scores, np.arange(4))
        assert LOWEST_TEMPERATURE <= temperature < 0.1
        assert np.all(softmax(scores, temperature=temperature).diagonal() > 1 - 1e-6)

    @pytest.mark.parametrize("block", [1, 50, 10**6])
    def test_blocks_and_layout_change_nothing(self, block, monkeypatch):
        scores = resmem_scores(101, 9)
        labels = np.arange(101) % 9
        whole = fit_temperature(scores, labels)
        monkeypatch.setattr(BLOCK, block)
        assert fit_temperature(scores, labels) == whole
        assert fit_temperature(np.asfortranarray(scores), labels) == whole

    @pytest.mark.parametrize(
        ("weights", "match"),
        [
            ([1, 1], "do not fit the scores"),
            ([0, 0, 0], "weights out of range"),
            ([1, -1, 1], "weights out of range"),
            ([1, np.nan, 1], "weights out of range"),
            ([1, np.inf, 1], "weights out of range"),
        ],
    )
    def test_weights_that_do_not_do_are_refused(self, weights, match):
        with pytest.raises(DataError, match=match):
            fit_temperature(np.eye(3), np.arange(3), weights=np.array(weights))

    def test_no_rows_are_refused(self):
        with pytest.raises(DataError, match="no rows"):
            fit_temperature(np.empty((0, 3)), np.empty(0, np.int64))


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([0, 1], r"found \(3, 4\) and \(2,\)"),
        ([0.0, 1.0, 2.0], "no integers"),
        ([0, 4, 1], "label of row 1 out of range .*0 to 3, found 4"),
        ([0, 1, -1], "label of row 2 out of range .*found -1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, match):
    with pytest.raises(DataError, match=match):
        check_labels(np.zeros((3, 4)), np.array(labels))


def test_the_floor_keeps_a_likelihood_finite():
    assert -np.log(np.float64(FLOOR)) == pytest.approx(13.8155, abs=1e-4)


class TestSoftening:
    def drawn(self, temperature, floor, n=4000, n_classes=10):
        scores = resmem_scores(n, n_classes)
        probabilities = soften(scores, Softening(temperature, floor)).astype(np.float64)
        rng = np.random.default_rng(5)
        return scores, (probabilities.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, n_classes - 1)

    def nll(self, scores, labels, softening):
        powers = np.maximum(scores.astype(np.float64), softening.floor) ** (1 / softening.temperature)
        return -np.log(powers[np.arange(len(labels)), labels] / powers.sum(axis=1)).mean()

    def test_finds_the_floor_and_temperature_the_labels_were_drawn_at(self):
        scores, labels = self.drawn(0.7, 0.03)
        found = fit_softening(scores, labels)
        assert found.floor == pytest.approx(0.03)
        assert found.temperature == pytest.approx(0.7, rel=0.1)

    def test_none_of_a_grid_does_better(self):
        scores, labels = self.drawn(1.3, 0.01, n=500)
        best = self.nll(scores, labels, fit_softening(scores, labels))
        for floor in (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0001):
            for temperature in np.geomspace(0.1, 10, 41):
                assert best <= self.nll(scores, labels, Softening(temperature, floor)) + 1e-6
