"""`resmem update`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resmem_cli.cli import console, options
from resmem_cli.types import ArraySelection


@options.choosing_arrays(*options.OUTPUT_ROLES)
def run(
    *,
    index: Annotated[Path | None, options.input_option("--index", "The memory's index.")] = None,
    residuals: Annotated[Path | None, options.input_option("--residuals", "The memory's residuals.")] = None,
    add: Annotated[
        Path | None,
        options.input_option("--add", "New rows: an embeddings artifact, or exported arrays."),
    ] = None,
    remove: Annotated[
        Path | None,
        options.input_option(
            "--remove", "Ids of rows to remove, one a line; row numbers from 0 where the memory has none."
        ),
    ] = None,
    index_output: Annotated[
        Path | None,
        options.input_option(
            "--index-output", "The new index; index.updated.h5 beside index.h5 if not given."
        ),
    ] = None,
    residuals_output: Annotated[
        Path | None,
        options.input_option("--residuals-output", "The new residuals; named alike if not given."),
    ] = None,
    renumber: Annotated[
        bool, typer.Option("--renumber", help="Name the new rows by numbers, whatever their ids.")
    ] = False,
    memory: options.Memory = options.DEFAULT_MEMORY,
    selection: ArraySelection,
    no_clobber: options.NoClobber = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Add rows to a memory, and remove rows from it.

    Index and residuals are written anew, together or each by a command of its own; they belong together
    again after the same update. Nothing of the removed rows is in the new files.
    """
    from resmem_cli.stages.update import UpdateConfig, update

    if index is not None:
        index_output = options.output_path(index_output, "updated", index)
    if residuals is not None:
        residuals_output = options.output_path(residuals_output, "updated", residuals)
    result = update(
        index=index,
        residuals=residuals,
        add=add,
        remove=remove,
        index_output=index_output,
        residuals_output=residuals_output,
        config=UpdateConfig(renumber=renumber, memory=options.stay_within(memory), arrays=selection),
        clobber=not no_clobber,
        progress=console.progress_bars(quiet=quiet),
    )
    if json:
        console.report(result, as_json=True, quiet=quiet)
        return
    for text in result.notices:
        console.notice(text, quiet=quiet)
    console.emit_fields(result.summary)
