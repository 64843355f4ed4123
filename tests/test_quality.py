"""Outcomes of each query, their metrics, and how sure those are: hand values, identities, exact laws."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from resmem_cli.calibration import FLOOR
from resmem_cli.errors import DataError, UsageError
from resmem_cli.quality import (
    N_BINS,
    Outcomes,
    bootstrap_interval,
    mcnemar,
    mean_and_std,
    outcomes,
    summarize,
)

# Quarters and eighths, so that every figure is exact.
PROBABILITIES = np.array([[1 / 2, 1 / 4, 1 / 4], [1 / 8, 3 / 4, 1 / 8], [1 / 4, 1 / 4, 1 / 2]], np.float32)
LABELS = np.array([2, 1, 0])


def random_case(n, n_classes, seed=0, steps=None):
    """Probabilities and labels; with few `steps`, of many ties."""
    rng = np.random.default_rng(seed)
    raw = (
        rng.exponential(size=(n, n_classes)) if steps is None else rng.integers(1, steps + 1, (n, n_classes))
    )
    return (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32), rng.integers(n_classes, size=n)


def columns(result):
    return [getattr(result, field.name) for field in dataclasses.fields(result)]


def calibrated(n_right, n_wrong, confidence, n_classes=4):
    """Rows of one confidence, `n_right` of which are right."""
    row = np.full(n_classes, (1 - confidence) / (n_classes - 1))
    row[0] = confidence
    return np.tile(row, (n_right + n_wrong, 1)), np.repeat([0, 1], [n_right, n_wrong])


class TestOutcomes:
    def test_three_rows_by_hand(self):
        result = outcomes(PROBABILITIES, LABELS)
        assert result.predicted.tolist() == [0, 1, 2]
        assert result.label_probability.tolist() == [1 / 4, 3 / 4, 1 / 4]
        assert result.confidence.tolist() == [1 / 2, 3 / 4, 1 / 2]
        assert result.squares.tolist() == [3 / 8, 19 / 32, 3 / 8]
        # Of equal classes the lower ranks higher.
        assert result.label_rank.tolist() == [2, 0, 1]
        assert [column.dtype for column in columns(result)] == [np.int32, *[np.float32] * 3, np.int32]

    def test_a_given_prediction_ranks_first(self):
        # Row by row: the larger of two equal classes; against the probabilities; the label itself.
        predicted = np.array([0, 2, 0])
        result = outcomes(PROBABILITIES, np.array([1, 1, 0]), predicted=predicted)
        assert result.predicted.tolist() == [0, 2, 0]
        assert result.label_rank.tolist() == [1, 1, 0]
        assert result.confidence.tolist() == [1 / 2, 3 / 4, 1 / 2]

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 12), st.integers(1, 8), st.integers(0, 2**32), st.booleans())
    def test_ranks_are_places_in_the_sorted_row(self, n, n_classes, seed, given_prediction):
        probabilities, labels = random_case(n, n_classes, seed, steps=3)
        predicted = np.random.default_rng(seed + 1).integers(n_classes, size=n) if given_prediction else None
        result = outcomes(probabilities, labels, predicted=predicted)
        for i in range(n):
            order = np.argsort(-probabilities[i], kind="stable").tolist()
            if predicted is not None:
                order.remove(predicted[i])
                order.insert(0, predicted[i])
            assert result.label_rank[i] == order.index(labels[i])
        assert np.array_equal(result.label_rank == 0, result.predicted == labels)

    @pytest.mark.parametrize("block", [1, 100, 10**6])
    @pytest.mark.parametrize("given_prediction", [False, True])
    def test_blocks_and_layout_change_nothing(self, block, given_prediction, monkeypatch):
        probabilities, labels = random_case(101, 17)
        predicted = labels[::-1] if given_prediction else None
        whole = columns(outcomes(probabilities, labels, predicted=predicted))
        monkeypatch.setattr("resmem_cli.quality._BLOCK_ELEMENTS", block)
        for layout in (probabilities, np.asfortranarray(probabilities)):
            for found, expected in zip(
                columns(outcomes(layout, labels, predicted=predicted)), whole, strict=True
            ):
                assert np.array_equal(found, expected)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
    def test_labels_of_any_integer_type(self, dtype):
        result = outcomes(PROBABILITIES, LABELS.astype(dtype), predicted=LABELS.astype(dtype))
        assert result.label_rank.tolist() == [0, 0, 0]

    def test_no_queries(self):
        result = outcomes(np.empty((0, 3), np.float32), np.empty(0, np.int64))
        assert [column.shape for column in columns(result)] == [(0,)] * 5

    @pytest.mark.parametrize("row", [[1.2, -0.2, 0], [0.5, 0.2, 0.2], [np.nan, 0.5, 0.5], [3, 2, 1]])
    def test_scores_that_are_no_probabilities_are_refused_with_their_row(self, row):
        probabilities = PROBABILITIES.copy()
        probabilities[1] = row
        with pytest.raises(DataError, match=r"row 1 holds no probabilities .*to_probabilities"):
            outcomes(probabilities, LABELS)

    def test_probabilities_stored_in_float16_are_taken(self):
        probabilities, labels = random_case(20, 1000)
        assert outcomes(probabilities.astype(np.float16), labels).squares.dtype == np.float32

    def test_predictions_that_do_not_fit_are_refused(self):
        with pytest.raises(DataError, match="do not fit the logits"):
            outcomes(PROBABILITIES, LABELS, predicted=LABELS[:2])
        with pytest.raises(DataError, match="out of range"):
            outcomes(PROBABILITIES, LABELS, predicted=LABELS + 1)


class TestRanksByScore:
    def test_classes_that_clipping_made_equal_keep_their_order(self):
        scores = np.array([[0.9, -0.3, -0.1, 0.5]], np.float32)
        clipped = np.array([[0.9, 0, 0, 0.5]], np.float32) / np.float32(1.4)
        for label, by_score, by_probability in ((1, 3, 2), (2, 2, 3)):
            labels = np.array([label])
            assert outcomes(clipped, labels, scores=scores).label_rank.tolist() == [by_score]
            assert outcomes(clipped, labels).label_rank.tolist() == [by_probability]

    def test_scores_of_another_shape_are_refused(self):
        with pytest.raises(DataError, match="do not fit"):
            outcomes(np.full((1, 2), 0.5, np.float32), np.array([0]), scores=np.zeros((2, 2), np.float32))


class TestQuality:
    def test_three_rows_by_hand(self):
        quality = summarize(outcomes(PROBABILITIES, LABELS), LABELS)
        assert (quality.accuracy, quality.top5_accuracy) == (1 / 3, 1)
        assert quality.nll == pytest.approx((2 * np.log(4) + np.log(4 / 3)) / 3)
        # 1/4 + 1/16 + 9/16, 1/64 + 1/16 + 1/64, 9/16 + 1/16 + 1/4
        assert quality.brier == pytest.approx((7 / 8 + 3 / 32 + 7 / 8) / 3)
        # Fewer rows than bins: one bin each, of rising confidence, ties in the order of the rows.
        assert [(b.confidence, b.accuracy, b.n) for b in quality.reliability] == [
            (1 / 2, 0, 1),
            (1 / 2, 0, 1),
            (3 / 4, 1, 1),
        ]
        assert quality.ece == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)

    @pytest.mark.parametrize("n_classes", [2, 10, 1000])
    def test_uniform_probabilities(self, n_classes):
        probabilities = np.full((60, n_classes), 1 / n_classes, np.float32)
        labels = np.arange(60) % n_classes
        quality = summarize(outcomes(probabilities, labels), labels)
        assert quality.nll == pytest.approx(np.log(n_classes), rel=1e-6)
        assert quality.brier == pytest.approx(1 - 1 / n_classes, rel=1e-5)
        # Ties go to the lower class, so the first five classes are the first five.
        assert quality.top5_accuracy == np.mean(labels < 5)

    def test_certain_and_right(self):
        labels = np.arange(7)
        quality = summarize(outcomes(np.eye(7), labels), labels)
        assert (quality.accuracy, quality.nll, quality.brier, quality.ece) == (1, 0, 0, 0)

    def test_certain_and_wrong_costs_the_floor(self):
        quality = summarize(outcomes(np.eye(4), np.array([1, 2, 3, 0])), np.array([1, 2, 3, 0]))
        assert quality.nll == pytest.approx(-np.log(FLOOR))
        assert (quality.accuracy, quality.brier, quality.ece) == (0, 2, 1)

    def test_five_places_count_and_not_a_sixth(self):
        row = np.array([6, 5, 4, 3, 2, 1]) / 21
        labels = np.arange(6)
        assert summarize(outcomes(np.tile(row, (6, 1)), labels), labels).top5_accuracy == 5 / 6

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 80), st.integers(1, 9), st.integers(0, 2**32))
    def test_matches_the_formulas_in_float64(self, n, n_classes, seed):
        probabilities, labels = random_case(n, n_classes, seed)
        quality = summarize(outcomes(probabilities, labels), labels)
        wide = probabilities.astype(np.float64)
        right = wide.argmax(axis=1) == labels
        assert quality.accuracy == pytest.approx(right.mean())
        brier = np.sum((wide - np.eye(n_classes)[labels]) ** 2, axis=1).mean()
        assert quality.brier == pytest.approx(brier, abs=1e-6)
        own = np.maximum(wide[np.arange(n), labels], FLOOR)
        assert quality.nll == pytest.approx(-np.log(own).mean(), abs=1e-9)
        confidence = wide.max(axis=1)
        order = np.argsort(confidence, kind="stable")
        edges = np.cumsum([0, *(n // N_BINS + (i < n % N_BINS) for i in range(N_BINS))])
        ece = sum(
            abs(np.sum(confidence[order[a:b]] - right[order[a:b]]))
            for a, b in zip(edges[:-1], edges[1:], strict=True)
        )
        assert quality.ece == pytest.approx(ece / n, abs=1e-9)

    def test_perfect_calibration_has_no_error(self):
        # Fifteen confidences, each of as many rows, right as often as they say.
        parts = [calibrated(20 + 2 * i, 28 - 2 * i, (20 + 2 * i) / 48) for i in range(15)]
        probabilities = np.concatenate([part for part, _ in parts]).astype(np.float32)
        labels = np.concatenate([part for _, part in parts])
        shuffled = np.random.default_rng(0).permutation(len(labels))
        quality = summarize(outcomes(probabilities[shuffled], labels[shuffled]), labels[shuffled])
        assert quality.ece == pytest.approx(0, abs=1e-7)
        assert [b.n for b in quality.reliability] == [48] * 15
        accuracies = [(20 + 2 * i) / 48 for i in range(15)]
        assert [b.accuracy for b in quality.reliability] == pytest.approx(accuracies)

    def test_over_confidence_is_the_error(self):
        # Every bin has one right of two, at a confidence of 0.9.
        probabilities, labels = calibrated(15, 15, 0.9)
        order = np.arange(30).reshape(2, 15).T.ravel()
        quality = summarize(outcomes(probabilities[order], labels[order]), labels[order])
        assert quality.ece == pytest.approx(0.4, abs=1e-6)

    @settings(max_examples=30, deadline=None)
    @given(st.integers(1, 100), st.integers(2, 6), st.integers(0, 2**32))
    def test_bins_hold_every_query_once_and_differ_by_one_at_most(self, n, n_classes, seed):
        probabilities, labels = random_case(n, n_classes, seed, steps=2)
        quality = summarize(outcomes(probabilities, labels), labels)
        sizes = [b.n for b in quality.reliability]
        assert (sum(sizes), len(sizes)) == (n, min(n, N_BINS))
        assert max(sizes) - min(sizes) <= 1
        means = [b.confidence for b in quality.reliability]
        assert means == sorted(means)
        assert sum(b.n * b.accuracy for b in quality.reliability) == pytest.approx(n * quality.accuracy)
        assert 0 <= quality.ece <= 1

    def test_the_order_of_the_queries_changes_nothing(self):
        probabilities, labels = random_case(200, 6)
        order = np.random.default_rng(0).permutation(200)
        one = summarize(outcomes(probabilities, labels), labels)
        other = summarize(outcomes(probabilities[order], labels[order]), labels[order])
        assert other.reliability == one.reliability
        assert dataclasses.astuple(other)[:5] == pytest.approx(dataclasses.astuple(one)[:5], rel=1e-12)

    def test_labels_of_other_queries_are_refused(self):
        result = outcomes(PROBABILITIES, LABELS)
        with pytest.raises(DataError, match="other than those"):
            summarize(result, np.array([0, 1, 0]))
        with pytest.raises(DataError, match="do not fit the outcomes"):
            summarize(result, LABELS[:2])

    def test_no_queries_are_refused(self):
        empty = np.empty(0, np.float32)
        none = Outcomes(empty.astype(np.int32), empty, empty, empty, empty.astype(np.int32))
        with pytest.raises(DataError, match="at least 1"):
            summarize(none, np.empty(0, np.int64))


class TestBootstrap:
    @pytest.mark.parametrize("value", [-0.3, 0.0, 0.1])
    def test_differences_all_alike_leave_no_doubt(self, value):
        assert bootstrap_interval(np.full(7, value)) == (value, value)

    @pytest.mark.parametrize(("n_ones", "n", "level"), [(30, 100, 0.95), (7, 50, 0.9), (1, 400, 0.99)])
    def test_zeros_and_ones_follow_the_binomial_distribution(self, n_ones, n, level):
        differences = np.zeros(n, np.int8)
        differences[:n_ones] = 1
        found = bootstrap_interval(differences, level=level, n_resamples=100_000)
        tails = (1 - level) / 2, (1 + level) / 2
        # A quantile may fall on the next of the n + 1 possible means.
        assert found == pytest.approx(binom.ppf(tails, n, n_ones / n) / n, abs=1.01 / n)

    @pytest.mark.parametrize("few", [True, False])
    def test_either_way_gives_the_normal_interval_of_a_large_sample(self, few, monkeypatch):
        rng = np.random.default_rng(5)
        differences = rng.choice([-1, 0, 1], p=[0.1, 0.7, 0.2], size=2000)
        monkeypatch.setattr("resmem_cli.quality._FEW_VALUES", 16 if few else 0)
        half = 1.96 * differences.std() / np.sqrt(2000)
        expected = differences.mean() - half, differences.mean() + half
        assert bootstrap_interval(differences) == pytest.approx(expected, abs=0.06 * half)

    def test_many_distinct_values_give_the_normal_interval_of_a_large_sample(self):
        differences = np.random.default_rng(6).normal(0.3, 2, size=1500)
        half = 1.96 * differences.std() / np.sqrt(1500)
        expected = differences.mean() - half, differences.mean() + half
        assert bootstrap_interval(differences) == pytest.approx(expected, abs=0.06 * half)

    @pytest.mark.parametrize("elements", [1, 1001, 10**7])
    def test_blocks_of_resamples_change_nothing(self, elements, monkeypatch):
        differences = np.random.default_rng(0).normal(size=101)
        whole = bootstrap_interval(differences, n_resamples=333)
        monkeypatch.setattr("resmem_cli.quality._RESAMPLE_ELEMENTS", elements)
        assert bootstrap_interval(differences, n_resamples=333) == whole

    @pytest.mark.parametrize("differences", [np.sqrt(np.arange(10)), np.linspace(-1, 2, 40)])
    def test_the_seed_decides_and_a_wider_level_encloses_a_narrower(self, differences):
        one = bootstrap_interval(differences, seed=3)
        assert one == bootstrap_interval(differences, seed=3)
        assert one != bootstrap_interval(differences, seed=4)
        wide = bootstrap_interval(differences, seed=3, level=0.999)
        assert differences.min() <= wide[0] <= one[0] <= differences.mean() <= one[1] <= wide[1]

    @pytest.mark.parametrize(
        "differences", [np.empty(0), np.zeros((3, 1)), np.array([0, np.nan]), np.array([0, np.inf])]
    )
    def test_what_can_not_be_resampled_is_refused(self, differences):
        with pytest.raises(DataError, match="no differences to resample"):
            bootstrap_interval(differences)

    @pytest.mark.parametrize(
        "options", [{"level": 0}, {"level": 1}, {"level": float("nan")}, {"n_resamples": 0}]
    )
    def test_options_out_of_range_are_refused(self, options):
        with pytest.raises(UsageError, match="out of range"):
            bootstrap_interval(np.arange(3), **options)


class TestMeanAndStd:
    def test_by_hand(self):
        # The squares about the mean of 5 add up to 9 + 3·1 + 0 + 0 + 4 + 16.
        mean, std = mean_and_std([2, 4, 4, 4, 5, 5, 7, 9])
        assert (mean, std) == (5, pytest.approx(np.sqrt(32 / 7)))

    def test_of_one_value_no_deviation_is_known(self):
        assert mean_and_std([0.25]) == (0.25, None)

    def test_of_no_values_there_is_none(self):
        with pytest.raises(DataError, match="no values"):
            mean_and_std([])


class TestMcNemar:
    def test_by_hand(self):
        # The second method corrects five examples and breaks none: 2/2⁵.
        labels = np.zeros(8, int)
        assert (
            mcnemar(labels, np.array([1, 1, 1, 1, 1, 0, 0, 1]), np.array([0, 0, 0, 0, 0, 0, 0, 2])) == 2 / 32
        )

    @settings(max_examples=30, deadline=None)
    @given(st.integers(1, 60), st.integers(0, 2**32))
    def test_does_not_depend_on_which_comes_first(self, n, seed):
        labels, one, other = np.random.default_rng(seed).integers(3, size=(3, n))
        assert mcnemar(labels, one, other) == mcnemar(labels, other, one)
        assert mcnemar(labels, one, one) == 1

    def test_columns_of_another_length_are_refused(self):
        with pytest.raises(DataError, match="do not fit together"):
            mcnemar(np.zeros(3, int), np.zeros(3, int), np.zeros(2, int))
