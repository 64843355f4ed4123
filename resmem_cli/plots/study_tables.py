"""What the figures of studies share: how they are registered, and how they read tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from resmem_cli.plots.registry import Part, recipe

if TYPE_CHECKING:
    from resmem_cli.plots.registry import Draw

Row = dict[str, Any]


def figures_of_study(study: str) -> Callable[..., Callable[[Draw], Draw]]:
    """Give the decorator that registers a study's figures; it takes `name`, `title` and `caption`."""
    return partial(recipe, part=Part.STUDY, study=study)


def rows_of(document: Mapping[str, Any], name: str) -> list[Row]:
    """Give a table's rows, each a mapping from its columns' names; none if there is no such table.

    Parameters
    ----------
    document : mapping
        What a figure of a study is drawn from: `tables` by name, as `ResultTable.document` gives them.
    name : str
        The table's.
    """
    table = document["tables"].get(name)
    if table is None:
        return []
    names = [column["name"] for column in table["columns"]]
    return [dict(zip(names, row, strict=True)) for row in table["rows"]]


def value_of(cell: Any) -> Any:
    """Give a number's value, where the cell is an estimate; anything else as it is."""
    if not isinstance(cell, Mapping):
        return cell
    return cell["mean"] if "mean" in cell else cell["value"]


def column_of(rows: list[Row], name: str) -> list[Any]:
    """Give the values of one column."""
    return [value_of(row[name]) for row in rows]
