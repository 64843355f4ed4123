"""An index as its artifact holds it: loaded to search its memory map, written in blocks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from resmem_cli.artifacts.reader import Artifact
from resmem_cli.artifacts.structure import DAMAGED
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError, naming_file
from resmem_cli.indexes.base import Index, index_kinds
from resmem_cli.indexes.sharded import sharded_index
from resmem_cli.memory_size import memory_budget, part_of_memory
from resmem_cli.stages.streaming import rows_within
from resmem_cli.types import Metric, Progress, no_progress, row_blocks

# The user's names of the rows, which no search needs.
_NOT_SEARCHED = ("ids",)


def load_index(index_file: Artifact) -> Index:
    """Load the index of an open index artifact; its vectors stay in the file.

    One in shards is loaded as an index of each, which are searched one after the other.

    Raises
    ------
    DataError
        If its kind or metric is unknown, or its datasets do not fit together.
    """
    if index_file.shards:
        shards = load_shards(index_file.shards)
        measured = {name: index_file.rows(name) for name in index_file.own_names}
        with naming_file(index_file.path):
            return sharded_index(shards, measured, _search_parameters(index_file))
    kinds = index_kinds()
    kind = index_file.parameters["kind"]
    if not isinstance(kind, str) or kind not in kinds:
        raise _unknown(index_file, "kind", expected=kinds, found=kind)
    parameters = _search_parameters(index_file)
    datasets = {name: index_file.rows(name) for name in index_file.shapes if name not in _NOT_SEARCHED}
    with naming_file(index_file.path):
        return kinds[kind].load(datasets, parameters)


def load_shards(shards: Sequence[Artifact]) -> list[Index]:
    """Load the indexes of all shards; what each keeps in memory is a part of what one index would.

    Raises
    ------
    DataError
        As `load_index` does.
    """
    with memory_budget(part_of_memory(len(shards), most=sys.maxsize)):
        return [load_index(shard) for shard in shards]


def write_index(writer: ArtifactWriter, index: Index, progress: Progress = no_progress) -> None:
    """Write all an index has to store, its parameters too, in blocks of bounded size."""
    writer.set_parameters(kind=index.kind, metric=str(index.metric), search=index.parameters())
    for name, rows in index.datasets().items():
        writer.create(name, rows.shape, rows.dtype)
        blocks = row_blocks(rows.shape[0], rows_within(rows.shape, rows.dtype))
        for block in progress(blocks, f"writing {name}"):
            writer.append(name, rows.read(block.start, block.stop))


def _search_parameters(index_file: Artifact) -> dict[str, Any]:
    # Files of version 1 hold an exact index, and no parameters of its search.
    default = {"metric": index_file.parameters["metric"]} if index_file.header.version == 1 else None
    parameters = index_file.parameters.get("search", default)
    if not isinstance(parameters, dict):
        raise DataError(
            "not a mapping", file=index_file.path, field="parameters.search", found=parameters, remedy=DAMAGED
        )
    metrics = (parameters.get("metric"), index_file.parameters["metric"])
    for metric in metrics:
        if metric not in list(Metric):
            raise _unknown(index_file, "metric", expected=Metric, found=metric)
    if len(set(metrics)) > 1:
        raise DataError(
            "two metrics",
            file=index_file.path,
            field="metric",
            found=" and ".join(map(str, metrics)),
            remedy=DAMAGED,
        )
    return parameters


def _unknown(index_file: Artifact, field: str, *, expected: Any, found: object) -> DataError:
    return DataError(
        f"unknown {field} of index",
        file=index_file.path,
        field=field,
        expected=f"one of {', '.join(map(str, expected))}",
        found=found,
        remedy="upgrade resmem-cli",
    )
