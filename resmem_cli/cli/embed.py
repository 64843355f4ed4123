"""`resmem embed`."""

from __future__ import annotations

import contextlib
import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from resmem_cli.cli import console, options
from resmem_cli.cli.pieces import Pieces, in_shards
from resmem_cli.errors import UsageError
from resmem_cli.types import ArraySelection, ComputeType, ImageLayout, Pooling, StageResult, StorageType


@in_shards()
@options.choosing_arrays(*options.INPUT_ROLES)
def run(
    *,
    checkpoint: Annotated[
        Path,
        options.input_argument(
            "CHECKPOINT",
            "A .safetensors file, a state dict, a folder in the Hugging Face layout, a TorchScript file "
            "or a torch.export archive.",
        ),
    ],
    inputs: Annotated[
        Path,
        options.input_argument(
            "INPUTS",
            "Exported arrays with the network's inputs or token ids, a folder of images in class folders, "
            "or (with --tokenizer) a text file or a folder of them.",
        ),
    ],
    output: options.Output = None,
    arch: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PACKAGE.MODULE:FACTORY",
            help="What makes the untrained network: cifar-resnet8 to 56, transformer-lm, timm:NAME, "
            "transformers:FOLDER, or your own function or class.",
        ),
    ] = None,
    arch_args: Annotated[
        str | None, typer.Option(metavar="JSON", help="Its keyword arguments, as a JSON object.")
    ] = None,
    non_strict: Annotated[
        bool, typer.Option("--non-strict", help="Leave out weights that do not fit, and list them.")
    ] = False,
    trust_checkpoint: Annotated[
        bool,
        typer.Option("--trust-checkpoint", help="Load a checkpoint even though it can run code of its own."),
    ] = False,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:input]",
            help="The module whose output (or input) is the embedding; by default the input of the last "
            "linear layer, which makes the logits, and for language models that of the last MLP.",
        ),
    ] = None,
    logits_layer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:input]",
            help="The module whose output is the logits; by default the network's output.",
        ),
    ] = None,
    list_layers: Annotated[
        bool,
        typer.Option("--list-layers", help="Run one batch, print the layers and their output shapes, stop."),
    ] = False,
    pool: Annotated[
        Pooling | None, typer.Option(help="How pixels or tokens of one example become one vector.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="M[,M,M]", help="Mean of uint8 images in [0, 1], one or one a channel."),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="S[,S,S]", help="Standard deviation of the same.")
    ] = None,
    layout: Annotated[
        ImageLayout | None, typer.Option(help="Where the channels are, if the shape does not tell.")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Resize images of a folder to N x N, cutting out the centre."),
    ] = None,
    gray: Annotated[bool, typer.Option("--gray", help="Read images of a folder with one channel.")] = False,
    window: Annotated[
        int | None, typer.Option(metavar="N", help="Language: tokens the network sees at once [256].")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Language: tokens from window to window [3/4 of the window]; the rest is context.",
        ),
    ] = None,
    pad_id: Annotated[
        int | None, typer.Option(metavar="ID", help="Language: the id that fills up rows of documents.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Language: a tokenizers JSON file, for text.", readable=False),
    ] = None,
    glob: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Language: which files of a folder [**/*.txt].")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            metavar="M",
            help="Keep each row's M largest logits, its label's and their log-sum-exp, instead of all: "
            "enough for residuals of the top M at T = 1.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Rows at a time [256], or windows [16].")
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[ComputeType, typer.Option(help="What the network computes in.")] = ComputeType.FLOAT32,
    storage: Annotated[
        StorageType, typer.Option(help="What embeddings and dense logits are stored in.")
    ] = StorageType.FLOAT32,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on where an interrupted run stopped; if this one is interrupted, keep its work.",
        ),
    ] = False,
    selection: ArraySelection,
    pieces: Pieces,
    no_clobber: options.NoClobber = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run inputs through a trained network.

    One layer's activations are kept, and the logits. Language models get the documents in overlapping
    windows: one row for each token, whose label is the next one.
    """
    from resmem_cli.stages.embed import embed
    from resmem_cli.stages.embed import list_layers as list_them
    from resmem_cli.stages.embedding.config import EmbedConfig, ImageConfig, LanguageConfig

    language = {
        "window": window,
        "stride": stride,
        "pad_id": pad_id,
        "tokenizer": tokenizer,
        "glob": glob,
    }
    chosen: dict[str, Any] = {name: value for name, value in language.items() if value is not None}
    part = pieces.shard
    config = EmbedConfig(
        arch=arch,
        arch_args=_json_object(arch_args),
        strict=not non_strict,
        trust_checkpoint=trust_checkpoint,
        layer=layer,
        logits_layer=logits_layer,
        pool=pool,
        device=device,
        dtype=dtype,
        storage=storage,
        top=top,
        batch_rows=batch_size,
        arrays=selection,
        images=ImageConfig(
            mean=_numbers("--mean", mean),
            std=_numbers("--std", std),
            layout=layout,
            size=image_size,
            gray=gray,
        ),
        language=LanguageConfig(**chosen) if chosen or selection.offsets else None,
        shard=part,
        resume=resume,
    )
    # What the network's own code prints is no part of the result.
    with contextlib.redirect_stdout(sys.stderr):
        if list_layers:
            result = list_them(checkpoint, inputs, config=config)
        else:
            kind = "embeddings" if part is None else f"shard-{part[0]}-of-{part[1]}.embeddings"
            result = console.in_pieces("embed", embed, pieces, quiet=quiet)(
                checkpoint,
                inputs,
                output=options.output_path(output, kind, inputs, split=selection.split),
                config=config,
                clobber=not no_clobber,
                progress=console.progress_bars(quiet=quiet),
            )
    if list_layers and not json:
        _show_layers(result, quiet=quiet)
    else:
        console.report(result, as_json=json, quiet=quiet)


def _show_layers(result: StageResult, *, quiet: bool) -> None:
    for text in result.notices:
        console.notice(text, quiet=quiet)
    rows = [
        (
            layer["name"],
            layer["kind"],
            ", ".join(str(tuple(shape)) for shape in layer["output_shapes"]),
            str(layer["calls"]),
            {"embedding": "its input: the embedding", "logits": "logits"}.get(layer["role"], ""),
        )
        for layer in result.summary["layers"]
    ]
    console.emit_table(("layer", "kind", "output shape", "calls", ""), rows)


def _numbers(flag: str, text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise UsageError(
            f"{flag} is no list of numbers", expected="such as 0.5,0.4,0.4", found=text
        ) from error


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
