"""What `tune` works on: queries with their neighbours, and the residuals of the rows these are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError, naming_file
from resmem_cli.indexes.base import Index, Neighbors, search_others, without_own
from resmem_cli.indexes.space import check_rows
from resmem_cli.logit_space import ClassMeans, compute_logit_residuals
from resmem_cli.memory import DenseMemory, Residuals, TopMemory
from resmem_cli.memory_size import part_of_memory
from resmem_cli.residuals import (
    TopResiduals,
    class_dtype,
    compute_residuals,
    compute_top_residuals,
    residuals_of_top_logits,
)
from resmem_cli.residuals import check_top as check_entries
from resmem_cli.scratch import Scratch
from resmem_cli.stages.found import FoundBefore
from resmem_cli.stages.sources import EmbeddingSource
from resmem_cli.stages.streaming import query_rows, read_chosen, rows_within
from resmem_cli.tuning.sweep import Searched
from resmem_cli.tuning.tables import DenseTable, SparseTable, Table
from resmem_cli.types import Progress, ResidualSpace, row_blocks

_SMALL_BYTES = 1 << 28


@dataclass(frozen=True)
class TuningQueries:
    """Queries that settings are tried on.

    Attributes
    ----------
    searched : Searched
        With neighbours whose rows count in `memory_rows`.
    memory_rows : (u,) int64 or None
        Rows of the memory that are somebody's neighbours, rising; None for all rows.
    rows : (q,) int64 or None
        Which rows of the source the queries are; None for all.
    """

    searched: Searched
    memory_rows: NDArray[np.int64] | None
    rows: NDArray[np.int64] | None


def draw_rows(n: int, count: int, *, seed: int) -> NDArray[np.int64] | None:
    """Draw so many of n rows, rising; None where that is all of them."""
    if count >= n:
        return None
    return np.sort(np.random.default_rng(seed).choice(n, size=count, replace=False))


def search_queries(
    index: Index,
    source: EmbeddingSource,
    rows: NDArray[np.int64] | None,
    k: int,
    *,
    others: bool,
    scratch: Scratch,
    progress: Progress,
    before: FoundBefore | None = None,
) -> TuningQueries:
    """Find the neighbours of a source's rows.

    Parameters
    ----------
    index : Index
        The memory.
    source : EmbeddingSource
        With logits and labels; the memory itself if `others`.
    rows : (q,) int64 or None
        Which rows, rising; None for all.
    k : int
        How many neighbours.
    others : bool
        Leave-one-out: a row is not its own neighbour.
    scratch : Scratch
        For what is large.
    progress : Progress
    before : FoundBefore, optional
        What was found in place of a search, of one neighbour more if `others`.

    Raises
    ------
    DataError
        If a query can't be searched for.
    """
    labels = source.require_labels().astype(np.int64)
    numbers = np.arange(source.n) if rows is None else rows
    logits_in_memory = 4 * len(numbers) * source.require_logits().shape[1] <= part_of_memory(
        8, most=_SMALL_BYTES
    )
    own_scratch = Scratch() if logits_in_memory else scratch

    embeddings = read_queries(index, source, numbers, scratch=scratch)
    logits = read_chosen(source.require_logits(), numbers, scratch=own_scratch).astype(np.float32, copy=False)
    found_scratch = Scratch() if 16 * len(numbers) * k <= part_of_memory(8, most=_SMALL_BYTES) else scratch
    found_rows = found_scratch.array((len(numbers), k), np.int64)
    distances = found_scratch.array((len(numbers), k), np.float64)
    for block in progress(row_blocks(len(numbers), query_rows(index, n_classes=1, k=k)), "searching"):
        found: Neighbors
        if before is not None:
            found = before.search(block, embeddings[block])
            found = without_own(found, numbers[block]) if others else found
        elif others:
            found = search_others(index, embeddings[block], numbers[block], k)
        else:
            found = index.search(embeddings[block], k)
        found_rows[block], distances[block] = found.rows, found.distances
    memory_rows = _needed(found_rows, index.shape[0])
    searched = Searched(found_rows, distances, logits, labels[numbers])
    return TuningQueries(searched, memory_rows, rows)


def read_queries(
    index: Index, source: EmbeddingSource, numbers: NDArray[np.int64], *, scratch: Scratch
) -> NDArray[Any]:
    """Read some rows' embeddings, (q, d), by their rising numbers; raises `DataError` for unfit ones."""

    def check(read: NDArray[Any], first: int) -> None:
        with naming_file(source.path):
            check_rows(read, index.metric, first=first, what="query")

    return read_chosen(source.embeddings, numbers, scratch=scratch, check=check)


def weigh_queries(
    labels: NDArray[np.int64], class_weights: NDArray[np.float64] | None, *, balanced: bool
) -> NDArray[np.float64] | None:
    """Say how much each query counts: as its class does, or so that classes count alike; None for all alike.

    Raises
    ------
    DataError
        If none of them counts.
    """
    if balanced:
        class_weights = 1 / np.maximum(np.bincount(labels), 1)
    if class_weights is None:
        return None
    weights: NDArray[np.float64] = class_weights[labels]
    if not weights.any():
        raise DataError("no query counts: the weights of their classes are 0", expected="one above 0")
    return weights


def _needed(found: NDArray[np.int64], n: int) -> NDArray[np.int64] | None:
    """Renumber neighbours by the rows there are among them, in place, where most rows are nobody's."""
    needed = np.zeros(n, bool)
    needed[found.ravel()] = True
    count = int(needed.sum())
    if count > n // 2:
        return None
    numbers = np.cumsum(needed) - 1
    for block in row_blocks(len(found), 1 << 12):
        found[block] = numbers[found[block]]
    return np.flatnonzero(needed)


class MemoryResiduals:
    """Residuals of the memory's rows at any temperature, from its logits and labels.

    Parameters
    ----------
    source : EmbeddingSource
        The memory's embeddings, with logits and labels.
    rows : (u,) int64 or None
        Which rows are wanted, rising; None for all.
    space : ResidualSpace
    top : int or None
        How many entries of each residual to keep; None for all.
    scratch : Scratch
        For what is large.
    """

    def __init__(
        self,
        source: EmbeddingSource,
        rows: NDArray[np.int64] | None,
        *,
        space: ResidualSpace,
        top: int | None,
        scratch: Scratch,
    ) -> None:
        self._source, self._rows, self._space, self._top = source, rows, space, top
        labels = source.require_labels()
        self.labels: NDArray[np.int32] = labels if rows is None else labels[rows]
        self.n_classes = source.require_logits().shape[1]
        width = self.n_classes if top is None else top
        n_bytes = 4 * len(self.labels) * width
        self._scratch = Scratch() if n_bytes <= part_of_memory(8, most=_SMALL_BYTES) else scratch
        self._means: NDArray[np.float64] | None = None
        self._last: tuple[float | None, tuple[Table, Residuals]] | None = None

    def __call__(self, temperature: float) -> tuple[Table, Residuals]:
        """Give them all at a temperature, as they are summed and as `predict` mixes them.

        The last are kept: grids end and begin with one temperature, and in logit space all are the same.
        """
        key = None if self._space == ResidualSpace.LOGIT else temperature
        if self._last is None or self._last[0] != key:
            self._last = None  # before others take as much memory
            self._last = key, self._compute(temperature)
        return self._last[1]

    def _compute(self, temperature: float) -> tuple[Table, Residuals]:
        if self._top is not None:
            top = self._compute_top(temperature, self._top)
            return SparseTable.of_residuals(top), TopMemory(top)
        dense = self._scratch.array((len(self.labels), self.n_classes), np.float32)
        if self._space == ResidualSpace.LOGIT and self._means is None:
            self._means = self._class_means()
        for place, block, inside in self._blocks():
            logits = self._source.require_logits().read(block.start, block.stop)[inside]
            own = self.labels[place]
            if self._means is not None:
                dense[place] = compute_logit_residuals(logits, own, self._means)
            else:
                dense[place] = compute_residuals(logits, own, temperature=temperature)
        return DenseTable(dense), DenseMemory(dense)

    def _class_means(self) -> NDArray[np.float64]:
        logits, labels = self._source.require_logits(), self._source.require_labels()
        means = ClassMeans(self.n_classes)
        for block in row_blocks(len(labels), rows_within(logits.shape, np.dtype(np.float64))):
            means.update(logits.read(block.start, block.stop), labels[block])
        return means.result()

    def _compute_top(self, temperature: float, top: int) -> TopResiduals:
        classes = self._scratch.array((len(self.labels), top), class_dtype(self.n_classes))
        values = self._scratch.array((len(self.labels), top), np.uint16)
        stored = self._source.top_logits
        for place, block, inside in self._blocks():
            own = self.labels[place]
            if stored is not None:
                part = residuals_of_top_logits(stored.read(block.start, block.stop).at(inside), own, top=top)
            else:
                logits = self._source.require_logits().read(block.start, block.stop)[inside]
                part = compute_top_residuals(logits, own, top=top, temperature=temperature)
            classes[place], values[place] = part.classes, part.values
        return TopResiduals(classes, values, self.n_classes)

    def _blocks(self) -> list[tuple[slice, slice, NDArray[np.int64] | slice]]:
        """Give places among the wanted rows, the block of the source they are in, and which of it."""
        stored = self._source.top_logits
        n = self._source.n
        width = self.n_classes if stored is None else 2 * stored.n_kept
        blocks = row_blocks(n, rows_within((n, width), np.dtype(np.float32)))
        if self._rows is None:
            return [(block, block, slice(None)) for block in blocks]
        found: list[tuple[slice, slice, NDArray[np.int64] | slice]] = []
        for block in blocks:
            place = slice(*(int(i) for i in np.searchsorted(self._rows, (block.start, block.stop))))
            if place.start < place.stop:
                found.append((place, block, self._rows[place] - block.start))
        return found


def check_top(source: EmbeddingSource, top: int | None, space: ResidualSpace) -> int | None:
    """Say how many entries of each residual are to be kept: as given, or as many as the source has.

    Raises
    ------
    UsageError
        If there are no such residuals.
    DataError
        If the source has too few logits of each row.
    """
    stored = source.top_logits
    if top is not None:
        if space == ResidualSpace.LOGIT:
            raise UsageError("--top keeps entries that sum to 0", expected="--space probability")
        check_entries(top, n_classes=source.require_logits().shape[1])
    if stored is None:
        return top
    stored.require_label_logits()
    if space == ResidualSpace.LOGIT or (top or 1) > stored.n_kept:
        raise DataError(
            "has the largest logits of each row only",
            file=source.path,
            expected=f"--top up to {stored.n_kept:,}, and --space probability",
            found=f"--space {space}" if top is None else f"--top {top}",
        )
    return top or stored.n_kept
