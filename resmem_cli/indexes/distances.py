"""True distances: differences and squares taken in float64 from the original vectors."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.indexes.one_thread import one_faiss_thread
from resmem_cli.indexes.space import directions, sum_squares
from resmem_cli.rows import RandomRows, as_rows
from resmem_cli.threads import for_each_block
from resmem_cli.types import Metric, row_blocks

_BLOCK_ELEMENTS = 1 << 16  # float64 differences at a time, to stay in the processor's cache
_PART_ELEMENTS = (
    1 << 20
)  # of one query, however many its candidates; threads meet too often over smaller parts
_ROUGH_ELEMENTS = 1 << 22  # float32 differences that are worth the start of a thread
_UNIT = 2.0**-24  # half the distance from 1 to the next float32
_LARGEST = float(np.finfo(np.float32).max)


def true_distances(
    queries: NDArray[Any],
    rows: NDArray[np.int64],
    *,
    vectors: RandomRows | NDArray[Any],
    metric: Metric = Metric.EUCLIDEAN,
) -> NDArray[np.float64]:
    """Compute distances by differences, in float64.

    Parameters
    ----------
    queries : (n_queries, d) floats
        Query vectors.
    rows : (n_queries, m) int64
        The rows of `vectors` to compare each query with; −1 for none.
    vectors : (n, d) floats
        The memory.
    metric : Metric
        With cosine, half the squared distance of the rows divided by their norms.

    Returns
    -------
    (n_queries, m) float64
        The same bits for a pair of vectors whatever stands beside it; infinite for a row of −1.
    """
    n_queries, m = rows.shape
    memory, places = _array_of(as_rows(vectors), rows)
    distances = np.empty((n_queries, m), np.float64)
    step = max(1, _BLOCK_ELEMENTS // max(1, m * memory.shape[1]))
    columns = row_blocks(m, max(1, _PART_ELEMENTS // memory.shape[1]))
    points = directions(queries) if metric == Metric.COSINE else queries.astype(np.float64)

    def compare(block: slice) -> None:
        for part in columns:
            # Four times faster than memory[rows] for short rows.
            found = memory.take(places[block, part], axis=0)
            differences = directions(found) if metric == Metric.COSINE else found.astype(np.float64)
            differences -= points[block, None, :]
            distances[block, part] = sum_squares(differences)

    for_each_block(compare, row_blocks(n_queries, step))
    if metric == Metric.COSINE:
        distances /= 2
    else:
        np.sqrt(distances, out=distances)
    distances[rows < 0] = np.inf
    return distances


def straight(distances: NDArray[np.float64], metric: Metric) -> NDArray[np.float64]:
    """Turn distances into Euclidean ones: with cosine, of the rows divided by their norms."""
    return np.sqrt(2 * distances) if metric == Metric.COSINE else distances


def rough_squares(
    queries: NDArray[Any], rows: NDArray[np.int64], *, vectors: RandomRows, metric: Metric
) -> tuple[NDArray[np.float64], float]:
    """Compute squares of `straight` distances as fast as can be, with a bound of their error.

    Parameters
    ----------
    queries, rows, vectors, metric
        As for `true_distances`.

    Returns
    -------
    squares : (n_queries, m) float64
        Infinite for a row of −1.
    error : float
        A square is off by at most this share of it, and by less than 2⁻¹⁰⁰ besides. Where float32 has no
        square so large, its largest number is given.
    """
    memory, places = _array_of(vectors, rows)
    d = memory.shape[1]
    plain = memory.dtype == np.float32 and memory.flags.c_contiguous and memory.flags.aligned
    if metric == Metric.COSINE or not plain or queries.dtype not in (np.float16, np.float32):
        distances = true_distances(queries, rows, vectors=vectors, metric=metric)
        return np.square(straight(distances, metric)), (d + 16) * 2.0**-52
    squares = np.empty(rows.shape, np.float32)
    points, places = np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(places)

    def compare(block: slice) -> None:
        parts = (squares[block], points[block], memory, places[block])
        with one_faiss_thread():
            faiss.fvec_L2sqr_by_idx(*map(faiss.swig_ptr, parts), d, *places[block].shape)

    for_each_block(compare, row_blocks(len(rows), max(1, _ROUGH_ELEMENTS // max(1, rows.shape[1] * d))))
    wide = np.minimum(squares, _LARGEST, dtype=np.float64)
    wide[rows < 0] = np.inf
    # A difference, its square and a sum of d such are each rounded.
    return wide, (d + 8) * _UNIT


def _array_of(vectors: RandomRows, rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Give an array that holds some rows, and where in it they are; those of −1 stay so."""
    memory = vectors.at(rows)
    if isinstance(memory, np.ndarray):
        return memory, rows
    wanted, places = np.unique(rows, return_inverse=True)
    return memory.take(wanted), np.where(rows < 0, -1, places.reshape(rows.shape))
