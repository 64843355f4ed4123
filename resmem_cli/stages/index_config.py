"""How an index is to be built, and what the build is given."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import UsageError, naming_file
from resmem_cli.indexes.base import Build, index_kinds
from resmem_cli.indexes.plan import Plan, chosen_kind, plan_index
from resmem_cli.indexes.space import check_rows
from resmem_cli.memory_size import DEFAULT_MEMORY
from resmem_cli.rows import ArrayInMemory, RandomRows
from resmem_cli.scratch import Scratch
from resmem_cli.stages.index_quality import check_queries, quality_target
from resmem_cli.stages.sources import EmbeddingSource, open_embeddings
from resmem_cli.stages.streaming import rows_within
from resmem_cli.types import ArraySelection, Metric, Progress, row_blocks

# Vectors that take more of the memory budget than one part in this many lie in a temporary file.
_MEMORY_SHARE = 16


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
    shard : (int, int) or None
        ``(i, N)``: only the i-th, from 1, of N equal ranges of rows; of an exact index, or with `trained`.
    trained : pathlib.Path, str or None
        What `train` wrote: the kind, its centres and codes, and what its search is to be tuned to.
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
    shard: tuple[int, int] | None = None
    trained: Path | str | None = None
    arrays: ArraySelection = field(default_factory=ArraySelection)


def check_config(config: IndexConfig) -> None:
    """Raise `UsageError` for what can't be built."""
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


def plan_build(source: EmbeddingSource, queries: EmbeddingSource | None, config: IndexConfig) -> Plan:
    """Choose the kind, and estimate what it costs; raises `UsageError` and `DataError`."""
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


def make_build(source: EmbeddingSource, config: IndexConfig, *, folder: Path, progress: Progress) -> Build:
    """Say what the build may use."""
    target = quality_target(source.n, source.d, recall=config.recall, k=config.k)
    return Build(
        metric=config.metric,
        seed=config.seed,
        memory=config.memory,
        scratch=Scratch(folder),
        quality=target if config.measure_quality else None,
        progress=progress,
    )


def vectors_of(source: EmbeddingSource, build: Build) -> RandomRows:
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


def open_queries(config: IndexConfig) -> AbstractContextManager[EmbeddingSource | None]:
    """Open the queries to measure recall with, if there are any."""
    if config.queries is None:
        return nullcontext()
    return open_embeddings(Path(config.queries), ArraySelection(split=config.queries_split))
