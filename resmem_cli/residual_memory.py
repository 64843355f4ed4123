"""The whole method on arrays already in memory: for notebooks and other programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.indexes.base import Index, Neighbors
from resmem_cli.indexes.exact import ExactIndex
from resmem_cli.indexes.scale import measure_distance_scale
from resmem_cli.memory import DenseMemory
from resmem_cli.prediction import Prediction, predict_from_neighbors
from resmem_cli.residuals import compute_residuals
from resmem_cli.types import Method
from resmem_cli.weights import default_sigma


@dataclass(frozen=True)
class ResidualMemory:
    """A memory of training examples and what the network got wrong on them.

    Attributes
    ----------
    index : Index
        Finds the neighbours.
    residuals : (n, C) float32
        Of the memory's rows.
    labels : (n,) int32
        Their classes.
    temperature : float
        Of the residuals, and so of the predictions.
    distance_scale : float
        Median distance from memory rows to their 53rd other neighbour; the default sigma is 0.18 × it.

    Examples
    --------
    >>> import numpy as np
    >>> embeddings = np.array([[0.0], [1.0], [9.0]], np.float32)
    >>> logits = np.zeros((3, 2), np.float32)
    >>> memory = ResidualMemory.fit(embeddings, logits, np.array([0, 0, 1]))
    >>> memory.predict(np.array([[8.0]], np.float32), np.array([[0.1, 0.0]], np.float32), k=1).predicted
    array([1], dtype=int32)
    """

    index: Index
    residuals: NDArray[np.float32]
    labels: NDArray[np.int32]
    temperature: float
    distance_scale: float

    @classmethod
    def fit(
        cls, embeddings: NDArray[Any], logits: NDArray[Any], labels: NDArray[Any], *, temperature: float = 1.4
    ) -> Self:
        """Remember training examples.

        Parameters
        ----------
        embeddings : (n, d) floats
            `φ(x)`, finite.
        logits : (n, C) floats
            `f(x)`.
        labels : (n,) integers
            In [0, C).
        temperature : float
            Above 0.

        Raises
        ------
        UsageError
            If the temperature is out of range.
        DataError
            If the arrays do not fit together or are not finite.
        """
        embeddings, logits, labels = np.asarray(embeddings), np.asarray(logits), np.asarray(labels)
        if not len(embeddings) == len(logits) == len(labels) > 0 or embeddings.ndim != 2:
            raise DataError(
                "arrays do not fit together",
                expected="(n, d), (n, C) and (n,)",
                found=f"{embeddings.shape}, {logits.shape} and {labels.shape}",
            )
        residuals = compute_residuals(_as_float32(logits, "logits"), labels, temperature=temperature)
        index = ExactIndex.build(_as_float32(embeddings, "embeddings"))
        scale = measure_distance_scale(index)["median"]
        return cls(index, residuals, labels.astype(np.int32), temperature, scale)

    def neighbors(self, embeddings: NDArray[Any], *, k: int = 53) -> Neighbors:
        """Find the k nearest remembered examples of each row of (n_queries, d) embeddings."""
        return self.index.search(_as_float32(embeddings, "embeddings"), k)

    def predict(
        self,
        embeddings: NDArray[Any],
        logits: NDArray[Any],
        *,
        k: int = 53,
        sigma: float | None = None,
        method: Method = Method.RESMEM,
    ) -> Prediction:
        """Predict queries from their (n_queries, d) embeddings and (n_queries, C) logits.

        Parameters
        ----------
        embeddings, logits : floats
            What the network makes of the queries.
        k : int
            Neighbours, at most n.
        sigma : float, optional
            Unit of distance of the weights.
        method : Method
            Whose scores to give.

        Raises
        ------
        UsageError
            If k or sigma is out of range, or the memory has no distance scale to take sigma from.
        DataError
            If the arrays have other dimensions than the memory's, or are not finite.
        """
        embeddings, logits = np.asarray(embeddings), np.asarray(logits)
        if logits.shape != (len(embeddings), self.residuals.shape[1]):
            raise DataError(
                "logits do not fit the memory",
                expected=(len(embeddings), self.residuals.shape[1]),
                found=logits.shape,
            )
        found = self.neighbors(embeddings, k=k)
        return predict_from_neighbors(
            _as_float32(logits, "logits"),
            rows=found.rows,
            distances=found.distances,
            neighbor_labels=self.labels[found.rows],
            residuals=DenseMemory(self.residuals),
            sigma=default_sigma(self.distance_scale) if sigma is None else sigma,
            temperature=self.temperature,
            method=method,
        )


def _as_float32(values: NDArray[Any], name: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(values, np.float32)
    finite = np.isfinite(cast).all(axis=tuple(range(1, cast.ndim)))
    if not finite.all():
        raise DataError(
            f"row {int(np.argmin(finite)):,} of the {name} is not finite in float32",
            remedy="remove or repair it",
        )
    return cast
