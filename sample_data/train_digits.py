"""Make the sample data: handwritten digits, and a small network that has not learnt them quite.

The digits are the 1,797 images of 8 x 8 pixels that scikit-learn ships, from E. Alpaydin and C. Kaynak,
"Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
https://doi.org/10.24432/C50P49 (CC BY 4.0). Running the script, with scikit-learn installed, writes
`digits_train.npz`, `digits_test.npz` and `digits.safetensors` beside it; the same versions on the same
kind of processor write the same bytes.

Only `make_network` is used by `resmem embed --arch train_digits:make_network`; it needs torch alone.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import nn

SEED = 1
N_TEST = 597
EPOCHS = 5
BATCH_ROWS = 32
LEARNING_RATE = 3e-3


def make_network() -> nn.Module:
    """Make the untrained network: 64 pixels in, an embedding of 16, the logits of 10 digits out."""
    return nn.Sequential(
        OrderedDict(
            hidden=nn.Linear(64, 32),
            hidden_relu=nn.ReLU(),
            embedding=nn.Linear(32, 16),
            embedding_relu=nn.ReLU(),
            head=nn.Linear(16, 10),
        )
    )


def train(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Train for so few epochs that about a tenth of new digits comes out wrong."""
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(images)), BATCH_ROWS):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images[rows]), labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def main() -> None:
    """Write the two splits and the trained weights beside this script."""
    from safetensors.torch import save_file
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,import-not-found,unused-ignore]

    folder = Path(__file__).parent
    digits = load_digits()
    images = (digits.data / 16).astype(np.float32)
    labels = digits.target.astype(np.int64)
    classes = np.array([str(name) for name in digits.target_names])
    shuffled = np.random.default_rng(SEED).permutation(len(images))
    splits = {"train": np.sort(shuffled[N_TEST:]), "test": np.sort(shuffled[:N_TEST])}
    for name, rows in splits.items():
        np.savez(folder / f"digits_{name}.npz", x=images[rows], y=labels[rows], classes=classes)

    # On several threads the sums of a matrix product can be split differently from run to run.
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    network = make_network()
    train(network, torch.from_numpy(images[splits["train"]]), torch.from_numpy(labels[splits["train"]]))
    save_file(network.state_dict(), folder / "digits.safetensors")
    for name, rows in splits.items():
        with torch.inference_mode():
            predicted = network(torch.from_numpy(images[rows])).argmax(dim=1).numpy()
        print(f"{name}: {len(rows)} digits, {np.mean(predicted == labels[rows]):.1%} right")


if __name__ == "__main__":
    main()
