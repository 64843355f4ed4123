"""Figures of `reproduce cifar`, each from the table of its study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resmem_cli.plots import style
from resmem_cli.plots.labels import shorten
from resmem_cli.plots.study_tables import Row, column_of, figures_of_study, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_figure = figures_of_study("cifar")

_NAME_WIDTH = 16


@_figure(
    "depths",
    title="Accuracy by depth",
    caption="The same budget for each network. As figure 2(a) of the paper.",
)
def draw_depths(study: Mapping[str, Any]) -> Figure | None:
    """Draw base, ResMem and tuned ResMem of each depth."""
    rows = rows_of(study, "depths")
    if len(rows) < 2:
        return None
    figure = style.new_figure(height=3.2)
    axes = figure.add_subplot()
    depths = [int(name.rpartition("-")[2]) for name in column_of(rows, "")]
    _three_lines(axes, depths, rows)
    axes.set_xticks(depths)
    axes.set_xlabel("layers")
    style.legend_above(figure, axes, columns=3)
    return figure


@_figure(
    "subsets",
    title="Accuracy by share of the training data",
    caption="Left: test images. Right: the training images themselves. As figures 2(b) and 4 of the paper.",
)
def draw_subsets(study: Mapping[str, Any]) -> Figure | None:
    """Draw test and training accuracies of each share."""
    rows = rows_of(study, "subsets")
    if len(rows) < 2:
        return None
    figure = style.new_figure(height=3.2)
    left, right = figure.subplots(1, 2)
    shares = column_of(rows, "share")
    _three_lines(left, shares, rows)
    for axes, title in ((left, "test images"), (right, "training images")):
        axes.set_title(title)
        axes.set_xlabel("share of the data (%)")
    _line(right, shares, column_of(rows, "training images: base"), "base", color=style.INK)
    _line(right, shares, column_of(rows, "training images: ResMem"), "ResMem", color=style.BLUE)
    for axes in (left, right):
        style.percent_axis(axes.xaxis)
        style.percent_axis(axes.yaxis)
    style.legend_above(figure, left, columns=3)
    return figure


@_figure(
    "early_stopping",
    title="Accuracy of a network stopped early",
    caption="Solid: ours. Dotted: table 1 of the paper, at the same shares of its schedule.",
)
def draw_early_stopping(study: Mapping[str, Any]) -> Figure | None:
    """Draw ours and the paper's accuracies along the schedule."""
    rows = rows_of(study, "epochs")
    if len(rows) < 2:
        return None
    figure = style.new_figure(height=3.2)
    axes = figure.add_subplot()
    shares = column_of(rows, "of the schedule")
    _three_lines(axes, shares, rows)
    for name, color in (("base", style.INK), ("ResMem", style.BLUE)):
        axes.plot(
            shares, column_of(rows, f"paper: {name}"), "o:", color=color, label=f"paper: {name}", alpha=0.6
        )
    style.percent_axis(axes.xaxis)
    axes.set_xlabel("share of the schedule (%)")
    style.legend_above(figure, axes, columns=3)
    return figure


@_figure(
    "sensitivity_cifar",
    title="Accuracy along each setting",
    caption="One setting changes, the others stay as the table says. Dashed: the network alone. As figure 5.",
)
def draw_sensitivity(study: Mapping[str, Any]) -> Figure | None:
    """Draw the accuracy along k, sigma and T."""
    rows = rows_of(study, "sensitivity")
    if not rows:
        return None
    names, values, accuracies, gains = (
        column_of(rows, name) for name in ("setting", "value", "ResMem", "gain")
    )
    axes_of = list(dict.fromkeys(names))
    figure = style.new_figure(height=2.6)
    panels = figure.subplots(1, len(axes_of), sharey=True, squeeze=False)[0]
    for axes, setting in zip(panels, axes_of, strict=True):
        chosen = [i for i, name in enumerate(names) if name == setting]
        axes.axhline(accuracies[chosen[0]] - gains[chosen[0]], color=style.INK, linestyle="--", linewidth=1)
        axes.plot([values[i] for i in chosen], [accuracies[i] for i in chosen], "o-", color=style.BLUE)
        axes.set_xlabel(setting)
        style.percent_axis(axes.yaxis)
    panels[0].set_ylabel("accuracy (%)")
    return figure


@_figure(
    "cost",
    title="Accuracy by the time of one image",
    caption="A network with memory beside deeper networks, one image at a time on the CPU.",
)
def draw_cost(study: Mapping[str, Any]) -> Figure | None:
    """Draw accuracy against latency."""
    rows = rows_of(study, "cost")
    if not rows:
        return None
    figure = style.new_figure(height=3.2)
    axes = figure.add_subplot()
    for row in rows:
        name, milliseconds, accuracy = row[""], row["ms an image"], row["accuracy"]
        if accuracy is None:
            continue
        with_memory = "memory" in name
        axes.plot(
            [milliseconds], [accuracy], "o", color=style.BLUE if with_memory else style.INK, markersize=6
        )
        axes.annotate(name, (milliseconds, accuracy), xytext=(6, 4), textcoords="offset points", fontsize=8)
    axes.set_xlim(left=0)
    axes.margins(x=0.35, y=0.2)
    axes.set_xlabel("ms an image")
    axes.set_ylabel("accuracy (%)")
    style.percent_axis(axes.yaxis)
    return figure


@_figure(
    "corruption",
    title="Accuracy on corrupted images",
    caption="At five strengths. Green: with some corrupted, labelled images in the memory.",
)
def draw_corruption(study: Mapping[str, Any]) -> Figure | None:
    """Draw base, ResMem, and ResMem with shifted rows along the strengths of each corruption."""
    rows = rows_of(study, "corruption")
    if not rows:
        return None
    kinds, strengths = column_of(rows, "corruption"), column_of(rows, "strength")
    names = [kind for kind in dict.fromkeys(kinds) if kind != "none"]
    figure = style.new_figure(height=2.8)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    lines = (("base", style.INK), ("ResMem", style.BLUE), ("with shifted rows", style.GREEN))
    for axes, kind in zip(panels, names, strict=True):
        chosen = [i for i, one in enumerate(kinds) if one == kind]
        for name, color in lines:
            accuracies = column_of(rows, name)
            _line(axes, [strengths[i] for i in chosen], [accuracies[i] for i in chosen], name, color=color)
        axes.set_title(kind)
        axes.set_xlabel("strength")
        axes.set_xticks([strengths[i] for i in chosen])
        style.percent_axis(axes.yaxis)
    panels[0].set_ylabel("accuracy (%)")
    style.legend_above(figure, panels[0], columns=3)
    return figure


@_figure(
    "joint",
    title="Joint training against two steps",
    caption="Each line is one seed; filled: with memory, tuned; hollow: the network alone.",
)
def draw_joint(study: Mapping[str, Any]) -> Figure | None:
    """Draw each seed's accuracies both ways."""
    rows = rows_of(study, "joint_runs")
    if not rows:
        return None
    figure = style.new_figure(height=3.0)
    axes = figure.add_subplot()
    for i, name in enumerate(column_of(rows, "")):
        if not name.endswith(", tuned"):
            continue
        for part, color, face in (("base", style.INK, "white"), ("ResMem", style.BLUE, style.BLUE)):
            ends = [column_of(rows, f"{way}: {part}")[i] for way in ("two steps", "joint")]
            axes.plot([0, 1], ends, "o-", color=color, markerfacecolor=face)
    axes.set_xticks([0, 1], ["two steps", "joint"])
    axes.set_xlim(-0.4, 1.4)
    axes.set_ylabel("accuracy (%)")
    style.percent_axis(axes.yaxis)
    return figure


@_figure(
    "examples",
    title="Test images that memory corrected, and what it remembered",
    caption="First the test image, its class in blue, what the network had said in red; then the training "
    "images that added most to the answer. As figure 3 of the paper.",
)
def draw_examples(study: Mapping[str, Any]) -> Figure | None:
    """Draw corrected images beside the rows that did it."""
    pictures = study.get("pictures") or []
    if not pictures:
        return None
    n_rows, n_near = -(-len(pictures) // 2), max(len(picture["near"]) for picture in pictures)
    width = n_near + 1
    figure = style.new_figure(height=0.2 + 1.02 * n_rows)
    panels = figure.subplots(n_rows, 2 * width, squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    for place, picture in enumerate(pictures):
        row, first = place % n_rows, width * (place // n_rows)
        axes = panels[row, first]
        _picture(axes, picture["image"], shorten(picture["label"], _NAME_WIDTH), color=style.BLUE)
        axes.text(
            0.5,
            -0.06,
            f"not {shorten(picture['base'], _NAME_WIDTH)}",
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=6,
            color=style.VERMILLION,
        )
        for i, near in enumerate(picture["near"], 1):
            _picture(
                panels[row, first + i], near["image"], shorten(near["label"], _NAME_WIDTH), color=style.GREY
            )
    return figure


def _picture(axes: Axes, image: Any, title: str, *, color: str) -> None:
    axes.imshow(image[..., 0] if image.shape[2] == 1 else image, cmap="gray", interpolation="nearest")
    axes.set_title(title, fontsize=6, color=color, pad=2)


def _three_lines(axes: Axes, places: Sequence[float], rows: list[Row]) -> None:
    _line(axes, places, column_of(rows, "base"), "base", color=style.INK)
    _line(axes, places, column_of(rows, "ResMem"), "ResMem", color=style.BLUE)
    _line(axes, places, column_of(rows, "ResMem, tuned"), "ResMem, tuned", color=style.SKY)
    axes.set_ylabel("accuracy (%)")
    style.percent_axis(axes.yaxis)


def _line(axes: Axes, places: Sequence[float], values: Sequence[float], label: str, *, color: str) -> None:
    axes.plot(places, values, "o-", color=color, label=label)
