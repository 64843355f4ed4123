"""What the tasks of a command are in a plan: the sizes that their times are told with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from resmem_cli.artifacts.reader import Artifact
from resmem_cli.indexes.base import index_kinds
from resmem_cli.scaling.sizes import MemorySize
from resmem_cli.stages.sources import EmbeddingSource
from resmem_cli.types import StorageType


def size_of(source: EmbeddingSource) -> MemorySize:
    """Give the size of embeddings and logits, as a memory."""
    top = source.top_logits
    half = source.embeddings.dtype == np.float16
    return MemorySize(
        rows=source.n,
        dimensions=source.d,
        classes=source.n_classes or 1,
        top=None if top is None else top.n_kept,
        storage=StorageType.FLOAT16 if half else StorageType.FLOAT32,
    )


def searched_by(size: MemorySize, file: Artifact) -> MemorySize:
    """Give a memory the kind and parameters of an index, or of what the shards of one have in common."""
    kind, settings = file.parameters["kind"], file.parameters["search"]
    names = index_kinds()[kind].parameter_names if kind != "exact" else ()
    return replace(size, kind=kind, parameters={name: settings[name] for name in names if name in settings})
