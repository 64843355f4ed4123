"""Whether artifacts belong together, and what is said of them in what is made from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resmem_cli.artifacts.provenance import InputRecord
from resmem_cli.artifacts.reader import Artifact
from resmem_cli.errors import DataError
from resmem_cli.stages.sources import EmbeddingSource

# What two embeddings of one network have in common, as `embed` records it, and what makes it so.
_ENCODER = {
    "checkpoint_digest": "one checkpoint",
    "layer": "one --layer",
    "pool": "one --pool",
    "preprocessing": "one preprocessing",
}


def check_lineage(index_file: Artifact, memory_file: Artifact, source: EmbeddingSource) -> None:
    """Refuse an index, residuals and queries that were not made by one network from one memory.

    Raises
    ------
    DataError
        Naming both files and both values.
    """
    source.require_logits()
    check_one_memory(index_file, memory_file)
    check_network(index_file, source)
    check_network(memory_file, source)


def check_one_memory(index_file: Artifact, memory_file: Artifact) -> None:
    """Refuse an index and residuals that were not made from one memory; raises as `check_lineage`."""
    index, memory = index_file.path, memory_file.path
    digests = [file.parameters["embeddings_digest"] for file in (index_file, memory_file)]
    rows = (index_file.dimensions["n"], memory_file.dimensions["n"])
    remedy = "make index and residuals from one file, with the same updates"
    _same("embeddings", index, digests[0], memory, digests[1], remedy=remedy)
    _same("number of rows", index, rows[0], memory, rows[1], remedy=remedy)


def check_same_rows(index_file: Artifact, source: EmbeddingSource) -> None:
    """Refuse embeddings that are not those an index was made from; raises as `check_lineage`."""
    remedy = "name the embeddings that the index was made from"
    _same("number of rows", index_file.path, index_file.dimensions["n"], source.path, source.n, remedy=remedy)
    made_from = index_file.parameters["embeddings_digest"]
    _same("embeddings", index_file.path, made_from, source.path, source.embeddings_digest, remedy=remedy)


def own_rows_notices(index_file: Artifact, source: EmbeddingSource) -> list[str]:
    """Say so where the queries are the memory's own rows, each of which finds itself."""
    if source.embeddings_digest != index_file.parameters["embeddings_digest"]:
        return []
    return [
        f"{source.path}: these are the memory's own rows, and each finds itself: what is told of them says "
        "nothing of new data (tune --leave-one-out leaves the own row out)"
    ]


def check_network(file: Artifact, source: EmbeddingSource, *, logits: bool = True) -> None:
    """Refuse rows that were not made by the network of an index or residuals; raises as `check_lineage`.

    Their logits are not looked at where they are not needed.
    """
    if "d" in file.dimensions:
        remedy = "use one layer of one network"
        _same("dimension", file.path, file.dimensions["d"], source.path, source.d, remedy=remedy)
    n_classes = file.parameters.get("n_classes")
    if n_classes is not None and logits:
        found = source.require_logits().shape[1]
        _same("number of classes", file.path, n_classes, source.path, found, remedy="use one network")
    made_by = file.parameters.get("encoder")
    if isinstance(source.encoder, dict) and isinstance(made_by, dict):
        for key, remedy in _ENCODER.items():
            if key == "preprocessing" and None in (made_by.get(key), source.encoder.get(key)):
                # Inputs that came preprocessed do not say how.
                continue
            _same(
                key.replace("_", " "),
                file.path,
                made_by.get(key),
                source.path,
                source.encoder.get(key),
                remedy=f"embed both with {remedy}",
            )
    names = file.read_optional("class_names")
    if source.class_names is not None and names is not None and list(names) != list(source.class_names):
        differs = int(np.argmax(names != source.class_names))
        _same(
            "class names",
            file.path,
            names[differs],
            source.path,
            source.class_names[differs],
            remedy="use one network",
        )


def artifact_record(role: str, artifact: Artifact) -> InputRecord:
    """Describe an artifact for the lineage of what is made from it."""
    return InputRecord(
        role=role,
        file=artifact.path.name,
        format=artifact.header.format.name,
        digest=artifact.header.content_digest,
    )


def _same(what: str, one: Path, expected: object, other: Path, found: object, *, remedy: str) -> None:
    if expected != found:
        if isinstance(expected, dict) and isinstance(found, dict):
            differs = [key for key in sorted({*expected, *found}) if expected.get(key) != found.get(key)]
            expected, found = ({key: value.get(key) for key in differs} for value in (expected, found))
        raise DataError(
            f"not the same {what} as {one}",
            file=other,
            expected=_short(expected),
            found=_short(found),
            remedy=remedy,
        )


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(part)}" for key, part in value.items())
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
