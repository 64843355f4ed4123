"""A memory in shards, each with an index of its own: searched one after the other, and answered as one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError
from resmem_cli.indexes.approximate import ApproximateIndex
from resmem_cli.indexes.base import Build, Index, Neighbors, check_search
from resmem_cli.indexes.distances import true_distances
from resmem_cli.indexes.exact import ExactIndex
from resmem_cli.indexes.inverted import InvertedIndex
from resmem_cli.indexes.list_shards import check_alike
from resmem_cli.indexes.searched import Engine
from resmem_cli.rows import ConcatenatedRandomRows, RandomRows


class _Sharded(Index, ABC):
    """What is the same for every kind: the shards' rows follow each other, and nothing is built or stored."""

    shards: Sequence[Index]

    @classmethod
    def check_parameters(cls, parameters: Mapping[str, Any], *, n: int, d: int) -> None:
        """Refuse: shards are built one by one."""
        _refuse()

    @classmethod
    def build(
        cls,
        vectors: NDArray[Any] | RandomRows,
        *,
        parameters: Mapping[str, Any] | None = None,
        build: Build | None = None,
    ) -> Self:
        """Refuse: shards are built one by one."""
        _refuse()

    @classmethod
    def load(cls, datasets: Mapping[str, RandomRows], parameters: Mapping[str, Any]) -> Self:
        """Refuse: `sharded_index` makes one of loaded shards."""
        _refuse()

    def datasets(self) -> dict[str, RandomRows]:
        """Give nothing: the shards are stored."""
        return {}

    def updated(
        self, vectors: RandomRows, kept: NDArray[np.int64], *, build: Build | None = None
    ) -> tuple[Self, tuple[str, ...]]:
        """Refuse: shards are not changed."""
        _refuse()

    def _join(self, shards: Sequence[Index]) -> None:
        self.shards = shards
        self.space = shards[0].space
        self._rows = ConcatenatedRandomRows([shard.vectors for shard in shards])
        self.vectors = self._rows

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first row of each shard."""
        return self._rows.starts[:-1]

    @abstractmethod
    def search_shard(self, number: int, queries: NDArray[Any], k: int) -> Part:
        """Search one shard for what `merge_parts` needs of it, to find k neighbours in all."""


class Part:
    """What one shard, or several, have for each query.

    Parameters
    ----------
    rows : (n_queries, c) int64
        Rows of the whole memory; −1 for none.
    distances : (n_queries, c) float64
        True ones; infinite for none.
    squares : (n_queries, c) float32 or None
        Squared distances of their codes, by which an approximate kind chooses its candidates.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        distances: NDArray[np.float64],
        squares: NDArray[np.float32] | None = None,
    ) -> None:
        self.rows, self.distances, self.squares = rows, distances, squares


class ShardedExact(_Sharded):
    """Exact search: the k nearest rows of each shard hold those of the memory.

    Parameters
    ----------
    shards : sequence of ExactIndex
        Of one metric.
    """

    kind = "exact"
    exact = True
    parameter_names = ExactIndex.parameter_names

    def __init__(self, shards: Sequence[ExactIndex]) -> None:
        self._join(shards)

    @property
    def engine(self) -> Engine:
        """What finds the candidates in every shard."""
        return self._exact[0].engine

    @engine.setter
    def engine(self, engine: Engine) -> None:
        for shard in self._exact:
            shard.engine = engine

    @property
    def _exact(self) -> Sequence[ExactIndex]:
        return [shard for shard in self.shards if isinstance(shard, ExactIndex)]

    def parameters(self) -> dict[str, Any]:
        """Give the metric."""
        return {"metric": str(self.metric)}

    def search(self, queries: NDArray[Any], k: int) -> Neighbors:
        """Find the k nearest rows of each query, by (distance, row); see `Index.search`."""
        check_search(queries, k, index=self)
        found = Part(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0)))
        for number in range(len(self.shards)):
            found = merge_parts(self, [found, self.search_shard(number, queries, k)], k)
        steps = {f"{len(self.shards):,} shards": len(queries)}
        return Neighbors(rows=found.rows, distances=found.distances, steps=steps)

    def search_shard(self, number: int, queries: NDArray[Any], k: int) -> Part:
        """Give a shard's k nearest rows, or all of its rows."""
        shard = self.shards[number]
        found = shard.search(queries, min(k, shard.shape[0]))
        return Part(found.rows + self.starts[number], found.distances)


class ShardedInverted(ApproximateIndex, _Sharded):
    """Inverted lists of the same centres in every shard: the candidates are those of one memory.

    Parameters
    ----------
    shards : sequence of InvertedIndex
        Of one kind, with the same centres and codes.
    datasets, parameters
        What was measured of all together: the curve, and the effort, as `ApproximateIndex.load_measured`
        takes them.

    Raises
    ------
    DataError
        If the shards do not have the same centres and codes.
    """

    parameter_names = ()

    def __init__(
        self,
        shards: Sequence[InvertedIndex],
        datasets: Mapping[str, RandomRows],
        parameters: Mapping[str, Any],
    ) -> None:
        self._join(shards)
        self._first = shards[0]
        self.reranks = shards[0].reranks
        check_alike(shards)
        self.load_measured(datasets, parameters)

    # What other kinds say of a class is here that of the shards: mypy takes it for a change of type.
    @property
    def kind(self) -> str:  # type: ignore[override]
        """Of the shards."""
        return self._first.kind

    @property
    def probe_name(self) -> str:  # type: ignore[override]
        """Of the shards' kind."""
        return self._first.probe_name

    @property
    def probes(self) -> tuple[int, ...]:
        """Those of the lists, which all shards share."""
        return self._first.probes

    @property
    def code_bytes(self) -> int:
        """Bytes of one row's code."""
        return self._first.code_bytes

    def parameters(self) -> dict[str, Any]:
        """Give metric, effort, and the settings of the shards."""
        return {**self.common_parameters(), **self._first.settings}

    def build_parameters(self, n: int) -> dict[str, Any]:
        """Refuse: shards are not changed."""
        _refuse()

    def grown(self, vectors: RandomRows, *, build: Build) -> tuple[Self, tuple[str, ...]]:
        """Refuse: shards are not changed."""
        _refuse()

    def candidates(
        self, searched_queries: NDArray[np.float32], count: int, *, probe: int
    ) -> tuple[NDArray[np.int64], float]:
        """Give the rows whose codes are nearest in all shards; see `ApproximateIndex.candidates`."""
        found = _none(len(searched_queries))
        compared = 0.0
        for number in range(len(self.shards)):
            rows, squares, more = self._codes(number, searched_queries, count, probe=probe)
            compared += more
            found = _first([found, Part(rows, squares.astype(np.float64), squares)], count, by=_by_squares)
        return found.rows, compared

    def search_shard(self, number: int, queries: NDArray[Any], k: int) -> Part:
        """Give a shard's candidates, with their true distances."""
        shard = self.shards[number]
        count = min(self.shape[0], k * self.effort.rerank)
        rows, squares, _ = self._codes(number, self.space.searched(queries), count, probe=self.effort.probe)
        own = np.where(rows < 0, -1, rows - self.starts[number])
        distances = true_distances(queries, own, vectors=shard.vectors, metric=self.metric)
        return Part(rows, distances, squares)

    def _codes(
        self, number: int, searched: NDArray[np.float32], count: int, *, probe: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], float]:
        shard = self.shards[number]
        assert isinstance(shard, InvertedIndex)
        rows, squares, compared = shard.nearest_codes(searched, min(count, shard.shape[0]), probe=probe)
        return np.where(rows < 0, -1, rows + self.starts[number]), squares, compared


Sharded = ShardedExact | ShardedInverted


def sharded_index(
    shards: Sequence[Index], datasets: Mapping[str, RandomRows], parameters: Mapping[str, Any]
) -> Sharded:
    """Make one index of loaded shards, whose rows follow each other.

    Parameters
    ----------
    shards : sequence of Index
        Of one kind that can be cut in shards.
    datasets, parameters
        What was measured of all together, for approximate kinds.

    Raises
    ------
    DataError
        If they do not belong together.
    """
    kinds = sorted({shard.kind for shard in shards})
    if len(kinds) > 1 or len({shard.metric for shard in shards}) > 1:
        raise DataError("shards of several kinds or metrics", found=" and ".join(kinds))
    exact = [shard for shard in shards if isinstance(shard, ExactIndex)]
    inverted = [shard for shard in shards if isinstance(shard, InvertedIndex)]
    if len(exact) == len(shards):
        return ShardedExact(exact)
    if len(inverted) == len(shards):
        return ShardedInverted(inverted, datasets, parameters)
    raise DataError(f"an index of kind {kinds[0]} can't be in shards", expected="exact, or an ivf kind")


def merge_parts(index: Index, parts: Sequence[Part], k: int) -> Part:
    """Give the k nearest rows of those found in all shards of an index, which itself may be in one piece.

    By (distance, row); of an approximate kind only those that are candidates among all rows too, and −1
    where these are fewer.
    """
    if isinstance(index, ApproximateIndex):
        count = min(index.shape[0], k * index.effort.rerank)
        parts = [_first(parts, count, by=_by_squares)]
    return _first(parts, k, by=lambda part: part.distances)


def _none(n_queries: int) -> Part:
    return Part(
        np.empty((n_queries, 0), np.int64), np.empty((n_queries, 0)), np.empty((n_queries, 0), np.float32)
    )


def _by_squares(part: Part) -> NDArray[Any]:
    assert part.squares is not None
    return part.squares


def _first(parts: Sequence[Part], count: int, *, by: Callable[[Part], NDArray[Any]]) -> Part:
    """Give the first `count` rows of each query by (key, row); those of −1, whose keys are infinite, last."""
    rows = np.concatenate([part.rows for part in parts], axis=1)
    keys = np.concatenate([by(part) for part in parts], axis=1)
    order = np.lexsort((rows, keys), axis=1)[:, :count]
    distances = np.concatenate([part.distances for part in parts], axis=1)
    squares = None
    if all(part.squares is not None for part in parts):
        squares = np.concatenate([_by_squares(part) for part in parts], axis=1)
        squares = np.take_along_axis(squares, order, axis=1)
    return Part(
        np.take_along_axis(rows, order, axis=1), np.take_along_axis(distances, order, axis=1), squares
    )


def _refuse() -> NoReturn:
    raise UsageError("not for an index in shards", remedy="resmem merge makes one file of them")
