"""Figures of `theory`: risks, the terms of their decomposition, distances, and the idea in one dimension."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from resmem_cli.linear_regression import rates
from resmem_cli.plots import style
from resmem_cli.plots.study_tables import Row, figures_of_study, rows_of, value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Panel = tuple[Axes, int, float]

_MOST_COLUMNS = 4
_ERM, _NEAREST, _RESMEM = (style.FAMILY_COLORS[name] for name in ("base", "knn", "resmem"))
_DIMENSIONS = (style.BLUE, style.VERMILLION, style.GREEN, style.ORANGE, style.PURPLE, style.SKY)
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_RISKS = (("ERM", _ERM), ("1-NN", _NEAREST), ("ResMem", _RESMEM))

_figure = figures_of_study("theory")


@_figure(
    "theory_risk",
    title="Test risk against the number of training points",
    caption="A row of panels for each dimension d, a column for each norm bound L. Dashed: the floor of ERM, "
    "(1 − L)². Circles: where 1-NN and ResMem fall below ERM for good.",
)
def draw_risk(document: Mapping[str, Any]) -> Figure | None:
    """Draw the mean risks of ERM, 1-NN and ResMem."""
    rows = rows_of(document, "risk")
    crossings = rows_of(document, "crossings")
    figure, panels = _panels(rows)
    for axes, d, norm_bound in panels:
        here = _chosen(rows, d, norm_bound)
        floor = here[0]["floor (1 − L)²"]
        if floor > 0:
            axes.axhline(floor, color=style.GREY, linestyle="--", linewidth=1, label="floor")
        for name, color in _RISKS:
            _plot(axes, here, name, color=color, label=name)
        for row in _chosen(crossings, d, norm_bound):
            below, above = row["what"].split(" below ")
            if above == "ERM" and row["n"] is not None:
                color = dict(_RISKS)[below]
                n = value_of(row["n"])
                at = [n], [_between(here, "ERM", n)]
                axes.plot(*at, "o", markersize=7, markerfacecolor="none", markeredgecolor=color)
    return _label(figure, panels, "test risk", columns=4)


@_figure(
    "theory_terms",
    title="The terms T1 and T2 of the risk",
    caption="Solid: measured. Dashed: the theorem's bounds, scaled to pass through the measured value in the "
    "middle. Dotted: the limits for large n, with their constants.",
)
def draw_terms(document: Mapping[str, Any]) -> Figure | None:
    """Draw T1 and T2 with the shapes of their bounds and their limits."""
    rows = rows_of(document, "risk")
    figure, panels = _panels(rows)
    for axes, d, norm_bound in panels:
        here = _chosen(rows, d, norm_bound)
        n = np.array([row["n"] for row in here], np.float64)
        floor = rates.floor(norm_bound)
        for name, color, bound, limit in (
            (
                "T1",
                style.VERMILLION,
                rates.estimation_bound(n, d, norm_bound),
                rates.estimation_limit(n, d, norm_bound),
            ),
            (
                "T2",
                style.BLUE,
                floor * rates.nearest_bound(n, d),
                floor * rates.nearest_limit(n, d) / d,
            ),
        ):
            _plot(axes, here, name, color=color, label=name)
            middle = len(here) // 2
            value = value_of(here[middle][name])
            if value <= rates.ROUNDING or bound[middle] <= 0:
                continue
            positive = bound > 0
            label = f"{name}, theorem's slope"
            scaled = bound[positive] * value / bound[middle]
            axes.plot(n[positive], scaled, "--", color=color, linewidth=1, label=label)
            axes.plot(n, limit, ":", color=color, linewidth=1.4, label=f"{name}, limit")
    # Both terms may be 0 everywhere, as with d = 1 and L = 1.
    if not any(axes.lines for axes, _, _ in panels):
        return None
    return _label(figure, panels, "term of the risk", columns=2)


@_figure(
    "theory_distance",
    title="Squared distance to the nearest training point",
    caption="Points: E[Z_n] as measured. Dotted: its limit (d + 2) Γ(1 + 2/d) n^(−2/d). Dashed: the bound of "
    "lemma A.1, d² [log(n^(1/d)) / n]^(1/d), with the constant 1.",
)
def draw_distance(document: Mapping[str, Any]) -> Figure | None:
    """Draw E[Z_n] with its bound and its limit, a colour for each dimension."""
    rows = rows_of(document, "distance")
    figure = style.new_figure(height=3.9)
    axes = figure.add_subplot()
    for place, d in enumerate(dict.fromkeys(row["d"] for row in rows)):
        color = _DIMENSIONS[place % len(_DIMENSIONS)]
        here = [row for row in rows if row["d"] == d]
        n = [row["n"] for row in here]
        axes.plot(n, [value_of(row["E[Z_n]"]) for row in here], "o", color=color, label=f"d = {d}")
        axes.plot(n, [row[_heading(row, "limit")] for row in here], ":", color=color)
        bounds = [(row["n"], row[_heading(row, "bound")]) for row in here if row[_heading(row, "bound")] > 0]
        axes.plot(*_two(bounds), "--", color=color, linewidth=1)
    for marks, name in ((":", "limit"), ("--", "bound")):
        axes.plot([], [], marks, color=style.GREY, label=name)
    _log_axes(axes, most_ticks=8)
    axes.set_xlabel("training points n")
    axes.set_ylabel("squared distance", rotation_mode="anchor")
    style.legend_above(figure, axes, columns=5)
    return figure


@_figure(
    "theory_illustration",
    title="Residual memorization in one dimension",
    caption="Top: the training points and the line fitted to them, with the prediction of line and memory. "
    "Middle: what the line has wrong at each point. Bottom: the nearest point's residual, which is added to "
    "the line. After figure 1 of Yang et al. 2023, computed.",
)
def draw_illustration(document: Mapping[str, Any]) -> Figure | None:
    """Draw the three steps: fit, residuals, nearest neighbour on the residuals."""
    numbers = document.get("illustration")
    if numbers is None:
        return None
    figure = style.new_figure(height=5.6)
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    x, grid = numbers["x"], numbers["grid"]
    top.plot(grid, numbers["grid_target"], color="#bbbbbb", linewidth=3, label="target")
    top.plot(grid, numbers["grid_fitted"], color=_ERM, label="linear fit")
    top.plot(grid, numbers["grid_resmem"], color=_RESMEM, linewidth=1.1, label="fit + memory")
    top.plot(x, numbers["target"], "o", color=style.VERMILLION, label="training points")
    middle.vlines(x, 0, numbers["residual"], color=style.VERMILLION, linewidth=1)
    bottom.plot(grid, numbers["grid_memory"], color=_NEAREST, label="nearest neighbour's residual")
    for axes in (middle, bottom):
        axes.axhline(0, color=_ERM, linewidth=1)
        axes.plot(x, numbers["residual"], "o", color=style.VERMILLION)
    for axes, name in ((top, "target"), (middle, "residual"), (bottom, "residual")):
        axes.set_ylabel(name, rotation_mode="anchor")
    for axes, title in (
        (top, "1. Fit what the line can"),
        (middle, "2. Keep what it has wrong"),
        (bottom, "3. Add what the nearest point had wrong"),
    ):
        axes.set_title(title, loc="left")
    figure.align_ylabels()
    bottom.set_xlabel("x")
    style.legend_above(figure, top, columns=4)
    return figure


def _chosen(rows: Sequence[Row], d: int, norm_bound: float) -> list[Row]:
    return [row for row in rows if row["d"] == d and row["L"] == norm_bound]


def _panels(rows: Sequence[Row]) -> tuple[Figure, list[Panel]]:
    """Make a figure with a row of panels for each d and a column for each L, of at most four of these."""
    dimensions = list(dict.fromkeys(row["d"] for row in rows))
    norm_bounds = list(dict.fromkeys(row["L"] for row in rows))
    if len(norm_bounds) > _MOST_COLUMNS:
        last = len(norm_bounds) - 1
        norm_bounds = [norm_bounds[round(i * last / (_MOST_COLUMNS - 1))] for i in range(_MOST_COLUMNS)]
    figure = style.new_figure(height=1.1 + 1.7 * len(dimensions))
    grid = figure.subplots(len(dimensions), len(norm_bounds), squeeze=False, sharex=True, sharey=True)
    return figure, [
        (axes, d, norm_bound)
        for line, d in zip(grid, dimensions, strict=True)
        for axes, norm_bound in zip(line, norm_bounds, strict=True)
    ]


def _label(figure: Figure, panels: Sequence[Panel], value: str, *, columns: int) -> Figure:
    for axes, d, norm_bound in panels:
        _log_axes(axes, most_ticks=4)
        axes.set_title(f"d = {d}, L = {norm_bound:.4g}", fontsize=8.5)
    figure.supxlabel("training points n", fontsize=9.5)
    figure.supylabel(value, fontsize=9.5)
    # A term that is 0 in one panel may not be in another.
    most = max((axes for axes, _, _ in panels), key=lambda axes: len(axes.lines))
    style.legend_above(figure, most, columns=columns)
    return figure


def _log_axes(axes: Axes, *, most_ticks: int) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(numticks=most_ticks))
        axis.set_minor_locator(NullLocator())
        # The usual labels are formulas, which are not parsed here.
        axis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))


def power_of_ten(value: float) -> str:
    """Write a power of ten as in 10⁻², in letters that every format has; 1 and 10 as they are."""
    exponent = round(math.log10(value))
    if exponent in (0, 1):
        return str(10**exponent)
    return "10" + str(exponent).translate(_RAISED)


def _plot(axes: Axes, rows: Sequence[Row], name: str, **looks: Any) -> None:
    """Draw a column's means against n; what is 0 but for rounding has no place on a logarithmic axis."""
    if positive := list(_positive(rows, name)):
        axes.plot(*_two(positive), marker="o", markersize=2.5, linewidth=1.2, **looks)


def _positive(rows: Sequence[Row], name: str) -> Iterator[tuple[float, float]]:
    for row in rows:
        if (value := value_of(row[name])) > rates.ROUNDING:
            yield row["n"], value


def _between(rows: Sequence[Row], name: str, n: float) -> float:
    """Read a column at an n between the measured ones, on straight lines in log-log."""
    sizes, values = _two(_positive(rows, name))
    return math.exp(np.interp(math.log(n), np.log(sizes), np.log(values)))


def _two(pairs: Any) -> tuple[list[float], list[float]]:
    first, second = [], []
    for one, other in pairs:
        first.append(one)
        second.append(other)
    return first, second


def _heading(row: Row, start: str) -> str:
    return next(name for name in row if name.startswith(start))
