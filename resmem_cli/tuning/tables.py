"""What is summed over neighbours: residuals or labels of the memory's rows, for a few queries at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from resmem_cli.residuals import TopResiduals, decode_values

_NOWHERE = np.float32(-np.inf)


@dataclass(frozen=True)
class Terms:
    """The vectors of some queries' neighbours, in the columns that matter.

    Attributes
    ----------
    values : (b, K, u) float32
        One vector a neighbour.
    own : (b,) int64
        The column of each query's own class.
    columns : (b, u) int64 or None
        The class of each column, −1 for none; None where the columns are all classes. The last column
        stands for all classes that have no column: it holds the best of them.
    """

    values: NDArray[np.float32]
    own: NDArray[np.int64]
    columns: NDArray[np.int64] | None = None

    def of(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take these columns of the network's (b, C) scores; −∞ where a column has no class."""
        if self.columns is None:
            return scores
        taken = np.take_along_axis(scores, np.maximum(self.columns, 0), axis=1)
        taken[self.columns < 0] = _NOWHERE
        rest = scores.copy()
        inside = self.columns >= 0
        rest[np.nonzero(inside)[0], self.columns[inside]] = _NOWHERE
        taken[:, -1] = rest.max(axis=1)
        return taken


class Table(Protocol):
    """A vector for each row of the memory."""

    @property
    def n_classes(self) -> int:
        """`C`."""

    @property
    def largest(self) -> float:
        """The largest size of an entry."""

    def terms(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> Terms:
        """Give the vectors of (b, K) rows for queries of (b,) classes."""


@dataclass(frozen=True)
class DenseTable:
    """Vectors with an entry for every class.

    Attributes
    ----------
    vectors : (n, C) float32
    """

    vectors: NDArray[np.float32]

    @cached_property
    def largest(self) -> float:
        """The largest size of an entry."""
        return float(max(self.vectors.max(), -self.vectors.min()))

    @property
    def n_classes(self) -> int:
        """`C`."""
        return int(self.vectors.shape[1])

    def terms(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> Terms:
        """Give the vectors of (b, K) rows; see `Table.terms`."""
        return Terms(self.vectors.take(rows, axis=0), labels)


@dataclass(frozen=True)
class SparseTable:
    """Vectors of which a few entries are stored, the others being 0.

    Attributes
    ----------
    classes : (n, m) integers
        Which entries.
    values : (n, m) uint16 or None
        As `TopResiduals` stores them; None where the entries are 1.
    n_classes : int
        `C`.
    """

    classes: NDArray[np.generic]
    values: NDArray[np.uint16] | None
    n_classes: int

    @property
    def largest(self) -> float:
        """The largest size of an entry."""
        return 1.0

    @classmethod
    def of_residuals(cls, top: TopResiduals) -> SparseTable:
        """Take stored residuals."""
        return cls(top.classes, top.values, top.n_classes)

    @classmethod
    def of_labels(cls, labels: NDArray[np.int32], n_classes: int) -> SparseTable:
        """Take one vote for each row's class."""
        return cls(labels[:, None], None, n_classes)

    def terms(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> Terms:
        """Give the vectors of (b, K) rows in the classes that these or the queries' own have."""
        b, k = rows.shape
        classes = self.classes[rows].reshape(b, -1).astype(np.int64)
        classes = np.concatenate([classes, labels[:, None]], axis=1)
        keys = classes + np.arange(b)[:, None] * self.n_classes
        distinct, places = np.unique(keys, return_inverse=True)
        query = distinct // self.n_classes
        counts = np.bincount(query, minlength=b)
        firsts = np.cumsum(counts) - counts
        places = places.reshape(classes.shape) - firsts[:, None]
        width = int(counts.max())
        columns = np.full((b, width + 1), -1, np.int64)
        columns[query, np.arange(len(distinct)) - firsts[query]] = distinct % self.n_classes
        own, places = places[:, -1].copy(), places[:, :-1].reshape(b, k, -1)
        values = np.zeros((b, k, width + 1), np.float32)
        stored = np.float32(1) if self.values is None else decode_values(self.values[rows])
        values[np.arange(b)[:, None, None], np.arange(k)[:, None], places] = stored
        return Terms(values, own, columns)
