"""What an update changes in a memory: which rows go, which come, and what they are called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.provenance import InputRecord, canonical_json
from resmem_cli.artifacts.reader import Artifact
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError
from resmem_cli.files import read_stream
from resmem_cli.stages.lineage import artifact_record, check_network
from resmem_cli.stages.row_ids import RowIds, row_ids, rows_named
from resmem_cli.stages.sources import EmbeddingSource
from resmem_cli.stages.stored_memory import StoredMemory
from resmem_cli.stages.streaming import block_bytes
from resmem_cli.types import Progress, row_blocks


@dataclass(frozen=True)
class MemoryChange:
    """Which rows go, and which come.

    Attributes
    ----------
    removed : (n_before,) bool
        Rows of the old memory that go.
    source : EmbeddingSource or None
        Rows that come.
    ids : RowIds
        Of the new memory.
    listed : InputRecord or None
        The file that names the rows that go.
    notices : tuple of str
        What the user should know.
    """

    removed: NDArray[np.bool_]
    source: EmbeddingSource | None
    ids: RowIds
    listed: InputRecord | None
    notices: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        files: dict[str, Artifact],
        source: EmbeddingSource | None,
        remove: Path | None,
        *,
        renumber: bool,
    ) -> MemoryChange:
        """Find out what is to change, and refuse what can't.

        Parameters
        ----------
        files : dict of str to Artifact
            The memory's ``index``, its ``residuals``, or both.
        source : EmbeddingSource or None
            Rows to add.
        remove : pathlib.Path or None
            A list of ids.
        renumber : bool
            Name the added rows by numbers.

        Raises
        ------
        DataError
            If an id names no row, no row stays, or the new rows do not fit the memory.
        """
        ids = row_ids(list(files.values()))
        content = b"" if remove is None else read_stream(remove)
        removed = np.zeros(len(ids.values), bool) if remove is None else rows_named(content, remove, ids)
        if removed.all():
            raise DataError(
                "names all rows of the memory",
                file=remove,
                expected="some that stay",
                remedy="make a new memory of other rows with `resmem index` and `resmem residualize`",
            )
        listed = None
        if remove is not None:
            digest = hashlib.sha256(content).hexdigest()
            listed = InputRecord(role="removed", file=remove.name, format="ids", digest=digest)
        after = ids.without(removed)
        if source is not None:
            for file in files.values():
                check_network(file, source)
            if "residuals" in files:
                _check_logits(StoredMemory(files["residuals"]), files["residuals"], source)
            after = after.with_added(source, renumber=renumber)
        notices = [
            f"{file.path}: a file of version 1 has no ids, so its rows are named by number"
            for file in files.values()
            if file.header.version == 1 and len(files) == 1 and "residuals" in files
        ]
        if remove is not None and not removed.any():
            notices.append(f"{remove}: names no row, so none is removed")
        return cls(removed, source, after, listed, tuple(notices))

    @property
    def kept(self) -> NDArray[np.int64]:
        """Rows of the old memory that stay, ascending."""
        return np.flatnonzero(~self.removed)

    @property
    def n_after(self) -> int:
        """Rows of the new memory."""
        return len(self.ids.values)

    def summary(self) -> dict[str, int]:
        """Count the rows."""
        n_removed = int(self.removed.sum())
        return {
            "rows_before": len(self.removed),
            "removed": n_removed,
            "added": 0 if self.source is None else self.source.n,
            "rows": self.n_after,
        }

    def describe(self, writer: ArtifactWriter, old: Artifact) -> None:
        """Write lineage and parameters of the old artifact's successor."""
        record = {
            "parent": old.parameters["embeddings_digest"],
            "added": None if self.source is None else self.source.embeddings_digest,
            "removed": hashlib.sha256(np.flatnonzero(self.removed).astype("<i8").tobytes()).hexdigest(),
        }
        writer.add_inputs(artifact_record(old.header.format.name.removeprefix("resmem."), old))
        if self.source is not None:
            writer.add_inputs(self.source.record("added"))
        if self.listed is not None:
            writer.add_inputs(self.listed)
        parameters = dict(old.parameters)
        parameters["embeddings_digest"] = hashlib.sha256(canonical_json(record).encode()).hexdigest()
        parameters["update"] = {**self.summary(), "next_id": self.ids.next_id}
        writer.set_parameters(**parameters)

    def kept_rows(
        self, file: Artifact, names: tuple[str, ...], progress: Progress
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        """Read what stays of some datasets, in blocks of rows of all of them."""
        stored = [file.mapped(name) for name in names]
        row_bytes = sum(rows.dtype.itemsize * rows.shape[1] for rows in stored)
        for block in progress(row_blocks(len(self.removed), max(1, block_bytes() // row_bytes)), "copying"):
            stays = ~self.removed[block]
            if stays.any():
                blocks = (rows.read(block.start, block.stop) for rows in stored)
                yield tuple(rows if stays.all() else rows[stays] for rows in blocks)


def _check_logits(memory: StoredMemory, memory_file: Artifact, source: EmbeddingSource) -> None:
    """Refuse new rows of which residuals like the memory's can't be computed."""
    source.require_labels()
    logits = source.top_logits
    if logits is None:
        return
    found = None
    if memory.temperature != 1:
        expected, found = "residuals of temperature 1", f"{memory.temperature} in {memory_file.path}"
    elif not memory.truncated:
        expected, found = "truncated residuals", f"whole ones in {memory_file.path}"
    elif memory_file.dimensions["m"] > logits.n_kept:
        expected = f"at least {memory_file.dimensions['m']:,}, as {memory_file.path} keeps"
        found = f"{logits.n_kept:,}"
    if found is not None:
        raise DataError(
            "has the largest logits of each row only, and the log-sum-exp of all of them at T = 1",
            file=source.path,
            expected=expected,
            found=found,
            remedy="embed the new rows without --top, or with a larger one",
        )
    logits.require_label_logits()
