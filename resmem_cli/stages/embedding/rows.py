"""The rows of every batch, into an artifact: those that are wanted, in the type they are stored in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError
from resmem_cli.stages.embedding.batches import Batches, Datasets
from resmem_cli.types import StorageType


class RowWriter:
    """Appends the wanted rows of every batch to the writer's datasets, which the first batch declares.

    Parameters
    ----------
    rows : slice
        The rows that the artifact holds.
    n_done : int
        How many of them it has already.
    """

    def __init__(
        self, writer: ArtifactWriter, batches: Batches, rows: slice, *, n_done: int, storage: StorageType
    ) -> None:
        self._writer = writer
        self._all = batches
        self._rows = rows
        self._next = rows.start + n_done
        self._storage = storage
        self._widths: dict[str, tuple[int, ...]] = {}
        # One batch is run even if all is there: it tells the layer.
        first = min(self._next, rows.stop - 1)
        self.batches = [
            number
            for number, batch in enumerate(batches.slices)
            if batch.stop > first and batch.start < rows.stop
        ]
        self.d = 0

    def wanted(self, number: int) -> slice:
        """Give the rows of a batch that are still to be written, counted from the shard's first."""
        batch, offset = self._all.slices[number], self._rows.start
        start = min(max(batch.start, self._next), self._rows.stop)
        return slice(start - offset, min(batch.stop, self._rows.stop) - offset)

    def append(self, number: int, datasets: Datasets) -> None:
        """Write a batch's rows."""
        first = self._all.slices[number].start - self._rows.start
        wanted = self.wanted(number)
        datasets = {name: self._stored(name, rows) for name, rows in datasets.items()}
        widths = {name: rows.shape[1:] for name, rows in datasets.items()}
        if not self._widths:
            self._declare(datasets)
            self._widths = widths
        if widths != self._widths:
            raise DataError(
                f"the network's outputs change their width at row {self._rows.start + wanted.start:,}",
                expected=_told(self._widths),
                found=_told(widths),
            )
        for name, rows in datasets.items():
            self._writer.append(name, rows[wanted.start - first : wanted.stop - first])

    def _declare(self, datasets: Datasets) -> None:
        self.d = datasets["embeddings"].shape[1]
        n = self._rows.stop - self._rows.start
        for name, rows in datasets.items():
            self._writer.create(name, (n, *rows.shape[1:]), rows.dtype)

    def _stored(self, name: str, rows: NDArray[Any]) -> NDArray[Any]:
        if self._storage is StorageType.FLOAT32 or name not in ("embeddings", "logits"):
            return rows
        with np.errstate(over="ignore"):
            narrow = rows.astype(np.float16)
        if not np.isfinite(narrow).all():
            raise DataError(
                f"{name} too large for float16",
                expected=f"at most {np.finfo(np.float16).max:.0f}",
                found=f"{np.abs(rows).max():.6g}",
                remedy="store them as float32",
            )
        return narrow


def _told(widths: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} of {' x '.join(map(str, width)) or 1}" for name, width in widths.items())
