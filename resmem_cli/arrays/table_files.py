"""Writers of tables for other tools: .csv and .parquet, block by block."""

from __future__ import annotations

import contextlib
import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import MissingExtraError

TEXT = np.dtype(object)
"""The type of columns of text: each value is a str, or None where there is none."""

# A row group is one piece of memory, of at most 8 bytes a value.
_GROUP_VALUES = 1 << 22


@dataclass(frozen=True)
class Field:
    """One column, or neighbouring columns that come as one array ``(n, len(names))``.

    Attributes
    ----------
    names : tuple of str
        Their headers.
    dtype : numpy.dtype
        Their type: a number's, or `TEXT`.
    """

    names: tuple[str, ...]
    dtype: np.dtype[Any]


class TableWriter(ABC):
    """Writes a table to an open file, which it leaves open; a context that finishes the table.

    Parameters
    ----------
    stream : binary file
        Where it goes.
    fields : sequence of Field
        Its columns.
    """

    def __init__(self, stream: BinaryIO, fields: Sequence[Field]) -> None:
        self._stream = stream
        self._fields = tuple(fields)

    @abstractmethod
    def write(self, block: Sequence[NDArray[Any]]) -> None:
        """Write the next rows: an array for each field, ``(n,)`` or ``(n, len(names))``."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is still to be written, once all rows have come."""

    def abandon(self) -> None:  # noqa: B027, most hold nothing
        """Let go of what is held, after an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.abandon()


class CsvWriter(TableWriter):
    """Comma-separated values as RFC 4180 has them, in UTF-8, with a header.

    A float is the shortest text that gives it back in its own type; a missing text is an empty cell.
    """

    def __init__(self, stream: BinaryIO, fields: Sequence[Field]) -> None:
        super().__init__(stream, fields)
        self._write_rows([tuple(name for field in self._fields for name in field.names)])

    def write(self, block: Sequence[NDArray[Any]]) -> None:
        """Write the next rows; see `TableWriter`."""
        columns = [cells for values in block for cells in _cells(values)]
        self._write_rows(list(zip(*columns, strict=True)))

    def _write_rows(self, rows: Sequence[tuple[Any, ...]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        self._stream.write(text.getvalue().encode())

    def finish(self) -> None:
        """Do nothing: all is written."""


def _cells(values: NDArray[Any]) -> list[list[Any]]:
    """Give the columns of an array as lists of what the csv module writes."""
    if values.dtype.kind == "f" and values.dtype.itemsize < 8:
        # As Python floats they would show the digits of a double.
        values = values.astype(str)
    columns: list[list[Any]] = values.reshape(len(values), -1).T.tolist()
    return columns


class ParquetWriter(TableWriter):
    """A Parquet table; its row groups do not depend on how its rows come.

    Raises
    ------
    MissingExtraError
        If pyarrow is not installed.
    """

    def __init__(self, stream: BinaryIO, fields: Sequence[Field]) -> None:
        super().__init__(stream, fields)
        pyarrow, parquet = _pyarrow()
        self._arrow = pyarrow
        self._schema = pyarrow.schema(
            [(name, self._type(field)) for field in self._fields for name in field.names]
        )
        self._group_rows = max(1, _GROUP_VALUES // len(self._schema))
        self._pending = self._schema.empty_table()
        self._writer = parquet.ParquetWriter(stream, self._schema)

    def _type(self, field: Field) -> Any:
        if field.dtype == TEXT:
            return self._arrow.string()
        return self._arrow.from_numpy_dtype(field.dtype)

    def write(self, block: Sequence[NDArray[Any]]) -> None:
        """Write the next rows; see `TableWriter`."""
        columns = [
            self._arrow.array(np.ascontiguousarray(column), self._type(field))
            for field, values in zip(self._fields, block, strict=True)
            for column in values.reshape(len(values), -1).T
        ]
        rows = self._arrow.table(columns, schema=self._schema)
        self._pending = self._arrow.concat_tables([self._pending, rows])
        while len(self._pending) >= self._group_rows:
            self._write_group(self._pending.slice(0, self._group_rows))
            self._pending = self._pending.slice(self._group_rows)

    def _write_group(self, rows: Any) -> None:
        # Pages end where chunks do, and chunks where the caller's blocks do.
        self._writer.write_table(rows.combine_chunks(), row_group_size=self._group_rows)

    def finish(self) -> None:
        """Write the last row group and the table's end."""
        if len(self._pending):
            self._write_group(self._pending)
        self._writer.close()

    def abandon(self) -> None:
        """Close the writer while its file is open: its destructor would write to a closed one."""
        with contextlib.suppress(OSError, self._arrow.ArrowException):
            self._writer.close()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError(
            "writing .parquet needs pyarrow", remedy="pip install 'resmem-cli[arrow]'"
        ) from None
    return pyarrow, parquet
