"""How many rows a stage handles at a time: its memory budget."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from resmem_cli.indexes.scale import search_rows

BLOCK_BYTES = 1 << 26
"""Bytes of a block's rows, with everything computed from them: 64 MiB."""


def rows_within(shape: tuple[int, ...], dtype: np.dtype[Any], *, copies: int = 4) -> int:
    """Count the rows of a block that holds `copies` arrays of rows of this shape within the budget."""
    return max(1, BLOCK_BYTES // (copies * dtype.itemsize * max(1, math.prod(shape[1:]))))


def query_rows(*, n_memory: int, d: int, n_classes: int, k: int) -> int:
    """Count the queries of a block of `predict`, from what they hold in memory and cost to search."""
    held = 8 * 2 * d + 4 * 4 * n_classes + 32 * (k + 32)
    return max(1, min(BLOCK_BYTES // held, search_rows((n_memory, d))))
