"""Sizes, steps, queries and limits of a plan, in agreement with that of one machine and with each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resmem_cli.errors import UsageError
from resmem_cli.indexes.plan import plan_index
from resmem_cli.scaling.costs import planned_shards, planned_steps, query_cost, searched_bytes, whole_plan
from resmem_cli.scaling.limits import broken_limits, fits_in
from resmem_cli.scaling.sizes import (
    PRESETS,
    Machines,
    MemorySize,
    chosen_machines,
    chosen_size,
    count_text,
    parse_count,
)
from resmem_cli.types import StorageType

GIB = 1 << 30
KINDS = ("exact", "ivf", "ivf-rabitq", "ivf-pq", "hnsw")
TOKENS = MemorySize(
    10**8, 1024, 32_128, 50, 10**5, top=128, top_scores=10, storage=StorageType.FLOAT16, kind="ivf-pq"
)
FAST = Machines(disk_bandwidth=1e15, network_bandwidth=1e15, shared_bandwidth=1e18, memory=64 * GIB)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        ("50000", 50_000),
        ("32,128", 32_128),
        ("1.6G", 1_600_000_000),
        ("1.6g", 1_600_000_000),
        ("120M", 120_000_000),
        ("2K", 2000),
        (" 3T ", 3 * 10**12),
    ],
)
def test_counts_are_read_as_people_write_them(text: str, number: int) -> None:
    assert parse_count(text, "--rows") == number


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1.5", "nan", "1e3", "2 G B", "9999999999T", "٣"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--rows"):
        parse_count(text, "--rows")


def test_counts_are_written_short() -> None:
    assert [count_text(n) for n in (5, 999, 1000, 50_000, 1.6e9, 4e10)] == [
        "5", "999", "1 K", "50 K", "1.6 G", "40 G",
    ]  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_every_size_known_by_name_can_be_planned(name: str) -> None:
    size, machines = chosen_size(name), chosen_machines(name)
    size.check()
    machines.check()
    assert (size.rows, size.dimensions) == (PRESETS[name].rows, PRESETS[name].dimensions)
    assert size.kind == plan_index(size.rows, size.dimensions, itemsize=2, memory=GIB).kind
    assert (size.top is None) == (size.classes <= 1000)
    assert all(step.seconds > 0 for step in planned_steps(size, machines))


def test_options_change_a_size_known_by_name() -> None:
    size = chosen_size("1.6g", dimensions=512, top="all", kind="ivf", k=7)
    assert (size.rows, size.dimensions, size.top, size.kind, size.k) == (1_600_000_000, 512, None, "ivf", 7)
    assert chosen_machines("1.6g", count=3).count == 3
    with pytest.raises(UsageError, match="no size of that name"):
        chosen_size("2.6g")
    with pytest.raises(UsageError, match="--classes is missing"):
        chosen_size(None, rows=5, dimensions=5)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 0},
        {"rows": 1 << 60},
        {"dimensions": 1 << 20},
        {"k": 0},
        {"top": 40_000},
        {"top_scores": 0},
        {"kind": "factory"},
        {"kind": "nonsense"},
        {"parameters": {"lists": 0}},
        {"parameters": {"subquantizers": 3}},
    ],
)
def test_no_memory_can_be_like_that(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        replace(TOKENS, **change).check()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change", [{"count": 0}, {"cores": 0}, {"memory": 0}, {"task_seconds": 0.0}, {"hours": float("inf")}]
)
def test_no_machines_can_be_like_that(change: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="out of range"):
        replace(FAST, **change).check()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_one_machine_is_planned_as_index_plans_it(kind: str) -> None:
    size = replace(TOKENS, rows=10**7, kind=kind)
    planned = whole_plan(size, FAST)
    steps = [step for step in planned_steps(size, FAST) if step.name.startswith("index-")]
    # Without the time of reading and writing, which `plan_index` adds by a rate of its own.
    reading = 2 * (planned.disk_bytes if kind == "hnsw" else 10**7 * 2048) / 500e6
    if kind.startswith("ivf"):
        reading += 2 * (searched_bytes(size) - 4 * 1024 * _lists(size)) / 500e6
    assert planned.build_seconds is not None
    computing = sum(step.machine_seconds for step in steps)
    assert computing == pytest.approx(planned.build_seconds - reading, rel=0.02)
    assert query_cost(size, FAST).search_seconds == pytest.approx(planned.query_seconds)
    if kind != "exact":
        assert planned.search_bytes == pytest.approx(searched_bytes(size), rel=1.2)


def _lists(size: MemorySize) -> int:
    from resmem_cli.indexes.counts import planned_lists

    return planned_lists(size.kind, size.rows, size.parameters)


@pytest.mark.parametrize("kind", KINDS)
def test_more_machines_take_less_time_and_do_no_less(kind: str) -> None:
    size = replace(TOKENS, kind=kind)
    one, many = (planned_steps(size, replace(FAST, count=count), flops_per_row=1e8) for count in (1, 16))
    assert [step.name for step in one] == [step.name for step in many]
    for few, more in zip(one, many, strict=True):
        assert more.seconds <= few.seconds
        assert more.machine_seconds >= few.machine_seconds * (1 - 1e-9)
        if more.name not in ("index-learn", "predict"):
            assert more.seconds == pytest.approx(few.seconds / 16, rel=0.01)
    assert one[0].operations == 1e8 * size.rows


def test_shards_are_tasks_of_minutes_and_fit_a_machine() -> None:
    machines = replace(FAST, count=8, task_seconds=600.0)
    shards = planned_shards(TOKENS, machines, flops_per_row=None)
    longest = max(step.task_seconds for step in planned_steps(TOKENS, machines) if step.tasks > 1)
    assert shards % 8 == 0
    assert 300 < longest <= 600
    tight = replace(machines, memory=GIB)
    assert searched_bytes(TOKENS) / planned_shards(TOKENS, tight, flops_per_row=None) <= GIB / 2
    assert planned_shards(chosen_size("cifar100"), Machines(), flops_per_row=None) == 1
    brief = replace(machines, task_seconds=1e-300)
    assert planned_shards(MemorySize(3, 2, 2), brief, flops_per_row=None) == 3


def test_learning_centres_is_one_task_however_long() -> None:
    many = replace(TOKENS, rows=10**6, parameters={"lists": 1 << 16})
    learn, add = planned_steps(many, replace(FAST, task_seconds=600.0))[1:3]
    assert learn.task_seconds > 600 > add.machine_seconds
    assert (learn.tasks, add.tasks) == (1, 1)


def test_what_travels_and_what_is_read_for_a_query() -> None:
    ample = replace(FAST, memory=1 << 50)
    assert (query_cost(TOKENS, ample).network_bytes, query_cost(TOKENS, ample).disk_bytes) == (0, 0)
    several = query_cost(TOKENS, replace(ample, count=4))
    assert several.network_bytes == 4 * (4 * 1024 + 82 * 16) + 50 * 512
    tight = query_cost(TOKENS, replace(ample, memory=GIB))
    assert tight.disk_bytes == pytest.approx(50 * 4096 + 160 * 4096 + tight.compared_bytes)
    exact = replace(TOKENS, kind="exact")
    assert query_cost(exact, ample).operations == 2 * 10**8 * 1024


def _broken(size: MemorySize, machines: Machines) -> dict[str, str]:
    return {one.what: one.remedy for one in broken_limits(size, machines, planned_steps(size, machines))}


def test_what_does_not_fit_is_told_with_what_helps() -> None:
    ample = replace(FAST, memory=1 << 50, disk=1 << 60, hours=1e9)
    assert _broken(TOKENS, ample) == {}
    whole = replace(TOKENS, top=None, storage=StorageType.FLOAT32)
    remedy = _broken(whole, replace(ample, disk=1 << 40))["all artifacts"]
    assert remedy.startswith("--top 128 and --storage float16 (")
    # Those are not all that is needed, or not needed both.
    assert "machines" not in _broken(whole, replace(ample, disk=1 << 41))["all artifacts"]
    assert "machines" in _broken(TOKENS, replace(ample, disk=1 << 38))["all artifacts"]
    codes = _broken(TOKENS, replace(ample, memory=16 * GIB))["codes that a search reads"]
    assert codes == "--subquantizers 256 (13 GiB, less recall) or 4 machines"
    rows = _broken(replace(TOKENS, kind="exact"), replace(ample, memory=100 * GIB))[
        "rows that a search reads"
    ]
    assert rows == "--kind ivf-pq (48 GiB) or 2 machines"
    sample = _broken(TOKENS, replace(ample, memory=4 * GIB))
    assert any(what.startswith("index-learn") and "centres are learnt" in sample[what] for what in sample)
    assert "--kind ivf-pq" in _broken(replace(TOKENS, kind="exact"), replace(ample, hours=1))["predict"]
    assert "graph" in " ".join(_broken(replace(TOKENS, kind="hnsw"), replace(ample, memory=100 * GIB)))


def test_the_remedies_help() -> None:
    machines = replace(FAST, memory=16 * GIB, disk=1 << 50, hours=1e9)
    assert "codes that a search reads" in _broken(TOKENS, machines)
    assert "codes that a search reads" not in _broken(TOKENS, replace(machines, count=4))
    slow = replace(FAST, memory=1 << 50, disk=1 << 50, hours=1.0)
    remedy = _broken(TOKENS, slow)["index-add"]
    count = int(remedy.split()[0].replace(",", ""))
    assert "index-add" not in _broken(TOKENS, replace(slow, count=count))


def test_the_least_place_that_holds_something() -> None:
    several = Machines(count=4, memory=GIB, disk=10 * GIB)
    assert [fits_in(n * GIB, several) for n in (1, 2, 8, 30, 50)] == [
        "memory of one", "memory of 4", "disk of one", "disks of 4", "nowhere",
    ]  # fmt: skip
    assert [fits_in(n * GIB, replace(several, count=1)) for n in (1, 2, 50)] == ["memory", "disk", "nowhere"]
