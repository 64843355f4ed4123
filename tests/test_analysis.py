"""Groups of queries, coarse answers, credit of memory rows, and gates, by hand and by brute force."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from resmem_cli.analysis import (
    CoarseToFine,
    Gate,
    Group,
    InfluentialRow,
    by_class,
    by_frequency,
    by_group,
    by_quantile,
    coarse_to_fine,
    difference_interval,
    influence,
    select_gate,
)
from resmem_cli.errors import DataError, UsageError
from resmem_cli.metrics import compare

# Corrected, right, broken, wrong; corrected, wrong.
LABELS = np.array([0, 0, 0, 0, 2, 2])
BASE = np.array([1, 0, 0, 1, 1, 1])
METHOD = np.array([0, 0, 1, 2, 2, 0])

seeds = st.integers(0, 2**32)


def answers(n, n_classes, seed):
    return np.random.default_rng(seed).integers(n_classes, size=(3, n))


def sizes(groups):
    return [group.n for group in groups]


class TestGroups:
    def test_two_classes_by_hand(self):
        assert by_class(LABELS, BASE, METHOD, ["ant", "bee", "cat"]) == [
            Group("ant", 4, base_accuracy=2 / 4, accuracy=2 / 4, gain=0, tpr=1 / 4, fpr=1 / 4),
            Group("cat", 2, base_accuracy=0, accuracy=1 / 2, gain=1 / 2, tpr=1 / 2, fpr=0),
        ]

    def test_classes_without_names_are_numbered(self):
        assert [group.name for group in by_class(LABELS, BASE, METHOD)] == ["0", "2"]

    def test_groups_come_in_the_order_of_their_names(self):
        groups = by_group(np.array([2, 2, 0, 0, 0, 2]), ["c", "b", "a"], LABELS, BASE, METHOD)
        assert [(group.name, group.n) for group in groups] == [("c", 3), ("a", 3)]

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 7), seeds)
    def test_each_group_is_compared_as_if_alone(self, n, n_classes, n_groups, seed):
        labels, base, method = answers(n, n_classes, seed)
        groups = np.random.default_rng(seed + 1).integers(n_groups, size=n)
        found = by_group(groups, [str(i) for i in range(n_groups)], labels, base, method)
        assert [int(group.name) for group in found] == sorted(set(groups.tolist()))
        for group in found:
            alone = groups == int(group.name)
            gain = compare(labels[alone], base[alone], method[alone])
            expected = (gain.n, gain.base_accuracy, gain.accuracy, gain.gain, gain.tpr, gain.fpr)
            assert dataclasses.astuple(group)[1:] == pytest.approx(expected)
            assert group.gain == pytest.approx(group.accuracy - group.base_accuracy)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
    def test_integers_of_any_type(self, dtype):
        groups = by_class(LABELS.astype(dtype), BASE.astype(dtype), METHOD.astype(dtype))
        assert groups == by_class(LABELS, BASE, METHOD)

    def test_no_queries_make_no_groups(self):
        none = np.empty(0, np.int32)
        assert by_class(none, none, none) == []
        assert by_quantile(np.empty(0), none, none, none) == []
        assert by_frequency(none, none, none, np.array([1, 2])) == []

    def test_columns_that_do_not_fit_are_refused(self):
        with pytest.raises(DataError, match=r"do not fit together .*\(5,\), \(6,\)"):
            by_group(np.zeros(5, int), ["a"], LABELS, BASE, METHOD)
        with pytest.raises(DataError, match=r"found \(6, 1\)"):
            by_quantile(np.zeros((6, 1)), LABELS[:, None], BASE[:, None], METHOD[:, None])

    @pytest.mark.parametrize("group", [-1, 2])
    def test_groups_without_a_name_are_refused(self, group):
        groups = np.array([0, 1, group, 0, 1, 0])
        with pytest.raises(DataError, match=rf"groups out of range .*0 to 1, found .*{group}"):
            by_group(groups, ["a", "b"], LABELS, BASE, METHOD)

    def test_groups_that_are_no_integers_are_refused(self):
        with pytest.raises(DataError, match="no integers"):
            by_group(np.zeros(6), ["a"], LABELS, BASE, METHOD)


class TestQuantiles:
    def test_six_values_by_hand(self):
        values = np.array([0.5, 0.1, 0.6, 0.2, 0.3, 0.4])
        groups = by_quantile(values, LABELS, BASE, METHOD, n_groups=3, unit="m")
        assert [group.name for group in groups] == ["0.10 to 0.20 m", "0.30 to 0.40 m", "0.50 to 0.60 m"]
        assert [(group.n, group.tpr, group.fpr) for group in groups] == [
            (2, 0, 0),
            (2, 1 / 2, 0),
            (2, 1 / 2, 1 / 2),
        ]

    def test_equal_values_stay_together_where_most_of_them_belong(self):
        values = np.array([1, 2, 2, 2, 2, 3])
        assert sizes(by_quantile(values, LABELS, BASE, METHOD, n_groups=3)) == [1, 4, 1]
        assert sizes(by_quantile(values, LABELS, BASE, METHOD, n_groups=2)) == [1, 5]

    def test_all_values_equal_make_one_group(self):
        (group,) = by_quantile(np.full(6, np.float32(0.1)), LABELS, BASE, METHOD)
        assert (group.name, group.n) == ("0.1", 6)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 90), st.integers(1, 12), seeds)
    def test_distinct_values_make_groups_that_differ_by_one_at_most(self, n, n_groups, seed):
        values = np.random.default_rng(seed).permutation(n) * 0.7
        found = sizes(by_quantile(values, *answers(n, 3, seed), n_groups=n_groups))
        assert (sum(found), len(found)) == (n, min(n, n_groups))
        assert max(found) - min(found) <= 1

    @settings(max_examples=100, deadline=None)
    @given(st.integers(1, 60), st.integers(1, 10), st.integers(1, 20), seeds)
    def test_any_values_match_the_rule_one_by_one(self, n, n_groups, n_values, seed):
        rng = np.random.default_rng(seed)
        values = rng.choice(rng.normal(size=n_values), size=n).astype(np.float32)
        columns = answers(n, 3, seed)
        ordered = np.sort(values).tolist()
        expected: dict[int, list[int]] = {}
        for row, value in enumerate(values.tolist()):
            middle = ordered.index(value) + ordered.count(value) / 2
            expected.setdefault(int(middle * n_groups / n + 1e-9), []).append(row)
        found = by_quantile(values, *columns, n_groups=n_groups)
        assert len({group.name for group in found}) == len(found)
        for group, rows in zip(found, [expected[i] for i in sorted(expected)], strict=True):
            gain = compare(*(column[rows] for column in columns))
            assert (group.n, group.tpr, group.fpr) == (gain.n, gain.tpr, gain.fpr)
            ends = [float(end) for end in group.name.split(" to ")]
            width = float(values[rows].max()) - float(values[rows].min())
            near = {"abs": width / 10 if width else 0, "rel": 1e-3 if not width else 1e-6}
            assert ends[0] == pytest.approx(float(values[rows].min()), **near)
            assert ends[-1] == pytest.approx(float(values[rows].max()), **near)

    def test_the_order_of_the_queries_changes_nothing(self):
        labels, base, method = answers(200, 4, 0)
        values = np.random.default_rng(1).integers(30, size=200) / 7
        order = np.random.default_rng(2).permutation(200)
        one = by_quantile(values, labels, base, method)
        assert by_quantile(values[order], labels[order], base[order], method[order]) == one

    @pytest.mark.parametrize(
        ("values", "names"),
        [
            (
                [0.25, 0.5, 0.9995, 0.99962, 0.9998, 1],
                ["0.25 to 0.50", "0.99950 to 0.99962", "0.99980 to 1.00000"],
            ),
            ([3, 1000, 1001, 2500, 2501, 12345], ["3 to 1,000", "1,001 to 2,500", "2,501 to 12,345"]),
            ([0, 0, 1, 1, 1, 1], ["0", "1"]),
            ([1e-9, 2e-9, 3e-9, 4e-9, 5e-9, 6e-9], ["1e-09 to 2e-09", "3e-09 to 4e-09", "5e-09 to 6e-09"]),
            ([1, 1, 1.000001, 1.000001, 2, 2], ["1", "1.000001", "2"]),
        ],
    )
    def test_names_tell_ranges_apart(self, values, names):
        groups = by_quantile(np.array(values, float), LABELS, BASE, METHOD, n_groups=3)
        assert [group.name for group in groups] == names

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_values_that_are_not_finite_are_refused(self, value):
        with pytest.raises(DataError, match="not finite"):
            by_quantile(np.array([1, 2, value, 4, 5, 6]), LABELS, BASE, METHOD)

    def test_no_groups_are_refused(self):
        with pytest.raises(UsageError, match="at least 1"):
            by_quantile(np.arange(6), LABELS, BASE, METHOD, n_groups=0)


class TestFrequency:
    def test_rare_and_frequent_classes_by_hand(self):
        # Class 0 has 900 memory rows and four queries, class 2 has one row and two queries.
        groups = by_frequency(LABELS, BASE, METHOD, np.array([1900, 40, 1]))
        assert [(group.name, group.n) for group in groups] == [("1 row", 2), ("1,900 rows", 4)]

    def test_classes_are_grouped_by_their_memory_rows(self):
        labels = np.repeat([0, 1, 2, 3], 5)
        groups = by_frequency(labels, labels, labels, np.array([12, 70, 40, 300]), n_groups=2)
        assert [(group.name, group.n) for group in groups] == [("12 to 40 rows", 10), ("70 to 300 rows", 10)]

    def test_classes_of_one_count_stay_together(self):
        labels = np.arange(10).repeat(3)
        (group,) = by_frequency(labels, labels, labels, np.full(10, 500))
        assert (group.name, group.n, group.accuracy) == ("500 rows", 30, 1)

    def test_classes_without_memory_rows(self):
        groups = by_frequency(LABELS, BASE, METHOD, np.array([5, 0, 0]))
        assert [group.name for group in groups] == ["0 rows", "5 rows"]

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 80), st.integers(1, 20), st.integers(1, 6), seeds)
    def test_every_query_is_in_the_group_that_names_its_class(self, n, n_classes, n_groups, seed):
        labels, base, method = answers(n, n_classes, seed)
        counts = np.random.default_rng(seed + 1).integers(12, size=n_classes)
        found = by_frequency(labels, base, method, counts, n_groups)
        of_query = counts[labels]
        for group in found:
            ends = [int(end) for end in group.name.removesuffix("s").removesuffix(" row").split(" to ")]
            assert group.n == np.count_nonzero((of_query >= ends[0]) & (of_query <= ends[-1]))
        assert sum(sizes(found)) == n
        assert len(found) <= n_groups

    def test_labels_that_are_no_classes_are_refused(self):
        with pytest.raises(DataError, match="labels out of range .*0 to 1, found 0 to 2"):
            by_frequency(LABELS, BASE, METHOD, np.array([5, 5]))


class TestCoarseToFine:
    def test_six_classes_by_hand(self):
        # Groups {0, 1}, {2, 3}, {4, 5}. Errors: two corrected in the group, one outside; one of the
        # others inside, two outside. A right answer and a broken one are no errors of the base network.
        labels = np.array([0, 2, 4, 0, 2, 4, 1, 1])
        base = np.array([1, 3, 0, 1, 0, 2, 1, 1])
        method = np.array([0, 2, 4, 1, 0, 5, 1, 0])
        found = coarse_to_fine(labels, base, method, np.array([0, 0, 1, 1, 2, 2]))
        low, high = difference_interval(2, 3, 1, 3)
        assert found == CoarseToFine(
            groups=3,
            n_corrected=3,
            n_base_errors=6,
            corrected_in_group=2 / 3,
            uncorrected_in_group=1 / 3,
            errors_in_group=3 / 6,
            difference=2 / 3 - 3 / 6,
            interval=(low / 2, high / 2),
        )

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 80), st.integers(1, 6), st.integers(1, 4), seeds)
    def test_matches_a_count_one_by_one(self, n, n_classes, n_groups, seed):
        labels, base, method = answers(n, n_classes, seed)
        groups = np.random.default_rng(seed + 1).integers(n_groups, size=n_classes)
        found = coarse_to_fine(labels, base, method, groups)
        errors, corrected, others = [], [], []
        for label, first, last in zip(labels, base, method, strict=True):
            if first != label:
                same = bool(groups[label] == groups[first])
                errors.append(same)
                (corrected if last == label else others).append(same)
        expected = [np.mean(part) if part else None for part in (corrected, others, errors)]
        shares = [found.corrected_in_group, found.uncorrected_in_group, found.errors_in_group]
        assert shares == [share if share is None else pytest.approx(share) for share in expected]
        assert (found.n_corrected, found.n_base_errors) == (len(corrected), len(errors))
        assert (found.difference is None) == (not corrected)
        assert (found.interval is None) == (not corrected or not others)
        if found.interval is not None:
            factor = 1 - len(corrected) / len(errors)
            assert found.difference == pytest.approx(factor * (expected[0] - expected[1]))
            assert found.interval[0] <= found.difference <= found.interval[1]

    def test_nothing_to_compare_is_told_as_none(self):
        labels = np.array([0, 1, 2])
        right = coarse_to_fine(labels, labels, labels, np.array([0, 0, 1]))
        assert dataclasses.astuple(right) == (2, 0, 0, None, None, None, None, None)
        uncorrected = coarse_to_fine(labels, labels[[1, 0, 0]], labels[[1, 0, 0]], np.array([0, 0, 1]))
        assert dataclasses.astuple(uncorrected) == (2, 0, 3, None, 2 / 3, 2 / 3, None, None)
        all_corrected = coarse_to_fine(labels, labels[[1, 0, 0]], labels, np.array([0, 0, 1]))
        assert dataclasses.astuple(all_corrected) == (2, 3, 3, 2 / 3, None, 2 / 3, 0, None)

    def test_classes_that_there_are_not_are_refused(self):
        with pytest.raises(DataError, match="labels out of range .*0 to 1"):
            coarse_to_fine(LABELS, BASE, METHOD, np.array([0, 0]))
        with pytest.raises(DataError, match="base_predicted out of range .*found 0 to 3"):
            coarse_to_fine(LABELS, np.array([1, 0, 3, 1, 1, 1]), METHOD, np.array([0, 0, 1]))


class TestDifferenceInterval:
    @pytest.mark.parametrize(
        ("counts", "interval"),
        [
            # Newcombe 1998, table II, method 10.
            ((56, 70, 48, 80), (0.0524, 0.3339)),
            ((9, 10, 3, 10), (0.1705, 0.8090)),
            ((10, 10, 0, 20), (0.6791, 1.0)),
        ],
    )
    def test_published_examples(self, counts, interval):
        assert difference_interval(*counts) == pytest.approx(interval, abs=5e-5)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 400), st.integers(1, 400), st.floats(0, 1), st.floats(0, 1))
    def test_combines_the_score_intervals_of_scipy(self, n_a, n_b, share_a, share_b):
        a, b = round(share_a * n_a), round(share_b * n_b)
        p, q = a / n_a, b / n_b
        one = binomtest(a, n_a).proportion_ci(method="wilson")
        other = binomtest(b, n_b).proportion_ci(method="wilson")
        low = p - q - np.hypot(p - one.low, other.high - q)
        high = p - q + np.hypot(one.high - p, q - other.low)
        found = difference_interval(a, n_a, b, n_b)
        assert found == pytest.approx((low, high), abs=1e-9)
        assert found[0] <= p - q <= found[1]
        assert difference_interval(b, n_b, a, n_a) == pytest.approx((-found[1], -found[0]), abs=1e-12)

    @pytest.mark.parametrize(("n_a", "n_b"), [(10, 60), (30, 30), (25, 100)])
    @pytest.mark.parametrize(("p", "q"), [(0.3, 0.2), (0.5, 0.4), (0.8, 0.3), (0.1, 0.1)])
    def test_covers_the_true_difference_in_at_least_93_of_100_samples(self, n_a, n_b, p, q):
        chances = np.outer(binom.pmf(np.arange(n_a + 1), n_a, p), binom.pmf(np.arange(n_b + 1), n_b, q))
        covered = np.zeros_like(chances, bool)
        for a, b in np.ndindex(covered.shape):
            low, high = difference_interval(a, n_a, b, n_b)
            covered[a, b] = low <= p - q <= high
        assert chances[covered].sum() >= 0.93


class TestInfluence:
    def test_three_changed_queries_by_hand(self):
        rows = np.array([[5, 2], [2, 9], [9, 5]])
        contributions = np.array([[0.5, -0.25], [1, 0], [0.75, 0.5]], np.float32)
        found = influence(rows, contributions, np.array([True, True, False]))
        assert found.rows.tolist() == [2, 5, 9]
        assert found.n_corrected.tolist() == [1, 1, 0]
        assert found.n_broken.tolist() == [0, 1, 1]
        assert found.credit_corrected.tolist() == [0.75, 0.5, 0]
        assert found.credit_broken.tolist() == [0, 0.5, 0.75]
        assert found.most("corrected", 1) == [InfluentialRow(2, 1, 0, 0.75, 0)]
        # Row 9 did nothing for the corrected queries.
        assert [one.row for one in found.most("corrected", 10)] == [2, 5]
        assert [one.row for one in found.most("broken", 10)] == [9, 5]
        assert found.most("broken", 0) == []

    def test_of_equal_credit_the_lower_row_comes_first(self):
        rows = np.array([[8, 3, 5, 1]])
        found = influence(rows, np.array([[1.0, 1, 2, 1]]), np.array([True]))
        assert [one.row for one in found.most("corrected", 3)] == [5, 1, 3]

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 20), st.integers(1, 8), seeds)
    def test_matches_a_count_one_by_one(self, e, k, seed):
        rng = np.random.default_rng(seed)
        rows = np.array([rng.permutation(12)[:k] for _ in range(e)], np.int64).reshape(e, k)
        contributions = rng.integers(-2, 3, size=(e, k)) / 4
        corrected = rng.random(e) < 0.5
        expected: dict[int, list[float]] = {}
        for i, j in itertools.product(range(e), range(k)):
            counted = expected.setdefault(int(rows[i, j]), [0, 0, 0.0, 0.0])
            counted[0 if corrected[i] else 1] += contributions[i, j] > 0
            counted[2 if corrected[i] else 3] += contributions[i, j]
        found = influence(rows, contributions, corrected)
        columns = [getattr(found, field.name) for field in dataclasses.fields(found)]
        assert [c.dtype for c in columns] == [np.int64] * 3 + [np.float64] * 2
        assert list(zip(*(c.tolist() for c in columns), strict=True)) == [
            (row, *expected[row]) for row in sorted(expected)
        ]
        for kind, place in (("corrected", 2), ("broken", 3)):
            ranked = sorted((-counted[place], row) for row, counted in expected.items() if counted[place] > 0)
            assert [one.row for one in found.most(kind, 4)] == [row for _, row in ranked[:4]]

    def test_many_small_contributions_are_summed_in_float64(self):
        contributions = np.full((100_000, 1), 0.1, np.float32)
        found = influence(np.zeros((100_000, 1), np.int64), contributions, np.ones(100_000, bool))
        assert found.credit_corrected[0] == pytest.approx(100_000 * float(np.float32(0.1)), rel=1e-12)

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(DataError, match=r"found \(2, 3\), \(2, 3\) and \(3,\)"):
            influence(np.zeros((2, 3), int), np.zeros((2, 3)), np.ones(3, bool))
        found = influence(np.zeros((1, 1), int), np.zeros((1, 1)), np.ones(1, bool))
        with pytest.raises(UsageError, match="no such kind"):
            found.most("unchanged", 1)
        with pytest.raises(UsageError, match="at least 0"):
            found.most("broken", -1)


def thresholds(values):
    """The limits that are documented: 64 quantiles, each a value that occurs, and none."""
    ordered = np.sort(values)
    places = [-(-len(values) * i // 65) - 1 for i in range(1, 65)]
    return [*sorted({ordered[place].item() for place in places}), None]


def right_answers(gate, nearest, confidence, right, base_right, weights):
    total = 0.0
    for i in range(len(nearest)):
        opened = (gate.distance is None or nearest[i] <= gate.distance) and (
            gate.confidence is None or confidence[i] <= gate.confidence
        )
        total += weights[i] * float(right[i] if opened else base_right[i])
    return total


class TestGate:
    def test_open_where_neither_is_above_its_limit(self):
        nearest, confidence = np.array([1.0, 2, 3, 1]), np.array([0.5, 0.5, 0.5, 0.9], np.float32)
        assert Gate(distance=2, confidence=0.5).open(nearest, confidence).tolist() == [
            True,
            True,
            False,
            False,
        ]
        assert Gate(distance=2).open(nearest, confidence).tolist() == [True, True, False, True]
        assert Gate(confidence=0.6).open(nearest, confidence).tolist() == [True, True, True, False]
        assert Gate().open(nearest, confidence).tolist() == [True] * 4

    def test_memory_that_helps_only_near_its_rows(self):
        nearest = np.arange(8.0)
        near = nearest < 4
        gate = select_gate(nearest, np.full(8, 0.5), near, ~near)
        assert gate == Gate(distance=3, confidence=None, accuracy=1, plain_accuracy=0.5, share_open=0.5)

    def test_memory_that_helps_only_an_unsure_network(self):
        confidence = np.linspace(0.1, 0.8, 8).astype(np.float32)
        unsure = confidence < 0.35
        gate = select_gate(np.ones(8), confidence, unsure, ~unsure)
        assert (gate.distance, gate.confidence) == (None, float(confidence[2]))
        assert (gate.accuracy, gate.plain_accuracy, gate.share_open) == (1, 3 / 8, 3 / 8)
        # The limit means the same in the confidence's own type.
        assert np.array_equal(gate.open(np.ones(8), confidence), unsure)

    def test_both_limits_where_both_gain(self):
        nearest, confidence = (grid.ravel().astype(float) for grid in np.mgrid[0:6, 0:6])
        inside = (nearest <= 3) & (confidence <= 2)
        gate = select_gate(nearest, confidence / 6, inside, ~inside)
        assert (gate.distance, gate.confidence, gate.accuracy) == (3, 2 / 6, 1)
        assert gate.share_open == 12 / 36

    @pytest.mark.parametrize("weights", [None, np.linspace(0.1, 1, 50)])
    def test_no_gate_where_none_gains(self, weights):
        rng = np.random.default_rng(0)
        nearest, confidence = rng.random((2, 50))
        base_right = rng.random(50) < 0.5
        right = base_right | (rng.random(50) < 0.3)
        for method in (right, base_right):
            gate = select_gate(nearest, confidence, method, base_right, weights)
            assert (gate.distance, gate.confidence, gate.share_open) == (None, None, 1)
            assert gate.accuracy == gate.plain_accuracy == np.average(method, weights=weights)

    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 40), st.integers(1, 9), st.booleans(), seeds)
    def test_no_pair_of_limits_is_better_and_none_as_good_is_more_open(self, n, n_values, weighted, seed):
        rng = np.random.default_rng(seed)
        nearest = rng.integers(n_values, size=n) / 3
        confidence = (rng.integers(1, n_values + 1, size=n) / n_values).astype(np.float32)
        right, base_right = rng.random((2, n)) < 0.5
        weights = rng.integers(1, 5, size=n) / 4 if weighted else None
        counted = np.ones(n) if weights is None else weights
        columns = (nearest, confidence, right, base_right, counted)
        pairs = [Gate(a, b) for a in thresholds(nearest) for b in thresholds(confidence)]
        results = [
            (right_answers(pair, *columns), int(pair.open(nearest, confidence).sum())) for pair in pairs
        ]
        most = max(results)
        gate = select_gate(nearest, confidence, right, base_right, weights)
        assert right_answers(gate, *columns) == most[0]
        assert gate.open(nearest, confidence).sum() == most[1]
        assert gate.accuracy == pytest.approx(most[0] / counted.sum())
        assert gate.plain_accuracy == pytest.approx(np.average(right, weights=weights))
        assert gate.share_open == most[1] / n
        assert gate.accuracy >= gate.plain_accuracy

    def test_of_many_values_only_quantiles_are_limits(self):
        rng = np.random.default_rng(3)
        nearest, confidence = rng.random((2, 2000))
        helps = nearest < 0.4
        gate = select_gate(nearest, confidence, helps, ~helps)
        assert gate.distance in thresholds(nearest)
        assert (gate.distance, gate.confidence) == (pytest.approx(0.4, abs=1 / 65), None)

    def test_weights_of_whole_numbers_are_queries_that_occur_as_often(self):
        rng = np.random.default_rng(4)
        nearest, confidence = rng.integers(5, size=(2, 60)) / 5
        right, base_right = rng.random((2, 60)) < 0.5
        weights = rng.integers(1, 4, size=60)
        one = select_gate(nearest, confidence, right, base_right, weights)
        many = select_gate(*(c.repeat(weights) for c in (nearest, confidence, right, base_right)))
        assert (one.distance, one.confidence) == (many.distance, many.confidence)
        assert one.accuracy == pytest.approx(many.accuracy)

    @pytest.mark.parametrize(
        "weights", [np.zeros(3), np.array([1, -1, 1]), np.array([1, np.nan, 1]), np.ones(2)]
    )
    def test_weights_that_are_none_are_refused(self, weights):
        with pytest.raises(DataError, match="weights"):
            select_gate(np.ones(3), np.ones(3), np.ones(3, bool), np.ones(3, bool), weights)

    def test_columns_that_hold_nothing_to_choose_by_are_refused(self):
        none, one = np.empty(0), np.ones(1, bool)
        with pytest.raises(DataError, match="no queries"):
            select_gate(none, none, none.astype(bool), none.astype(bool))
        with pytest.raises(DataError, match="no queries"):
            select_gate(np.array([np.nan]), np.ones(1), one, one)
        with pytest.raises(DataError, match="do not fit together"):
            select_gate(np.ones(2), np.ones(1), one, one)
