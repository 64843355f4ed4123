"""The bytes of every artifact, from the datasets its format declares and the way they lie in the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from resmem_cli.artifacts.declaring import Format, Layout
from resmem_cli.artifacts.formats import EMBEDDINGS, INDEX, PREDICTIONS, RESIDUALS
from resmem_cli.artifacts.provenance import DIGEST_BYTES, block_rows
from resmem_cli.indexes.choice import MIN_COLUMNS, MIN_ROWS
from resmem_cli.indexes.counts import code_bytes, has_axes, planned_lists
from resmem_cli.indexes.ivf_pq import DEFAULT_BITS, default_subquantizers
from resmem_cli.residuals import class_dtype
from resmem_cli.scaling.sizes import MemorySize

PAGE = 4096
"""Bytes that are read from a disk at least."""

_ALIGNED = 1 << 16  # what is as long begins at a page
_CHECKSUM = 4
_CHUNK_ENTRY = 20  # of a chunk in the file's index of chunks: its place, its length and its filters
_HEADER, _DATASET_HEADER = 2500, 400  # bytes; measured on artifacts of few rows
_REDUCED = 8  # one column in so many is kept for the exact kind's first search, where it pays
_ROOM, _TOGETHER = 8, 32  # rows that a list has room for a multiple of
_LINKS = 32

Shapes = Mapping[str, tuple[tuple[int, ...], Any]]


def artifact_bytes(fmt: Format, datasets: Shapes) -> int:
    """Count the bytes of an artifact's file.

    A dataset that is read in order lies in chunks of `block_rows` rows, about 1 MiB, each with a checksum
    of 4 bytes; a dataset that is read at random rows lies in one piece. A chunk or a piece of at least 64
    KiB begins at a multiple of 4,096 bytes. Beside each dataset lies a digest of 32 bytes for each block of
    `block_rows` rows, and headers of about 3 KiB.

    Parameters
    ----------
    fmt : Format
        Says how each dataset lies.
    datasets : mapping of str to (shape, dtype)
        By their paths.
    """
    total = _HEADER
    for path, (shape, dtype) in datasets.items():
        spec, kind = fmt.spec(path), np.dtype(dtype)
        rows = block_rows(spec, kind, shape)
        blocks = math.ceil(shape[0] / rows)
        row_bytes = kind.itemsize * math.prod(shape[1:])
        if spec.layout == Layout.SEQUENTIAL:
            total += blocks * (_aligned(rows * row_bytes + _CHECKSUM) + _CHUNK_ENTRY)
        else:
            total += _aligned(shape[0] * row_bytes)
        total += _aligned(DIGEST_BYTES * blocks) + _DATASET_HEADER
    return total


def embeddings_bytes(size: MemorySize) -> int:
    """Count the bytes of an embeddings artifact with labels, and with all logits or the `top` largest.

    A row has d numbers, an int32 label and C logits of the same type; or, of each of the m largest, its class
    (uint16, above 65,536 classes int32) and a float32, with a float64 and a float32 a row.
    """
    n, number = size.rows, np.dtype(size.storage.value)
    datasets: dict[str, tuple[tuple[int, ...], Any]] = {
        "embeddings": ((n, size.dimensions), number),
        "labels": ((n,), np.int32),
    }
    if size.top is None:
        datasets["logits"] = ((n, size.classes), number)
    else:
        datasets |= {
            "logits_top/classes": ((n, size.top), class_dtype(size.classes)),
            "logits_top/values": ((n, size.top), np.float32),
            "logsumexp": ((n,), np.float64),
            "label_logit": ((n,), np.float32),
        }
    return artifact_bytes(EMBEDDINGS, datasets)


def residuals_bytes(size: MemorySize) -> int:
    """Count the bytes of a residuals artifact: C float32 a row, or `top` classes and uint16 values."""
    n = size.rows
    datasets: dict[str, tuple[tuple[int, ...], Any]] = {"labels": ((n,), np.int32)}
    if size.top is None:
        datasets["residuals"] = ((n, size.classes), np.float32)
    else:
        datasets["top/classes"] = ((n, size.top), class_dtype(size.classes))
        datasets["top/values"] = ((n, size.top), np.uint16)
    return artifact_bytes(RESIDUALS, datasets)


def residual_row_bytes(size: MemorySize) -> int:
    """Count the bytes of one row of residuals."""
    if size.top is None:
        return 4 * size.classes
    return size.top * (class_dtype(size.classes).itemsize + 2)


def index_bytes(size: MemorySize) -> int:
    """Count the bytes of an index artifact: the embeddings, and what its kind has beside them.

    - exact: nothing, or `reduced_columns` float32 a row and their axes in float64.
    - the ivf kinds: l centres of d float32; for each row its code and its number (int64), with room for a
      multiple of 8 rows a list, of 32 where codes have 4 bits: on average 3.5 or 15.5 rows a list more than
      there are; axes (d, d) in float64 and a codebook where the kind has them.
    - hnsw: 2 · links + 1 neighbours (int32), a level (int32) and a number (int64) a row.
    """
    n, d = size.rows, size.dimensions
    datasets: dict[str, tuple[tuple[int, ...], Any]] = {
        "vectors": ((n, d), np.dtype(size.storage.value)),
        "mean": ((d,), np.float64),
    }
    code = code_bytes(size.kind, d, size.parameters)
    if code is not None:
        lists = planned_lists(size.kind, n, size.parameters)
        datasets["lists/centroids"] = ((lists, d), np.float32)
        datasets["lists/sizes"] = ((lists,), np.int64)
        datasets["lists/entries"] = ((round(_rows_with_room(size, lists) * (code + 8)),), np.uint8)
        if has_axes(size.kind, d):
            datasets["axes"] = ((d, d), np.float64)
        if size.kind == "ivf-pq":
            bits = size.parameters.get("bits", DEFAULT_BITS)
            parts = size.parameters.get("subquantizers", default_subquantizers(d, bits))
            datasets["lists/codebook"] = ((parts, 1 << bits, d // parts), np.float32)
    elif size.kind == "hnsw":
        links = size.parameters.get("links", _LINKS)
        datasets["graph/levels"] = ((n,), np.int32)
        datasets["graph/neighbors"] = ((n * (2 * links + 1),), np.int32)
        datasets["graph/rows"] = ((n,), np.int64)
    elif columns := reduced_columns(size):
        datasets["axes"] = ((d, columns - 1), np.float64)
        datasets["reduced"] = ((n, columns), np.float32)
    return artifact_bytes(INDEX, datasets)


def reduced_columns(size: MemorySize) -> int:
    """Count the numbers that the exact kind keeps of each row to search first: of r axes, and of the rest.

    Where the user does not say, d / 8 of rows of at least 96 dimensions, 10,000 rows or more, and none of
    others. `index` chooses up to d / 2 on a sample, or none.
    """
    if size.kind != "exact":
        return 0
    asked = size.parameters.get("axes")
    if asked is not None:
        return asked + 1 if asked else 0
    return size.dimensions // _REDUCED if size.dimensions >= MIN_COLUMNS and size.rows >= MIN_ROWS else 0


def predictions_bytes(size: MemorySize) -> int:
    """Count the bytes of a predictions artifact of labelled queries.

    A query has six int32 or float32, 32 bytes for each of its k neighbours, and C float32 scores, or 8 bytes
    for each of the `top_scores`; with `top` residuals 5 bytes more.
    """
    q, k = size.queries, size.k
    datasets: dict[str, tuple[tuple[int, ...], Any]] = {
        name: ((q,), np.int32)
        for name in ("predicted", "base_predicted", "knn_predicted", "runner_up", "labels")
    }
    datasets |= {
        "base_confidence": ((q,), np.float32),
        "class_counts": ((size.classes,), np.int64),
        "neighbors/rows": ((q, k), np.int64),
        "neighbors/distances": ((q, k), np.float64),
        "neighbors/weights": ((q, k), np.float32),
        "neighbors/labels": ((q, k), np.int32),
        "neighbors/contributions": ((q, k), np.float32),
    }
    if size.top_scores is None:
        datasets["scores"] = ((q, size.classes), np.float32)
    else:
        datasets["top_scores/classes"] = ((q, size.top_scores), np.int32)
        datasets["top_scores/values"] = ((q, size.top_scores), np.float32)
    if size.top is not None:
        datasets["truncation/bound"] = ((q,), np.float32)
        datasets["truncation/proved"] = ((q,), np.uint8)
    return artifact_bytes(PREDICTIONS, datasets)


def planned_bytes(size: MemorySize) -> dict[str, int]:
    """Count the bytes of the artifacts of a whole pipeline, by their names."""
    return {
        "embeddings": embeddings_bytes(size),
        "residuals": residuals_bytes(size),
        "index": index_bytes(size),
        "predictions": predictions_bytes(size),
    }


def with_kind(size: MemorySize, kind: str) -> MemorySize:
    """Give the same memory with another kind of index, as that chooses its parameters."""
    return size if kind == size.kind else replace(size, kind=kind, parameters={})


def random_row_bytes(row_bytes: int) -> int:
    """Count the bytes that reading one row at random takes from the disk: whole pages.

    Rows that do not end where a page does lie in one page more, at most.
    """
    even = PAGE % row_bytes == 0 or row_bytes % PAGE == 0
    return PAGE * (math.ceil(row_bytes / PAGE) + (0 if even else 1))


def _rows_with_room(size: MemorySize, lists: int) -> float:
    interleaved = size.kind == "ivf-pq" and size.parameters.get("bits", DEFAULT_BITS) == 4
    return size.rows + lists * ((_TOGETHER if interleaved else _ROOM) - 1) / 2


def _aligned(n_bytes: int) -> int:
    return n_bytes if n_bytes < _ALIGNED else -(-n_bytes // PAGE) * PAGE
