"""Exact search by brute force, proved query by query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.indexes.base import Index, Neighbors, check_search, index_kind
from resmem_cli.indexes.proof import EXTRA_CANDIDATES, CentredMemory, nearest
from resmem_cli.types import row_blocks

# The mean is summed in blocks of this many rows, so that its bits do not depend on who reads the rows how.
_MEAN_ROWS = 4096


@index_kind("exact")
class ExactIndex(Index):
    """Every query is compared with every row; the answer is right to the last bit.

    Parameters
    ----------
    vectors : (n, d) float32 or float16
        The memory; kept, not copied. A centred float32 copy is made for the search.
    mean : (d,) float64
        The mean row.

    Raises
    ------
    DataError
        If a row holds NaN or infinity.
    """

    def __init__(self, vectors: NDArray[Any], mean: NDArray[np.float64]) -> None:
        self._mean = mean
        if not np.isfinite(mean).all():
            raise DataError("the mean row holds NaN or infinity", remedy="build the index again")
        centred = np.empty(vectors.shape, np.float32)
        largest = 0.0
        for block in row_blocks(len(vectors), _MEAN_ROWS):
            finite = np.isfinite(vectors[block]).all(axis=1)
            if not finite.all():
                row = block.start + int(np.argmin(finite))
                raise DataError(f"row {row:,} holds NaN or infinity", remedy="remove or repair it")
            centred[block] = self._centre(vectors[block])
            squares = np.einsum("nd,nd->n", centred[block], centred[block], dtype=np.float64)
            largest = max(largest, float(squares.max()))
        self._memory = CentredMemory(vectors, centred, largest**0.5)

    @classmethod
    def build(cls, vectors: NDArray[Any]) -> Self:
        """Build the index of (n, d) float vectors, finite, n ≥ 1."""
        return cls(vectors, mean_row(vectors))

    @classmethod
    def from_datasets(cls, datasets: Mapping[str, NDArray[Any]]) -> Self:
        """Build the index from `vectors` and `mean`."""
        return cls(datasets["vectors"], datasets["mean"])

    def datasets(self) -> dict[str, NDArray[Any]]:
        """Give `vectors` and `mean`."""
        return {"vectors": self._memory.vectors, "mean": self._mean}

    @property
    def shape(self) -> tuple[int, int]:
        """`(n, d)`."""
        n, d = self._memory.vectors.shape
        return n, d

    def search(self, queries: NDArray[Any], k: int) -> Neighbors:
        """Find the k nearest rows of each query, by (distance, row); see `Index.search`."""
        check_search(queries, k, shape=self.shape)
        centred = self._centre(queries)
        with _matrix_products():
            squares, rows = faiss.knn(centred, self._memory.centred, min(k + EXTRA_CANDIDATES, self.shape[0]))
        return nearest(queries, centred, rows, squares, k, memory=self._memory)

    def _centre(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            centred: NDArray[np.float32] = np.subtract(rows, self._mean, dtype=np.float64).astype(np.float32)
        return centred


def mean_row(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Compute the mean of (n, d) rows in float64, always in the same blocks of rows."""
    total = np.zeros(vectors.shape[1], np.float64)
    for block in row_blocks(len(vectors), _MEAN_ROWS):
        total += vectors[block].sum(axis=0, dtype=np.float64)
    return total / len(vectors)


@contextmanager
def _matrix_products() -> Iterator[None]:
    """Let faiss use matrix products for small batches too, and its reservoir for some tens of neighbours.

    Its own thresholds (128,000 query elements; k ≥ 100) made 1,000 queries 6.7 times slower, and k + 32
    about a tenth.
    """
    values = {"distance_compute_blas_threshold": 2_000, "distance_compute_min_k_reservoir": 50}
    before = {name: getattr(faiss.cvar, name) for name in values}
    try:
        for name, value in values.items():
            setattr(faiss.cvar, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(faiss.cvar, name, value)
