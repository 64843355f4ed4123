"""The tables that an artifact is made of, derived from what its format declares."""

from __future__ import annotations

from dataclasses import dataclass

from resmem_cli.artifacts.declaring import DatasetSpec, Format

# What one step along an axis is called, and along the axis that a long table unrolls.
_INDEX_COLUMNS = {"q": "query", "r": "run", "e": "example", "C": "class", "D": "document"}
_UNROLLED_COLUMNS = {"b": "method"}


@dataclass(frozen=True)
class Table:
    """Datasets that share their first axis, and are rows of one table.

    Attributes
    ----------
    name : str
        What it is asked for by.
    datasets : tuple of DatasetSpec
        Its datasets, in the format's order.
    long : bool
        Whether every entry of the second axis is a row of its own, as with the neighbours of a query;
        else it is a column of its own.
    """

    name: str
    datasets: tuple[DatasetSpec, ...]
    long: bool

    @property
    def axis(self) -> str:
        """The axis that the datasets share."""
        return self.datasets[0].dims[0]

    @property
    def index_columns(self) -> tuple[str, ...]:
        """Names of the columns that number the rows: along the first axis, and if `long` the second."""
        columns = {self.column(spec) for spec in self.datasets}
        first = _INDEX_COLUMNS.get(self.axis, "row")
        if first in columns:
            first = "index"
        if not self.long:
            return (first,)
        return (first, _UNROLLED_COLUMNS.get(self.datasets[0].dims[1], "rank"))

    def column(self, spec: DatasetSpec) -> str:
        """Name the column of a dataset: that of one value, with its group where that is not the table's."""
        path = spec.path.removeprefix(f"{self.name}/")
        *groups, last = path.split("/")
        return "_".join([*groups, singular(last)])


def tables(fmt: Format) -> dict[str, Table]:
    """Part a format into tables.

    If the first dataset of the format lies in no group, its first axis is what the artifact is about: all
    datasets with this axis alone, in groups or not, are the main table, named `queries` or `rows`. What
    else lies in no group is a table of its own. A group's datasets are a table of the group's name, save
    those of another first axis than the first of them. A table is long if all of it lies in a group and
    has the same two axes.

    Parameters
    ----------
    fmt : Format
        The format.

    Returns
    -------
    dict of str to Table
        By name; the main one is the first. Each dataset is in one of them.
    """
    first = fmt.datasets[0]
    main_axis = None if "/" in first.path else first.dims[0]
    main = "queries" if main_axis == "q" else "rows"
    members: dict[str, list[DatasetSpec]] = {}
    if main_axis is not None:
        members[main] = []
    for spec in fmt.datasets:
        group = spec.path.rpartition("/")[0]
        if spec.dims == (main_axis,):
            name = main
        elif not group or (group in members and members[group][0].dims[0] != spec.dims[0]):
            name = spec.path
        else:
            name = group
        members.setdefault(name, []).append(spec)
    return {name: Table(name, tuple(specs), long=_is_long(specs)) for name, specs in members.items() if specs}


def _is_long(specs: list[DatasetSpec]) -> bool:
    dims = specs[0].dims
    return len(dims) == 2 and all("/" in spec.path and spec.dims == dims for spec in specs)


def class_axis(fmt: Format) -> str | None:
    """Give the axis of the classes that a format may name, or None if it names none."""
    return next((spec.dims[0] for spec in fmt.datasets if spec.path == "class_names"), None)


def holds_classes(spec: DatasetSpec) -> bool:
    """Whether a dataset's values are classes, by its name."""
    name = spec.path.rpartition("/")[2]
    return name in ("labels", "classes", "runner_up") or name.endswith("predicted")


def singular(name: str) -> str:
    """Name one value of a dataset: `labels` is of `label`, `classes` of `class`, `n_queries` a count."""
    if name.startswith("n_") or name.endswith(("ss", "us", "is")) or not name.endswith("s"):
        return name
    for plural, one in (("ies", "y"), ("sses", "ss"), ("axes", "axis")):
        if name.endswith(plural):
            return name.removesuffix(plural) + one
    return name.removesuffix("s")
