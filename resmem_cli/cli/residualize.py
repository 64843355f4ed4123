"""`resmem residualize`."""

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
    temperature: Annotated[
        float, typer.Option("-T", "--temperature", metavar="T", help="Temperature of the softmax.")
    ] = 1.4,
    top: Annotated[
        int | None, typer.Option(metavar="M", help="Keep only the M entries of largest absolute value.")
    ] = None,
    block_rows: Annotated[int | None, typer.Option(metavar="N", help="Rows at a time.")] = None,
    selection: ArraySelection,
    no_clobber: options.NoClobber = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compute what the network got wrong.

    The residual of a row is onehot(label) - softmax(logits/T).
    """
    from resmem_cli.stages.residualize import ResidualizeConfig, residualize

    result = residualize(
        embeddings,
        output=options.output_path(output, "residuals", embeddings, split=selection.split),
        config=ResidualizeConfig(
            temperature=temperature,
            top=top,
            block_rows=block_rows,
            arrays=selection,
        ),
        clobber=not no_clobber,
        progress=console.progress_bars(quiet=quiet),
    )
    console.report(result, as_json=json, quiet=quiet)
