"""The columns of an artifact's table, as a spreadsheet or a data frame has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.table_files import TEXT, Field
from resmem_cli.artifacts.declaring import DatasetSpec
from resmem_cli.artifacts.reader import Artifact
from resmem_cli.artifacts.tables import Table, class_axis, holds_classes
from resmem_cli.stages.streaming import block_bytes

# These lead the main table, in this order.
_LEADING = ("ids", "labels", "base_predicted")

# What a cell takes as a Python object, with its text and its place in a list.
_CELL_BYTES = 160

Blocks = Mapping[str, NDArray[Any]]
Fill = Callable[[slice, Blocks], NDArray[Any]]


@dataclass(frozen=True)
class Column:
    """One field of a table, and how a block of its rows is made of a block of the artifact's rows."""

    field: Field
    fill: Fill


class Columns:
    """Everything that a table shows, in order.

    Parameters
    ----------
    artifact : Artifact
        The open artifact.
    table : Table
        One of its tables, with the datasets that it has.

    Attributes
    ----------
    fields : tuple of Field
        The columns' names and types.
    n_rows : int
        How many rows there are.
    n_first : int
        How many rows the datasets have along the axis that they share.
    """

    def __init__(self, artifact: Artifact, table: Table) -> None:
        self._table = table
        self._shapes = artifact.shapes
        self._rows = {spec.path: artifact.rows(spec.path) for spec in table.datasets}
        shape = self._shapes[table.datasets[0].path][0]
        self.n_first = shape[0]
        self._unrolled = shape[1] if table.long else 1
        self.n_rows = self.n_first * self._unrolled
        self._class_names = read_class_names(artifact) if uses_class_names(artifact, table) else None
        self._methods = _methods(artifact, table)
        self._class_axis = class_axis(artifact.header.format)
        self._columns = [*self._index(), *self._data()]
        self.fields = tuple(column.field for column in self._columns)

    @property
    def n_columns(self) -> int:
        """How many columns there are."""
        return sum(len(field.names) for field in self.fields)

    def rows_at_a_time(self) -> int:
        """Count the rows of a block, along the first axis, that stays within the memory for one."""
        width = self.n_columns * _CELL_BYTES + sum(
            8 * rows.dtype.itemsize for rows in self._rows.values() if rows.dtype.kind == "S"
        )
        return max(1, block_bytes() // (width * self._unrolled))

    def read(self, block: slice) -> list[NDArray[Any]]:
        """Make all columns of a block of rows along the first axis."""
        values = {path: rows.read(block.start, block.stop) for path, rows in self._rows.items()}
        return [column.fill(block, values) for column in self._columns]

    def _index(self) -> list[Column]:
        names = self._table.index_columns
        integer = np.dtype(np.int64)
        first = Column(Field(names[:1], integer), partial(_count, times=self._unrolled))
        if not self._table.long:
            return [first]
        columns = [first, Column(Field(names[1:], integer), partial(_count_again, length=self._unrolled))]
        if self._methods is not None:
            named = Field(("method_name",), TEXT)
            columns.append(Column(named, partial(_repeat, values=self._methods)))
        return columns

    def _data(self) -> list[Column]:
        specs = list(self._table.datasets)
        if "/" not in specs[0].path:
            last = len(_LEADING)
            specs.sort(key=lambda spec: _LEADING.index(spec.path) if spec.path in _LEADING else last)
        columns = []
        for spec in specs:
            shape, dtype = self._shapes[spec.path]
            names = (self._table.column(spec),) if self._table.long else self._headers(spec, shape)
            field = Field(names, TEXT if dtype.kind == "S" else dtype)
            columns.append(Column(field, partial(_values, path=spec.path, flat=self._table.long)))
            if self._class_names is not None and len(names) == 1 and holds_classes(spec):
                fill = partial(_names, path=spec.path, class_names=self._class_names)
                columns.append(Column(Field((f"{names[0]}_name",), TEXT), fill))
        return columns

    def _headers(self, spec: DatasetSpec, shape: tuple[int, ...]) -> tuple[str, ...]:
        name = self._table.column(spec)
        if len(shape) == 1:
            return (name,)
        if shape[1:] == (len(spec.columns),):
            return spec.columns
        if spec.dims[1:] == (self._class_axis,) and len(self._table.datasets) == 1:
            headers = None if self._class_names is None else tuple(self._class_names.tolist())
            taken = {"", *self._table.index_columns}
            if headers is not None and len(set(headers)) == len(headers) and taken.isdisjoint(headers):
                return headers
            name = "class"
        return tuple("_".join([name, *map(str, place)]) for place in np.ndindex(*shape[1:]))


def _methods(artifact: Artifact, table: Table) -> NDArray[Any] | None:
    """Name the methods that a table of comparisons has a row for, where the artifact does."""
    methods = artifact.parameters.get("compared") if table.name == "compared" else None
    if not isinstance(methods, list) or len(methods) != artifact.dimensions.get("b"):
        return None
    names = [method.get("name") if isinstance(method, dict) else None for method in methods]
    return np.array([str(name) for name in names], TEXT)


def uses_class_names(artifact: Artifact, table: Table) -> bool:
    """Whether the artifact names its classes, and the table shows any."""
    axis = class_axis(artifact.header.format)
    return "class_names" in artifact and any(
        holds_classes(spec) or spec.dims[1:] == (axis,) for spec in table.datasets
    )


def read_class_names(artifact: Artifact) -> NDArray[Any]:
    """Read the classes' names as text."""
    return _text(artifact.read("class_names"))


def _count(block: slice, _: Blocks, *, times: int) -> NDArray[Any]:
    return np.repeat(np.arange(block.start, block.stop, dtype=np.int64), times)


def _count_again(block: slice, _: Blocks, *, length: int) -> NDArray[Any]:
    return np.tile(np.arange(length, dtype=np.int64), block.stop - block.start)


def _repeat(block: slice, _: Blocks, *, values: NDArray[Any]) -> NDArray[Any]:
    return np.tile(values, block.stop - block.start)


def _values(_: slice, blocks: Blocks, *, path: str, flat: bool) -> NDArray[Any]:
    values = blocks[path]
    values = values.reshape(-1) if flat else values.reshape(len(values), -1)
    return _text(values) if values.dtype.kind == "S" else values


def _names(_: slice, blocks: Blocks, *, path: str, class_names: NDArray[Any]) -> NDArray[Any]:
    labels = blocks[path].reshape(-1).astype(np.int64)
    known = (labels >= 0) & (labels < len(class_names))
    names = np.full(labels.shape, None, TEXT)
    names[known] = class_names[labels[known]]
    return names


def _text(values: NDArray[Any]) -> NDArray[Any]:
    return np.char.decode(values, "utf-8", "backslashreplace").astype(object)
