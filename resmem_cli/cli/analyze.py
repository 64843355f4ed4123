"""`resmem analyze`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from resmem_cli.cli import console, options
from resmem_cli.errors import CheckFailedError, UsageError

_Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
_Row = tuple[str, Callable[[Mapping[str, Any]], str]]

_ROWS: tuple[_Row, ...] = (
    ("method", lambda one: str(one["method"])),
    ("k", lambda one: f"{one['k']}"),
    ("sigma", lambda one: f"{one['sigma']:.4g}"),
    ("temperature", lambda one: f"{one['temperature']:.4g}"),
    ("strength", lambda one: f"{one['strength']:g}"),
    ("space", lambda one: one["space"]),
    ("queries", lambda one: f"{one['n']:,}"),
    ("base accuracy", lambda one: _percent(one["base_accuracy"])),
    ("kNN accuracy", lambda one: _percent(one["knn_accuracy"])),
    ("accuracy", lambda one: _percent(one["accuracy"])),
    ("gain (points)", lambda one: f"{100 * one['gain']:+.2f}"),
    ("  95 % interval", lambda one: " to ".join(f"{100 * end:+.2f}" for end in one["interval"])),
    ("  McNemar p", lambda one: f"{one['p_value']:.2g}"),
    ("corrected (TPR)", lambda one: f"{one['n_corrected']:,} ({_percent(one['tpr'])})"),
    ("broken (FPR)", lambda one: f"{one['n_broken']:,} ({_percent(one['fpr'])})"),
)


# The paper's own settings, which are shown only where some file has others.
_USUAL = {"strength": 1.0, "space": "probability"}


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def run(
    predictions: Annotated[
        list[Path],
        options.input_argument("PREDICTIONS...", "Predictions artifacts with labels."),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write a report artifact too.")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Show every method of predict --compare: the paper's table 3."),
    ] = False,
    explain: Annotated[
        list[int] | None,
        typer.Option(metavar="ROW", help="Show all that made this query's answer; may be repeated."),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Superclass of each class (.csv of class,group; .json; .npy): does memory work from coarse "
            "to fine?",
            show_default=False,
            readable=False,
        ),
    ] = None,
    where: Annotated[
        bool, typer.Option("--where", help="Show where the gain comes from: distance, confidence, frequency.")
    ] = False,
    influence: Annotated[
        bool, typer.Option("--influence", help="Show the training rows that corrected and broke most.")
    ] = False,
    tuning: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Leave out the queries this was tuned on, and show its grid in figures and page.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    residuals: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The memory's residuals, for the ids of its rows.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write every figure as SVG and PNG.", show_default=False),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write one page with all of it.", show_default=False),
    ] = None,
    examples: Annotated[
        int, typer.Option(metavar="N", help="Show the first N corrected and the first N broken examples.")
    ] = 3,
    fail_under_gain: Annotated[
        float | None,
        typer.Option(metavar="X", help="Exit with status 3 if a gain is below X percentage points."),
    ] = None,
    no_clobber: options.NoClobber = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what memory changed.

    Accuracy with and without it, and the examples it corrected and broke.

    Gain is in percentage points; TPR and FPR are the shares of all queries that memory corrected and broke.
    """
    from resmem_cli.stages.analyze import AnalyzeConfig, analyze

    if fail_under_gain is not None and not math.isfinite(fail_under_gain):
        raise UsageError("--fail-under-gain out of range", expected="a number", found=fail_under_gain)
    result = analyze(
        predictions,
        output=output,
        config=AnalyzeConfig(
            n_examples=examples,
            explain=tuple(explain or ()),
            groups=groups,
            tuning=tuning,
            residuals=residuals,
            compare=compare,
            figures=figures,
            html=html,
        ),
        clobber=not no_clobber,
    )
    runs = result.summary["runs"]
    for text in result.notices:
        console.notice(text, quiet=quiet)
    for written in (output, figures, html):
        if written is not None:
            console.notice(f"wrote {written}", quiet=quiet)
    if json:
        console.emit_json(result)
    else:
        show_runs(result.summary, compare=compare, where=where, influence=influence)
    if fail_under_gain is not None:
        for path, one in zip(predictions, runs, strict=True):
            # In whole examples: the gain itself is rounded.
            if 100 * (one["n_corrected"] - one["n_broken"]) < fail_under_gain * one["n"]:
                raise CheckFailedError(
                    "the gain is too small",
                    file=path,
                    expected=f"at least {fail_under_gain:g} points",
                    found=f"{100 * one['gain']:.2f} points",
                )


def show_runs(
    summary: Mapping[str, Any], *, compare: bool = False, where: bool = False, influence: bool = False
) -> None:
    """Write what `analyze` found of each file.

    Parameters
    ----------
    summary : mapping
        Of the stage's result.
    compare, where, influence : bool
        Whether to show the table of methods, those of where the gain comes from, and those of the rows that
        did most.
    """
    runs = summary["runs"]
    console.emit_table(
        ("", *(one["predictions"] for one in runs)),
        [
            (name, *(show(one) for one in runs))
            for name, show in _ROWS
            if name not in _USUAL or any(one[name] != _USUAL[name] for one in runs)
        ],
    )
    if summary["aggregate"]:
        console.emit("\n")
        console.emit_table(*_averages(summary["aggregate"]))
    for one in runs:
        tables = [*_tables(one, compare=compare, where=where), *(_influential(one) if influence else ())]
        if tables and len(runs) > 1:
            console.emit(f"\n{one['predictions']}:")
        for table in tables:
            console.emit("\n")
            console.emit_table(*table)
    places = [f" in {one['predictions']}" if len(runs) > 1 else "" for one in runs]
    sections = [_coarse(one, place) for one, place in zip(runs, places, strict=True) if one["coarse"]]
    sections += [
        _explained(example, place)
        for one, place in zip(runs, places, strict=True)
        for example in one["explained"]
    ]
    sections += [
        _examples(one, kind, place)
        for one, place in zip(runs, places, strict=True)
        for kind in ("corrected", "broken")
        if one[kind]
    ]
    console.emit("".join(f"\n{section}\n" for section in sections))


def _averages(averaged: Mapping[str, Any]) -> _Table:
    rows: list[tuple[str, ...]] = []
    for name, one in averaged.items():
        is_share = not name.endswith((": nll", ": brier", ": ece"))
        shown = [f"{100 * one[part]:.2f}" if is_share else f"{one[part]:.4f}" for part in ("mean", "std")]
        rows.append((name.replace("_", " "), *shown, str(one["n"])))
    return ("mean ± std (shares in %)", "mean", "std", "files"), rows


def _tables(one: Mapping[str, Any], *, compare: bool, where: bool) -> list[_Table]:
    tables: list[_Table] = []
    if compare and one["methods"]:
        tables.append((_METHOD_COLUMNS, [_method(method) for method in one["methods"]]))
    for name, title in _PLACES.items() if where else ():
        groups = one["where"][name]
        if name == "class" and len(groups) > 2 * _CLASSES:
            groups = sorted(groups, key=lambda group: -group["gain"])
            groups = [*groups[:_CLASSES], *groups[-_CLASSES:]]
            title = f"class: {_CLASSES} of the largest gain, {_CLASSES} of the smallest"
        if groups:
            tables.append(((title, *_GROUP_COLUMNS), [_group(group) for group in groups]))
    return tables


_METHOD_COLUMNS = (
    "method",
    "accuracy",
    "top-5",
    "NLL",
    "Brier",
    "ECE",
    "gain",
    "95 % interval",
    "p",
    "p to ResMem",
)
_INFLUENCE_COLUMNS = ("class", "corrected", "broken", "added to their leads")
_CLASSES = 10
_GROUP_COLUMNS = ("queries", "base", "with memory", "gain", "TPR", "FPR")
_PLACES = {
    "distance": "distance to the nearest row",
    "confidence": "the network's confidence",
    "frequency": "memory's rows of the class",
    "class": "class",
}


def _method(method: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        method["name"],
        _percent(method["accuracy"]),
        _percent(method["top5_accuracy"]),
        *(f"{method[name]:.4f}" for name in ("nll", "brier", "ece")),
        f"{100 * method['gain']:+.2f}",
        " to ".join(f"{100 * end:+.2f}" for end in method["interval"]),
        f"{method['p_value']:.2g}",
        f"{method['p_value_against_resmem']:.2g}",
    )


def _group(group: Mapping[str, Any]) -> tuple[str, ...]:
    shares = (_percent(group[name]) for name in ("base_accuracy", "accuracy"))
    changes = (_percent(group[name]) for name in ("tpr", "fpr"))
    return (group["group"], f"{group['n']:,}", *shares, f"{100 * group['gain']:+.2f}", *changes)


def _influential(one: Mapping[str, Any]) -> list[_Table]:
    tables: list[_Table] = []
    for kind, rows in one["influence"].items():
        if rows:
            title = f"rows that {'corrected' if kind == 'corrected' else 'broke'} most"
            shown: list[tuple[str, ...]] = [
                (
                    _named(row["row"], row["id"]),
                    str(row["label"]),
                    f"{row['n_corrected']:,}",
                    f"{row['n_broken']:,}",
                    f"{row['credit']:+.3f}",
                )
                for row in rows
            ]
            tables.append(((title, *_INFLUENCE_COLUMNS), shown))
    return tables


def _coarse(one: Mapping[str, Any], place: str) -> str:
    found = one["coarse"]
    lines = [f"coarse to fine{place}, {found['groups']} groups of classes:"]
    for text, name, of in (
        ("corrected answers that were in the right group", "corrected_in_group", "n_corrected"),
        ("all wrong answers that were in the right group", "errors_in_group", "n_base_errors"),
    ):
        if found[name] is not None:
            lines.append(f"  {text}: {_percent(found[name])} of {found[of]:,}")
    if found["interval"] is not None:
        ends = " to ".join(f"{100 * end:+.2f}" for end in found["interval"])
        lines.append(f"  difference: {100 * found['difference']:+.2f} points, 95 % interval {ends}")
    return "\n".join(lines)


def _explained(example: Mapping[str, Any], place: str) -> str:
    lines = [
        f"query {_named(example['query'], example['id'])}{place}, class {example['label']}: "
        f"the network says {example['base_predicted']}, with memory {example['predicted']}"
    ]
    if example["base_margin"] is not None:
        lines.append(
            f"  lead of {example['predicted']}: {example['base_margin']:+.4f} by the network, "
            f"{example['margin']:+.4f} with memory, from these rows:"
        )
    lines += [_neighbor(near) for near in example["neighbors"]]
    return "\n".join(lines)


def _named(row: int, own: str | None) -> str:
    return f"{row}" if own is None else f"{row} ({own})"


def _neighbor(near: Mapping[str, Any]) -> str:
    added = "" if near["contribution"] is None else f", adds {near['contribution']:+.4f}"
    return (
        f"    row {_named(near['row'], near['id'])}, class {near['label']}: "
        f"distance {near['distance']:.3g}, weight {near['weight']:.3f}{added}"
    )


def _examples(one: Mapping[str, Any], kind: str, place: str) -> str:
    count = f"{len(one[kind])} of {one[f'n_{kind}']:,}"
    lines = [f"{kind}{place}, {count}, with the rows that did most:"]
    for example in one[kind]:
        change = f"{example['base_predicted']} became {example['predicted']}"
        lines.append(f"  query {_named(example['query'], example['id'])}, class {example['label']}: {change}")
        lines += [_neighbor(near) for near in example["neighbors"]]
    return "\n".join(lines)
