"""`resmem index`: the memory made searchable, and its distance scale measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resmem_cli.artifacts.formats import INDEX
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import ResourceError, UsageError
from resmem_cli.indexes.base import Index, index_kinds, search_others
from resmem_cli.stages.sources import EmbeddingSource, open_embeddings
from resmem_cli.stages.streaming import rows_within
from resmem_cli.types import ArraySelection, Progress, StageResult, no_progress, row_blocks
from resmem_cli.weights import SIGMA_PER_SCALE

SCALE_NEIGHBOR = 53
SCALE_SAMPLE = 1000


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
    embeddings: Path,
    *,
    output: Path,
    config: IndexConfig | None = None,
    clobber: bool = True,
    progress: Progress = no_progress,
) -> StageResult:
    """Build a searchable index of the embeddings.

    Parameters
    ----------
    embeddings : pathlib.Path
        An embeddings artifact or exported arrays.
    output : pathlib.Path
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
    config = config or IndexConfig()
    kinds = index_kinds()
    if config.kind not in kinds:
        raise UsageError("no such kind of index", expected=f"one of {', '.join(kinds)}", found=config.kind)
    with (
        open_embeddings(embeddings, config.arrays) as source,
        ArtifactWriter(output, INDEX, inputs=[source.record("embeddings")], clobber=clobber) as writer,
    ):
        built = kinds[config.kind].build(_read_all(source, progress))
        scale = measure_distance_scale(built, seed=config.seed)
        writer.set_parameters(
            kind=config.kind, metric="euclidean", distance_scale=scale, encoder=source.encoder
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


def measure_distance_scale(built: Index, *, seed: int = 0) -> dict[str, Any]:
    """Measure how far apart the memory's rows lie, in the unit of sigma.

    Parameters
    ----------
    built : Index
        The memory.
    seed : int
        Of the sample of rows.

    Returns
    -------
    dict
        `median`: the median Euclidean distance from `sample` rows, drawn with `seed`, to their
        `neighbor`-th nearest other row; 0 for a memory of one row.
    """
    datasets = built.datasets()
    n = built.shape[0]
    sample = min(SCALE_SAMPLE, n)
    rows = np.sort(np.random.default_rng(seed).choice(n, size=sample, replace=False))
    neighbor = min(SCALE_NEIGHBOR, n - 1)
    median = 0.0
    if neighbor:
        found = search_others(built, datasets["vectors"][rows], rows, neighbor)
        median = float(np.median(found.distances[:, -1]))
    return {"median": median, "neighbor": neighbor, "sample": sample, "seed": seed}


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
