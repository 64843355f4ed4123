"""The group of each class, such as CIFAR100's superclasses, from a table, a .json or a .npy file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.base import damage_refused
from resmem_cli.arrays.npy import NpyArray
from resmem_cli.errors import DataError
from resmem_cli.files import require_file

_HEADER = ["class", "group"]
_REMEDY = "give every class one group"

# Where in the file, the class as it is written or its place, and its group.
_Entry = tuple[str | None, str | int, str]


def read_class_groups(
    path: Path, n_classes: int, class_names: Sequence[str] | None
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Read which group each class belongs to.

    A .csv, .tsv or .txt file has lines ``class,group``, with tabs in .tsv files and in .txt files whose
    first line has one; its first line may be that header. A .json file has an object ``{class: group}`` or
    a list of C groups, a .npy file (C,) integers or text. Text is UTF-8; white space around it is dropped.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    n_classes : int
        C.
    class_names : sequence of str, optional
        The C classes' names. A class is looked up by name first, then taken for a number from 0.

    Returns
    -------
    groups : (C,) int32
        Numbered in the order of their first class.
    names : tuple of str
        Of the groups.

    Raises
    ------
    MissingInputError
        If there is no such file.
    DataError
        If it holds no such groups: every class has to appear once.
    """
    require_file(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(
            "unknown kind of class groups",
            file=path,
            expected=f"one of {', '.join(_READERS)}",
            found=path.suffix or "no suffix",
        )
    classes = _Classes(path, n_classes, class_names)
    of_class: dict[int, str] = {}
    for field, written, group in read(path, classes):
        number = classes.number(written, field)
        if not group:
            raise DataError(
                f"{classes.told(number)} has an empty group", file=path, field=field, remedy=_REMEDY
            )
        if number in of_class:
            raise DataError(
                f"{classes.told(number)} appears a second time", file=path, field=field, remedy=_REMEDY
            )
        of_class[number] = group
    missing = [number for number in range(n_classes) if number not in of_class]
    if missing:
        raise DataError(
            f"{classes.told(missing[0])} has no group",
            file=path,
            expected=f"{n_classes:,} classes",
            found=f"{len(of_class):,}",
            remedy=_REMEDY,
        )
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(of_class[number], len(numbers)) for number in range(n_classes)]
    return np.array(groups, np.int32), tuple(numbers)


class _Classes:
    """Looks up classes as files write them."""

    def __init__(self, path: Path, n_classes: int, names: Sequence[str] | None) -> None:
        self._path = path
        self.n = n_classes
        self._names = [] if names is None else [str(name).strip() for name in names]
        self._named: dict[str, list[int]] = {}
        for number, name in enumerate(self._names):
            self._named.setdefault(name, []).append(number)

    def __contains__(self, name: str) -> bool:
        return name in self._named

    def told(self, number: int) -> str:
        """Name a class in a message."""
        return f"class {number} ({self._names[number]})" if self._names else f"class {number}"

    def number(self, written: str | int, field: str | None) -> int:
        """Give the number of a class."""
        if isinstance(written, int):
            return written
        found = self._named.get(written, [])
        if len(found) == 1:
            return found[0]
        # Digits beyond any class would only cost int() its time.
        if not found and written.isascii() and written.isdigit() and len(written) <= 18:
            number = int(written)
            if number < self.n:
                return number
        raise DataError(
            "a name of several classes" if found else "no such class",
            file=self._path,
            field=field,
            expected=f"a number from 0 to {self.n - 1}" + ("" if found or not self._names else ", or a name"),
            found=repr(written),
        )


def _read_table(path: Path, classes: _Classes) -> Iterator[_Entry]:
    text = _read_text(path)
    suffix = path.suffix.lower()
    tabs = suffix == ".tsv" or (suffix == ".txt" and "\t" in text.partition("\n")[0])
    rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", strict=True)
    first = True
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            header = first and [cell.lower() for cell in cells] == _HEADER and cells[0] not in classes
            first = False
            if header:
                continue
            if len(cells) != 2:
                raise DataError(
                    "not a class and its group",
                    file=path,
                    field=f"line {rows.line_num}",
                    expected=f"2 fields, separated by {'a tab' if tabs else 'a comma'}",
                    found=len(cells),
                )
            yield f"line {rows.line_num}", cells[0], cells[1]
    except csv.Error as error:
        raise DataError(
            f"damaged: {error}", file=path, field=f"line {rows.line_num}", expected="class,group"
        ) from error


def _read_json(path: Path, classes: _Classes) -> Iterator[_Entry]:
    # As pairs, since a dict would hide a class that appears twice.
    with damage_refused(".json", path, None, ValueError, RecursionError):
        content = json.loads(_read_text(path), object_pairs_hook=_Pairs)
    if isinstance(content, _Pairs):
        for written, group in content:
            yield None, written.strip(), _json_group(path, written, group)
    elif isinstance(content, list):
        _check_length(path, (len(content),), classes.n)
        for number, group in enumerate(content):
            yield None, number, _json_group(path, str(number), group)
    else:
        raise DataError(
            "no class groups",
            file=path,
            expected="an object of classes and groups, or a list of groups",
            found=type(content).__name__,
        )


class _Pairs(list[tuple[str, Any]]):
    """A JSON object."""


def _json_group(path: Path, written: str, group: object) -> str:
    if isinstance(group, str):
        return group.strip()
    if type(group) is int:
        return str(group)
    found = "object" if isinstance(group, _Pairs) else type(group).__name__
    raise DataError(
        f"the group of class {written} is no text", file=path, expected="text or an integer", found=found
    )


def _read_npy(path: Path, classes: _Classes) -> Iterator[_Entry]:
    with NpyArray(path) as file:
        rows = file.open("")
        if rows.dtype.kind not in "iuSU":
            raise DataError(
                "class groups of the wrong type",
                file=path,
                expected="integers or text",
                found=f"dtype {rows.dtype}",
            )
        _check_length(path, rows.shape, classes.n)
        # Text with code points beyond Unicode: numpy meets it with a SystemError.
        with damage_refused(".npy", path, None, ValueError, SystemError):
            groups = [
                group.decode() if isinstance(group, bytes) else str(group)
                for group in rows.read(0, classes.n).tolist()
            ]
    for number, group in enumerate(groups):
        yield None, number, group.strip()


def _check_length(path: Path, shape: tuple[int, ...], n_classes: int) -> None:
    if shape != (n_classes,):
        raise DataError(
            "class groups do not fit the classes",
            file=path,
            expected=f"({n_classes},)",
            found=shape,
            remedy=_REMEDY,
        )


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"no text: {error}", file=path, expected="UTF-8") from error


_READERS: dict[str, Callable[[Path, _Classes], Iterator[_Entry]]] = {
    ".csv": _read_table,
    ".tsv": _read_table,
    ".txt": _read_table,
    ".json": _read_json,
    ".npy": _read_npy,
}
