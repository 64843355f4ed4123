"""Workers and schedulers killed at random moments: the same bytes, and only missing shards computed.

Seen to fail: where an index made on a scheduler named what was learnt for its shards as an input ("b'&' !=
b'\\x99'"), and where a scheduler that went while a result was fetched ended the command with status 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from machines import ENV, Machines, until

from reliability.processes import run
from reliability.tally import Tally, seeds
from reliability.workload import Workload

pytest.importorskip("distributed")
N_SHARDS = 12

# Each with the inputs of the large workload in `in`.
COMMANDS = {
    "index": ("index", "in/train.h5", "--kind", "ivf-pq", "--lists", "8"),
    "predict": ("predict", "in/test.h5", "--index", "in/index-exact.h5", "--residuals", "in/residuals.h5"),
    "residualize": ("residualize", "in/train.h5", "-T", "1.4"),
    "tune": ("tune", "in/test.h5", "--index", "in/index-exact.h5", "--train", "in/train.h5", "-k", "5,20",
             "--sigma", "0.3,1", "-T", "1.4"),
    "embed": ("embed", "in/digits.safetensors", "in/digits_test.npz", "--arch",
              "in.train_digits:make_network"),
}  # fmt: skip
KILLED = ("index", "predict")


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    folder = tmp_path / "machines"
    folder.mkdir()
    found = Machines(folder)
    yield found
    found.stop()


def on(machines: Machines) -> tuple[str, ...]:
    return ("--scheduler", machines.option, "--shards", str(N_SHARDS), "--json", "--quiet")


def started(*arguments: object, cwd: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "resmem_cli", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **ENV},
    )


def alone(name: str, place: Path) -> bytes:
    """Give what the command writes in one process."""
    run(*COMMANDS[name], "-o", "alone.h5", "--quiet", cwd=place, env=ENV).assert_done()
    return (place / "alone.h5").read_bytes()


def finished(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout.decode(), stderr.decode()


def n_shards(place: Path) -> int:
    return len(list(place.glob("out.h5.shards-*/0*.h5")))


@seeds(quick=2, long=20, together=2)
def test_a_worker_killed_at_a_random_moment_changes_nothing(
    seeds: range, tally: Tally, tmp_path: Path, large: Workload, machines: Machines
) -> None:
    worker = machines.add_worker()
    machines.add_worker()
    whole, seconds = {}, {}
    for name in KILLED:
        place = large.place(tmp_path / name)
        whole[name] = alone(name, place)
        began = time.monotonic()
        status, _, stderr = finished(started(*COMMANDS[name], "-o", "out.h5", *on(machines), cwd=place))
        seconds[name] = time.monotonic() - began
        assert status == 0, stderr
        assert (place / "out.h5").read_bytes() == whole[name]

    def check(seed: int) -> str:
        nonlocal worker
        name = KILLED[seed % len(KILLED)]
        place = tmp_path / name
        (place / "out.h5").unlink(missing_ok=True)
        process = started(*COMMANDS[name], "-o", "out.h5", *on(machines), cwd=place)
        time.sleep(np.random.default_rng(seed).uniform(0.3, 1) * seconds[name])
        machines.kill(worker)
        worker = machines.add_worker()
        status, _, stderr = finished(process)
        assert status == 0, stderr
        assert (place / "out.h5").read_bytes() == whole[name]
        assert n_shards(place) == 0
        return f"{name}: same bytes"

    tally.each("workers", seeds, check)


@pytest.mark.parametrize(
    "name", ["index", *(pytest.param(name, marks=pytest.mark.long) for name in COMMANDS if name != "index")]
)
def test_a_scheduler_that_is_killed_leaves_what_was_done(
    name: str, tally: Tally, tmp_path: Path, large: Workload, machines: Machines
) -> None:
    machines.add_worker()
    place = large.place(tmp_path / "place")
    whole = alone(name, place)
    process = started(*COMMANDS[name], "-o", "out.h5", *on(machines), cwd=place)
    until(lambda: n_shards(place) >= N_SHARDS // 3)
    machines.kill(machines.scheduler)
    status, _, stderr = finished(process)
    assert status == 75, stderr
    assert "is lost" in stderr
    assert not (place / "out.h5").exists()
    machines.kill(machines.workers[0])
    machines.start_scheduler()
    machines.add_worker()
    status, stdout, stderr = finished(started(*COMMANDS[name], "-o", "out.h5", *on(machines), cwd=place))
    assert status == 0, stderr
    result = json.loads(stdout)["result"]
    assert result["found"] >= N_SHARDS // 3
    assert result["tasks"] == N_SHARDS - result["found"]
    assert (place / "out.h5").read_bytes() == whole
    tally.count("workers", f"{name} rerun with {result['found']} of {N_SHARDS} shards: same bytes")
