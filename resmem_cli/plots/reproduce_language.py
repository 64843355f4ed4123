"""Figures of `reproduce language`: accuracy with and without memory, and table 3 as curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resmem_cli.plots import style
from resmem_cli.plots.labels import known, shorten
from resmem_cli.plots.study_tables import Row, figures_of_study, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_figure = figures_of_study("language")

_COLORS = (style.BLUE, style.VERMILLION, style.GREEN, style.PURPLE, style.ORANGE, style.SKY)
_METHODS = {
    "base": ("network alone", style.INK, "o"),
    "ResMem k = 50, σ = 1": ("ResMem, k = 50, σ = 1", style.SKY, "s"),
    "ResMem tuned": ("ResMem, tuned", style.BLUE, "D"),
    "kNN-LM tuned": ("kNN-LM, tuned", style.ORANGE, "^"),
}
_PAPER = "paper: "
_GAP = 0.13


@_figure(
    "language_accuracy",
    title="Accuracy with and without memory, by the model's size",
    caption="Left: ours. Right: the paper's T5 models on C4, T5-base without memory. Dotted: the larger "
    "model alone, which the smaller with memory may reach.",
)
def draw_accuracy(document: Mapping[str, Any]) -> Figure | None:
    """Draw a column of dots for each model, ours and the paper's in panels of their own."""
    rows = rows_of(document, "accuracy")
    if not rows:
        return None
    ours = [row for row in rows if not row["model"].startswith(_PAPER)]
    paper = [row for row in rows if row["model"].startswith(_PAPER)]
    figure = style.new_figure(height=3.6)
    left, right = figure.subplots(1, 2, width_ratios=(max(2, len(ours)), 3))
    _columns(left, ours, [f"{row['model']}\n{_millions(row['weights'])}" for row in ours])
    _columns(right, paper, [row["model"].removeprefix(_PAPER) for row in paper])
    left.set_title("ours")
    right.set_title("the paper")
    left.set_ylabel("accuracy (%)", rotation_mode="anchor")
    style.legend_above(figure, left, columns=2)
    return figure


@_figure(
    "language_knn_lm",
    title="kNN-LM by the weight of its neighbours, against ResMem",
    caption="Curves: kNN-LM's gain on the network alone, by the weight of the neighbours' vote; at 1 the "
    "neighbours alone. Level lines: ResMem on the same neighbours, dotted with the paper's settings, dashed "
    "with tuned ones (and for the paper's T5-large, in grey).",
)
def draw_knn_lm(document: Mapping[str, Any]) -> Figure | None:
    """Draw table 3, each column as a curve of gains on its own base."""
    table = document["tables"].get("knn_lm")
    if table is None:
        return None
    names = [column["name"] for column in table["columns"]]
    votes = [row for row in table["rows"] if row[0].startswith("kNN-LM, weight ")]
    [resmem] = [row for row in table["rows"] if row[0] == "ResMem"]
    weights = [float(row[0].rpartition(" ")[2]) for row in votes]
    figure = style.new_figure(height=4.2)
    axes = figure.add_subplot()
    axes.axhline(0, color="#999999", linewidth=1)
    models = list(dict.fromkeys(name.partition(", ")[0] for name in names[2:]))
    for place in range(1, len(names)):
        model, _, settings = names[place].partition(", ")
        color = _COLORS[models.index(model) % len(_COLORS)] if model in models else style.GREY
        filled = "none" if settings not in ("", "tuned") else color
        base = known(votes[0][place])
        axes.plot(
            weights,
            [known(row[place]) - base for row in votes],
            "o-" if model in models else "D-",
            color=color,
            markerfacecolor=filled,
            label=shorten(names[place], 24),
        )
        line = ":" if filled == "none" else "--"
        axes.axhline(known(resmem[place]) - base, color=color, linestyle=line, linewidth=1.3)
    axes.set_xticks(weights, labels=[f"{weight:g}" for weight in weights])
    axes.set_xlabel("weight of the neighbours' vote")
    axes.set_ylabel("gain (points)", rotation_mode="anchor")
    style.percent_axis(axes.yaxis)
    style.legend_above(figure, axes, columns=2)
    return figure


def _columns(axes: Axes, rows: list[Row], labels: list[str]) -> None:
    shown = [(name, *_METHODS[name]) for name in _METHODS]
    for index, (name, label, color, marker) in enumerate(shown):
        places = [place + (index - (len(shown) - 1) / 2) * _GAP for place in range(len(rows))]
        dots = zip(places, (row[name] for row in rows), strict=True)
        at = [(place, known(value)) for place, value in dots if value is not None]
        if at:
            axes.plot(*zip(*at, strict=True), marker, color=color, label=label, markersize=6)
    for place, row in enumerate(rows[1:], 1):
        axes.plot(
            [place - 1.3, place], [known(row["base"])] * 2, ":", color=style.GREY, linewidth=1.2, zorder=1
        )
    axes.set_xticks(range(len(rows)), labels=labels)
    axes.set_xlim(-0.45, len(rows) - 0.55)
    axes.grid(visible=False, axis="x")
    style.percent_axis(axes.yaxis)


def _millions(weights: Any) -> str:
    return f"{known(weights) / 1e6:.2g} M"
