"""Networks trained on images, one run a folder, which goes on where it was stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.temporary import new_file
from resmem_cli.indexes.base import search_others
from resmem_cli.residual_memory import ResidualMemory
from resmem_cli.stages.reproduce.image_parts import ImageParts, Part
from resmem_cli.stages.reproduce.run_folder import RunFolder, damaged, write_json
from resmem_cli.types import Progress, no_progress
from resmem_cli.weights import default_sigma, neighbor_weights

if TYPE_CHECKING:
    # They import torch, which most of the tool need not have.
    from resmem_cli.models.training.classifier_run import ClassifierRun
    from resmem_cli.models.training.objectives import Distillation, SumWithMemory
    from resmem_cli.models.training.recipes import ImageRecipe

NETWORK, TRAINING, _UNFINISHED = "network.safetensors", "training.json", "unfinished.pt"
_K, _TEMPERATURE, _TEACHER_WEIGHT = 53, 1.4, 0.5


@dataclass(frozen=True)
class ImageRun:
    """What one run trains.

    Attributes
    ----------
    depth : int
        Of the CIFAR-ResNet.
    epochs : int
        The whole recipe's, its schedule scaled to them.
    seed : int
        Of weights, order, crops and flips.
    fraction : float
        Share of the training images.
    joint : bool
        Whether a memory takes part in training.
    teacher : ImageRun or None
        Whose answers are learnt beside the labels.
    teacher_temperature : float
        At which they are.
    """

    depth: int
    epochs: int
    seed: int = 0
    fraction: float = 1.0
    joint: bool = False
    teacher: ImageRun | None = None
    teacher_temperature: float = 1.0

    @property
    def arch(self) -> str:
        """The built-in architecture's name."""
        return f"cifar-resnet{self.depth}"

    @property
    def name(self) -> str:
        """The run's folder."""
        parts = [f"resnet{self.depth}", f"{self.epochs}-epochs", f"seed-{self.seed}"]
        if self.fraction != 1:
            parts.append(f"{100 * self.fraction:g}-percent")
        if self.joint:
            parts.append("joint")
        if self.teacher is not None:
            parts.append(f"of-resnet{self.teacher.depth}-at-{self.teacher_temperature:g}")
        return "-".join(parts)


@dataclass(frozen=True)
class Trained:
    """A trained network's file, and what embedding with it needs.

    Attributes
    ----------
    folder : RunFolder
    run : ImageRun
    network : pathlib.Path
    arch_args : mapping
    mean, std : tuple of float
    """

    folder: RunFolder
    run: ImageRun
    network: Path
    arch_args: Mapping[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    training: Mapping[str, Any]


class ImageRuns:
    """Trains what it is asked for, once.

    Parameters
    ----------
    folder : pathlib.Path
        Of all runs.
    parts : ImageParts
    recipe : ImageRecipe
        The whole one; runs of fewer epochs scale it.
    temperature : float
        Of the memory in joint training.
    device : str
    announce : callable, optional
        Is told what begins.
    progress : Progress
    """

    def __init__(
        self,
        folder: Path,
        parts: ImageParts,
        recipe: ImageRecipe,
        *,
        digest: str,
        temperature: float = _TEMPERATURE,
        device: str = "auto",
        announce: Callable[[str], None] | None = None,
        progress: Progress = no_progress,
    ) -> None:
        self.folder = folder
        self.parts = parts
        self._recipe = recipe
        self._digest = digest
        self._temperature = temperature
        self._device = device
        self._announce = announce
        self._progress = progress

    @cached_property
    def arch_args(self) -> dict[str, int]:
        """What every network is made with."""
        return {
            "num_classes": self.parts.data.n_classes,
            "in_channels": int(self.parts.data.train_images.shape[3]),
        }

    def part(self, run: ImageRun) -> Part:
        """Give what a run is trained on."""
        return self.parts.subset(run.fraction)

    def trained(self, run: ImageRun, *, keep: tuple[int, ...] = ()) -> Trained:
        """Train a network, or go on with it, or take it as it is.

        Parameters
        ----------
        run : ImageRun
        keep : tuple of int
            Epochs after which the network is kept too; see `after`. They must be asked for before the run
            is finished, or the run is made again.
        """
        name = run.name
        if run.joint and self._temperature != _TEMPERATURE:
            name += f"-at-{self._temperature:g}"
        folder = RunFolder(self.folder / name, self._settings(run))
        wanted = [path for epoch in keep if epoch < run.epochs if not (path := _kept(folder, epoch)).exists()]
        if wanted or not (folder.has(TRAINING) and folder.has(NETWORK)):
            if wanted:
                (folder.path / TRAINING).unlink(missing_ok=True)
            self._train(folder, run, keep)
        told = folder.json(TRAINING, dict)
        try:
            mean, std = tuple(told["mean"]), tuple(told["std"])
        except (TypeError, LookupError) as error:
            raise damaged(folder.path / TRAINING) from error
        return Trained(folder, run, folder.path / NETWORK, self.arch_args, mean, std, told)

    def after(self, trained: Trained, epoch: int) -> Path:
        """Give the network as it was after an epoch for which it was kept."""
        return trained.network if epoch == trained.run.epochs else _kept(trained.folder, epoch)

    def _settings(self, run: ImageRun) -> dict[str, Any]:
        return {
            "data": self._digest,
            "arch": run.arch,
            "arch_args": self.arch_args,
            "images": len(self.part(run).labels),
            "fraction": run.fraction,
            "seed": run.seed,
            "recipe": asdict(self._recipe.scaled_to(run.epochs)),
            "joint": {"k": _K, "temperature": self._temperature} if run.joint else None,
            "teacher": run.teacher
            and {"run": run.teacher.name, "temperature": run.teacher_temperature, "weight": _TEACHER_WEIGHT},
        }

    def _train(self, folder: RunFolder, run: ImageRun, keep: tuple[int, ...]) -> None:
        from resmem_cli.models.training.classifier_run import ClassifierRun
        from resmem_cli.models.training.objectives import cross_entropy

        part = self.part(run)
        recipe = self._recipe.scaled_to(run.epochs)
        memory = self._sum_with_memory() if run.joint else None
        teacher = None if run.teacher is None else self._teacher(run.teacher, run.teacher_temperature)
        training = ClassifierRun(
            run.arch,
            self.arch_args,
            part.images,
            part.labels,
            recipe,
            seed=run.seed,
            device=self._device,
            objective=memory or teacher or cross_entropy,
        )
        unfinished = folder.path / _UNFINISHED
        epochs: list[dict[str, Any]] = []
        if unfinished.exists():
            epochs = training.restore(unfinished)["epochs"]
        if self._announce is not None:
            done = f", from epoch {len(epochs) + 1}" if epochs else ""
            self._announce(f"training {folder.path.name}{done} on {training.device}")
        while training.epochs_done < run.epochs:
            start = time.perf_counter()
            if memory is not None and training.epochs_done >= math.ceil(recipe.warmup_epochs):
                memory.refresh(self._answers(training, part.labels))
            report = training.run_epoch(self._progress)
            epochs.append({**asdict(report), "seconds": time.perf_counter() - start})
            if report.epoch in keep and report.epoch < run.epochs:
                _write(_kept(folder, report.epoch), training.weights())
            _write(unfinished, training.state(epochs=epochs))
        _write(folder.path / NETWORK, training.weights())
        write_json(
            folder.path / TRAINING,
            {
                "mean": list(training.preprocessing.mean),
                "std": list(training.preprocessing.std),
                "device": training.device,
                "epochs": epochs,
            },
        )
        unfinished.unlink()

    def _sum_with_memory(self) -> SumWithMemory:
        from resmem_cli.models.devices import choose_device
        from resmem_cli.models.training.objectives import SumWithMemory

        return SumWithMemory(temperature=self._temperature, device=str(choose_device(self._device)))

    def _teacher(self, run: ImageRun, temperature: float) -> Distillation:
        from resmem_cli.models.checkpoint import load_network
        from resmem_cli.models.devices import choose_device
        from resmem_cli.models.training.objectives import Distillation

        network = load_network(self.trained(run).network, arch=run.arch, arch_args=self.arch_args).module
        return Distillation(
            network.to(choose_device(self._device)), temperature=temperature, weight=_TEACHER_WEIGHT
        )

    def _answers(self, training: ClassifierRun, labels: NDArray[np.int32]) -> NDArray[np.float32]:
        """Give what a memory of the training images adds to each one's own label, itself left out."""
        embeddings, logits = training.outputs()
        memory = ResidualMemory.fit(embeddings, logits, labels, temperature=self._temperature)
        rows = np.arange(len(labels))
        found = search_others(memory.index, embeddings, rows, min(_K, len(labels) - 1))
        weights = neighbor_weights(found.distances, sigma=default_sigma(memory.distance_scale))
        own = memory.residuals[found.rows, labels[:, np.newaxis]]
        answers: NDArray[np.float32] = np.einsum("ij,ij->i", own, weights).astype(np.float32)
        return answers


def _kept(folder: RunFolder, epoch: int) -> Path:
    return folder.path / f"network-{epoch:03d}.safetensors"


def _write(path: Path, content: bytes) -> None:
    with new_file(path) as stream:
        stream.write(content)
