"""The memory in fewer columns: made, extended, stored and loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.indexes.base import Build
from resmem_cli.indexes.choice import CHOICE_NEIGHBORS
from resmem_cli.indexes.one_thread import one_blas_thread
from resmem_cli.indexes.principal import PROJECTED_ROWS, Reduction
from resmem_cli.indexes.space import Space, check_rows, squared_norms
from resmem_cli.rows import ArrayInMemory, RandomRows
from resmem_cli.threads import for_each_block
from resmem_cli.types import Progress, row_blocks

_READ_ROWS = 16 * PROJECTED_ROWS


@dataclass(frozen=True)
class Reduced:
    """The memory in fewer columns.

    Attributes
    ----------
    reduction : Reduction
        How its rows were reduced.
    rows : (n, r + 1) float32
        The reduced rows.
    candidates : int
        Rows to re-rank for `CHOICE_NEIGHBORS` neighbours.
    """

    reduction: Reduction
    rows: RandomRows
    candidates: int

    @classmethod
    def make(
        cls, vectors: RandomRows, space: Space, reduction: Reduction, candidates: int, *, build: Build
    ) -> Self:
        """Reduce all rows of (n, d) vectors, with the same bits for any number of threads."""
        rows = build.scratch.array((vectors.shape[0], reduction.columns), np.float32)
        _reduce(vectors, space, reduction, rows, 0, progress=build.progress)
        return cls(reduction, ArrayInMemory(rows), candidates)

    @classmethod
    def load(
        cls, datasets: Mapping[str, RandomRows], parameters: Mapping[str, Any], shape: tuple[int, int]
    ) -> Self | None:
        """Take from a stored index of `(n, d)` what `datasets` and `parameters` gave; None if nothing.

        Raises
        ------
        DataError
            If it does not fit.
        """
        if "axes" not in datasets:
            return None
        n, d = shape
        axes, rows = datasets["axes"].read(0, d), datasets["reduced"]
        if len(axes) != d or rows.shape != (n, axes.shape[1] + 1):
            raise DataError(
                "the reduced rows do not fit",
                field="reduced",
                expected=(n, axes.shape[1] + 1),
                found=rows.shape,
            )
        candidates = parameters.get("candidates")
        if not isinstance(candidates, int) or candidates <= CHOICE_NEIGHBORS:
            raise DataError("no number of candidates", field="parameters.candidates", found=candidates)
        return cls(Reduction(np.ascontiguousarray(axes, np.float64)), rows, candidates)

    @property
    def n_axes(self) -> int:
        """`r`."""
        return self.reduction.columns - 1

    def datasets(self) -> dict[str, RandomRows]:
        """Give `axes` and `reduced`."""
        return {"axes": ArrayInMemory(self.reduction.axes), "reduced": self.rows}

    def extended(self, vectors: RandomRows, space: Space, *, build: Build) -> Reduced:
        """Add rows: those of `vectors` that come after this memory's."""
        n = self.rows.shape[0]
        rows = build.scratch.array((vectors.shape[0], self.reduction.columns), np.float32)
        for block in row_blocks(n, _READ_ROWS):
            rows[block] = self.rows.read(block.start, block.stop)
        _reduce(vectors, space, self.reduction, rows, n, progress=build.progress)
        return Reduced(self.reduction, ArrayInMemory(rows), self.candidates)

    def norm_bound(self) -> float:
        """Bound the largest norm of the centred rows, from that of the reduced ones."""
        largest = 0.0
        for block in row_blocks(self.rows.shape[0], _READ_ROWS):
            largest = max(largest, float(squared_norms(self.rows.read(block.start, block.stop)).max()))
        return 1.0001 * math.sqrt(largest)


def _reduce(
    vectors: RandomRows,
    space: Space,
    reduction: Reduction,
    reduced: NDArray[np.float32],
    first: int,
    *,
    progress: Progress,
) -> None:
    """Reduce the rows from `first` on.

    Raises
    ------
    DataError
        If one is not finite or, with cosine, all zeros.
    """
    with one_blas_thread():
        for block in progress(row_blocks(len(reduced) - first, _READ_ROWS), "finding coordinates"):
            read = vectors.read(first + block.start, first + block.stop)
            into = reduced[first + block.start : first + block.stop]

            def fill(
                part: slice,
                read: NDArray[Any] = read,
                into: NDArray[np.float32] = into,
                start: int = first + block.start,
            ) -> None:
                check_rows(read[part], space.metric, first=start + part.start)
                into[part] = reduction.reduce(space.centred(read[part]))

            for_each_block(fill, row_blocks(len(read), PROJECTED_ROWS))
