"""`resmem embed`: inputs through a trained network, into an embeddings artifact."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resmem_cli.artifacts.formats import EMBEDDINGS
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError, UsageError
from resmem_cli.stages.embedding.batches import Batches
from resmem_cli.stages.embedding.config import EmbedConfig, check_config
from resmem_cli.stages.embedding.inputs import open_inputs
from resmem_cli.stages.embedding.rows import RowWriter
from resmem_cli.stages.overlap import overlapped
from resmem_cli.types import Progress, StageResult, no_progress

# A batch of more than one row, for the rows' axis to be told from the others.
_LISTED_ROWS = 2


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
        A .safetensors file or a state dict of tensors (with `arch`), a folder in the Hugging Face layout,
        or, trusted, a TorchScript file, a `torch.export` archive or a pickled network.
    inputs : pathlib.Path or str
        A file of exported arrays with the inputs, and labels where they are known; a folder of images in
        class folders; or, for a language model, an array of token ids, a text file or a folder of them.
    output : pathlib.Path or str
        The embeddings artifact to write.
    config : EmbedConfig, optional
        Architecture, layer, inputs, batch.
    clobber : bool
        Whether an existing output may be replaced.
    progress : Progress
        Shows how far the rows have come.

    Raises
    ------
    MissingExtraError
        If torch, or another package that an input needs, is not installed.
    UsageError, MissingInputError, DataError, ResourceError, OutputError, BusyError
        As the message says; nothing is written then.
    """
    checkpoint, inputs, output = Path(checkpoint), Path(inputs), Path(output)
    config = config or EmbedConfig()
    check_config(config)
    with open_inputs(checkpoint, inputs, output.parent, config) as opened:
        rows = _shard(opened.n, config.shard)
        with ArtifactWriter(
            output,
            EMBEDDINGS,
            inputs=opened.records,
            reads=(checkpoint, *opened.files),
            clobber=clobber,
            resumable=opened.fingerprint | {"first_row": rows.start, "last_row": rows.stop},
            resume=config.resume,
        ) as writer:
            kept = writer.restore()
            written = RowWriter(writer, opened.batches, rows, n_done=kept, storage=config.storage)
            with _naming_weights(checkpoint):
                _run(opened.batches, written, progress)
            opened.batches.write_rest(writer, rows)
            writer.set_parameters(
                **opened.parameters,
                encoder=opened.encoder,
                n_classes=opened.batches.n_classes,
                shard=None
                if config.shard is None
                else {
                    "shard": config.shard[0],
                    "of": config.shard[1],
                    "first_row": rows.start,
                    "n": opened.n,
                },
            )
            discarded = writer.discarded
    notices = list(opened.notices)
    if discarded:
        notices.append("an unfinished run for this output was discarded; --resume would go on with one")
    summary = {
        "rows": rows.stop - rows.start,
        "resumed_from_row": kept or None,
        "dimensions": written.d,
        "classes": opened.batches.n_classes,
        "top": config.top,
        **opened.summary(),
    }
    return StageResult("embed", output, summary, tuple(notices))


def list_layers(
    checkpoint: Path | str, inputs: Path | str, *, config: EmbedConfig | None = None
) -> StageResult:
    """Run a network on one batch and tell its layers, in the order of their first calls.

    Parameters
    ----------
    checkpoint, inputs, config
        As for `embed`.

    Returns
    -------
    StageResult
        Its summary holds ``layers``, a list of mappings with ``name``, ``kind``, ``output_shapes``,
        ``calls`` and ``role`` (``embedding`` for the input of this layer, ``logits``, or None).

    Raises
    ------
    ResmemError
        As for `embed`.
    """
    config = config or EmbedConfig()
    check_config(config)
    config = dataclasses.replace(config, batch_rows=config.batch_rows or _LISTED_ROWS)
    with open_inputs(Path(checkpoint), Path(inputs), Path(), config) as opened:
        layers = opened.layers()
        notices = opened.notices
    return StageResult("embed", None, {"layers": layers}, notices)


def _shard(n_rows: int, shard: tuple[int, int] | None) -> slice:
    if shard is None:
        return slice(0, n_rows)
    number, of = shard
    if of > n_rows:
        raise UsageError(f"--shard: more shards than the {n_rows:,} rows", found=of)
    return slice((number - 1) * n_rows // of, number * n_rows // of)


@contextmanager
def _naming_weights(checkpoint: Path) -> Iterator[None]:
    """Name the checkpoint too in errors about what the network made of the inputs, which know no remedy."""
    try:
        yield
    except DataError as error:
        if error.remedy is not None:
            raise
        remedy = f"look at the inputs, and at the weights in {checkpoint}"
        raise DataError(error.problem, file=error.file, found=error.found, remedy=remedy) from error


def _run(batches: Batches, written: RowWriter, progress: Progress) -> None:
    numbers = iter(written.batches)
    blocks = [written.wanted(number) for number in written.batches]
    overlapped(
        (next(numbers) for _ in progress(blocks, "embedding")),
        read=batches.prepare,
        compute=batches.run,
        write=written.append,
    )
