"""`resmem embed`."""

from __future__ import annotations

import contextlib
import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from resmem_cli.cli import console, options
from resmem_cli.errors import UsageError
from resmem_cli.types import ArraySelection


@options.choosing_arrays(*options.INPUT_ROLES)
def run(
    *,
    checkpoint: Annotated[
        Path,
        options.input_argument("CHECKPOINT", "A .safetensors file, a state dict, or a TorchScript file."),
    ],
    inputs: Annotated[
        Path,
        options.input_argument("INPUTS", "Exported arrays with the network's inputs."),
    ],
    output: options.Output = None,
    arch: Annotated[
        str | None,
        typer.Option(
            metavar="PACKAGE.MODULE:FACTORY", help="The function or class that makes the untrained network."
        ),
    ] = None,
    arch_args: Annotated[
        str | None, typer.Option(metavar="JSON", help="Its keyword arguments, as a JSON object.")
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:input]",
            help="The module whose output (or input) is the embedding; "
            "by default the input of the last linear layer, which makes the logits.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Inputs at a time.")] = 256,
    trust_checkpoint: Annotated[
        bool,
        typer.Option("--trust-checkpoint", help="Load a checkpoint even though it can run code of its own."),
    ] = False,
    selection: ArraySelection,
    no_clobber: options.NoClobber = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run inputs through a trained network.

    One layer's activations are kept, and the logits.
    """
    from resmem_cli.stages.embed import EmbedConfig, embed

    # What the network's own code prints is no part of the result.
    with contextlib.redirect_stdout(sys.stderr):
        result = embed(
            checkpoint,
            inputs,
            output=options.output_path(output, "embeddings", inputs, split=selection.split),
            config=EmbedConfig(
                arch=arch,
                arch_args=_json_object(arch_args),
                layer=layer,
                batch_rows=batch_size,
                trust_checkpoint=trust_checkpoint,
                arrays=selection,
            ),
            clobber=not no_clobber,
            progress=console.progress_bars(quiet=quiet),
        )
    console.report(result, as_json=json, quiet=quiet)


def _json_object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json_module.loads(text)
    except json_module.JSONDecodeError as error:
        raise UsageError(f"--arch-args is not JSON: {error}", found=text) from error
    if not isinstance(value, dict):
        raise UsageError("--arch-args is not a JSON object", expected='{"name": value}', found=text)
    return value
