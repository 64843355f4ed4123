"""The index of all rows, from those of shards: merged into one, or measured where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from resmem_cli.artifacts.reader import Artifact
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError, naming_file
from resmem_cli.indexes.approximate import ApproximateIndex
from resmem_cli.indexes.base import Build, Index
from resmem_cli.indexes.exact import ExactIndex
from resmem_cli.indexes.inverted import InvertedIndex
from resmem_cli.indexes.list_shards import merged_lists
from resmem_cli.indexes.quality import held_out_rows, tune
from resmem_cli.indexes.scale import measure_distance_scale
from resmem_cli.indexes.sharded import sharded_index
from resmem_cli.rows import ConcatenatedRandomRows
from resmem_cli.scratch import Scratch
from resmem_cli.stages.index import distances_summary, index_summary
from resmem_cli.stages.index_quality import quality_record, recorded_target
from resmem_cli.stages.stored_index import load_shards, write_index
from resmem_cli.types import Metric, Progress


def write_merged_index(
    writer: ArtifactWriter, ordered: Sequence[Artifact], *, memory: int, progress: Progress
) -> dict[str, Any]:
    """Write the index that one build of all rows writes, to the bit.

    Lists are merged; an exact index, which is little more than its rows, is built of those of the shards.

    Parameters
    ----------
    writer : ArtifactWriter
        With the parameters of the shards.
    ordered : sequence of Artifact
        All shards.
    memory : int
        Bytes of anonymous memory to stay within.
    progress : Progress

    Raises
    ------
    DataError
        If the shards do not go together.
    """
    shards = load_shards(ordered)
    vectors = ConcatenatedRandomRows([shard.vectors for shard in shards])
    build = _build(writer, ordered, vectors.shape[0], memory=memory, progress=progress)
    inverted = [shard for shard in shards if isinstance(shard, InvertedIndex)]
    built: Index
    if len(inverted) == len(shards):
        with naming_file(ordered[0].path):
            built = merged_lists(inverted, vectors, build=build)
        tune(built, held_out_rows(vectors.shape[0], build), build=build, own_present=True)
    elif isinstance(shards[0], ExactIndex):
        built = ExactIndex.build(vectors, parameters=shards[0].asked, build=build)
    else:
        raise DataError(f"an index of kind {shards[0].kind} is not made in shards", file=ordered[0].path)
    with naming_file(ordered[0].path):
        scale = measure_distance_scale(built, seed=build.seed, progress=progress)
    writer.set_parameters(distance_scale=scale, quality=quality_record(built, build.quality))
    write_index(writer, built, progress)
    if "ids" in ordered[0]:
        writer.write("ids", np.concatenate([artifact.read("ids") for artifact in ordered]))
    return {**index_summary(built, scale)}


def manifest_of_index(
    writer: ArtifactWriter,
    ordered: Sequence[Artifact],
    *,
    memory: int,
    progress: Progress,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure the search of shards where they are, and write the curve of an approximate kind.

    Returns
    -------
    parameters, summary
        Of the whole index, beside those of the shards; and what to tell.
    """
    shards = load_shards(ordered)
    search = dict(ordered[0].parameters.get("search", {}))
    with naming_file(ordered[0].path):
        whole = sharded_index(shards, {}, search)
    build = _build(writer, ordered, whole.shape[0], memory=memory, progress=progress)
    if isinstance(whole, ApproximateIndex):
        tune(whole, held_out_rows(whole.shape[0], build), build=build, own_present=True)
        for name, values in whole.common_datasets().items():
            if name.startswith("curve/"):
                writer.write(name, values.read(0, values.shape[0]))
    with naming_file(ordered[0].path):
        scale = measure_distance_scale(whole, seed=build.seed, progress=progress)
    told = {
        "distance_scale": scale,
        "quality": quality_record(whole, build.quality),
        "search": whole.parameters(),
    }
    return told, {"kind": whole.kind, **distances_summary(scale)}


def _build(
    writer: ArtifactWriter, ordered: Sequence[Artifact], n: int, *, memory: int, progress: Progress
) -> Build:
    """Say what a build of all rows was given, by what the shards say of theirs."""
    first = ordered[0]
    return Build(
        metric=Metric(first.parameters["metric"]),
        seed=max(0, int(first.number("seed"))),
        memory=memory,
        scratch=Scratch(writer.path.absolute().parent),
        quality=recorded_target(first, n),
        progress=progress,
    )
