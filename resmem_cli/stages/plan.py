"""`resmem plan`: what a memory of some size will take, and how long on workers that may slow down or die."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from resmem_cli.artifacts.temporary import make_folder, new_files
from resmem_cli.errors import OutputError, UsageError
from resmem_cli.results import ResultTable
from resmem_cli.scaling.costs import Step, planned_steps, query_cost
from resmem_cli.scaling.limits import broken_limits
from resmem_cli.scaling.simulation import StepTasks, Workers, simulate
from resmem_cli.scaling.sizes import Machines, MemorySize
from resmem_cli.scaling.tables import (
    artifacts_table,
    limits_table,
    query_table,
    simulation_tables,
    steps_table,
    times_table,
)
from resmem_cli.scaling.task_times import TaskTime, measured_spread, times_by_step
from resmem_cli.types import StageResult

DEFAULT_SPREAD = 0.2
"""Of the logarithms of times that equal tasks take."""

_MOST_WORKERS = 64


@dataclass(frozen=True)
class SimulationConfig:
    """What to simulate.

    Attributes
    ----------
    workers : tuple of int
        Numbers of workers, each of them a machine of the plan.
    repetitions : int
    seed : int
    befalls : Workers
        What slows workers down and takes them away; its count and bandwidths are not used.
    task_seconds : mapping of str to float
        What a task of a step takes to compute, where it was measured; steps by their names.
    task_times : tuple of TaskTime
        What tasks were measured to take, from which that of other steps is computed.
    measured_spread : bool
        Whether tasks take unequally long as those did, where there are enough of them.
    """

    workers: tuple[int, ...] = (8, 64, 256)
    repetitions: int = 200
    seed: int = 0
    befalls: Workers = field(
        default_factory=lambda: Workers(
            1,
            spread=DEFAULT_SPREAD,
            slow_share=0.05,
            slow_factor=2.0,
            seconds_to_failure=240 * 3600.0,
            restart_seconds=120.0,
            retries=3,
        )
    )
    task_seconds: Mapping[str, float] = field(default_factory=dict)
    task_times: tuple[TaskTime, ...] = ()
    measured_spread: bool = False


@dataclass(frozen=True)
class PlanConfig:
    """What to plan.

    Attributes
    ----------
    size : MemorySize
    machines : Machines
    flops_per_row : float or None
        Operations of the network for one row; None to leave `embed` out.
    simulation : SimulationConfig or None
    """

    size: MemorySize
    machines: Machines = field(default_factory=Machines)
    flops_per_row: float | None = None
    simulation: SimulationConfig | None = None


def plan_memory(
    config: PlanConfig, *, figures: Path | str | None = None, clobber: bool = True
) -> StageResult:
    """Estimate what a memory takes: bytes, operations, hours, shards, and where the budget breaks.

    Parameters
    ----------
    config : PlanConfig
    figures : pathlib.Path or str, optional
        A folder for the figure of the simulation.
    clobber : bool
        Whether existing figures may be replaced.

    Returns
    -------
    StageResult
        `summary["tables"]` holds the tables `artifacts`, `steps`, `query`, `limits`, and, of a simulation,
        `simulation`, `simulation_steps` and `task_times`; `summary["shards"]` and `summary["fits"]` the
        outcome.

    Raises
    ------
    UsageError
        If a value is out of range, or figures are asked for without a simulation.
    OutputError
        If a figure can't be written.
    """
    size, machines = config.size, config.machines
    size.check()
    machines.check()
    if config.flops_per_row is not None and not 0 < config.flops_per_row < math.inf:
        raise UsageError("--flops-per-row out of range", expected="above 0", found=config.flops_per_row)
    if figures is not None and config.simulation is None:
        raise UsageError("--figures draws the simulation", remedy="give --simulate too")
    folder = None if figures is None else Path(figures)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise OutputError("not a folder", file=folder)
    steps = planned_steps(size, machines, flops_per_row=config.flops_per_row)
    breaks = broken_limits(size, machines, steps)
    tables = [
        artifacts_table(size, machines),
        steps_table(size, machines, steps),
        query_table(size, query_cost(size, machines)),
        limits_table(breaks),
    ]
    if config.simulation is not None:
        tables += _simulated(config, config.simulation, steps)
    documents = [table.document() for table in tables]
    drawn = [] if folder is None else _draw(documents, folder, clobber=clobber)
    summary = {
        "size": {**asdict(size), "parameters": dict(size.parameters)},
        "machines": asdict(machines),
        "shards": max(step.tasks for step in steps),
        "fits": not breaks,
        "tables": documents,
        "figures": [str(path) for path in drawn],
    }
    return StageResult("plan", None, summary)


def _simulated(plan: PlanConfig, config: SimulationConfig, steps: list[Step]) -> list[ResultTable]:
    names = [step.name for step in steps]
    for name, seconds in config.task_seconds.items():
        if name not in names:
            raise UsageError("--task-seconds: no such step", expected=", ".join(names), found=name)
        if not 0 <= seconds < math.inf:
            raise UsageError("--task-seconds out of range", expected="at least 0", found=seconds)
    machines = plan.machines
    times = times_by_step(config.task_times, steps, plan.size, machines, flops_per_row=plan.flops_per_row)
    measured = {**{name: step.seconds for name, step in times.items()}, **config.task_seconds}
    tasks = [
        StepTasks(step.name, step.tasks, measured.get(step.name, step.task_seconds), step.task_bytes)
        for step in steps
    ]
    if not 1 <= len(config.workers) <= _MOST_WORKERS:
        raise UsageError(
            "--workers: too many values", expected=f"1 to {_MOST_WORKERS}", found=len(config.workers)
        )
    spread = measured_spread(times) if config.measured_spread else None
    befalls = replace(
        config.befalls,
        spread=config.befalls.spread if spread is None else spread,
        bandwidth=machines.disk_bandwidth,
        shared_bandwidth=machines.shared_bandwidth,
    )
    runs = {
        count: simulate(
            tasks, replace(befalls, count=count), repetitions=config.repetitions, seed=config.seed
        )
        for count in config.workers
    }
    tables = list(simulation_tables(tasks, runs, befalls))
    return tables if not config.task_times else [*tables, times_table(times, steps)]


def _draw(documents: list[dict[str, Any]], folder: Path, *, clobber: bool) -> list[Path]:
    from resmem_cli.plots import figure_files, study_figures  # matplotlib, which is not always needed

    drawn = study_figures("plan", {"tables": {table["name"]: table for table in documents}})
    make_folder(folder)
    files = {folder / name: content for name, content in figure_files(drawn)}
    with new_files(files, clobber=clobber):
        pass
    return list(files)
