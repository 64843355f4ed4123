"""Section 3's regression: hand-worked cases, known truths, the KKT conditions, and a brute-force oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resmem_cli.linear_regression import rates
from resmem_cli.linear_regression.erm import NormBoundLeastSquares
from resmem_cli.linear_regression.experiment import run_experiment
from resmem_cli.linear_regression.illustration import illustrate
from resmem_cli.linear_regression.risk import Draw, measure
from resmem_cli.linear_regression.sampling import draw_ball, draw_directions
from resmem_cli.results import Estimate

# --- covariates


@pytest.mark.parametrize("d", [1, 2, 5])
def test_covariates_are_uniform_on_the_ball_with_unit_second_moments(d: int) -> None:
    n = 200_000
    x = draw_ball(np.random.default_rng(0), n, d).astype(np.float64)
    norms = np.linalg.norm(x, axis=1)
    assert norms.max() <= math.sqrt(d + 2) * (1 + 1e-6)
    np.testing.assert_allclose(x.T @ x / n, np.eye(d), atol=0.01)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=0.01)
    # The share within a radius is that of its volume.
    for share in (0.1, 0.5, 0.9):
        inside = np.mean(norms <= math.sqrt(d + 2) * share ** (1 / d))
        assert inside == pytest.approx(share, abs=0.005)


def test_directions_have_norm_one() -> None:
    directions = draw_directions(np.random.default_rng(0), 50, 4)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-15)


# --- least squares in a ball


def test_a_fit_worked_by_hand() -> None:
    # Σ_n = diag(2, 0.5) and Xᵀy/n = (2, 0.5); 2/(2 + 1) and 0.5/(0.5 + 1) have the norm √5/3.
    x = np.array([[2.0, 0.0], [0.0, 1.0]])
    fit = NormBoundLeastSquares(x, np.array([2.0, 1.0])).fit(math.sqrt(5) / 3)
    np.testing.assert_allclose(fit.theta, [2 / 3, 1 / 3], rtol=1e-12)
    assert fit.multiplier == pytest.approx(1, rel=1e-12)


def test_in_one_dimension_the_bound_is_the_answer() -> None:
    x = np.array([[1.0], [-2.0], [0.5]])
    fit = NormBoundLeastSquares(x, x[:, 0]).fit(0.25)
    assert fit.theta[0] == pytest.approx(0.25, rel=1e-14)
    assert fit.multiplier == pytest.approx(3 * 5.25 / 3, rel=1e-12)  # (1/L − 1) Σ_n


def test_fewer_rows_than_columns_give_the_solution_of_smallest_norm() -> None:
    x = np.array([[3.0, 0.0, 0.0]])
    solver = NormBoundLeastSquares(x, np.array([1.5]))
    np.testing.assert_allclose(solver.fit(1).theta, [0.5, 0, 0], atol=1e-15)
    assert solver.fit(1).multiplier == 0
    np.testing.assert_allclose(solver.fit(0.2).theta, [0.2, 0, 0], atol=1e-15)


def test_a_bound_of_zero_gives_zero_and_one_that_does_not_bind_gives_the_target() -> None:
    draw = Draw.make(d=4, n=30, n_test=1, seed=(0, 4, 30, 0))
    solver = NormBoundLeastSquares(draw.train, draw.train.astype(np.float64) @ draw.target)
    none = solver.fit(0)
    assert (none.theta == 0).all()
    assert none.multiplier == math.inf
    for norm_bound in (1.0, 1.5, math.inf):
        np.testing.assert_allclose(solver.fit(norm_bound).theta, draw.target, rtol=0, atol=1e-12)
    assert solver.fit(1.5).multiplier == 0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 40),
    d=st.integers(1, 6),
    norm_bound=st.floats(1e-6, 3),
)
def test_the_kkt_conditions_hold(seed: int, n: int, d: int, norm_bound: float) -> None:
    draw = Draw.make(d=d, n=n, n_test=1, seed=(seed, d, n))
    x = draw.train.astype(np.float64)
    y = x @ draw.target
    fit = NormBoundLeastSquares(x, y).fit(norm_bound)
    norm = np.linalg.norm(fit.theta)
    gradient = x.T @ (x @ fit.theta - y) / n
    scale = max(1.0, fit.multiplier) * norm
    np.testing.assert_allclose(gradient + fit.multiplier * fit.theta, 0, atol=1e-9 * max(scale, 1))
    assert fit.multiplier >= 0
    assert norm <= norm_bound * (1 + 1e-9)
    assert fit.multiplier == 0 or norm == pytest.approx(norm_bound, rel=1e-9)


def test_no_feasible_point_has_a_smaller_empirical_risk() -> None:
    draw = Draw.make(d=3, n=10, n_test=1, seed=(1, 3, 10))
    x = draw.train.astype(np.float64)
    y = x @ draw.target
    theta = NormBoundLeastSquares(x, y).fit(0.6).theta
    generator = np.random.default_rng(0)
    others = 0.6 * draw_ball(generator, 5000, 3).astype(np.float64) / math.sqrt(5)
    others = np.concatenate([others, theta + 1e-3 * (others - theta)])
    risks = np.mean((x @ others.T - y[:, None]) ** 2, axis=0)
    assert risks.min() >= np.mean((x @ theta - y) ** 2)


# --- risks


def three_points() -> Draw:
    train = np.array([[1.0, 0.0], [-1.0, 1.0]], np.float32)
    test = np.array([[1.5, 0.0], [-1.0, 2.0], [0.5, -0.5]], np.float32)
    return Draw(train, test, np.array([1.0, 0.0]))


def test_risks_worked_by_hand() -> None:
    # The neighbours are rows 0, 1, 0; squared distances 0.25, 1, 0.5; the target is the first column.
    risks = measure(three_points(), [0, 2])
    assert risks.squared_distance == pytest.approx(1.75 / 3)
    assert risks.nearest == pytest.approx((0.25 + 0 + 0.25) / 3)
    np.testing.assert_allclose(risks.erm, [(2.25 + 1 + 0.25) / 3, 0], atol=1e-14)
    np.testing.assert_allclose(risks.t2, [risks.nearest, 0], atol=1e-14)
    np.testing.assert_allclose(risks.t1, 0, atol=1e-14)
    np.testing.assert_allclose(risks.excess, 0, atol=1e-14)


def test_without_a_parametric_part_resmem_is_the_nearest_neighbour_to_the_bit() -> None:
    for repetition in range(5):
        risks = measure(Draw.make(d=3, n=50, n_test=200, seed=(0, 3, 50, repetition)), [0.0, 0.5])
        assert risks.resmem[0] == risks.nearest == risks.t2[0]
        assert risks.t1[0] == 0
        assert risks.excess[0] == 0


def test_where_the_bound_does_not_bind_there_is_no_error() -> None:
    risks = measure(Draw.make(d=3, n=50, n_test=200, seed=(0, 3, 50, 0)), [1.0, 1.7])
    for values in (risks.erm, risks.resmem, risks.t1, risks.t2, risks.excess):
        assert (np.abs(values) < 1e-12).all()


def test_a_test_point_that_is_a_training_point_is_remembered() -> None:
    draw = Draw.make(d=3, n=20, n_test=1, seed=(0, 3, 20))
    risks = measure(Draw(draw.train, draw.train, draw.target), [0.4])
    assert risks.squared_distance == 0
    assert risks.resmem[0] < 1e-30
    assert risks.erm[0] > 0.1


def test_the_risk_of_erm_is_the_squared_distance_of_its_parameters() -> None:
    draw = Draw.make(d=3, n=20, n_test=100_000, seed=(0, 3, 20))
    risks = measure(draw, [0.5])
    whole = risks.excess[0] + rates.floor(0.5)
    assert risks.erm[0] == pytest.approx(whole, rel=0.02)
    theta = NormBoundLeastSquares(draw.train, draw.train.astype(np.float64) @ draw.target).fit(0.5).theta
    assert whole == pytest.approx(np.sum((theta - draw.target) ** 2), rel=1e-12)


@pytest.mark.parametrize(("d", "n"), [(1, 5), (2, 1), (3, 40), (5, 300)])
def test_a_brute_force_in_float64_finds_the_same(d: int, n: int) -> None:
    draw = Draw.make(d=d, n=n, n_test=60, seed=(3, d, n))
    x, z = draw.test.astype(np.float64), draw.train.astype(np.float64)
    distances = ((x[:, None, :] - z[None, :, :]) ** 2).sum(axis=2)
    near = z[distances.argmin(axis=1)]
    norm_bound = 0.7
    theta = NormBoundLeastSquares(z, z @ draw.target).fit(norm_bound).theta
    best = norm_bound * draw.target
    risks = measure(draw, [norm_bound])
    assert risks.squared_distance == pytest.approx(distances.min(axis=1).mean(), rel=1e-12)
    assert risks.nearest == pytest.approx(np.mean(((near - x) @ draw.target) ** 2), rel=1e-9)
    assert risks.resmem[0] == pytest.approx(np.mean(((x - near) @ (theta - draw.target)) ** 2), rel=1e-9)
    t1 = np.mean((x @ (theta - best)) ** 2) + np.mean((near @ (theta - best)) ** 2)
    assert risks.t1[0] == pytest.approx(t1, rel=1e-9, abs=1e-28)
    assert risks.t2[0] == pytest.approx((1 - norm_bound) ** 2 * risks.nearest, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), d=st.integers(1, 5), norm_bound=st.floats(0, 1.5))
def test_the_decomposition_bounds_the_risk_of_every_draw(
    seed: int, n: int, d: int, norm_bound: float
) -> None:
    risks = measure(Draw.make(d=d, n=n, n_test=50, seed=(seed, d, n)), [norm_bound])
    assert risks.resmem[0] <= 3 * (risks.t1[0] + risks.t2[0]) * (1 + 1e-9) + 1e-24


def test_a_part_of_the_grid_has_the_numbers_of_the_whole() -> None:
    common = {"repetitions": 3, "test_points": 40, "seed": 5}
    whole = run_experiment(dimensions=[1, 3], norm_bounds=[0, 0.4, 0.9], rows=[2, 8, 32], **common)
    [part] = run_experiment(dimensions=[3], norm_bounds=[0.9], rows=[8], **common)
    np.testing.assert_array_equal(part.nearest, whole[1].nearest[:, 1:2])
    for name in ("erm", "excess", "resmem", "t1", "t2"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole[1], name)[2:, :, 1:2])
    [fewer] = run_experiment(
        dimensions=[3], norm_bounds=[0.9], rows=[8], repetitions=2, test_points=40, seed=5
    )
    np.testing.assert_array_equal(fewer.resmem, part.resmem[:, :2])


def test_progress_counts_the_points_drawn() -> None:
    seen = []
    run_experiment(
        dimensions=[1, 2], norm_bounds=[0.5], rows=[2, 8], repetitions=3, test_points=10, seed=0,
        progress=lambda blocks, _: seen.extend(blocks) or blocks,
    )  # fmt: skip
    assert [block.stop - block.start for block in seen] == [36, 54, 36, 54]
    assert seen[-1].stop == 180


# --- rates


def test_in_one_dimension_the_distance_is_what_spacings_say() -> None:
    # n + 1 uniform points cut an interval into n + 2 exchangeable parts; x is an end with 2/(n + 1).
    [one] = run_experiment(
        dimensions=[1], norm_bounds=[0.5], rows=[1, 2, 8, 64], repetitions=200, test_points=200, seed=1
    )
    n = one.n.astype(np.float64)
    exact = 12 / ((n + 2) * (n + 3)) * (4 / (n + 1) + (n - 1) / (n + 1) / 2)
    assert exact[0] == 2  # twice the variance
    error = one.squared_distance.std(axis=0, ddof=1) / math.sqrt(200)
    assert (np.abs(one.squared_distance.mean(axis=0) - exact) < 4 * error).all()
    assert exact[-1] == pytest.approx(rates.nearest_limit(n, 1)[-1], rel=0.03)


def test_risks_meet_their_limits() -> None:
    [one] = run_experiment(
        dimensions=[3], norm_bounds=[0.3, 0.9], rows=[4096], repetitions=60, test_points=300, seed=2
    )
    n = one.n.astype(np.float64)
    assert one.squared_distance.mean() == pytest.approx(rates.nearest_limit(n, 3)[0], rel=0.08)
    for i, norm_bound in enumerate(one.norm_bounds):
        resmem = rates.floor(norm_bound) * rates.nearest_limit(n, 3)[0] / 3
        assert one.resmem[i].mean() == pytest.approx(resmem, rel=0.1)
        assert one.t1[i].mean() == pytest.approx(rates.estimation_limit(n, 3, norm_bound)[0], rel=0.4)
        assert one.erm[i].mean() == pytest.approx(rates.floor(norm_bound), rel=0.05)


def test_bounds_are_the_paper_s_formulas() -> None:
    n = np.array([1.0, 100.0])
    np.testing.assert_allclose(rates.nearest_bound(n, 2), [0, 4 * math.sqrt(math.log(10) / 100)], rtol=1e-14)
    np.testing.assert_allclose(rates.estimation_bound(n, 3, 0.5), [2.25, 2.25 * 100 ** (-2 / 3)])
    whole = 0.25 * 4 * n ** (-2 / 3) + 0.25 * rates.nearest_bound(n, 2)
    np.testing.assert_allclose(rates.resmem_bound(n, 2, 0.5), whole)
    assert rates.resmem_exponent(1, 0.5) == -2 / 3
    assert rates.resmem_exponent(5, 0.5) == -1 / 5
    assert rates.resmem_exponent(1, 0) == -1
    assert rates.resmem_exponent(5, 1) == -2 / 3
    assert rates.floor(0.3) == pytest.approx(0.49)
    assert rates.floor(2) == 0


def test_the_slope_of_a_power_is_its_exponent() -> None:
    n = np.array([1.0, 2.0, 8.0, 100.0])
    powers = np.array([[3.0], [5.0]]) * n**-0.7
    np.testing.assert_allclose(rates.log_log_slope(n, powers), -0.7, rtol=1e-12)
    estimate = rates.slope_estimate(n, powers)
    assert isinstance(estimate, Estimate)
    assert (estimate.low, estimate.high) == pytest.approx((-0.7, -0.7))


def test_the_interval_of_a_slope_is_student_s() -> None:
    n = np.array([1.0, 10.0])
    exponents = np.array([-0.5, -0.7, -0.6])
    estimate = rates.slope_estimate(n, n ** exponents[:, None])
    assert isinstance(estimate, Estimate)
    half = 4.302653 * 0.1 / math.sqrt(3)  # t of two degrees of freedom
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((-0.6, -0.6 - half, -0.6 + half))


def test_what_has_no_slope_gets_none() -> None:
    n = np.array([1.0, 10.0])
    assert rates.slope_estimate(n[:1], np.ones((3, 1))) is None
    assert rates.slope_estimate(n, np.array([[1.0, 1e-30]])) is None
    assert rates.slope_estimate(n, np.array([[1.0, 0.1]])) == pytest.approx(-1)


def test_crossings_are_read_between_the_points_and_only_the_last_counts() -> None:
    n = np.array([1.0, 10.0, 100.0, 1000.0])
    flat = np.ones(4)
    lower = np.array([
        [10.0, 1e-1, 1e-3, 1e-5],  # 1 at √10
        [0.5, 2.0, 0.5, 0.1],  # the first crossing does not last: 10 · √10
        [0.5, 0.5, 0.5, 0.5],
        [5.0, 4.0, 3.0, 1.0],
        [2.0, 1.0, 0.5, 0.5],  # equal is not below
    ])  # fmt: skip
    found = rates.last_crossing(n, lower, np.broadcast_to(flat, lower.shape))
    expected = [math.sqrt(10), 10 * math.sqrt(10), rates.ALWAYS, rates.NEVER, 10]
    np.testing.assert_allclose(found, expected)


def test_crossings_of_zeros_and_of_one_point_are_no_trouble() -> None:
    zero, one = np.zeros(2), np.ones(2)
    n = np.array([1.0, 10.0])
    assert rates.last_crossing(n, zero, zero) == rates.NEVER
    assert rates.last_crossing(n, zero, one) == rates.ALWAYS
    assert rates.last_crossing(n, np.array([2.0, 0.0]), one) == pytest.approx(10, abs=10)
    assert rates.last_crossing(n[:1], one[:1], 2 * one[:1]) == rates.ALWAYS
    assert rates.last_crossing(n[:1], one[:1], one[:1]) == rates.NEVER
    # Both 0, and then one below; and from 0 up.
    assert rates.last_crossing(n, np.array([0.0, 1.0]), np.array([0.0, 2.0])) == pytest.approx(n[0])
    assert rates.last_crossing(n, np.array([1.0, 1.0]), np.array([0.0, 2.0])) == pytest.approx(n[1])


def test_a_crossing_has_a_bootstrap_interval_where_all_resamples_cross() -> None:
    n = np.array([1.0, 10.0, 100.0])
    generator = np.random.default_rng(0)
    lower = 3 / n * np.exp(0.1 * generator.normal(size=(40, 3)))
    upper = np.ones((40, 3))
    found = rates.crossing_estimate(n, lower, upper, seed=0)
    assert isinstance(found, Estimate)
    assert found.low < 3 < found.high
    assert found.high / found.low < 1.2
    assert rates.crossing_estimate(n, lower, upper, seed=0) == found
    assert isinstance(rates.crossing_estimate(n, lower[:1], upper[:1], seed=0), float)
    assert rates.crossing_estimate(n, upper, lower[:, ::-1] / 1e9, seed=0) == rates.NEVER


def test_the_limits_cross_where_they_are_equal() -> None:
    nearest, resmem, terms = rates.crossings_of_limits(3, 0.9)
    assert nearest is not None
    assert resmem is not None
    assert terms is not None
    assert rates.nearest_limit(np.array(nearest), 3) / 3 == pytest.approx(rates.floor(0.9))
    assert rates.nearest_limit(np.array(resmem), 3) / 3 == pytest.approx(1)
    t2 = rates.floor(0.9) * rates.nearest_limit(np.array(terms), 3) / 3
    assert rates.estimation_limit(np.array(terms), 3, 0.9) == pytest.approx(t2)
    assert rates.crossings_of_limits(2, 0.9)[2] is None
    assert rates.crossings_of_limits(3, 1) == (None, None, None)


# --- figure 1


def test_the_illustration_remembers_its_points() -> None:
    numbers = {name: np.array(values) for name, values in illustrate(seed=0).items()}
    x, residual = numbers["x"], numbers["residual"]
    assert (np.diff(x) > 0).all()
    np.testing.assert_allclose(numbers["target"], numbers["fitted"] + residual)
    # Least squares through the origin leaves residuals orthogonal to x.
    assert abs(x @ residual) < 1e-12
    nearest = np.abs(numbers["grid"][:, None] - x).argmin(axis=1)
    np.testing.assert_array_equal(numbers["grid_memory"], residual[nearest])
    np.testing.assert_allclose(numbers["grid_resmem"], numbers["grid_fitted"] + numbers["grid_memory"])
    before = np.mean((numbers["grid_fitted"] - numbers["grid_target"]) ** 2)
    assert np.mean((numbers["grid_resmem"] - numbers["grid_target"]) ** 2) < before / 4
