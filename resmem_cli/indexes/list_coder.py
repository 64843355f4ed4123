"""Rows into lists: each to that of its nearest centre, as a code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.indexes.base import Build
from resmem_cli.indexes.clustering import Centres
from resmem_cli.indexes.lists import ListWriter
from resmem_cli.types import row_blocks

Read = Callable[[slice], NDArray[np.float32]]


class ListCoder:
    """Assigns rows to lists, and codes them, in blocks.

    Parameters
    ----------
    centres : Centres
        Of the lists.
    block_rows : int
        Rows at a time.
    build : Build
        With scratch and progress.

    Attributes
    ----------
    sizes : (l,) int64
        How many rows each list got.
    """

    def __init__(self, centres: Centres, *, block_rows: int, build: Build) -> None:
        self._centres, self._build = centres, build
        self._block_rows = block_rows
        self._lists = np.empty(0, np.int32)
        self.sizes = np.zeros(len(centres.rows), np.int64)

    def assign(self, n: int, read: Read) -> float:
        """Find the lists of n rows, of which `read` gives ranges; give the largest absolute value there."""
        self._lists = self._build.scratch.array((n,), np.int32)
        largest = 0.0
        for block in self._build.progress(row_blocks(n, self._block_rows), "assigning rows to lists"):
            searched = read(block)
            self._lists[block] = self._centres.assign(searched)
            self.sizes += np.bincount(self._lists[block], minlength=len(self.sizes))
            largest = max(largest, float(searched.max()), -float(searched.min()))
        return largest

    def write(self, writer: ListWriter, engine: Any, first: int, read: Read) -> None:
        """Code the rows, which are numbered from `first`, and write them to their lists.

        `engine` is faiss's index of the codes, with the centres and without lists.
        """
        blocks = row_blocks(len(self._lists), self._block_rows)
        for block in self._build.progress(blocks, "coding rows"):
            searched = read(block)
            own = self._lists[block].astype(np.int64)
            codes = np.zeros((len(own), engine.code_size), np.uint8)
            pointers = (faiss.swig_ptr(array) for array in (searched, own, codes))
            engine.encode_vectors(len(own), *pointers)
            writer.append(own, np.arange(first + block.start, first + block.stop), codes)
