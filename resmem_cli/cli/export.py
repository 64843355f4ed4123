"""`resmem export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resmem_cli.cli import console, options


def run(
    artifact: Annotated[Path, options.input_argument("FILE", "Any artifact.")],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="The .npz, .csv or .parquet file to write; .json for a report.",
            show_default=False,
            readable=False,
        ),
    ],
    what: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE",
            help="The table to write, such as neighbors or scores; by default all for .npz, else the "
            "main one. A wrong name lists the right ones.",
            show_default=False,
        ),
    ] = None,
    block_rows: Annotated[
        int | None, typer.Option(metavar="N", help="Rows at a time; changes nothing in the result.")
    ] = None,
    no_clobber: options.NoClobber = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write what an artifact holds for other tools.

    As .csv or .parquet one table, with a row a query, a neighbour, a run or a setting; as .npz the
    arrays as they are, with the parameters.
    """
    from resmem_cli.stages.export import export

    result = export(
        artifact,
        output=output,
        what=what,
        block_rows=block_rows,
        clobber=not no_clobber,
        progress=console.progress_bars(quiet=quiet),
    )
    console.report(result, as_json=json, quiet=quiet)
