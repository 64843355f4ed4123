"""What the user sees: results on stdout; progress, notices and errors on stderr."""

from __future__ import annotations

import functools
import json
import math
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resmem_cli.errors import printable
from resmem_cli.types import Progress, StageResult, no_progress
from resmem_cli.version import __version__

if TYPE_CHECKING:
    from resmem_cli.cli.pieces import Pieces
    from resmem_cli.cluster.engine import State

_GAP = 3  # what rich puts between two columns


def progress_bars(*, quiet: bool) -> Progress:
    """Choose how to show progress: a bar if stderr is a terminal, else nothing."""
    return no_progress if quiet or not sys.stderr.isatty() else _bar


def _bar(blocks: Sequence[slice], description: str) -> Iterable[slice]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        total = blocks[-1].stop if blocks else 0
        task = bars.add_task(description, total=total, rate="")
        for block in blocks:
            yield block
            bars.advance(task, block.stop - block.start)
            speed = bars.tasks[0].speed
            bars.update(task, rate=f"{speed:,.0f} rows/s" if speed else "")


def in_pieces(
    command: str, stage: Callable[..., StageResult], pieces: Pieces, *, quiet: bool
) -> Callable[..., StageResult]:
    """Give what does a command: its stage, or with `--scheduler` that of `cluster.commands`."""
    if pieces.scheduling is None:
        return stage
    from resmem_cli.cluster import commands
    from resmem_cli.cluster.scheduling import Scheduling

    spread: Callable[..., StageResult] = getattr(commands, command)
    watch = _TaskBar(command, quiet=quiet)
    return functools.partial(spread, scheduling=Scheduling(**pieces.scheduling), watch=watch.show)


class _TaskBar:
    """One bar for all tasks of a command, if stderr is a terminal; lines at the retries if it is not."""

    def __init__(self, command: str, *, quiet: bool) -> None:
        self._command, self._quiet = command, quiet
        self._bars: Any = None
        self._task: Any = None
        self._retries = 0
        self._began = time.monotonic()

    def show(self, state: State) -> None:
        """Show how far the tasks have come."""
        if state.retries > self._retries:
            self._retries = state.retries
            notice(f"a shard of {self._command} failed and is given out again", quiet=self._quiet)
        if self._quiet or not sys.stderr.isatty():
            return
        if self._bars is None:
            self._start(state)
        minutes = (time.monotonic() - self._began) / 60
        rate = (state.done - state.before) / minutes if minutes else 0
        told = f"{state.workers} workers, {rate:.1f} a minute" + (
            f", {state.retries} retries" if state.retries else ""
        )
        self._bars.update(self._task, completed=state.done, total=state.total, told=told)
        if state.done == state.total and not state.running:
            self._bars.stop()
            self._bars = None

    def _start(self, state: State) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
        )
        self._began = time.monotonic()
        self._bars = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bars.add_task(f"shards of {self._command}", total=state.total, told="")
        self._bars.start()


def notice(text: str, *, quiet: bool = False) -> None:
    """Tell the user something that is not the result."""
    if not quiet:
        sys.stderr.write(f"resmem: {printable(text)}\n")


def emit(text: str) -> None:
    """Write a part of the result to stdout."""
    _end_with_the_pipe()
    if text:
        sys.stdout.write(printable(text if text.endswith("\n") else text + "\n"))


def emit_json(result: StageResult) -> None:
    """Write the result as one JSON document."""
    document = {
        "resmem": __version__,
        "command": result.command,
        "output": None if result.output is None else str(result.output),
        "result": result.summary,
        "notices": list(result.notices),
    }
    emit(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def report(result: StageResult, *, as_json: bool, quiet: bool) -> None:
    """Show a stage's result: notices, then its figures, one a line."""
    for text in result.notices:
        notice(text, quiet=quiet)
    if as_json:
        emit_json(result)
        return
    emit_fields({"output": result.output, **result.summary})


def emit_fields(fields: Mapping[str, Any]) -> None:
    """Write names and values in two columns; None is left out."""
    shown = {
        name.replace("_", " "): show_value(name, value) for name, value in fields.items() if value is not None
    }
    width = max((len(name) for name in shown), default=0)
    emit("\n".join(f"{name:<{width}}  {value}" for name, value in shown.items()))


def show_value(name: str, value: Any) -> str:
    """Write a figure in the unit its name stands for: accuracies and shares in percent, gains in points."""
    if name == "answered_by":
        total = max(1, sum(value.values()))
        steps = (f"{step}: {count:,} ({100 * count / total:.2f} %)" for step, count in value.items())
        return "; ".join(steps)
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key}: {show_value(key, inner)}" for key, inner in value.items() if inner is not None
        )
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        if name.endswith("accuracy") or name in ("tpr", "fpr"):
            return f"{100 * value:.2f} %"
        if name.startswith("proved"):
            # Rounded down: 100 % is all.
            return f"{math.floor(10_000 * value) / 100:.2f} %"
        return f"{100 * value:+.2f} points" if name == "gain" else f"{value:.6g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def emit_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table; the first column is text, the others are figures.

    On a terminal too narrow for all columns, those that do not fit follow in a table of their own.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    _end_with_the_pipe()
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
    for group in _fitting(widths, shutil.get_terminal_size().columns if sys.stdout.isatty() else None):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style=None)
        for i in group:
            table.add_column(columns[i], justify="left" if i == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*(row[i] for i in group))
        # Wide enough for one file, whose name is then wrapped by the terminal and not cut.
        width = sum(widths[i] + _GAP for i in group)
        Console(file=sys.stdout, width=width, highlight=False, markup=False).print(table)


def _fitting(widths: Sequence[int], limit: int | None) -> list[list[int]]:
    """Group the columns after the first so that each group fits beside it, at least one in each."""
    groups: list[list[int]] = []
    for i in range(1, len(widths)):
        taken = sum(widths[j] + _GAP for j in [*groups[-1], i]) if groups else 0
        if groups and (limit is None or taken <= limit):
            groups[-1].append(i)
        else:
            groups.append([0, i])
    return groups


def _end_with_the_pipe() -> None:
    # Files are finished when results are shown, so a closed pipe may end the process as it ends `cat`.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
