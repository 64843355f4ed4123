"""Figures of where memory helps and where it harms: by distance, confidence, frequency and class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.plots import style
from resmem_cli.plots.labels import known, shorten
from resmem_cli.plots.registry import Part, recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Group = Mapping[str, Any]

_ENDS = 15  # classes shown at each end of the order
_LABELS = 16  # of groups along an axis
_READING = (
    "Up: share of the group's queries corrected (TPR). Down: broken (FPR). Line: gain, their difference."
)


def _draw_where(run: Mapping[str, Any], *, by: str, label: str) -> Figure | None:
    return _draw_columns(_groups(run, by), label)


for _by, _title, _order, _label in (
    (
        "distance",
        "Gain by distance to the training rows",
        "from the nearest to the farthest",
        "distance to the training rows",
    ),
    (
        "confidence",
        "Gain by the base network's confidence",
        "from the least to the most confident",
        "confidence of the base network",
    ),
    (
        "frequency",
        "Gain by how often the class occurs in training",
        "from rare to frequent classes",
        "training rows of the class",
    ),
):
    recipe(f"where_{_by}", part=Part.RUN, title=_title, caption=f"{_READING} Groups {_order}.")(
        partial(_draw_where, by=_by, label=_label)
    )


@recipe(
    "where_class",
    part=Part.RUN,
    title="Gain by class",
    caption="Right: share of the class's queries corrected (TPR). Left: share broken (FPR). Dot: gain. "
    f"Of more than {2 * _ENDS} classes, the {_ENDS} of the largest and the {_ENDS} of the smallest gain, "
    "below the gains of all.",
)
def draw_where_class(run: Mapping[str, Any]) -> Figure | None:
    """Draw the rates of each class, those with the largest gain first."""
    groups = by_gain(_groups(run, "class"))
    if not groups:
        return None
    ends = both_ends(groups)
    strip = 1.2 if len(ends) < len(groups) else 0.0
    bars = 1.0 + 0.2 * len(ends)
    figure = style.new_figure(height=bars + strip)
    if strip:
        above, axes = figure.subplots(2, 1, height_ratios=[strip, bars])
        _draw_strip(above, np.array([known(group["gain"]) for group in groups]))
    else:
        axes = figure.add_subplot()
    places = np.arange(len(ends), dtype=float)
    if strip:
        places[_ENDS:] += 1  # a gap where the other classes would be
    axes.barh(places, _column(ends, "tpr"), color=style.BLUE, height=0.7, label="corrected (TPR)")
    axes.barh(places, -_column(ends, "fpr"), color=style.VERMILLION, height=0.7, label="broken (FPR)")
    axes.plot(_column(ends, "gain"), places, "o", color=style.INK, markersize=3.5, label="gain")
    axes.axvline(0, color=style.GREY, linewidth=1)
    axes.set_yticks(places, labels=[_with_n(group) for group in ends])
    axes.set_ylim(places[-1] + 0.7, -0.7)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("share of the class (%)")
    style.percent_axis(axes.xaxis)
    style.legend_above(figure, axes, columns=3)
    return figure


def by_gain(groups: Sequence[Group]) -> list[Group]:
    """Order groups from the largest gain to the smallest; equal ones keep their order, empty ones go."""
    present = [group for group in groups if group["n"] and not np.isnan(known(group["gain"]))]
    return sorted(present, key=lambda group: -known(group["gain"]))


def both_ends(groups: Sequence[Group]) -> list[Group]:
    """Keep the first and the last 15 of ordered groups, or all if there are no more than that."""
    return list(groups) if len(groups) <= 2 * _ENDS else [*groups[:_ENDS], *groups[-_ENDS:]]


def _draw_columns(groups: Sequence[Group], name: str) -> Figure | None:
    if not groups:
        return None
    figure = style.new_figure(height=3.4)
    axes = figure.add_subplot()
    places = np.arange(len(groups))
    axes.bar(places, _column(groups, "tpr"), color=style.BLUE, width=0.7, label="corrected (TPR)")
    axes.bar(places, -_column(groups, "fpr"), color=style.VERMILLION, width=0.7, label="broken (FPR)")
    axes.plot(places, _column(groups, "gain"), "o-", color=style.INK, label="gain")
    axes.axhline(0, color=style.GREY, linewidth=1)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    shown = range(0, len(groups), -(-len(groups) // _LABELS))
    labels = [shorten(groups[place]["group"], 18) for place in shown]
    if max(map(len, labels)) * len(labels) > 64:
        axes.set_xticks(shown, labels=labels, rotation=40, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(shown, labels=labels)
    counts = [f"{groups[place]['n']:,}" for place in shown]
    if max(map(len, counts)) * len(counts) <= 64:
        above = axes.secondary_xaxis("top")
        above.set_xticks(shown, labels=counts)
        above.tick_params(length=0, labelcolor=style.GREY)
        above.set_xlabel("queries", color=style.GREY, fontsize=8)
        above.spines["top"].set_visible(False)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(name)
    axes.set_ylabel("share of the group (%)", rotation_mode="anchor")
    style.percent_axis(axes.yaxis)
    style.legend_above(figure, axes, columns=3)
    return figure


def _draw_strip(axes: Axes, gains: NDArray[np.float64]) -> None:
    edges = np.arange(len(gains) + 1) + 0.5
    for part, color in ((np.maximum(gains, 0), style.BLUE), (np.minimum(gains, 0), style.VERMILLION)):
        axes.stairs(part, edges, fill=True, color=color)
    axes.axhline(0, color=style.GREY, linewidth=1)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel(f"all {len(gains):,} classes by gain")
    axes.set_ylabel("gain (%)", rotation_mode="anchor")
    style.percent_axis(axes.yaxis)
    axes.grid(visible=False, axis="x")


def _groups(run: Mapping[str, Any], by: str) -> list[Group]:
    groups: list[Group] = (run.get("where") or {}).get(by) or []
    return groups


def _with_n(group: Group) -> str:
    return f"{shorten(group['group'], 22)} ({group['n']:,})"


def _column(groups: Sequence[Group], name: str) -> NDArray[np.float64]:
    return np.array([known(group[name]) for group in groups])
