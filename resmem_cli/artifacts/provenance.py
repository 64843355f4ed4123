"""Digests of what an artifact holds, and where it came from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.declaring import DatasetSpec, Layout

DIGEST_BYTES = 32
_MOST_DIGITS = 20

# A sequential block is also one chunk of the file. A random row costs the digest of its whole block the
# first time one of the block is read, hence the smaller size.
_BLOCK_BYTES = {Layout.SEQUENTIAL: 1 << 20, Layout.RANDOM: 1 << 16}


@dataclass(frozen=True)
class InputRecord:
    """One input of an artifact.

    Attributes
    ----------
    role : str
        What it was used as, such as `embeddings`.
    file : str
        Its name, without folders, so that the same work gives the same bytes anywhere.
    format : str
        An artifact format, or `arrays`.
    digest : str
        The content digest. Equal digests mean equal embeddings, logits, labels and names,
        whichever way they came.
    """

    role: str
    file: str
    format: str
    digest: str


@dataclass(frozen=True)
class DatasetDigest:
    """The digests of one dataset: one SHA-256 for each block of `block_rows` rows."""

    dtype: str
    shape: tuple[int, ...]
    block_rows: int
    blocks: NDArray[np.uint8]

    @property
    def n_blocks(self) -> int:
        """How many blocks cover the rows."""
        return math.ceil(self.shape[0] / self.block_rows)


def block_rows(spec: DatasetSpec, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Count the rows of one digest block: about 1 MiB read in order, 64 KiB read at random."""
    row_bytes = max(1, dtype.itemsize * math.prod(shape[1:]))
    most = max(1, _BLOCK_BYTES[spec.layout] // row_bytes)
    n_blocks = max(1, math.ceil(shape[0] / most))
    # Blocks of one size, so that the last chunk is not mostly padding.
    return max(1, math.ceil(shape[0] / n_blocks))


def digest_block(rows: NDArray[Any]) -> bytes:
    """SHA-256 of a block's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(rows).data).digest()


def canonical_json(value: object) -> str:
    """Write JSON in one fixed way, so that equal values have equal bytes.

    Raises
    ------
    ValueError
        For NaN or infinity, which JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def strict_json(text: str) -> Any:
    """Read JSON that `canonical_json` can have written.

    Raises
    ------
    ValueError
        For anything else, among it NaN and infinity, integers of more than 64 bits, a key given twice, and
        more nesting than Python reads.
    """
    try:
        return json.loads(
            text, parse_constant=_number, parse_float=_number, parse_int=_integer, object_pairs_hook=_mapping
        )
    except RecursionError:
        raise ValueError("JSON nested too deep") from None


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _integer(text: str) -> int:
    # Python takes a time that grows with the square of the digits.
    value = int(text) if len(text) <= _MOST_DIGITS else None
    if value is None or not -(2**63) <= value < 2**64:
        raise ValueError("an integer of more than 64 bits")
    return value


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a key given twice")
    return mapping


def content_digest(digests: Mapping[str, DatasetDigest]) -> str:
    """Digest of all datasets: names, types, shapes and values, but not the file's attributes."""
    table = [
        [path, d.dtype, list(d.shape), d.block_rows, hashlib.sha256(d.blocks.tobytes()).hexdigest()]
        for path, d in sorted(digests.items())
    ]
    return hashlib.sha256(canonical_json(table).encode()).hexdigest()


def header_digest(attributes: Mapping[str, bytes | int]) -> str:
    """Digest of the file's attributes, the content digest among them."""
    values = {
        name: value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
        for name, value in attributes.items()
    }
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()


def digest_rows(
    spec: DatasetSpec, dtype: np.dtype[Any], shape: tuple[int, ...], blocks: Iterable[NDArray[Any]]
) -> DatasetDigest:
    """Digest rows that are not in an artifact as if they were.

    Parameters
    ----------
    spec : DatasetSpec
        The dataset they would be.
    dtype, shape
        Of the whole dataset.
    blocks : iterable of arrays
        All rows in order, in slices of `block_rows(spec, dtype, shape)` rows.
    """
    digests = b"".join(digest_block(rows) for rows in blocks)
    return DatasetDigest(
        dtype=dtype.str,
        shape=shape,
        block_rows=block_rows(spec, dtype, shape),
        blocks=np.frombuffer(digests, dtype=np.uint8).reshape(-1, DIGEST_BYTES),
    )
