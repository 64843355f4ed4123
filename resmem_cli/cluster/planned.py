"""What the tasks of a command are in a plan: the sizes that their times are told with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from resmem_cli.artifacts.formats import RESIDUALS
from resmem_cli.artifacts.reader import Artifact, open_artifact
from resmem_cli.indexes.base import index_kinds
from resmem_cli.scaling.sizes import MemorySize
from resmem_cli.scaling.task_times import can_be_planned
from resmem_cli.stages.sources import EmbeddingSource
from resmem_cli.types import StorageType


def size_of(source: EmbeddingSource) -> MemorySize:
    """Give the size of embeddings and logits, as a memory."""
    top = source.top_logits
    return MemorySize(
        rows=source.n,
        dimensions=source.d,
        classes=source.n_classes or 1,
        top=None if top is None else top.n_kept,
        storage=_storage(source.embeddings.dtype),
    )


def searched_by(size: MemorySize, file: Artifact) -> MemorySize | None:
    """Give a memory the kind and parameters of an index, or of what the shards of one have in common.

    None where no plan is of such an index, or what the file says of it is for the search to refuse.
    """
    kind, settings = file.parameters["kind"], file.parameters.get("search", {})
    if not isinstance(kind, str) or kind not in index_kinds() or not isinstance(settings, dict):
        return None
    names = index_kinds()[kind].parameter_names if kind != "exact" else ()
    known = {name: settings[name] for name in names if name in settings}
    found = replace(size, kind=kind, parameters=known)
    return found if can_be_planned(found) else None


def predicted_from(source: EmbeddingSource, index: Artifact, residuals: Path, *, k: int) -> MemorySize | None:
    """Give the size of the memory that queries are predicted from."""
    with open_artifact(residuals, RESIDUALS) as file:
        top = file.parameters.get("top")
    memory = replace(
        size_of(source),
        rows=index.dimensions["n"],
        k=k,
        top=top if type(top) is int else None,
        storage=_storage(index.shapes["vectors"][1]),
    )
    return searched_by(memory, index)


def _storage(dtype: np.dtype[np.generic]) -> StorageType:
    return StorageType.FLOAT16 if dtype == np.float16 else StorageType.FLOAT32
