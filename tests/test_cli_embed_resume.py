"""`resmem embed` interrupted, and going on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import Resmem

torch = pytest.importorskip("torch", reason="needs the torch extra")

# 64 rows of its embeddings are one block of the file; each batch takes its time.
NETWORKS = """
import os, time, torch

class Slow(torch.nn.Module):
    def __init__(self, pause=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.wide = torch.nn.Linear(8, 4096)
        self.head = torch.nn.Linear(4096, 3)
        self.pause = float(os.environ.get("PAUSE", 0))

    def forward(self, x):
        time.sleep(self.pause)
        return self.head(torch.relu(self.wide(x)))
"""
N, BATCH = 700, 20
COMMAND = [
    *(sys.executable, "-m", "resmem_cli", "embed", "w.pt", "inputs.npz", "--arch", "slow:Slow"),
    *("--batch-size", str(BATCH), "-o", "out.h5"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A slow network, its inputs, and the bytes of an undisturbed run."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "slow.py").write_text(NETWORKS)
    script = "import torch, slow; torch.save(slow.Slow().state_dict(), 'w.pt')"
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
    generator = np.random.default_rng(0)
    np.savez(
        folder / "inputs.npz",
        x=generator.normal(size=(N, 8)).astype(np.float32),
        y=generator.integers(0, 3, size=N),
    )
    subprocess.run(COMMAND, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder, (folder / "out.h5").read_bytes()


@pytest.fixture
def folder(made: tuple[Path, bytes], tmp_path: Path) -> Path:
    for name in ("slow.py", "w.pt", "inputs.npz"):
        (tmp_path / name).write_bytes((made[0] / name).read_bytes())
    return tmp_path


def interrupt(folder: Path, number: int, *, blocks: int, options: tuple[str, ...] = ()) -> int:
    """Start the command slowly, send it a signal when so many blocks are written, and give its status."""
    process = subprocess.Popen(
        [*COMMAND, *options],
        cwd=folder,
        env={**os.environ, "PAUSE": "0.03"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while unfinished_bytes(folder) < blocks << 20:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    return process.wait(timeout=60)


def unfinished_bytes(folder: Path) -> int:
    return max((path.stat().st_size for path in folder.glob(".*.resmem-part/work/*")), default=0)


def left_over(folder: Path) -> list[str]:
    ours = {"slow.py", "w.pt", "inputs.npz", "out.h5", "__pycache__"}
    return [path.name for path in folder.iterdir() if path.name not in ours]


@pytest.mark.parametrize("blocks", [1, 4, 9])
def test_after_a_kill_the_rest_is_embedded_and_the_bytes_are_the_same(
    blocks: int, made: tuple[Path, bytes], folder: Path, resmem_process: Resmem
) -> None:
    assert interrupt(folder, signal.SIGKILL, blocks=blocks) == -signal.SIGKILL
    assert not (folder / "out.h5").exists()
    done = resmem_process(*COMMAND[3:], "--resume", "--json", cwd=folder)
    assert done.status == 0, done.stderr
    # The last block may not have been noted yet, and then there is none of a first one.
    assert (done.result["resumed_from_row"] or 0) >= (blocks - 1) * 64
    assert (folder / "out.h5").read_bytes() == made[1]
    assert left_over(folder) == []


def test_a_run_can_be_killed_again_and_again(
    made: tuple[Path, bytes], folder: Path, resmem_process: Resmem
) -> None:
    for blocks in (2, 4, 6):
        interrupt(folder, signal.SIGKILL, blocks=blocks, options=("--resume",))
    done = resmem_process(*COMMAND[3:], "--resume", "--json", cwd=folder)
    assert done.result["resumed_from_row"] >= 5 * 64
    assert (folder / "out.h5").read_bytes() == made[1]
    assert left_over(folder) == []


def test_without_resume_the_leftovers_are_swept(
    made: tuple[Path, bytes], folder: Path, resmem_process: Resmem
) -> None:
    interrupt(folder, signal.SIGKILL, blocks=2)
    assert left_over(folder)
    done = resmem_process(*COMMAND[3:], cwd=folder)
    assert done.status == 0
    assert "--resume" in done.stderr
    assert (folder / "out.h5").read_bytes() == made[1]
    assert left_over(folder) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_but_what_resume_was_asked_to_keep(
    number: signal.Signals, made: tuple[Path, bytes], folder: Path, resmem_process: Resmem
) -> None:
    assert interrupt(folder, number, blocks=2) == -number
    assert left_over(folder) == []
    assert interrupt(folder, number, blocks=3, options=("--resume",)) == -number
    assert len(left_over(folder)) == 1
    done = resmem_process(*COMMAND[3:], "--resume", "--json", cwd=folder)
    assert done.result["resumed_from_row"] >= 2 * 64
    assert (folder / "out.h5").read_bytes() == made[1]
    assert left_over(folder) == []


def test_work_on_other_inputs_is_not_gone_on_with(folder: Path, resmem_process: Resmem) -> None:
    interrupt(folder, signal.SIGKILL, blocks=3)
    with np.load(folder / "inputs.npz") as inputs:
        np.savez(folder / "inputs.npz", x=inputs["x"] + 1, y=inputs["y"])
    done = resmem_process(*COMMAND[3:], "--resume", "--json", cwd=folder)
    assert done.status == 0, done.stderr
    assert done.result["resumed_from_row"] is None
    resumed = (folder / "out.h5").read_bytes()
    assert resmem_process(*COMMAND[3:], cwd=folder).status == 0
    assert (folder / "out.h5").read_bytes() == resumed
    assert left_over(folder) == []
