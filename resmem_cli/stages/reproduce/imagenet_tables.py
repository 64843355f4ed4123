"""The tables of `reproduce imagenet`, and what the user should know of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resmem_cli.results import Cell, Column, ResultTable, Unit
from resmem_cli.stages.reproduce.published_imagenet import (
    IMAGENET,
    IMAGENET_CLASSES,
    IMAGENET_QUERIES,
    IMAGENET_ROWS,
)
from resmem_cli.stages.reproduce.report_cells import OUTCOMES, SETTINGS, outcome_cells, settings_cells

# Not the dimensions: wide networks have more than the paper's 1,280.
_TRUE_SIZE = (IMAGENET_ROWS, IMAGENET_CLASSES, IMAGENET_QUERIES)

Results = Mapping[str, Mapping[str, Any]]
"""By the model's name: `shape` (rows, dimensions, classes, queries), and what `analyze` tells of the paper's
settings (`paper`) and of tuned ones (`tuned`)."""


def notices_of(results: Results) -> list[str]:
    """Say which widths are missing, and whose arrays are not of ImageNet's size."""
    missing = [name for name in IMAGENET if name not in results]
    told = [f"left out, for there are no arrays of them: {', '.join(missing)}"] if missing else []
    sizes = {name: (rows, classes, queries) for name, (rows, _, classes, queries) in _shapes(results)}
    other = [name for name, size in sizes.items() if name in IMAGENET and size != _TRUE_SIZE]
    if other:
        told.append(
            f"{', '.join(other)}: not of ImageNet's size, so the paper's numbers are no measure of ours"
        )
    return told


def _shapes(results: Results) -> list[tuple[str, tuple[int, int, int, int]]]:
    return [(name, tuple(row["shape"])) for name, row in results.items()]


def table_2(results: Results) -> ResultTable:
    """Set each model's row beside the paper's."""
    rows = []
    for name, result in results.items():
        paper: tuple[Cell, ...] = (None, None, None)
        if name in IMAGENET:
            published = IMAGENET[name]
            base, accuracy = published.base_accuracy, published.accuracy
            paper = (base, accuracy, accuracy - base)
        told = result["paper"]
        rows.append((name, *settings_cells(told), *paper, *outcome_cells(told)))
    columns = (
        Column("model", Unit.TEXT),
        *SETTINGS,
        Column("paper's base", Unit.SHARE),
        Column("paper's ResMem", Unit.SHARE),
        Column("paper's gain", Unit.GAIN),
        *OUTCOMES,
    )
    of_size: dict[tuple[int, ...], list[str]] = {}
    for name, result in results.items():
        of_size.setdefault(tuple(result["shape"]), []).append(name)
    sizes = [
        f"{', '.join(names)}: {n:,} rows of {d:,} dimensions, {n_classes:,} classes, {queries:,} queries"
        for (n, d, n_classes, queries), names in of_size.items()
    ]
    notes = (
        "The paper's numbers are of table 2 (appendix D): Keras' networks, ImageNet's 50,000 validation "
        "images. The paper tells no TPR, FPR or interval there.",
        f"Ours: {'; '.join(sizes)}.",
    )
    return ResultTable("table2", "Table 2: MobileNet-V2 on ImageNet", columns, tuple(rows), notes)


def tuned_table(results: Results, *, sample: int) -> ResultTable:
    """Tell what tuned settings do."""
    told = {name: result["tuned"] for name, result in results.items()}
    rows = tuple(
        (name, *settings_cells(one), one["strength"], *outcome_cells(one)) for name, one in told.items()
    )
    columns = (Column("model", Unit.TEXT), *SETTINGS, Column("strength"), *OUTCOMES)
    notes = (
        f"Tuned on {sample:,} rows of each memory, or all where it has fewer, each left out in turn; the "
        "queries were not looked at. The network was trained on these rows, so its residuals there are "
        "smaller than on new images.",
    )
    return ResultTable("tuned", "The same with tuned settings", columns, rows, notes)
