"""A trained network's memory: embedded, indexed, tuned, predicted with and analyzed by the tool's stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resmem_cli.files import file_digest
from resmem_cli.stages.analyze import AnalyzeConfig, analyze
from resmem_cli.stages.embed import embed
from resmem_cli.stages.embedding.config import EmbedConfig, ImageConfig
from resmem_cli.stages.index import index
from resmem_cli.stages.index_config import IndexConfig
from resmem_cli.stages.predict import predict
from resmem_cli.stages.predict_config import PredictConfig
from resmem_cli.stages.reproduce.image_parts import HELD_OUT, TEST, ImageParts, Part
from resmem_cli.stages.reproduce.image_runs import Trained
from resmem_cli.stages.reproduce.run_folder import MadeFiles, damaged
from resmem_cli.stages.residualize import ResidualizeConfig, residualize
from resmem_cli.stages.tune import tune
from resmem_cli.stages.tune_config import TuneConfig
from resmem_cli.types import ImageLayout, Progress, no_progress

EXAMPLES = 40
"""Corrected and broken examples that each report tells."""

_DIGITS = 12


@dataclass(frozen=True)
class MemorySettings:
    """Settings of a memory that were not tuned.

    Attributes
    ----------
    k : int
    sigma, temperature : float
        The defaults are those of Yang et al. 2023 for CIFAR100, section 4.2.
    """

    k: int = 53
    sigma: float = 0.7
    temperature: float = 1.4

    @property
    def name(self) -> str:
        """The folder of what is made with them."""
        return f"k-{self.k}-sigma-{self.sigma:g}-T-{self.temperature:g}"

    @property
    def title(self) -> str:
        """What tables call them."""
        if self == MemorySettings():
            return "the paper's settings"
        return f"k = {self.k}, σ = {self.sigma:g}, T = {self.temperature:g}"


@dataclass(frozen=True)
class ImageMemory:
    """What the tool's stages make of one trained network.

    Attributes
    ----------
    trained : Trained
    network : pathlib.Path
        Its file, or that of the same run after fewer epochs.
    parts : ImageParts
    files : MadeFiles
        Where all of it goes.
    memory : int
        Bytes for the stages to stay within.
    device : str
        For embedding.
    groups : pathlib.Path or None
        The superclass of each class.
    progress : Progress
    """

    trained: Trained
    network: Path
    parts: ImageParts
    files: MadeFiles
    memory: int
    device: str = "auto"
    groups: Path | None = None
    progress: Progress = no_progress

    @property
    def train(self) -> Path:
        """Embeddings of the images the network was trained on."""
        return self.embeddings(self.parts.subset(self.trained.run.fraction))

    @property
    def held_out(self) -> Path:
        """Embeddings of the images held out."""
        return self.embeddings(self.parts.held_out())

    @property
    def test(self) -> Path:
        """Embeddings of the test images."""
        return self.embeddings(self.parts.test())

    def embeddings(self, part: Part) -> Path:
        """Give the embeddings of a part's images."""
        name = part.name if part.name in (HELD_OUT, TEST) else "train"
        return self.files.make(f"{name}.h5", lambda path: self.embed(part, path))

    def embed(self, part: Part, path: Path) -> None:
        """Run a part's images through the network."""
        images = ImageConfig(self.trained.mean, self.trained.std, ImageLayout.NHWC)
        embed(
            self.network,
            part.path,
            output=path,
            config=EmbedConfig(
                arch=self.trained.run.arch,
                arch_args=self.trained.arch_args,
                device=self.device,
                arrays=part.arrays,
                images=images,
            ),
            progress=self.progress,
        )

    @property
    def index(self) -> Path:
        """The index of the training images."""
        config = IndexConfig(memory=self.memory)
        return self.files.make(
            "index.h5", lambda path: index(self.train, output=path, config=config, progress=self.progress)
        )

    @property
    def tuning(self) -> Path:
        """What is best on the images held out."""
        return self.files.make(
            "tuning.h5",
            lambda path: tune(
                self.held_out,
                index=self.index,
                train=self.train,
                output=path,
                config=TuneConfig(memory=self.memory),
                progress=self.progress,
            ),
        )

    def residuals(self, settings: MemorySettings | None) -> Path:
        """Residuals at a temperature; None for the tuned one."""
        tuning = self.tuning if settings is None else None
        name = "tuned" if settings is None else f"T-{settings.temperature:g}"
        temperature = 1.0 if settings is None else settings.temperature
        return self.files.make(
            f"residuals-{name}.h5",
            lambda path: residualize(
                self.train,
                output=path,
                config=ResidualizeConfig(temperature=temperature),
                tuning=tuning,
                progress=self.progress,
            ),
        )

    def predict_config(self, settings: MemorySettings | None) -> PredictConfig:
        """Say how to predict with these settings; None for the tuned ones."""
        if settings is None:
            return PredictConfig(tuning=self.tuning, compare=True, memory=self.memory)
        return PredictConfig(k=settings.k, sigma=settings.sigma, compare=True, memory=self.memory)

    def predictions(self, settings: MemorySettings | None) -> Path:
        """Predictions of the test images."""
        name = "tuned" if settings is None else settings.name
        return self.files.make(
            f"predictions-{name}.h5",
            lambda path: predict(
                self.test,
                index=self.index,
                residuals=self.residuals(settings),
                output=path,
                config=self.predict_config(settings),
                progress=self.progress,
            ),
        )

    def result(self, settings: MemorySettings | None) -> dict[str, Any]:
        """Tell all that `analyze` finds in the predictions of the test images."""
        name = "tuned" if settings is None else settings.name
        if self.groups is not None:
            name += f"-groups-{file_digest(self.groups)[:_DIGITS]}"
        config = AnalyzeConfig(n_examples=EXAMPLES, groups=self.groups)
        whole: dict[str, Any] = self.files.json(
            f"report-{name}.json",
            lambda: dict(analyze([self.predictions(settings)], config=config).summary),
        )
        n_memory = len(self.parts.subset(self.trained.run.fraction).labels)
        try:
            found: dict[str, Any] = {**whole["runs"][0], "n_memory": n_memory}
        except (TypeError, LookupError) as error:
            raise damaged(self.files.path / f"report-{name}.json") from error
        return found

    def on_training_images(self, settings: MemorySettings) -> dict[str, float]:
        """Tell the accuracies on the images the memory holds."""

        def measure() -> dict[str, float]:
            output = self.files.path / "on-training-images.h5"
            config = PredictConfig(k=settings.k, sigma=settings.sigma, top_scores=1, memory=self.memory)
            done = predict(
                self.train, index=self.index, residuals=self.residuals(settings), output=output, config=config
            )
            # It would take more room than all else together.
            output.unlink()
            return {name: done.summary[name] for name in ("base_accuracy", "accuracy")}

        found: dict[str, float] = self.files.json(f"on-training-images-{settings.name}.json", measure)
        return found
