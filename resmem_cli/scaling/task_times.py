"""What tasks of real runs took, one JSON line each, and what those of a plan would take by that."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, MissingInputError, OutputError, ResmemError
from resmem_cli.scaling.costs import Step, planned_steps
from resmem_cli.scaling.sizes import Machines, MemorySize
from resmem_cli.types import StorageType

SEARCH = "search"
"""A task that searches one shard of a memory: what a task of `predict` is in a plan."""

OF_QUERIES = ("predict", SEARCH, "tune")
"""Steps whose tasks are of queries, and whose memory is all there is."""

_MOST_BYTES = 64 << 20
_UNLIKE = 1.5  # times as much work in one task as in another tells what every task takes beside its work
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
    median_seconds, median_planned : float
        Of those.
    fixed, factor : float
    seconds : float
        Of a task of the plan.
    residuals : (tasks,) float64
        Logarithms of how much longer each took than fitted.
    """

    step: str
    tasks: int
    median_seconds: float
    median_planned: float
    fixed: float
    factor: float
    seconds: float
    residuals: NDArray[np.float64]


def append_task_times(path: Path, times: Iterable[TaskTime]) -> None:
    """Add lines to a file, which need not be there.

    Raises
    ------
    OutputError
        If it can't be written.
    """
    lines = "".join(json.dumps(asdict(time)) + "\n" for time in times)
    if not lines:
        return
    try:
        # All in one write to the end: what others write at the same time stays whole.
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(file, lines.encode())
        finally:
            os.close(file)
    except OSError as error:
        raise OutputError(f"can't be written: {error.strerror}", file=path) from error


def read_task_times(path: Path) -> list[TaskTime]:
    """Read what `append_task_times` has written.

    Raises
    ------
    MissingInputError, DataError
        If there is no such file, or a line is not one of a task.
    """
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
        own = [time for time in times if time.step == name]
        if own:
            planned = np.array([_planned(time, step.name, machines, flops_per_row) for time in own])
            work = step.task_seconds
            if not (planned > 0).all():
                # What only copies has no operations to plan with.
                planned, work = np.array([float(time.size.rows) for time in own]), size.rows / step.tasks
            found[step.name] = _fitted(step.name, np.array([time.seconds for time in own]), planned, work)
    return found


def measured_spread(times: Mapping[str, StepTimes]) -> float | None:
    """Give the standard deviation of the logarithms of tasks' times about those fitted; None of few tasks."""
    own = [step.residuals for step in times.values() if step.tasks >= _FEW]
    return math.sqrt(np.mean(np.concatenate(own) ** 2)) if own else None


def _fitted(name: str, seconds: NDArray[np.float64], planned: NDArray[np.float64], work: float) -> StepTimes:
    fixed, factor = 0.0, float(np.median(seconds / planned))
    if planned.max() >= _UNLIKE * planned.min():
        from scipy.optimize import nnls

        (fixed, factor), _ = nnls(np.stack([1 / seconds, planned / seconds], axis=1), np.ones(len(seconds)))
    fit = fixed + factor * planned
    return StepTimes(
        name,
        len(seconds),
        float(np.median(seconds)),
        float(np.median(planned)),
        float(fixed),
        float(factor),
        float(fixed + factor * work),
        np.log(seconds / fit),
    )


def _planned(time: TaskTime, step: str, machines: Machines, flops: float | None) -> float:
    """Give what the plan's formulas say of a task that was measured."""
    alone = Machines(cores=time.cores, embed_rate=machines.embed_rate)
    steps = planned_steps(time.size, alone, flops_per_row=flops)
    return next((one.machine_seconds for one in steps if one.name == step), 0.0)


def _time(told: Any) -> TaskTime:
    size = dict(told["size"])
    if set(size) != {field.name for field in fields(MemorySize)} or type(told["step"]) is not str:
        raise ValueError
    if type(size["kind"]) is not str or type(size["parameters"]) is not dict:
        raise ValueError
    whole = [told["cores"], *(size[name] for name in ("rows", "dimensions", "classes", "k", "queries"))]
    whole += [size[name] for name in ("top", "top_scores") if size[name] is not None]
    if not all(type(value) is int and value > 0 for value in whole):
        raise ValueError
    time = TaskTime(
        told["step"],
        float(told["seconds"]),
        told["cores"],
        MemorySize(**{**size, "storage": StorageType(size["storage"])}),
    )
    if not 0 < time.seconds < math.inf:
        raise ValueError
    # A shard may have more lists than rows.
    lists = size["parameters"].get("lists", 1)
    MemorySize(**{**asdict(time.size), "rows": max(time.size.rows, lists)}).check()
    Machines(cores=time.cores).check()
    return time
