"""ResMem on deeper networks: figure 2(a)."""

from __future__ import annotations

from resmem_cli.results import Cell, Column, ResultTable, Unit
from resmem_cli.stages.reproduce import published_cifar as paper
from resmem_cli.stages.reproduce.image_studies.base import ImageStudies, StudyPart, image_study
from resmem_cli.stages.reproduce.report_cells import gain_of


@image_study("depths", order=4)
def depths(studies: ImageStudies) -> StudyPart:
    """Train networks of every depth with one budget."""
    config = studies.config
    rows: list[tuple[Cell, ...]] = []
    reached: list[tuple[str, float, float]] = []
    for depth in config.depths:
        memory = studies.of(studies.run(depth=depth))
        given, tuned = memory.result(config.settings), memory.result(None)
        known = [paper.ONE_RUN[name] if depth == 8 else None for name in ("base_accuracy", "accuracy")]
        reached.append((f"ResNet-{depth}", given["base_accuracy"], tuned["accuracy"]))
        rows.append(
            (
                f"ResNet-{depth}",
                given["base_accuracy"],
                given["accuracy"],
                gain_of(given),
                tuned["accuracy"],
                gain_of(tuned),
                *known,
            )
        )
    return StudyPart(
        (
            ResultTable(
                "depths",
                f"Depth, {config.epochs} epochs each (figure 2(a))",
                (
                    Column("", Unit.TEXT),
                    Column("base", Unit.SHARE),
                    Column("ResMem", Unit.SHARE),
                    Column("gain", Unit.GAIN),
                    Column("ResMem, tuned", Unit.SHARE),
                    Column("gain, tuned", Unit.GAIN),
                    Column("paper: base", Unit.SHARE),
                    Column("paper: ResMem", Unit.SHARE),
                ),
                tuple(rows),
                (
                    *_between(reached),
                    "The paper draws depths 8, 14, 20, 32, 44 and 56, and gives the numbers of 8 only.",
                ),
            ),
        )
    )


def _between(reached: list[tuple[str, float, float]]) -> list[str]:
    """Say whether a network with memory, tuned, reaches the next deeper one without."""
    told = []
    for (name, _, own), (deeper, goal, _) in zip(reached[:-1], reached[1:], strict=True):
        verb = "reaches" if own >= goal else "does not reach"
        told.append(f"{name} with tuned memory {verb} {deeper} ({100 * own:.2f} and {100 * goal:.2f} %).")
    return [" ".join(told)] if told else []
