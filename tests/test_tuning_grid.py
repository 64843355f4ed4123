"""Lists and ranges of values, the grids made of them, and the choice of the best point."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resmem_cli.errors import UsageError
from resmem_cli.tuning.grid import Grid, Objective, Points, automatic_grid, parse_values, refined_grid

COLUMNS = ("k", "sigma", "temperature", "strength")


def points(k, accuracy, fpr, *, tpr=None, nll=None, sigma=None):
    ones = np.ones(len(k))
    return Points(
        k=np.array(k, np.int32),
        sigma=ones if sigma is None else np.array(sigma, np.float64),
        temperature=ones,
        strength=ones,
        accuracy=np.array(accuracy, np.float64),
        tpr=ones if tpr is None else np.array(tpr, np.float64),
        fpr=np.array(fpr, np.float64),
        nll=None if nll is None else np.array(nll, np.float64),
    )


class TestValues:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("1", (1,)),
            ("0.1,2,0.5", (0.1, 0.5, 2)),
            (" 1 , 2 ", (1, 2)),
            ("2,1,2,1.0", (1, 2)),
            ("0:1:5", (0, 0.25, 0.5, 0.75, 1)),
            ("0.1:0.3:3", (0.1, 0.2, 0.3)),
            ("1:100:3log", (1, 10, 100)),
            ("0.5:4:4log", (0.5, 1, 2, 4)),
            ("1:2:1", (1,)),
            ("3:3:7", (3,)),
            ("3:3:7log", (3,)),
            ("0.5,1:3:3,2", (0.5, 1, 2, 3)),
            ("1:2:4", (1, 1.33333, 1.66667, 2)),
            ("-1:1:3", (-1, 0, 1)),
            ("1e-3", (0.001,)),
        ],
    )
    def test_by_hand(self, text, expected):
        values = parse_values(text, "--sigma")
        assert values == expected
        assert all(type(value) is float for value in values)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("10,53,200", (10, 53, 200)),
            ("53,10,53", (10, 53)),
            ("2.0", (2,)),
            ("20:500:10", (20, 73, 127, 180, 233, 287, 340, 393, 447, 500)),
            ("1:4:20", (1, 2, 3, 4)),
            ("1:100:3log,53", (1, 10, 53, 100)),
        ],
    )
    def test_whole_numbers_by_hand(self, text, expected):
        values = parse_values(text, "-k", whole=True)
        assert values == expected
        assert all(type(value) is int for value in values)

    @pytest.mark.parametrize("text", ["1.5", "1,2.5", "2.5,10:20:3", "10:20:3,2.5"])
    def test_a_fraction_is_no_whole_number_even_beside_a_range(self, text):
        with pytest.raises(UsageError, match=f"-k: not a whole number .found {re.escape(text)}"):
            parse_values(text, "-k", whole=True)

    @pytest.mark.parametrize("whole", [False, True])
    @pytest.mark.parametrize(
        "text",
        [
            "", " ", ",", "1,", ",1", "1,,2", "abc", "1;2", "1 2", "nan", "inf", "-inf", "1:2", "1:2:",
            ":2:3", "1::3", "1:2:3:4", "1:2:0", "1:2:-1", "1:2:1.5", "1:2:10001", "1:2:log", "1:2:3Log",
            "1:2:3 log", "2:1:3", "0:1:3log", "-1:1:3log", "nan:1:3", "0:inf:3", "-1e308:1e308:3",
            "1:2:" + "9" * 5000,
        ],
    )  # fmt: skip
    def test_a_malformed_text_is_refused_with_the_option_s_name(self, text, whole):
        with pytest.raises(UsageError, match="--temperature: no list of numbers") as caught:
            parse_values(text, "--temperature", whole=whole)
        assert caught.value.found == text
        assert "0.1:2:20log" in str(caught.value)

    @settings(max_examples=200, deadline=None)
    @given(st.text("0123456789.:,-elognai ", max_size=12))
    def test_any_text_gives_rising_finite_values_or_the_usage_error(self, text):
        try:
            values, refusal = parse_values(text, "-T"), "-T: "
        except UsageError as error:
            values, refusal = (), str(error)
        assert refusal.startswith("-T: ")
        assert np.isfinite(values).all()
        assert list(values) == sorted(set(values))

    @settings(max_examples=100, deadline=None)
    @given(st.floats(1e-6, 1e6), st.floats(1, 1e6), st.integers(2, 50), st.sampled_from(["", "log"]))
    def test_a_range_begins_and_ends_at_its_ends(self, low, factor, count, kind):
        high = low * factor
        values = parse_values(f"{low!r}:{high!r}:{count}{kind}", "--sigma")
        assert values[0] == low
        assert values[-1] == high
        assert len(values) <= count
        space = np.geomspace if kind else np.linspace
        assert list(values) == sorted(set(values))
        for value in space(low, high, count):
            assert np.abs(np.array(values) / value - 1).min() < 1e-3


class TestGrid:
    def test_its_length_is_the_number_of_points(self):
        assert len(Grid((1, 2), (0.1, 0.2, 0.3), (1.0,), (0.5, 1.0))) == 12

    @pytest.mark.parametrize(
        ("grid", "words"),
        [
            (Grid((0, 5), (1.0,), (1.0,)), "k out of range (expected 1 to 1,000, found 0)"),
            (Grid((5, 1001), (1.0,), (1.0,)), "k out of range (expected 1 to 1,000, found 1001)"),
            (Grid((5,), (0.0, 1.0), (1.0,)), "sigma out of range"),
            (Grid((5,), (1.0,), (-1.0, 1.0)), "temperature out of range"),
            (Grid((5,), (1.0,), (1.0,), (-0.5, 1.0)), "strength out of range"),
        ],
    )
    def test_values_out_of_range_are_refused(self, grid, words):
        with pytest.raises(UsageError, match=re.escape(words)):
            grid.check(n=1000)

    def test_the_ends_of_the_ranges_are_allowed(self):
        Grid((1, 1000), (1e-300,), (1e-300,), (0.0,)).check(n=1000)


class TestAutomaticGrid:
    def test_sigmas_are_shares_of_the_scale_about_the_paper_s(self):
        grid = automatic_grid(n=50_000, scale=4.0)
        assert grid.k == (10, 20, 53, 100, 200)
        assert (grid.sigma[0], grid.sigma[-1]) == (0.2, 4.0)
        assert grid.sigma[0] < 0.18 * 4 < grid.sigma[-1]
        assert (grid.temperature[0], grid.temperature[-1]) == (0.5, 4.0)
        assert grid.temperature[0] < 1.4 < grid.temperature[-1]
        assert grid.strength == (0.25, 0.5, 0.75, 1.0)
        grid.check(n=50_000)

    @pytest.mark.parametrize(
        ("n", "ks"), [(1, (1,)), (15, (10, 15)), (53, (10, 20, 53)), (60, (10, 20, 53, 60))]
    )
    def test_k_stays_within_the_memory(self, n, ks):
        assert automatic_grid(n=n, scale=1.0).k == ks

    def test_without_other_temperatures_there_is_1_alone(self):
        assert automatic_grid(n=100, scale=1.0, temperatures=False).temperature == (1.0,)

    @pytest.mark.parametrize("scale", [1e-9, 0.123456789, 1e9])
    def test_values_print_as_they_are(self, scale):
        for value in automatic_grid(n=100, scale=scale).sigma:
            assert float(f"{value:.4g}") == value


values = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6, unique=True).map(lambda v: tuple(sorted(v)))
whole_values = st.lists(st.integers(1, 10_000_000), min_size=1, max_size=6, unique=True).map(
    lambda v: tuple(sorted(v))
)
strengths = st.lists(st.floats(0, 3), min_size=1, max_size=6, unique=True).map(lambda v: tuple(sorted(v)))


class TestRefinedGrid:
    def test_by_hand(self):
        grid = Grid((10, 20, 40), (0.1, 1.0, 10.0), (1.0, 2.0), (0.5, 0.75, 1.0))
        fine = refined_grid(grid, {"k": 20, "sigma": 10.0, "temperature": 1.0, "strength": 0.75})
        assert fine.k == (10, 14, 20, 28, 40)
        assert (fine.sigma[0], fine.sigma[3], fine.sigma[-1]) == (1, 3.162, 10)
        assert (fine.temperature[0], fine.temperature[-1], len(fine.temperature)) == (1, 2, 5)
        assert fine.strength == (0.5, 0.625, 0.75, 0.875, 1)

    def test_a_setting_of_one_value_keeps_it_to_the_last_digit(self):
        grid = Grid((1_234_567,), (0.123456789,), (1.23456789,), (0.987654321,))
        best = {name: getattr(grid, name)[0] for name in COLUMNS}
        assert refined_grid(grid, best) == grid

    @settings(max_examples=200, deadline=None)
    @given(whole_values, values, values, strengths, st.data())
    def test_it_lies_between_the_neighbours_and_holds_them(self, k, sigma, temperature, strength, data):
        grid = Grid(k, sigma, temperature, strength)
        best = {name: data.draw(st.sampled_from(getattr(grid, name))) for name in COLUMNS}
        fine = refined_grid(grid, best)
        for name in COLUMNS:
            coarse, finer = getattr(grid, name), getattr(fine, name)
            place = coarse.index(best[name])
            assert finer[0] == coarse[max(0, place - 1)]
            assert finer[-1] == coarse[min(len(coarse) - 1, place + 1)]
            assert list(finer) == sorted(set(finer))
        assert all(type(value) is int for value in fine.k)

    def test_a_point_read_back_from_arrays_is_found(self):
        grid = automatic_grid(n=1000, scale=0.7)
        product = np.array(list(itertools.product(*(getattr(grid, name) for name in COLUMNS))))
        tried = Points(product[:, 0].astype(np.int32), *product[:, 1:].T, *np.zeros((3, len(product))))
        for i in range(len(tried)):
            refined_grid(grid, tried.at(i)).check(n=1000)


class TestBest:
    def test_accuracy(self):
        tried = points([5, 10, 20], [0.5, 0.7, 0.6], [0, 0.1, 0])
        assert tried.best(Objective.ACCURACY, max_fpr=0.05) == 1

    def test_tpr_of_the_points_below_the_bound(self):
        tried = points([5, 10, 20], [0.5, 0.7, 0.6], [0.02, 0.05, 0.04], tpr=[0.1, 0.3, 0.2])
        assert tried.best(Objective.TPR, max_fpr=0.05) == 2
        assert tried.best(Objective.TPR, max_fpr=0.0500001) == 1
        assert tried.best(Objective.TPR, max_fpr=0.03) == 0

    def test_tpr_where_no_point_is_below_the_bound_takes_the_lowest_fpr(self):
        tried = points([5, 20, 10], [0.5, 0.7, 0.6], [0.3, 0.2, 0.2], tpr=[0.9, 0.1, 0.1])
        assert tried.best(Objective.TPR, max_fpr=0.01) == 2

    def test_nll(self):
        tried = points([5, 10, 20], [0.5, 0.7, 0.6], [0, 0.1, 0], nll=[1.2, 1.3, 1.1])
        assert tried.best(Objective.NLL, max_fpr=0.05) == 2

    def test_nll_that_was_not_computed_is_refused(self):
        with pytest.raises(UsageError, match="no NLL"):
            points([5], [0.5], [0.1]).best(Objective.NLL, max_fpr=0.05)

    @pytest.mark.parametrize("objective", list(Objective))
    def test_equal_points_go_by_fpr_then_k_then_place(self, objective):
        same = {"tpr": [0.2] * 6, "nll": [1.0] * 6}
        assert (
            points([9, 8, 7, 6, 5, 4], [0.6] * 6, [3e-2, 2e-2, 1e-2, 1e-2, 2e-2, 3e-2], **same).best(
                objective, max_fpr=0.05
            )
            == 3
        )
        assert points([9, 5, 7, 5, 5, 9], [0.6] * 6, [0.01] * 6, **same).best(objective, max_fpr=0.05) == 1
        assert points([5] * 6, [0.6] * 6, [0.01] * 6, **same).best(objective, max_fpr=0.05) == 0


def test_points_of_another_grid_come_behind():
    first = points([5, 10], [0.1, 0.2], [0, 0], nll=[1, 2])
    both = first.followed_by(points([20], [0.3], [0.5], nll=[3]))
    assert len(both) == 3
    assert both.at(2) == {
        "k": 20, "sigma": 1, "temperature": 1, "strength": 1, "accuracy": 0.3, "tpr": 1, "fpr": 0.5, "nll": 3,
    }  # fmt: skip
    assert both.at(0) == first.at(0)
    assert both.k.dtype == np.int32


def test_points_without_nll_have_no_such_column():
    tried = points([5], [0.1], [0])
    assert "nll" not in tried.columns()
    assert "nll" not in tried.followed_by(tried).columns()
