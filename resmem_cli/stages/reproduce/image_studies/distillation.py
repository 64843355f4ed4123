"""ResMem beside distillation, its dual in the paper's appendix C.2: a temperature each, the same network."""

from __future__ import annotations

from dataclasses import replace

from resmem_cli.results import Cell, Column, ResultTable, Unit
from resmem_cli.stages.reproduce.image_studies.base import ImageStudies, StudyPart, image_study
from resmem_cli.stages.reproduce.report_cells import gain_of


@image_study("distillation", order=9)
def distillation(studies: ImageStudies) -> StudyPart:
    """Teach the usual network by the deepest one at each temperature; give both a memory at that one."""
    config = studies.config
    deepest = studies.run(depth=max(config.depths))
    teacher = studies.of(deepest).result(config.settings)["base_accuracy"]
    rows: list[tuple[Cell, ...]] = []
    for temperature in config.distillation_temperatures:
        settings = replace(config.settings, temperature=temperature)
        own = studies.of(studies.run()).result(settings)
        taught = studies.of(studies.run(teacher=deepest, teacher_temperature=temperature)).result(settings)
        rows.append(
            (
                temperature,
                own["base_accuracy"],
                own["accuracy"],
                gain_of(own),
                taught["base_accuracy"],
                taught["base_accuracy"] - own["base_accuracy"],
                taught["accuracy"],
                gain_of(taught),
            )
        )
    name = f"ResNet-{config.depths[0]}"
    return StudyPart(
        (
            ResultTable(
                "distillation",
                f"{name} taught by ResNet-{deepest.depth} at T, and ResMem at T (appendix C.2)",
                (
                    Column("T"),
                    Column("base", Unit.SHARE),
                    Column("ResMem at T", Unit.SHARE),
                    Column("its gain", Unit.GAIN),
                    Column("student at T", Unit.SHARE),
                    Column("its gain", Unit.GAIN),
                    Column("student with ResMem", Unit.SHARE),
                    Column("its gain on the student", Unit.GAIN),
                ),
                tuple(rows),
                (
                    f"The teacher alone: {100 * teacher:.2f} %. A student learns half from the labels and "
                    "half "
                    f"from the teacher's probabilities at T, for as many epochs. k = {config.settings.k}, "
                    f"σ = {config.settings.sigma:g}. The paper draws the parallel and measures nothing of "
                    "it.",
                ),
            ),
        )
    )
