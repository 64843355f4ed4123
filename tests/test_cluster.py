"""The commands on workers: the same bytes, whatever is killed, and one line for what can't be done.

Real schedulers and workers of Dask, in processes of their own on this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import h5py
import numpy as np
import pytest
from conftest import Finished, Pipeline, Resmem
from machines import ENV, Machines, until

from resmem_cli.artifacts.reader import Artifact, open_artifact
from resmem_cli.cluster.engine import State, _told, check_scheduler
from resmem_cli.cluster.planned import searched_by
from resmem_cli.cluster.tasks import Task, VersionError, installed_versions, run_task
from resmem_cli.errors import UsageError
from resmem_cli.scaling.sizes import MemorySize
from resmem_cli.scaling.task_times import read_task_times

pytest.importorskip("distributed")
SAMPLE_DATA = Path(__file__).parents[1] / "sample_data"
N_ROWS, N_CLASSES = 6000, 300


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """A scheduler with two workers, which no test harms."""
    found = Machines(tmp_path_factory.mktemp("machines"))
    found.add_worker()
    found.add_worker()
    yield found
    found.stop()


@pytest.fixture
def own_machines(tmp_path: Path) -> Iterator[Machines]:
    """A scheduler without workers, for one test."""
    folder = tmp_path / "machines"
    folder.mkdir()
    found = Machines(folder)
    yield found
    found.stop()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, resmem_process: Resmem) -> Path:
    """Embeddings whose residuals take each of 30 shards some milliseconds."""
    folder = tmp_path_factory.mktemp("large")
    generator = np.random.default_rng(0)
    np.savez(
        folder / "a.npz",
        embeddings=generator.normal(size=(N_ROWS, 8)).astype(np.float32),
        logits=generator.normal(size=(N_ROWS, N_CLASSES)).astype(np.float32),
        labels=generator.integers(N_CLASSES, size=N_ROWS),
    )
    done = resmem_process("import", folder / "a.npz", "-o", folder / "train.h5")
    assert done.status == 0, done.stderr
    assert resmem_process("residualize", folder / "train.h5", "-o", folder / "r.h5").status == 0
    return folder


def started(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "resmem_cli", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENV},
    )


def ended(process: subprocess.Popen[str]) -> Finished:
    stdout, stderr = process.communicate(timeout=120)
    return Finished(process.returncode, stdout, stderr)


def shards_of(output: Path) -> list[Path]:
    return sorted(output.parent.glob(f"{output.name}.shards-*/*.h5"))


def assert_line(done: Finished, status: int, *parts: str) -> None:
    assert done.status == status, done.stderr
    *before, line = done.stderr.splitlines()
    assert line.startswith("resmem: error: "), done.stderr
    assert all(one.startswith("resmem: ") for one in before), done.stderr
    for part in parts:
        assert part in line, line


def commands(pipeline: Pipeline) -> dict[str, tuple[object, ...]]:
    memory = ("--index", pipeline.index, "--residuals", pipeline.residuals)
    grid = ("-k", "5,20", "--sigma", "0.3,1", "-T", "1.4")
    return {
        "residualize": ("residualize", pipeline.train, "--top", "2"),
        "index": ("index", pipeline.train),
        "predict": ("predict", pipeline.test, *memory, "-k", "20", "--tuning", pipeline.tuning),
        "predict --compare": ("predict", pipeline.test, *memory, "-k", "20", "--compare"),
        "tune": ("tune", pipeline.test, "--index", pipeline.index, "--train", pipeline.train, *grid),
        "tune --leave-one-out": (
            "tune", "--leave-one-out", "--sample", "90", "--index", pipeline.index, "--train", pipeline.train,
            *grid,
        ),
        "embed": (
            "embed", SAMPLE_DATA / "digits.safetensors", SAMPLE_DATA / "digits_test.npz", "--arch",
            "train_digits:make_network", "--batch-size", "64",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("command", commands(Pipeline(*[Path()] * 8)))
def test_the_bytes_are_those_of_one_process(
    command: str, tmp_path: Path, pipeline: Pipeline, machines: Machines, resmem_process: Resmem
) -> None:
    words = commands(pipeline)[command]
    times = tmp_path.with_name(f"{tmp_path.name}.jsonl")
    alone = resmem_process(*words, "-o", tmp_path / "alone.h5", cwd=SAMPLE_DATA, env=ENV)
    assert alone.status == 0, alone.stderr
    spread = resmem_process(
        *words,
        "-o",
        tmp_path / "spread.h5",
        "--scheduler",
        machines.option,
        "--json",
        *(() if words[0] == "tune" else ("--task-times", times)),
        cwd=SAMPLE_DATA,
        env=ENV,
    )
    assert spread.status == 0, spread.stderr
    assert (tmp_path / "spread.h5").read_bytes() == (tmp_path / "alone.h5").read_bytes()
    assert spread.result["shards"] == 8
    assert spread.result["tasks"] == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.h5", "spread.h5"]
    if words[0] == "tune" or "--compare" in words:
        assert not times.exists()
        return
    step, counted = {"index": ("index-add", "rows"), "predict": ("predict", "queries")}.get(
        str(words[0]), (str(words[0]), "rows")
    )
    told = read_task_times(times)
    assert [one.step for one in told] == [step] * 8
    with open_artifact(tmp_path / "alone.h5") as whole:
        n = whole.dimensions["q" if step == "predict" else "n"]
    assert sum(getattr(one.size, counted) for one in told) == n
    assert sum(one.seconds for one in told) == pytest.approx(spread.result["task_seconds"], abs=0.01)


@pytest.mark.parametrize("kind", ["exact", "ivf-pq", "ivf-rabitq"])
def test_an_index_in_shards_answers_as_one(
    kind: str, tmp_path: Path, pipeline: Pipeline, machines: Machines, resmem_process: Resmem
) -> None:
    def run(*arguments: object) -> Finished:
        done = resmem_process(*arguments, "--json", cwd=tmp_path, env=ENV)
        assert done.status == 0, done.stderr
        return done

    on = ("--scheduler", machines.option, "--task-times", "times.jsonl")
    run("index", pipeline.train, "--kind", kind, "-o", "whole.h5")
    run("index", pipeline.train, "--kind", kind, "-o", "spread.h5", *on, "--manifest", "--shards", "4")
    run("residualize", pipeline.train, "-o", "r.h5", *on, "--manifest", "--shards", "4")
    queries = ("predict", pipeline.test, "-k", "20", "-o")
    run(*queries, "p.h5", "--index", "whole.h5", "--residuals", pipeline.residuals)
    spread = run(*queries, "q.h5", "--index", "spread.h5", "--residuals", "r.h5", *on, "--shards", "2")
    assert spread.result["tasks"] == 2 * 4 + 2
    digests = [run("info", name).result["content_digest"] for name in ("p.h5", "q.h5")]
    # The lists of the one are learnt from the same sample as those of the others.
    assert digests[0] == digests[1]
    learnt = ["index-learn"] * (kind != "exact")
    told = read_task_times(tmp_path / "times.jsonl")
    steps = [*learnt, *["index-add"] * 4, *["residualize"] * 4, *["search"] * 8]
    assert [one.step for one in told] == steps
    # Each search is of one shard and half of the queries.
    assert {one.size.kind for one in told if one.step != "residualize"} == {kind}
    assert sum(one.size.rows for one in told if one.step == "search") == 2 * told[-1].size.rows * 4
    queries = sum(one.size.queries for one in told if one.step == "search")
    assert queries == 4 * spread.result["queries"]


def test_processes_of_this_machine(tmp_path: Path, large: Path, resmem_process: Resmem) -> None:
    done = resmem_process(
        "residualize", large / "train.h5", "-o", tmp_path / "r.h5", "--scheduler", "local:2", "--shards", "4"
    )
    assert done.status == 0, done.stderr
    assert (tmp_path / "r.h5").read_bytes() == (large / "r.h5").read_bytes()


def test_a_worker_that_is_killed_is_done_without(tmp_path: Path, large: Path, own_machines: Machines) -> None:
    first = own_machines.add_worker()
    output = tmp_path / "r.h5"
    process = started(
        "residualize", large / "train.h5", "-o", output, "--scheduler", own_machines.option, "--shards", "30",
        "--json", cwd=tmp_path,
    )  # fmt: skip
    until(lambda: len(shards_of(output)) > 2)
    own_machines.kill(first)
    own_machines.add_worker()
    done = ended(process)
    assert done.status == 0, done.stderr
    assert output.read_bytes() == (large / "r.h5").read_bytes()


def test_after_the_scheduler_only_what_is_missing_is_computed(
    tmp_path: Path, large: Path, own_machines: Machines
) -> None:
    own_machines.add_worker()
    output = tmp_path / "r.h5"
    words = ("residualize", large / "train.h5", "-o", output, "--scheduler", own_machines.option, "--json")
    process = started(*words, "--shards", "30", cwd=tmp_path)
    until(lambda: len(shards_of(output)) > 2)
    own_machines.kill(own_machines.scheduler)
    lost = ended(process)
    n_kept = len(shards_of(output))
    assert_line(lost, 75, "the scheduler", "is lost", "of 30 are done, and kept in")
    assert not output.exists()
    own_machines.kill(own_machines.workers[0])
    own_machines.start_scheduler()
    own_machines.add_worker()
    # In as many shards as before, which nobody has to remember.
    again = ended(started(*words, cwd=tmp_path))
    assert again.status == 0, again.stderr
    assert again.result["shards"] == 30
    assert n_kept - 1 <= again.result["found"] <= n_kept + 1
    assert again.result["tasks"] == 30 - again.result["found"]
    assert output.read_bytes() == (large / "r.h5").read_bytes()
    assert shards_of(output) == []


def test_a_shard_that_can_not_be_done_is_named_and_the_others_stay(
    tmp_path: Path, large: Path, machines: Machines, resmem_process: Resmem
) -> None:
    shutil.copy(large / "train.h5", tmp_path / "train.h5")
    with h5py.File(tmp_path / "train.h5") as file:
        dataset = file["logits"]
        chunk = dataset.id.get_chunk_info(dataset.id.get_num_chunks() - 1)
    content = bytearray((tmp_path / "train.h5").read_bytes())
    content[chunk.byte_offset + 1000] ^= 1
    (tmp_path / "train.h5").write_bytes(content)
    words = ("residualize", "train.h5", "-o", "r.h5", "--scheduler", machines.option, "--shards", "10")
    done = resmem_process(*words, "--retries", "1", cwd=tmp_path)
    assert_line(done, 65, " of 10 failed 2 times: ", "train.h5: logits: a digest does not hold", "kept in")
    n_kept = len(shards_of(tmp_path / "r.h5"))
    assert 0 < n_kept < 10
    shutil.copy(large / "train.h5", tmp_path / "train.h5")
    again = resmem_process(*words, "--json", cwd=tmp_path)
    assert again.status == 0, again.stderr
    assert again.result["found"] == n_kept
    assert (tmp_path / "r.h5").read_bytes() == (large / "r.h5").read_bytes()


@pytest.mark.long
def test_a_shard_that_ends_its_workers_is_named(
    tmp_path: Path, own_machines: Machines, resmem_process: Resmem
) -> None:
    """As one does that takes all of a machine's memory."""
    own_machines.add_worker()
    (tmp_path / "ending.py").write_text(
        "import os, signal\ndef make():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = resmem_process(
        "embed", SAMPLE_DATA / "digits.safetensors", SAMPLE_DATA / "digits_test.npz", "--arch", "ending:make",
        "-o", "e.h5", "--scheduler", own_machines.option, "--shards", "2", "--retries", "0", cwd=tmp_path,
    )  # fmt: skip
    assert_line(done, 71, "of 2: its worker ended, most likely for lack of memory", "--shards")


def test_a_lack_of_memory_on_a_worker_is_told() -> None:
    task = Task("shard 3 of 8", "resmem_cli.stages.info:info", (), {}, "out.h5")
    told = _told(MemoryError("no room"), task, 3, "2 of 8 are done")
    assert told.exit_code == 71
    assert str(told).startswith("shard 3 of 8: out of memory on its worker; give workers more")


def test_without_workers_the_command_to_start_one_is_told(
    tmp_path: Path, large: Path, own_machines: Machines, resmem_process: Resmem
) -> None:
    done = resmem_process(
        "residualize", large / "train.h5", "-o", tmp_path / "r.h5", "--scheduler", own_machines.option,
        "--worker-timeout", "1",
    )  # fmt: skip
    address = json.loads(own_machines.file.read_text())["address"]
    assert_line(done, 75, "no workers", f"dask worker {address}")
    assert list(tmp_path.glob("r.h5*")) == []


@pytest.mark.parametrize("scheduler", ["tcp://127.0.0.1:9", "file:nowhere.json"])
def test_without_a_scheduler_the_command_to_start_one_is_told(
    scheduler: str, tmp_path: Path, large: Path, resmem_process: Resmem
) -> None:
    done = resmem_process(
        "residualize", large / "train.h5", "-o", tmp_path / "r.h5", "--scheduler", scheduler,
        "--worker-timeout", "1", cwd=tmp_path,
    )  # fmt: skip
    assert_line(done, 66 if scheduler.startswith("file") else 75, "start", "dask scheduler")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_finished_shards_and_nothing_to_do(
    number: signal.Signals, tmp_path: Path, large: Path, machines: Machines
) -> None:
    from distributed import Client

    output = tmp_path / "r.h5"
    words = ("residualize", large / "train.h5", "-o", output, "--scheduler", machines.option, "--json")
    process = started(*words, "--shards", "30", cwd=tmp_path)
    until(lambda: len(shards_of(output)) > 1)
    process.send_signal(number)
    done = ended(process)
    assert done.status == -number
    assert not output.exists()
    with Client(scheduler_file=str(machines.file), set_as_default=False) as client:
        until(lambda: not any(client.processing().values()))
    again = ended(started(*words, cwd=tmp_path))
    assert again.status == 0, again.stderr
    assert again.result["found"] >= 2
    assert output.read_bytes() == (large / "r.h5").read_bytes()


def test_two_processes_do_not_make_the_same_shards(
    tmp_path: Path, large: Path, own_machines: Machines, resmem_process: Resmem
) -> None:
    output = tmp_path / "r.h5"
    words = ("residualize", large / "train.h5", "-o", output, "--scheduler", own_machines.option)
    process = started(*words, cwd=tmp_path)
    until(lambda: any(tmp_path.glob("r.h5.shards-*/lock")))
    assert_line(resmem_process(*words), 75, "another process is making its shards")
    own_machines.add_worker()
    done = ended(process)
    assert done.status == 0, done.stderr


def test_other_options_begin_anew(
    tmp_path: Path, large: Path, machines: Machines, resmem_process: Resmem
) -> None:
    words = ("residualize", large / "train.h5", "-o", "r.h5", "--scheduler", machines.option, "--manifest")
    assert resmem_process(*words, cwd=tmp_path).status == 0
    before = shards_of(tmp_path / "r.h5")
    assert resmem_process(*words, "-T", "2", cwd=tmp_path).status == 0
    after = shards_of(tmp_path / "r.h5")
    assert len(after) == len(before) == 8
    assert not set(after) & set(before)


def test_other_versions_on_a_worker_are_refused_naming_both() -> None:
    task = Task("shard 1 of 1", "resmem_cli.stages.info:info", (), {}, "out.h5")
    other = replace(task, versions={**installed_versions(), "numpy": "0.9"})
    with pytest.raises(VersionError, match=rf"expected numpy 0.9, found numpy {np.__version__}") as caught:
        run_task(other)
    assert caught.value.exit_code == 69


@pytest.mark.parametrize("scheduler", ["", "local:", "local:0", "local:two", "here", "http://host:1"])
def test_a_scheduler_of_no_known_form_is_refused(scheduler: str) -> None:
    with pytest.raises(UsageError, match="tcp://host:port, file:scheduler.json or local:N"):
        check_scheduler(scheduler)


@pytest.mark.parametrize(
    "options", [["--shards", "0"], ["--retries", "-1"], ["--worker-timeout", "-1"], ["--shards", "100000"]]
)
def test_numbers_out_of_range_are_refused(
    options: list[str], tmp_path: Path, pipeline: Pipeline, machines: Machines, resmem: Resmem
) -> None:
    done = resmem(
        "residualize", pipeline.train, "-o", tmp_path / "r.h5", "--scheduler", machines.option, *options
    )
    assert_line(done, 2, options[0] if options[1] != "100000" else "more shards than the 300 rows")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [["--shards", "3"], ["--retries", "1"], ["--manifest"], ["--shard", "1/2", "--scheduler", "local:1"]],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    done = resmem("residualize", pipeline.train, "-o", tmp_path / "r.h5", *options)
    assert_line(done, 2, "--scheduler", "give")


def test_the_package_that_is_missing_is_named(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    done = resmem("residualize", pipeline.train, "-o", tmp_path / "r.h5", "--scheduler", "local:1")
    assert_line(done, 69, "distributed", 'pip install "resmem-cli[cluster]"')


def test_the_bar_shows_workers_rate_and_retries(monkeypatch: pytest.MonkeyPatch, capfd: object) -> None:
    from resmem_cli.cli import console

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = console._TaskBar("index", quiet=False)
    state = State(total=4, workers=2, running=2)
    bar.show(state)
    assert bar._bars.tasks[0].fields["told"].startswith("2 workers, 0.0 a minute")
    state.done, state.retries = 2, 1
    bar.show(state)
    assert bar._bars.tasks[0].fields["told"].endswith("1 retries")
    assert bar._bars.tasks[0].completed == 2
    state.done, state.running = 4, 0
    bar.show(state)
    assert bar._bars is None


@pytest.mark.parametrize(
    "told", [{"kind": "none"}, {"kind": ["exact"]}, {"kind": "factory"}, {"search": None}]
)
def test_what_no_plan_is_of_is_not_told_with_times(told: dict[str, Any]) -> None:
    """What can't be is left to the search, which refuses it in one line."""
    size = MemorySize(1_000, 8, 10)
    good = {"kind": "ivf-rabitq", "search": {"lists": 2_000, "bits": 8, "metric": "euclidean"}}
    assert searched_by(size, cast(Artifact, SimpleNamespace(parameters=good))) == replace(
        size, kind="ivf-rabitq", parameters={"lists": 2_000, "bits": 8}
    )
    old = {"kind": "exact", "metric": "euclidean"}
    assert searched_by(size, cast(Artifact, SimpleNamespace(parameters=old))) == size
    assert searched_by(size, cast(Artifact, SimpleNamespace(parameters={**good, **told}))) is None


def test_times_go_to_a_file_of_their_own(tmp_path: Path, large: Path, resmem_process: Resmem) -> None:
    words = ("residualize", large / "train.h5", "-o", tmp_path / "r.h5", "--scheduler", "local:1")
    before = (large / "train.h5").read_bytes()
    for times in (large / "train.h5", tmp_path / "r.h5"):
        done = resmem_process(*words, "--task-times", times)
        assert_line(done, 2, "--task-times is a file of this command")
    assert (large / "train.h5").read_bytes() == before
    assert list(tmp_path.iterdir()) == []
