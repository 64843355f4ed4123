"""Section 3 of the paper, and tuning, against plain formulas."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from reliability.properties import UNIT, holds, within
from resmem_cli.errors import UsageError
from resmem_cli.linear_regression import experiment, rates, sampling, tables
from resmem_cli.linear_regression.erm import NormBoundLeastSquares
from resmem_cli.linear_regression.illustration import illustrate
from resmem_cli.linear_regression.risk import Draw as RiskDraw
from resmem_cli.linear_regression.risk import measure
from resmem_cli.memory import DenseMemory, TopMemory
from resmem_cli.prediction import predict_from_neighbors
from resmem_cli.residuals import compute_residuals, compute_top_residuals
from resmem_cli.results import Estimate
from resmem_cli.tuning import grid as grids
from resmem_cli.tuning.methods import Tuner, interpolate
from resmem_cli.tuning.sweep import Searched
from resmem_cli.tuning.tables import DenseTable, SparseTable
from resmem_cli.types import Method

Draw = Callable[..., Any]


@st.composite
def regressions(draw: Draw) -> tuple[NDArray[Any], NDArray[Any], float]:
    """Draw covariates, targets and a bound of the norm."""
    n, d = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    x = generator.normal(size=(n, d)) * draw(st.sampled_from((1e-3, 1.0, 1e3)))
    if draw(st.booleans()):
        x[:, -1] = x[:, 0]
    theta = generator.normal(size=d)
    bound = draw(st.sampled_from((0.0, 1e-301, 1e-6, 0.3, 0.9, 1.0, 5.0, 1e30, math.inf)))
    return x, x @ theta + draw(st.sampled_from((0.0, 1.0))) * generator.normal(size=n), bound


@holds("erm.NormBoundLeastSquares.fit", drawn=regressions(), weight=2)
def test_least_squares_meets_the_kkt_conditions(drawn: tuple[NDArray[Any], NDArray[Any], float]) -> None:
    x, y, bound = drawn
    n, d = x.shape
    found = NormBoundLeastSquares(x, y).fit(bound)
    norm = float(np.linalg.norm(found.theta))
    assert norm <= bound * (1 + 1e-9) + 1e-300
    assert found.multiplier >= 0
    if bound < 1e-300:
        assert norm == 0
        return
    moments, covariance = x.T @ y / n, x.T @ x / n
    gradient = (covariance + found.multiplier * np.eye(d)) @ found.theta - moments
    size = np.linalg.norm(x) * (np.linalg.norm(y) + np.linalg.norm(x) * norm) / n
    assert np.abs(gradient).max() <= 1e-8 * size + 1e-300
    slack = found.multiplier * abs(norm - bound) if found.multiplier else 0.0
    bound = min(bound, 1e300)
    assert slack <= 1e-6 * found.multiplier * bound + 1e-300
    # No other point of the ball has less empirical risk.
    generator = np.random.default_rng(0)
    risk = float(np.mean((x @ found.theta - y) ** 2))
    for _ in range(20):
        other = generator.normal(size=d)
        other *= min(bound, 1e3) / np.linalg.norm(other) * generator.random()
        assert risk <= float(np.mean((x @ other - y) ** 2)) * (1 + 1e-9) + 1e-12 * float(np.mean(y**2))


SIZES = st.lists(st.integers(2, 10**6), min_size=2, max_size=5, unique=True).map(sorted)


@holds(
    "rates.nearest_bound", "rates.estimation_bound", "rates.resmem_bound", "rates.resmem_exponent",
    "rates.floor", "rates.nearest_limit", "rates.estimation_limit", "rates.crossings_of_limits",
    "sampling.ball_radius", n=st.integers(1, 10**7), d=st.integers(1, 60), bound=st.floats(0, 1.5),
)  # fmt: skip
def test_rates(n: int, d: int, bound: float) -> None:
    size = np.array([float(n)])
    nearest = d**2 * (math.log(n) / d / n) ** (1 / d)
    floor = (1 - bound) ** 2 if bound < 1 else 0.0
    estimation = d**2 * bound**2 / n ** (2 / 3)
    limit = (d + 2) * math.gamma(1 + 2 / d) * n ** (-2 / d)
    close = 1e-12
    within(rates.nearest_bound(size, d), [nearest], close * nearest)
    within(rates.floor(bound), floor, close)
    within(rates.estimation_bound(size, d, bound), [estimation], close * estimation)
    whole = estimation + floor * nearest
    within(rates.resmem_bound(size, d, bound), [whole], close * whole)
    within(rates.nearest_limit(size, d), [limit], close * limit)
    within(sampling.ball_radius(d) ** 2, d + 2, 1e-12 * d + 1e-14)
    terms = ([-2 / 3] if bound > 0 else []) + ([-1 / d] if bound < 1 else [])
    assert rates.resmem_exponent(d, bound) == max(terms)
    reached = min(bound, 1)
    t1 = 2 * reached**2 * (1 - reached) ** 2 * (d - 1) * (d + 2) / ((d + 4) * n)
    within(rates.estimation_limit(size, d, bound), [t1], close * t1)
    erm, resmem, crossing = rates.crossings_of_limits(d, bound)
    if bound >= 1:
        assert (erm, resmem, crossing) == (None, None, None)
        return
    assert erm is not None
    assert resmem is not None
    if erm < 1e200:
        within(rates.nearest_limit(np.array([erm]), d) / d, [floor], 1e-9)
    within(rates.nearest_limit(np.array([resmem]), d) / d, [1], 1e-9)
    if crossing is not None and 1e-200 < crossing < 1e200:
        at = np.array([crossing])
        meeting = floor * rates.nearest_limit(at, d) / d
        within(rates.estimation_limit(at, d, bound), meeting, 1e-6 * meeting)


@holds(
    "rates.log_log_slope",
    "rates.slope_estimate",
    sizes=SIZES,
    seed=st.integers(0, 10**6),
    m=st.integers(1, 5),
)
def test_slopes(sizes: list[int], seed: int, m: int) -> None:
    n = np.array(sizes, np.float64)
    values = np.exp(np.random.default_rng(seed).normal(size=(m, len(n)))) * n**-0.5
    slopes = [np.polyfit(np.log(n), np.log(row), 1)[0] for row in values]
    size = 1e-9 * (1 + np.abs(slopes).max())
    within(rates.log_log_slope(n, values), slopes, size)
    within(rates.log_log_slope(n, values[0]), slopes[0], size)
    found = rates.slope_estimate(n, values)
    if m == 1:
        within(found, slopes[0], size)
        return
    from scipy.stats import t

    assert isinstance(found, Estimate)
    ends = t.interval(0.95, m - 1, np.mean(slopes), np.std(slopes, ddof=1) / math.sqrt(m))
    within([found.value, found.low, found.high], [np.mean(slopes), *ends], 1e-6 * (1 + np.abs(ends).max()))


@holds(
    "rates.last_crossing", "rates.crossing_estimate", sizes=SIZES,
    lower=st.lists(st.sampled_from((0.0, 0.5, 1.0, 2.0, 7.0)), min_size=5, max_size=5),
    upper=st.lists(st.sampled_from((0.0, 0.5, 1.0, 3.0)), min_size=5, max_size=5), weight=2,
)  # fmt: skip
def test_crossings(sizes: list[int], lower: list[float], upper: list[float]) -> None:
    """Above at the point before, below from there on; on straight lines in log-log."""
    n, m = np.array(sizes, np.float64), len(sizes)
    low, high = np.array(lower[:m]), np.array(upper[:m])
    below = (low < high).tolist()
    found = float(rates.last_crossing(n, low, high))
    if all(below):
        assert found == rates.ALWAYS
    elif not below[-1]:
        assert found == rates.NEVER
    else:
        last = max(i for i in range(m) if not below[i])
        assert n[last] * (1 - 1e-12) <= found <= n[last + 1] * (1 + 1e-12)
        if min(low[last], high[last], low[last + 1], high[last + 1]) > 0:
            gaps = [math.log(low[i] / high[i]) for i in (last, last + 1)]
            share = gaps[0] / (gaps[0] - gaps[1])
            wanted = (1 - share) * math.log(n[last]) + share * math.log(n[last + 1])
            within(math.log(found), wanted, 1e-9)
    estimate = rates.crossing_estimate(n, low[None], high[None], seed=0)
    assert estimate == found
    again = rates.crossing_estimate(n, np.stack([low] * 3), np.stack([high] * 3), seed=0)
    if isinstance(again, Estimate):
        within([again.value, again.low, again.high], [found] * 3, 1e-9 * found)
    else:
        assert again == found or math.isclose(again, found)


@holds(
    "sampling.draw_ball", "sampling.draw_directions", "risk.Draw.make", "risk.measure",
    "experiment.run_experiment", "experiment.Measured.put_together",
    d=st.integers(1, 6), n=st.integers(1, 40), bound=st.sampled_from((0.0, 0.4, 1.0, 2.0)),
    seed=st.integers(0, 10**6),
)  # fmt: skip
def test_risks(d: int, n: int, bound: float, seed: int) -> None:
    drawn = RiskDraw.make(d=d, n=n, n_test=20, seed=(seed, d, n, 0))
    within(np.linalg.norm(drawn.target), 1, 1e-12)
    for points in (drawn.train, drawn.test):
        assert np.linalg.norm(points.astype(np.float64), axis=1).max() <= math.sqrt(d + 2) * (1 + 1e-6)
    found = measure(drawn, [bound])
    x, z = drawn.test.astype(np.float64), drawn.train.astype(np.float64)
    apart = ((x[:, None] - z[None]) ** 2).sum(axis=2)
    near = z[apart.argmin(axis=1)]
    theta = NormBoundLeastSquares(z, z @ drawn.target).fit(bound).theta
    least = min(bound, 1.0) * drawn.target
    t = drawn.target
    off = 1e-9 * (1 + d)
    within(found.squared_distance, apart.min(axis=1).mean(), off)
    within(found.nearest, np.mean(((near - x) @ t) ** 2), off)
    within(found.erm, [np.mean((x @ (theta - t)) ** 2)], off)
    within(found.resmem, [np.mean(((x - near) @ (theta - t)) ** 2)], off)
    within(found.t1, [np.mean((x @ (theta - least)) ** 2) + np.mean((near @ (theta - least)) ** 2)], off)
    within(found.t2, [np.mean(((x - near) @ (t - least)) ** 2)], off)
    within(found.excess, [max(0, float(((theta - t) ** 2).sum()) - rates.floor(bound))], off)
    assert found.resmem[0] <= 3 * (found.t1[0] + found.t2[0]) * (1 + 1e-9) + 1e-12
    [alone] = experiment.run_experiment(
        dimensions=[d], norm_bounds=[bound], rows=[n], repetitions=2, test_points=20, seed=seed
    )
    [*_, whole] = experiment.run_experiment(
        dimensions=[1, d], norm_bounds=[0.3, bound], rows=[n, n + 5], repetitions=2, test_points=20, seed=seed
    )
    assert alone.resmem[0, 0, 0] == found.resmem[0] == whole.resmem[1, 0, 0]
    assert alone.nearest[1, 0] == whole.nearest[1, 0]


@holds(
    "tables.regression_tables", "tables.risk_table", "tables.distance_table", "tables.crossing_table",
    "tables.slope_table",
    dimensions=st.sampled_from(([1], [2, 5], [3])), bounds=st.sampled_from(([0.0], [0.5, 1.0])),
    rows=st.sampled_from(([1, 10], [5], [2, 8, 40])), repetitions=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_tables(
    dimensions: list[int], bounds: list[float], rows: list[int], repetitions: int, seed: int
) -> None:
    measured = experiment.run_experiment(
        dimensions=dimensions,
        norm_bounds=bounds,
        rows=rows,
        repetitions=repetitions,
        test_points=8,
        seed=seed,
    )
    risk, distance, crossing, slope = tables.regression_tables(measured, seed=seed)
    again = (
        tables.risk_table(measured), tables.distance_table(measured),
        tables.crossing_table(measured, seed=seed), tables.slope_table(measured),
    )  # fmt: skip
    assert [table.document() for table in again] == [
        table.document() for table in (risk, distance, crossing, slope)
    ]

    def mean(cell: Any) -> float:
        return cell.value if isinstance(cell, Estimate) else cell

    wanted = list(itertools.product(measured, range(len(bounds)), range(len(rows))))
    for row, (one, i, at) in zip(risk.rows, wanted, strict=True):
        told = [mean(cell) for cell in row[:9]]
        means = [
            values[:, at].mean() for values in (one.erm[i], one.nearest, one.resmem[i], one.t1[i], one.t2[i])
        ]
        within(told, [one.d, bounds[i], rows[at], max(0, 1 - bounds[i]) ** 2, *means], 1e-9)
    for row, (one, at) in zip(distance.rows, itertools.product(measured, range(len(rows))), strict=True):
        within(mean(row[2]), one.squared_distance[:, at].mean(), 1e-9)
    assert len(crossing.rows) == 4 * len(dimensions) * len(bounds)
    assert slope.rows


def test_the_illustration_adds_up() -> None:
    columns = {name: np.array(values) for name, values in illustrate(seed=3).items()}
    within(columns["residual"], columns["target"] - columns["fitted"], 1e-12)
    nearest = np.abs(columns["grid"][:, None] - columns["x"][None]).argmin(axis=1)
    within(columns["grid_memory"], columns["residual"][nearest], 1e-12)
    within(columns["grid_resmem"], columns["grid_fitted"] + columns["grid_memory"], 1e-12)
    within(columns["target"], columns["x"] + 0.8 * np.sin(4 * columns["x"]), 1e-12)
    slope = float(columns["x"] @ columns["target"] / (columns["x"] @ columns["x"]))
    within(columns["fitted"], slope * columns["x"], 1e-9)


# --- tuning


@holds("methods.interpolate", w=st.floats(0, 1), shape=st.tuples(st.integers(1, 4), st.integers(1, 5)),
       seed=st.integers(0, 999))  # fmt: skip
def test_interpolation(w: float, shape: tuple[int, int], seed: int) -> None:
    votes, network = np.random.default_rng(seed).random(size=(2, *shape), dtype=np.float32)
    found = interpolate(votes, network, weight=w)
    within(found, w * votes.astype(np.float64) + (1 - w) * network.astype(np.float64), 3 * UNIT)


LISTS = st.one_of(
    st.text(max_size=8), st.from_regex(r"[0-9]{1,3}(,[0-9.]{1,4}){0,3}", fullmatch=True),
    st.from_regex(r"[0-9.]{1,4}:[0-9.]{1,4}:[0-9]{1,2}(log)?", fullmatch=True),
)  # fmt: skip


@holds("grid.parse_values", text=LISTS, whole=st.booleans(), weight=2)
def test_lists_of_values(text: str, whole: bool) -> None:
    """Refused, or rising numbers, each of which was given."""
    try:
        found = grids.parse_values(text, "-k", whole=whole)
    except UsageError:
        return
    assert list(found) == sorted(set(found))
    assert all(math.isfinite(value) for value in found)
    assert not whole or all(isinstance(value, int) for value in found)
    if text.replace(",", "").replace(".", "").isdecimal() and text.isascii():
        assert list(found) == sorted({float(part) for part in text.split(",")})


@holds(
    "grid.automatic_grid", "grid.refined_grid", "grid.Grid.check",
    n=st.integers(1, 10**6), scale=st.floats(1e-30, 1e30), temperatures=st.booleans(),
    place=st.tuples(*[st.integers(0, 30)] * 4),
)  # fmt: skip
def test_grids(n: int, scale: float, temperatures: bool, place: tuple[int, ...]) -> None:
    grid = grids.automatic_grid(n=n, scale=scale, temperatures=temperatures)
    grid.check(n=n)
    assert len(grid) == math.prod(
        len(getattr(grid, name)) for name in ("k", "sigma", "temperature", "strength")
    )
    best = {
        name: getattr(grid, name)[at % len(getattr(grid, name))]
        for name, at in zip(("k", "sigma", "temperature", "strength"), place, strict=True)
    }
    finer = grids.refined_grid(grid, best)
    finer.check(n=n)
    for name, value in best.items():
        tried, coarse = list(getattr(finer, name)), list(getattr(grid, name))
        at = coarse.index(value)
        assert tried == sorted(set(tried))
        assert tried[0] == coarse[max(0, at - 1)]
        assert tried[-1] == coarse[min(len(coarse) - 1, at + 1)]


@st.composite
def tried(draw: Draw) -> grids.Points:
    g = draw(st.integers(1, 8))
    share = arrays(np.float64, g, elements=st.sampled_from((0.0, 0.01, 0.05, 0.2)))
    accuracy, tpr, fpr, nll = (draw(share) for _ in range(4))
    k = draw(arrays(np.int32, g, elements=st.integers(1, 3)))
    return grids.Points(k, np.ones(g), np.ones(g), np.ones(g), accuracy, tpr, fpr, nll)


@holds(
    "grid.Points.best", "grid.Points.columns", "grid.Points.at", "grid.Points.followed_by",
    points=tried(), objective=st.sampled_from(grids.Objective), max_fpr=st.sampled_from((0.0, 0.05, 0.1)),
)  # fmt: skip
def test_the_best_point(points: grids.Points, objective: grids.Objective, max_fpr: float) -> None:
    rows = [points.at(i) for i in range(len(points))]

    def loss(i: int) -> tuple[float, ...]:
        row = rows[i]
        first = {"accuracy": -row["accuracy"], "nll": row["nll"], "tpr": -row["tpr"]}[objective.value]
        return first, row["fpr"], row["k"], i

    allowed = [
        i for i, row in enumerate(rows) if objective is not grids.Objective.TPR or row["fpr"] < max_fpr
    ]
    wanted = (
        min(allowed, key=loss)
        if allowed
        else min(range(len(rows)), key=lambda i: (rows[i]["fpr"], rows[i]["k"], i))
    )
    assert points.best(objective, max_fpr=max_fpr) == wanted
    twice = points.followed_by(points)
    assert len(twice) == 2 * len(points)
    assert twice.best(objective, max_fpr=max_fpr) == wanted
    assert set(points.columns()) == set(rows[0])


@holds(
    "sweep.sweep", "methods.Tuner.resmem", "methods.Tuner.knn", "methods.Tuner.knn_lm",
    "tables.DenseTable.terms", "tables.SparseTable.terms", "tables.SparseTable.of_residuals",
    "tables.SparseTable.of_labels", "tables.Terms.of",
    seed=st.integers(0, 10**6), top=st.integers(0, 4), classes=st.integers(2, 5),
    ties=st.booleans(), weight=2,
)  # fmt: skip
def test_a_sweep_counts_what_prediction_answers(seed: int, top: int, classes: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)
    n, q, most = 30, 12, 7
    memory_logits, logits = (generator.normal(size=(size, classes)).astype(np.float32) for size in (n, q))
    if ties:
        memory_logits, logits = np.rint(memory_logits), np.rint(logits)
    memory_labels, labels = (generator.integers(classes, size=size) for size in (n, q))
    rows = np.stack([generator.permutation(n)[:most] for _ in range(q)])
    apart = np.sort(np.rint(generator.random(size=(q, most)) * 8) / 4, axis=1)

    def residuals(temperature: float) -> tuple[Any, Any]:
        if top:
            kept = compute_top_residuals(
                memory_logits, memory_labels, top=min(top, classes), temperature=temperature
            )
            return SparseTable.of_residuals(kept), TopMemory(kept)
        whole = compute_residuals(memory_logits, memory_labels, temperature=temperature)
        return DenseTable(whole), DenseMemory(whole)

    tuner = Tuner(Searched(rows, apart, logits, labels), memory_labels.astype(np.int32), residuals)
    grid = grids.Grid(k=(1, 3, 7), sigma=(0.1, 1.0), temperature=(0.7, 2.0), strength=(0.5, 1.0))
    points = tuner.resmem(grid)
    votes = tuner.knn(grid.k, grid.sigma)
    base = logits.argmax(axis=1) == labels
    for method, found in ((Method.RESMEM, points), (Method.KNN, votes)):
        for i in range(len(found)):
            point = found.at(i)
            k = point["k"]
            answer = predict_from_neighbors(
                logits, rows=rows[:, :k], distances=apart[:, :k], neighbor_labels=memory_labels[rows[:, :k]],
                residuals=residuals(point["temperature"])[1], sigma=point["sigma"],
                temperature=point["temperature"], strength=point["strength"], method=method,
            )  # fmt: skip
            right = answer.predicted == labels
            wanted = [right.mean(), (right & ~base).mean(), (base & ~right).mean()]
            within([point["accuracy"], point["tpr"], point["fpr"]], wanted, 1e-12, str(point))
    mixed = tuner.knn_lm(grid.k, grid.sigma, (1.0,), (0.0,))
    within(mixed.tpr, np.zeros(len(mixed)), 0)
    within(mixed.accuracy, np.full(len(mixed), base.mean()), 1e-12)


def test_no_points_of_likelihood() -> None:
    points = grids.Points(*(np.ones(1) for _ in range(7)))
    with pytest.raises(UsageError, match="no NLL"):
        points.best(grids.Objective.NLL, max_fpr=1)
