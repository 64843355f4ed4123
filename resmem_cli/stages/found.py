"""What was searched for before, in parts: by ranges of the queries, and by shards of the memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.reader import Artifact
from resmem_cli.artifacts.shard_formats import NEIGHBORS
from resmem_cli.artifacts.structure import DAMAGED
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError, UsageError
from resmem_cli.indexes.approximate import ApproximateIndex
from resmem_cli.indexes.base import Index, Neighbors
from resmem_cli.indexes.sharded import Part, ShardedExact, ShardedInverted, merge_parts
from resmem_cli.shards import RECORD, Shard, shard_parameters, shard_rows
from resmem_cli.stages.searching import search_record
from resmem_cli.types import Progress, row_blocks

FOUND = "found before"
"""The step of those queries whose neighbours were read from a file."""

_COLUMNS = tuple(spec.path for spec in NEIGHBORS.datasets)
_REMEDY = "search again, with the same queries, index and options"


def rows_digest(rows: NDArray[np.int64] | None) -> str | None:
    """Digest the numbers of the rows that are searched for; None where these are all."""
    return None if rows is None else hashlib.sha256(np.ascontiguousarray(rows, "<i8").data).hexdigest()


@dataclass(frozen=True)
class SearchRequest:
    """Which rows of which file are searched for, and in what.

    Attributes
    ----------
    queries_digest, embeddings_digest : str
        Of the queries' file, and of the memory.
    n : int
        How many queries there are in all.
    rows : (n,) int64 or None
        Which rows of their file they are; None for all.
    k : int
        Neighbours wanted; with leave-one-out one more.
    """

    queries_digest: str
    embeddings_digest: str
    n: int
    rows: NDArray[np.int64] | None
    k: int

    def parameters(self, index: Index) -> dict[str, Any]:
        """Give what a file of neighbours says of itself."""
        return {
            "k": self.k,
            "queries_digest": self.queries_digest,
            "embeddings_digest": self.embeddings_digest,
            "rows_digest": rows_digest(self.rows),
            "n_memory": index.shape[0],
            "kind": index.kind,
            "search": search_record(index),
        }


def write_neighbors(
    writer: ArtifactWriter,
    index: Index,
    searched: SearchRequest,
    read: Callable[[slice], NDArray[Any]],
    *,
    shard: tuple[int, int] | None,
    memory_shard: tuple[int, int] | None,
    step: int,
    progress: Progress,
) -> int:
    """Search, and write what was found.

    Parameters
    ----------
    writer : ArtifactWriter
        Of the format `NEIGHBORS`.
    index : Index
        The memory.
    searched : SearchRequest
        What is asked.
    read : callable
        Gives the embeddings of a range of the queries, checked.
    shard : (int, int) or None
        Which range of the queries.
    memory_shard : (int, int) or None
        Which shard of the memory alone, of an index in shards.
    step : int
        Queries at a time.
    progress : Progress

    Returns
    -------
    int
        How many queries were searched for.

    Raises
    ------
    UsageError
        If there is no such shard.
    """
    queries = shard_rows(searched.n, shard)
    number, memory_rows = _memory_rows(index, memory_shard)
    writer.set_parameters(
        **searched.parameters(index), memory_rows=memory_rows, **shard_parameters(searched.n, shard)
    )
    blocks = row_blocks(queries.stop - queries.start, step)
    for block in progress(blocks, "searching"):
        embeddings = read(slice(queries.start + block.start, queries.start + block.stop))
        part = _search(index, number, embeddings, searched.k)
        columns: dict[str, NDArray[Any]] = {"rows": part.rows, "distances": part.distances}
        if part.squares is not None:
            columns["squares"] = part.squares
        if not block.start:
            for name, values in columns.items():
                writer.create(name, (queries.stop - queries.start, values.shape[1]), values.dtype)
        for name, values in columns.items():
            writer.append(name, values)
    n_searched: int = queries.stop - queries.start
    return n_searched


def _search(index: Index, number: int | None, embeddings: NDArray[Any], k: int) -> Part:
    if number is not None and isinstance(index, ShardedExact | ShardedInverted):
        return index.search_shard(number, embeddings, k)
    found = index.search(embeddings, k)
    return Part(found.rows, found.distances)


def _memory_rows(index: Index, memory_shard: tuple[int, int] | None) -> tuple[int | None, list[int]]:
    """Give the number of the memory's shard, and the rows that are searched."""
    if memory_shard is None:
        return None, [0, index.shape[0]]
    shard = Shard(*memory_shard)
    shard.check()
    n_shards = len(index.shards) if isinstance(index, ShardedExact | ShardedInverted) else 1
    if shard.of != n_shards:
        raise UsageError(
            "--memory-shard: not as many shards as the index has", expected=f"I/{n_shards}", found=str(shard)
        )
    if not isinstance(index, ShardedExact | ShardedInverted):
        return None, [0, index.shape[0]]
    ends = [*index.starts.tolist(), index.shape[0]]
    return shard.number - 1, [ends[shard.number - 1], ends[shard.number]]


class FoundBefore:
    """Neighbours from files, in place of a search.

    Parameters
    ----------
    files : sequence of Artifact
        Of the format `NEIGHBORS`: together all queries, and for each range of them all of the memory.
    index : Index
        The memory, loaded: it says what to take of what several shards found, and searches for those
        queries for which this is not enough.
    searched : SearchRequest
        What is asked.
    wanted : slice, optional
        The range of the queries that is needed; by default all.

    Raises
    ------
    DataError
        If they are not, or were not made for this.
    """

    def __init__(
        self, files: Sequence[Artifact], index: Index, searched: SearchRequest, *, wanted: slice | None = None
    ) -> None:
        self._index, self._k = index, searched.k
        self.files = tuple(path for file in files for path in file.files)
        told = searched.parameters(index)
        parts: dict[tuple[int, int], list[tuple[list[int], Artifact]]] = {}
        for file in files:
            for name, value in told.items():
                if file.parameters.get(name) != value:
                    raise _unlike(file, name, value, file.parameters.get(name))
            first = _first_row(file)
            memory = file.parameters["memory_rows"]
            if not _is_range(memory, index.shape[0]):
                raise _unlike(file, "memory_rows", f"two of 0 to {index.shape[0]:,}", memory)
            queries = (first, first + file.dimensions["q"])
            parts.setdefault(queries, []).append((memory, file))
        self._ranges = sorted(parts)
        wanted_range = slice(0, searched.n) if wanted is None else wanted
        needed = [one for one in self._ranges if one[0] < wanted_range.stop and one[1] > wanted_range.start]
        _check_tiles(files, needed, wanted_range, "queries")
        self._parts = []
        for queries in self._ranges:
            parts[queries].sort(key=lambda part: part[0])
            _check_tiles(
                files,
                [tuple(memory) for memory, _ in parts[queries]],
                slice(0, index.shape[0]),
                "memory rows",
            )
            for memory, file in parts[queries]:
                if len(parts[queries]) > 1 and isinstance(index, ApproximateIndex) and "squares" not in file:
                    raise _unlike(file, "memory_rows", [0, index.shape[0]], memory)
            self._parts.append([file for _, file in parts[queries]])
        self._bounds = [[tuple(memory) for memory, _ in parts[queries]] for queries in self._ranges]

    def search(self, block: slice, queries: NDArray[Any], *, first: int = 0) -> Neighbors:
        """Give the neighbours of a range of the queries, counted from the first, with their embeddings."""
        block = slice(first + block.start, first + block.stop)
        rows = np.empty((len(queries), self._k), np.int64)
        distances = np.empty((len(queries), self._k), np.float64)
        for (start, stop), files, bounds in zip(self._ranges, self._parts, self._bounds, strict=True):
            own = slice(max(block.start, start), min(block.stop, stop))
            if own.start < own.stop:
                place = slice(own.start - block.start, own.stop - block.start)
                inside = slice(own.start - start, own.stop - start)
                rows[place], distances[place] = self._merged(files, bounds, inside)
        steps = {FOUND: len(queries)}
        if (left := np.flatnonzero(rows[:, -1] < 0)).size:
            again = self._index.search(queries[left], self._k)
            rows[left], distances[left] = again.rows, again.distances
            steps = {FOUND: len(queries) - len(left), **again.steps}
        return Neighbors(rows=rows, distances=distances, steps=steps)

    def _merged(
        self, files: Sequence[Artifact], bounds: Sequence[tuple[int, ...]], block: slice
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        parts = [_read(file, bound, block) for file, bound in zip(files, bounds, strict=True)]
        found = parts[0]
        if len(parts) > 1 or found.squares is not None:
            found = merge_parts(self._index, parts, self._k)
        rows = np.full((block.stop - block.start, self._k), -1, np.int64)
        distances = np.full(rows.shape, np.inf)
        width = found.rows.shape[1]
        rows[:, :width], distances[:, :width] = found.rows[:, : self._k], found.distances[:, : self._k]
        return rows, distances


def _read(file: Artifact, bound: tuple[int, ...], block: slice) -> Part:
    columns = {name: file.rows(name).read(block.start, block.stop) for name in _COLUMNS if name in file}
    rows = columns["rows"]
    if rows.min() < -1 or rows.max() >= bound[1] or (rows[rows >= 0] < bound[0]).any():
        raise _unlike(file, "rows", f"{bound[0]:,} to {bound[1] - 1:,}", f"{rows.min():,} to {rows.max():,}")
    if not (columns["distances"] >= 0).all():
        raise _unlike(file, "distances", "0 or more", "NaN, or less")
    if np.isnan(columns.get("squares", 0)).any():
        raise _unlike(file, "squares", "numbers", "NaN")
    return Part(rows, columns["distances"], columns.get("squares"))


def _is_range(memory: object, n: int) -> bool:
    return (
        isinstance(memory, list)
        and [type(row) for row in memory] == [int, int]
        and 0 <= memory[0] < memory[1] <= n
    )


def _first_row(file: Artifact) -> int:
    record = file.parameters.get(RECORD)
    if record is None:
        return 0
    first = record.get("first_row") if isinstance(record, dict) else None
    if type(first) is not int or first < 0:
        raise DataError("not a shard's record", file=file.path, field=f"parameters.{RECORD}", remedy=DAMAGED)
    return first


def _check_tiles(
    files: Iterable[Artifact], ranges: Sequence[tuple[int, ...]], wanted: slice, what: str
) -> None:
    """Hold ranges, in their order, to follow each other from where the wanted one begins to its end."""
    reached = wanted.start
    twice = False
    for place, (first, stop) in enumerate(ranges):
        if first > reached:
            break
        twice |= place > 0 and first < reached
        reached = stop
    if reached < wanted.stop or twice:
        raise DataError(
            f"some {what} were searched twice" if twice else f"not all {what} were searched",
            file=next(iter(files)).path,
            expected=f"{wanted.start:,} to {wanted.stop:,}, each once",
            found=", ".join(f"{first:,} to {stop:,}" for first, stop in ranges) or "none",
            remedy="name the files of all shards, each once",
        )


def _unlike(file: Artifact, field: str, expected: object, found: object) -> DataError:
    def short(value: object) -> object:
        return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else value

    return DataError(
        "was searched for something else",
        file=file.path,
        field=field,
        expected=short(expected),
        found=short(found),
        remedy=_REMEDY,
    )
