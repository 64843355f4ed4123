"""ResMem on a network whose training was stopped early: table 1."""

from __future__ import annotations

from resmem_cli.results import Cell, Column, ResultTable, Unit
from resmem_cli.stages.reproduce import published_cifar as paper
from resmem_cli.stages.reproduce.image_studies.base import ImageStudies, StudyPart, image_study
from resmem_cli.stages.reproduce.report_cells import gain_of


@image_study("epochs", order=2)
def early_stopping(studies: ImageStudies) -> StudyPart:
    """Take the usual run after the same shares of its schedule as the paper's table."""
    config, run = studies.config, studies.run()
    epochs = (*studies.kept_epochs, config.epochs)
    rows: list[tuple[Cell, ...]] = []
    gains: list[float] = []
    for epoch in epochs:
        memory = studies.of(run, epoch=epoch)
        given, tuned = memory.result(config.settings), memory.result(None)
        of_paper = _nearest(epoch / config.epochs)
        rows.append(
            (
                epoch,
                epoch / config.epochs,
                given["base_accuracy"],
                given["accuracy"],
                gain_of(given),
                tuned["accuracy"],
                *of_paper,
                of_paper[1] - of_paper[0],
            )
        )
        gains.append(given["gain"])
    largest = epochs[gains.index(max(gains))]
    return StudyPart(
        (
            ResultTable(
                "epochs",
                f"ResNet-{config.depths[0]} stopped early in a schedule of {config.epochs} epochs (table 1)",
                (
                    Column("epochs", Unit.COUNT),
                    Column("of the schedule", Unit.SHARE),
                    Column("base", Unit.SHARE),
                    Column("ResMem", Unit.SHARE),
                    Column("gain", Unit.GAIN),
                    Column("ResMem, tuned", Unit.SHARE),
                    Column("paper: base", Unit.SHARE),
                    Column("paper: ResMem", Unit.SHARE),
                    Column("paper: gain", Unit.GAIN),
                ),
                tuple(rows),
                (
                    f"The gain is largest after {largest} of {config.epochs} epochs; in the paper after 128 "
                    "of "
                    f"{paper.EPOCHS}, when the learning rate has dropped once. The paper's rows are those of "
                    "the "
                    "same share of its schedule, within rounding to whole epochs.",
                ),
            ),
        )
    )


def _nearest(share: float) -> tuple[float, float]:
    epochs = min(paper.EARLY, key=lambda epochs: abs(epochs / paper.EPOCHS - share))
    return paper.EARLY[epochs]
