"""`resmem search`: the neighbours of queries alone, for `predict` and `tune` to go on from."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from resmem_cli.artifacts.formats import INDEX
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.artifacts.shard_formats import NEIGHBORS
from resmem_cli.artifacts.sharded import refuse_shard
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import UsageError, naming_file
from resmem_cli.indexes.space import check_rows
from resmem_cli.memory_size import DEFAULT_MEMORY, memory_budget
from resmem_cli.stages.found import SearchRequest, write_neighbors
from resmem_cli.stages.lineage import artifact_record, check_network
from resmem_cli.stages.predict_config import DEFAULT_K
from resmem_cli.stages.searching import SearchConfig, prepare_search, search_summary
from resmem_cli.stages.sources import open_embeddings
from resmem_cli.stages.stored_index import load_index
from resmem_cli.stages.streaming import query_rows
from resmem_cli.types import ArraySelection, Progress, StageResult, no_progress


@dataclass(frozen=True)
class SearchStageConfig:
    """What to search for, and where.

    Attributes
    ----------
    k : int
        Neighbours of each query.
    shard : (int, int) or None
        ``(i, N)``: only the i-th, from 1, of N equal ranges of the queries.
    memory_shard : (int, int) or None
        ``(i, S)``: only in the i-th, from 1, of the S shards of the index.
    block_rows : int or None
        Queries at a time; None to choose.
    search : SearchConfig
        How hard an approximate index searches, and with what.
    memory : int
        Bytes of anonymous memory to stay within.
    arrays : ArraySelection
        Which arrays, where the queries are exported arrays.
    """

    k: int = DEFAULT_K
    shard: tuple[int, int] | None = None
    memory_shard: tuple[int, int] | None = None
    block_rows: int | None = None
    search: SearchConfig = field(default_factory=SearchConfig)
    memory: int = DEFAULT_MEMORY
    arrays: ArraySelection = field(default_factory=ArraySelection)


def search(
    queries: Path | str,
    *,
    index: Path | str,
    output: Path | str,
    config: SearchStageConfig | None = None,
    clobber: bool = True,
    progress: Progress = no_progress,
) -> StageResult:
    """Find the neighbours of queries, and write them.

    Parameters
    ----------
    queries : pathlib.Path or str
        An embeddings artifact or exported arrays.
    index : pathlib.Path or str
        Of the memory; with `memory_shard` the manifest of its shards.
    output : pathlib.Path or str
        The artifact to write.
    config : SearchStageConfig, optional
    clobber : bool
        Whether an existing output may be replaced.
    progress : Progress
        Shows how far the queries have come.

    Raises
    ------
    UsageError
        If k, or a shard, is out of range.
    MissingInputError, DataError, OutputError
        As the message says; nothing is written then.
    """
    queries, index, output = Path(queries), Path(index), Path(output)
    config = config or SearchStageConfig()
    if config.block_rows is not None and config.block_rows < 1:
        raise UsageError("--block-rows out of range", expected="at least 1", found=config.block_rows)
    with ExitStack() as stack:
        stack.enter_context(memory_budget(config.memory))
        index_file = stack.enter_context(open_artifact(index, INDEX))
        refuse_shard(index_file)
        source = stack.enter_context(open_embeddings(queries, config.arrays))
        check_network(index_file, source, logits=False)
        searched = load_index(index_file)
        with naming_file(index):
            prepare_search(searched, config.search)
        n = searched.shape[0]
        if not 1 <= config.k <= n:
            raise UsageError("k out of range", file=index, expected=f"1 to {n:,}", found=f"{config.k:,}")
        writer = stack.enter_context(
            ArtifactWriter(output, NEIGHBORS, reads=(*source.files, *index_file.files), clobber=clobber)
        )
        writer.add_inputs(source.record("queries"), artifact_record("index", index_file))

        def read(block: slice) -> NDArray[Any]:
            embeddings = source.embeddings.read(block.start, block.stop)
            with naming_file(queries):
                check_rows(embeddings, searched.metric, first=block.start, what="query")
            return embeddings

        asked = SearchRequest(
            source.embeddings_digest, index_file.parameters["embeddings_digest"], source.n, None, config.k
        )
        with naming_file(index):
            n_searched = write_neighbors(
                writer,
                searched,
                asked,
                read,
                shard=config.shard,
                memory_shard=config.memory_shard,
                step=config.block_rows or query_rows(searched, n_classes=1, k=config.k),
                progress=progress,
            )
    summary = {"queries": n_searched, "memory": n, "k": config.k, **search_summary(searched)}
    return StageResult("search", output, summary, source.notices)
