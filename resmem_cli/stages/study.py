"""What `theory` and `reproduce` have in common: tables become an artifact, Markdown and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resmem_cli.artifacts.provenance import InputRecord, canonical_json
from resmem_cli.artifacts.result_formats import STUDY
from resmem_cli.artifacts.temporary import make_folder, new_files, resolve_target
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import OutputError
from resmem_cli.results import ResultTable
from resmem_cli.types import StageResult


@dataclass(frozen=True)
class StudyFiles:
    """Where a study is written.

    Attributes
    ----------
    output : pathlib.Path
        The artifact.
    markdown : pathlib.Path or None
        The tables as Markdown.
    figures : pathlib.Path or None
        A folder for figures, as SVG and PNG.
    clobber : bool
        Whether existing files may be replaced.
    """

    output: Path
    markdown: Path | None = None
    figures: Path | None = None
    clobber: bool = True

    def check(self) -> None:
        """Raise `OutputError` for what can't be written, before anything is computed."""
        for path in (self.output, self.markdown):
            if path is not None:
                resolve_target(path, clobber=self.clobber)
        if self.figures is not None and self.figures.exists() and not self.figures.is_dir():
            raise OutputError("not a folder", file=self.figures)


def write_study(
    study: str,
    tables: Sequence[ResultTable],
    files: StudyFiles,
    *,
    parameters: Mapping[str, Any],
    inputs: Sequence[InputRecord] = (),
    drawn_from: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
    notices: Sequence[str] = (),
) -> StageResult:
    """Write a study's tables, and draw its figures.

    Parameters
    ----------
    study : str
        Such as `theory` or `cifar`; its figures are registered under this name.
    tables : sequence of ResultTable
    files : StudyFiles
    parameters : mapping
        JSON values: all that the results depend on.
    inputs : sequence of InputRecord
        What it was made from.
    drawn_from : mapping, optional
        What figures are drawn from besides `tables`, such as pictures.
    summary : mapping, optional
        More JSON values for the result, such as the time it took; not in the artifact, which has the same
        bytes for the same results.
    notices : sequence of str

    Returns
    -------
    StageResult
        `summary["tables"]` holds the tables.

    Raises
    ------
    OutputError
        If a file can't be written.
    """
    document: dict[str, Any] = {"study": study, "tables": [table.document() for table in tables]}
    drawn = _draw(study, document, files.figures, drawn_from or {})
    others = dict(drawn)
    if files.markdown is not None:
        text = "\n".join(table.markdown() for table in tables)
        others[files.markdown] = text.encode(errors="replace")
    with new_files(others, clobber=files.clobber):
        _write_artifact(study, tables, document, files, parameters, inputs)
    shown = {**(summary or {}), "tables": document["tables"], "figures": [str(path) for path in drawn]}
    name = study if study == "theory" else f"reproduce {study}"
    return StageResult(name, files.output, shown, tuple(notices))


def _write_artifact(
    study: str,
    tables: Sequence[ResultTable],
    document: Mapping[str, Any],
    files: StudyFiles,
    parameters: Mapping[str, Any],
    inputs: Sequence[InputRecord],
) -> None:
    cells = [(table.name, *number) for table in tables for number in table.numbers()]
    text = canonical_json(document).encode(errors="replace")
    with ArtifactWriter(
        files.output,
        STUDY,
        inputs=inputs,
        parameters={"study": study, **parameters},
        clobber=files.clobber,
    ) as writer:
        if cells:
            names, positions, settings, columns, estimates = zip(*cells, strict=True)
            for path, strings in (("tables", names), ("settings", settings), ("columns", columns)):
                writer.write(f"cells/{path}", np.array([one.encode(errors="replace") for one in strings]))
            writer.write("cells/positions", np.array(positions, np.int32))
            for path, attribute in (("values", "value"), ("low", "low"), ("high", "high")):
                values = np.array([getattr(one, attribute) for one in estimates], np.float64)
                writer.write(f"cells/{path}", values)
        writer.write("document", np.frombuffer(text, np.uint8))


def _draw(
    study: str, document: Mapping[str, Any], folder: Path | None, drawn_from: Mapping[str, Any]
) -> dict[Path, bytes]:
    if folder is None:
        return {}
    from resmem_cli.plots import figure_files, study_figures  # matplotlib, which is not always needed

    by_name = {table["name"]: table for table in document["tables"]}
    drawn = study_figures(study, {**drawn_from, "tables": by_name})
    make_folder(folder)
    return {folder / name: content for name, content in figure_files(drawn)}
