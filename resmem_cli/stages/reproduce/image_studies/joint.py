"""Joint training of network and memory: the first future work of the paper's section 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resmem_cli.results import Cell, Column, ResultTable, Unit, mean_of
from resmem_cli.stages.reproduce.image_studies.base import (
    OUTCOMES,
    ImageStudies,
    StudyPart,
    image_study,
    outcomes,
)


@image_study("joint", order=10)
def joint(studies: ImageStudies) -> StudyPart:
    """Train with a memory that already answers, against training first and remembering then."""
    config = studies.config
    seeds = range(config.seeds)
    two_step = [studies.of(studies.run(seed=seed)) for seed in seeds]
    together = [studies.of(studies.run(seed=seed, joint=True)) for seed in seeds]
    rows: list[tuple[Cell, ...]] = []
    each: list[tuple[Cell, ...]] = []
    notes: list[str] = []
    for name, settings in ((config.settings.title, config.settings), ("tuned", None)):
        first = [memory.result(settings) for memory in two_step]
        second = [memory.result(settings) for memory in together]
        rows.append((f"two steps, {name}", *outcomes(first)))
        rows.append((f"joint, {name}", *outcomes(second)))
        rows.append(
            (
                f"joint − two steps, {name}",
                *(
                    _difference(first, second, part)
                    for part in ("base_accuracy", "accuracy", "gain", "tpr", "fpr")
                ),
            )
        )
        for seed, (one, other) in enumerate(zip(first, second, strict=True)):
            each.append(
                (
                    f"seed {seed}, {name}",
                    one["base_accuracy"],
                    one["accuracy"],
                    other["base_accuracy"],
                    other["accuracy"],
                    other["accuracy"] - one["accuracy"],
                )
            )
        notes.append(_said(name, first, second))
    differences = tuple(Column(column.name, column.unit) for column in OUTCOMES)
    return StudyPart(
        (
            ResultTable(
                "joint",
                f"Joint training against two steps: ResNet-{config.depths[0]}, {config.epochs} epochs each",
                (Column("", Unit.TEXT), *differences),
                tuple(rows),
                (
                    "In joint training a memory of the training images, made anew before each epoch after "
                    "the "
                    "warm-up with each image's own row left out, adds its answer to the network's "
                    "probability; the "
                    "loss is the cross-entropy of the sum. The memory that answers on test images is made as "
                    "always.",
                    *notes,
                ),
            ),
            ResultTable(
                "joint_runs",
                "Joint training, each run",
                (
                    Column("", Unit.TEXT),
                    Column("two steps: base", Unit.SHARE),
                    Column("two steps: ResMem", Unit.SHARE),
                    Column("joint: base", Unit.SHARE),
                    Column("joint: ResMem", Unit.SHARE),
                    Column("difference", Unit.GAIN),
                ),
                tuple(each),
            ),
        )
    )


def _difference(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], part: str) -> Cell:
    return mean_of([other[part] - one[part] for one, other in zip(first, second, strict=True)])


def _said(name: str, first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> str:
    better = sum(other["accuracy"] > one["accuracy"] for one, other in zip(first, second, strict=True))
    way = "With tuned settings" if name == "tuned" else f"With {name}"
    return f"{way}, joint training ends higher in {better} of {len(first)} runs."
