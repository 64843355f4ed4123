"""`resmem search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resmem_cli.cli import console, options
from resmem_cli.cli.pieces import ShardText, read_shard
from resmem_cli.types import ArraySelection


@options.choosing_arrays("embeddings", "ids", "labels", "logits", "probabilities", "class_names")
def run(
    *,
    queries: Annotated[
        Path,
        options.input_argument("QUERIES", "An embeddings artifact, or exported arrays."),
    ],
    index: Annotated[Path, options.input_option("--index", "The memory's index.")],
    output: options.Output = None,
    k: Annotated[int, typer.Option("-k", metavar="K", help="Neighbours of each query.")] = 53,
    shard: ShardText = None,
    memory_shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/S", help="Only in the I-th of the S shards of the index.", show_default=False
        ),
    ] = None,
    block_rows: Annotated[
        int | None, typer.Option(metavar="N", help="Queries at a time; changes nothing in the result.")
    ] = None,
    recall: options.Recall = None,
    nprobe: options.Nprobe = None,
    ef_search: options.EfSearch = None,
    rerank: options.Rerank = None,
    backend: options.Backend = "faiss",
    device: options.Device = "auto",
    memory: options.Memory = options.DEFAULT_MEMORY,
    selection: ArraySelection,
    no_clobber: options.NoClobber = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find the nearest rows of the memory, and no more.

    predict and tune take the files as --found, in place of a search of their own: of all queries, or of
    ranges of them (--shard), and in all of the memory or in its shards (--memory-shard).
    """
    from resmem_cli.stages.search import SearchStageConfig, search
    from resmem_cli.stages.searching import SearchConfig

    part, memory_part = read_shard(shard), read_shard(memory_shard)
    kind = "neighbors" if memory_part is None else "memory-{}-of-{}.neighbors".format(*memory_part)
    result = search(
        queries,
        index=index,
        output=options.output_path(output, kind, queries, split=selection.split, shard=part),
        config=SearchStageConfig(
            k=k,
            shard=part,
            memory_shard=memory_part,
            block_rows=block_rows,
            search=SearchConfig(
                recall=recall,
                nprobe=nprobe,
                ef_search=ef_search,
                rerank=rerank,
                backend=backend,
                device=device,
            ),
            memory=options.stay_within(memory),
            arrays=selection,
        ),
        clobber=not no_clobber,
        progress=console.progress_bars(quiet=quiet),
    )
    console.report(result, as_json=json, quiet=quiet)
