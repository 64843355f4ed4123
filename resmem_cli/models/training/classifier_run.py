"""A built-in network in training, which can be put aside after any epoch and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.models.architectures.base import make_network
from resmem_cli.models.capture import EmbeddingCapture
from resmem_cli.models.checkpoint import Network
from resmem_cli.models.devices import choose_device, make_deterministic
from resmem_cli.models.extra import torch
from resmem_cli.models.inputs import ImagePreprocessing
from resmem_cli.models.training.images import ClassifierTraining, EpochReport
from resmem_cli.models.training.objectives import Objective, cross_entropy
from resmem_cli.models.training.recipes import ImageRecipe
from resmem_cli.models.training.saving import network_bytes, read_state, state_bytes
from resmem_cli.types import Progress, no_progress, row_blocks

_BATCH_ROWS = 256


class ClassifierRun:
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
        chosen = choose_device(device)
        make_deterministic(chosen)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self._network = make_network(arch, arch_args=arch_args)
        self._images = images
        self._training = ClassifierTraining(
            self._network, images, labels, recipe, seed=seed, device=str(chosen), objective=objective
        )
        self._capture: EmbeddingCapture | None = None
        self.device = str(chosen)

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

    def state(self, **kept: Any) -> bytes:
        """Give what `restore` needs to go on, and plain values to be kept with it."""
        return state_bytes({"training": self._training.state_dict(), "kept": kept})

    def restore(self, path: Path) -> dict[str, Any]:
        """Go on where a run of the same settings was put aside; give the values kept with it.

        Raises
        ------
        DataError
            If the file is damaged, or is not of such a run.
        """
        state = read_state(path)
        try:
            self._training.load_state_dict(state["training"])
            return dict(state["kept"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                "an unfinished training run of another network",
                file=path,
                found=str(error).partition("\n")[0],
                remedy="remove it, to train from the beginning",
            ) from error

    def weights(self) -> bytes:
        """Give the network as it is, as a safetensors file."""
        return network_bytes(self._network)

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
