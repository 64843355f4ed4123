"""`resmem import`: exported arrays into an embeddings artifact."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from resmem_cli.artifacts.formats import EMBEDDINGS
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.stages.sources import open_embeddings
from resmem_cli.stages.streaming import rows_within
from resmem_cli.types import ArraySelection, Progress, StageResult, no_progress, row_blocks


@dataclass(frozen=True)
class ImportConfig:
    """Which arrays to take; see `ArraySelection`."""

    arrays: ArraySelection = field(default_factory=ArraySelection)


def import_arrays(
    arrays: Path | str,
    *,
    output: Path | str,
    config: ImportConfig | None = None,
    clobber: bool = True,
    progress: Progress = no_progress,
) -> StageResult:
    """Write exported arrays as an embeddings artifact.

    Embeddings and logits become float32 (float16 stays as it is), labels int32; probabilities become
    log-probabilities, whose softmax at any temperature is that of the logits they came from.

    Parameters
    ----------
    arrays : pathlib.Path or str
        A .npy, .npz, .pt, .pth, .safetensors, .parquet or foreign .h5 file.
    output : pathlib.Path or str
        The artifact to write.
    config : ImportConfig, optional
        Which arrays.
    clobber : bool
        Whether an existing output may be replaced.
    progress : Progress
        Shows how far the rows have come.

    Raises
    ------
    MissingInputError, DataError, OutputError
        As the message says; nothing is written then.
    """
    arrays, output = Path(arrays), Path(output)
    config = config or ImportConfig()
    with (
        open_embeddings(arrays, config.arrays) as source,
        ArtifactWriter(
            output,
            EMBEDDINGS,
            parameters={"sources": dict(source.sources), "encoder": source.encoder},
            reads=source.files,
            clobber=clobber,
        ) as writer,
    ):
        writer.add_inputs(source.record("arrays"))
        if source.top_logits:
            writer.set_parameters(n_classes=source.n_classes)
        for name, rows in source.arrays.items():
            writer.create(name, rows.shape, rows.dtype)
            blocks = row_blocks(rows.shape[0], rows_within(rows.shape, rows.dtype))
            for block in progress(blocks, f"writing {name}"):
                writer.append(name, rows.read(block.start, block.stop))
        summary = {
            "rows": source.n,
            "dimensions": source.d,
            "classes": source.n_classes,
            "arrays": dict(source.sources),
        }
    return StageResult("import", output, summary, source.notices)
