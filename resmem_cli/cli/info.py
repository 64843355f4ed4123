"""`resmem info`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from resmem_cli.cli import console, options


def run(
    artifact: Annotated[Path, options.input_argument("FILE", "Any artifact.")],
    json: options.Json = False,
) -> None:
    """Show what an artifact holds.

    Its parameters too, and what it was made from.
    """
    from resmem_cli.stages.info import info

    result = info(artifact)
    if json:
        console.emit_json(result)
        return
    summary = result.summary
    console.emit_fields(
        {name: value for name, value in summary.items() if not isinstance(value, dict | list)}
    )
    _emit_tree(summary["datasets"])
    if summary["parameters"]:
        console.emit("parameters")
        for name, value in summary["parameters"].items():
            if value is not None:
                console.emit(f"  {name}: {console.show_value(name, value)}")
    if summary["inputs"]:
        console.emit("made from")
        for record in summary["inputs"]:
            console.emit(f"  {record['role']}: {record['file']} ({record['format']}, {record['digest']})")


def _emit_tree(datasets: Mapping[str, Mapping[str, Any]]) -> None:
    console.emit("datasets")
    rows = [
        (name, f"({', '.join(f'{length:,}' for length in entry['shape'])})", entry["dtype"], entry["holds"])
        for name, entry in datasets.items()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for name, shape, dtype, holds in rows:
        console.emit(f"  {name:<{widths[0]}}  {shape:<{widths[1]}}  {dtype:<{widths[2]}}  {holds}")
