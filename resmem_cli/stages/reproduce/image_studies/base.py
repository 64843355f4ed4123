"""What every study of images is given, what it gives back, and the registry of studies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from resmem_cli.registry import import_modules
from resmem_cli.results import Cell, Column, ResultTable, Unit, mean_of
from resmem_cli.stages.reproduce.image_memory import ImageMemory, MemorySettings
from resmem_cli.stages.reproduce.image_parts import ImageParts
from resmem_cli.stages.reproduce.image_runs import ImageRun, ImageRuns
from resmem_cli.stages.reproduce.report_cells import gain_of
from resmem_cli.stages.reproduce.run_folder import MadeFiles
from resmem_cli.types import Progress

OPTIONAL = ("joint",)
"""Studies that are only made when they are asked for by name."""


@dataclass(frozen=True)
class ImageStudyConfig:
    """What the studies of images try.

    Attributes
    ----------
    epochs : int
        Of every run; the recipe's schedule is scaled to them.
    seeds : int
        Runs of the shallowest network on all images, from seed 0.
    depths : tuple of int
        Networks to compare; the first is the one of all other studies.
    fractions : tuple of float
        Shares of the training images.
    settings : MemorySettings
        The paper's.
    distillation_temperatures : tuple of float
        At which a student is taught, and ResMem's residuals are made.
    shifted_rows : int
        Labelled corrupted images that are added to the memory, at most those held out.
    memory : int
        Bytes for the stages to stay within.
    device : str
    groups : pathlib.Path or None
        The superclass of each class.
    seed : int
        Of corruptions and draws.
    """

    epochs: int = 15
    seeds: int = 3
    depths: tuple[int, ...] = (8, 14, 20)
    fractions: tuple[float, ...] = (0.1, 0.4, 1.0)
    settings: MemorySettings = field(default_factory=MemorySettings)
    distillation_temperatures: tuple[float, ...] = (1.4, 4.0)
    shifted_rows: int = 1000
    memory: int = 8 << 30
    device: str = "auto"
    groups: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class StudyPart:
    """What one study found.

    Attributes
    ----------
    tables : sequence of ResultTable
    drawn_from : mapping
        What its figures need besides.
    """

    tables: Sequence[ResultTable]
    drawn_from: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageStudies:
    """The runs that studies share.

    Attributes
    ----------
    config : ImageStudyConfig
    runs : ImageRuns
    parts : ImageParts
    announce : callable or None
    progress : Progress
    """

    config: ImageStudyConfig
    runs: ImageRuns
    parts: ImageParts
    announce: Callable[[str], None] | None
    progress: Progress

    def run(self, **changes: Any) -> ImageRun:
        """Describe the usual run, or one that differs in something."""
        usual: dict[str, Any] = {"depth": self.config.depths[0], "epochs": self.config.epochs}
        return ImageRun(**usual | changes)

    @property
    def kept_epochs(self) -> tuple[int, ...]:
        """Epochs after which the usual run's network is kept: the shares of table 1."""
        found = {max(1, round(share * self.config.epochs)) for share in EARLY_SHARES}
        return tuple(sorted(epoch for epoch in found if epoch < self.config.epochs))

    def of(self, run: ImageRun, *, epoch: int | None = None) -> ImageMemory:
        """Give a run's memory, its network trained if need be; with `epoch` as it was after that one."""
        keep = self.kept_epochs if run == self.run() else ()
        trained = self.runs.trained(run, keep=keep)
        whole = epoch is None or epoch == run.epochs
        name = "memory" if whole else f"memory-{epoch:03d}"
        return ImageMemory(
            trained,
            trained.network if epoch is None else self.runs.after(trained, epoch),
            self.parts,
            MadeFiles(trained.folder.path / name, self.announce),
            self.config.memory,
            self.config.device,
            self.config.groups,
            self.progress,
        )


EARLY_SHARES = (128 / 256, 160 / 256, 192 / 256, 224 / 256)
"""When table 1 of Yang et al. 2023 stops training, but for its end."""

Study = Callable[[ImageStudies], StudyPart]
_STUDIES: dict[str, tuple[int, Study]] = {}


def image_study(name: str, *, order: int) -> Callable[[Study], Study]:
    """Register a study; they are made and told in the order of `order`."""

    def register(study: Study) -> Study:
        _STUDIES[name] = (order, study)
        return study

    return register


@cache
def image_studies() -> Mapping[str, Study]:
    """Give every study by its name, in order; importing the package's modules registers them."""
    import_modules(__name__.rpartition(".")[0])
    return {name: study for name, (_, study) in sorted(_STUDIES.items(), key=lambda item: item[1][0])}


OUTCOMES = (
    Column("base", Unit.SHARE),
    Column("ResMem", Unit.SHARE),
    Column("gain", Unit.GAIN),
    Column("TPR", Unit.SHARE),
    Column("FPR", Unit.SHARE),
)
_FIELDS = ("base_accuracy", "accuracy", "gain", "tpr", "fpr")


def outcomes(results: Sequence[Mapping[str, Any]]) -> tuple[Cell, ...]:
    """Give the cells of `OUTCOMES`: means over runs, or of one run its values with the gain's interval."""
    if len(results) == 1:
        told = results[0]
        return tuple(gain_of(told) if name == "gain" else told[name] for name in _FIELDS)
    return tuple(mean_of([told[name] for told in results]) for name in _FIELDS)
