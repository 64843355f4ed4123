"""`resmem index`: the memory made searchable, and its distance scale measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resmem_cli.artifacts.formats import INDEX
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import ResourceError, UsageError
from resmem_cli.indexes.base import index_kinds
from resmem_cli.indexes.scale import measure_distance_scale
from resmem_cli.stages.sources import EmbeddingSource, open_embeddings
from resmem_cli.stages.streaming import rows_within
from resmem_cli.types import ArraySelection, Progress, StageResult, no_progress, row_blocks
from resmem_cli.weights import SIGMA_PER_SCALE


@dataclass(frozen=True)
class IndexConfig:
    """How to build an index.

    Attributes
    ----------
    kind : str
        One of `index_kinds()`.
    seed : int
        Of the sample of rows whose distances are measured.
    arrays : ArraySelection
        Which arrays, where the input is exported arrays.
    """

    kind: str = "exact"
    seed: int = 0
    arrays: ArraySelection = field(default_factory=ArraySelection)


def index(
    embeddings: Path | str,
    *,
    output: Path | str,
    config: IndexConfig | None = None,
    clobber: bool = True,
    progress: Progress = no_progress,
) -> StageResult:
    """Build a searchable index of the embeddings.

    Parameters
    ----------
    embeddings : pathlib.Path or str
        An embeddings artifact or exported arrays.
    output : pathlib.Path or str
        The artifact to write.
    config : IndexConfig, optional
        Kind and seed.
    clobber : bool
        Whether an existing output may be replaced.
    progress : Progress
        Shows how far the rows have come.

    Raises
    ------
    UsageError
        If there is no such kind.
    ResourceError
        If the rows do not fit in memory.
    MissingInputError, DataError, OutputError
        As the message says; nothing is written then.
    """
    embeddings, output = Path(embeddings), Path(output)
    config = config or IndexConfig()
    kinds = index_kinds()
    if config.kind not in kinds:
        raise UsageError("no such kind of index", expected=f"one of {', '.join(kinds)}", found=config.kind)
    with (
        open_embeddings(embeddings, config.arrays) as source,
        ArtifactWriter(output, INDEX, reads=source.files, clobber=clobber) as writer,
    ):
        built = kinds[config.kind].build(_read_all(source, progress))
        scale = measure_distance_scale(built, seed=config.seed, progress=progress)
        writer.add_inputs(source.record("embeddings"))
        writer.set_parameters(
            kind=config.kind,
            metric="euclidean",
            distance_scale=scale,
            encoder=source.encoder,
            embeddings_digest=source.embeddings_digest,
        )
        for name, values in built.datasets().items():
            writer.write(name, values)
        if source.ids is not None:
            writer.write("ids", source.ids)
        n, d = built.shape
    summary = {
        "kind": config.kind,
        "rows": n,
        "dimensions": d,
        "distance_scale": scale["median"],
        "default_sigma": SIGMA_PER_SCALE * scale["median"],
    }
    return StageResult("index", output, summary, source.notices)


def _read_all(source: EmbeddingSource, progress: Progress) -> np.ndarray[Any, Any]:
    rows = source.embeddings
    try:
        vectors = np.empty(rows.shape, rows.dtype)
    except MemoryError as error:
        raise ResourceError(
            "the embeddings do not fit in memory", file=source.path, expected=f"{rows.shape} {rows.dtype}"
        ) from error
    for block in progress(row_blocks(source.n, rows_within(rows.shape, rows.dtype)), "reading"):
        vectors[block] = rows.read(block.start, block.stop)
    return vectors
