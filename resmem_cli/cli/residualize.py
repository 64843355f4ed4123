"""`resmem residualize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resmem_cli.cli import console, options
from resmem_cli.cli.pieces import Pieces, in_shards
from resmem_cli.errors import UsageError
from resmem_cli.types import ArraySelection, ResidualSpace


@in_shards()
@options.choosing_arrays(*options.OUTPUT_ROLES)
def run(
    *,
    embeddings: options.Embeddings,
    output: options.Output = None,
    tuning: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A tuning artifact, in place of -T, --space and --top.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "-T",
            "--temperature",
            metavar="T",
            help="Temperature of the softmax; 1.4 if not tuned.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(metavar="M", help="Keep only the M entries of largest absolute value.")
    ] = None,
    space: Annotated[
        ResidualSpace | None,
        typer.Option(
            help="In what memory corrects the network: probability, as in the paper, or logit.",
            show_default="probability",
        ),
    ] = None,
    block_rows: Annotated[int | None, typer.Option(metavar="N", help="Rows at a time.")] = None,
    selection: ArraySelection,
    pieces: Pieces,
    no_clobber: options.NoClobber = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compute what the network got wrong.

    The residual of a row is onehot(label) - softmax(logits/T); in logit space, the mean logits of the
    label's class - logits.
    """
    from resmem_cli.stages.residualize import ResidualizeConfig, residualize

    given = {"--temperature": temperature, "--space": space, "--top": top}
    for option, value in given.items():
        if tuning is not None and value is not None:
            raise UsageError(f"{option} and --tuning", remedy="give one of them")
    part = pieces.shard
    result = console.in_pieces("residualize", residualize, pieces, quiet=quiet)(
        embeddings,
        output=options.output_path(output, "residuals", embeddings, split=selection.split, shard=part),
        config=ResidualizeConfig(
            temperature=1.4 if temperature is None else temperature,
            top=top,
            space=space or ResidualSpace.PROBABILITY,
            block_rows=block_rows,
            shard=part,
            arrays=selection,
        ),
        tuning=tuning,
        clobber=not no_clobber,
        progress=console.progress_bars(quiet=quiet),
    )
    console.report(result, as_json=json, quiet=quiet)
