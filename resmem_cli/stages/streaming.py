"""How many rows a stage handles at a time: its memory budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.base import RowSource
from resmem_cli.indexes.base import Index
from resmem_cli.indexes.scale import search_rows
from resmem_cli.memory_size import part_of_memory
from resmem_cli.rows import PickedRows
from resmem_cli.scratch import Scratch
from resmem_cli.types import row_blocks

BLOCK_BYTES = 1 << 26
"""Bytes of a block's rows, with everything computed from them: 64 MiB."""


_APPROXIMATE_QUERIES = 1 << 14


def block_bytes() -> int:
    """Give the bytes of a block: 64 MiB, or a sixteenth of the memory to stay within."""
    return part_of_memory(16, most=BLOCK_BYTES)


def rows_within(shape: tuple[int, ...], dtype: np.dtype[Any], *, copies: int = 4) -> int:
    """Count the rows of a block that holds `copies` arrays of rows of this shape within the budget."""
    return max(1, block_bytes() // (copies * dtype.itemsize * max(1, math.prod(shape[1:]))))


def read_chosen(
    rows: RowSource,
    chosen: NDArray[np.int64],
    *,
    scratch: Scratch,
    check: Callable[[NDArray[Any], int], None] | None = None,
) -> NDArray[Any]:
    """Read some rows of a source, which is read in order, in blocks.

    Parameters
    ----------
    rows : RowSource
        (n, ...).
    chosen : (c,) int64
        Row numbers, rising.
    scratch : Scratch
        Makes the array.
    check : callable, optional
        Is given every block that holds a chosen row, and its first row's number.

    Returns
    -------
    (c, ...) array
    """
    taken = scratch.array((len(chosen), *rows.shape[1:]), rows.dtype)
    for block in row_blocks(rows.shape[0], rows_within(rows.shape, rows.dtype)):
        some = slice(*np.searchsorted(chosen, (block.start, block.stop)))
        if some.start < some.stop:
            read = rows.read(block.start, block.stop)
            if check is not None:
                check(read, block.start)
            taken[some] = read[chosen[some] - block.start]
    return taken


class PickedFromBlocks:
    """Rows of a source, at random too: what is picked is read in order, in blocks, when it is asked for.

    Parameters
    ----------
    rows : RowSource
        (n, ...).
    scratch : Scratch
        Makes the arrays of what is picked.
    """

    def __init__(self, rows: RowSource, scratch: Scratch) -> None:
        self._rows, self._scratch = rows, scratch
        self.shape, self.dtype = rows.shape, rows.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Give rows `start` to `stop`."""
        return self._rows.read(start, min(stop, self.shape[0]))

    def at(self, rows: NDArray[np.int64]) -> Any:
        """Give what `take` and an index of rows pick from, as from the whole array."""
        return PickedRows(
            self.shape, self.dtype, lambda wanted: read_chosen(self._rows, wanted, scratch=self._scratch)
        )


def query_rows(index: Index, *, n_classes: int, k: int) -> int:
    """Count the queries of a block of `predict`, from what they hold in memory and cost to search."""
    d = index.shape[1]
    held = 8 * 2 * d + 4 * 4 * n_classes + 32 * (k + 32)
    # Approximate kinds search many queries together faster than few.
    most = search_rows(index.shape) if index.exact else _APPROXIMATE_QUERIES
    return max(1, min(block_bytes() // held, most))
