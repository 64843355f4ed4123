"""What RaBitQ codes of several bits say of a distance by their signs alone (Gao et al. 2024)."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.indexes.lists import MappedLists
from resmem_cli.types import row_blocks

_BLOCK_ELEMENTS = 1 << 18  # coordinates of candidates looked at together, which the cache holds
_FACTORS = 3  # float32 after the signs: the square of the row's norm, the signs' scale, the error's bound
_UNIT = 2.0**-24
_UNSURE = 1e-3  # so near to a half a number may be rounded to either side


class LowerBounds:
    """The squared distances below which faiss does not look at the sizes of a row's coordinates.

    faiss first estimates a row's distance from the signs of its coordinates. It leaves the row out if the
    estimate less the bound of its error is beyond the farthest row that it has by then. The bound holds for
    most rows only, so which rows are left out depends on what was scanned before: on the other rows. Where
    the distance of a row is taken to be no less than this lower bound, a row that was left out is beyond
    the farthest for certain, and the nearest rows are the same in one memory and in its shards.

    Parameters
    ----------
    lists : MappedLists
        Codes of several bits.
    centres : (l, d) float32
        Of the lists.
    query_bits : int
        Bits to which faiss rounds a coordinate of a query when it looks at signs.
    """

    def __init__(self, lists: MappedLists, centres: NDArray[np.float32], *, query_bits: int) -> None:
        self._lists, self._centres = lists, centres
        self._steps = float((1 << query_bits) - 1)

    def raise_to(
        self,
        found: NDArray[np.float32],
        queries: NDArray[np.float32],
        lists: NDArray[np.int64],
        slots: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Raise the squared distances that are below their lower bounds to those, in place.

        A little more is added than rounding can take away, so that faiss's own bounds are never larger.

        Parameters
        ----------
        found : (n_queries, m) float32
            Squared distances of codes.
        queries : (n_queries, d) float32
            Where the rows are searched.
        lists, slots : (n_queries, m) int64
            Where the codes are; −1 where there is none.

        Returns
        -------
        (n_queries,) bool
            Whether one of the query's was raised.
        """
        raised = np.zeros(len(queries), bool)
        n_queries, width = found.shape
        there = np.flatnonzero(lists.ravel() >= 0)
        squares = found.reshape(-1)
        for block in row_blocks(len(there), max(1, _BLOCK_ELEMENTS // queries.shape[1])):
            pairs = there[block]
            places = np.unravel_index(pairs, (n_queries, width))
            bounds = self._of(queries, places[0], lists[places], slots[places])
            lower = bounds > squares[pairs]
            squares[pairs[lower]] = bounds[lower]
            raised[places[0][lower]] = True
        found[:] = squares.reshape(found.shape)
        return raised

    def _of(
        self,
        queries: NDArray[np.float32],
        asked: NDArray[np.int64],
        lists: NDArray[np.int64],
        slots: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Give the lower bounds of pairs of a query, which `asked` numbers, and a code."""
        d = queries.shape[1]
        n_signs = -(-d // 8)
        codes = self._lists.codes_at(lists, slots, n_signs + 4 * _FACTORS)
        signs = np.unpackbits(codes[:, :n_signs], axis=1, count=d, bitorder="little").astype(np.float32)
        factors = np.ascontiguousarray(codes[:, n_signs : n_signs + 4 * _FACTORS]).view(np.float32)
        norm, scale, error = factors.astype(np.float64).T
        pairs, at = np.unique(asked * len(self._centres) + lists, return_inverse=True)
        asked, lists = np.divmod(pairs, len(self._centres))
        residuals = queries[asked] - self._centres[lists]
        rounded, least, step, unsure = self._rounded(residuals)
        # Sums of whole numbers, so far from float32's limit that their order does not matter.
        positive = np.einsum("ij,ij->i", signs, rounded[at])
        square = (residuals.astype(np.float64) ** 2).sum(axis=1)
        distance = np.sqrt(square)
        # The coordinates with their signs: twice those with a plus, less all of them.
        whole = step * rounded.sum(axis=1, dtype=np.float64) + least * d
        product = 2 * (step[at] * positive + least[at] * signs.sum(axis=1)) - whole[at]
        estimate = norm + square[at] - 2 * scale * product / np.sqrt(d)
        size = norm + square[at] + (4 * np.abs(scale) + error) * distance[at]
        margin = (d + 16) * _UNIT * size + 2 * np.abs(scale) * (unsure * step)[at] / np.sqrt(d)
        bounds: NDArray[Any] = np.maximum(estimate, 0) + margin - error * distance[at]
        return bounds.astype(np.float32)

    def _rounded(
        self, residuals: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Round each query's coordinates to whole steps from the least; count those rounded either way."""
        least, most = residuals.min(axis=1), residuals.max(axis=1)
        spread = most - least
        per_step = self._steps / np.where(spread > 0, spread, 1).astype(np.float64)
        scaled = (residuals - least[:, None]) * per_step[:, None]
        rounded = np.floor(scaled + 0.5)
        unsure = (np.abs(scaled - rounded) > 0.5 - _UNSURE).sum(axis=1)
        return rounded.astype(np.float32), least.astype(np.float64), spread / self._steps, unsure


def lower_bounds(engine: Any, lists: MappedLists, centres: NDArray[np.float32]) -> LowerBounds | None:
    """Give the bounds by which an engine leaves codes out; None if it looks at whole codes."""
    if not isinstance(engine, faiss.IndexIVFRaBitQ) or engine.rabitq.nb_bits == 1:
        return None
    return LowerBounds(lists, centres, query_bits=engine.qb)
