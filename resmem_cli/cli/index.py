"""`resmem index`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resmem_cli.cli import console, options
from resmem_cli.cli.pieces import Pieces, in_shards
from resmem_cli.errors import UsageError
from resmem_cli.types import ArraySelection, Metric, StageResult, StorageType

if TYPE_CHECKING:
    from resmem_cli.indexes.plan import Plan

_SMALLEST_GAIN = 5e-4  # of recall, to be shown


@in_shards()
@options.choosing_arrays(*options.OUTPUT_ROLES)
def run(
    *,
    embeddings: options.Embeddings,
    output: options.Output = None,
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="exact, ivf, ivf-rabitq, ivf-pq, hnsw or factory; by default chosen from rows, dimensions "
            "and --memory.",
            show_default=False,
        ),
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option(metavar="STRING", help="Build what this faiss factory string says.", show_default=False),
    ] = None,
    metric: Annotated[Metric, typer.Option(help="How far apart two rows are.")] = Metric.EUCLIDEAN,
    memory: options.Memory = options.DEFAULT_MEMORY,
    recall: Annotated[
        float,
        typer.Option(
            metavar="R", help="Recall that an approximate kind's search is tuned to, on held-out rows."
        ),
    ] = 0.95,
    k: Annotated[int, typer.Option("-k", metavar="K", help="Neighbours for which it is tuned.")] = 53,
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Embeddings to measure recall with instead of held-out rows: like those to come, and not "
            "rows of the memory.",
            show_default=False,
        ),
    ] = None,
    queries_split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which split of --queries to take.", show_default=False),
    ] = None,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="Do not measure an approximate kind's recall.")
    ] = False,
    axes: Annotated[
        int | None,
        typer.Option(
            metavar="R",
            help="exact: search the first R principal axes before all columns; 0 for none; by default a "
            "sample decides.",
            show_default=False,
        ),
    ] = None,
    lists: Annotated[
        int | None, typer.Option(metavar="N", help="ivf kinds: number of lists.", show_default=False)
    ] = None,
    storage: Annotated[
        StorageType | None, typer.Option(help="ivf: type of the stored codes.", show_default=False)
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="ivf-rabitq: bits a dimension; ivf-pq: of each part, 4 or 8.",
            show_default=False,
        ),
    ] = None,
    subquantizers: Annotated[
        int | None, typer.Option(metavar="M", help="ivf-pq: parts of a row.", show_default=False)
    ] = None,
    links: Annotated[
        int | None, typer.Option(metavar="M", help="hnsw: links of a node.", show_default=False)
    ] = None,
    ef_construction: Annotated[
        int | None, typer.Option(metavar="N", help="hnsw: candidates while building.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of every sample of rows.")] = 0,
    train_only: Annotated[
        bool,
        typer.Option(
            "--train-only",
            help="ivf kinds: learn what all shards of an index share, for --trained.",
        ),
    ] = False,
    trained: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="ivf kinds: what --train-only wrote, in place of --kind and what goes with it.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be built and what it would cost, and stop.")
    ] = False,
    selection: ArraySelection,
    pieces: Pieces,
    no_clobber: options.NoClobber = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make the embeddings searchable.

    Without --kind, rows, dimensions and --memory decide: exact search up to about a million rows of a
    thousand dimensions, approximate beyond. How far apart the rows lie is measured too (the default sigma
    comes from it), and how many of the true neighbours an approximate kind finds.
    """
    from resmem_cli.stages.index import index, plan
    from resmem_cli.stages.index_config import IndexConfig

    given = {
        "factory": factory,
        "axes": axes,
        "lists": lists,
        "storage": None if storage is None else str(storage),
        "bits": bits,
        "subquantizers": subquantizers,
        "links": links,
        "ef_construction": ef_construction,
    }
    part = pieces.shard
    config = IndexConfig(
        kind="factory" if kind is None and factory is not None else kind,
        parameters={name: value for name, value in given.items() if value is not None},
        metric=metric,
        memory=options.stay_within(memory),
        recall=recall,
        k=k,
        measure_quality=not no_measure,
        queries=queries,
        queries_split=queries_split,
        seed=seed,
        shard=part,
        trained=trained,
        arrays=selection,
    )
    if dry_run:
        planned = plan(embeddings, config=config)
        if not json:
            planned = replace(planned, summary=_estimates(planned.summary))
        console.report(planned, as_json=json, quiet=quiet)
        return

    progress = console.progress_bars(quiet=quiet)
    if train_only:
        from resmem_cli.stages.trained import train

        if part is not None or trained is not None:
            raise UsageError("--train-only is for all rows", remedy="leave out --shard and --trained")
        learnt = train(
            embeddings,
            output=options.output_path(output, "trained", embeddings, split=selection.split),
            config=config,
            clobber=not no_clobber,
            progress=progress,
        )
        console.report(learnt, as_json=json, quiet=quiet)
        return

    if pieces.scheduling is not None:
        spread = console.in_pieces("index", index, pieces, quiet=quiet)
        _report(
            spread(
                embeddings,
                output=options.output_path(output, "index", embeddings, split=selection.split),
                config=config,
                clobber=not no_clobber,
                progress=progress,
            ),
            as_json=json,
            quiet=quiet,
        )
        return

    def announce(planned: Plan) -> None:
        console.notice(planned.sentence(), quiet=quiet)

    result = index(
        embeddings,
        output=options.output_path(output, "index", embeddings, split=selection.split, shard=part),
        config=config,
        clobber=not no_clobber,
        announce=announce,
        progress=progress,
    )
    _report(result, as_json=json, quiet=quiet)


def _estimates(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Write what an index would cost in units that people read."""
    from resmem_cli.indexes.plan import recall_text, time_text
    from resmem_cli.memory_size import memory_text

    query = time_text(plan["query_seconds"])
    duration = "" if plan["build_seconds"] is None else f"{time_text(plan['build_seconds'])}, "
    return {
        "kind": plan["kind"],
        "parameters": plan["parameters"] or None,
        "rows": plan["rows"],
        "dimensions": plan["dimensions"],
        "reason": plan["reason"],
        "build": f"about {duration}{memory_text(plan['build_bytes'])} of memory",
        "disk": f"about {memory_text(plan['disk_bytes'])}",
        "search": f"about {query} a query, reads {memory_text(plan['search_bytes'])}",
        "recall": None if plan["recall"] is None else recall_text(plan["recall"]),
    }


def _report(result: StageResult, *, as_json: bool, quiet: bool) -> None:
    curve: list[Mapping[str, Any]] = result.summary.get("curve", [])
    if as_json or not curve:
        console.report(result, as_json=as_json, quiet=quiet)
        return
    fields = {name: value for name, value in result.summary.items() if name != "curve"}
    console.report(
        StageResult(result.command, result.output, fields, result.notices), as_json=False, quiet=quiet
    )
    setting = next(iter(curve[0]))
    rows = [
        (
            f"{point[setting]:,}",
            f"{point['rerank']:,}",
            f"{point['recall']:.4f}",
            f"{point['compared']:,.0f}",
            f"{point['microseconds']:,.0f}",
        )
        for point in _worth_it(curve, (fields[setting], fields["rerank"]), setting)
    ]
    console.emit_table((setting, "rerank", "recall", "compared", "µs a query"), rows)


def _worth_it(
    curve: list[Mapping[str, Any]], chosen: tuple[int, int], setting: str
) -> Iterator[Mapping[str, Any]]:
    """Leave out the settings that find hardly more than a cheaper one, but not the one chosen."""
    best = 0.0
    for point in curve:
        if point["recall"] >= best + _SMALLEST_GAIN or (point[setting], point["rerank"]) == chosen:
            best = max(best, point["recall"])
            yield point
