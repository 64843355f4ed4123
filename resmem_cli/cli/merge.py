"""`resmem merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resmem_cli.cli import console, options


def run(
    *,
    shards: Annotated[
        list[Path],
        typer.Argument(
            metavar="SHARDS...",
            help="What --shard 1/N to --shard N/N wrote, in any order.",
            show_default=False,
            readable=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The file to write.", readable=False)
    ],
    manifest: Annotated[
        bool,
        typer.Option(
            "--manifest",
            help="Copy nothing: write a small file that names the shards, and is used in their place.",
        ),
    ] = False,
    memory: options.Memory = options.DEFAULT_MEMORY,
    no_clobber: options.NoClobber = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Put the shards of an artifact together.

    The file is the one that the command writes without --shard, to the bit. The recall of an approximate
    index is measured now.
    """
    from resmem_cli.stages.merge import MergeConfig, merge

    result = merge(
        shards,
        output=output,
        config=MergeConfig(manifest=manifest, memory=options.stay_within(memory)),
        clobber=not no_clobber,
        progress=console.progress_bars(quiet=quiet),
    )
    console.report(result, as_json=json, quiet=quiet)
