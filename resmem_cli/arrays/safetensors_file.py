"""Reader of .safetensors files, mapped into memory; bfloat16 is widened to float32 by blocks."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.base import (
    ArrayFile,
    ArrayInfo,
    RowSource,
    check_rows,
    damage_refused,
    reads,
)
from resmem_cli.arrays.mapped import MappedFile, MappedRows
from resmem_cli.artifacts.provenance import strict_json
from resmem_cli.errors import DataError, MissingExtraError

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}


@reads(".safetensors")
class SafeTensors(ArrayFile):
    """The tensors of one file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        _validate(path)
        # The package has no numpy type for bfloat16 and imports torch for it, so the tensors are
        # found by the header's offsets, after the package has checked the header.
        with (
            damage_refused(".safetensors", path, None, OSError, ValueError, struct.error),
            path.open("rb") as stream,
        ):
            self._mapped = MappedFile(stream)
            (header_bytes,) = struct.unpack("<Q", stream.read(8))
            self._data_start = 8 + header_bytes
            # Of a tensor that is there twice, the package takes one and says nothing.
            self._tensors: dict[str, dict[str, Any]] = strict_json(stream.read(header_bytes).decode())
        self._tensors.pop("__metadata__", None)

    @property
    def arrays(self) -> Mapping[str, ArrayInfo]:
        """The tensors, in the order of their bytes."""
        ordered = sorted(self._tensors.items(), key=lambda item: item[1]["data_offsets"])
        return {key: ArrayInfo(tuple(entry["shape"]), _dtype_name(entry)) for key, entry in ordered}

    def open(self, key: str) -> RowSource:
        """Map one tensor."""
        entry = self._tensors[key]
        if entry["dtype"] not in _DTYPES:
            raise DataError(
                "a tensor of a type that is not accepted",
                file=self.path,
                field=key,
                expected=f"one of {', '.join(_DTYPES)}",
                found=entry["dtype"],
                remedy="export it with another type, such as .to(torch.float32)",
            )
        shape, dtype = tuple(entry["shape"]), np.dtype(_DTYPES[entry["dtype"]])
        check_rows(shape, dtype, file=self.path, key=key)
        start, stop = (self._data_start + offset for offset in entry["data_offsets"])
        size = len(self._mapped.bytes)
        if stop > size or stop - start != math.prod(shape) * dtype.itemsize:
            raise DataError(
                "a tensor whose bytes do not hold its shape",
                file=self.path,
                field=key,
                expected=f"{math.prod(shape) * dtype.itemsize} bytes for shape {shape}",
                found=f"{min(stop, size) - start} bytes",
                remedy="export the tensors again",
            )
        rows = MappedRows(self._mapped.array(start, shape, dtype), self._mapped)
        return _BFloat16Rows(rows) if entry["dtype"] == "BF16" else rows


class _BFloat16Rows:
    """Rows of bfloat16 given as float32: its upper half has the same bits."""

    def __init__(self, halves: MappedRows) -> None:
        self._halves = halves
        self.shape = halves.shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Widen rows `start` to `stop`; exact for every value."""
        bits = self._halves.read(start, stop).astype(np.uint32)
        bits <<= np.uint32(16)
        return bits.view(np.float32)


def _validate(path: Path) -> None:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise MissingExtraError(
            "reading .safetensors needs the package safetensors",
            file=path,
            remedy="pip install 'resmem-cli[torch]'",
        ) from None
    with (
        damage_refused(".safetensors", path, None, SafetensorError, OSError, ValueError),
        safe_open(path, framework="np"),
    ):
        pass


def _dtype_name(entry: Mapping[str, Any]) -> str:
    name: str = entry["dtype"]
    if name == "BF16":
        return "bfloat16"
    return np.dtype(_DTYPES[name]).name if name in _DTYPES else name
