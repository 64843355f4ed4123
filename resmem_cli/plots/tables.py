"""Tables of the HTML page. Whatever goes in is plain text; it is escaped here and nowhere else."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resmem_cli.plots.labels import (
    MISSING,
    clean,
    interval,
    known,
    number,
    percent,
    points,
    probability,
    score,
)
from resmem_cli.plots.where import both_ends, by_gain

_MANY_GROUPS = 200
_LONG_TEXT = 28  # letters; a longer cell is broken into lines


def escaped(value: object) -> str:
    """Clean a text and escape it for HTML, attributes included."""
    return html.escape(clean(value))


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1, caption: str = ""
) -> str:
    """Write a table in a box that scrolls sideways where the page is narrow.

    Parameters
    ----------
    headings : sequence of str
    rows : iterable of sequences of str
        Plain text; each as long as `headings`.
    texts : int
        So many columns from the left are text, the others numbers.
    caption : str
        Plain text above the table.
    """
    title = f"<caption>{escaped(caption)}</caption>\n" if caption else ""
    head = "".join(
        f'<th scope="col" class="{_kind(cell, is_text=place < texts)}">{escaped(cell)}</th>'
        for place, cell in enumerate(headings)
    )
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<td class="{_kind(cell, is_text=place < texts)}">{escaped(cell)}</td>'
            for place, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide" role="group" tabindex="0"><table>\n{title}'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def methods_table(methods: Sequence[Mapping[str, Any]]) -> str:
    """Write the methods with their scores."""
    headings = [
        "method", "accuracy %", "top-5 %", "NLL", "Brier", "ECE", "gain", "95 % interval", "bootstrap", "p",
    ]  # fmt: skip
    rows = []
    for method in methods:
        scores = [score(method.get(name)) for name in ("nll", "brier", "ece")]
        row = [
            clean(method["name"]),
            percent(method["accuracy"]),
            percent(method.get("top5_accuracy")),
            *scores,
        ]
        if method.get("family") == "base":
            row += [MISSING] * 4
        else:
            row += [
                points(method.get("gain")),
                interval(method.get("interval")),
                interval(method.get("bootstrap_interval")),
                probability(method.get("p_value")),
            ]
        rows.append(row)
    return table(headings, rows)


def runs_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Write one row a run."""
    headings = [
        "run",
        "predictions",
        "method",
        "base %",
        "kNN %",
        "with memory %",
        "gain",
        "95 % interval",
        "p",
    ]
    rows = [
        [
            str(place),
            clean(run.get("predictions")),
            clean(run.get("method")),
            percent(run.get("base_accuracy")),
            percent(run.get("knn_accuracy")),
            percent(run.get("accuracy")),
            points(run.get("gain")),
            interval(run.get("interval")),
            probability(run.get("p_value")),
        ]
        for place, run in enumerate(runs, 1)
    ]
    return table(headings, rows, texts=3)


def aggregate_table(aggregate: Mapping[str, Mapping[str, Any]]) -> str:
    """Write mean and standard deviation of each metric over the runs, shares in percent."""
    rows = []
    for metric, over in aggregate.items():
        show = number if metric in _NOT_SHARES else percent
        rows.append([metric.replace("_", " "), show(over["mean"]), show(over["std"]), number(over["n"])])
    return table(["metric", "mean", "standard deviation", "runs"], rows)


_NOT_SHARES = {
    "nll",
    "brier",
    "ece",
    "p_value",
    "k",
    "sigma",
    "temperature",
    "strength",
    "n",
    "n_corrected",
    "n_broken",
}


def groups_table(groups: Sequence[Mapping[str, Any]], *, caption: str) -> str:
    """Write the numbers behind a figure of groups; of very many, those of both ends by gain."""
    if len(groups) > _MANY_GROUPS:
        present = by_gain(groups)
        groups = both_ends(present)
        caption += f": the 15 of the largest and the 15 of the smallest gain of {len(present):,}"
    headings = ["group", "queries", "base %", "with memory %", "gain", "TPR %", "FPR %"]
    rows = [
        [
            clean(group["group"]),
            number(group["n"]),
            percent(group["base_accuracy"]),
            percent(group["accuracy"]),
            points(group["gain"]),
            percent(group["tpr"]),
            percent(group["fpr"]),
        ]
        for group in groups
    ]
    return table(headings, rows, caption=caption)


def neighbors_table(neighbors: Sequence[Mapping[str, Any]]) -> str:
    """Write the training rows that an example's answer came from."""
    headings = ["training row", "id", "label", "distance", "weight", "contribution"]
    rows = [
        [
            # A row is a name: without separators it can be copied.
            str(one["row"]),
            clean(one.get("id")),
            clean(one.get("label")),
            number(known(one["distance"])),
            number(known(one["weight"])),
            _signed(one["contribution"]),
        ]
        for one in neighbors
    ]
    return table(headings, rows, texts=3)


def influence_table(rows: Sequence[Mapping[str, Any]], *, caption: str) -> str:
    """Write the training rows that changed most answers."""
    headings = ["training row", "label", "corrected", "broken", "credit"]
    cells = [
        [
            str(one["row"]),
            clean(one.get("label")),
            number(one["n_corrected"]),
            number(one["n_broken"]),
            _signed(one["credit"]),
        ]
        for one in rows
    ]
    return table(headings, cells, texts=2, caption=caption)


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Write names with their values."""
    items = "".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{items}</dl>'


def _kind(cell: str, *, is_text: bool) -> str:
    if not is_text:
        return "number"
    return "text" if len(cell) <= _LONG_TEXT else "long text"


def _signed(value: object) -> str:
    given = known(value)
    shown = number(given)
    return f"+{shown}" if given > 0 else shown
