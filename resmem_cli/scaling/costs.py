"""The operations, bytes and seconds of every step on several machines, and of one query."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from resmem_cli.indexes.counts import (
    HELD_OUT,
    SCALE_QUERIES,
    adding_operations,
    code_bytes,
    coding_seconds,
    measuring_operations,
    planned_lists,
    rotating_operations,
    training_operations,
    training_rows,
    visited_lists,
)
from resmem_cli.indexes.plan import FETCHED, FILE, SETTINGS, Plan, plan_index
from resmem_cli.scaling.layout import (
    embeddings_bytes,
    index_bytes,
    predictions_bytes,
    random_row_bytes,
    residual_row_bytes,
    residuals_bytes,
)
from resmem_cli.scaling.sizes import Machines, MemorySize

ENTRIES, TOP_ENTRIES = 150e6, 40e6
"""Logits that one core turns into residuals or scores a second, where all are kept and where the largest are.

Measured on one core of a machine of 2026: 170 to 190 million for residuals of 100 to 32,128 classes, 100 to
150 million for scores, 38 million of the 128 largest logits.
"""

SUMMED, TOP_SUMMED = 2.5e9, 0.2e9
"""Entries of neighbours' residuals that one core adds up a second, whole and of the largest, as measured."""

EXTRA_CANDIDATES = 32
"""What a shard gives of each query beyond its k nearest rows, to be ranked again."""

_CANDIDATE = 16  # bytes of a candidate that travels: its row and its distance
_TOGETHER = 1000  # queries that are compared with what is read from the disk, once it is
_HELD = 2  # a shard takes at most one part in so many of a machine's memory


@dataclass(frozen=True)
class Step:
    """One step of a pipeline.

    Attributes
    ----------
    name : str
        Such as `residualize`.
    operations : float
        Floating point operations of all rows, 0 where they are not what takes the time.
    machine_seconds : float
        What one machine would compute for.
    read_bytes, written_bytes : float
    tasks : int
        Parts that can be done at the same time.
    seconds : float
        On all machines.
    memory_bytes : float
        Anonymous memory of one machine, as far as it grows with the size.
    """

    name: str
    operations: float
    machine_seconds: float
    read_bytes: float
    written_bytes: float
    tasks: int
    seconds: float = 0
    memory_bytes: float = 0

    @property
    def task_seconds(self) -> float:
        """What one machine computes for one task."""
        return self.machine_seconds / self.tasks

    @property
    def task_bytes(self) -> float:
        """What one task reads and writes."""
        return (self.read_bytes + self.written_bytes) / self.tasks


@dataclass(frozen=True)
class QueryCost:
    """What one query of a large batch takes, on all machines together.

    Attributes
    ----------
    operations : float
        Floating point operations that compare it with centres, or with all rows.
    compared_bytes : float
        Codes or rows it is compared with.
    disk_bytes : float
        What is read from the disk for it.
    network_bytes : float
        What travels between machines for it.
    search_seconds, mixing_seconds, disk_seconds, network_seconds : float
        The parts of its time.
    """

    operations: float
    compared_bytes: float
    disk_bytes: float
    network_bytes: float
    search_seconds: float
    mixing_seconds: float
    disk_seconds: float
    network_seconds: float

    @property
    def seconds(self) -> float:
        """All of its time, where no part is done while another is."""
        return self.search_seconds + self.mixing_seconds + self.disk_seconds + self.network_seconds


def whole_plan(size: MemorySize, machines: Machines) -> Plan:
    """Estimate the index as if one machine built and searched it; see `plan_index`."""
    return plan_index(
        size.rows,
        size.dimensions,
        itemsize=size.itemsize,
        memory=machines.memory,
        kind=size.kind,
        parameters=size.parameters,
        threads=machines.cores,
    )


def part_plan(size: MemorySize, machines: Machines) -> Plan:
    """Estimate the part of the index that one of the machines searches: its share of every list."""
    lists = planned_lists(size.kind, size.rows, size.parameters)
    inverted = code_bytes(size.kind, size.dimensions, size.parameters) is not None
    return plan_index(
        math.ceil(size.rows / machines.count),
        size.dimensions,
        itemsize=size.itemsize,
        memory=machines.memory,
        kind=size.kind,
        parameters={**size.parameters, **({"lists": lists} if inverted else {})},
        threads=machines.cores,
    )


def query_cost(size: MemorySize, machines: Machines) -> QueryCost:
    """Estimate one query of a large batch.

    Every machine compares every query with its share of the rows: `plan_index(...).query_seconds` of n /
    machines rows, and of all l lists. Then it mixes, which the machines share: a softmax of C entries at
    150 M a second and core, and sums of k · C entries at 2,500 M, or of k · m at 200 M where m of each are
    kept.

    - Network, where there are several machines: d float32 to each of them, k + 32 candidates of 16 bytes
      from each, and the residuals of k rows.
    - Disk: pages of 4 KiB of k residuals, where the machines' memory does not hold these and what is
      searched; those of 160 rows that are compared by true distances, where it does not hold codes and rows;
      and where it does not hold the codes (of the exact kind, the rows), those that a query visits, or all
      rows once for every 1,000 queries.
    """
    n, d, k = size.rows, size.dimensions, size.k
    whole, part = whole_plan(size, machines), part_plan(size, machines)
    memory = machines.count * machines.memory
    lists, code = planned_lists(size.kind, n, size.parameters), code_bytes(size.kind, d, size.parameters)
    row, residual = d * size.itemsize, residual_row_bytes(size)
    if size.kind == "hnsw":
        operations, compared = 0.0, 0.0
    elif code is None:
        operations, compared = 2.0 * n * d, float(n * row)
    else:
        operations = 2.0 * lists * d + rotating_operations(d, size.kind)
        compared = visited_lists(lists) / lists * n * code
    disk = 0.0 if searched_bytes(size) + n * residual <= memory else float(k * random_row_bytes(residual))
    if code is not None and whole.search_bytes + n * row > memory:
        disk += FETCHED * random_row_bytes(row)
    if searched_bytes(size) > memory:
        disk += compared / (_TOGETHER if code is None else 1)
    network = 0.0
    if machines.count > 1:
        network = machines.count * (4.0 * d + (k + EXTRA_CANDIDATES) * _CANDIDATE) + k * residual
    sums = k * size.classes / SUMMED if size.top is None else k * size.top / TOP_SUMMED
    return QueryCost(
        operations=operations,
        compared_bytes=compared,
        disk_bytes=disk,
        network_bytes=network,
        search_seconds=part.query_seconds,
        mixing_seconds=(size.classes / ENTRIES + sums) / (machines.cores * machines.count),
        disk_seconds=disk / machines.together,
        network_seconds=network / machines.network_bandwidth,
    )


def searched_bytes(size: MemorySize) -> float:
    """Count what a search reads again and again: rows of the exact kind and of hnsw, codes of the others."""
    code = code_bytes(size.kind, size.dimensions, size.parameters)
    if code is None:
        return float(size.rows * size.dimensions * size.itemsize)
    lists = planned_lists(size.kind, size.rows, size.parameters)
    return float(size.rows * (code + 8) + 4 * lists * size.dimensions)


def planned_shards(size: MemorySize, machines: Machines, *, flops_per_row: float | None) -> int:
    """Choose how many shards a memory is cut into.

    As many as make the longest step's tasks last `task_seconds` on one machine, and as have what is searched
    of each shard in half a machine's memory; of several, a multiple of the machines, that all have work.
    """
    steps = _row_steps(size, machines, flops_per_row)
    longest = max(step.machine_seconds for step in steps if step.tasks != 1)
    wanted = max(longest / machines.task_seconds, searched_bytes(size) / (machines.memory / _HELD))
    shards = max(1, math.ceil(min(wanted, size.rows)))
    if shards > 1:
        shards = machines.count * math.ceil(shards / machines.count)
    return min(shards, size.rows)


def planned_steps(size: MemorySize, machines: Machines, *, flops_per_row: float | None = None) -> list[Step]:
    """Estimate every step of a pipeline.

    Seconds on M machines are those of one machine, divided by M or by the tasks where these are fewer, and
    the bytes read and written at the bandwidth of the machines, or of the storage if that is less: nothing is
    done while something else is. Centres are learnt on one machine.

    - embed: `flops_per_row` operations a row; left out without.
    - residualize: C entries a row at 150 M a second and core, or m at 40 M, where the m largest logits are
      all there are. One process keeps one core busy; a machine is to have a task for each of its cores.
    - index-learn: k-means, 10 rounds of 2 · l · d operations for each of 64 · l rows.
    - index-add: 2 · l · d operations a row for its nearest centre, and, where rows are rotated, 4 · d² for
      that; coding; rows are read, and written with codes.
    - index-measure: 2 · n · d operations for each of 1,000 exact searches, and 41,000 of the kind's own.
    - predict: see `query_cost`.

    They are those of `plan_index`, with its rates.

    Parameters
    ----------
    size : MemorySize
    machines : Machines
    flops_per_row : float, optional
        Of the network, such as 2 for each of its parameters.
    """
    shards = planned_shards(size, machines, flops_per_row=flops_per_row)
    query = query_cost(size, machines)
    steps = [
        _timed(step, machines, min(shards, step.tasks) if step.tasks else shards)
        for step in _row_steps(size, machines, flops_per_row)
    ]
    computing = query.search_seconds + query.mixing_seconds
    reading = size.queries * query.disk_bytes + size.queries * size.dimensions * size.itemsize
    predict = Step(
        "predict",
        operations=size.queries * query.operations,
        machine_seconds=size.queries * computing * machines.count,
        read_bytes=max(reading, min(searched_bytes(size), machines.count * machines.memory)),
        written_bytes=predictions_bytes(size),
        tasks=shards,
        seconds=size.queries * query.seconds,
    )
    return [*steps, predict]


def _row_steps(size: MemorySize, machines: Machines, flops_per_row: float | None) -> list[Step]:
    """Give the steps that go through the rows, without their times; those of one task have 1, others 0."""
    n, cores = size.rows, machines.cores
    embeddings, residuals = float(embeddings_bytes(size)), float(residuals_bytes(size))
    residualizing = n * (size.classes / ENTRIES if size.top is None else size.top / TOP_ENTRIES) / cores
    steps = []
    if flops_per_row is not None:
        rate = machines.embed_rate or machines.product_rate
        steps.append(Step("embed", n * flops_per_row, n * flops_per_row / rate, 0, embeddings, 0))
    steps.append(Step("residualize", 0, residualizing, embeddings, residuals, 0))
    return steps + (_list_steps if _is_inverted(size) else _other_steps)(size, machines)


def _list_steps(size: MemorySize, machines: Machines) -> list[Step]:
    n, d, rate = size.rows, size.dimensions, machines.product_rate
    lists = planned_lists(size.kind, n, size.parameters)
    learning, adding = training_operations(n, d, lists), adding_operations(n, d, lists, kind=size.kind)
    coding = coding_seconds(n, d, size.kind, size.parameters) / machines.cores
    measuring = measuring_operations(n, d, lists)
    rows = float(n * d * size.itemsize)
    sample = training_rows(n, lists)
    sample_pages = min(rows, float(sample * random_row_bytes(d * size.itemsize)))
    # Codes and rows are written to a temporary file first, and read from there.
    entries = index_bytes(size) - rows
    own = (SCALE_QUERIES + SETTINGS * HELD_OUT) * whole_plan(size, machines).query_seconds
    return [
        Step(
            "index-learn",
            learning,
            learning / rate,
            sample_pages,
            0,
            1,
            memory_bytes=4.0 * d * (sample + 4 * lists),
        ),
        Step("index-add", adding, adding / rate + coding, rows + entries, rows + entries, 0),
        Step("index-measure", measuring, measuring / rate + own, rows, 0, 0),
    ]


def _other_steps(size: MemorySize, machines: Machines) -> list[Step]:
    n, d = size.rows, size.dimensions
    rows, planned = float(n * d * size.itemsize), whole_plan(size, machines)
    measuring = measuring_operations(n, d, None)
    seconds = measuring / machines.product_rate
    building, memory = 0.0, 0.0
    if size.kind == "hnsw":
        reading = 2 * planned.disk_bytes / FILE
        building = max(0.0, (planned.build_seconds or 0) - seconds - reading)
        memory = planned.build_bytes / machines.count
    added = float(index_bytes(size))
    return [
        Step("index-add", 0, building, rows, added, 0, memory_bytes=memory),
        Step("index-measure", measuring, seconds, rows, 0, 0),
    ]


def _is_inverted(size: MemorySize) -> bool:
    return code_bytes(size.kind, size.dimensions, size.parameters) is not None


def _timed(step: Step, machines: Machines, tasks: int) -> Step:
    at_once = min(tasks, machines.count)
    bandwidth = min(at_once * machines.disk_bandwidth, machines.shared_bandwidth)
    seconds = step.machine_seconds / at_once + (step.read_bytes + step.written_bytes) / bandwidth
    return replace(step, tasks=tasks, seconds=seconds)
