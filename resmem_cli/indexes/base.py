"""What every kind of index offers, and the registry of kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError
from resmem_cli.indexes.space import Space, check_rows
from resmem_cli.memory_size import DEFAULT_MEMORY
from resmem_cli.registry import import_modules
from resmem_cli.rows import RandomRows
from resmem_cli.scratch import Scratch
from resmem_cli.types import Metric, Progress, no_progress


@dataclass(frozen=True)
class Neighbors:
    """The nearest memory rows of a batch of queries, by (distance, row).

    Attributes
    ----------
    rows : (n_queries, k) int64
        Memory rows; never −1.
    distances : (n_queries, k) float64
        True distances in the index's metric, computed in float64 from the original vectors.
    steps : mapping of str to int
        How many queries were answered by each step of the search, in the order of the steps.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float64]
    steps: Mapping[str, int] = field(default_factory=dict)

    @property
    def n_scanned(self) -> int:
        """How many queries had to be compared with all rows by true distances."""
        return self.steps.get(SCANNED, 0)


SCANNED = "scan"
"""The step of those queries whose answer nothing cheaper proved."""


@dataclass(frozen=True)
class Build:
    """What a build may use, and how it goes on.

    Attributes
    ----------
    metric : Metric
        Of the distances.
    seed : int
        Of every sample drawn.
    memory : int
        Bytes of anonymous memory to stay within.
    scratch : Scratch
        Makes arrays larger than that.
    quality : QualityTarget or None
        What recall an approximate index is to reach; None to leave its quality unmeasured.
    progress : Progress
        Shows how far the rows have come.
    """

    metric: Metric = Metric.EUCLIDEAN
    seed: int = 0
    memory: int = DEFAULT_MEMORY
    scratch: Scratch = field(default_factory=Scratch)
    quality: QualityTarget | None = None
    progress: Progress = no_progress


@dataclass(frozen=True)
class QualityTarget:
    """What recall is measured and wanted.

    Attributes
    ----------
    recall : float
        Share of the true k nearest rows to find, in (0, 1].
    k : int
        Neighbours of a query.
    queries : int
        Rows to hold out as queries.
    given : (m, d) floats or None
        Queries to measure with instead, which are no rows of the memory.
    """

    recall: float = 0.95
    k: int = 53
    queries: int = 1000
    given: NDArray[Any] | None = field(default=None, compare=False)


class Index(ABC):
    """A searchable memory of embeddings.

    A kind of index is one module of this package with one subclass, registered by `index_kind`.

    Attributes
    ----------
    kind : str
        Its name.
    exact : bool
        Whether every answer is proved to be the k nearest rows.
    parameter_names : tuple of str
        What `build` takes as parameters.
    space : Space
        Metric, mean and axes of the searched rows.
    vectors : RandomRows
        (n, d) float32 or float16: the embeddings as they were; distances are taken from these.
    """

    kind: ClassVar[str]
    exact: ClassVar[bool] = False
    parameter_names: ClassVar[tuple[str, ...]]
    space: Space
    vectors: RandomRows

    @classmethod
    @abstractmethod
    def check_parameters(cls, parameters: Mapping[str, Any], *, n: int, d: int) -> None:
        """Check the parameters given to `build` for n rows of d dimensions.

        Raises
        ------
        UsageError
            If one is unknown or out of range.
        """

    @classmethod
    @abstractmethod
    def build(
        cls,
        vectors: NDArray[Any] | RandomRows,
        *,
        parameters: Mapping[str, Any] | None = None,
        build: Build | None = None,
    ) -> Self:
        """Build the index of (n, d) vectors, n ≥ 1.

        Parameters
        ----------
        vectors : (n, d) float32 or float16
            Kept, not copied; read in blocks.
        parameters : mapping, optional
            Of the kind, by name; what is missing is chosen from n, d and the memory.
        build : Build, optional
            Metric, seed, memory.

        Raises
        ------
        DataError
            If a row is not finite or, with cosine, all zeros.
        UsageError
            If a parameter is unknown or out of range.
        """

    @classmethod
    @abstractmethod
    def load(cls, datasets: Mapping[str, RandomRows], parameters: Mapping[str, Any]) -> Self:
        """Make the index from what `datasets` and `parameters` gave.

        Raises
        ------
        DataError
            If they do not fit together.
        """

    @abstractmethod
    def datasets(self) -> dict[str, RandomRows]:
        """Give everything that has to be stored, by the dataset names of the index format."""

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Give what `load` needs besides, as JSON values; `metric` is among them."""

    @abstractmethod
    def updated(
        self, vectors: RandomRows, kept: NDArray[np.int64], *, build: Build | None = None
    ) -> tuple[Self, tuple[str, ...]]:
        """Make the index of a changed memory.

        Parameters
        ----------
        vectors : (m, d)
            All rows of the new memory: this memory's rows `kept`, then the added ones.
        kept : (n_kept,) int64
            Rows of this memory, ascending.
        build : Build, optional
            As in `build`; the metric stays.

        Returns
        -------
        index, notices
            The new index, in which nothing of the rows that were not kept is left, and what the user
            should know, such as that the kind had to be built anew.
        """

    @property
    def shape(self) -> tuple[int, int]:
        """`(n, d)`: rows of the memory, and their dimension."""
        n, d = self.vectors.shape
        return n, d

    @property
    def metric(self) -> Metric:
        """Of the distances."""
        return self.space.metric

    @abstractmethod
    def search(self, queries: NDArray[Any], k: int) -> Neighbors:
        """Find the k nearest rows of each query, or most of them if the kind is approximate.

        Parameters
        ----------
        queries : (n_queries, d) floats
            Finite.
        k : int
            From 1 to n.

        Raises
        ------
        UsageError
            If k is out of range.
        DataError
            If the queries have another dimension, are not finite or, with cosine, all zeros.
        """


_KINDS: dict[str, type[Index]] = {}
_Kind = TypeVar("_Kind", bound=type[Index])


def index_kind(name: str) -> Callable[[_Kind], _Kind]:
    """Register a subclass of `Index` under its name."""

    def register(kind: _Kind) -> _Kind:
        kind.kind = name
        _KINDS[name] = kind
        return kind

    return register


def index_kinds() -> dict[str, type[Index]]:
    """Give every kind of index, by name."""
    import_modules(__name__.rpartition(".")[0])
    return dict(_KINDS)


def check_search(queries: NDArray[Any], k: int, *, index: Index) -> None:
    """Check the arguments of a search; raises as `Index.search` does."""
    n, d = index.shape
    if not 1 <= k <= n:
        raise UsageError("k out of range", expected=f"1 to {n:,} (the memory's rows)", found=f"{k:,}")
    if queries.ndim != 2 or queries.shape[1] != d:
        raise DataError("queries of another dimension", expected=f"(n_queries, {d})", found=queries.shape)
    check_rows(queries, index.metric, what="query")


def search_others(index: Index, queries: NDArray[Any], own_rows: NDArray[np.int64], k: int) -> Neighbors:
    """Find the k nearest rows other than the query's own: leave-one-out.

    The own row is left out by its number, not by its distance, so identical rows stay.

    Parameters
    ----------
    queries : (n_queries, d) floats
        Rows of the memory.
    own_rows : (n_queries,) int64
        Their row numbers.
    k : int
        From 1 to n − 1.

    Raises
    ------
    UsageError
        If k is out of range.
    DataError
        If the queries have another dimension, or are not finite.
    """
    n = index.shape[0]
    if not 1 <= k < n:
        raise UsageError(
            "k out of range", expected=f"1 to {n - 1:,} (the memory's other rows)", found=f"{k:,}"
        )
    return without_own(index.search(queries, k + 1), own_rows)


def without_own(found: Neighbors, own_rows: NDArray[np.int64]) -> Neighbors:
    """Leave each query's own row out of its k + 1 neighbours, or else the last of them."""
    k = found.rows.shape[1] - 1
    own = found.rows == own_rows[:, None]
    # Where more than k twins precede it, the own row is not among the k + 1: then the last one goes.
    own[~own.any(axis=1), -1] = True
    others = ~own
    return Neighbors(
        rows=found.rows[others].reshape(-1, k),
        distances=found.distances[others].reshape(-1, k),
        steps=found.steps,
    )
