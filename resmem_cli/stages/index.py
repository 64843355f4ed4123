"""`resmem index`: the memory made searchable, its distance scale and the quality of its search measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from resmem_cli.artifacts.formats import INDEX
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import UsageError, naming_file
from resmem_cli.indexes.approximate import ApproximateIndex
from resmem_cli.indexes.base import Build, Index, index_kinds
from resmem_cli.indexes.exact import ExactIndex
from resmem_cli.indexes.inverted import InvertedIndex
from resmem_cli.indexes.plan import Plan
from resmem_cli.indexes.quality import held_out_rows, tune
from resmem_cli.indexes.scale import measure_distance_scale
from resmem_cli.memory_size import memory_budget
from resmem_cli.rows import RandomRows
from resmem_cli.shards import shard_parameters, shard_rows
from resmem_cli.stages.index_config import (
    IndexConfig,
    check_config,
    make_build,
    open_queries,
    plan_build,
    vectors_of,
)
from resmem_cli.stages.index_quality import (
    quality_record,
    quality_summary,
    shortfall,
    with_queries,
)
from resmem_cli.stages.sources import EmbeddingSource, open_embeddings
from resmem_cli.stages.stored_index import write_index
from resmem_cli.stages.trained import Trained, read_trained
from resmem_cli.types import Progress, StageResult, no_progress
from resmem_cli.weights import SIGMA_PER_SCALE

# Of an index's parameters: told elsewhere, or only needed to search.
_NOT_TOLD = ("metric", "effort", "largest_norm", "given", "entry", "measured_k", "sample")


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
    check_config(config)
    with open_embeddings(Path(embeddings), config.arrays) as source, open_queries(config) as queries:
        planned = plan_build(source, queries, config)
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
    trained = None if config.trained is None else read_trained(config.trained)
    if trained is not None:
        config = trained.settle(config)
    check_config(config)
    with (
        memory_budget(config.memory),
        open_embeddings(embeddings, config.arrays) as whole,
        open_queries(config) as queries,
        ArtifactWriter(
            output,
            INDEX,
            reads=(
                *whole.files,
                *(queries.files if queries else ()),
                *(() if trained is None else (trained.path,)),
            ),
            clobber=clobber,
        ) as writer,
    ):
        source = whole.part(shard_rows(whole.n, config.shard))
        planned = plan_build(whole, queries, config)
        if config.shard and trained is None and planned.kind != ExactIndex.kind:
            raise UsageError(
                f"shards of an index of kind {planned.kind} need what they share",
                remedy="make it with --train-only and name it with --trained, or give --kind exact"
                if issubclass(index_kinds()[planned.kind], InvertedIndex)
                else "name an ivf kind, or exact, with --kind",
            )
        build = make_build(whole, config, folder=output.absolute().parent, progress=progress)
        if queries and build.quality:
            build = replace(build, quality=with_queries(build.quality, queries, build))
        vectors = vectors_of(source, build)
        if announce is not None:
            announce(planned)
        with naming_file(embeddings):
            built = _built(planned, vectors, source, trained, build, whole=config.shard is None)
        scale = None
        if config.shard is None:
            scale = measure_distance_scale(built, seed=config.seed, progress=progress)
        # What was learnt before is learnt from these too, and is in the index: it is no input of its own.
        writer.add_inputs(whole.record("embeddings"))
        if queries:
            writer.add_inputs(queries.record("queries"))
        writer.set_parameters(
            distance_scale=scale,
            seed=config.seed,
            quality=quality_record(built, build.quality, later=config.shard is not None),
            encoder=whole.encoder,
            embeddings_digest=whole.embeddings_digest,
            **shard_parameters(whole.n, config.shard),
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
    return StageResult("index", output, index_summary(built, scale), notices)


def _built(
    planned: Plan,
    vectors: RandomRows,
    source: EmbeddingSource,
    trained: Trained | None,
    build: Build,
    *,
    whole: bool,
) -> Index:
    if trained is None:
        return index_kinds()[planned.kind].build(vectors, parameters=planned.parameters, build=build)
    index = trained.unfilled(vectors, source)
    index.fill(None, build=build)
    if whole:
        tune(index, held_out_rows(source.n, build), build=build, own_present=True)
    return index


def _excess(planned: Plan, config: IndexConfig) -> list[str]:
    excess = planned.excess(config.memory)
    return [] if excess is None else [excess]


def index_summary(built: Index, scale: Mapping[str, Any] | None) -> dict[str, Any]:
    """Give what was built, and the distances of its rows if they were measured."""
    n, d = built.shape
    summary: dict[str, Any] = {
        "kind": built.kind,
        "metric": str(built.metric),
        "rows": n,
        "dimensions": d,
        "search": {name: value for name, value in built.parameters().items() if name not in _NOT_TOLD},
        **({} if scale is None else distances_summary(scale)),
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


def distances_summary(scale: Mapping[str, Any]) -> dict[str, float]:
    """Give the distance scale of a memory, and the sigma that follows from it."""
    return {"distance_scale": scale["median"], "default_sigma": SIGMA_PER_SCALE * scale["median"]}
