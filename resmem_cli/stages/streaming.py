"""How many rows a stage handles at a time: its memory budget."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from resmem_cli.indexes.base import Index
from resmem_cli.indexes.scale import search_rows
from resmem_cli.memory_size import part_of_memory

BLOCK_BYTES = 1 << 26
"""Bytes of a block's rows, with everything computed from them: 64 MiB."""


_APPROXIMATE_QUERIES = 1 << 14


def block_bytes() -> int:
    """Give the bytes of a block: 64 MiB, or a sixteenth of the memory to stay within."""
    return part_of_memory(16, most=BLOCK_BYTES)


def rows_within(shape: tuple[int, ...], dtype: np.dtype[Any], *, copies: int = 4) -> int:
    """Count the rows of a block that holds `copies` arrays of rows of this shape within the budget."""
    return max(1, block_bytes() // (copies * dtype.itemsize * max(1, math.prod(shape[1:]))))


def query_rows(index: Index, *, n_classes: int, k: int) -> int:
    """Count the queries of a block of `predict`, from what they hold in memory and cost to search."""
    d = index.shape[1]
    held = 8 * 2 * d + 4 * 4 * n_classes + 32 * (k + 32)
    # Approximate kinds search many queries together faster than few.
    most = search_rows(index.shape) if index.exact else _APPROXIMATE_QUERIES
    return max(1, min(block_bytes() // held, most))
