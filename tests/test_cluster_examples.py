"""The README's examples of work on several machines, run as written, on stand-ins for what a cluster has.

Each `srun` task is a worker in a network namespace of its own, as on a machine of its own, where this user
may make one; else it listens on a loopback address of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Resmem

pytest.importorskip("distributed")
README = (Path(__file__).parents[1] / "README.md").read_text()
N_WORKERS = 2

# What Slurm's own does, on so many machines: a task on each.
SRUN = """#!/bin/bash
for i in $(seq {n}); do
    if [ -n "{namespaces}" ]; then ip netns exec {prefix}$i "$@" & else "$@" --host 127.0.0.$((i + 1)) & fi
done
trap 'kill $(jobs -p)' EXIT TERM
wait
"""


def example(comment: str) -> str:
    found = re.search(rf"<!-- {comment} -->\n```\w+\n(.*?)```", README, flags=re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory, resmem_process: Resmem) -> Path:
    """Embeddings for which 128 logits are kept of 130, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("arrays")
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(130, 16)) * 2
    for split, n in (("train", 3000), ("test", 200)):
        labels = generator.integers(130, size=n)
        np.savez(
            folder / f"{split}.npz",
            embeddings=(centres[labels] + generator.normal(size=(n, 16))).astype(np.float32),
            logits=generator.normal(size=(n, 130)).astype(np.float32),
            labels=labels,
        )
        assert resmem_process("import", f"{split}.npz", "-o", f"{split}.h5", cwd=folder).status == 0
    one = folder / "one"
    one.mkdir()
    for words in (
        "residualize ../train.h5 --top 128 -T 1 -o residuals.h5",
        "index ../train.h5 --kind ivf-pq --train-only -o trained.h5",
        "index ../train.h5 --trained trained.h5 -o index.h5",
        "predict ../test.h5 --index index.h5 --residuals residuals.h5 -k 53 -o predictions.h5",
    ):
        done = resmem_process(*words.split(), cwd=one)
        assert done.status == 0, done.stderr
    return folder


@pytest.fixture
def folder(arrays: Path, tmp_path: Path) -> Path:
    for name in ("train.h5", "test.h5"):
        shutil.copy(arrays / name, tmp_path)
    return tmp_path


def run(command: list[str], folder: Path, *path: Path, **env: str) -> None:
    folders = os.pathsep.join(map(str, (*path, Path(sys.executable).parent, os.environ["PATH"])))
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": folders, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def assert_as_one(folder: Path, arrays: Path, resmem_process: Resmem) -> None:
    assert resmem_process("verify", folder / "predictions.h5", folder / "index.h5").status == 0
    rows = [
        resmem_process("export", path / "predictions.h5", "-o", folder / f"{i}.npz")
        for i, path in enumerate((folder, arrays / "one"))
    ]
    assert all(one.status == 0 for one in rows)
    with np.load(folder / "0.npz") as spread, np.load(folder / "1.npz") as one:
        for name in one.files:
            np.testing.assert_array_equal(spread[name], one[name], err_msg=name)


@pytest.fixture
def namespaces() -> Iterator[str]:
    """Network namespaces that see each other through a bridge; nothing where they can't be made."""
    prefix = f"rm{os.getpid() % 10_000}w"
    bridge, net = f"{prefix}b", "10.213.77"
    lines = [f"ip link add {bridge} type bridge", f"ip addr add {net}.1/24 dev {bridge}"]
    lines.append(f"ip link set {bridge} up")
    for own, address in ((f"{prefix}{i}", f"{net}.{i + 1}/24") for i in range(1, N_WORKERS + 1)):
        lines += [
            f"ip netns add {own}",
            f"ip link add {own}v type veth peer name eth0 netns {own}",
            f"ip link set {own}v master {bridge} up",
            f"ip -n {own} addr add {address} dev eth0",
            f"ip -n {own} link set eth0 up",
            f"ip -n {own} link set lo up",
            f"ip -n {own} route add default via {net}.1",
        ]
    made = shutil.which("ip") is not None and all(
        subprocess.run(line.split(), capture_output=True, check=False).returncode == 0 for line in lines
    )
    yield prefix if made else ""
    if shutil.which("ip") is None:
        return
    for i in range(1, N_WORKERS + 1):
        subprocess.run(["ip", "netns", "del", f"{prefix}{i}"], capture_output=True, check=False)
    subprocess.run(["ip", "link", "del", bridge], capture_output=True, check=False)


@pytest.mark.long
def test_the_slurm_job(folder: Path, arrays: Path, resmem_process: Resmem, namespaces: str) -> None:
    tools = folder / "tools"
    tools.mkdir()
    (tools / "srun").write_text(
        SRUN.format(n=N_WORKERS, namespaces=namespaces, prefix=namespaces), encoding="ascii"
    )
    (tools / "srun").chmod(0o755)
    (folder / "job").write_text(example("the Slurm job"))
    run(["bash", "-eu", "job"], folder, tools, SLURM_CPUS_PER_TASK="1")
    assert_as_one(folder, arrays, resmem_process)


def test_the_makefile_of_shards(folder: Path, arrays: Path, resmem_process: Resmem) -> None:
    (folder / "Makefile").write_text(example("the Makefile of shards"))
    run(["make", "-j2"], folder)
    assert_as_one(folder, arrays, resmem_process)
