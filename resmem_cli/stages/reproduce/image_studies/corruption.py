"""Shifted test images, and a memory that is shown a few of them: what the paper's section 5 remarks on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resmem_cli.results import Cell, Column, ResultTable, Unit
from resmem_cli.stages.predict import predict
from resmem_cli.stages.reproduce.corruptions import STRENGTHS, Corruption, corrupted
from resmem_cli.stages.reproduce.image_memory import ImageMemory
from resmem_cli.stages.reproduce.image_parts import Part
from resmem_cli.stages.reproduce.image_studies.base import ImageStudies, StudyPart, image_study
from resmem_cli.stages.reproduce.run_folder import MadeFiles
from resmem_cli.stages.update import UpdateConfig, update


@image_study("corruption", order=8)
def corruption(studies: ImageStudies) -> StudyPart:
    """Corrupt the test images, and add some corrupted held-out images with their labels to the memory."""
    memory = studies.of(studies.run())
    count = min(studies.config.shifted_rows, len(studies.parts.held_out().labels))
    rows: list[tuple[Cell, ...]] = []
    all_gains: list[tuple[float, float]] = []
    clean = memory.result(studies.config.settings)
    rows.append(("none", 0, clean["base_accuracy"], clean["accuracy"], clean["gain"], None, None))
    for kind in Corruption:
        for strength in range(1, STRENGTHS + 1):
            found: dict[str, Any] = memory.files.json(
                f"{kind}-{strength}-{count}-rows-{studies.config.settings.name}.json",
                partial(_shifted, studies, memory, kind, strength, count),
            )
            base = found["base_accuracy"]
            gains = (found["accuracy"] - base, found["accuracy_with_rows"] - base)
            all_gains.append(gains)
            rows.append(
                (
                    str(kind),
                    strength,
                    base,
                    found["accuracy"],
                    gains[0],
                    found["accuracy_with_rows"],
                    gains[1],
                )
            )
    without, with_rows = np.mean(all_gains, axis=0)
    return StudyPart(
        (
            ResultTable(
                "corruption",
                f"Corrupted test images; then with {count:,} corrupted, labelled images in the memory",
                (
                    Column("corruption", Unit.TEXT),
                    Column("strength", Unit.COUNT),
                    Column("base", Unit.SHARE),
                    Column("ResMem", Unit.SHARE),
                    Column("gain", Unit.GAIN),
                    Column("with shifted rows", Unit.SHARE),
                    Column("gain with them", Unit.GAIN),
                ),
                tuple(rows),
                (
                    f"Mean gain over all corruptions {100 * without:+.2f} points, {100 * with_rows:+.2f} "
                    "with "
                    f"the shifted rows; on clean images {100 * clean['gain']:+.2f}. The paper remarks that "
                    "memory should adapt to shifted inputs, and measures nothing of it.",
                    "The added images are held-out ones, corrupted in the same way; the network is not "
                    "trained on them.",
                ),
            ),
        )
    )


def _shifted(
    studies: ImageStudies, memory: ImageMemory, kind: Corruption, strength: int, count: int
) -> dict[str, float]:
    settings, seed = studies.config.settings, studies.config.seed
    files = MadeFiles(memory.files.path / f"{kind}-{strength}-{count}-rows")
    test = _corrupted_part(studies.parts.test(), files.path, kind, strength, seed=seed)
    held_out = studies.parts.held_out()
    chosen = np.random.default_rng([seed, count]).permutation(len(held_out.labels))[:count]
    few = replace(
        held_out,
        images=held_out.images[np.sort(chosen)],
        labels=held_out.labels[np.sort(chosen)],
        ids=held_out.ids[np.sort(chosen)],
    )
    # Other noise than the test images'.
    added = _corrupted_part(few, files.path, kind, strength, seed=seed + 1)
    queries = files.make("test.h5", lambda path: memory.embed(test, path))
    rows = files.make("added.h5", lambda path: memory.embed(added, path))
    index, residuals = files.path / "index.h5", files.path / "residuals.h5"
    update(
        index=memory.index,
        residuals=memory.residuals(settings),
        add=rows,
        index_output=index,
        residuals_output=residuals,
        config=UpdateConfig(memory=memory.memory),
    )
    config = replace(memory.predict_config(settings), compare=False, top_scores=1)
    output = files.path / "predictions.h5"
    before = predict(
        queries, index=memory.index, residuals=memory.residuals(settings), output=output, config=config
    ).summary
    after = predict(queries, index=index, residuals=residuals, output=output, config=config).summary
    _remove(files.path)
    return {
        "base_accuracy": before["base_accuracy"],
        "accuracy": before["accuracy"],
        "accuracy_with_rows": after["accuracy"],
    }


def _corrupted_part(part: Part, folder: Path, kind: Corruption, strength: int, *, seed: int) -> Part:
    images = corrupted(part.images, kind, strength, seed=seed)
    names = part.folder / "class_names.npy"
    if names.exists() and not (folder / names.name).exists():
        (folder / names.name).write_bytes(names.read_bytes())
    return replace(part, folder=folder, images=images).write()


def _remove(folder: Path) -> None:
    """Remove what is only needed for the numbers: fifteen times as much as all other runs take."""
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
