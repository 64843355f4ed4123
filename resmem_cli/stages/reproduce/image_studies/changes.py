"""What memory changes: section 4.4, with pictures as in figure 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resmem_cli.results import Cell, Column, ResultTable, Unit
from resmem_cli.stages.reproduce import published_cifar as paper
from resmem_cli.stages.reproduce.image_studies.base import ImageStudies, StudyPart, image_study
from resmem_cli.stages.reproduce.report_cells import gain_of

PICTURES = 8
"""Corrected examples that are shown."""


@image_study("changes", order=6)
def changes(studies: ImageStudies) -> StudyPart:
    """Tell corrected and broken shares, whether corrections stay in their group, and some examples."""
    memory = studies.of(studies.run())
    given = memory.result(studies.config.settings)
    tables = [_shares(given)]
    if given["coarse"] is not None:
        tables.append(_coarse(given["coarse"]))
    examples = given["corrected"][:PICTURES]
    tables.append(_examples(examples))
    train = studies.parts.subset(1.0)
    pictures = [
        {
            "image": studies.parts.data.test_images[example["query"]],
            "label": example["label"],
            "base": example["base_predicted"],
            "near": [
                {"image": train.images[near["row"]], "label": near["label"], "weight": near["weight"]}
                for near in _most(example)
            ],
        }
        for example in examples
    ]
    return StudyPart(tables, {"pictures": pictures})


def _shares(given: Mapping[str, Any]) -> ResultTable:
    return ResultTable(
        "changes",
        "Corrected and broken (section 4.4)",
        (
            Column("", Unit.TEXT),
            Column("TPR", Unit.SHARE),
            Column("FPR", Unit.SHARE),
            Column("gain", Unit.GAIN),
            Column("corrected", Unit.COUNT),
            Column("broken", Unit.COUNT),
            Column("images", Unit.COUNT),
        ),
        (
            (
                "ours",
                given["tpr"],
                given["fpr"],
                gain_of(given),
                given["n_corrected"],
                given["n_broken"],
                given["n"],
            ),
            (
                "the paper",
                paper.ONE_RUN["tpr"],
                paper.ONE_RUN["fpr"],
                paper.ONE_RUN["gain"],
                None,
                None,
                10_000,
            ),
        ),
        (
            "The paper's gain is 3.19 points in section 4.4, and 3.20 from the accuracies of section 4.2 "
            "(56.46 and 59.66 %).",
        ),
    )


def _coarse(found: Mapping[str, Any]) -> ResultTable:
    return ResultTable(
        "coarse",
        f"Wrong answers of the network that were in the right of {found['groups']} groups",
        (Column("", Unit.TEXT), Column("in the group", Unit.SHARE), Column("answers", Unit.COUNT)),
        (
            ("those that memory corrected", found["corrected_in_group"], found["n_corrected"]),
            ("all", found["errors_in_group"], found["n_base_errors"]),
        ),
        (
            "The paper's claim that memory turns coarse answers into fine ones, measured: "
            + _difference(found),
        ),
    )


def _difference(found: Mapping[str, Any]) -> str:
    if found["interval"] is None or found["difference"] is None:
        return "too few corrected answers to tell."
    low, high = found["interval"]
    return (
        f"the difference is {100 * found['difference']:+.2f} points, 95 % interval {100 * low:+.2f} to "
        f"{100 * high:+.2f}."
    )


def _examples(examples: list[Mapping[str, Any]]) -> ResultTable:
    rows: list[tuple[Cell, ...]] = []
    for example in examples:
        near = _most(example)
        rows.append(
            (
                str(example["query"]),
                example["label"],
                example["base_predicted"],
                ", ".join(f"{one['row']} ({one['label']})" for one in near),
            )
        )
    return ResultTable(
        "examples",
        "Some corrected test images, and the training images that added most (figure 3)",
        tuple(
            Column(name, Unit.TEXT)
            for name in ("test image", "ResMem, and true", "the network said", "rows of the memory")
        ),
        tuple(rows),
        ("The first ones in the order of the test images, not chosen.",),
    )


def _most(example: Mapping[str, Any], count: int = 3) -> list[Mapping[str, Any]]:
    """Of the rows that weighed most, give those that spoke for the answer."""
    near = [one for one in example["neighbors"] if (one["contribution"] or 0.0) > 0]
    return sorted(near, key=lambda one: -one["contribution"])[:count]
