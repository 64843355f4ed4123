"""`resmem index`."""

from __future__ import annotations

from typing import Annotated

import typer

from resmem_cli.cli import console, options
from resmem_cli.types import ArraySelection


@options.choosing_arrays(*options.OUTPUT_ROLES)
def run(
    *,
    embeddings: options.Embeddings,
    output: options.Output = None,
    kind: Annotated[str, typer.Option(metavar="KIND", help="Kind of index.")] = "exact",
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Seed of the sample of rows whose distances are measured.")
    ] = 0,
    selection: ArraySelection,
    no_clobber: options.NoClobber = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make the embeddings searchable.

    How far apart they lie is measured too; the default sigma comes from it.
    """
    from resmem_cli.stages.index import IndexConfig, index

    result = index(
        embeddings,
        output=options.output_path(output, "index", embeddings, split=selection.split),
        config=IndexConfig(
            kind=kind,
            seed=seed,
            arrays=selection,
        ),
        clobber=not no_clobber,
        progress=console.progress_bars(quiet=quiet),
    )
    console.report(result, as_json=json, quiet=quiet)
