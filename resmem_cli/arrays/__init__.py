"""Readers of exported arrays, one module per file format, and the arrays found in such files."""

from resmem_cli.arrays.base import ArrayFile, ArrayInfo, RowSource, open_arrays, readers
from resmem_cli.arrays.embedding_arrays import (
    EmbeddingArrays,
    InputArrays,
    open_embedding_arrays,
    open_input_arrays,
)
from resmem_cli.arrays.image_folder import ImageFolder
from resmem_cli.arrays.texts import open_texts
from resmem_cli.arrays.token_arrays import TokenArrays, open_token_arrays

__all__ = [
    "ArrayFile",
    "ArrayInfo",
    "EmbeddingArrays",
    "ImageFolder",
    "InputArrays",
    "RowSource",
    "TokenArrays",
    "open_arrays",
    "open_embedding_arrays",
    "open_input_arrays",
    "open_texts",
    "open_token_arrays",
    "readers",
]
