"""`resmem embed`: inputs through a trained network, into an embeddings artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resmem_cli.arrays.embedding_arrays import InputArrays, open_input_arrays
from resmem_cli.artifacts.formats import EMBEDDINGS
from resmem_cli.artifacts.provenance import InputRecord
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError, UsageError, naming_file
from resmem_cli.files import file_digest
from resmem_cli.types import ArraySelection, Progress, StageResult, no_progress, row_blocks

if TYPE_CHECKING:
    from resmem_cli.models.capture import EmbeddingCapture


@dataclass(frozen=True)
class EmbedConfig:
    """How to embed.

    Attributes
    ----------
    arch : str or None
        ``package.module:factory`` that makes the untrained network; not needed for TorchScript.
    arch_args : mapping or None
        Keyword arguments of the factory.
    layer : str or None
        A module's name, or ``name:input``; None for the input of the last linear layer.
    batch_rows : int
        Inputs at a time.
    trust_checkpoint : bool
        Whether a checkpoint that can run code may be loaded.
    arrays : ArraySelection
        Which arrays of the input file.
    """

    arch: str | None = None
    arch_args: Mapping[str, Any] | None = None
    layer: str | None = None
    batch_rows: int = 256
    trust_checkpoint: bool = False
    arrays: ArraySelection = field(default_factory=ArraySelection)


def embed(
    checkpoint: Path | str,
    inputs: Path | str,
    *,
    output: Path | str,
    config: EmbedConfig | None = None,
    clobber: bool = True,
    progress: Progress = no_progress,
) -> StageResult:
    """Run inputs through a network and keep one layer's activations and the logits.

    Parameters
    ----------
    checkpoint : pathlib.Path or str
        A .safetensors file or a state dict of tensors (with `arch`), or a TorchScript file.
    inputs : pathlib.Path or str
        A file of exported arrays with the inputs, and labels where they are known.
    output : pathlib.Path or str
        The embeddings artifact to write.
    config : EmbedConfig, optional
        Architecture, layer, batch.
    clobber : bool
        Whether an existing output may be replaced.
    progress : Progress
        Shows how far the rows have come.

    Raises
    ------
    MissingExtraError
        If torch is not installed.
    UsageError, MissingInputError, DataError, ResourceError, OutputError
        As the message says; nothing is written then.
    """
    from resmem_cli.models.capture import EmbeddingCapture
    from resmem_cli.models.checkpoint import load_network

    checkpoint, inputs, output = Path(checkpoint), Path(inputs), Path(output)
    config = config or EmbedConfig()
    if config.batch_rows < 1:
        raise UsageError("--batch-size out of range", expected="at least 1", found=config.batch_rows)
    network = load_network(
        checkpoint, arch=config.arch, arch_args=config.arch_args, trust_checkpoint=config.trust_checkpoint
    )
    capture = EmbeddingCapture(network, layer=config.layer)
    with (
        open_input_arrays(inputs, config.arrays) as source,
        ArtifactWriter(
            output,
            EMBEDDINGS,
            inputs=[
                InputRecord("checkpoint", checkpoint.name, "torch", network.digest),
                *(InputRecord("inputs", path.name, "arrays", file_digest(path)) for path in source.files),
            ],
            reads=(checkpoint, *source.files),
            clobber=clobber,
        ) as writer,
    ):
        d, n_classes = _write_activations(writer, capture, source, inputs, config.batch_rows, progress)
        _write_labelling(writer, source, inputs, n_classes)
        writer.set_parameters(
            sources=dict(source.sources),
            batch_rows=config.batch_rows,
            arch_args=dict(config.arch_args or {}),
            encoder={"checkpoint_digest": network.digest, "arch": network.arch, "layer": capture.layer_name},
        )
    summary = {
        "rows": source.n,
        "dimensions": d,
        "classes": n_classes,
        "arch": network.arch,
        "layer": capture.layer_name,
    }
    return StageResult("embed", output, summary, source.notices)


def _write_activations(
    writer: ArtifactWriter,
    capture: EmbeddingCapture,
    source: InputArrays,
    inputs: Path,
    batch_rows: int,
    progress: Progress,
) -> tuple[int, int]:
    d = n_classes = 0
    for block in progress(row_blocks(source.n, batch_rows), "embedding"):
        rows = source.inputs.read(block.start, block.stop)
        with naming_file(inputs):
            embeddings, logits = capture.run(rows, first_row=block.start)
        if block.start == 0:
            d, n_classes = embeddings.shape[1], logits.shape[1]
            writer.create("embeddings", (source.n, d), np.float32)
            writer.create("logits", (source.n, n_classes), np.float32)
        if (embeddings.shape[1], logits.shape[1]) != (d, n_classes):
            raise DataError(
                f"the network's outputs change their width at row {block.start:,}",
                file=inputs,
                expected=f"embeddings of {d} and logits of {n_classes}",
                found=f"{embeddings.shape[1]} and {logits.shape[1]}",
            )
        writer.append("embeddings", embeddings)
        writer.append("logits", logits)
    return d, n_classes


def _write_labelling(writer: ArtifactWriter, source: InputArrays, inputs: Path, n_classes: int) -> None:
    if source.labels is not None:
        bad = np.flatnonzero(source.labels >= n_classes)
        if len(bad):
            raise DataError(
                f"label of row {bad[0]:,} out of range",
                file=inputs,
                field="labels",
                expected=f"0 to {n_classes - 1} (the network's classes)",
                found=int(source.labels[bad[0]]),
            )
    if source.class_names is not None and len(source.class_names) != n_classes:
        raise DataError(
            "not one name a class",
            file=inputs,
            field="class_names",
            expected=f"{n_classes} (the network's classes)",
            found=len(source.class_names),
        )
    for name, values in (
        ("labels", source.labels),
        ("ids", source.ids),
        ("class_names", source.class_names),
    ):
        if values is not None:
            writer.write(name, values)
