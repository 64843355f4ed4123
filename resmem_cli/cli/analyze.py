"""`resmem analyze`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from resmem_cli.cli import console, options
from resmem_cli.errors import CheckFailedError, UsageError

_Row = tuple[str, Callable[[Mapping[str, Any]], str]]

_ROWS: tuple[_Row, ...] = (
    ("method", lambda one: str(one["method"])),
    ("k", lambda one: f"{one['k']}"),
    ("sigma", lambda one: f"{one['sigma']:.4g}"),
    ("temperature", lambda one: f"{one['temperature']:g}"),
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
    from resmem_cli.stages.analyze import analyze

    if fail_under_gain is not None and not math.isfinite(fail_under_gain):
        raise UsageError("--fail-under-gain out of range", expected="a number", found=fail_under_gain)
    result = analyze(predictions, output=output, clobber=not no_clobber, n_examples=examples)
    runs = result.summary["runs"]
    if output is not None:
        console.notice(f"wrote {output}", quiet=quiet)
    if json:
        console.emit_json(result)
    else:
        console.emit_table(
            ("", *(one["predictions"] for one in runs)),
            [(name, *(show(one) for one in runs)) for name, show in _ROWS],
        )
        sections = [
            _examples(one, kind, with_name=len(runs) > 1)
            for one in runs
            for kind in ("corrected", "broken")
            if one[kind]
        ]
        console.emit("".join(f"\n{section}\n" for section in sections))
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


def _examples(one: Mapping[str, Any], kind: str, *, with_name: bool) -> str:
    place = f" in {one['predictions']}" if with_name else ""
    count = f"{len(one[kind])} of {one[f'n_{kind}']:,}"
    lines = [f"{kind}{place}, {count}, with the neighbours that weighed most:"]
    for example in one[kind]:
        change = f"{example['base_predicted']} became {example['predicted']}"
        lines.append(f"  query {example['query']}, class {example['label']}: {change}")
        lines += [
            f"    row {near['row']}, class {near['label']}: "
            f"distance {near['distance']:.3g}, weight {near['weight']:.3f}"
            for near in example["neighbors"]
        ]
    return "\n".join(lines)
