"""Times of real tasks: written, read back with care, and turned into those of a plan."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resmem_cli.errors import DataError, MissingInputError, OutputError, UsageError
from resmem_cli.scaling.costs import planned_steps, query_cost
from resmem_cli.scaling.sizes import Machines, MemorySize
from resmem_cli.scaling.task_times import (
    TaskTime,
    append_task_times,
    check_task_times,
    measured_spread,
    read_task_times,
    times_by_step,
)
from resmem_cli.types import StorageType

PART = MemorySize(20_000, 256, 100, 50, 2_000, storage=StorageType.FLOAT16, kind="ivf-pq")
WHOLE = replace(PART, rows=5_000_000, queries=100_000)
MACHINES = Machines(count=4, cores=8)


def formula(size: MemorySize, step: str, cores: int = 1) -> float:
    steps = planned_steps(size, Machines(cores=cores))
    return next(one.machine_seconds for one in steps if one.name == step)


def fitted(times: list[TaskTime], size: MemorySize = WHOLE) -> dict[str, Any]:
    steps = planned_steps(size, MACHINES)
    return times_by_step(times, steps, size, MACHINES)


def of_plan(step: str, size: MemorySize = WHOLE) -> float:
    return next(one.task_seconds for one in planned_steps(size, MACHINES) if one.name == step)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    times = [
        TaskTime("residualize", 0.25, 1, PART),
        TaskTime("search", 3.5, 16, replace(PART, parameters={"lists": 30_000, "bits": 8})),
    ]
    path = tmp_path / "times.jsonl"
    append_task_times(path, times[:1])
    append_task_times(path, times[1:])
    assert read_task_times(path) == times
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == ["residualize", "search"]


def test_a_file_that_can_not_be_written_or_read(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can't be written"):
        append_task_times(tmp_path / "missing" / "times", [TaskTime("residualize", 0.25, 1, PART)])
    for name, words in (("none", "no such file"), (".", "a folder, not a file")):
        with pytest.raises(MissingInputError, match=words):
            read_task_times(tmp_path / name)
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="has no times"):
        read_task_times(tmp_path / "empty")


def test_a_line_that_was_cut_does_not_take_the_next_with_it(tmp_path: Path) -> None:
    path = tmp_path / "times.jsonl"
    path.write_text(changed())
    append_task_times(path, [TaskTime("residualize", 0.5, 1, PART)])
    assert [one.seconds for one in read_task_times(path)] == [0.25, 0.5]


def test_only_a_file_of_times_is_added_to(tmp_path: Path) -> None:
    (tmp_path / "train.h5").write_text("mine")
    (tmp_path / "link").symlink_to("train.h5")
    (tmp_path / "times").write_text(changed() + "\n")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    own = [tmp_path / "out.h5", tmp_path / "train.h5"]
    for name in ("times", "empty", "new"):
        check_task_times(tmp_path / name, own)
    for name in ("out.h5", "train.h5", "link"):
        with pytest.raises(UsageError, match="is a file of this command"):
            check_task_times(tmp_path / name, own)
    with pytest.raises(DataError, match="no time of a task"):
        check_task_times(tmp_path / "train.h5", own[:1])
    for name in ("fifo", ".", "none/new"):
        with pytest.raises(OutputError, match="can't be written"):
            check_task_times(tmp_path / name, own)
    assert (tmp_path / "train.h5").read_text() == "mine"


def changed(**changes: Any) -> str:
    told = asdict(TaskTime("residualize", 0.25, 1, PART))
    own = {name: value for name, value in changes.items() if name in told}
    told["size"] |= {name: value for name, value in changes.items() if name not in told}
    return json.dumps({**told, **own})


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "[]",
        "{}",
        "[" * 100_000,
        "\udcff",
        changed(seconds=0),
        changed(seconds=float("nan")),
        changed(seconds=10**400),
        changed(seconds="long"),
        changed(seconds=True),
        changed(seconds=1e-300),
        changed(seconds=1e300),
        changed(kind="factory"),
        json.dumps({**json.loads(changed()), "other": 1}),
        changed(step=1),
        changed(cores=0),
        changed(cores=1.5),
        changed(cores=True),
        changed(size=3),
        changed(rows=-1),
        changed(rows=10**30),
        changed(top=0),
        changed(dimensions="many"),
        changed(kind="none"),
        changed(kind=["ivf"]),
        changed(parameters={"lists": "x"}),
        changed(parameters={"other": 1}),
        changed(parameters=[]),
        changed(storage="float1"),
        changed(more=1),
    ],
)
def test_a_line_that_is_none_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "times.jsonl"
    path.write_bytes(f"{changed()}\n{line}\n".encode(errors="surrogateescape"))
    with pytest.raises(DataError, match="no time of a task") as refused:
        read_task_times(path)
    assert refused.value.field == "line 2"


def test_tasks_of_one_size_are_scaled_by_the_formulas() -> None:
    planned = formula(PART, "residualize")
    times = [TaskTime("residualize", factor * planned, 1, PART) for factor in (2.9, 3.0, 3.3)]
    found = fitted(times)
    assert list(found) == ["residualize"]
    step = found["residualize"]
    assert (step.tasks, step.fixed) == (3, 0)
    assert step.factor == pytest.approx(3)
    assert step.seconds == pytest.approx(3 * of_plan("residualize"))


def test_of_two_sizes_what_every_task_takes_is_told_apart() -> None:
    larger = replace(PART, rows=10 * PART.rows)
    times = [
        TaskTime("index-add", 5 + 2 * formula(size, "index-add", cores), cores, size)
        for size in (PART, larger)
        for cores in (1, 4)
    ]
    step = fitted(times)["index-add"]
    assert step.fixed == pytest.approx(5)
    assert step.factor == pytest.approx(2)
    assert step.seconds == pytest.approx(5 + 2 * of_plan("index-add"))


def test_neither_part_is_negative() -> None:
    larger = replace(PART, rows=10 * PART.rows)
    times = [TaskTime("residualize", seconds, 1, size) for seconds, size in ((1, PART), (50, larger))]
    assert fitted(times)["residualize"].fixed == 0


def test_searches_of_shards_are_what_a_plan_searches_in() -> None:
    many = replace(WHOLE, classes=32_128, top=128)
    part = replace(PART, classes=32_128, top=128)
    seconds = 4 * part.queries * query_cost(part, Machines(cores=1)).search_seconds
    searched = TaskTime("search", seconds, 1, part)
    alone = fitted([searched], many)["predict"]
    both = fitted([searched, TaskTime("predict", 1e6, 1, part)], many)["predict"]
    assert alone.factor == both.factor == pytest.approx(4)
    # Mixing is as planned.
    cost = query_cost(many, MACHINES)
    slower = (4 * cost.search_seconds + cost.mixing_seconds) / (cost.search_seconds + cost.mixing_seconds)
    assert alone.seconds == both.seconds == pytest.approx(slower * of_plan("predict", many))
    own = fitted([TaskTime("predict", formula(PART, "predict"), 1, PART)])["predict"]
    assert own.factor == pytest.approx(1)


@pytest.mark.parametrize("step", ["index-add", "search"])
def test_other_kinds_and_bits_say_nothing(step: str) -> None:
    for other in (replace(PART, kind="ivf-rabitq"), replace(PART, parameters={"bits": 8})):
        assert fitted([TaskTime(step, 1.0, 1, other)]) == {}
    assert fitted([TaskTime(step, 1.0, 1, replace(PART, parameters={"bits": 4}))]) != {}
    assert fitted([TaskTime("residualize", 1.0, 1, replace(PART, kind="exact"))]) != {}


def test_small_tasks_of_one_size_are_told() -> None:
    small = replace(PART, rows=10)
    assert fitted([TaskTime("residualize", 0.1, 1, small)])["residualize"].far
    two = [TaskTime("residualize", 0.1, 1, replace(PART, rows=rows)) for rows in (10, 100)]
    assert not fitted(two)["residualize"].far
    assert not fitted([TaskTime("residualize", 0.1, 1, WHOLE)])["residualize"].far


def test_steps_that_only_copy_are_scaled_by_rows() -> None:
    part, whole = (replace(size, kind="exact") for size in (PART, WHOLE))
    tasks = next(step.tasks for step in planned_steps(whole, MACHINES) if step.name == "index-add")
    step = fitted([TaskTime("index-add", 2.0, 1, part)], whole)["index-add"]
    assert step.seconds == pytest.approx(2 * whole.rows / tasks / part.rows)
    assert step.factor is None


def test_other_steps_are_left_aside() -> None:
    assert fitted([TaskTime("tune", 1.0, 1, PART), TaskTime("embed", 1.0, 1, PART)]) == {}


def test_the_spread_is_that_of_equal_tasks() -> None:
    rng = np.random.default_rng(0)
    planned = formula(PART, "residualize")
    times = [TaskTime("residualize", planned * np.exp(0.3 * z), 1, PART) for z in rng.normal(size=4_000)]
    assert measured_spread(fitted(times)) == pytest.approx(0.3, rel=0.05)
    assert measured_spread(fitted(times[:3])) is None
    wide = [TaskTime("residualize", seconds, 1, PART) for seconds in (1e-6, 1e-3, 1e3, 1e9)]
    with pytest.raises(UsageError, match="differ too much"):
        measured_spread(fitted(wide))
