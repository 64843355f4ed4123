"""Reader of .parquet tables: a column of numbers, of equally long lists of numbers, or of text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.base import ArrayFile, ArrayInfo, RowSource, check_rows, damage_refused, reads
from resmem_cli.errors import DataError, MissingExtraError

_BATCH_BYTES = 4 << 20
_BATCH_ROWS = 65_536


@reads(".parquet")
class ParquetColumns(ArrayFile):
    """The columns of one table; a list column is an array ``(n, d)`` whose d is its first row's length."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise MissingExtraError(
                "reading .parquet needs pyarrow", file=path, remedy="pip install 'resmem-cli[arrow]'"
            ) from None
        self._arrow = pyarrow
        with self._damage_refused(None):
            self._file = parquet.ParquetFile(
                path, memory_map=True, pre_buffer=False, page_checksum_verification=True
            )
            self._types = {field.name: field.type for field in self._file.schema_arrow}
            metadata = self._file.metadata
            self._n_rows: int = metadata.num_rows
            lengths = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        # An empty table has no row group, but it still starts at row 0.
        self._group_starts = np.cumsum([0, *lengths[:-1]])
        self._widths: dict[str, int] = {}

    def _damage_refused(self, key: str | None) -> AbstractContextManager[None]:
        errors = (self._arrow.ArrowException, OSError, ValueError, KeyError)
        return damage_refused("Parquet", self.path, key, *errors)

    @property
    def arrays(self) -> Mapping[str, ArrayInfo]:
        """The columns; those of other types show the type's name in Parquet."""
        return {name: self._info(name) for name in self._types}

    def _info(self, name: str) -> ArrayInfo:
        dtype = self._dtype(name)
        shape: tuple[int, ...] = (self._n_rows,)
        if dtype is not None and self._is_list(name):
            shape += (self._list_width(name),)
        return ArrayInfo(shape, str(self._types[name]) if dtype is None else dtype.name)

    def _dtype(self, name: str) -> np.dtype[Any] | None:
        """Give a column's element type, ``S`` without a length for text, None if it is not accepted."""
        if not self._is_list(name):
            return self._scalar_dtype(self._types[name])
        dtype = self._scalar_dtype(self._types[name].value_type)
        return None if dtype is None or dtype.kind == "S" else dtype

    def _scalar_dtype(self, arrow_type: Any) -> np.dtype[Any] | None:
        types = self._arrow.types
        if types.is_dictionary(arrow_type):
            arrow_type = arrow_type.value_type
        if types.is_integer(arrow_type) or types.is_floating(arrow_type) or types.is_boolean(arrow_type):
            dtype: np.dtype[Any] = np.dtype(arrow_type.to_pandas_dtype())
            return dtype
        text = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
        return np.dtype("S") if any(matches(arrow_type) for matches in text) else None

    def _is_list(self, name: str) -> bool:
        types, arrow_type = self._arrow.types, self._types[name]
        kinds = (types.is_list, types.is_large_list, types.is_fixed_size_list)
        return any(matches(arrow_type) for matches in kinds)

    def _list_width(self, name: str) -> int:
        """Length of a list column's rows: the type's if it is fixed, else its first row's."""
        if name not in self._widths:
            width = getattr(self._types[name], "list_size", None)
            if width is None:
                with self._damage_refused(name):
                    batch = next(self._file.iter_batches(batch_size=1, columns=[name]), None)
                    first = None if batch is None or not len(batch) else _column(batch, name)[0].as_py()
                width = len(first) if first is not None else 0
            self._widths[name] = int(width)
        return self._widths[name]

    def open(self, key: str) -> RowSource:
        """Open one column; a text column is passed over once to find its longest value."""
        info, dtype = self._info(key), self._dtype(key)
        if dtype is None:
            raise DataError(
                "a column of a type that is not accepted",
                file=self.path,
                field=key,
                expected="integers, floats, booleans, lists of them of one length, or text",
                found=info.dtype,
                remedy="export it with another type, such as float32",
            )
        rows = _ColumnRows(self, key, info.shape, dtype)
        if dtype.kind == "S":
            widest = max((block.dtype.itemsize for _, block in rows.blocks(0)), default=1)
            rows = _ColumnRows(self, key, info.shape, np.dtype(f"S{widest}"))
        elif info.shape[1:] == (0,) and self._n_rows:
            next(rows.blocks(0))  # where the first row is null, no length is known: name the null
        check_rows(rows.shape, rows.dtype, file=self.path, key=key)
        return rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def row_group(self, row: int) -> tuple[int, int]:
        """Find the row group that holds `row`: its first row and its number."""
        group = int(np.searchsorted(self._group_starts, row, side="right")) - 1
        return int(self._group_starts[group]), group

    def batches(self, name: str, row: int, row_bytes: int) -> Iterator[tuple[int, Any]]:
        """Yield (first row, Arrow array) of a column from the row group that holds `row` on."""
        first, group = self.row_group(row)
        with self._damage_refused(name):
            for batch in self._file.iter_batches(
                batch_size=max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(row_bytes, 1))),
                row_groups=range(group, self._file.metadata.num_row_groups),
                columns=[name],
            ):
                yield first, _column(batch, name)
                first += len(batch)


class _ColumnRows:
    """Rows of one column, from batches that only go forward; going back starts at a row group."""

    def __init__(
        self, table: ParquetColumns, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self._table = table
        self._name = name
        self._blocks: Iterator[tuple[int, NDArray[Any]]] | None = None
        self._first = 0
        self._block: NDArray[Any] = np.empty((0, *shape[1:]), dtype)
        self.shape = shape
        self.dtype = dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows `start` to `stop`, decoding the rows between the last block and `start`."""
        rows = np.empty((stop - start, *self.shape[1:]), dtype=self.dtype)
        filled = 0
        while filled < len(rows):
            self._advance_to(start + filled)
            part = self._block[start + filled - self._first :][: len(rows) - filled]
            rows[filled : filled + len(part)] = part
            filled += len(part)
        return rows

    def _advance_to(self, row: int) -> None:
        group_start, _ = self._table.row_group(row)
        if self._blocks is None or row < self._first or group_start > self._first + len(self._block):
            self._blocks = self.blocks(row)
            self._first, self._block = group_start, self._block[:0]
        while row >= self._first + len(self._block):
            following = next(self._blocks, None)
            if following is None:
                raise self._fault("the table ends", row, f"{self.shape[0]} rows")
            self._first, self._block = following

    def blocks(self, row: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first row, block) from the row group that holds `row` on."""
        row_bytes = math.prod(self.shape[1:]) * max(self.dtype.itemsize, 8)
        for first, values in self._table.batches(self._name, row, row_bytes):
            yield first, self._as_numpy(values, first)

    def _as_numpy(self, values: Any, first: int) -> NDArray[Any]:
        self._refuse_nulls(values, first, 1)
        if len(self.shape) == 2:
            width = self.shape[1]
            if hasattr(values, "offsets"):
                lengths = np.diff(values.offsets.to_numpy())
                if (lengths != width).any():
                    row = int(np.argmax(lengths != width))
                    raise self._fault("lists of different lengths", first + row, width, lengths[row])
            values = values.flatten()
            self._refuse_nulls(values, first, width)
        if hasattr(values, "dictionary_decode"):
            values = values.dictionary_decode()
        if self.dtype.kind == "S":
            text: NDArray[Any] = values.cast("binary").to_numpy(zero_copy_only=False).astype("S")
            return text
        numbers: NDArray[Any] = values.to_numpy(zero_copy_only=False)
        return numbers.reshape(-1, *self.shape[1:])

    def _refuse_nulls(self, values: Any, first: int, per_row: int) -> None:
        if values.null_count:
            position = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
            raise self._fault("a null", first + position // per_row, "a value", "null")

    def _fault(self, problem: str, row: int, expected: object, found: object = None) -> DataError:
        return DataError(
            f"{problem} at row {row}",
            file=self._table.path,
            field=self._name,
            expected=expected,
            found=found,
            remedy="remove or repair these rows",
        )


def _column(batch: Any, name: str) -> Any:
    """Give a batch's column; a name with a dot may have brought others along."""
    positions = batch.schema.get_all_field_indices(name)
    if len(positions) != 1:
        raise ValueError(f"{len(positions)} columns are named {name!r}")
    return batch.column(positions[0])
