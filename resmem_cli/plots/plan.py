"""The figure of `plan --simulate`: the wall time of a run against the number of workers, and its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resmem_cli.plots import style
from resmem_cli.plots.study_tables import Row, column_of, figures_of_study, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_figure = figures_of_study("plan")

_HOUR = 3600
_COLORS = (style.BLUE, style.VERMILLION, style.GREEN, style.ORANGE, style.SKY, style.PURPLE)


@_figure(
    "plan_simulation",
    title="Simulated wall time by the number of workers",
    caption="Top: the median of all repetitions with the range of the middle 90 %, and the ideal, in which "
    "the work is shared out evenly and nothing is slow or lost. Bottom: the share of each step in the median "
    "time.",
)
def draw_simulation(document: Mapping[str, Any]) -> Figure | None:
    """Draw the wall time against the workers, and what it is made of."""
    rows = rows_of(document, "simulation")
    if not rows:
        return None
    figure = style.new_figure(height=4.6)
    top, bottom = figure.subplots(2, 1, height_ratios=(3, 2))
    _draw_times(top, rows)
    _draw_steps(bottom, rows_of(document, "simulation_steps"), column_of(rows, "workers"))
    top.legend(loc="upper right")
    return figure


def _draw_times(axes: Axes, rows: list[Row]) -> None:
    workers = column_of(rows, "workers")
    ideal, median, low, high = (
        [seconds / _HOUR for seconds in column_of(rows, name)] for name in ("ideal", "median", "5 %", "95 %")
    )
    axes.plot(workers, ideal, "--", color=style.GREY, label="ideal")
    axes.vlines(workers, low, high, color=style.BLUE, linewidth=5, alpha=0.3, label="5 % to 95 %")
    axes.plot(workers, median, marker="o", color=style.BLUE, label="median")
    style.value_axis(axes, "x", [float(count) for count in workers])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("workers")
    axes.set_ylabel("hours")


def _draw_steps(axes: Axes, rows: list[Row], workers: list[int]) -> None:
    places = list(range(len(workers)))
    # The last columns of the table, one for each number of workers.
    medians = [column_of(rows, name) for name in list(rows[0])[-len(workers) :]]
    begun = [0.0] * len(workers)
    for number, (row, color) in enumerate(zip(rows, _COLORS, strict=False)):
        shares = [one[number] / sum(one) if sum(one) else 0.0 for one in medians]
        axes.barh(places, shares, left=begun, color=color, height=0.6, label=row["step"])
        begun = [start + share for start, share in zip(begun, shares, strict=True)]
    axes.set_yticks(places, labels=[f"{count:,}" for count in workers])
    axes.set_ylabel("workers")
    axes.set_ylim(len(workers) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("share of the time (%)")
    style.percent_axis(axes.xaxis)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
