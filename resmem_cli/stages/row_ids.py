"""What the rows of a memory are called: the ids that `update` removes rows by and gives to new ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.reader import Artifact
from resmem_cli.errors import DataError
from resmem_cli.stages.sources import EmbeddingSource

_INTEGER = re.compile(rb"\s*[+-]?\d{1,40}\s*")
_INT64 = np.iinfo(np.int64)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_RENUMBER = "give --renumber to name them by numbers going on from the largest"


@dataclass(frozen=True)
class RowIds:
    """The ids of a memory's rows.

    Attributes
    ----------
    values : (n,) int64 or bytes
        One may name several rows.
    next_id : int or None
        The first number that no row has had, where the user gave no ids and rows are numbered from 0.
    file : pathlib.Path
        Where they are stored.
    """

    values: NDArray[Any]
    next_id: int | None
    file: Path

    def without(self, removed: NDArray[np.bool_]) -> RowIds:
        """Give the ids of the rows that stay."""
        return RowIds(self.values[~removed], self.next_id, self.file)

    def with_added(self, source: EmbeddingSource, *, renumber: bool) -> RowIds:
        """Give the ids of these rows and then those of new rows.

        Parameters
        ----------
        source : EmbeddingSource
            The new rows.
        renumber : bool
            Name them by numbers going on from the largest in use, whatever they are called.

        Raises
        ------
        DataError
            If the new rows have ids of another kind, none though these have some, some though these have
            none of their own, or one that names a row already.
        """
        if self.next_id is not None:
            if source.ids is not None and not renumber:
                raise self._refused(source, "has ids, but the memory's rows are named by number")
            numbers = self._numbers(self.next_id, source.n)
            return RowIds(np.concatenate([self.values, numbers]), self.next_id + source.n, self.file)
        if renumber:
            if self.values.dtype.kind != "i":
                raise DataError(
                    "rows named by text can't be numbered on",
                    file=self.file,
                    field="ids",
                    remedy="give the new rows ids, and leave --renumber out",
                )
            numbers = self._numbers(int(self.values.max()) + 1, source.n)
            return RowIds(np.concatenate([self.values, numbers]), None, self.file)
        if source.ids is None:
            raise self._refused(source, "has no ids, but the memory's rows have")
        if source.ids.dtype.kind != self.values.dtype.kind:
            kinds = {"i": "integers", "S": "text"}
            expected, found = (kinds[ids.dtype.kind] for ids in (self.values, source.ids))
            raise self._refused(source, "has other ids than the memory", expected=expected, found=found)
        used = np.isin(source.ids, self.values)
        if used.any():
            row = int(used.argmax())
            raise self._refused(
                source, f"row {row:,} has an id that names a row of the memory", found=_shown(source.ids[row])
            )
        return RowIds(np.concatenate([self.values, source.ids]), None, self.file)

    def _numbers(self, first: int, count: int) -> NDArray[np.int64]:
        if first + count - 1 > _INT64.max:
            raise DataError(
                f"no {count:,} numbers of 64 bits come after the largest id",
                file=self.file,
                field="ids",
                found=first - 1,
                remedy="give the new rows ids, and leave --renumber out",
            )
        return np.arange(first, first + count, dtype=np.int64)

    def _refused(self, source: EmbeddingSource, problem: str, **facts: object) -> DataError:
        numbers = self.values.dtype.kind == "i"
        remedy = _RENUMBER if numbers else "name them with --ids"
        return DataError(problem, file=source.path, field="ids", remedy=remedy, **facts)


def row_ids(files: Sequence[Artifact]) -> RowIds:
    """Find what the rows of a memory are called in its index, its residuals, or both.

    Raises
    ------
    DataError
        If the two disagree.
    """
    stored = [(file, ids) for file in files if (ids := file.read_optional("ids")) is not None]
    if not stored:
        n = files[0].dimensions["n"]
        return RowIds(np.arange(n), n, files[0].path)
    for file, ids in stored[1:]:
        if not np.array_equal(ids, stored[0][1]):
            raise DataError(
                f"not the same ids as {stored[0][0].path}",
                file=file.path,
                field="ids",
                remedy="make index and residuals from one file",
            )
    file, ids = stored[0]
    update = file.parameters.get("update")
    numbered = isinstance(update, dict) and update.get("next_id") is not None
    return RowIds(ids, int(file.number("update", "next_id")) if numbered else None, file.path)


def rows_named(content: bytes, path: Path, ids: RowIds) -> NDArray[np.bool_]:
    """Mark the rows whose ids a text lists, one a line; blank lines and repeated ids change nothing.

    Parameters
    ----------
    content : bytes
        The text.
    path : pathlib.Path
        Where it is from, for messages.
    ids : RowIds
        Of all rows.

    Returns
    -------
    (n,) bool

    Raises
    ------
    DataError
        If a line is no id, naming the first such line.
    """
    lines = content.removeprefix(_BYTE_ORDER_MARK).splitlines()
    listed = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    wanted, sound = _parsed([line for _, line in listed], ids.values.dtype)
    unknown = ~(sound & np.isin(wanted, ids.values))
    if unknown.any():
        number, line = listed[int(unknown.argmax())]
        numbered = ids.next_id is not None
        raise DataError(
            f"line {number:,} names no row of the memory",
            file=path,
            expected=f"{'the number of a row' if numbered else 'an id'} of {ids.file}",
            found=_shown(line),
            remedy="remove the line, or correct it",
        )
    return np.isin(ids.values, wanted)


def _parsed(lines: list[bytes], dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read lines as ids, and say which of them can be any."""
    if dtype.kind == "S":
        # A longer line is no id, and would make the array as wide as it is long.
        sound = np.array([len(line) <= dtype.itemsize for line in lines], bool)
        return np.array([line if ok else b"" for line, ok in zip(lines, sound, strict=True)], dtype), sound
    numbers = [int(line) if _INTEGER.fullmatch(line) else _INT64.max + 1 for line in lines]
    sound = np.array([_INT64.min <= number <= _INT64.max for number in numbers], bool)
    return np.array([number if ok else 0 for number, ok in zip(numbers, sound, strict=True)], np.int64), sound


def _shown(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
