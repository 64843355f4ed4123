"""`resmem tune`: every setting of a grid from one search, and the one to use."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.class_weights import read_class_weights
from resmem_cli.artifacts.formats import INDEX
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.artifacts.result_formats import TUNING
from resmem_cli.artifacts.shard_formats import NEIGHBORS
from resmem_cli.artifacts.sharded import refuse_shard
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import naming_file
from resmem_cli.indexes.base import Index
from resmem_cli.memory_size import memory_budget
from resmem_cli.scratch import Scratch
from resmem_cli.stages.found import FoundBefore, SearchRequest, write_neighbors
from resmem_cli.stages.lineage import artifact_record, check_network, check_same_rows, own_rows_notices
from resmem_cli.stages.searching import prepare_search, search_record
from resmem_cli.stages.sources import EmbeddingSource, open_embeddings
from resmem_cli.stages.stored_index import load_index
from resmem_cli.stages.streaming import query_rows
from resmem_cli.stages.tune_config import BALANCED, TuneConfig, check_config, lay_grid, refines
from resmem_cli.stages.tuning_choice import Chosen, choose_settings
from resmem_cli.stages.tuning_data import (
    MemoryResiduals,
    TuningQueries,
    check_top,
    draw_rows,
    read_queries,
    search_queries,
    weigh_queries,
)
from resmem_cli.tuning.grid import Grid, Objective
from resmem_cli.tuning.methods import Tuner
from resmem_cli.types import Progress, StageResult, no_progress


def tune(
    queries: Path | str | None,
    *,
    index: Path | str,
    train: Path | str,
    output: Path | str,
    config: TuneConfig | None = None,
    clobber: bool = True,
    progress: Progress = no_progress,
) -> StageResult:
    """Try settings of the memory on labelled queries, and choose.

    Parameters
    ----------
    queries : pathlib.Path, str or None
        Validation embeddings with logits and labels. With `leave_one_out` the choice is made on the memory;
        queries, if given, then tell how it does elsewhere.
    index : pathlib.Path or str
        Of the memory.
    train : pathlib.Path or str
        The memory's embeddings with logits and labels, of which residuals are made at any temperature.
    output : pathlib.Path or str
        The artifact to write, with the whole grid.
    config : TuneConfig, optional
    clobber : bool
        Whether an existing output may be replaced.
    progress : Progress

    Raises
    ------
    UsageError, MissingInputError, DataError, OutputError
        As the message says; nothing is written then.
    """
    index, train, output = Path(index), Path(train), Path(output)
    config = config or TuneConfig()
    check_config(config, queries)
    with ExitStack() as stack:
        stack.enter_context(memory_budget(config.memory))
        index_file = stack.enter_context(open_artifact(index, INDEX))
        memory = stack.enter_context(open_embeddings(train, config.train_arrays))
        refuse_shard(index_file)
        check_same_rows(index_file, memory)
        memory.require_labels()
        n_classes = memory.require_logits().shape[1]
        source = memory
        if queries is not None:
            source = stack.enter_context(open_embeddings(queries, config.arrays))
            source.require_labels(), source.require_logits()
            check_network(index_file, source)
            check_network(index_file, memory)
        top = check_top(memory, config.top, config.space)
        searched = load_index(index_file)
        with naming_file(index):
            prepare_search(searched, config.search)
        grid = lay_grid(config, index_file, memory, one_less=config.leave_one_out)
        scratch = Scratch(output.parent)
        chosen_on = memory if config.leave_one_out else source
        n_rows = chosen_on.n
        count = config.sample if config.leave_one_out else round((config.fraction or 1) * n_rows)
        rows = draw_rows(n_rows, max(1, count), seed=config.seed)
        asked = SearchRequest(
            chosen_on.embeddings_digest,
            index_file.parameters["embeddings_digest"],
            n_rows if rows is None else len(rows),
            rows,
            max(grid.k) + config.leave_one_out,
        )
        if config.shard is not None:
            writer = stack.enter_context(
                ArtifactWriter(
                    output, NEIGHBORS, reads=(*chosen_on.files, *index_file.files), clobber=clobber
                )
            )
            writer.add_inputs(chosen_on.record("queries"), artifact_record("index", index_file))
            return _search_only(
                writer, searched, chosen_on, asked, config, scratch=scratch, progress=progress
            )
        found_files = [stack.enter_context(open_artifact(path, NEIGHBORS)) for path in config.found]
        before = FoundBefore(found_files, searched, asked) if config.found else None
        reads, class_weights = [*memory.files, *source.files, *index_file.files], None
        reads += [] if before is None else before.files
        if config.class_weights not in (None, BALANCED):
            reads.append(Path(str(config.class_weights)))
            class_weights = read_class_weights(reads[-1], n_classes)
        writer = stack.enter_context(ArtifactWriter(output, TUNING, reads=reads, clobber=clobber))

        def tuner(
            of: EmbeddingSource,
            rows: NDArray[np.int64] | None,
            *,
            others: bool,
            before: FoundBefore | None = None,
        ) -> _Tuning:
            with naming_file(index):
                found = search_queries(
                    searched,
                    of,
                    rows,
                    max(grid.k),
                    others=others,
                    scratch=scratch,
                    progress=progress,
                    before=before,
                )
            residuals = MemoryResiduals(
                memory, found.memory_rows, space=config.space, top=top, scratch=scratch
            )
            return _Tuning(
                found,
                Tuner(
                    found.searched,
                    residuals.labels,
                    residuals,
                    query_weights=weigh_queries(
                        found.searched.labels, class_weights, balanced=config.class_weights == BALANCED
                    ),
                    space=config.space,
                    likelihood=config.objective == Objective.NLL,
                    progress=progress,
                ),
            )

        tuning = tuner(chosen_on, rows, others=config.leave_one_out, before=before)
        chosen = choose_settings(
            tuning.tuner,
            grid,
            objective=config.objective,
            max_fpr=config.max_fpr,
            refine=refines(config),
            baselines=config.baselines,
        )
        elsewhere = None
        if config.leave_one_out and queries is not None:
            elsewhere = _elsewhere(tuner(source, None, others=False).tuner, grid, chosen, config)
        _write(writer, chosen, tuning.found)
        role = "memory" if config.leave_one_out else "queries"
        data = {
            "kind": "leave-one-out" if config.leave_one_out else "queries",
            "file": chosen_on.path.name,
            # Of the embeddings alone: with other names or labels they are the same queries.
            "embeddings_digest": chosen_on.embeddings_digest,
            "rows": len(tuning.found.searched),
            "of": n_rows,
            "seed": config.seed if rows is not None else None,
        }
        writer.add_inputs(memory.record("memory"), artifact_record("index", index_file))
        if source is not memory:
            writer.add_inputs(source.record("queries"))
        parameters = {
            "objective": str(config.objective),
            "max_fpr": config.max_fpr if config.objective == Objective.TPR else None,
            "class_weights": None if config.class_weights is None else Path(config.class_weights).name,
            "space": str(config.space),
            "top": top,
            "data": data,
            "n_queries": len(tuning.found.searched),
            "embeddings_digest": index_file.parameters["embeddings_digest"],
            "search": search_record(searched),
            **chosen.record(),
            "elsewhere": elsewhere,
        }
        writer.set_parameters(**parameters)
        found_itself = [] if queries is None else own_rows_notices(index_file, source)
    summary = {
        "tuned_on": f"{data['rows']:,} of {n_rows:,} rows of {chosen_on.path} ({role})",
        "points": len(chosen.points),
        "objective": str(config.objective),
        **chosen.summary(),
        "elsewhere": elsewhere and {name: elsewhere[name] for name in _ELSEWHERE},
    }
    notices = (*source.notices, *found_itself, *_notices(config, chosen, elsewhere, output))
    return StageResult("tune", output, summary, notices)


def _search_only(
    writer: ArtifactWriter,
    index: Index,
    source: EmbeddingSource,
    asked: SearchRequest,
    config: TuneConfig,
    *,
    scratch: Scratch,
    progress: Progress,
) -> StageResult:
    """Write the neighbours of a range of what is tuned on, for `found`."""
    numbers = np.arange(source.n) if asked.rows is None else asked.rows

    def read(block: slice) -> NDArray[Any]:
        return read_queries(index, source, numbers[block], scratch=scratch)

    n_searched = write_neighbors(
        writer,
        index,
        asked,
        read,
        shard=config.shard,
        memory_shard=None,
        step=query_rows(index, n_classes=1, k=asked.k),
        progress=progress,
    )
    summary = {"searched": n_searched, "of": asked.n, "k": asked.k}
    return StageResult("tune", writer.path, summary, source.notices)


@dataclass(frozen=True)
class _Tuning:
    found: TuningQueries
    tuner: Tuner


_ELSEWHERE = ("base_accuracy", "accuracy", "gain", "optimism")


def _elsewhere(tuner: Tuner, grid: Grid, chosen: Chosen, config: TuneConfig) -> dict[str, Any]:
    """Try the same settings on queries that are no rows of the memory."""
    best = chosen.best
    same = Grid(k=(best["k"],), sigma=(best["sigma"],), temperature=(best["temperature"],),
                strength=(best["strength"],))  # fmt: skip
    there = tuner.resmem(same).at(0)
    points = tuner.resmem(grid)
    own = points.at(points.best(config.objective, max_fpr=config.max_fpr))
    base = float(np.average(tuner.base_right, weights=tuner.query_weights))
    return {
        "base_accuracy": base,
        "accuracy": there["accuracy"],
        "gain": there["accuracy"] - base,
        "best": own,
        "optimism": (chosen.best["accuracy"] - chosen.base_accuracy) - (there["accuracy"] - base),
    }


def _write(writer: ArtifactWriter, chosen: Chosen, found: TuningQueries) -> None:
    for name, values in chosen.points.columns().items():
        writer.write(f"grid/{name}", values)
    for group, points in (("knn", chosen.knn), ("knn_lm", chosen.knn_lm)):
        if points is not None:
            for name, values in points.columns().items():
                if name != "nll":
                    writer.write(f"{group}/{name}", values)
    if found.rows is not None:
        writer.write("rows", found.rows)


def _notices(config: TuneConfig, chosen: Chosen, elsewhere: dict[str, Any] | None, output: Path) -> list[str]:
    told: list[str] = []
    if config.leave_one_out:
        text = (
            "tuned on the memory's own rows, which the network was trained on: one that has fitted them "
            "leaves smaller residuals there than on new data, so what is told of them is optimistic "
            f"(base accuracy there {100 * chosen.base_accuracy:.2f} %"
        )
        if elsewhere is None:
            text += "; `resmem tune QUERIES --leave-one-out` measures the difference)"
        else:
            gain = 100 * (chosen.best["accuracy"] - chosen.base_accuracy)
            text += (
                f", on the queries {100 * elsewhere['base_accuracy']:.2f} %; gain {gain:+.2f} points there, "
                f"{100 * elsewhere['gain']:+.2f} on the queries)"
            )
        told.append(text)
    if config.objective == Objective.TPR and not chosen.best["fpr"] < config.max_fpr:
        told.append(f"no point keeps FPR below {config.max_fpr:g}; this one comes nearest")
    edges = chosen.edges()
    if edges:
        told.append(
            f"the best point lies at the edge of the grid in {', '.join(edges)}; a wider grid may do better"
        )
    return told
