"""What tasks of real runs took, one JSON line each, and what those of a plan would take by that."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, MissingInputError, OutputError, ResmemError, UsageError
from resmem_cli.scaling.costs import Step, planned_steps, query_cost
from resmem_cli.scaling.sizes import Machines, MemorySize
from resmem_cli.types import StorageType

SEARCH = "search"
"""A task that searches one shard of a memory: what a task of `predict` is in a plan."""

OF_QUERIES = ("predict", SEARCH)
"""Steps whose tasks are of queries, and whose memory is all there is."""

_OF_A_KIND = ("index-learn", "index-add", *OF_QUERIES)

_MOST_BYTES = 64 << 20
_LEAST_SECONDS, _MOST_SECONDS = 1e-6, 1e9
_MOST_SPREAD = 3.0
_UNLIKE = 1.5  # times as much work in one task as in another tells what every task takes beside its work
_FAR = 30  # times as much work, where what a task takes beside it may be most of what was measured
_DEFAULT_BITS = 4
_FEW = 4  # tasks from which no spread is told
_REMEDY = "make it anew, with --scheduler and --task-times"


@dataclass(frozen=True)
class TaskTime:
    """One task that was done.

    Attributes
    ----------
    step : str
        As in a plan, or `search`.
    seconds : float
    cores : int
        That it could use.
    size : MemorySize
        What it worked on: its rows, or all rows of the memory that its `queries` were compared with.
    """

    step: str
    seconds: float
    cores: int
    size: MemorySize


@dataclass(frozen=True)
class StepTimes:
    """What tasks of one step took, and a task of a plan would.

    A task takes fixed + factor · planned, `planned` being what the plan's formulas say of it. Both are
    fitted to relative differences where tasks of unlike sizes were measured, else `fixed` is 0.

    Attributes
    ----------
    step : str
    tasks : int
        Measured ones.
    median_seconds : float
        Of those.
    fixed : float
    factor : float or None
        None where there is nothing to compute, and a task is scaled by its rows.
    seconds : float
        Of a task of the plan.
    far : bool
        Whether that is of much more work than was measured, and `fixed` could not be told.
    residuals : (tasks,) float64
        Logarithms of how much longer each took than fitted.
    """

    step: str
    tasks: int
    median_seconds: float
    fixed: float
    factor: float | None
    seconds: float
    far: bool
    residuals: NDArray[np.float64]


def check_task_times(path: Path, others: Iterable[Path]) -> None:
    """Make sure that lines can be added to a file, before what takes the times begins.

    Parameters
    ----------
    path : pathlib.Path
        A file of such lines, or none.
    others : iterable of pathlib.Path
        Files of the same command, of which it may be none.

    Raises
    ------
    UsageError
        If it is one of them.
    DataError
        If it holds something else.
    OutputError
        If it can't be written.
    """
    if any(path.absolute() == other.absolute() or _is_same(path, other) for other in others):
        raise UsageError("--task-times is a file of this command", file=path, remedy="name another file")
    if not os.path.lexists(path):
        folder = path.absolute().parent
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise OutputError("can't be written: no folder that may be written to", file=path)
    elif not path.is_file() or not os.access(path, os.W_OK):
        raise OutputError("can't be written: no file that may be written to", file=path)
    elif path.stat().st_size:
        read_task_times(path)


def append_task_times(path: Path, times: Iterable[TaskTime]) -> None:
    """Add lines to a file, which need not be there.

    Raises
    ------
    OutputError
        If it can't be written.
    """
    lines = "".join(json.dumps(asdict(time)) + "\n" for time in times).encode()
    if not lines:
        return
    try:
        with open(path, "ab+", buffering=0) as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                lines = lines if file.read(1) == b"\n" else b"\n" + lines
            # All in one write to the end: what others write at the same time stays whole.
            if file.write(lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise OutputError(f"can't be written: {error.strerror}", file=path) from error


def read_task_times(path: Path) -> list[TaskTime]:
    """Read what `append_task_times` has written.

    Raises
    ------
    MissingInputError, DataError
        If there is no such file, or a line is not one of a task.
    """
    if not path.is_file():
        raise MissingInputError("a folder, not a file" if path.is_dir() else "no such file", file=path)
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise MissingInputError(f"can't be read: {error.strerror}", file=path) from error
    if len(content) > _MOST_BYTES:
        raise DataError("too long for times of tasks", file=path, expected=f"up to {_MOST_BYTES:,} bytes")
    times = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            times.append(_time(json.loads(line)))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, ResmemError) as error:
            raise DataError("no time of a task", file=path, field=f"line {number}", remedy=_REMEDY) from error
    if not times:
        raise DataError("has no times of tasks", file=path, remedy=_REMEDY)
    return times


def can_be_planned(size: MemorySize) -> bool:
    """Tell whether a plan could be of this size; a shard may have more lists than rows."""
    lists = size.parameters.get("lists")
    n = max(size.rows, lists) if type(lists) is int else size.rows
    try:
        replace(size, rows=n).check()
    except UsageError:
        return False
    return True


def times_by_step(
    times: Sequence[TaskTime],
    steps: Sequence[Step],
    size: MemorySize,
    machines: Machines,
    *,
    flops_per_row: float | None = None,
) -> dict[str, StepTimes]:
    """Tell for the steps of a plan that were measured what a task takes.

    Parameters
    ----------
    times : sequence of TaskTime
        Those of other steps are left aside. Of `predict` those of `search` are taken, if there are any.
    steps : sequence of Step
        The plan.
    size, machines
        Of the plan.
    flops_per_row : float, optional
        Operations of the network for one row.
    """
    searched = any(time.step == SEARCH for time in times)
    found = {}
    for step in steps:
        name = SEARCH if searched and step.name == "predict" else step.name
        own = [time for time in times if time.step == name and _is_alike(time, size)]
        copies = step.machine_seconds == 0
        # What only copies has no operations to plan with.
        work = (
            np.array([float(time.size.rows) for time in own])
            if copies
            else _planned(own, step.name, machines, flops_per_row)
        )
        seconds = np.array([time.seconds for time in own])[work > 0]
        work = work[work > 0]
        if not len(work):
            continue
        if copies:
            found[step.name] = replace(_fitted(step.name, seconds, work, size.rows / step.tasks), factor=None)
            continue
        mixing = _mixing_share(size, machines) * step.task_seconds if name == SEARCH else 0.0
        fitted = _fitted(step.name, seconds, work, step.task_seconds - mixing)
        found[step.name] = replace(fitted, seconds=fitted.seconds + mixing)
    return found


def measured_spread(times: Mapping[str, StepTimes]) -> float | None:
    """Give the standard deviation of the logarithms of tasks' times about those fitted; None of few tasks.

    Raises
    ------
    UsageError
        If they differ too much for a simulation to mean anything.
    """
    own = [step.residuals for step in times.values() if step.tasks >= _FEW]
    if not own:
        return None
    spread = math.sqrt(np.mean(np.concatenate(own) ** 2))
    if spread > _MOST_SPREAD:
        raise UsageError("times of tasks differ too much to tell their spread", remedy="give --spread")
    return spread


def _fitted(name: str, seconds: NDArray[np.float64], planned: NDArray[np.float64], work: float) -> StepTimes:
    fixed, factor = 0.0, float(np.median(seconds / planned))
    unlike = planned.max() >= _UNLIKE * planned.min()
    if unlike:
        from scipy.optimize import nnls

        (fixed, factor), _ = nnls(np.stack([1 / seconds, planned / seconds], axis=1), np.ones(len(seconds)))
    fit = fixed + factor * planned
    return StepTimes(
        name,
        len(seconds),
        float(np.median(seconds)),
        float(fixed),
        float(factor),
        float(fixed + factor * work),
        bool(not unlike and work > _FAR * planned.max()),
        np.log(seconds / fit),
    )


def _is_alike(time: TaskTime, size: MemorySize) -> bool:
    """Tell whether a task says something of a plan: of an index, one of the same kind and bits does."""
    if time.step not in _OF_A_KIND:
        return True
    own, other = ((one.kind, one.parameters.get("bits", _DEFAULT_BITS)) for one in (time.size, size))
    return own == other


def _planned(
    times: Sequence[TaskTime], step: str, machines: Machines, flops_per_row: float | None
) -> NDArray[np.float64]:
    """Give what the plan's formulas say of tasks that were measured, (m,), asked once of equal ones."""
    known: dict[tuple[int, str], float] = {}
    planned = np.empty(len(times))
    for place, time in enumerate(times):
        key = time.cores, repr(time.size)
        if key not in known:
            known[key] = _planned_alone(time, step, machines, flops_per_row)
        planned[place] = known[key]
    return planned


def _planned_alone(time: TaskTime, step: str, machines: Machines, flops_per_row: float | None) -> float:
    alone = Machines(cores=time.cores, embed_rate=machines.embed_rate)
    if time.step == SEARCH:
        return time.size.queries * query_cost(time.size, alone).search_seconds
    steps = planned_steps(time.size, alone, flops_per_row=flops_per_row)
    return next((one.machine_seconds for one in steps if one.name == step), 0.0)


def _mixing_share(size: MemorySize, machines: Machines) -> float:
    """Give the part of a task of `predict` that is not search."""
    cost = query_cost(size, machines)
    return cost.mixing_seconds / (cost.mixing_seconds + cost.search_seconds)


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def _time(told: Any) -> TaskTime:
    size = dict(told["size"])
    if set(told) != {field.name for field in fields(TaskTime)}:
        raise ValueError
    if set(size) != {field.name for field in fields(MemorySize)} or type(told["step"]) is not str:
        raise ValueError
    if type(size["kind"]) is not str or type(size["parameters"]) is not dict:
        raise ValueError
    whole = [told["cores"], *(size[name] for name in ("rows", "dimensions", "classes", "k", "queries"))]
    whole += [size[name] for name in ("top", "top_scores") if size[name] is not None]
    if not all(type(value) is int and value > 0 for value in whole):
        raise ValueError
    seconds = told["seconds"]
    if type(seconds) not in (int, float) or not _LEAST_SECONDS <= seconds <= _MOST_SECONDS:
        raise ValueError
    of = MemorySize(**{**size, "storage": StorageType(size["storage"])})
    Machines(cores=told["cores"]).check()
    if not can_be_planned(of):
        raise ValueError
    return TaskTime(told["step"], float(seconds), told["cores"], of)
