"""An image classifier in training, which can be put aside after any epoch and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.models.capture import EmbeddingCapture
from resmem_cli.models.checkpoint import Network
from resmem_cli.models.inputs import ImagePreprocessing
from resmem_cli.models.training.images import ClassifierTraining, EpochReport
from resmem_cli.models.training.objectives import Objective, cross_entropy
from resmem_cli.models.training.recipes import ImageRecipe
from resmem_cli.models.training.resumable import ResumableRun
from resmem_cli.types import Progress, no_progress, row_blocks

_BATCH_ROWS = 256


class ClassifierRun(ResumableRun):
    """An image classifier and its training.

    Parameters
    ----------
    arch : str
        A built-in architecture, such as ``cifar-resnet8``.
    arch_args : mapping
        Its keyword arguments.
    images : (n, h, w, channels) uint8
    labels : (n,) integers
    recipe : ImageRecipe
    seed : int
        Of the first weights and of everything drawn in training.
    device : str
        As for `choose_device`.
    objective : Objective
        What is trained for.
    """

    def __init__(
        self,
        arch: str,
        arch_args: Mapping[str, Any],
        images: NDArray[np.uint8],
        labels: NDArray[np.integer[Any]],
        recipe: ImageRecipe,
        *,
        seed: int = 0,
        device: str = "auto",
        objective: Objective = cross_entropy,
    ) -> None:
        self._prepare(arch, arch_args, seed=seed, device=device)
        self._images = images
        self._training = self._saved = ClassifierTraining(
            self._network, images, labels, recipe, seed=seed, device=self.device, objective=objective
        )
        self._capture: EmbeddingCapture | None = None

    @property
    def epochs_done(self) -> int:
        """Passes over the images so far."""
        return self._training.epochs_done

    @property
    def preprocessing(self) -> ImagePreprocessing:
        """What images go through before the network."""
        return self._training.preprocessing

    def run_epoch(self, progress: Progress = no_progress) -> EpochReport:
        """Train on every image once; raises `DataError` if the loss is not finite any more."""
        return self._training.run_epoch(progress)

    def outputs(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Give embeddings (n, d) and logits (n, C) of the training images, neither cropped nor mirrored."""
        self._network.eval()
        if self._capture is None:
            network = Network(self._network, digest="", arch="")
            self._capture = EmbeddingCapture(network, device=self.device)
        embeddings, logits = [], []
        for block in row_blocks(len(self._images), _BATCH_ROWS):
            batch = self._capture.prepare(self._images[block], self.preprocessing)
            found = self._capture.run(batch, first_row=block.start)
            embeddings.append(found.embeddings)
            logits.append(found.logits)
        return np.concatenate(embeddings), np.concatenate([one for one in logits if one is not None])
