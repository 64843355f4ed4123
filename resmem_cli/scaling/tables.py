"""A plan as tables: artifacts, steps, one query, what does not fit; and a simulation's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from resmem_cli.indexes.choice import AXES
from resmem_cli.indexes.plan import PRODUCTS
from resmem_cli.memory_size import memory_text
from resmem_cli.results import Cell, Column, ResultTable, Unit
from resmem_cli.scaling.costs import ENTRIES, QueryCost, Step
from resmem_cli.scaling.layout import (
    embeddings_bytes,
    index_bytes,
    planned_bytes,
    predictions_bytes,
    reduced_columns,
    residuals_bytes,
    with_kind,
)
from resmem_cli.scaling.limits import Break, fits_in
from resmem_cli.scaling.simulation import SimulatedRuns, StepTasks, Workers, ideal_seconds
from resmem_cli.scaling.sizes import DEFAULT_TOP, Machines, MemorySize, count_text
from resmem_cli.scaling.task_times import StepTimes

_HOUR = 3600
_OTHER_KINDS = ("exact", "ivf", "ivf-rabitq", "ivf-pq")
_NOT_KNOWN = "embed is left out: give --flops-per-row, such as 2 for each parameter of the network"


def artifacts_table(size: MemorySize, machines: Machines) -> ResultTable:
    """List the artifacts with their bytes, all of them together, and what other choices would take."""
    sizes = planned_bytes(size)
    rows: list[tuple[Cell, ...]] = []

    def add(name: str, n_bytes: float, n: int) -> None:
        rows.append((name, n_bytes, n_bytes / n, fits_in(n_bytes, machines)))

    logits = "all logits" if size.top is None else f"{size.top} logits"
    entries = "all entries" if size.top is None else f"{size.top} entries"
    scores = "all scores" if size.top_scores is None else f"{size.top_scores} scores"
    add(f"embeddings, {size.storage.value}, {logits}", sizes["embeddings"], size.rows)
    add(f"residuals, {entries}", sizes["residuals"], size.rows)
    add(f"index, {size.kind}", sizes["index"], size.rows)
    add(f"predictions of {size.queries:,} queries, {scores}", sizes["predictions"], size.queries)
    add("all of these", sum(sizes.values()), size.rows)
    for name, n_bytes, n in _alternatives(size):
        add(f"or {name}", n_bytes, n)
    return ResultTable(
        "artifacts",
        f"Artifacts of {size.rows:,} rows of {size.dimensions:,} dimensions, {size.classes:,} classes",
        (
            Column("artifact", Unit.TEXT),
            Column("size", Unit.BYTES),
            Column("a row", Unit.BYTES),
            Column("fits in", Unit.TEXT),
        ),
        tuple(rows),
        _columns_note(size),
    )


def steps_table(size: MemorySize, machines: Machines, steps: Sequence[Step]) -> ResultTable:
    """List the steps with operations, bytes, tasks and hours."""
    rows = [
        (
            step.name,
            step.operations or None,
            step.read_bytes,
            step.written_bytes,
            step.tasks,
            step.task_seconds,
            step.seconds,
        )
        for step in steps
    ]
    total = sum(step.seconds for step in steps)
    notes = [
        f"Bytes a second: {memory_text(machines.disk_bandwidth)} from each machine to the storage, "
        f"{memory_text(machines.shared_bandwidth)} from all, {memory_text(machines.network_bandwidth)} "
        f"between them. Estimates from what one core was measured to do ({count_text(PRODUCTS)}FLOP/s in "
        f"products of matrices, {count_text(ENTRIES)} entries of logits a second), good to a factor of 2 or "
        "3. Tasks that can be done at the same time are shards, but for index-learn."
    ]
    if steps[0].name != "embed":
        notes.append(_NOT_KNOWN + ".")
    return ResultTable(
        "steps",
        f"Steps on {machines.text()}",
        (
            Column("step", Unit.TEXT),
            Column("FLOP"),
            Column("reads", Unit.BYTES),
            Column("writes", Unit.BYTES),
            Column("tasks", Unit.COUNT),
            Column("computes a task", Unit.SECONDS),
            Column("time", Unit.SECONDS),
        ),
        (*rows, ("all", None, None, None, None, None, total)),
        tuple(notes),
    )


def query_table(size: MemorySize, cost: QueryCost) -> ResultTable:
    """List what one query of many takes."""
    found = "all neighbours" if size.kind == "exact" else "about 95 % of the neighbours"
    rows: tuple[tuple[Cell, ...], ...] = (
        ("search", cost.operations, cost.compared_bytes, cost.search_seconds),
        ("mixing", None, None, cost.mixing_seconds),
        ("disk", None, cost.disk_bytes, cost.disk_seconds),
        ("network", None, cost.network_bytes, cost.network_seconds),
        ("all", None, None, cost.seconds),
    )
    return ResultTable(
        "query",
        f"One query of {size.queries:,}, k = {size.k}, {size.kind}: {found}",
        (
            Column("part", Unit.TEXT),
            Column("FLOP"),
            Column("bytes", Unit.BYTES),
            Column("time", Unit.SECONDS),
        ),
        rows,
    )


def limits_table(breaks: Sequence[Break]) -> ResultTable:
    """List what does not fit, with what helps."""
    rows = [(one.what, one.needs, one.of, one.has, one.remedy) for one in breaks]
    return ResultTable(
        "limits",
        "Where the budget breaks" if rows else "Everything fits: memory, disk and hours",
        tuple(Column(name, Unit.TEXT) for name in ("what", "needs", "does not fit", "has", "remedy")),
        tuple(rows),
    )


def simulation_tables(
    steps: Sequence[StepTasks], runs: Mapping[int, SimulatedRuns], workers: Workers
) -> tuple[ResultTable, ResultTable]:
    """Set the simulated wall times beside the ideal, whole and by step.

    Parameters
    ----------
    steps : sequence of StepTasks
    runs : mapping of int to SimulatedRuns
        By the number of workers.
    workers : Workers
        What befalls them; its count is not used.
    """
    whole: list[tuple[Cell, ...]] = []
    for count, run in runs.items():
        own = replace(workers, count=count)
        ideal = sum(ideal_seconds(step, own) for step in steps)
        low, median, high = (float(value) for value in np.percentile(run.seconds, (5, 50, 95)))
        whole.append(
            (
                count,
                ideal,
                median,
                low,
                high,
                ideal / median,
                float((run.busy_seconds / (count * run.seconds)).mean()),
                float(run.repeated.mean()),
                float(run.given_up.mean()),
            )
        )
    by_step: list[tuple[Cell, ...]] = [
        (
            step.name,
            step.n_tasks,
            step.seconds,
            step.n_bytes,
            *(float(np.median(run.step_seconds[:, place])) for run in runs.values()),
        )
        for place, step in enumerate(steps)
    ]
    n_runs = len(next(iter(runs.values())).busy_seconds)
    note = (
        f"{n_runs:,} repetitions. Computing takes exp({workers.spread:.3g} z) times as long, z normal; a "
        f"worker is {workers.slow_factor:g} times as slow with probability {workers.slow_share:g}; a working "
        f"one is lost every {workers.seconds_to_failure / _HOUR:g} hours on average, its running task is "
        f"done again, and it is replaced after {workers.restart_seconds / 60:g} minutes. Given up: runs in "
        f"which a task was lost more than {workers.retries} times. Ideal: work shared out evenly, nothing "
        "slow or lost; efficiency: ideal / median."
    )
    return (
        ResultTable(
            "simulation",
            "Simulated wall time of the whole run",
            (
                Column("workers", Unit.COUNT),
                Column("ideal", Unit.SECONDS),
                Column("median", Unit.SECONDS),
                Column("5 %", Unit.SECONDS),
                Column("95 %", Unit.SECONDS),
                Column("efficiency", Unit.SHARE),
                Column("busy", Unit.SHARE),
                Column("repeated tasks"),
                Column("given up", Unit.SHARE),
            ),
            tuple(whole),
            (note,),
        ),
        ResultTable(
            "simulation_steps",
            "The same by step: medians",
            (
                Column("step", Unit.TEXT),
                Column("tasks", Unit.COUNT),
                Column("computes a task", Unit.SECONDS),
                Column("bytes a task", Unit.BYTES),
                *(Column(_workers_text(count), Unit.SECONDS) for count in runs),
            ),
            tuple(by_step),
        ),
    )


def times_table(times: Mapping[str, StepTimes], steps: Sequence[Step]) -> ResultTable:
    """List what tasks were measured to take, and what those of the plan are to take by that."""
    rows: list[tuple[Cell, ...]] = []
    far = [
        f"{name}: tasks of one size, much smaller than the plan's, were measured; what every task takes "
        "beside its work counts as work. Measure shards of two sizes, and larger ones."
        for name, own in times.items()
        if own.far
    ]
    for step in steps:
        own = times.get(step.name)
        if own is None:
            rows.append((step.name, 0, None, None, None, step.task_seconds, step.task_seconds))
        else:
            told = (own.tasks, own.median_seconds, own.fixed, own.factor)
            rows.append((step.name, *told, step.task_seconds, own.seconds))
    return ResultTable(
        "task_times",
        "Measured tasks",
        (
            Column("step", Unit.TEXT),
            Column("measured", Unit.COUNT),
            Column("median", Unit.SECONDS),
            Column("fixed", Unit.SECONDS),
            Column("factor"),
            Column("planned", Unit.SECONDS),
            Column("simulated", Unit.SECONDS),
        ),
        tuple(rows),
        (
            "A task takes fixed + factor · what the plan's formulas say of it, fitted where tasks of unlike "
            "sizes were measured; without a factor, as many times as long as it has more rows. Planned and "
            "simulated: a task of this plan, by the formulas and by that. What was measured includes reading "
            "and writing there; the simulation's bytes come on top.",
            *far,
        ),
    )


def _columns_note(size: MemorySize) -> tuple[str, ...]:
    columns = reduced_columns(size)
    if not columns or "axes" in size.parameters:
        return ()
    axes = max(r for r in AXES if 2 * r <= size.dimensions)
    most = replace(size, parameters={"axes": axes})
    none = replace(size, parameters={"axes": 0})
    return (
        f"Of the exact kind {columns} coordinates of each row are counted, to be searched first; `index` "
        f"chooses on a sample from none ({memory_text(index_bytes(none))} in all) to {axes + 1} "
        f"({memory_text(index_bytes(most))}).",
    )


def _workers_text(count: int) -> str:
    """Head the column of so many workers."""
    return "1 worker" if count == 1 else f"{count:,} workers"


def _alternatives(size: MemorySize) -> list[tuple[str, int, int]]:
    """Give what other ways of keeping the same take: name, bytes, and rows they are of."""
    if size.top is not None:
        other, logits, entries = replace(size, top=None), "all logits", "all entries"
    else:
        top = min(DEFAULT_TOP, size.classes)
        other, logits, entries = replace(size, top=top), f"{top} logits", f"{top} entries"
    found = []
    if size.classes > DEFAULT_TOP:
        found.append((f"embeddings, {logits}", embeddings_bytes(other), size.rows))
        found.append((f"residuals, {entries}", residuals_bytes(other), size.rows))
    for kind in _OTHER_KINDS:
        if kind != size.kind:
            found.append((f"index, {kind}", index_bytes(with_kind(size, kind)), size.rows))
    if size.top_scores is not None:
        every = replace(size, top_scores=None)
        found.append(("predictions, all scores", predictions_bytes(every), size.queries))
    return found
