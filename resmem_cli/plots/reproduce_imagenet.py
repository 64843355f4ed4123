"""The figure of `reproduce imagenet`: what memory gains at each width, in the paper and here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resmem_cli.plots import style
from resmem_cli.plots.labels import known, shorten
from resmem_cli.plots.study_tables import Row, figures_of_study, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_figure = figures_of_study("imagenet")

_GAIN = "gain [95 %]"


@_figure(
    "imagenet_gain",
    title="Gain of ResMem by the network's width",
    caption="Dots: our gain, with its 95 % interval. Diamonds: the paper's, of table 2, without one.",
)
def draw_gain(document: Mapping[str, Any]) -> Figure | None:
    """Draw each model's gain with the paper's settings, with tuned ones if there are, and the paper's."""
    rows, tuned = rows_of(document, "table2"), rows_of(document, "tuned")
    if not rows:
        return None
    figure = style.new_figure(height=1.1 + 0.4 * len(rows))
    axes = figure.add_subplot()
    axes.axvline(0, color=style.GREY, linewidth=1)
    paper = [(place, known(row["paper's gain"])) for place, row in enumerate(rows)]
    axes.plot(
        [gain for _, gain in paper],
        [place for place, _ in paper],
        "D",
        color=style.GREY,
        markerfacecolor="none",
        markersize=6,
        label="the paper",
    )
    shift = 0.12 if tuned else 0.0
    _draw_ours(axes, rows, -shift, color=style.BLUE, label="ours")
    if tuned:
        _draw_ours(axes, tuned, shift, color=style.VERMILLION, label="ours, tuned")
    axes.set_yticks(range(len(rows)), labels=[shorten(row["model"], 26) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("gain (points)")
    style.percent_axis(axes.xaxis)
    style.legend_above(figure, axes, columns=3)
    return figure


def _draw_ours(axes: Axes, rows: list[Row], shift: float, *, color: str, label: str) -> None:
    for place, row in enumerate(rows):
        gain = row[_GAIN]
        axes.plot([gain["low"], gain["high"]], [place + shift] * 2, color=color, linewidth=2, alpha=0.5)
    gains = [row[_GAIN]["value"] for row in rows]
    axes.plot(gains, [place + shift for place in range(len(rows))], "o", color=color, label=label)
