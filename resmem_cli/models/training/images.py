"""Training of an image classifier by an `ImageRecipe`, epoch by epoch, and its accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.models.extra import torch
from resmem_cli.models.inputs import ImagePreprocessing, as_inputs
from resmem_cli.models.training.image_batches import augmented, preprocessing_of, scaled
from resmem_cli.models.training.objectives import Objective, cross_entropy
from resmem_cli.models.training.recipes import ImageRecipe
from resmem_cli.models.training.seeding import torch_seeded
from resmem_cli.types import Progress, no_progress, row_blocks

_TEST_BATCH_ROWS = 500


@dataclass(frozen=True)
class EpochReport:
    """One pass over the training images.

    Attributes
    ----------
    epoch : int
        Its number, from 1.
    loss : float
        Mean over the images, each as the network was when it came.
    accuracy : float
        Share of the augmented images classified right, likewise.
    """

    epoch: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class TrainedClassifier:
    """What training gave, besides the network's weights.

    Attributes
    ----------
    preprocessing : ImagePreprocessing
        What an image must go through before the network.
    epochs : tuple of EpochReport
    """

    preprocessing: ImagePreprocessing
    epochs: tuple[EpochReport, ...]


class ClassifierTraining:
    """A training run that goes epoch by epoch, can be saved between two, and continued.

    What an epoch draws at random depends on the seed and the epoch's number alone: the order of the
    images, the crops, the flips, and what the network drops. On the CPU, with as many threads, the same
    seed gives the same weights to the bit, whether the run was interrupted or not.

    Parameters
    ----------
    network : torch.nn.Module
        Takes scaled images ``(b, channels, h, w)`` and gives logits ``(b, C)``. It is moved to
        `device` and trained in place.
    images : uint8 array of shape (n, h, w, channels)
    labels : integer array of shape (n,)
        From 0 to C - 1.
    recipe : ImageRecipe
    seed : int
        Of everything drawn in training; the network's first weights are the caller's.
    device : str
        A device of torch.
    objective : Objective
        What the network is trained for.

    Raises
    ------
    DataError
        If the images or labels are of another type or shape, or a label is negative.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        images: NDArray[np.uint8],
        labels: NDArray[np.integer[Any]],
        recipe: ImageRecipe,
        *,
        seed: int = 0,
        device: str = "cpu",
        objective: Objective = cross_entropy,
    ) -> None:
        _check_images(images, labels)
        self.epochs_done = 0
        self.preprocessing = preprocessing_of(images)
        self._recipe = recipe
        self._seed = seed
        self._device = torch.device(device)
        self._objective = objective
        self._network = network.to(self._device)
        self._images = torch.tensor(images, device=self._device)
        self._labels = torch.tensor(labels, dtype=torch.int64, device=self._device)
        self._optimizer = torch.optim.SGD(
            network.parameters(),
            lr=recipe.peak_learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )

    def run_epoch(self, progress: Progress = no_progress) -> EpochReport:
        """Train on every image once; `progress` is handed the batches.

        Raises
        ------
        DataError
            If the loss is not finite any more.
        """
        epoch = self.epochs_done + 1
        generator = np.random.default_rng([self._seed, epoch])
        order = generator.permutation(len(self._images))
        blocks = row_blocks(len(order), self._recipe.batch_size)
        loss = torch.zeros((), device=self._device)
        n_right = torch.zeros((), dtype=torch.int64, device=self._device)
        self._network.train()
        with torch_seeded(generator, self._device):
            for block in progress(blocks, f"epoch {epoch} of {self._recipe.epochs}"):
                self._set_learning_rate(self.epochs_done + block.stop / len(order))
                numbers = order[block]
                rows = torch.from_numpy(numbers).to(self._device)
                batch = augmented(
                    scaled(self._images[rows], self.preprocessing),
                    crop_padding=self._recipe.crop_padding,
                    flips=self._recipe.flips,
                    generator=generator,
                )
                # A view: a CPU's convolutions are half again as fast where the channels lie side by side.
                inputs = batch.permute(0, 3, 1, 2)
                logits = self._network(inputs)
                batch_loss = self._objective(logits, self._labels[rows], rows=numbers, inputs=inputs)
                self._optimizer.zero_grad()
                batch_loss.backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()
                loss += batch_loss.detach() * len(rows)
                n_right += (logits.detach().argmax(dim=1) == self._labels[rows]).sum()
        self.epochs_done = epoch
        report = EpochReport(epoch, loss.item() / len(order), n_right.item() / len(order))
        if not math.isfinite(report.loss):
            raise DataError(
                f"the loss is not finite any more after epoch {epoch}",
                remedy="take a lower peak learning rate or a longer warm-up",
            )
        return report

    def state_dict(self) -> dict[str, Any]:
        """Give what a later run needs to continue: weights, momenta and the number of epochs.

        The tensors are those of the run itself: save them before it goes on.
        """
        return {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "epochs_done": self.epochs_done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of a run with the same images, recipe and seed."""
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.epochs_done = state["epochs_done"]

    def _set_learning_rate(self, epoch: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate(epoch)


def train_classifier(
    network: torch.nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    recipe: ImageRecipe,
    *,
    progress: Progress = no_progress,
    seed: int = 0,
    device: str = "cpu",
) -> TrainedClassifier:
    """Train a network by a whole recipe, in place, and leave it in evaluation mode.

    The parameters and errors are those of `ClassifierTraining`; `progress` is handed each epoch's batches.
    """
    training = ClassifierTraining(network, images, labels, recipe, seed=seed, device=device)
    reports = tuple(training.run_epoch(progress) for _ in range(recipe.epochs))
    network.eval()
    return TrainedClassifier(training.preprocessing, reports)


def classifier_accuracy(
    network: torch.nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    preprocessing: ImagePreprocessing,
) -> float:
    """Give the share of images ``(n, h, w, channels)`` that a network in evaluation mode gets right."""
    device = next(network.parameters()).device
    n_right = 0
    network.eval()
    with torch.inference_mode():
        for block in row_blocks(len(images), _TEST_BATCH_ROWS):
            logits = network(as_inputs(images[block], preprocessing).to(device))
            n_right += int((logits.argmax(dim=1).cpu().numpy() == labels[block]).sum())
    return n_right / len(images)


def _check_images(images: NDArray[Any], labels: NDArray[Any]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0:
        raise DataError(
            "training images are not as expected",
            expected="uint8 of shape (n, height, width, channels)",
            found=f"{images.dtype} of shape {images.shape}",
        )
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            "training labels are not as expected",
            expected=f"integers of shape ({len(images)},)",
            found=f"{labels.dtype} of shape {labels.shape}",
        )
    if labels.min() < 0:
        raise DataError("training labels are not classes", expected="at least 0", found=labels.min())
