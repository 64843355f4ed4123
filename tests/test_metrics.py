"""Gain, its interval and McNemar's test, against hand values, scipy and exact coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, multinomial

from resmem_cli.errors import DataError
from resmem_cli.metrics import changed_examples, compare, gain_interval, mcnemar_p_value

counts = st.integers(0, 3000)


def test_six_examples_by_hand():
    labels = np.array([0, 1, 2, 0, 1, 2])
    base = np.array([0, 0, 0, 1, 1, 2])
    method = np.array([0, 1, 2, 2, 0, 2])
    gain = compare(labels, base, method)
    assert (gain.n, gain.n_corrected, gain.n_broken) == (6, 2, 1)
    assert (gain.base_accuracy, gain.accuracy) == (3 / 6, 4 / 6)
    assert (gain.tpr, gain.fpr) == (2 / 6, 1 / 6)
    assert gain.gain == pytest.approx(1 / 6)
    assert gain.p_value == 1
    corrected, broken = changed_examples(labels, base, method)
    assert (corrected.tolist(), broken.tolist()) == ([1, 2], [4])


def test_nothing_changed():
    labels = np.array([0, 1, 2])
    gain = compare(labels, np.array([0, 1, 0]), np.array([0, 1, 1]))
    assert (gain.n_corrected, gain.n_broken, gain.gain, gain.p_value) == (0, 0, 0, 1)
    low, high = gain.interval
    assert low == -high < 0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 50), st.integers(1, 5), st.integers(0, 2**32))
def test_gain_is_the_difference_of_accuracies_and_of_rates(n, n_classes, seed):
    labels, base, method = np.random.default_rng(seed).integers(n_classes, size=(3, n))
    gain = compare(labels, base, method)
    assert gain.gain == pytest.approx(gain.accuracy - gain.base_accuracy)
    assert gain.gain == pytest.approx(gain.tpr - gain.fpr)
    assert gain.interval[0] <= gain.gain <= gain.interval[1]


def test_predictions_of_another_integer_type_than_the_labels():
    gain = compare(np.array([0, 1], np.uint8), np.array([0, 0], np.int32), np.array([0, 1], np.int64))
    assert (gain.n_corrected, gain.n_broken) == (1, 0)


class TestMcNemar:
    @pytest.mark.parametrize(
        ("corrected", "broken", "p"), [(0, 1, 1), (5, 0, 2 / 32), (6, 1, 16 / 128), (3, 3, 1)]
    )
    def test_by_hand(self, corrected, broken, p):
        assert mcnemar_p_value(corrected, broken) == pytest.approx(p)

    @settings(max_examples=60, deadline=None)
    @given(counts, counts)
    def test_matches_the_exact_binomial_test(self, corrected, broken):
        expected = binomtest(corrected, corrected + broken).pvalue if corrected + broken else 1
        assert mcnemar_p_value(corrected, broken) == pytest.approx(expected, rel=1e-6, abs=1e-200)

    def test_no_changes_decide_nothing(self):
        assert mcnemar_p_value(0, 0) == 1

    def test_the_papers_size_of_gain_is_beyond_chance(self):
        assert 0 < mcnemar_p_value(589, 270) < 1e-25


class TestInterval:
    def test_by_hand(self):
        # (19 + 1)/100 and (9 + 1)/100: 0.1 ± 1.96·√((0.3 − 0.01)/100)
        assert gain_interval(19, 9, 98) == pytest.approx((0.1 - 0.105547, 0.1 + 0.105547), abs=1e-6)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
    def test_contains_the_gain_and_is_symmetric(self, corrected, broken, unchanged):
        n = corrected + broken + unchanged
        if n == 0:
            return
        low, high = gain_interval(corrected, broken, n)
        assert -1 <= low <= (corrected - broken) / n <= high <= 1
        assert gain_interval(broken, corrected, n) == pytest.approx((-high, -low))

    @pytest.mark.parametrize("n", [10, 30, 60])
    @pytest.mark.parametrize("rates", [(0.02, 0.01), (0.06, 0.03), (0.2, 0.2), (0.5, 0.1), (0.05, 0.6)])
    def test_covers_the_true_gain_in_at_least_93_of_100_samples(self, n, rates):
        up, down = rates
        outcomes = np.array([(b, c, n - b - c) for b in range(n + 1) for c in range(n + 1 - b)])
        chances = multinomial.pmf(outcomes, n, [up, down, 1 - up - down])
        bounds = np.array([gain_interval(int(b), int(c), n) for b, c, _ in outcomes])
        covered = (bounds[:, 0] <= up - down) & (up - down <= bounds[:, 1])
        assert chances[covered].sum() >= 0.93


def test_columns_of_another_shape_are_refused_and_not_broadcast():
    labels = np.array([0, 1, 1])
    with pytest.raises(DataError, match=r"found \(3, 1\), \(3,\) and \(3,\)"):
        compare(labels[:, None], labels, labels)
