"""`resmem export`: what an artifact holds, as .npz, .csv or .parquet for other tools."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from resmem_cli.arrays.npz_file import NpzWriter
from resmem_cli.arrays.table_files import CsvWriter, ParquetWriter, TableWriter
from resmem_cli.artifacts.provenance import canonical_json
from resmem_cli.artifacts.reader import Artifact, open_artifact
from resmem_cli.artifacts.tables import Table, tables
from resmem_cli.artifacts.temporary import new_file
from resmem_cli.errors import UsageError, naming_file
from resmem_cli.stages.export_columns import Columns, uses_class_names
from resmem_cli.stages.streaming import rows_within
from resmem_cli.types import Progress, StageResult, no_progress, row_blocks

ALL = "all"
"""What a .npz file holds if no table is chosen."""

_ARCHIVE = ".npz"
_DOCUMENT = ".json"
_TABLES: dict[str, type[TableWriter]] = {".csv": CsvWriter, ".parquet": ParquetWriter}


def export(
    path: Path | str,
    *,
    output: Path | str,
    what: str | None = None,
    block_rows: int | None = None,
    clobber: bool = True,
    progress: Progress = no_progress,
) -> StageResult:
    """Write what an artifact holds as .npz, .csv or .parquet, or a report's document as .json.

    A .csv or .parquet file holds one table. Its first column numbers the rows from 0 (`query` for
    predictions). A dataset with two axes is a column for each entry of the second, save where a group's
    datasets all have the same two, as the neighbours do: there each entry is a row, with its `rank` from 0.
    Columns of classes are followed by the classes' names, where the artifact has them.

    A .npz file holds datasets as they are, each under its path, and `parameters` as JSON.

    Parameters
    ----------
    path : pathlib.Path or str
        An artifact of any format.
    output : pathlib.Path or str
        The file to write; its suffix chooses what it is.
    what : str, optional
        The table to write, such as `neighbors`. If not given, all of the artifact as .npz; else its
        main table: one row a query, an example, a run or a setting.
    block_rows : int, optional
        Rows at a time; changes nothing in the result.
    clobber : bool
        Whether an existing output may be replaced.
    progress : Progress
        Shows how far the rows have come.

    Returns
    -------
    StageResult
        `summary` has the `table`, its `rows` and `columns` (None for all of an artifact), for .npz the
        number of `arrays`, and the artifact's `other_tables`.

    Raises
    ------
    UsageError
        For an unknown suffix or table, and if the output is the input.
    MissingInputError, MissingExtraError, DataError, OutputError
        As the message says; nothing is written then.
    """
    path, output = Path(path), Path(output)
    suffix = output.suffix.lower()
    if suffix not in (_ARCHIVE, _DOCUMENT, *_TABLES):
        raise UsageError(
            "can't tell what to write",
            file=output,
            expected=".npz, .csv or .parquet, or .json for a report",
            found=suffix or "none",
        )
    if block_rows is not None and block_rows < 1:
        raise UsageError("--block-rows out of range", expected="at least 1", found=block_rows)
    with open_artifact(path) as artifact:
        found = _present(artifact)
        table: Table | None
        if suffix == _DOCUMENT:
            table = _document(path, found, what)
            with new_file(output, reads=artifact.files, clobber=clobber) as stream:
                stream.write(artifact.read("document").tobytes())
            figures: dict[str, Any] = {"rows": None, "columns": None, "arrays": None}
        elif suffix == _ARCHIVE:
            table = None if what in (None, ALL) else _choose(path, [*found, ALL], found, what)
            with new_file(output, reads=artifact.files, clobber=clobber) as stream:
                figures = _write_archive(stream, artifact, table, block_rows, progress)
        else:
            table = _choose(path, list(found), found, what)
            with new_file(output, reads=artifact.files, clobber=clobber) as stream, naming_file(output):
                figures = _write_table(stream, _TABLES[suffix], artifact, table, block_rows, progress)
    name = ALL if table is None else table.name
    others = [other for other in found if other != name]
    return StageResult("export", output, {"table": name, **figures, "other_tables": others or None})


def _present(artifact: Artifact) -> dict[str, Table]:
    """Give the format's tables with the datasets that the file has."""
    present = {}
    for name, table in tables(artifact.header.format).items():
        datasets = tuple(spec for spec in table.datasets if spec.path in artifact)
        if datasets:
            present[name] = dataclasses.replace(table, datasets=datasets)
    return present


def _document(path: Path, found: dict[str, Table], what: str | None) -> Table:
    if what not in (None, "document"):
        raise UsageError("a table as .json", file=path, expected="--what document, or none", found=what)
    if "document" not in found:
        raise UsageError(
            "no report, which alone has a document", file=path, remedy="export it as .npz, .csv or .parquet"
        )
    return found["document"]


def _choose(path: Path, valid: Sequence[str], found: dict[str, Table], what: str | None) -> Table:
    if what is None:
        return next(iter(found.values()))
    if what not in found:
        raise UsageError(
            "no such table",
            file=path,
            field="--what",
            expected=f"one of {', '.join(valid)}",
            found=what,
            remedy="only .npz holds all tables" if what == ALL else None,
        )
    return found[what]


def _write_table(
    stream: BinaryIO,
    kind: type[TableWriter],
    artifact: Artifact,
    table: Table,
    block_rows: int | None,
    progress: Progress,
) -> dict[str, Any]:
    columns = Columns(artifact, table)
    blocks = row_blocks(columns.n_first, block_rows or columns.rows_at_a_time())
    with kind(stream, columns.fields) as writer:
        for block in progress(blocks, f"writing {table.name}"):
            writer.write(columns.read(block))
    return {"rows": columns.n_rows, "columns": columns.n_columns, "arrays": None}


def _write_archive(
    stream: BinaryIO, artifact: Artifact, table: Table | None, block_rows: int | None, progress: Progress
) -> dict[str, Any]:
    paths = list(artifact.shapes) if table is None else [spec.path for spec in table.datasets]
    if table is not None and uses_class_names(artifact, table) and "class_names" not in paths:
        paths.append("class_names")
    with NpzWriter(stream) as writer:
        for path in paths:
            rows = artifact.rows(path)
            blocks = row_blocks(rows.shape[0], block_rows or rows_within(rows.shape, rows.dtype))
            shown = progress(blocks, f"writing {path}")
            writer.write(
                path, rows.shape, rows.dtype, (rows.read(block.start, block.stop) for block in shown)
            )
        writer.write_text("parameters", canonical_json(dict(artifact.parameters)))
    n_rows = None if table is None else artifact.shapes[paths[0]][0][0]
    return {"rows": n_rows, "columns": None, "arrays": len(paths) + 1}
