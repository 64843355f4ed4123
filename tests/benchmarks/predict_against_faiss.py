"""How long `resmem predict` takes, as a whole process, beside the bare engine on the same arrays.

    python tests/benchmarks/predict_against_faiss.py [ARRAYS.npz] [--pairs 5]

The peer is one process that imports numpy and faiss, loads the embeddings and runs `IndexFlatL2.search`
for the same k: no residuals, no re-ranking, nothing written. Without arrays, it makes random ones of
CIFAR100's size.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BARE = """
import sys
import faiss
import numpy as np
arrays = np.load(sys.argv[1])
memory, queries = arrays["train_embeddings"], arrays["test_embeddings"]
index = faiss.IndexFlatL2(memory.shape[1])
index.add(memory)
index.search(queries, int(sys.argv[2]))
"""


def make_arrays(path: Path) -> None:
    """Write random arrays of CIFAR100's size."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(100, 64)) * 0.6
    arrays = {}
    for split, n in (("train", 50_000), ("test", 10_000)):
        labels = generator.integers(0, 100, size=n)
        embeddings = centres[labels] + generator.normal(size=(n, 64)) * 0.6
        arrays[f"{split}_embeddings"] = embeddings.astype(np.float32)
        arrays[f"{split}_logits"] = generator.normal(size=(n, 100)).astype(np.float32)
        arrays[f"{split}_labels"] = labels
    np.savez(path, **arrays)


def seconds(command: list[str]) -> float:
    """Time one whole process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Run the pairs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arrays", type=Path, nargs="?", help="an .npz with the splits train and test")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("-k", type=int, default=53)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arrays = given.arrays or Path(folder, "arrays.npz")
        if given.arrays is None:
            make_arrays(arrays)
        resmem = [sys.executable, "-m", "resmem_cli"]
        index, residuals, output = (f"{folder}/{name}.h5" for name in ("index", "residuals", "predictions"))
        seconds([*resmem, "index", str(arrays), "--split", "train", "-o", index])
        seconds([*resmem, "residualize", str(arrays), "--split", "train", "-o", residuals])
        predict = [*resmem, "predict", str(arrays), "--split", "test", "--index", index]
        predict += ["--residuals", residuals, "-k", str(given.k), "-o", output]
        bare = [sys.executable, "-c", BARE, str(arrays), str(given.k)]
        seconds(predict)
        seconds(bare)
        pairs = [(seconds(predict), seconds(bare)) for _ in range(given.pairs)]
    print(f"{'pair':>4}  {'resmem predict':>14}  {'IndexFlatL2':>11}  {'ratio':>5}")
    for i, (ours, theirs) in enumerate(pairs, 1):
        print(f"{i:>4}  {ours:>12.2f} s  {theirs:>9.2f} s  {ours / theirs:>5.2f}")
    middle = [statistics.median(column) for column in zip(*pairs, strict=True)]
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    print(f"{'med.':>4}  {middle[0]:>12.2f} s  {middle[1]:>9.2f} s  {ratio:>5.2f}")


if __name__ == "__main__":
    main()
