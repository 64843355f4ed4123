"""What a kind of index has of its rows: lists and bytes of codes, and the operations that make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from resmem_cli.indexes import ivf_pq, ivf_rabitq
from resmem_cli.indexes.clustering import default_lists
from resmem_cli.indexes.ivf_pq import DEFAULT_BITS, default_pq_lists, default_subquantizers

SCALE_QUERIES = 1000
"""Exact searches that `index` makes of its own to measure distances."""

HELD_OUT = 1000
"""Rows held out to measure the recall of an approximate kind."""

_ITERATIONS = 10
_TRAINED = 64  # rows of a centre, in the sample that the centres of lists are learnt from
_DEFAULT_BITS = 4
_SHARE_VISITED = 0.02  # of many lists, for a recall of about .95
_ROOT_VISITED = 2  # times the root of their number, of fewer: 32 to 64 of 512, and 128 of 2,048, were chosen
_MIN_VISITED = 8
# Seconds that one core takes to code a coordinate, measured on a machine of 2026 with 64 to 1,024 dimensions.
_FLOAT_CODING = 1.2e-9
_PQ_CODING = {4: 60e-9, 8: 18e-9}
_BIT_CODING = {1: 10e-9, 2: 60e-9, 4: 110e-9, 8: 430e-9}
_ROTATED = {"ivf-pq": ivf_pq.ROTATED_DIMENSIONS, "ivf-rabitq": ivf_rabitq.ROTATED_DIMENSIONS}


def code_bytes(kind: str, d: int, parameters: Mapping[str, Any] | None = None) -> int | None:
    """Count the bytes of one row's code in the lists of an inverted kind; None for a kind without lists."""
    given = parameters or {}
    if kind == "ivf":
        return d * (4 if given.get("storage") == "float32" else 2)
    if kind == "ivf-pq":
        return _pq_bytes(d, given)
    return _rabitq_bytes(d, given.get("bits", _DEFAULT_BITS)) if kind == "ivf-rabitq" else None


def has_axes(kind: str, d: int) -> bool:
    """Tell whether an inverted kind stores d · d numbers of a rotation."""
    return d <= _ROTATED.get(kind, 0)


def planned_lists(kind: str, n: int, parameters: Mapping[str, Any] | None = None) -> int:
    """Count the lists that an inverted kind puts n rows in, where the user does not say."""
    given = parameters or {}
    usual = default_pq_lists(n, given.get("bits", DEFAULT_BITS)) if kind == "ivf-pq" else default_lists(n)
    return int(given.get("lists", usual))


def visited_lists(lists: int) -> float:
    """Count the lists that a query visits for a recall of about .95."""
    return float(min(lists, max(_MIN_VISITED, _SHARE_VISITED * lists, _ROOT_VISITED * lists**0.5)))


def training_rows(n: int, lists: int) -> int:
    """Count the rows that the centres of lists are learnt from, where memory allows."""
    return min(n, _TRAINED * lists)


def training_operations(n: int, d: int, lists: int) -> float:
    """Count the floating point operations that learn the centres: k-means, 2 · lists · d a row and round."""
    return 2.0 * lists * d * _ITERATIONS * training_rows(n, lists)


def adding_operations(n: int, d: int, lists: int, *, kind: str) -> float:
    """Count the floating point operations that find the list of each of n rows, and turn them.

    They are 2 · lists · d a row; and, where rows are rotated, 2 · d² twice, for they are read to find their
    lists and again to be coded.
    """
    return n * (2.0 * lists * d + 2 * rotating_operations(d, kind))


def rotating_operations(d: int, kind: str) -> float:
    """Count the floating point operations that rotate a row or a query: 2 · d², or none."""
    return 2.0 * d * d if has_axes(kind, d) else 0.0


def coding_seconds(n: int, d: int, kind: str, parameters: Mapping[str, Any] | None = None) -> float:
    """Estimate what one core codes n rows in: in proportion to n · d, as measured for kinds and bits."""
    given = parameters or {}
    bits = given.get("bits", DEFAULT_BITS if kind == "ivf-pq" else _DEFAULT_BITS)
    if kind == "ivf-pq":
        each = _PQ_CODING[8 if bits > 4 else 4]
    elif kind == "ivf-rabitq":
        each = float(np.interp(bits, list(_BIT_CODING), list(_BIT_CODING.values())))
    else:
        each = _FLOAT_CODING
    return n * d * each


def measuring_operations(n: int, d: int, lists: int | None) -> float:
    """Count those of the exact searches that `index` makes of its own.

    They are 2 · n · d for each query: 1,000 for the distance scale of a kind without lists, else 1,000 held
    out to measure recall.
    """
    return 2.0 * (SCALE_QUERIES if lists is None else HELD_OUT) * n * d


def _pq_bytes(d: int, given: Mapping[str, Any]) -> int:
    """Count the bytes of a code of product quantization."""
    bits = given.get("bits", DEFAULT_BITS)
    parts = given.get("subquantizers", default_subquantizers(d, bits))
    return -(-int(parts * bits) // 8)


def _rabitq_bytes(d: int, bits: int) -> int:
    """Count the bytes of a row's code: signs with two float32 factors, and what refines them with three."""
    return -(-d // 8) + 8 + (-(-d * (bits - 1) // 8) + 12 if bits > 1 else 0)
