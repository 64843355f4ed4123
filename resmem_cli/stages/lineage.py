"""Whether artifacts belong together, and what is said of them in what is made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resmem_cli.artifacts.provenance import InputRecord
from resmem_cli.artifacts.reader import Artifact
from resmem_cli.errors import DataError
from resmem_cli.stages.sources import EmbeddingSource


def check_lineage(index_file: Artifact, memory_file: Artifact, source: EmbeddingSource) -> None:
    """Refuse an index, residuals and queries that were not made by one network from one memory.

    Raises
    ------
    DataError
        Naming both files and both values.
    """
    logits = source.require_logits()
    facts: list[tuple[str, Artifact, Any, Path, Any, str]] = [
        (
            "made from the same embeddings",
            index_file,
            index_file.input_digest("embeddings"),
            memory_file.path,
            memory_file.input_digest("embeddings"),
            "make index and residuals from one file",
        ),
        ("of one dimension", index_file, index_file.dimensions["d"], source.path, source.d, "use one layer"),
        (
            "of the same number of classes",
            memory_file,
            memory_file.parameters["n_classes"],
            source.path,
            logits.shape[1],
            "use one network",
        ),
    ]
    if source.encoder is not None and index_file.parameters.get("encoder") is not None:
        facts += [
            (
                f"embedded with the same {name}",
                index_file,
                index_file.parameters["encoder"].get(name),
                source.path,
                source.encoder.get(name),
                "embed both with one checkpoint and layer",
            )
            for name in ("checkpoint_digest", "layer")
        ]
    for what, artifact, expected, other, found, remedy in facts:
        if expected != found:
            raise DataError(
                f"not {what} as {artifact.path}",
                file=other,
                expected=_short(expected),
                found=_short(found),
                remedy=remedy,
            )
    names = memory_file.read_optional("class_names")
    if source.class_names is not None and names is not None and list(names) != list(source.class_names):
        raise DataError(
            f"class names differ from those of {memory_file.path}", file=source.path, field="class_names"
        )


def artifact_record(role: str, artifact: Artifact) -> InputRecord:
    """Describe an artifact for the lineage of what is made from it."""
    return InputRecord(
        role=role,
        file=artifact.path.name,
        format=artifact.header.format.name,
        digest=artifact.header.content_digest,
    )


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
