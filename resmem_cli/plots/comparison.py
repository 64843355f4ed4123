"""Figures that set methods, or runs, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from resmem_cli.plots import style
from resmem_cli.plots.labels import interval, known, percent, points, shorten
from resmem_cli.plots.registry import Part, recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RELIABILITY_LINES = 6


@recipe(
    "runs",
    part=Part.REPORT,
    title="Base network and memory over the runs",
    caption="Dots: the accuracy of each run. Line and band: mean over the runs ± one standard deviation.",
)
def draw_runs(report: Mapping[str, Any]) -> Figure | None:
    """Draw each run's accuracies, with mean and standard deviation, where there are two runs or more."""
    runs, aggregate = report.get("runs") or [], report.get("aggregate") or {}
    if len(runs) < 2 or not aggregate:
        return None
    figure = style.new_figure(height=3.2)
    axes = figure.add_subplot()
    places = np.arange(1, len(runs) + 1)
    for metric, name, color in (
        ("base_accuracy", "base", style.INK),
        ("knn_accuracy", "kNN", style.GREEN),
        ("accuracy", "with memory", style.BLUE),
    ):
        values = [known(run.get(metric)) for run in runs]
        if np.all(np.isnan(values)):
            continue
        axes.plot(places, values, "o-", color=color, label=name, linewidth=0.8, markersize=5)
        if metric in aggregate:
            mean, std = known(aggregate[metric]["mean"]), known(aggregate[metric]["std"])
            axes.axhline(mean, color=color, linewidth=1.2)
            axes.axhspan(mean - std, mean + std, color=color, alpha=0.12, linewidth=0)
    shown = places[:: max(1, -(-len(places) // 20))]
    axes.set_xticks(shown, labels=[str(place) for place in shown])
    axes.set_xlim(0.5, len(runs) + 0.5)
    axes.set_xlabel("run")
    axes.set_ylabel("accuracy (%)", rotation_mode="anchor")
    style.percent_axis(axes.yaxis)
    style.legend_above(figure, axes, columns=3)
    return figure


@recipe(
    "methods",
    part=Part.RUN,
    title="Accuracy of each method",
    caption="Dots: accuracy. Whiskers: 95 % interval of the gain, set on the base network's accuracy "
    "(dashed), so a whisker that does not meet the dashed line is a gain or a loss beyond chance.",
)
def draw_methods(run: Mapping[str, Any]) -> Figure | None:
    """Draw every method's accuracy, with the interval of its gain, in the report's order."""
    methods = run.get("methods") or []
    if not methods:
        return None
    figure = style.new_figure(height=0.9 + 0.25 * len(methods))
    axes = figure.add_subplot()
    base = known(run["base_accuracy"])
    axes.axvline(base, color=style.GREY, linestyle="--", linewidth=1)
    for place, method in enumerate(methods):
        accuracy, color = known(method["accuracy"]), _color(method)
        if method.get("family") != "base" and method.get("interval"):
            low, high = (base + known(bound) for bound in method["interval"])
            axes.plot([low, high], [place, place], color=color, linewidth=2, alpha=0.5)
        axes.plot([accuracy], [place], "o", color=color, markersize=6)
    axes.set_yticks(range(len(methods)), labels=[shorten(method["name"], 26) for method in methods])
    axes.set_ylim(len(methods) - 0.4, -0.6)
    # Accuracies in a column at the right edge, where no whisker runs through them.
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(range(len(methods)), labels=[percent(method["accuracy"]) for method in methods])
    beside.tick_params(length=0)
    beside.spines["right"].set_visible(False)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("accuracy (%)")
    axes.margins(x=0.06)
    style.percent_axis(axes.xaxis)
    return figure


@recipe(
    "reliability",
    part=Part.RUN,
    title="Confidence and accuracy",
    caption="Each dot is a bin of equally many queries. On the diagonal a method is right as often as it is "
    "confident; below it, it is over-confident.",
)
def draw_reliability(run: Mapping[str, Any]) -> Figure | None:
    """Draw the reliability diagram of the base, kNN, the best kNN-LM and variants of ResMem."""
    chosen = reliability_methods(run.get("methods") or [])
    if not chosen:
        return None
    figure = style.new_figure(height=4.4)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=style.GREY, linestyle="--", linewidth=1)
    variants = iter([style.BLUE, style.PURPLE, style.SKY, style.VERMILLION, "#8a6d00", style.GREY])
    for method, marker in zip(chosen, "osD^vP", strict=False):
        bins = method["reliability"]
        color = next(variants) if method.get("family") == "resmem" else _color(method)
        axes.plot(
            [known(part["confidence"]) for part in bins],
            [known(part["accuracy"]) for part in bins],
            marker=marker,
            color=color,
            label=shorten(method["name"], 24),
        )
    axes.set(xlim=(0, 1.01), ylim=(0, 1.01), aspect="equal")
    axes.set_xlabel("confidence (%)")
    axes.set_ylabel("accuracy (%)", rotation_mode="anchor")
    style.percent_axis(axes.xaxis)
    style.percent_axis(axes.yaxis)
    style.legend_above(figure, axes, columns=2)
    return figure


def reliability_methods(methods: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Choose at most six methods with a reliability curve, in the report's order.

    The base, kNN, the most accurate kNN-LM (the first of equals), then variants of ResMem as they come.
    """
    drawable = [method for method in methods if method.get("reliability")]
    of_family: dict[str, list[Mapping[str, Any]]] = {}
    for method in drawable:
        of_family.setdefault(str(method.get("family")), []).append(method)
    wanted = [*of_family.get("base", [])[:1], *of_family.get("knn", [])[:1]]
    if mixed := of_family.get("knn-lm"):
        wanted.append(max(mixed, key=lambda method: known(method["accuracy"])))
    wanted += of_family.get("resmem", [])[: _RELIABILITY_LINES - len(wanted)]
    return [method for method in drawable if any(method is other for other in wanted)]


@recipe(
    "coarse",
    part=Part.RUN,
    title="Corrected answers that were near misses",
    caption="Of the base network's wrong answers, the share whose wrong answer lay in the true label's "
    "group: among the corrected ones, among all, and the difference with its 95 % interval.",
)
def draw_coarse(run: Mapping[str, Any]) -> Figure | None:
    """Draw both shares as bars, and below them their difference with its interval."""
    coarse = run.get("coarse")
    if not coarse:
        return None
    figure = style.new_figure(height=2.0)
    axes = figure.add_subplot()
    shares = [known(coarse["corrected_in_group"]), known(coarse["errors_in_group"])]
    axes.barh([0, 1], shares, color=[style.BLUE, style.GREY], height=0.6)
    low, high = (known(bound) for bound in coarse.get("interval") or (None, None))
    axes.plot([low, high], [2, 2], color=style.INK, linewidth=2, alpha=0.5)
    axes.plot([known(coarse["difference"])], [2], "o", color=style.INK, markersize=6)
    axes.axvline(0, color=style.GREY, linewidth=1)
    names = [f"corrected (n = {coarse['n_corrected']:,})", f"all errors (n = {coarse['n_base_errors']:,})"]
    axes.set_yticks([0, 1, 2], labels=[*names, "difference"])
    axes.set_ylim(2.6, -0.6)
    texts = [
        percent(shares[0]),
        percent(shares[1]),
        f"{points(coarse['difference'])} {interval([low, high])}",
    ]
    ends = [*shares, max(known(coarse["difference"]), high)]
    _texts_after(axes, ends, texts)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("wrong answers in the true label's group (%)")
    style.percent_axis(axes.xaxis)
    return figure


def _texts_after(axes: Axes, ends: list[float], texts: list[str]) -> None:
    for place, (end, text) in enumerate(zip(ends, texts, strict=True)):
        if not np.isnan(end):
            axes.annotate(
                text, (max(end, 0.0), place), (5, 0), textcoords="offset points", va="center", fontsize=8
            )
    axes.margins(x=0.15)


def _color(method: Mapping[str, Any]) -> str:
    return style.FAMILY_COLORS.get(str(method.get("family")), style.PURPLE)
