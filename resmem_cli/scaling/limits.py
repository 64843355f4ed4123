"""Where a plan breaks: what does not fit the memory, the disks or the hours there are, and what helps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from resmem_cli.indexes.counts import code_bytes, planned_lists, training_rows
from resmem_cli.indexes.plan import time_text
from resmem_cli.memory_size import memory_text
from resmem_cli.scaling.costs import Step, searched_bytes, whole_plan
from resmem_cli.scaling.layout import planned_bytes, with_kind
from resmem_cli.scaling.sizes import DEFAULT_TOP, Machines, MemorySize, count_text
from resmem_cli.types import StorageType

_SAMPLE_SHARE = 8  # `index` gives its sample one part in so many of the memory


@dataclass(frozen=True)
class Break:
    """One thing that does not fit.

    Attributes
    ----------
    what : str
        The artifact or the step.
    needs, has : str
        How much, and how much of it there is.
    of : str
        What it does not fit.
    remedy : str
    """

    what: str
    needs: str
    of: str
    has: str
    remedy: str


def broken_limits(size: MemorySize, machines: Machines, steps: Sequence[Step]) -> list[Break]:
    """Find all that does not fit.

    - All artifacts against the disks of all machines.
    - What a search reads again and again (codes of lists, of other kinds the rows) against the memory of all
      machines.
    - The sample that centres are learnt from against an eighth of one machine's memory, which `index` gives
      it; a graph against the memory of the machines, for it is built there.
    - Each step against the hours it may take.

    Parameters
    ----------
    size : MemorySize
    machines : Machines
    steps : sequence of Step
        From `planned_steps`.
    """
    return [
        *_disk(size, machines),
        *_search(size, machines),
        *_build(size, machines, steps),
        *_time(size, machines, steps),
    ]


def fits_in(n_bytes: float, machines: Machines) -> str:
    """Name the least place that holds so many bytes."""
    several = machines.count > 1
    places = [
        (machines.memory, "memory" if not several else "memory of one"),
        (machines.memory * machines.count, f"memory of {machines.count:,}"),
        (machines.disk, "disk" if not several else "disk of one"),
        (machines.disk * machines.count, f"disks of {machines.count:,}"),
    ]
    return next((name for room, name in places if n_bytes <= room), "nowhere")


def _disk(size: MemorySize, machines: Machines) -> Iterator[Break]:
    needs, has = sum(planned_bytes(size).values()), machines.disk * machines.count
    if needs <= has:
        return
    remedies = []
    smaller = size
    if size.top is None and size.classes > DEFAULT_TOP:
        smaller = replace(smaller, top=DEFAULT_TOP, top_scores=None)
        remedies.append(f"--top {DEFAULT_TOP}")
    if size.storage == StorageType.FLOAT32:
        smaller = replace(smaller, storage=StorageType.FLOAT16)
        remedies.append("--storage float16")
    least = sum(planned_bytes(smaller).values())
    if remedies:
        remedies = [f"{' and '.join(remedies)} ({memory_text(least)} in all)"]
    if least > has:
        remedies.append(f"{math.ceil(least / machines.disk):,} machines")
    yield Break("all artifacts", memory_text(needs), _of(machines, "disk"), memory_text(has), _all(remedies))


def _search(size: MemorySize, machines: Machines) -> Iterator[Break]:
    needs, has = searched_bytes(size), machines.memory * machines.count
    if needs <= has:
        return
    inverted = code_bytes(size.kind, size.dimensions, size.parameters) is not None
    what = "codes that a search reads" if inverted else "rows that a search reads"
    remedies = []
    codes = searched_bytes(with_kind(size, "ivf-pq"))
    if codes < needs and size.kind != "ivf-pq":
        remedies.append(f"--kind ivf-pq ({memory_text(codes)})")
    elif size.kind == "ivf-pq" and size.dimensions % 4 == 0 and "subquantizers" not in size.parameters:
        coarser = replace(size, parameters={**size.parameters, "subquantizers": size.dimensions // 4})
        remedies.append(
            f"--subquantizers {size.dimensions // 4} ({memory_text(searched_bytes(coarser))}, less recall)"
        )
    remedies.append(f"{math.ceil(needs / machines.memory):,} machines")
    yield Break(what, memory_text(needs), _of(machines, "memory"), memory_text(has), _either(remedies))


def _build(size: MemorySize, machines: Machines, steps: Sequence[Step]) -> Iterator[Break]:
    if size.kind == "hnsw":
        # All of it is built in memory, each machine its share.
        needs, has = whole_plan(size, machines).build_bytes, machines.memory * machines.count
        if needs > has:
            remedies = ["--kind ivf-pq", f"{math.ceil(needs / machines.memory):,} machines"]
            yield Break(
                "graph, while it is built",
                memory_text(needs),
                _of(machines, "memory"),
                memory_text(has),
                _either(remedies),
            )
        return
    for step in steps:
        share = machines.memory / _SAMPLE_SHARE
        if step.memory_bytes <= share:
            continue
        lists = planned_lists(size.kind, size.rows, size.parameters)
        per_list = training_rows(size.rows, lists) / lists
        rows = max(1.0, share / (4 * size.dimensions) / lists)
        enough = memory_text(_SAMPLE_SHARE * step.memory_bytes)
        yield Break(
            f"{step.name}: its sample",
            memory_text(step.memory_bytes),
            "an eighth of one machine's memory",
            memory_text(share),
            f"{enough} of memory, or centres are learnt from {rows:.0f} rows each, not {per_list:.0f}",
        )


def _time(size: MemorySize, machines: Machines, steps: Sequence[Step]) -> Iterator[Break]:
    limit = machines.hours * 3600
    for step in steps:
        if step.seconds <= limit:
            continue
        remedies = []
        if step.name in ("predict", "index-measure") and size.kind == "exact":
            remedies.append("--kind ivf-pq")
        if step.tasks > machines.count:
            wanted = math.ceil(machines.count * step.seconds / limit)
            remedies.append(f"{wanted:,} machines, if the storage keeps up")
        elif step.tasks == 1:
            remedies.append("fewer --lists, or more cores")
        if step.name == "embed":
            rate = machines.embed_rate or machines.product_rate
            remedies.append(f"faster ones than of {count_text(rate)}FLOP/s (--embed-rate)")
        yield Break(
            step.name,
            time_text(step.seconds),
            "the hours of a step",
            time_text(limit),
            _either(remedies) or "more --hours",
        )


def _of(machines: Machines, place: str) -> str:
    if machines.count == 1:
        return f"{place} of the machine"
    return f"{place} of {machines.count:,} machines"


def _all(remedies: Sequence[str]) -> str:
    return " and ".join(remedies)


def _either(remedies: Sequence[str]) -> str:
    return " or ".join(remedies)
