from __future__ import annotations

import pytest

from resmem_cli.artifacts.declaring import Format, dataset
from resmem_cli.artifacts.formats import FORMATS, PREDICTIONS, REPORT, TUNING
from resmem_cli.artifacts.tables import class_axis, holds_classes, singular, tables

each_format = pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda fmt: fmt.name)

SMALL = Format(
    name="resmem.small",
    version=1,
    doc="an example",
    datasets=(
        dataset("answers", "n", ("<i4",), ""),
        dataset("scores", "n C", ("<f4",), ""),
        dataset("near/rows", "n k", ("<i8",), ""),
        dataset("near/weights", "n k", ("<f4",), ""),
        dataset("gate/open", "n", ("|u1",), ""),
        dataset("parts/sizes", "l", ("<i8",), ""),
        dataset("parts/centres", "l d", ("<f4",), ""),
        dataset("parts/bytes", "b", ("|u1",), ""),
        dataset("class_names", "C", ("S",), ""),
    ),
)


def test_a_small_format_is_parted_by_groups_and_first_axes() -> None:
    found = tables(SMALL)
    assert {name: [spec.path for spec in table.datasets] for name, table in found.items()} == {
        "rows": ["answers", "gate/open"],
        "scores": ["scores"],
        "near": ["near/rows", "near/weights"],
        "parts": ["parts/sizes", "parts/centres"],
        "parts/bytes": ["parts/bytes"],
        "class_names": ["class_names"],
    }
    assert [name for name, table in found.items() if table.long] == ["near"]
    assert class_axis(SMALL) == "C"


def test_columns_are_named_for_one_value_and_do_not_take_the_name_of_the_row_number() -> None:
    found = tables(SMALL)
    rows, near, parts = found["rows"], found["near"], found["parts"]
    assert [rows.column(spec) for spec in rows.datasets] == ["answer", "gate_open"]
    assert [near.column(spec) for spec in near.datasets] == ["row", "weight"]
    assert [parts.column(spec) for spec in parts.datasets] == ["size", "centre"]
    assert rows.index_columns == ("row",)
    assert near.index_columns == ("index", "rank")


@pytest.mark.parametrize(
    ("fmt", "first"),
    [(PREDICTIONS, "queries"), (REPORT, "runs"), (TUNING, "grid")],
    ids=lambda f: str(f)[:20],
)
def test_the_first_table_is_what_the_artifact_is_about(fmt: Format, first: str) -> None:
    assert next(iter(tables(fmt))) == first


def test_neighbours_are_a_long_table() -> None:
    neighbors = tables(PREDICTIONS)["neighbors"]
    assert neighbors.long
    assert neighbors.index_columns == ("query", "rank")


@each_format
def test_every_dataset_is_in_one_table_whose_first_axis_is_its_own(fmt: Format) -> None:
    parted = [(table.axis, spec) for table in tables(fmt).values() for spec in table.datasets]
    assert sorted(spec.path for _, spec in parted) == sorted(spec.path for spec in fmt.datasets)
    assert all(axis == spec.dims[0] for axis, spec in parted)
    assert all(name == table.name for name, table in tables(fmt).items())


@each_format
def test_no_two_columns_of_a_table_have_one_name(fmt: Format) -> None:
    for table in tables(fmt).values():
        columns = [table.column(spec) for spec in table.datasets]
        columns += [f"{table.column(spec)}_name" for spec in table.datasets if holds_classes(spec)]
        columns += table.index_columns
        assert len(set(columns)) == len(columns), columns


@pytest.mark.parametrize(
    ("name", "one"),
    [
        ("labels", "label"),
        ("classes", "class"),
        ("probabilities", "probability"),
        ("queries", "query"),
        ("axes", "axis"),
        ("n_queries", "n_queries"),
        ("loss", "loss"),
        ("status", "status"),
        ("predicted", "predicted"),
        ("p_values", "p_value"),
        ("base_loss", "base_loss"),
    ],
)
def test_singular(name: str, one: str) -> None:
    assert singular(name) == one
