"""`resmem info`: what an artifact holds, how it was made, and from what."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.types import StageResult


def info(artifact: Path | str) -> StageResult:
    """Describe an artifact of any format, without reading its rows.

    Parameters
    ----------
    artifact : pathlib.Path or str
        The file.

    Raises
    ------
    MissingInputError, DataError
        As the message says.
    """
    artifact = Path(artifact)
    with open_artifact(artifact) as opened:
        header = opened.header
        summary = {
            "file": artifact.name,
            "format": header.format.name,
            "format_version": header.version,
            "generated_by": header.generated_by,
            "bytes": artifact.stat().st_size,
            "content_digest": header.content_digest,
            "datasets": {
                name: {
                    "shape": list(shape),
                    "dtype": dtype.str.lstrip("<|"),
                    "holds": header.format.spec(name).doc,
                }
                for name, (shape, dtype) in opened.shapes.items()
            },
            "parameters": dict(header.parameters),
            "inputs": [dataclasses.asdict(record) for record in header.inputs],
        }
    return StageResult("info", None, summary)
