"""Figures of a tuning: along each parameter, over two of them, and all points by what they change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.plots import style
from resmem_cli.plots.labels import known, points
from resmem_cli.plots.registry import Part, recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

PARAMETERS = ("k", "sigma", "temperature", "strength")
_NAMES = {"k": "neighbours k", "sigma": "width σ", "temperature": "temperature T", "strength": "strength"}
_MANY_POINTS = 2000  # above this an SVG holds an image of the points


@recipe(
    "sensitivity",
    part=Part.TUNING,
    title="Accuracy along each parameter",
    caption="Each panel changes one parameter and keeps the others at their chosen values. Star: the choice. "
    "Dashed: the base network.",
)
def draw_sensitivity(tuning: Mapping[str, Any]) -> Figure | None:
    """Draw the accuracy along each parameter that was tried at two values or more."""
    lines = {name: line_through_best(tuning, name) for name in PARAMETERS}
    lines = {name: line for name, line in lines.items() if len(line[0]) > 1}
    if not lines:
        return None
    n_columns = min(2, len(lines))
    n_rows = -(-len(lines) // n_columns)
    figure = style.new_figure(height=0.5 + 2.0 * n_rows)
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True).ravel()
    for axes, (name, (values, accuracies)) in zip(panels, lines.items(), strict=False):
        axes.axhline(
            known(tuning["base_accuracy"]), color=style.INK, linestyle="--", linewidth=1, label="base"
        )
        axes.plot(values, accuracies, "o-", color=style.BLUE, label="with memory")
        best = known(tuning["best"][name])
        axes.plot([best], [known(tuning["best"]["accuracy"])], "*", color=style.VERMILLION, markersize=11)
        style.value_axis(axes, "x", values.tolist(), at_most=4)
        axes.set_xlabel(_NAMES[name])
        style.percent_axis(axes.yaxis)
    for axes in panels[len(lines) :]:
        axes.set_axis_off()
    for axes in panels[::n_columns]:
        axes.set_ylabel("accuracy (%)", rotation_mode="anchor")
    style.legend_above(figure, panels[0], columns=2)
    return figure


@recipe(
    "heat_map",
    part=Part.TUNING,
    title="Accuracy over k and σ",
    caption="At the chosen temperature and strength. Star: the choice. Small squares: a finer grid.",
)
def draw_heat_map(tuning: Mapping[str, Any]) -> Figure | None:
    """Draw the accuracy over k and sigma: the full product as cells, other points as squares on it."""
    from matplotlib.colors import Normalize

    k, sigma, accuracy = _slice(tuning, ("temperature", "strength"), ("k", "sigma", "accuracy"))
    rows, columns = complete_product(k, sigma)
    if min(len(rows), len(columns)) < 2:
        return None
    figure = style.new_figure(height=3.6)
    axes = figure.add_subplot()
    # At equal accuracies any colour will do, but the scale needs a width.
    low, high = float(accuracy.min()), float(accuracy.max())
    norm = Normalize(low, high if high > low else low + 1e-3)
    coarse = np.isin(k, rows) & np.isin(sigma, columns)
    cells = np.full((len(columns), len(rows)), np.nan)
    cells[np.searchsorted(columns, sigma[coarse]), np.searchsorted(rows, k[coarse])] = accuracy[coarse]
    style.value_axis(axes, "x", rows.tolist())
    style.value_axis(axes, "y", columns.tolist(), at_most=12)
    mesh = axes.pcolormesh(cell_edges(rows), cell_edges(columns), cells, cmap="cividis", norm=norm)
    if not coarse.all():
        axes.scatter(
            k[~coarse],
            sigma[~coarse],
            c=accuracy[~coarse],
            cmap="cividis",
            norm=norm,
            s=16,
            marker="s",
            edgecolors="white",
            linewidths=0.5,
        )
    best = tuning["best"]
    axes.plot(
        [best["k"]], [best["sigma"]], "*", color=style.VERMILLION, markersize=13, markeredgecolor="white"
    )
    axes.grid(visible=False)
    axes.set_xlabel(_NAMES["k"])
    axes.set_ylabel(_NAMES["sigma"], rotation_mode="anchor")
    bar = figure.colorbar(mesh, ax=axes, label="accuracy (%)")
    bar.outline.set_visible(False)
    style.percent_axis(bar.ax.yaxis)
    bar.ax.yaxis.label.set_rotation_mode("anchor")
    bar.ax.yaxis.label.set_verticalalignment("top")
    return figure


@recipe(
    "grid_cloud",
    part=Part.TUNING,
    title="All points of the grid by what they change",
    caption="Each dot is one setting of the parameters. Grey lines join settings of equal gain, in points of "
    "percent. Star: the choice.",
)
def draw_grid_cloud(tuning: Mapping[str, Any]) -> Figure | None:
    """Draw TPR against FPR of every point, with lines of equal gain."""
    fpr, tpr = _columns(tuning, "fpr", "tpr")
    if not len(fpr):
        return None
    figure = style.new_figure(height=3.8)
    axes = figure.add_subplot()
    axes.scatter(
        fpr, tpr, s=9, color=style.BLUE, alpha=0.45, linewidths=0, rasterized=len(fpr) > _MANY_POINTS
    )
    best = tuning["best"]
    axes.plot(
        [best["fpr"]], [best["tpr"]], "*", color=style.VERMILLION, markersize=13, markeredgecolor="white"
    )
    _gain_lines(axes, np.append(fpr, known(best["fpr"])), np.append(tpr, known(best["tpr"])))
    axes.grid(visible=False)
    axes.set_xlabel("broken, FPR (%)")
    axes.set_ylabel("corrected, TPR (%)", rotation_mode="anchor")
    style.percent_axis(axes.xaxis)
    style.percent_axis(axes.yaxis)
    return figure


def line_through_best(tuning: Mapping[str, Any], name: str) -> tuple[Floats, Floats]:
    """Give the values of one parameter, ascending, and the accuracies where the others are the best's.

    A point that two grids share counts once.
    """
    others = tuple(other for other in PARAMETERS if other != name)
    values, accuracies = _slice(tuning, others, (name, "accuracy"))
    unique, first = np.unique(values, return_index=True)
    return unique, accuracies[first]


def complete_product(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Find values of x and y, ascending, all pairs of which are among the points.

    A coarse and a finer grid together are no full product. The value with the smallest share of its pairs
    goes, until no pair is missing: what is left is the coarse grid.
    """
    xs, ys = np.unique(x), np.unique(y)
    present = np.zeros((len(xs), len(ys)), bool)
    present[np.searchsorted(xs, x), np.searchsorted(ys, y)] = True
    while present.size and not present.all():
        of_x, of_y = present.mean(axis=1), present.mean(axis=0)
        if of_x.min() <= of_y.min():
            kept = np.arange(len(xs)) != of_x.argmin()
            xs, present = xs[kept], present[kept]
        else:
            kept = np.arange(len(ys)) != of_y.argmin()
            ys, present = ys[kept], present[:, kept]
    return xs, ys


def cell_edges(values: Floats) -> Floats:
    """Give the n + 1 edges of cells around n ascending values, at the middles as their axis shows them."""
    wide = style.spread_is_wide(values.tolist())
    places = np.log(values) if wide else values
    middles = (places[1:] + places[:-1]) / 2
    edges = np.concatenate([[2 * places[0] - middles[0]], middles, [2 * places[-1] - middles[-1]]])
    return np.exp(edges) if wide else edges


def _gain_lines(axes: Axes, fpr: Floats, tpr: Floats) -> None:
    from matplotlib.ticker import MaxNLocator

    low_x, high_x = _limits(fpr)
    low_y, high_y = _limits(tpr)
    axes.set(xlim=(low_x, high_x), ylim=(low_y, high_y))
    levels = MaxNLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(low_y - high_x, high_y - low_x)
    for gain in levels:
        right, top = high_x + gain, high_y - gain
        label = points(gain).rstrip("0").rstrip(".") if round(gain, 12) else "0"
        if low_y < right <= high_y:
            end, shift, ha, va = (high_x, right), (3, 0), "left", "center"
        elif low_x < top < high_x:
            end, shift, ha, va = (top, high_y), (0, 3), "center", "bottom"
        else:
            continue
        axes.axline((0, gain), slope=1, color="#cccccc", linewidth=0.8, zorder=0)
        axes.annotate(
            label,
            end,
            xytext=shift,
            textcoords="offset points",
            ha=ha,
            va=va,
            fontsize=7,
            color=style.GREY,
            annotation_clip=False,
        )


def _limits(shares: Floats) -> tuple[float, float]:
    low, high = float(shares.min()), float(shares.max())
    margin = max(0.06 * (high - low), 0.001)
    return low - margin, high + margin


def _slice(tuning: Mapping[str, Any], fixed: tuple[str, ...], wanted: tuple[str, ...]) -> list[Floats]:
    """Give columns of the grid at the points whose fixed parameters equal the best's."""
    columns = _columns(tuning, *fixed, *wanted)
    kept = np.ones(len(columns[0]), bool)
    for name, column in zip(fixed, columns, strict=False):
        kept &= np.isclose(column, known(tuning["best"][name]), rtol=1e-9, atol=0)
    return [column[kept] for column in columns[len(fixed) :]]


def _columns(tuning: Mapping[str, Any], *names: str) -> list[Floats]:
    grid = tuning.get("grid") or {}
    return [np.array([known(value) for value in grid.get(name, [])], np.float64) for name in names]
