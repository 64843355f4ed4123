"""`resmem index`: the memory made searchable, its distance scale and the quality of its search measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.formats import INDEX
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import UsageError, naming_file
from resmem_cli.indexes.approximate import ApproximateIndex
from resmem_cli.indexes.base import Build, Index, index_kinds
from resmem_cli.indexes.plan import Plan, chosen_kind, plan_index
from resmem_cli.indexes.scale import measure_distance_scale
from resmem_cli.indexes.space import check_rows
from resmem_cli.memory_size import DEFAULT_MEMORY, memory_budget
from resmem_cli.rows import ArrayInMemory, RandomRows
from resmem_cli.scratch import Scratch
from resmem_cli.stages.index_quality import (
    check_queries,
    quality_record,
    quality_summary,
    quality_target,
    shortfall,
    with_queries,
)
from resmem_cli.stages.sources import EmbeddingSource, open_embeddings
from resmem_cli.stages.stored_index import write_index
from resmem_cli.stages.streaming import rows_within
from resmem_cli.types import ArraySelection, Metric, Progress, StageResult, no_progress, row_blocks
from resmem_cli.weights import SIGMA_PER_SCALE

# Vectors that take more of the memory budget than one part in this many lie in a temporary file.
_MEMORY_SHARE = 16


# Of an index's parameters: told elsewhere, or only needed to search.
_NOT_TOLD = ("metric", "effort", "largest_norm", "given", "entry", "measured_k", "sample")


@dataclass(frozen=True)
class IndexConfig:
    """How to build an index.

    Attributes
    ----------
    kind : str or None
        One of `index_kinds()`; None to choose from n, d and the memory.
    parameters : mapping
        Of the kind; what is missing is chosen.
    metric : Metric
        Of the distances.
    memory : int
        Bytes of anonymous memory to stay within, and for a search to be planned for.
    recall : float
        What an approximate kind is tuned to.
    k : int
        Neighbours for which it is tuned.
    measure_quality : bool
        Whether to measure an approximate kind at all.
    queries : pathlib.Path or None
        Embeddings to measure it with, like those it will be asked for; None for rows held out.
    queries_split : str or None
        Which of that file's arrays, where it holds exported ones.
    seed : int
        Of every sample.
    arrays : ArraySelection
        Which arrays, where the input is exported arrays.
    """

    kind: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metric: Metric = Metric.EUCLIDEAN
    memory: int = DEFAULT_MEMORY
    recall: float = 0.95
    k: int = 53
    measure_quality: bool = True
    queries: Path | None = None
    queries_split: str | None = None
    seed: int = 0
    arrays: ArraySelection = field(default_factory=ArraySelection)


def plan(embeddings: Path | str, *, config: IndexConfig | None = None) -> StageResult:
    """Say which kind of index would be built, why, and what it would cost; build nothing.

    Parameters
    ----------
    embeddings : pathlib.Path or str
        An embeddings artifact or exported arrays.
    config : IndexConfig, optional
        As for `index`.

    Raises
    ------
    UsageError, MissingInputError, DataError
        As `index` does.
    """
    config = config or IndexConfig()
    _check(config)
    with open_embeddings(Path(embeddings), config.arrays) as source, _open_queries(config) as queries:
        planned = _plan(source, queries, config)
    return StageResult("index", None, planned.summary(), (*source.notices, *_excess(planned, config)))


def index(
    embeddings: Path | str,
    *,
    output: Path | str,
    config: IndexConfig | None = None,
    clobber: bool = True,
    announce: Callable[[Plan], None] | None = None,
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
        Kind, metric, memory, and how good it is to be.
    clobber : bool
        Whether an existing output may be replaced.
    announce : callable, optional
        Is given the plan when the rows are read and found good, and the work starts.
    progress : Progress
        Shows how far the rows have come.

    Raises
    ------
    UsageError
        If there is no such kind, or a parameter is out of range.
    MissingInputError, DataError, OutputError
        As the message says; nothing is written then.
    """
    embeddings, output = Path(embeddings), Path(output)
    config = config or IndexConfig()
    _check(config)
    with (
        memory_budget(config.memory),
        open_embeddings(embeddings, config.arrays) as source,
        _open_queries(config) as queries,
        ArtifactWriter(
            output, INDEX, reads=(*source.files, *(queries.files if queries else ())), clobber=clobber
        ) as writer,
    ):
        planned = _plan(source, queries, config)
        build = _build(source, config, folder=output.absolute().parent, progress=progress)
        if queries and build.quality:
            build = replace(build, quality=with_queries(build.quality, queries, build))
        vectors = _vectors(source, build)
        if announce is not None:
            announce(planned)
        with naming_file(embeddings):
            built = index_kinds()[planned.kind].build(vectors, parameters=planned.parameters, build=build)
        scale = measure_distance_scale(built, seed=config.seed, progress=progress)
        writer.add_inputs(source.record("embeddings"))
        if queries:
            writer.add_inputs(queries.record("queries"))
        writer.set_parameters(
            distance_scale=scale,
            seed=config.seed,
            quality=quality_record(built, build.quality),
            encoder=source.encoder,
            embeddings_digest=source.embeddings_digest,
        )
        write_index(writer, built, progress)
        if source.ids is not None:
            writer.write("ids", source.ids)
    notices = (
        *source.notices,
        *(queries.notices if queries else ()),
        *_excess(planned, config),
        *shortfall(built, build.quality),
    )
    if queries and not isinstance(built, ApproximateIndex):
        notices = (*notices, f"--queries are not used: {built.kind} finds all neighbours of every query")
    return StageResult("index", output, _summary(built, scale), notices)


def _check(config: IndexConfig) -> None:
    kinds = index_kinds()
    if config.kind is not None and config.kind not in kinds:
        raise UsageError("no such kind of index", expected=f"one of {', '.join(kinds)}", found=config.kind)
    if not 0 < config.recall <= 1:
        raise UsageError("--recall out of range", expected="above 0, at most 1", found=config.recall)
    if config.k < 1:
        raise UsageError("-k out of range", expected="at least 1", found=config.k)
    if config.queries is not None and not config.measure_quality:
        raise UsageError("--queries are to measure recall with", remedy="leave out --no-measure")
    if config.queries is None and config.queries_split is not None:
        raise UsageError("--queries-split is for --queries", remedy="give both")


def _plan(source: EmbeddingSource, queries: EmbeddingSource | None, config: IndexConfig) -> Plan:
    _check_parameters(source, config)
    if queries:
        check_queries(queries, d=source.d)
    return plan_index(
        source.n,
        source.d,
        itemsize=source.embeddings.dtype.itemsize,
        memory=config.memory,
        kind=config.kind,
        parameters=config.parameters,
    )


def _check_parameters(source: EmbeddingSource, config: IndexConfig) -> None:
    kinds = index_kinds()
    kind = config.kind or chosen_kind(source.n, source.d, config.memory)
    for name in config.parameters:
        if name not in kinds[kind].parameter_names:
            takers = [other for other in kinds if name in kinds[other].parameter_names]
            raise UsageError(
                f"--{name.replace('_', '-')} is not for an index of kind {kind}"
                + ("" if config.kind else ", which suits so many rows and dimensions"),
                remedy=f"leave it out, or give --kind {' or '.join(takers)}" if takers else None,
            )
    kinds[kind].check_parameters(config.parameters, n=source.n, d=source.d)


def _build(source: EmbeddingSource, config: IndexConfig, *, folder: Path, progress: Progress) -> Build:
    target = quality_target(source.n, source.d, recall=config.recall, k=config.k)
    return Build(
        metric=config.metric,
        seed=config.seed,
        memory=config.memory,
        scratch=Scratch(folder),
        quality=target if config.measure_quality else None,
        progress=progress,
    )


def _vectors(source: EmbeddingSource, build: Build) -> RandomRows:
    """Copy the rows to where they can be read at random, memory or a temporary file, and check them."""
    rows = source.embeddings
    fits = source.n * source.d * rows.dtype.itemsize * _MEMORY_SHARE <= build.memory
    vectors: NDArray[Any] = (
        np.empty(rows.shape, rows.dtype) if fits else build.scratch.array(rows.shape, rows.dtype)
    )
    for block in build.progress(row_blocks(source.n, rows_within(rows.shape, rows.dtype)), "reading"):
        vectors[block] = rows.read(block.start, block.stop)
        with naming_file(source.path):
            check_rows(vectors[block], build.metric, first=block.start)
    return ArrayInMemory(vectors)


def _open_queries(config: IndexConfig) -> AbstractContextManager[EmbeddingSource | None]:
    if config.queries is None:
        return nullcontext()
    return open_embeddings(Path(config.queries), ArraySelection(split=config.queries_split))


def _excess(planned: Plan, config: IndexConfig) -> list[str]:
    excess = planned.excess(config.memory)
    return [] if excess is None else [excess]


def _summary(built: Index, scale: Mapping[str, Any]) -> dict[str, Any]:
    n, d = built.shape
    summary: dict[str, Any] = {
        "kind": built.kind,
        "metric": str(built.metric),
        "rows": n,
        "dimensions": d,
        "search": {name: value for name, value in built.parameters().items() if name not in _NOT_TOLD},
        "distance_scale": scale["median"],
        "default_sigma": SIGMA_PER_SCALE * scale["median"],
        **quality_summary(built),
    }
    if "sample" in built.parameters():
        summary["sample"] = built.parameters()["sample"]
    if isinstance(built, ApproximateIndex) and built.curve:
        summary["curve"] = [
            {
                built.probe_name: point.effort.probe,
                "rerank": point.effort.rerank,
                "recall": point.recall,
                "compared": point.compared,
                "microseconds": point.microseconds,
            }
            for point in built.curve
        ]
    return summary
