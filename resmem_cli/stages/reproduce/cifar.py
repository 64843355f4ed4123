"""`resmem reproduce cifar`: the paper's tables and figures for images, and what goes beyond them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from resmem_cli.arrays.class_groups import read_class_groups
from resmem_cli.arrays.image_data import ImageData, read_image_data
from resmem_cli.artifacts.provenance import InputRecord
from resmem_cli.artifacts.temporary import make_folder
from resmem_cli.errors import DataError, UsageError
from resmem_cli.results import ResultTable
from resmem_cli.stages.reproduce.image_parts import ImageParts, write_array
from resmem_cli.stages.reproduce.image_runs import ImageRuns
from resmem_cli.stages.reproduce.image_studies.base import (
    OPTIONAL,
    ImageStudies,
    ImageStudyConfig,
    image_studies,
)
from resmem_cli.stages.reproduce.run_folder import RunFolder
from resmem_cli.stages.study import StudyFiles, write_study
from resmem_cli.types import Progress, StageResult, no_progress

_SIDE = 32
_DEPTHS = (8, 14, 20, 32, 44, 56)


@dataclass(frozen=True)
class CifarConfig:
    """What to reproduce.

    Attributes
    ----------
    studies : tuple of str
        Names of studies; empty for all but the optional ones.
    also : tuple of str
        Studies to make besides.
    study : ImageStudyConfig
        What they try.
    held_out : int
        Training images that networks are not trained on, for tuning.
    groups : pathlib.Path, str or None
        The superclass of each class, where the data does not tell it.
    markdown, figures : pathlib.Path or None
        Where tables and figures are written besides.
    """

    studies: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    study: ImageStudyConfig = field(default_factory=ImageStudyConfig)
    held_out: int = 5000
    groups: Path | str | None = None
    markdown: Path | None = None
    figures: Path | None = None


def reproduce_cifar(
    data: Path | str,
    *,
    folder: Path | str,
    config: CifarConfig | None = None,
    announce: Callable[[str], None] | None = None,
    progress: Progress = no_progress,
) -> StageResult:
    """Train networks on images and set the paper's results beside theirs.

    Everything is made in `folder`, and what is there is not made again: the same call goes on where one was
    stopped. Networks are trained by the paper's recipe, its schedule scaled to the epochs given.

    Parameters
    ----------
    data : pathlib.Path or str
        As `read_image_data` takes it.
    folder : pathlib.Path or str
        For all runs, and ``cifar.h5``, the tables.
    config : CifarConfig, optional
    announce : callable, optional
        Is told what is made, as it begins.
    progress : Progress

    Raises
    ------
    MissingExtraError
        If torch is not installed.
    UsageError, MissingInputError, DataError, OutputError
        As the message says; what was made stays.
    """
    from resmem_cli.models.devices import choose_device
    from resmem_cli.models.training.recipes import ImageRecipe

    data, folder = Path(data), Path(folder)
    config = config or CifarConfig()
    chosen = chosen_studies(config)
    _check(config)
    choose_device(config.study.device)
    images = read_image_data(data)
    if images.train_images.shape[1:3] != (_SIDE, _SIDE):
        raise DataError(
            "images of another size than CIFAR-ResNets take",
            file=data,
            expected=f"{_SIDE} × {_SIDE} pixels",
            found=" × ".join(str(side) for side in images.train_images.shape[2:0:-1]),
        )
    given_groups = None if config.groups is None else Path(config.groups)
    if given_groups is not None:
        read_class_groups(given_groups, images.n_classes, images.class_names)
    make_folder(folder)
    files = StudyFiles(folder / "cifar.h5", config.markdown, config.figures)
    files.check()
    digest = images.digest()
    # Its files are those of this data, parted in this way, or the folder is refused.
    described = {
        "data": digest,
        "held_out": config.held_out,
        "class_names": images.class_names,
        "groups": None if images.groups is None else images.groups.tolist(),
    }
    RunFolder(folder / "data", described)
    parts = ImageParts(images, folder / "data", held_out=config.held_out, seed=0)
    smallest = parts.subset(min(config.study.fractions) if "subsets" in chosen else 1.0)
    if config.study.settings.k > len(smallest.labels):
        raise UsageError(
            "-k out of range",
            expected=f"at most {len(smallest.labels):,}, the training images of the smallest run",
            found=config.study.settings.k,
        )
    settings = replace(config.study, groups=given_groups or _groups(images, folder))

    runs = ImageRuns(
        folder / "runs",
        parts,
        ImageRecipe(),
        digest=digest,
        temperature=settings.settings.temperature,
        device=settings.device,
        announce=announce,
        progress=progress,
    )
    make_folder(folder / "runs")
    studies = ImageStudies(settings, runs, parts, announce, progress)
    start = time.perf_counter()
    tables: list[ResultTable] = []
    drawn_from: dict[str, Any] = {}
    for name in chosen:
        if announce is not None:
            announce(f"study: {name}")
        part = image_studies()[name](studies)
        tables += part.tables
        drawn_from |= part.drawn_from
    parameters = {
        "studies": list(chosen),
        "held_out": config.held_out,
        **{name: _json(value) for name, value in asdict(settings).items() if name not in _NOT_RECORDED},
    }
    return write_study(
        "cifar",
        tables,
        files,
        parameters=parameters,
        inputs=[InputRecord("images", data.resolve().name, "arrays", digest)],
        drawn_from=drawn_from,
        summary={"seconds": round(time.perf_counter() - start, 1), "trained": _trained(folder / "runs")},
        notices=images.notices,
    )


_NOT_RECORDED = ("groups", "memory", "device")


def chosen_studies(config: CifarConfig) -> tuple[str, ...]:
    """Give the studies to make, in their order.

    Raises
    ------
    UsageError
        If there is no study of a name.
    """
    known = image_studies()
    for name in (*config.studies, *config.also):
        if name not in known:
            raise UsageError("no such study", field="--studies", expected=", ".join(known), found=name)
    wanted = set(config.studies or (name for name in known if name not in OPTIONAL)) | set(config.also)
    return tuple(name for name in known if name in wanted)


def _check(config: CifarConfig) -> None:
    study = config.study
    for flag, value in (
        ("--epochs", study.epochs),
        ("--seeds", study.seeds),
        ("--shifted-rows", study.shifted_rows),
    ):
        if value < 1:
            raise UsageError(f"{flag} out of range", expected="at least 1", found=value)
    for depth in study.depths:
        if depth not in _DEPTHS:
            raise UsageError("--depths out of range", expected=", ".join(map(str, _DEPTHS)), found=depth)
    for fraction in study.fractions:
        if not 0 < fraction <= 1:
            raise UsageError("--fractions out of range", expected="above 0, at most 1", found=fraction)
    for temperature in (study.settings.temperature, *study.distillation_temperatures):
        if not temperature > 0:
            raise UsageError("temperature out of range", expected="above 0", found=temperature)
    if not study.depths or not study.fractions:
        raise UsageError("nothing to compare", field="--fractions" if study.depths else "--depths")


def _groups(images: ImageData, folder: Path) -> Path | None:
    """Write the superclass of each class, where the data tells it."""
    if images.groups is None:
        return None
    path = folder / "data" / "groups.npy"
    write_array(path, images.groups)
    return path


def _trained(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*/training.json"))


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
