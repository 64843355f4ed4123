"""How far apart a memory's rows lie, which is the unit of sigma."""

from __future__ import annotations

from typing import Any

import numpy as np

from resmem_cli.indexes.base import Index, search_others
from resmem_cli.indexes.searched import kept_bytes
from resmem_cli.types import Progress, no_progress, row_blocks

SCALE_NEIGHBOR = 53
SCALE_SAMPLE = 1000

# A block of queries takes a few seconds at most on one core, so that progress shows and signals are heard.
_BLOCK_FLOPS = 1 << 38


def search_rows(shape: tuple[int, int]) -> int:
    """Count the queries to search together in a memory of `(n, d)`."""
    n, d = shape
    # A memory of which no centred copy is kept takes as long to centre as some tens of queries to search.
    return max(16 if 4 * n * d <= kept_bytes() else 512, _BLOCK_FLOPS // (2 * n * d))


def measure_distance_scale(
    index: Index, *, seed: int = 0, progress: Progress = no_progress
) -> dict[str, Any]:
    """Measure the distance from memory rows to their neighbours.

    Parameters
    ----------
    index : Index
        The memory.
    seed : int
        Of the sample of rows.
    progress : Progress
        Shows how far the sample has come.

    Returns
    -------
    dict
        `median`: the median distance from `sample` rows, drawn with `seed`, to their
        `neighbor`-th nearest other row; 0 for a memory of one row.
    """
    n = index.shape[0]
    sample = min(SCALE_SAMPLE, n)
    rows = np.sort(np.random.default_rng(seed).choice(n, size=sample, replace=False))
    neighbor = min(SCALE_NEIGHBOR, n - 1)
    distances = np.zeros(sample)
    if neighbor:
        for block in progress(row_blocks(sample, search_rows(index.shape)), "measuring distances"):
            own = rows[block]
            found = search_others(index, index.vectors.at(own)[own], own, neighbor)
            distances[block] = found.distances[:, -1]
    return {"median": float(np.median(distances)), "neighbor": neighbor, "sample": sample, "seed": seed}
