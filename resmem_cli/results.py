"""Tables of results: numbers with their units, written as text, as Markdown and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from resmem_cli.memory_size import memory_text

_TIMES = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


class Unit(StrEnum):
    """What the numbers of a column are, and so how they are written."""

    TEXT = "text"
    COUNT = "count"
    NUMBER = "number"
    """Four significant digits."""

    DECIMAL = "decimal"
    """Three decimals."""

    SHARE = "share"
    """A share of 1, written in percent."""

    GAIN = "gain"
    """A difference of shares, written in points of percent, with its sign."""

    BYTES = "bytes"
    SECONDS = "seconds"
    """Written in the unit of time that suits."""

    PROBABILITY = "probability"


@dataclass(frozen=True)
class Estimate:
    """A number with what is known of its accuracy.

    Attributes
    ----------
    value : float
    low, high : float
        The ends of an interval; for a mean of several runs, one standard deviation below and above it.
    n_runs : int or None
        The runs a mean is of; None where the interval is one of confidence.
    """

    value: float
    low: float
    high: float
    n_runs: int | None = None


Cell = str | int | float | Estimate | None


@dataclass(frozen=True)
class Column:
    """A column's heading, and the unit of its numbers."""

    name: str
    unit: Unit = Unit.NUMBER


@dataclass(frozen=True)
class ResultTable:
    """One table of a study.

    Attributes
    ----------
    name : str
        Short, for files and JSON, such as `seeds`.
    title : str
        One line.
    columns : tuple of Column
    rows : tuple of tuples
        As long as `columns`; text in columns of text, and None where a number is not known.
    notes : tuple of str
        What the reader should know, such as how ours differs from the paper's.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.name}: {len(row)} cells in a row of {len(self.columns)} columns")

    @property
    def headings(self) -> tuple[str, ...]:
        """The columns' names, with the unit where the numbers do not show it."""
        return tuple(
            f"{column.name} (%)" if column.unit is Unit.SHARE else column.name for column in self.columns
        )

    def texts(self) -> list[tuple[str, ...]]:
        """Write every cell as text."""
        return [
            tuple(show_cell(cell, column.unit) for cell, column in zip(row, self.columns, strict=True))
            for row in self.rows
        ]

    def markdown(self) -> str:
        """Write the table with its title and notes as Markdown."""
        lines = [
            f"### {_one_line(self.title)}",
            "",
            _markdown_row(self.headings),
            _markdown_row(["---" if column.unit is Unit.TEXT else "---:" for column in self.columns]),
            *(_markdown_row(row) for row in self.texts()),
        ]
        for note in self.notes:
            lines += ["", _one_line(note)]
        return "\n".join(lines) + "\n"

    def document(self) -> dict[str, Any]:
        """Give the table as JSON values; an estimate is a mapping with its value, ends and runs."""
        return {
            "name": self.name,
            "title": self.title,
            "columns": [{"name": column.name, "unit": str(column.unit)} for column in self.columns],
            "rows": [[_json_cell(cell) for cell in row] for row in self.rows],
            "notes": list(self.notes),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ResultTable:
        """Read what `document` gives."""
        return cls(
            document["name"],
            document["title"],
            tuple(Column(column["name"], Unit(column["unit"])) for column in document["columns"]),
            tuple(tuple(_cell(value) for value in row) for row in document["rows"]),
            tuple(document["notes"]),
        )

    def numbers(self) -> Iterator[tuple[int, str, str, Estimate]]:
        """Give each known number with its row, the texts of that row, and its column's name."""
        for place, row in enumerate(self.rows):
            texts = [
                str(cell)
                for cell, column in zip(row, self.columns, strict=True)
                if column.unit is Unit.TEXT and cell is not None
            ]
            for cell, column in zip(row, self.columns, strict=True):
                if column.unit is Unit.TEXT or cell is None:
                    continue
                estimate = cell if isinstance(cell, Estimate) else _exact(cell)
                yield place, ", ".join(texts), column.name, estimate


def mean_of(values: Sequence[float]) -> Estimate | float:
    """Give the mean of runs with their standard deviation (of n − 1); of one run its value."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return Estimate(mean, mean - std, mean + std, n_runs=len(values))


def show_cell(cell: Cell, unit: Unit) -> str:
    """Write one cell: `56.5 ± 0.8` for a mean of runs, `1.02 [0.98, 1.05]` for an interval."""
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if not isinstance(cell, Estimate):
        return _show_number(cell, unit)
    value = _show_number(cell.value, unit)
    if cell.n_runs is not None:
        width = (cell.high - cell.low) / 2
        return f"{value} ± {_show_number(width, Unit.SHARE if unit is Unit.GAIN else unit)}"
    return f"{value} [{_show_number(cell.low, unit)}, {_show_number(cell.high, unit)}]"


def _show_number(value: float, unit: Unit) -> str:
    if unit is Unit.COUNT:
        return f"{value:,.0f}"
    if unit is Unit.SHARE:
        return f"{100 * value:.2f}"
    if unit is Unit.GAIN:
        return f"{100 * value:+.2f}"
    if unit is Unit.BYTES:
        return memory_text(value)
    if unit is Unit.SECONDS:
        return _duration(value)
    if unit is Unit.PROBABILITY:
        return f"{value:.2g}"
    return f"{value:.3f}" if unit is Unit.DECIMAL else f"{value:.4g}"


def _duration(seconds: float) -> str:
    # 0.9995 of a unit is written as 1 of it.
    size, name = next((one for one in _TIMES if abs(seconds) >= 0.9995 * one[0]), _TIMES[-1])
    number = seconds / size
    return f"{number:,.0f} {name}" if abs(number) >= 99.95 else f"{number:.3g} {name}"


def _exact(value: Any) -> Estimate:
    return Estimate(float(value), float(value), float(value))


def _json_cell(cell: Cell) -> Any:
    if not isinstance(cell, Estimate):
        return cell
    if cell.n_runs is None:
        return {"value": cell.value, "low": cell.low, "high": cell.high}
    return {"mean": cell.value, "std": (cell.high - cell.low) / 2, "n": cell.n_runs}


def _cell(value: str | float | Mapping[str, Any] | None) -> Cell:
    if not isinstance(value, Mapping):
        return value
    if "mean" in value:
        mean, std = value["mean"], value["std"]
        return Estimate(mean, mean - std, mean + std, n_runs=value["n"])
    return Estimate(value["value"], value["low"], value["high"])


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_one_line(cell).replace("|", "\\|") for cell in cells) + " |"


def _one_line(text: str) -> str:
    return " ".join(text.split())
