"""`resmem merge`: the shards of an artifact as one file, or left where they are and named in a manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from resmem_cli.artifacts.formats import EMBEDDINGS, INDEX, PREDICTIONS, RESIDUALS
from resmem_cli.artifacts.provenance import block_rows, content_digest, digest_rows
from resmem_cli.artifacts.reader import Artifact, open_artifact
from resmem_cli.artifacts.shard_formats import MANIFEST, NEIGHBORS
from resmem_cli.artifacts.sharded import shared_shapes, text_column
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError, UsageError
from resmem_cli.memory_size import DEFAULT_MEMORY, memory_budget
from resmem_cli.rows import ConcatenatedRows
from resmem_cli.shards import RECORD
from resmem_cli.stages.merged_index import manifest_of_index, write_merged_index
from resmem_cli.stages.streaming import rows_within
from resmem_cli.types import Progress, StageResult, no_progress, row_blocks

_FIRST = {PREDICTIONS.name: ("class_counts", "labels", "ids", "class_names")}
"""What a command writes in one piece before the rows that it computes, in its order."""

_LAST = {
    RESIDUALS.name: ("labels", "ids", "class_names"),
    EMBEDDINGS.name: ("labels", "ids", "class_names"),
}
"""And after them."""

_TUNED_ON = "tuned_on"
_DOCUMENTS = ("documents/starts", "documents/lengths", "documents/names")


@dataclass(frozen=True)
class MergeConfig:
    """How to put shards together.

    Attributes
    ----------
    manifest : bool
        Write a manifest, which names the shards; nothing is copied.
    memory : int
        Bytes of anonymous memory to stay within.
    """

    manifest: bool = False
    memory: int = DEFAULT_MEMORY


def merge(
    shards: Sequence[Path | str],
    *,
    output: Path | str,
    config: MergeConfig | None = None,
    clobber: bool = True,
    progress: Progress = no_progress,
) -> StageResult:
    """Put the shards of an artifact together.

    Parameters
    ----------
    shards : sequence of pathlib.Path or str
        What ``--shard 1/N`` to ``--shard N/N`` wrote, in any order.
    output : pathlib.Path or str
        The artifact to write: what the command writes without ``--shard``, to the bit.
    config : MergeConfig, optional
    clobber : bool
        Whether an existing output may be replaced.
    progress : Progress

    Raises
    ------
    UsageError
        If a shard for a manifest lies outside of its folder.
    MissingInputError, DataError, OutputError
        As the message says, among them shards that are missing, or were not made alike; nothing is written
        then.
    """
    output = Path(output)
    config = config or MergeConfig()
    with ExitStack() as stack:
        stack.enter_context(memory_budget(config.memory))
        opened = [stack.enter_context(open_artifact(Path(path))) for path in shards]
        ordered = _in_order(opened)
        first = ordered[0]
        fmt = first.header.format
        _check_alike(ordered)
        files = [file for artifact in ordered for file in artifact.files]
        parameters = {name: value for name, value in first.parameters.items() if name != RECORD}
        writer = stack.enter_context(
            ArtifactWriter(
                output,
                MANIFEST if config.manifest else fmt,
                inputs=first.header.inputs,
                parameters={} if config.manifest else parameters,
                reads=files,
                clobber=clobber,
            )
        )
        if config.manifest:
            summary = _write_manifest(writer, ordered, parameters, config, progress)
        else:
            summary = _MERGED[fmt.name](writer, ordered, config, progress)
    return StageResult("merge", output, {"format": fmt.name, "shards": len(ordered), **summary})


def _in_order(opened: Sequence[Artifact]) -> list[Artifact]:
    """Order shards by their numbers, if they are all there are."""
    numbered: dict[int, Artifact] = {}
    of = None
    for artifact in opened:
        if artifact.header.format.name not in _MERGED:
            raise DataError(
                f"{artifact.header.format.name} is not made in shards",
                file=artifact.path,
                expected=" or ".join(_MERGED),
                remedy="name what `--shard` wrote",
            )
        record = artifact.parameters.get(RECORD)
        if not isinstance(record, dict) or not all(
            type(record.get(key)) is int for key in ("shard", "of", "first_row", "n")
        ):
            raise DataError("is no shard", file=artifact.path, remedy="name what `--shard` wrote")
        if of is not None and record["of"] != of:
            raise DataError(
                f"not as many shards as {opened[0].path}",
                file=artifact.path,
                expected=of,
                found=record["of"],
                remedy="name the shards of one artifact",
            )
        of = record["of"]
        if record["shard"] in numbered:
            raise DataError(
                f"shard {record['shard']} of {of} is given twice",
                file=artifact.path,
                found=numbered[record["shard"]].path,
            )
        numbered[record["shard"]] = artifact
    if not numbered:
        raise UsageError("no shards to merge")
    # A damaged file may say that there are any number.
    missing = list(islice((number for number in range(1, (of or 0) + 1) if number not in numbered), 11))
    if missing:
        few = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        raise DataError(
            f"not all {of} shards are there",
            file=opened[0].path,
            expected="each once",
            found=f"without {few}",
        )
    ordered = [numbered[number] for number in sorted(numbered)]
    reached, n = 0, ordered[0].parameters[RECORD]["n"]
    for artifact in ordered:
        record = artifact.parameters[RECORD]
        if (record["first_row"], record["n"]) != (reached, n):
            raise DataError(
                "its rows do not follow those of the shard before",
                file=artifact.path,
                expected=f"row {reached:,} of {n:,}",
                found=f"row {record['first_row']:,} of {record['n']:,}",
                remedy="make the shards again",
            )
        reached += artifact.dimensions[artifact.header.format.row_axis]
    if reached != n:
        raise DataError("not as many rows as there are", file=ordered[-1].path, expected=n, found=reached)
    return ordered


def _check_alike(ordered: Sequence[Artifact]) -> None:
    """Refuse shards of other kinds, parameters or inputs than the first."""
    first = ordered[0]

    def told(artifact: Artifact) -> dict[str, Any]:
        apart = {RECORD, *(_PER_SHARD if artifact.header.format == INDEX else ())}
        rest = {name: value for name, value in artifact.parameters.items() if name not in apart}
        inputs = [(record.role, record.digest) for record in artifact.header.inputs]
        return {"format": artifact.header.format.name, "made from": inputs, **rest}

    own = told(first)
    for artifact in ordered[1:]:
        others = told(artifact)
        if others != own:
            name = next(n for n in {**own, **others} if own.get(n, own) != others.get(n, own))
            raise DataError(
                f"not made as {first.path}",
                file=artifact.path,
                field=name,
                expected=own.get(name),
                found=others.get(name),
                remedy="make all shards with the same inputs and options",
            )
        shapes, first_shapes = shared_shapes(artifact), shared_shapes(first)
        if shapes != first_shapes:
            name = next(n for n in {**first_shapes, **shapes} if shapes.get(n) != first_shapes.get(n))
            raise DataError(
                f"not as in {first.path}",
                file=artifact.path,
                field=name,
                expected=_shape_text(first_shapes.get(name)),
                found=_shape_text(shapes.get(name)),
                remedy="make all shards with the same options",
            )


def _shape_text(shape: tuple[tuple[int, ...], np.dtype[Any]] | None) -> str:
    return "none" if shape is None else f"{shape[1].name} {shape[0] or ''}".rstrip()


# Of an index's parameters, what an exact one has of its own in every shard.
_PER_SHARD = ("search",)


def _write_rows(
    writer: ArtifactWriter, ordered: Sequence[Artifact], config: MergeConfig, progress: Progress
) -> dict[str, Any]:
    """Write the rows of all shards, in the order in which the command itself writes."""
    first = ordered[0]
    fmt = first.header.format
    cut = [name for name in first.names if fmt.spec(name).dims[0] == fmt.row_axis]
    grows_whole = any(name in first for name in _DOCUMENTS)  # `embed` knows labels and ids only then
    before = _FIRST.get(fmt.name, ())
    after = _DOCUMENTS if grows_whole else _LAST.get(fmt.name, ())
    growing = [name for name in cut if name not in (_TUNED_ON, *before, *after)]
    joined = {name: ConcatenatedRows([shard.rows(name) for shard in ordered]) for name in cut}
    _write_whole(writer, _TUNED_ON, ordered, joined)
    for name in growing:
        writer.create(name, joined[name].shape, joined[name].dtype)
    for name in before:
        _write_whole(writer, name, ordered, joined)
    n = next(iter(joined.values())).shape[0]
    step = min(
        rows_within(joined[name].shape, joined[name].dtype, copies=2 * len(growing)) for name in growing
    )
    for block in progress(row_blocks(n, step), "merging"):
        for name in growing:
            writer.append(name, joined[name].read(block.start, block.stop))
    for name in after:
        _write_whole(writer, name, ordered, joined)
    return {"rows": n}


def _write_whole(
    writer: ArtifactWriter,
    name: str,
    ordered: Sequence[Artifact],
    joined: Mapping[str, ConcatenatedRows[Any]],
) -> None:
    if name in joined:
        values = [shard.read(name) for shard in ordered]
        writer.write(name, np.concatenate(values))
    elif name in ordered[0]:
        values = [shard.read(name) for shard in ordered]
        for shard, own in zip(ordered, values, strict=True):
            if not np.array_equal(own, values[0]):
                raise DataError(f"not the same as in {ordered[0].path}", file=shard.path, field=name)
        writer.write(name, values[0])


def _write_index(
    writer: ArtifactWriter, ordered: Sequence[Artifact], config: MergeConfig, progress: Progress
) -> dict[str, Any]:
    return write_merged_index(writer, ordered, memory=config.memory, progress=progress)


_Write = Callable[[ArtifactWriter, Sequence[Artifact], MergeConfig, Progress], dict[str, Any]]
_MERGED: dict[str, _Write] = {
    EMBEDDINGS.name: _write_rows,
    RESIDUALS.name: _write_rows,
    INDEX.name: _write_index,
    PREDICTIONS.name: _write_rows,
    NEIGHBORS.name: _write_rows,
}


def _write_manifest(
    writer: ArtifactWriter,
    ordered: Sequence[Artifact],
    parameters: Mapping[str, Any],
    config: MergeConfig,
    progress: Progress,
) -> dict[str, Any]:
    """Name the shards, and what is known of all of them together."""
    fmt = ordered[0].header.format
    folder = writer.path.absolute().parent
    names = []
    for artifact in ordered:
        if artifact.shards:
            raise DataError("is a manifest already", file=artifact.path, remedy="name its shards")
        name = os.path.relpath(artifact.path.absolute(), folder)
        if name.startswith(".."):
            raise UsageError(
                "a manifest names shards from its own folder down",
                file=artifact.path,
                expected=f"a file in {folder} or below",
                remedy="write the manifest there, or move the shards",
            )
        names.append(Path(name).as_posix())
    axis = fmt.row_axis
    writer.write("shards/files", text_column(names))
    writer.write("shards/rows", np.array([artifact.dimensions[axis] for artifact in ordered], np.int64))
    writer.write("shards/digests", text_column([artifact.header.content_digest for artifact in ordered]))
    of: dict[str, Any] = {
        "format": fmt.name,
        "version": max(artifact.header.version for artifact in ordered),
        "parameters": dict(parameters),
    }
    summary: dict[str, Any] = {"rows": sum(artifact.dimensions[axis] for artifact in ordered)}
    if fmt == EMBEDDINGS:
        of |= _embeddings_digests(ordered, progress)
    if fmt == INDEX:
        measured, more = manifest_of_index(writer, ordered, memory=config.memory, progress=progress)
        of["parameters"] |= measured
        summary |= more
    writer.set_parameters(of=of)
    return summary


def _embeddings_digests(ordered: Sequence[Artifact], progress: Progress) -> dict[str, Any]:
    """Digest embeddings as one file of them would be: what is made of either then belongs together."""
    digests = {}
    first = ordered[0]
    for name in first.names:
        spec = first.header.format.spec(name)
        if spec.dims[0] != first.header.format.row_axis:
            digests[name] = first.digests[name]
            continue
        rows = ConcatenatedRows([shard.rows(name) for shard in ordered])
        widest = np.result_type(*(shard.shapes[name][1] for shard in ordered))
        step = block_rows(spec, widest, rows.shape)
        blocks = progress(row_blocks(rows.shape[0], step), f"digesting {name}")
        read = (rows.read(block.start, block.stop).astype(widest, copy=False) for block in blocks)
        digests[name] = digest_rows(spec, widest, rows.shape, read)
    return {
        "content_digest": content_digest(digests),
        "embeddings_digest": content_digest({"embeddings": digests["embeddings"]}),
    }
