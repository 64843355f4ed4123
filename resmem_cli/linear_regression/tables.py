"""The experiment's tables: risks, distances, crossings, and slopes beside the theorem's and the true ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from resmem_cli.linear_regression import rates
from resmem_cli.linear_regression.experiment import Measured
from resmem_cli.results import Cell, Column, Estimate, ResultTable, Unit, mean_of

Floats = NDArray[np.float64]

_D, _L, _N = Column("d", Unit.COUNT), Column("L"), Column("n", Unit.COUNT)
_RESMEM_BELOW_NEAREST = "ResMem below 1-NN"


def regression_tables(measured: Sequence[Measured], *, seed: int) -> tuple[ResultTable, ...]:
    """Make the tables `risk`, `distance`, `crossings` and `slopes`."""
    return (
        risk_table(measured),
        distance_table(measured),
        crossing_table(measured, seed=seed),
        slope_table(measured),
    )


def risk_table(measured: Sequence[Measured]) -> ResultTable:
    """Put risks and terms in one row for each (d, L, n)."""
    rows = [
        (
            one.d,
            norm_bound,
            int(n),
            rates.floor(norm_bound),
            *(
                mean_of(values[:, at].tolist())
                for values in (one.erm[i], one.nearest, one.resmem[i], one.t1[i], one.t2[i])
            ),
            _ratio(3 * (one.t1[i, :, at] + one.t2[i, :, at]).mean(), one.resmem[i, :, at].mean()),
        )
        for one in measured
        for i, norm_bound in enumerate(one.norm_bounds)
        for at, n in enumerate(one.n)
    ]
    ratios = np.concatenate([_ratios(one) for one in measured])
    held = (
        f"The decomposition risk ≤ 3 (T1 + T2) holds in every draw; 3 (T1 + T2) is {ratios.min():.2f} to "
        f"{ratios.max():.3g} times the risk of the draw, {np.median(ratios):.2f} in the middle."
        if len(ratios)
        else "ResMem makes no error here."
    )
    columns = (
        _D, _L, _N, Column("floor (1 − L)²"), Column("ERM"), Column("1-NN"), Column("ResMem"), Column("T1"),
        Column("T2"), Column("3 (T1 + T2) / ResMem"),
    )  # fmt: skip
    notes = (
        f"Mean ± standard deviation over {_repetitions(measured)} draws of training and test points; all "
        "methods and all L see the same draws. L = 0 is 1-NN alone.",
        held,
        "The target being linear, T2 is (1 − L)² times the risk of 1-NN, and the risk of ResMem is that of "
        "⟨θ* − θ_n, x − x₍₁₎⟩²: what ERM has wrong at x it has wrong at x₍₁₎ too, and the two cancel. T1 "
        "counts them as if they did not, so that 3 (T1 + T2) is loose by more than its factor 3 where T1 is "
        "not small beside T2.",
    )
    return ResultTable("risk", "Test risk and its decomposition (section 3.3)", columns, tuple(rows), notes)


def distance_table(measured: Sequence[Measured]) -> ResultTable:
    """Put `E[Z_n]`, its limit and its bound in one row for each (d, n)."""
    rows: list[tuple[Cell, ...]] = []
    for one in measured:
        n = one.n.astype(np.float64)
        limits, bounds = rates.nearest_limit(n, one.d), rates.nearest_bound(n, one.d)
        for at in range(len(n)):
            mean = mean_of(one.squared_distance[:, at].tolist())
            value = mean.value if isinstance(mean, Estimate) else mean
            rows.append((
                one.d, int(n[at]), mean, float(limits[at]), _ratio(value, limits[at]), float(bounds[at]),
                _ratio(value, bounds[at]),
            ))  # fmt: skip
    columns = (
        _D, _N, Column("E[Z_n]"), Column("limit (d + 2) Γ(1 + 2/d) n^(−2/d)"),
        Column("E[Z_n] / limit", Unit.DECIMAL), Column("bound d² [log(n^(1/d)) / n]^(1/d)"),
        Column("E[Z_n] / bound"),
    )  # fmt: skip
    end = measured[0].n[-1]
    last = ", ".join(f"{row[4]:.3f} for d = {row[0]}" for row in rows if row[1] == end)
    notes = (
        "Z_n is the squared distance to the nearest training point. Its limit is exact for a point far from "
        "the ball's surface; near the surface neighbours are farther away, and the higher d, the more of the "
        f"ball is near it. At n = {end:,}, E[Z_n] / limit is {last}. As far as it is above 1, n is not yet "
        "in the asymptotic range; falling towards 1, it makes slopes a little steeper than −2/d.",
        "Lemma A.1 holds up to a constant that it does not name; the last column is the constant that each n "
        "needs. It falls with n, for the bound's rate n^(−1/d) is the square root of the true n^(−2/d) but "
        "for the logarithm. At n = 1 the bound is 0 and E[Z_n] = 2d, so that no constant will do there.",
    )
    return ResultTable(
        "distance", "Distance to the nearest training point (lemma A.1)", columns, tuple(rows), notes
    )


def crossing_table(measured: Sequence[Measured], *, seed: int) -> ResultTable:
    """Say from which n on one method is better than another for good."""
    rows: list[tuple[Cell, ...]] = []
    for one in measured:
        n = one.n.astype(np.float64)
        for i, norm_bound in enumerate(one.norm_bounds):
            erm_limit, resmem_limit, terms_limit = rates.crossings_of_limits(one.d, norm_bound)
            for name, lower, upper, limit in (
                ("1-NN below ERM", one.nearest, one.erm[i], erm_limit),
                ("ResMem below ERM", one.resmem[i], one.erm[i], resmem_limit),
                (_RESMEM_BELOW_NEAREST, one.resmem[i], one.nearest, None),
                ("T1 below T2", one.t1[i], one.t2[i], terms_limit),
            ):
                found = rates.crossing_estimate(n, lower, upper, seed=seed)
                known = found not in (rates.NEVER, rates.ALWAYS)
                how = "crosses" if known else f"below from n = {one.n[0]:,} on"
                if found == rates.NEVER:
                    how = "the same" if (lower == upper).all() else f"not below at n = {one.n[-1]:,}"
                limit = limit if limit is not None and limit >= 1 else None
                rows.append((name, one.d, norm_bound, found if known else None, how, limit))
    whether = [str(row[4]) for row in rows if row[0] == _RESMEM_BELOW_NEAREST and row[4] != "the same"]
    meeting = ""
    if whether and all(how.startswith("below") for how in whether):
        meeting = f"1-NN and ResMem do not cross: ResMem is better from n = {measured[0].n[0]:,} on. "
    columns = (
        Column("what", Unit.TEXT), _D, _L, Column("n"), Column("in this range", Unit.TEXT),
        Column("n by the limits"),
    )  # fmt: skip
    notes = (
        "The n from which on the mean of one stays below that of the other, on straight lines between the "
        "measured n (both axes logarithmic), with its 95 % bootstrap interval.",
        f"{meeting}In the limit the risk of ResMem is (1 − L)² times that of 1-NN: memory of residuals is "
        "better than memory of the targets by that factor, and falls at the same rate.",
        "By the limits: where E[Z_n] / d meets (1 − L)², where it meets 1 (the same for every L), and where "
        "T1 meets T2. The paper's first stage, in which T1 is the larger term, ends with the last of these. "
        "For d = 2 both terms fall like 1/n, with T1 the smaller one in the limit; for d = 1 T1 is 0.",
    )
    title = "Crossings: from which n on one is below the other"
    return ResultTable("crossings", title, columns, tuple(rows), notes)


def slope_table(measured: Sequence[Measured]) -> ResultTable:
    """Set the slopes in log-log beside the theorem's exponents, its bounds' own slopes, and the true ones."""
    [small, large] = _halves(measured[0].n)
    rows: list[tuple[Cell, ...]] = []
    for one in measured:
        n = one.n.astype(np.float64)
        for name, norm_bound, values, bound, exponent, truth in _quantities(one):
            estimates = (rates.slope_estimate(n[half], values[:, half]) for half in (small, large))
            bounded = len(n[large]) > 1 and bool((bound[large] > 0).all())
            slope = float(rates.log_log_slope(n[large], bound[large])) if bounded else None
            rows.append((name, one.d, norm_bound, *estimates, exponent, slope, truth))
    ranges = [f"{measured[0].n[half][0]:,} to {measured[0].n[half][-1]:,}" for half in (small, large)]
    columns = (
        Column("what", Unit.TEXT), _D, _L, Column("slope, small n", Unit.DECIMAL),
        Column("slope, large n", Unit.DECIMAL), Column("theorem", Unit.DECIMAL),
        Column("its bound, large n", Unit.DECIMAL), Column("true", Unit.DECIMAL),
    )  # fmt: skip
    notes = (
        f"Small n: {ranges[0]}; large n: {ranges[1]}. A slope is the mean of the slopes of the repetitions, "
        "with its 95 % interval by Student's t. T2 is (1 − L)² times the risk of 1-NN, so that its slope is "
        "that of 1-NN for every L < 1.",
        "Theorem 3.3 and lemma A.1 are upper bounds: in the limit a true slope is steeper than theirs or "
        "equal to it. Beside the theorem's exponent stands the slope that its bound has over the same large "
        "n, logarithm and all; for ResMem that of the sum of its two terms.",
        *_steeper_bounds(rows),
        "True exponents: E[Z_n], 1-NN, T2 and ResMem fall like n^(−2/d) where the paper has n^(−1/d); T1 and "
        "ERM's excess over its floor fall like n^(−1), where the paper has n^(−2/3), the price of an ε = "
        "n^(−1/3) that makes its concentration bound hold. So the paper's remark that 1-NN alone is slow is "
        "one of bounds: here 1-NN and ResMem have the same rate and differ by the factor (1 − L)².",
        "At small n the slopes are not those of the limit: neighbours are near the surface, and until n has "
        "passed d the data do not determine θ_n, nor is ‖θ_n‖ = L.",
    )
    return ResultTable(
        "slopes", "Slopes of log(risk) on log(n) beside theorem 3.3", columns, tuple(rows), notes
    )


def _quantities(
    one: Measured,
) -> Iterator[tuple[str, float | None, Floats, Floats, float | None, float | None]]:
    """Give each quantity with its L, values, bound, exponent of the bound, and true exponent."""
    d, n = one.d, one.n.astype(np.float64)
    nearest, slow, fast = rates.nearest_bound(n, d), -1 / d, -2 / d
    yield "E[Z_n]", None, one.squared_distance, nearest, slow, fast
    yield "1-NN, T2", None, one.nearest, nearest, slow, fast
    for i, norm_bound in enumerate(one.norm_bounds):
        whole = rates.resmem_bound(n, d, norm_bound)
        if norm_bound > 0:
            estimation = rates.estimation_bound(n, d, norm_bound)
            # In one dimension, and where L does not bind, the data determine θ_n = f_∞.
            rate = -1.0 if norm_bound < 1 and d > 1 else None
            yield "T1", norm_bound, one.t1[i], estimation, -2 / 3, rate
            yield "ERM − floor", norm_bound, one.excess[i], estimation, -2 / 3, rate
        exponent, truth = rates.resmem_exponent(d, norm_bound), fast if norm_bound < 1 else None
        yield "ResMem", norm_bound, one.resmem[i], whole, exponent, truth


def _steeper_bounds(rows: Sequence[tuple[Cell, ...]]) -> Iterator[str]:
    """Name the settings in which a bound of ResMem falls faster than what it bounds."""
    where = [
        f"d = {row[1]}, L = {row[2]:g}"
        for row in rows
        if row[0] == "ResMem"
        and isinstance(row[4], Estimate)
        and isinstance(row[6], float)
        and row[6] < row[4].low
    ]
    if where:
        yield (
            f"In this range ResMem's bound falls faster than its risk for {'; '.join(where)}: there the "
            "bound is still in its first stage, ruled by T1's n^(−2/3). Once ‖θ_n‖ = L the risk shows no "
            "such stage, for T1's errors at x and x₍₁₎ cancel."
        )


def _halves(n: NDArray[np.int64]) -> list[slice]:
    """Cut the numbers of points in two, with the middle one in both."""
    middle = (len(n) - 1) // 2
    return [slice(0, middle + 1), slice(middle, None)]


def _ratios(one: Measured) -> Floats:
    known = one.resmem > rates.ROUNDING
    ratios: Floats = 3 * (one.t1[known] + one.t2[known]) / one.resmem[known]
    return ratios


def _ratio(value: float, other: float) -> float | None:
    return float(value / other) if other > rates.ROUNDING else None


def _repetitions(measured: Sequence[Measured]) -> int:
    return len(measured[0].nearest)
