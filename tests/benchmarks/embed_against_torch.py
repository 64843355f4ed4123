"""Time `resmem embed` against a plain torch loop over the same network, each a whole process.

    python tests/benchmarks/embed_against_torch.py resnet8.safetensors images.npz --split train \\
        --arch cifar-resnet8 --mean 0.5,0.5,0.5 --std 0.25,0.25,0.25

Both read the same uint8 images, run batches of the same size, keep the input of the network's last linear
layer and the logits, and write them. Prints medians of time and peak memory, the median ratio of the pairs,
and the largest difference between the two results.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import RESMEM, in_turn, print_runs, print_setting, run

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
            *(*RESMEM, "embed", given.checkpoint, given.inputs, "--quiet"),
            *("--split", given.split, "--arch", given.arch, "--batch-size", given.batch_size),
            *("--mean", given.mean, "--std", given.std, "-o", str(artifact)),
        ]
        theirs = [
            *(sys.executable, "-c", PLAIN, given.checkpoint, given.arch, given.inputs, key),
            *(given.mean, given.std, given.batch_size, str(plain)),
        ]
        print_setting(inputs=given.inputs, network=given.arch, batch_size=given.batch_size)
        works = {"resmem embed": lambda: run(ours), "plain loop": lambda: run(theirs)}
        print_runs(in_turn(works, given.pairs), ours="resmem embed")
        compare(artifact, plain)


def compare(artifact: Path, plain: Path) -> None:
    """Print how far the two results are apart."""
    from resmem_cli import open_artifact

    with np.load(plain) as expected, open_artifact(artifact) as found:
        for name in ("embeddings", "logits"):
            print(f"largest difference of {name}: {np.abs(found.read(name) - expected[name]).max():.2g}")


if __name__ == "__main__":
    main()
