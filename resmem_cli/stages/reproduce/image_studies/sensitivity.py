"""Accuracy along k, sigma and T: figure 5."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.artifacts.result_formats import TUNING
from resmem_cli.results import Cell, Column, ResultTable, Unit
from resmem_cli.stages.reproduce.image_memory import ImageMemory
from resmem_cli.stages.reproduce.image_studies.base import ImageStudies, StudyPart, image_study
from resmem_cli.stages.tune import tune
from resmem_cli.stages.tune_config import TuneConfig

LINES: dict[str, tuple[float, ...]] = {
    "k": (1, 5, 10, 27, 53, 100, 150, 200, 300, 400, 500),
    "sigma": (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.1, 1.4, 1.7, 2.0),
    "temperature": (0.1, 0.3, 0.5, 0.7, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 4.0, 5.0),
}
"""What is tried along each axis: the paper's ranges, and smaller k."""

_NAMES = {"k": "k", "sigma": "σ", "temperature": "T"}


@image_study("sensitivity", order=5)
def sensitivity(studies: ImageStudies) -> StudyPart:
    """Change one setting at a time, on the test images as the paper does; nothing is chosen by it."""
    settings = studies.config.settings
    memory = studies.of(studies.run())
    n = memory.result(settings)["n_memory"]
    fixed = {"k": settings.k, "sigma": settings.sigma, "temperature": settings.temperature}
    rows: list[tuple[Cell, ...]] = []
    for axis, values in LINES.items():
        tried = tuple(value for value in values if axis != "k" or value <= n)
        name = "-".join(f"{part}-{fixed[part]:g}" for part in fixed if part != axis)
        path = memory.files.make(
            f"along-{axis}-{name}.h5",
            partial(_sweep, memory, axis, tried, fixed),
        )
        with open_artifact(path, TUNING) as file:
            columns = {
                part: np.asarray(file.read(f"grid/{part}")) for part in (axis, "accuracy", "tpr", "fpr")
            }
        for i in np.argsort(columns[axis]):
            tpr, fpr = float(columns["tpr"][i]), float(columns["fpr"][i])
            rows.append(
                (_NAMES[axis], float(columns[axis][i]), float(columns["accuracy"][i]), tpr - fpr, tpr, fpr)
            )
    return StudyPart(
        (
            ResultTable(
                "sensitivity",
                f"Along each setting, the others at k = {settings.k}, σ = {settings.sigma:g}, "
                f"T = {settings.temperature:g} (figure 5)",
                (
                    Column("setting", Unit.TEXT),
                    Column("value"),
                    Column("ResMem", Unit.SHARE),
                    Column("gain", Unit.GAIN),
                    Column("TPR", Unit.SHARE),
                    Column("FPR", Unit.SHARE),
                ),
                tuple(rows),
                (
                    "On the test images, as in the paper, whose figure is flat towards large k and has one "
                    "top in σ "
                    "and in T. σ counts in distances between embeddings, which are another network's here.",
                ),
            ),
        )
    )


def _sweep(
    memory: ImageMemory, axis: str, values: tuple[float, ...], fixed: dict[str, Any], path: Path
) -> None:
    grid: dict[str, Any] = {name: (value,) for name, value in fixed.items()}
    grid[axis] = tuple(int(value) for value in values) if axis == "k" else values
    config = TuneConfig(**grid, strength=(1.0,), refine=False, baselines=False, memory=memory.memory)
    tune(
        memory.test,
        index=memory.index,
        train=memory.train,
        output=path,
        config=config,
        progress=memory.progress,
    )
