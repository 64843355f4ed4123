"""Train a CIFAR-ResNet by the paper's recipe and save its weights, for `resmem embed`.

The images are an .npz with `x_train` (n, 32, 32, 3) uint8, `y_train` (n,), `x_test` and `y_test`. The
network is saved as `cifar-resnetN.safetensors`, and what `embed` needs besides it (mean and standard
deviation) with its accuracy and recipe as `cifar-resnetN.json`. With fewer epochs than 256 the recipe's
warm-up and drops move in proportion. An epoch of ResNet-8 takes 40 to 60 s on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from resmem_cli.models.architectures.base import make_network
from resmem_cli.models.training.images import ClassifierTraining, classifier_accuracy
from resmem_cli.models.training.recipes import ImageRecipe


def main() -> None:
    """Train, printing a line an epoch, and write the two files."""
    parser = training_options(__doc__, epochs=ImageRecipe.epochs)
    parser.add_argument("--depth", type=int, default=8, choices=[8, 14, 20, 32, 44, 56])
    given = parser.parse_args()
    name = f"cifar-resnet{given.depth}"
    train_and_save(given, name, name, lambda **arguments: make_network(name, arch_args=arguments))


def training_options(text: str, *, epochs: int) -> argparse.ArgumentParser:
    """Make a parser of what `train_and_save` is given; `text` begins with a line that describes it."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="an .npz of images")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--peak-learning-rate", type=float, default=ImageRecipe.peak_learning_rate)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    return parser


def train_and_save(
    given: argparse.Namespace, name: str, arch: str, make: Callable[..., nn.Module], **arch_args: int
) -> None:
    """Train a new network, printing a line an epoch, and write `name`.safetensors and `name`.json.

    Parameters
    ----------
    given : argparse.Namespace
        As `training_options` reads it.
    name : str
        Of the files.
    arch : str
        What `embed --arch` takes.
    make : callable
        Makes the network untrained, of `num_classes` and `arch_args`.
    **arch_args : int
        Written to the file besides `num_classes`, for `embed --arch-args`.
    """
    recipe = ImageRecipe(peak_learning_rate=given.peak_learning_rate).scaled_to(given.epochs)
    given.output.mkdir(parents=True, exist_ok=True)
    with np.load(given.data) as arrays:
        images, labels = arrays["x_train"], arrays["y_train"]
        test_images, test_labels = arrays["x_test"], arrays["y_test"]
    arch_args = {"num_classes": int(labels.max()) + 1, **arch_args}
    torch.manual_seed(given.seed)
    network = make(**arch_args)
    training = ClassifierTraining(network, images, labels, recipe, seed=given.seed, device=given.device)
    print(f"{'epoch':>5}  {'rate':>6}  {'loss':>6}  {'train':>6}  {'test':>6}  {'time':>7}")
    start = time.perf_counter()
    for _ in range(recipe.epochs):
        report = training.run_epoch()
        accuracy = classifier_accuracy(network, test_images, test_labels, training.preprocessing)
        print(
            f"{report.epoch:>5}  {recipe.learning_rate(report.epoch):>6.4f}  {report.loss:>6.3f}"
            f"  {report.accuracy:>6.2%}  {accuracy:>6.2%}  {time.perf_counter() - start:>5.0f} s",
            flush=True,
        )
    save_file(network.state_dict(), given.output / f"{name}.safetensors")
    described = {
        "arch": arch,
        "arch_args": arch_args,
        "mean": training.preprocessing.mean,
        "std": training.preprocessing.std,
        "test_accuracy": accuracy,
        "seed": given.seed,
        "recipe": asdict(recipe),
    }
    (given.output / f"{name}.json").write_text(json.dumps(described, indent=2) + "\n")


if __name__ == "__main__":
    main()
