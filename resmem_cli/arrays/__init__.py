"""Readers of exported arrays, one module per file format, and the arrays found in such files."""

from resmem_cli.arrays.base import ArrayFile, ArrayInfo, RowSource, open_arrays, readers
from resmem_cli.arrays.embedding_arrays import (
    EmbeddingArrays,
    InputArrays,
    open_embedding_arrays,
    open_input_arrays,
)

__all__ = [
    "ArrayFile",
    "ArrayInfo",
    "EmbeddingArrays",
    "InputArrays",
    "RowSource",
    "open_arrays",
    "open_embedding_arrays",
    "open_input_arrays",
    "readers",
]
