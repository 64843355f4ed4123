"""Processes and calls measured in turn, their memory, and the tables that show them."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from resmem_cli.stages.reproduce.processes import Measured

RESMEM = [sys.executable, "-P", "-m", "resmem_cli"]
"""The command line, as installed for the interpreter that runs the benchmark, whatever folder that is in."""

NOT_INSTALLED = "not installed"

# Set where the project is developed; with it an editable install compiles all its modules at every start.
_COMPILES_ANEW = "PYTHONDONTWRITEBYTECODE"
_UNIT = 1 << 20
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Run:
    """What one process took.

    Attributes
    ----------
    seconds : float
        From its start to its end.
    anonymous, resident : float or None
        Peaks in MiB; resident memory includes the pages of mapped files. None where the system does not tell.
    output : str
        What it wrote to stdout.
    """

    seconds: float
    anonymous: float | None
    resident: float | None
    output: str

    @property
    def summary(self) -> dict[str, Any]:
        """The figures of a `resmem` command that ran with ``--json``."""
        figures: dict[str, Any] = json.loads(self.output)["result"]
        return figures


class FailedProcess(SystemExit):
    """A process that was measured ended with another status than 0."""


def run(command: Sequence[str | Path]) -> Run:
    """Run a process to its end; one that fails ends the benchmark.

    Raises
    ------
    FailedProcess
        With what it wrote to stderr.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != _COMPILES_ANEW},
    ) as process:
        with Measured(process.pid) as measured:
            output, errors = process.communicate()
        seconds = time.perf_counter() - start
    if process.returncode:
        raise FailedProcess(
            f"failed with status {process.returncode}: {' '.join(map(str, command))}\n{errors}"
        )
    cost = measured.cost
    return Run(seconds, _mib(cost.anonymous), _mib(cost.resident), output)


def resmem(*arguments: str | Path) -> Run:
    """Run a `resmem` command; its figures are in `Run.summary`."""
    return run([*RESMEM, *arguments, "--json", "--quiet"])


def _mib(n_bytes: int | None) -> float | None:
    return None if n_bytes is None else n_bytes / _UNIT


def seconds_of(call: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turn(
    works: Mapping[str, Callable[[], _Result]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[_Result]]:
    """Do all works one after the other, `rounds` times, every other round backwards.

    Parameters
    ----------
    works : mapping of str to callable
        By the names of their results.
    rounds : int
        How often.
    warm_up : bool
        Whether to do all once before, without keeping the results.
    """
    results: dict[str, list[_Result]] = {name: [] for name in works}
    if warm_up:
        for work in works.values():
            work()
    for number in range(rounds):
        names = list(works)
        for name in names if number % 2 == 0 else names[::-1]:
            results[name].append(works[name]())
    return results


def ratio_of_pairs(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Give the median of the pairs' ratios, which a machine that is slower for a while changes least."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=False))


def print_runs(
    runs: Mapping[str, Sequence[Run]], *, ours: str, more: Mapping[str, str] | None = None
) -> None:
    """Print the medians of the runs of several processes, and how long one takes beside the others.

    Parameters
    ----------
    runs : mapping of str to sequence of Run
        One of each in every round.
    ours : str
        The process whose time is divided by the others'.
    more : mapping of str to str, optional
        What else there is to say of a process, in a column of its own.
    """
    more = more or {}
    rows = []
    for name, all_of_it in runs.items():
        seconds = [one.seconds for one in all_of_it]
        rows.append(
            [
                name,
                f"{statistics.median(seconds):.2f} s",
                f"{min(seconds):.2f} to {max(seconds):.2f}",
                str(len(seconds)),
                mebibytes(median_known(one.anonymous for one in all_of_it)),
                mebibytes(median_known(one.resident for one in all_of_it)),
                "" if name == ours else f"{ratio_of_pairs([one.seconds for one in runs[ours]], seconds):.3f}",
                *([more.get(name, "")] if more else ()),
            ]
        )
    columns = ["", "median", "range", "runs", "anonymous", "resident", f"{ours} / it"]
    print_table([*columns, ""] if more else columns, rows)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print cells under their columns, the first to the left, the others to the right; rows may be short."""
    full = [[*row, *[""] * (len(columns) - len(row))] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    for row in full:
        cells = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        print("  ".join([f"{row[0]:<{widths[0]}}", *cells]).rstrip())
    sys.stdout.flush()


def print_setting(**facts: object) -> None:
    """Print what the figures hold for: the machine, the threads, the versions, and these facts."""
    machine = f"{os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '')}".rstrip("=")
    told = {"machine": f"{platform.machine()}, {machine}", "python": platform.python_version(), **facts}
    width = max(map(len, told))
    for name, value in told.items():
        print(f"{name.replace('_', ' '):<{width}}  {value}")
    print(flush=True)


def mebibytes(size: float | None) -> str:
    """Write a size in MiB."""
    return "unknown" if size is None else f"{size:,.0f} MiB"


def file_mebibytes(path: Path) -> float:
    """Give the size of a file, or of all files of a folder, in MiB."""
    files = [path] if path.is_file() else [inner for inner in path.rglob("*") if inner.is_file()]
    return sum(file.stat().st_size for file in files) / _UNIT


def median_known(values: Iterable[float | None]) -> float | None:
    """Give the median of what is known of the values."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def installed(module: str) -> bool:
    """Say whether a peer can be imported."""
    return importlib.util.find_spec(module) is not None


def peer(module: str) -> Any:
    """Import a peer, of whose types nothing is known."""
    return importlib.import_module(module)
