"""The main result over several seeds: section 4.2, 4.4 and appendix F."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resmem_cli.results import Cell, Column, ResultTable, Unit, mean_of
from resmem_cli.stages.reproduce import published_cifar as paper
from resmem_cli.stages.reproduce.image_studies.base import (
    OUTCOMES,
    ImageStudies,
    StudyPart,
    image_study,
    outcomes,
)
from resmem_cli.stages.reproduce.report_cells import gain_of


@image_study("seeds", order=1)
def seeds(studies: ImageStudies) -> StudyPart:
    """Train the usual network from several seeds, with the paper's settings and with tuned ones."""
    config = studies.config
    memories = [studies.of(studies.run(seed=seed)) for seed in range(config.seeds)]
    given = [memory.result(config.settings) for memory in memories]
    tuned = [memory.result(None) for memory in memories]
    told = config.settings
    knn = mean_of([result["knn_accuracy"] for result in given])
    knn_tuned = mean_of([_tuned_knn(result) for result in tuned])
    of_paper = paper.ONE_RUN
    rows: list[tuple[Cell, ...]] = [
        (f"ours, k = {told.k}, σ = {told.sigma:g}, T = {told.temperature:g}", *outcomes(given), knn),
        ("ours, tuned on held-out images", *outcomes(tuned), knn_tuned),
        ("the paper, one run", *of_paper.values(), paper.KNN_ON_LABELS),
        (
            "the paper, five runs",
            paper.FIVE_RUNS["base_accuracy"],
            paper.FIVE_RUNS["accuracy"],
            None,
            None,
            None,
            None,
        ),
    ]
    network = f"ResNet-{config.depths[0]}"
    main = ResultTable(
        "seeds",
        f"{network}, {config.epochs} epochs, {_runs(config.seeds)}: network, ResMem, and kNN on labels",
        (Column("", Unit.TEXT), *OUTCOMES, Column("kNN on labels", Unit.SHARE)),
        tuple(rows),
        (
            f"Ours is trained for {config.epochs} epochs on {memories[0].result(None)['n_memory']:,} images, "
            f"the paper's for {paper.EPOCHS} epochs on 50,000."
            + (" Mean ± standard deviation of the runs." if config.seeds > 1 else ""),
        ),
    )
    each: list[tuple[Cell, ...]] = []
    for seed, pair in enumerate(zip(given, tuned, strict=True)):
        for name, result in zip((told.title, "tuned"), pair, strict=True):
            settings = (result["k"], result["sigma"], result["temperature"], result["strength"])
            shares = (result["base_accuracy"], result["accuracy"])
            each.append((f"seed {seed}, {name}", *settings, *shares, gain_of(result), result["p_value"]))
    runs = ResultTable(
        "runs",
        "Each run: settings, accuracy, gain with its 95 % interval, McNemar's exact test",
        (
            Column("", Unit.TEXT),
            Column("k", Unit.COUNT),
            Column("σ"),
            Column("T"),
            Column("strength"),
            Column("base", Unit.SHARE),
            Column("ResMem", Unit.SHARE),
            Column("gain", Unit.GAIN),
            Column("p", Unit.PROBABILITY),
        ),
        tuple(each),
    )
    return StudyPart((main, runs))


def _tuned_knn(result: Mapping[str, Any]) -> float:
    return next(float(one["accuracy"]) for one in result["methods"] if one["family"] == "knn")


def _runs(n: int) -> str:
    return "one seed" if n == 1 else f"{n} seeds"
