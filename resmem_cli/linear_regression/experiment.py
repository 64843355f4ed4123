"""The experiment: risks over dimensions, numbers of training points, norm bounds and repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resmem_cli.linear_regression.risk import Draw, Risks, measure
from resmem_cli.types import Progress, no_progress

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """The risks in one dimension; see `Risks`.

    Attributes
    ----------
    d : int
    n : (n_sizes,) int64
        Training points, rising.
    norm_bounds : tuple of float
        L.
    squared_distance, nearest : (n_repetitions, n_sizes) float64
    erm, excess, resmem, t1, t2 : (n_bounds, n_repetitions, n_sizes) float64
    """

    d: int
    n: NDArray[np.int64]
    norm_bounds: tuple[float, ...]
    squared_distance: Floats
    nearest: Floats
    erm: Floats
    excess: Floats
    resmem: Floats
    t1: Floats
    t2: Floats

    @classmethod
    def put_together(
        cls, d: int, n: Sequence[int], norm_bounds: Sequence[float], risks: Sequence[Sequence[Risks]]
    ) -> Measured:
        """Make arrays of the risks of each n and repetition."""

        def column(name: str) -> Floats:
            values = np.array([[getattr(one, name) for one in repetitions] for repetitions in risks])
            # (n_sizes, n_repetitions) or with a last axis of bounds, which becomes the first.
            return np.ascontiguousarray(values.T)

        return cls(
            d,
            np.array(n, np.int64),
            tuple(norm_bounds),
            *map(column, ("squared_distance", "nearest", "erm", "excess", "resmem", "t1", "t2")),
        )


def run_experiment(
    *,
    dimensions: Sequence[int],
    norm_bounds: Sequence[float],
    rows: Sequence[int],
    repetitions: int,
    test_points: int,
    seed: int,
    progress: Progress = no_progress,
) -> list[Measured]:
    """Measure the risks over a whole grid.

    Each (d, n, repetition) has its own draw, seeded by `[seed, d, n, repetition]`: any part of the grid
    gives the numbers it has in the whole. All methods and all L see the same draw.

    Parameters
    ----------
    dimensions, norm_bounds, rows : sequences
        d, L, and n, the numbers of training points, rising.
    repetitions, test_points : int
        Draws of each (d, n), and test points of each draw.
    seed : int
    progress : Progress
        Counts the points drawn.

    Returns
    -------
    list of Measured
        One for each d.
    """
    cells = [(d, n) for d in dimensions for n in rows]
    ends = np.cumsum([repetitions * (n + test_points) for _, n in cells]).tolist()
    blocks = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    risks: list[list[Risks]] = []
    for _, (d, n) in zip(progress(blocks, "measuring"), cells, strict=True):
        draws = (
            Draw.make(d=d, n=n, n_test=test_points, seed=(seed, d, n, repetition))
            for repetition in range(repetitions)
        )
        risks.append([measure(draw, norm_bounds) for draw in draws])
    n_sizes = len(rows)
    return [
        Measured.put_together(d, rows, norm_bounds, risks[i * n_sizes : (i + 1) * n_sizes])
        for i, d in enumerate(dimensions)
    ]
