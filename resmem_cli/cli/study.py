"""What `theory` and the subcommands of `reproduce` share: their files, and how their tables are shown."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from resmem_cli.cli import console
from resmem_cli.results import ResultTable
from resmem_cli.types import StageResult

_NOTE_WIDTH = 100

Folder = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        metavar="FOLDER",
        help="Where everything is made and kept; the same command goes on with what is there.",
        show_default=False,
        readable=False,
    ),
]
Markdown = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Write the tables as Markdown too.", show_default=False, readable=False
    ),
]
Figures = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Draw the figures, as SVG and PNG.", show_default=False, readable=False
    ),
]


def show_study(result: StageResult, *, as_json: bool, quiet: bool) -> None:
    """Write the tables of a study with their titles and notes, then its other figures."""
    show_tables(result, as_json=as_json, quiet=quiet)
    if as_json:
        return
    rest = {name: value for name, value in result.summary.items() if name not in ("tables", "figures")}
    drawn = ", ".join(result.summary["figures"]) or None
    console.emit_fields({"output": result.output, **rest, "figures": drawn})


def show_tables(result: StageResult, *, as_json: bool, quiet: bool) -> None:
    """Write the tables of a result with their titles and notes, or all of it as JSON."""
    for text in result.notices:
        console.notice(text, quiet=quiet)
    if as_json:
        console.emit_json(result)
        return
    for document in result.summary["tables"]:
        table = ResultTable.from_document(document)
        console.emit(f"{table.title}\n\n")
        if table.rows:
            console.emit_table(table.headings, table.texts())
        notes = (textwrap.fill(note, _NOTE_WIDTH, break_on_hyphens=False) for note in table.notes)
        console.emit("".join(f"\n{note}\n" for note in notes) + "\n")
