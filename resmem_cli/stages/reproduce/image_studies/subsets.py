"""ResMem with less training data: figures 2(b) and 4."""

from __future__ import annotations

from resmem_cli.results import Cell, Column, ResultTable, Unit
from resmem_cli.stages.reproduce.image_studies.base import ImageStudies, StudyPart, image_study
from resmem_cli.stages.reproduce.report_cells import gain_of


@image_study("subsets", order=3)
def subsets(studies: ImageStudies) -> StudyPart:
    """Train on class-balanced subsets, the memory holding the same images."""
    config = studies.config
    rows: list[tuple[Cell, ...]] = []
    gains: list[float] = []
    for fraction in sorted(set(config.fractions)):
        memory = studies.of(studies.run(fraction=fraction))
        given, tuned = memory.result(config.settings), memory.result(None)
        own = memory.on_training_images(config.settings)
        rows.append(
            (
                fraction,
                given["n_memory"],
                given["base_accuracy"],
                given["accuracy"],
                gain_of(given),
                tuned["accuracy"],
                gain_of(tuned),
                own["base_accuracy"],
                own["accuracy"],
            )
        )
        gains.append(given["gain"])
    return StudyPart(
        (
            ResultTable(
                "subsets",
                f"ResNet-{config.depths[0]}, {config.epochs} epochs on a share of the data "
                "(figures 2(b) and 4)",
                (
                    Column("share", Unit.SHARE),
                    Column("images", Unit.COUNT),
                    Column("base", Unit.SHARE),
                    Column("ResMem", Unit.SHARE),
                    Column("gain", Unit.GAIN),
                    Column("ResMem, tuned", Unit.SHARE),
                    Column("gain, tuned", Unit.GAIN),
                    Column("training images: base", Unit.SHARE),
                    Column("training images: ResMem", Unit.SHARE),
                ),
                tuple(rows),
                (
                    *_growth(gains),
                    "The paper gives no numbers of its figures. It reports 100 % on training images with "
                    "ResMem, and less for the network the more data there is.",
                    "A subset is trained on for as many epochs, and so for fewer steps.",
                ),
            ),
        )
    )


def _growth(gains: list[float]) -> list[str]:
    """Say whether the gain grows with the data, where there is more than one share."""
    if len(gains) < 2:
        return []
    grows = all(one < other for one, other in zip(gains[:-1], gains[1:], strict=True))
    does = "grows with the data" if grows else "does not grow with the data at every step"
    return [f"The gain of the settings that were not tuned {does}; in figure 2(b) it grows."]
