"""`resmem update`: rows added to a memory, and rows removed from it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.formats import INDEX, RESIDUALS
from resmem_cli.artifacts.reader import Artifact, open_artifact
from resmem_cli.artifacts.sharded import refuse_shard
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError, UsageError, naming_file
from resmem_cli.files import followed
from resmem_cli.indexes.approximate import MEASURED_BEFORE
from resmem_cli.indexes.base import Build
from resmem_cli.indexes.scale import measure_distance_scale
from resmem_cli.indexes.space import check_rows
from resmem_cli.memory_size import DEFAULT_MEMORY, memory_budget
from resmem_cli.rows import ArrayInMemory
from resmem_cli.scratch import Scratch
from resmem_cli.stages.index_quality import quality_summary, recorded_target, shortfall
from resmem_cli.stages.lineage import check_one_memory
from resmem_cli.stages.memory_change import MemoryChange
from resmem_cli.stages.residualize import ResidualizeConfig, append_residuals, declare_residuals
from resmem_cli.stages.sources import open_embeddings
from resmem_cli.stages.stored_index import load_index, write_index
from resmem_cli.stages.stored_memory import RESIDUAL_ROWS, StoredMemory
from resmem_cli.stages.streaming import rows_within
from resmem_cli.types import (
    ArraySelection,
    Metric,
    Progress,
    ResidualSpace,
    StageResult,
    no_progress,
    row_blocks,
)
from resmem_cli.weights import SIGMA_PER_SCALE


@dataclass(frozen=True)
class UpdateConfig:
    """How to update a memory.

    Attributes
    ----------
    renumber : bool
        Name the added rows by numbers going on from the largest in use, whatever ids they have.
    memory : int
        Bytes of anonymous memory to stay within where the index is built anew.
    arrays : ArraySelection
        Which arrays, where the added rows are exported arrays.
    """

    renumber: bool = False
    memory: int = DEFAULT_MEMORY
    arrays: ArraySelection = field(default_factory=ArraySelection)


def update(
    *,
    index: Path | str | None = None,
    residuals: Path | str | None = None,
    add: Path | str | None = None,
    remove: Path | str | None = None,
    index_output: Path | str | None = None,
    residuals_output: Path | str | None = None,
    config: UpdateConfig | None = None,
    clobber: bool = True,
    progress: Progress = no_progress,
) -> StageResult:
    """Write a memory anew without some of its rows and with others added at its end.

    Nothing of the removed rows is in the new files. Index and residuals may be updated together or one
    by one; they belong together again after the same update.

    Both outputs are written and checked before either is renamed into place. If the process is killed, or
    the file system fails, between the two renames, one file is new and one is old, each whole: as a pair
    they are refused, and the same update run again mends them, for its inputs are as they were. (Without
    `clobber` the new one is to be removed first.)

    Parameters
    ----------
    index, residuals : pathlib.Path or str, optional
        The memory's artifacts, at least one.
    add : pathlib.Path or str, optional
        An embeddings artifact or exported arrays; with logits and labels where residuals are updated.
    remove : pathlib.Path or str, optional
        A text file of ids, one a line: those the memory stores, or else row numbers from 0.
    index_output, residuals_output : pathlib.Path or str, optional
        The artifact to write for each that is given.
    config : UpdateConfig, optional
        The parameters.
    clobber : bool
        Whether existing outputs may be replaced.
    progress : Progress
        Shows how far the rows have come.

    Raises
    ------
    UsageError
        If there is nothing to update, or nothing to do.
    MissingInputError, DataError, OutputError
        As the message says, among them an id that names no row, all rows removed, and new rows of
        another network; nothing is written then, unless it is the second rename that fails.
    """
    config = config or UpdateConfig()
    paths = {"index": index, "residuals": residuals}
    outputs = {"index": index_output, "residuals": residuals_output}
    _check_wanted(paths, outputs, adds=add is not None, removes=remove is not None, config=config)
    with ExitStack() as stack:
        stack.enter_context(memory_budget(config.memory))
        files = {
            fmt.name.removeprefix("resmem."): stack.enter_context(open_artifact(path, fmt))
            for fmt, path in ((INDEX, index), (RESIDUALS, residuals))
            if path is not None
        }
        for file in files.values():
            refuse_shard(file)
        if len(files) == 2:
            check_one_memory(files["index"], files["residuals"])
        source = stack.enter_context(open_embeddings(add, config.arrays)) if add is not None else None
        change = MemoryChange.of(
            files, source, None if remove is None else Path(remove), renumber=config.renumber
        )
        reads = [path for file in files.values() for path in file.files]
        reads += [] if remove is None else [Path(remove)]
        reads += [] if source is None else source.files
        writers = {
            name: stack.enter_context(
                ArtifactWriter(Path(str(outputs[name])), file.header.format, reads=reads, clobber=clobber)
            )
            for name, file in files.items()
        }
        summary: dict[str, Any] = {name: str(writer.path) for name, writer in writers.items()}
        summary |= change.summary()
        notices = [*(() if source is None else source.notices), *change.notices]
        for name, write in (("index", _write_index), ("residuals", _write_residuals)):
            if name in files:
                change.describe(writers[name], files[name])
                figures, more = write(writers[name], files[name], change, config, progress)
                writers[name].write("ids", change.ids.values)
                summary |= figures
                notices += more
        for writer in writers.values():
            writer.finish()
    return StageResult("update", next(iter(writers.values())).path, summary, tuple(notices))


def _write_index(
    writer: ArtifactWriter, old: Artifact, change: MemoryChange, config: UpdateConfig, progress: Progress
) -> tuple[dict[str, Any], tuple[str, ...]]:
    seed = int(old.number("distance_scale", "seed"))
    scratch = Scratch(writer.path.absolute().parent)
    before = load_index(old)
    build = Build(
        metric=before.metric,
        seed=seed,
        memory=config.memory,
        scratch=scratch,
        quality=recorded_target(old, change.n_after),
        progress=progress,
    )
    vectors = ArrayInMemory(_vectors(old, change, before.metric, scratch, progress))
    with naming_file(old.path):
        built, notices = before.updated(vectors, change.kept, build=build)
    if MEASURED_BEFORE not in notices:
        notices = (*notices, *shortfall(built, build.quality))
    with naming_file(old.path):
        scale = measure_distance_scale(built, seed=seed, progress=progress)
    writer.set_parameters(distance_scale=scale)
    write_index(writer, built, progress)
    return {
        "kind": built.kind,
        "metric": str(built.metric),
        "distance_scale": scale["median"],
        "default_sigma": SIGMA_PER_SCALE * scale["median"],
        **quality_summary(built),
    }, notices


def _vectors(
    old: Artifact, change: MemoryChange, metric: Metric, scratch: Scratch, progress: Progress
) -> NDArray[Any]:
    """Lay out the embeddings of the new memory."""
    (_, d), dtype = old.shapes["vectors"]
    added = change.source
    if added is not None:
        # As if all rows had come in one array; no value changes.
        dtype = np.result_type(dtype, added.embeddings.dtype)
    vectors = scratch.array((change.n_after, d), dtype)
    end = 0
    for (rows,) in change.kept_rows(old, ("vectors",), progress):
        vectors[end : end + len(rows)] = rows
        end += len(rows)
    if added is not None:
        embeddings = added.embeddings
        step = rows_within(embeddings.shape, embeddings.dtype)
        for block in progress(row_blocks(added.n, step), "reading"):
            rows = embeddings.read(block.start, block.stop)
            with naming_file(added.path):
                check_rows(rows, metric, first=block.start)
            vectors[end + block.start : end + block.stop] = rows
    return vectors


def _write_residuals(
    writer: ArtifactWriter, old: Artifact, change: MemoryChange, config: UpdateConfig, progress: Progress
) -> tuple[dict[str, Any], tuple[str, ...]]:
    memory, added = StoredMemory(old), change.source
    if memory.space == ResidualSpace.LOGIT:
        raise DataError(
            "residuals in logit space hold class means of all rows, and can't be updated",
            file=old.path,
            remedy="make them again with `resmem residualize --space logit`",
        )
    names = tuple(name for name in RESIDUAL_ROWS if name in old)
    top = old.dimensions["m"] if memory.truncated else None
    declare_residuals(writer, change.n_after, memory.n_classes, top=top)
    for blocks in change.kept_rows(old, names, progress):
        for name, rows in zip(names, blocks, strict=True):
            writer.append(name, rows)
    labels, class_names = memory.labels[~change.removed], memory.class_names
    if added is not None:
        as_before = ResidualizeConfig(temperature=memory.temperature, top=top)
        append_residuals(writer, added, as_before, progress)
        labels = np.concatenate([labels, added.require_labels()])
        class_names = added.class_names if class_names is None else class_names
    writer.write("labels", labels)
    if class_names is not None:
        writer.write("class_names", class_names)
    return {"temperature": memory.temperature, "top": top}, ()


def _check_wanted(
    paths: dict[str, Any], outputs: dict[str, Any], *, adds: bool, removes: bool, config: UpdateConfig
) -> None:
    if not any(paths.values()):
        raise UsageError("nothing to update", remedy="give --index, --residuals or both")
    if not adds and not removes:
        raise UsageError("nothing to do", remedy="give --add, --remove or both")
    if not adds and (config.renumber or config.arrays != ArraySelection()):
        raise UsageError("--renumber and choices of arrays are for added rows", remedy="give --add")
    for name, path in paths.items():
        if (path is None) != (outputs[name] is None):
            raise UsageError(
                f"an output for the {name}, but no {name}" if path is None else f"no output for the {name}",
                remedy=f"give both --{name} and --{name}-output, or neither",
            )
    resolved = {followed(path) for path in outputs.values() if path is not None}
    if len(resolved) < sum(path is not None for path in outputs.values()):
        raise UsageError("one file can't be both outputs", found=str(resolved.pop()))
