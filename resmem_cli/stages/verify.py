"""`resmem verify`: whether artifacts still hold what was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.artifacts.verifying import verify_blocks
from resmem_cli.errors import DataError
from resmem_cli.types import StageResult


def verify(artifacts: Sequence[Path | str]) -> StageResult:
    """Read artifacts whole and recompute every digest.

    Parameters
    ----------
    artifacts : sequence of pathlib.Path or str
        The files.

    Returns
    -------
    StageResult
        `summary["files"]` has one entry a file, with `ok`, and `problem` where it is not.

    Raises
    ------
    MissingInputError
        If one of them is not there.
    """
    return StageResult("verify", None, {"files": [_verify_one(Path(path)) for path in artifacts]})


def _verify_one(path: Path) -> dict[str, Any]:
    try:
        with open_artifact(path) as artifact:
            n_bytes = verify_blocks(artifact)
            return {"file": str(path), "ok": True, "format": artifact.header.format.name, "bytes": n_bytes}
    except DataError as error:
        return {"file": str(path), "ok": False, "problem": str(error)}
