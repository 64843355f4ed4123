"""`resmem verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from resmem_cli.cli import console, options
from resmem_cli.errors import CheckFailedError


def run(
    artifacts: Annotated[
        list[Path],
        options.input_argument("FILE...", "Artifacts of any format."),
    ],
    json: options.Json = False,
) -> None:
    """Recompute the digests of artifacts.

    They are read whole; the exit status is 3 if one does not hold.
    """
    from resmem_cli.stages.verify import verify

    result = verify(artifacts)
    files = result.summary["files"]
    if json:
        console.emit_json(result)
    else:
        for entry in files:
            verdict = f"ok, {entry['bytes']:,} bytes" if entry["ok"] else "DAMAGED"
            console.emit(f"{entry['file']}: {verdict}")
    problems = [entry["problem"] for entry in files if not entry["ok"]]
    if problems:
        rest = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CheckFailedError(problems[0] + rest)
