"""Inverted lists of several shards: whether they go together, and the lists of all their rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resmem_cli.errors import DataError
from resmem_cli.indexes.base import Build
from resmem_cli.indexes.inverted import InvertedIndex
from resmem_cli.indexes.lists import ListLayout, ListWriter
from resmem_cli.indexes.space import check_rows
from resmem_cli.rows import ArrayInMemory, RandomRows
from resmem_cli.types import row_blocks


def codes_alike(one: InvertedIndex, other: InvertedIndex) -> bool:
    """Whether a row has the same code and list in both."""
    own, others = (
        (index.kind, index.settings, index.space.mean, index.space.axes, index.centres.rows, index.codebook)
        for index in (one, other)
    )
    return own[:2] == others[:2] and all(
        np.array_equal(mine, theirs) if mine is not None and theirs is not None else mine is theirs
        for mine, theirs in zip(own[2:], others[2:], strict=True)
    )


def check_alike(shards: Sequence[InvertedIndex]) -> None:
    """Refuse shards whose rows would have other codes in each.

    Raises
    ------
    DataError
        If they do not have the same centres and codes.
    """
    for number, shard in enumerate(shards, start=1):
        if not codes_alike(shard, shards[0]):
            raise DataError(
                f"shard {number} has other centres or codes than the first",
                remedy="build all shards with one file of --trained",
            )


def merged_lists(shards: Sequence[InvertedIndex], vectors: RandomRows, *, build: Build) -> InvertedIndex:
    """Make the lists of all rows: those that one build from the same centres makes, to the bit.

    Parameters
    ----------
    shards : sequence of InvertedIndex
        Whose rows follow each other.
    vectors : (n, d)
        All rows.
    build : Build
        With scratch and memory.

    Raises
    ------
    DataError
        If they do not have the same centres and codes.
    """
    check_alike(shards)
    first = shards[0]
    index = type(first)(vectors, first.space, first.settings)
    index.centres, index.codebook = first.centres, first.codebook
    index.layout = ListLayout(
        sum((shard.layout.sizes for shard in shards), np.zeros_like(first.layout.sizes)),
        first.layout.code_bytes,
        interleaved=first.interleaved,
    )
    entries = build.scratch.array((index.layout.n_bytes,), np.uint8)
    writer = ListWriter(index.layout, entries)
    start = 0
    for part in build.progress(row_blocks(len(shards), 1), "merging lists"):
        shard = shards[part.start]
        for lists, rows, codes in shard.stored_entries(build):
            writer.append(lists, rows + start, codes)
        start += shard.shape[0]
    index.entries = ArrayInMemory(entries)
    return index


def largest_value(index: InvertedIndex, *, build: Build) -> float:
    """Find the largest absolute value of all rows as they are searched."""
    blocks = build.progress(row_blocks(index.shape[0], index.block_rows(build)), "looking at their range")
    largest = 0.0
    for block in blocks:
        rows = index.vectors.read(block.start, block.stop)
        check_rows(rows, index.metric, first=block.start)
        largest = max(largest, float(np.abs(index.space.searched(rows)).max()))
    return largest
