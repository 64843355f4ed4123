"""The report of `analyze` as one HTML file: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from string import Template
from typing import Any

from resmem_cli.plots.gallery import Drawing, figures
from resmem_cli.plots.inline import html_figure
from resmem_cli.plots.labels import interval, known, number, percent, points, probability
from resmem_cli.plots.registry import Part, names_of
from resmem_cli.plots.sheet import STYLE_SHEET
from resmem_cli.plots.tables import (
    aggregate_table,
    escaped,
    facts,
    groups_table,
    influence_table,
    methods_table,
    neighbors_table,
    runs_table,
)

# The policy keeps a browser from loading or running anything, even if a name got past the escaping.
_PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>$title</title>
<style>$sheet</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
</body>
</html>
"""
)

_OF_METHODS = ("methods", "reliability")  # figures that stand by the table of methods

_GROUPINGS = {
    "distance": "By distance to the training rows",
    "confidence": "By confidence of the base network",
    "frequency": "By training rows of the class",
    "class": "By class",
}


def html_page(report: Mapping[str, Any], *, title: str, drawn: Mapping[str, Drawing] | None = None) -> str:
    """Write a report as one self-contained HTML page.

    Parameters
    ----------
    report : mapping
        As for `figures`.
    title : str
        Plain text.
    drawn : mapping of str to Drawing, optional
        Its `figures`, if they are drawn already.

    Returns
    -------
    str
        HTML5 with its style sheet and its figures, as SVG, inside. The same report gives the same text.
        It can hold any Unicode character: write it as UTF-8.
    """
    body = "\n".join(_body(report, figures(report) if drawn is None else drawn))
    return _PAGE.substitute(title=escaped(title), sheet=STYLE_SHEET, body=body)


def _body(report: Mapping[str, Any], drawn: Mapping[str, Drawing]) -> Iterator[str]:
    runs: Sequence[Mapping[str, Any]] = report.get("runs") or []
    if len(runs) == 1:
        yield _headline(runs[0])
    if notices := report.get("notices"):
        items = "".join(f"<li>{escaped(notice)}</li>" for notice in notices)
        yield f'<aside class="notices"><h2>Notices</h2><ul>{items}</ul></aside>'
    if len(runs) > 1:
        yield f'<section id="all-runs"><h2>All {len(runs)} runs</h2>'
        yield runs_table(runs)
        if aggregate := report.get("aggregate"):
            yield "<h3>Over the runs (shares in percent)</h3>"
            yield aggregate_table(aggregate)
        yield _figures(drawn, names_of(Part.REPORT))
        yield "</section>"
    for place, run in enumerate(runs, 1):
        yield from _run(run, drawn, place=place if len(runs) > 1 else None)
    if tuning := report.get("tuning"):
        yield from _tuning(tuning, drawn)


def _run(run: Mapping[str, Any], drawn: Mapping[str, Drawing], *, place: int | None) -> Iterator[str]:
    yield f'<section id="run-{place or 1}">'
    if place is not None:
        yield f"<h2>Run {place}: {escaped(run.get('predictions'))}</h2>"
        yield _headline(run)
    level, suffix = ("h2", "") if place is None else ("h3", f"_{place}")
    if methods := run.get("methods"):
        yield f"<{level}>Methods</{level}>"
        yield "<p>Gains against the base network, in points of percent, with two 95 % intervals: "
        yield "of paired proportions, and by bootstrap. p is McNemar's.</p>"
        yield methods_table(methods)
        yield _figures(drawn, [name + suffix for name in _OF_METHODS])
    others = [name + suffix for name in names_of(Part.RUN) if name not in _OF_METHODS]
    if shown := _figures(drawn, others):
        yield f"<{level}>Where memory helps</{level}>"
        yield shown
    where = run.get("where") or {}
    if any(where.get(by) for by in _GROUPINGS):
        yield "<details><summary>The numbers of the groups</summary>"
        for by, caption in _GROUPINGS.items():
            if groups := where.get(by):
                yield groups_table(groups, caption=caption)
        yield "</details>"
    for kind in ("corrected", "broken"):
        if examples := run.get(kind):
            yield f"<{level}>{kind.capitalize()} examples</{level}>"
            yield _EXAMPLES_NOTE[kind]
            yield from (_example(example, is_open=not nth) for nth, example in enumerate(examples))
    if explained := run.get("explained"):
        yield f"<{level}>Explained examples</{level}>"
        yield "<p>Every neighbour of the queries asked for, those that did most first.</p>"
        yield from (_example(example, is_open=False) for example in explained)
    yield from _influence(run.get("influence") or {}, level)
    yield f"<{level}>Parameters</{level}>"
    yield facts(_parameters(run))
    yield "</section>"


_EXAMPLES_NOTE = {
    "corrected": "<p>The base network was wrong, memory made it right.</p>",
    "broken": "<p>The base network was right, memory made it wrong.</p>",
}


def _headline(run: Mapping[str, Any]) -> str:
    cards = [
        (
            "Accuracy, base → with memory",
            f"{percent(run.get('base_accuracy'))} → {percent(run.get('accuracy'))} %",
            f"{number(run.get('n'))} queries; kNN alone {percent(run.get('knn_accuracy'))} %",
        ),
        (
            "Gain, points of percent",
            points(run.get("gain")),
            f"95 % interval {interval(run.get('interval'))}; "
            f"bootstrap {interval(run.get('bootstrap_interval'))}",
        ),
        (
            "McNemar's p",
            probability(run.get("p_value")),
            "chance of such a gain or loss without a difference",
        ),
        (
            "Corrected and broken",
            f"{number(run.get('n_corrected'))} and {number(run.get('n_broken'))}",
            f"TPR {percent(run.get('tpr'))} %, FPR {percent(run.get('fpr'))} %",
        ),
    ]
    items = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}<small>{escaped(note)}</small></dd></div>"
        for name, value, note in cards
    )
    return f'<dl class="headline">{items}</dl>'


def _figures(drawn: Mapping[str, Drawing], names: Sequence[str]) -> str:
    shown = [html_figure(name, drawn[name]) for name in names if name in drawn]
    return '<div class="figures">\n{}\n</div>'.format("\n".join(shown)) if shown else ""


def _example(example: Mapping[str, Any], *, is_open: bool) -> str:
    named = "" if example.get("id") is None else f" ({escaped(example['id'])})"
    margins = (
        f"margin of the base {_margin(example['base_margin'])}, with memory {_margin(example['margin'])}"
    )
    return (
        f"<details{' open' if is_open else ''}><summary>Query {int(example['query'])}{named}: "
        f"<b>{escaped(example['label'])}</b>; base said {escaped(example['base_predicted'])}, "
        f"with memory {escaped(example['predicted'])} ({margins})</summary>\n"
        f"{neighbors_table(example.get('neighbors') or [])}</details>"
    )


def _influence(influence: Mapping[str, Sequence[Mapping[str, Any]]], level: str) -> Iterator[str]:
    tables = [
        influence_table(rows, caption=caption)
        for kind, caption in (
            ("corrected", "Training rows behind most corrected answers"),
            ("broken", "Training rows behind most broken answers"),
        )
        if (rows := influence.get(kind))
    ]
    if tables:
        yield f"<{level}>Influential training rows</{level}>"
        yield '<div class="pair">{}</div>'.format("\n".join(tables))


def _tuning(tuning: Mapping[str, Any], drawn: Mapping[str, Drawing]) -> Iterator[str]:
    best, grid = tuning["best"], tuning.get("grid") or {}
    yield '<section id="tuning"><h2>Tuning</h2>'
    yield facts(
        [
            ("file", tuning.get("path")),
            ("objective", tuning.get("objective")),
            ("tuned on", tuning.get("data")),
            ("queries", number(tuning.get("n"))),
            ("points of the grid", number(len(grid.get("accuracy", [])))),
            ("base accuracy", f"{percent(tuning.get('base_accuracy'))} %"),
            ("chosen k", number(best.get("k"))),
            *((f"chosen {name}", number(best.get(name))) for name in ("sigma", "temperature", "strength")),
            ("accuracy at the choice", f"{percent(best.get('accuracy'))} %"),
            ("TPR at the choice", f"{percent(best.get('tpr'))} %"),
            ("FPR at the choice", f"{percent(best.get('fpr'))} %"),
        ]
    )
    yield _figures(drawn, names_of(Part.TUNING))
    yield "</section>"


def _parameters(run: Mapping[str, Any]) -> list[tuple[str, object]]:
    return [
        ("predictions", run.get("predictions")),
        ("method", run.get("method")),
        ("space", run.get("space")),
        *((name, number(run.get(name))) for name in ("k", "sigma", "temperature", "strength")),
        ("queries", number(run.get("n"))),
    ]


def _margin(value: object) -> str:
    shown = number(value)
    return f"+{shown}" if known(value) > 0 else shown
