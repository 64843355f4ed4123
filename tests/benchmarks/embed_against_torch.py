"""Time `resmem embed` against a plain torch loop over the same network, each a whole process.

    python tests/benchmarks/embed_against_torch.py resnet8.safetensors images.npz --split train \\
        --arch cifar-resnet8 --mean 0.5,0.5,0.5 --std 0.25,0.25,0.25

Both read the same uint8 images, run batches of the same size, keep the input of the network's last linear
layer and the logits, and write them. Prints seconds and peak memory of each pair, the medians' ratio, and
the largest difference between the two results.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PLAIN = """
import sys
import numpy as np
import torch
from safetensors.torch import load_file
from resmem_cli.models.architectures.base import make_network

checkpoint, arch, inputs, key, mean, std, batch, output = sys.argv[1:]
network = make_network(arch)
network.load_state_dict(load_file(checkpoint))
network.eval()
head = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
kept = []
head.register_forward_pre_hook(lambda module, args: kept.append(args[0].numpy()))
images = np.load(inputs)[key]
mean, std = (torch.tensor([float(v) for v in t.split(",")]).view(1, -1, 1, 1) for t in (mean, std))
logits = []
with torch.inference_mode():
    for start in range(0, len(images), int(batch)):
        block = torch.from_numpy(images[start : start + int(batch)]).permute(0, 3, 1, 2)
        logits.append(network((block.float() / 255 - mean) / std).numpy())
np.savez(output, embeddings=np.concatenate(kept), logits=np.concatenate(logits))
"""


def measured(command: list[str]) -> tuple[float, float]:
    """Run a command; give its seconds and its peak resident memory in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("inputs")
    parser.add_argument("--split", default="train")
    parser.add_argument("--key", help="the images' key; x_SPLIT if not given")
    parser.add_argument("--arch", default="cifar-resnet8")
    parser.add_argument("--mean", required=True)
    parser.add_argument("--std", required=True)
    parser.add_argument("--batch-size", default="256")
    parser.add_argument("--pairs", type=int, default=3)
    given = parser.parse_args()
    key = given.key or f"x_{given.split}"
    with tempfile.TemporaryDirectory() as folder:
        artifact, plain = Path(folder, "embeddings.h5"), Path(folder, "plain.npz")
        ours = [
            *(sys.executable, "-m", "resmem_cli", "embed", given.checkpoint, given.inputs, "--quiet"),
            *("--split", given.split, "--arch", given.arch, "--batch-size", given.batch_size),
            *("--mean", given.mean, "--std", given.std, "-o", str(artifact)),
        ]
        theirs = [
            *(sys.executable, "-c", PLAIN, given.checkpoint, given.arch, given.inputs, key),
            *(given.mean, given.std, given.batch_size, str(plain)),
        ]
        print(f"{'':8}{'resmem embed':>22}{'plain loop':>22}{'ratio':>8}")
        pairs = []
        for number in range(given.pairs):
            pair = measured(ours), measured(theirs)
            pairs.append(pair)
            cells = "".join(f"{seconds:9.2f} s {peak:6.0f} MiB" for seconds, peak in pair)
            print(f"{f'pair {number + 1}':8}{cells}{pair[0][0] / pair[1][0]:8.3f}")
        medians = [statistics.median(pair[side][0] for pair in pairs) for side in (0, 1)]
        ratio = statistics.median(pair[0][0] / pair[1][0] for pair in pairs)
        print(f"median: {medians[0]:.2f} s and {medians[1]:.2f} s, median ratio of the pairs {ratio:.3f}")
        compare(artifact, plain)


def compare(artifact: Path, plain: Path) -> None:
    """Print how far the two results are apart."""
    from resmem_cli import open_artifact

    with np.load(plain) as expected, open_artifact(artifact) as found:
        for name in ("embeddings", "logits"):
            print(f"largest difference of {name}: {np.abs(found.read(name) - expected[name]).max():.2g}")


if __name__ == "__main__":
    main()
