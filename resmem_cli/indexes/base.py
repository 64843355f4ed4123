"""What every kind of index offers, and the registry of kinds."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError


@dataclass(frozen=True)
class Neighbors:
    """The nearest memory rows of a batch of queries, by (distance, row).

    Attributes
    ----------
    rows : (n_queries, k) int64
        Memory rows; never −1.
    distances : (n_queries, k) float64
        Euclidean, not squared: differences and squares taken in float64 from the original vectors.
    n_scanned : int
        How many queries had to be scanned because rounding left their answer unproved.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float64]
    n_scanned: int = 0


class Index(ABC):
    """A searchable memory of embeddings.

    A kind of index is one module of this package with one subclass, registered by `index_kind`.
    """

    kind: ClassVar[str]

    @classmethod
    @abstractmethod
    def build(cls, vectors: NDArray[Any]) -> Self:
        """Build the index of (n, d) float vectors, finite, n ≥ 1."""

    @classmethod
    @abstractmethod
    def from_datasets(cls, datasets: Mapping[str, NDArray[Any]]) -> Self:
        """Build the index from what `datasets` gave."""

    @abstractmethod
    def datasets(self) -> dict[str, NDArray[Any]]:
        """Give everything that has to be stored, by the dataset names of the index format."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """`(n, d)`: rows of the memory, and their dimension."""

    @abstractmethod
    def search(self, queries: NDArray[Any], k: int) -> Neighbors:
        """Find the k nearest rows of each query.

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
            If the queries have another dimension, or are not finite.
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
    package = importlib.import_module(__package__ or "")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    return dict(_KINDS)


def check_search(queries: NDArray[Any], k: int, *, shape: tuple[int, int]) -> None:
    """Check the arguments of a search against the memory's `(n, d)`; raises as `Index.search` does."""
    n, d = shape
    if not 1 <= k <= n:
        raise UsageError("k out of range", expected=f"1 to {n:,} (the memory's rows)", found=f"{k:,}")
    if queries.ndim != 2 or queries.shape[1] != d:
        raise DataError("queries of another dimension", expected=f"(n_queries, {d})", found=queries.shape)
    finite = np.isfinite(queries).all(axis=1)
    if not finite.all():
        raise DataError(
            f"query {int(np.argmin(finite)):,} holds NaN or infinity", remedy="remove or repair it"
        )


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
    found = index.search(queries, k + 1)
    own = found.rows == own_rows[:, None]
    # Where more than k twins precede it, the own row is not among the k + 1: then the last one goes.
    own[~own.any(axis=1), -1] = True
    others = ~own
    return Neighbors(
        rows=found.rows[others].reshape(-1, k),
        distances=found.distances[others].reshape(-1, k),
        n_scanned=found.n_scanned,
    )
