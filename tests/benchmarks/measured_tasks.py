"""What shards of a language model's size take here, and a run of 1.6 billion tokens simulated from that.

    python tests/benchmarks/measured_tasks.py [--workers 8 64 256] [--keep FOLDER]

A network of 60 million parameters (random weights: 256 inputs, 1,024 dimensions, 32,128 classes) embeds rows
with their 128 largest logits; these are residualized, and random rows of 1,024 dimensions in float16 are
indexed (ivf-pq) and searched in shards: each with shards of two sizes on `local:2`, on machines of one core.
Every shard's time goes to `--task-times`, from which `plan 1.6g --simulate` computes those of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from measuring import RESMEM, print_setting

INPUTS, DIMENSIONS, CLASSES, LAYERS = 256, 1024, 32_128, 26
TIMES = "task-times.jsonl"
FEW_CLASSES = 100  # of the rows that are indexed: what is added up for a query is not what takes the time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--embedded", type=int, default=12_000, help="rows that the network embeds")
    parser.add_argument("--rows", type=int, default=200_000, help="rows that are indexed and searched")
    parser.add_argument("--queries", type=int, default=4_000)
    parser.add_argument("--workers", nargs="+", default=["8", "64", "256"])
    parser.add_argument("--keep", type=Path, help="where the times and the figure go")
    given = parser.parse_args()
    print_setting(embedded=given.embedded, rows=given.rows, queries=given.queries)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        flops = make_network(place / "network.pt")
        draw(place, given)
        measure(place, given)
        kept = (given.keep or place).absolute()
        (kept / TIMES).write_bytes((place / TIMES).read_bytes()) if given.keep else None
        simulated = ("--simulate", "--workers", ",".join(given.workers), "--figures", kept / "figures")
        resmem(place, "plan", "1.6g", "--flops-per-row", flops, "--task-times", TIMES, *simulated, told=True)


def make_network(path: Path) -> int:
    """Write the network; give the operations that it takes for one row."""
    torch.manual_seed(0)
    hidden = [
        layer for _ in range(LAYERS) for layer in (torch.nn.ReLU(), torch.nn.Linear(DIMENSIONS, DIMENSIONS))
    ]
    network = torch.nn.Sequential(
        torch.nn.Linear(INPUTS, DIMENSIONS), *hidden, torch.nn.ReLU(), torch.nn.Linear(DIMENSIONS, CLASSES)
    )
    torch.jit.trace(network.eval(), torch.zeros(1, INPUTS)).save(path)
    return 2 * sum(weights.numel() for weights in network.parameters())


def draw(place: Path, given: argparse.Namespace) -> None:
    """Write inputs of the network, and embeddings in clusters to be indexed, with queries."""
    rng = np.random.default_rng(0)
    np.savez(
        place / "inputs.npz",
        x_train=rng.normal(size=(given.embedded, INPUTS)).astype(np.float32),
        y_train=rng.integers(CLASSES, size=given.embedded),
    )
    n = given.rows + given.queries
    centres = rng.normal(size=(1_000, DIMENSIONS)).astype(np.float16)
    rows = centres[rng.integers(len(centres), size=n)]
    for block in np.array_split(np.arange(n), 64):
        rows[block] += rng.normal(size=(len(block), DIMENSIONS)).astype(np.float16)
    for name, part in (("train", rows[: given.rows]), ("test", rows[given.rows :])):
        np.savez(
            place / f"{name}.npz",
            embeddings=part,
            logits=rng.normal(size=(len(part), FEW_CLASSES)).astype(np.float16),
            labels=rng.integers(FEW_CLASSES, size=len(part)),
        )
        resmem(place, "import", f"{name}.npz", "-o", f"{name}.h5")
    resmem(place, "residualize", "train.h5", "-o", "memory-residuals.h5")


def measure(place: Path, given: argparse.Namespace) -> None:
    """Do every step in few shards and in more."""
    for shards in (4, 8):
        on = ("--scheduler", "local:2", "--shards", shards, "--task-times", TIMES)
        kept = ("--split", "train", "--top", 128, "--storage", "float16", "-o", "embedded.h5")
        resmem(place, "embed", "network.pt", "inputs.npz", "--trust-checkpoint", *kept, *on)
        resmem(place, "residualize", "embedded.h5", "--top", 128, "-T", 1, "-o", "residuals.h5", *on)
        index = f"index-{shards}.h5"
        resmem(place, "index", "train.h5", "--kind", "ivf-pq", "-o", index, *on, "--manifest")
        memory = ("--index", index, "--residuals", "memory-residuals.h5", "-k", 50)
        resmem(place, "predict", "test.h5", *memory, "-o", "predictions.h5", *on[:2], "--shards", 2, *on[4:])


def resmem(place: Path, *words: object, told: bool = False) -> None:
    done = subprocess.run([*RESMEM, *map(str, words)], cwd=place, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: {done.stderr}")
    if told:
        print(f"\n{done.stdout}")


if __name__ == "__main__":
    main()
