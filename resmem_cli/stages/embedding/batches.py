"""What `embed` runs a network on, batch by batch: rows of arrays or images, or windows of documents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.embedding_arrays import InputArrays
from resmem_cli.arrays.image_folder import ImageFolder
from resmem_cli.arrays.token_arrays import TokenArrays
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError, naming_file
from resmem_cli.types import row_blocks

if TYPE_CHECKING:
    from resmem_cli.models.capture import Activations, EmbeddingCapture
    from resmem_cli.models.extra import torch
    from resmem_cli.models.inputs import ImagePreprocessing
    from resmem_cli.models.windows import WindowBatch, WindowPlan

Datasets = dict[str, NDArray[Any]]
"""Rows of several datasets of the embeddings format, by their paths."""


class Batches(Protocol):
    """The rows to embed, cut into the batches a network is run on.

    Attributes
    ----------
    slices : list of slice
        The rows of every batch, in order; a batch is always run whole, so that its rows come out the same
        to the bit whichever of them are wanted.
    n_classes : int
        The network's classes, known when the first batch was run.
    """

    slices: list[slice]
    n_classes: int

    def prepare(self, batch: int) -> Any:
        """Read a batch and turn it into what the network takes; runs beside `run`, in another thread."""

    def run(self, batch: int, prepared: Any) -> Datasets:
        """Run the network on a prepared batch; give the datasets' rows of this batch."""

    def write_rest(self, writer: ArtifactWriter, rows: slice) -> None:
        """Write what is known of these rows and needs no network."""


class RowBatches:
    """Rows of arrays, or images: one embedding each."""

    def __init__(
        self,
        source: InputArrays | ImageFolder,
        capture: EmbeddingCapture,
        *,
        path: Path,
        batch_rows: int,
        preprocessing: ImagePreprocessing | None,
        top: int | None,
    ) -> None:
        self._source = source
        self._capture = capture
        self._path = path
        self._preprocessing = preprocessing
        self._top = top
        self.slices = row_blocks(source.n, batch_rows)
        self.n_classes = 0

    def prepare(self, batch: int) -> torch.Tensor:
        """Read the rows, and scale them if they are images."""
        rows = self.slices[batch]
        with naming_file(self._path):
            return self._capture.prepare(
                self._source.inputs.read(rows.start, rows.stop), preprocessing=self._preprocessing
            )

    def run(self, batch: int, prepared: torch.Tensor) -> Datasets:
        """Run the network on the rows."""
        rows = self.slices[batch]
        labels = None if self._source.labels is None else self._source.labels[rows]
        with naming_file(self._path):
            found = self._capture.run(prepared, first_row=rows.start, top=self._top, labels=labels)
        if not self.n_classes:
            self.n_classes = _n_classes(found)
            self._check(self.n_classes)
        return _datasets(found)

    def _check(self, n_classes: int) -> None:
        labels, names = self._source.labels, self._source.class_names
        if labels is not None and labels.max() >= n_classes:
            row = int(np.argmax(labels >= n_classes))
            raise DataError(
                f"label of row {row:,} out of range",
                file=self._path,
                field="labels",
                expected=f"0 to {n_classes - 1} (the network's classes)",
                found=int(labels[row]),
            )
        if names is not None and len(names) != n_classes:
            raise DataError(
                "not one name a class",
                file=self._path,
                field="class_names",
                expected=f"{n_classes} (the network's classes)",
                found=len(names),
                remedy="leave them out with --class-names none",
            )

    def write_rest(self, writer: ArtifactWriter, rows: slice) -> None:
        """Write labels, ids and class names."""
        for name, values in (("labels", self._source.labels), ("ids", self._source.ids)):
            if values is not None:
                writer.write(name, values[rows])
        if self._source.class_names is not None:
            writer.write("class_names", self._source.class_names)


class WindowBatches:
    """Windows of documents: one embedding for each token that has a next one."""

    def __init__(
        self,
        tokens: TokenArrays,
        plan: WindowPlan,
        capture: EmbeddingCapture,
        *,
        path: Path,
        batch_windows: int,
        top: int | None,
    ) -> None:
        self._tokens = tokens
        self._plan = plan
        self._capture = capture
        self._path = path
        self._top = top
        self._windows = row_blocks(plan.n_windows, batch_windows)
        self.slices = [plan.row_slice(windows) for windows in self._windows]
        self.n_classes = 0

    def prepare(self, batch: int) -> tuple[WindowBatch, torch.Tensor]:
        """Read the tokens of the windows and lay them out, padded at the right."""
        windows = self._windows[batch]
        span = self._plan.span(windows)
        with naming_file(self._path):
            laid_out = self._plan.batch(windows, self._tokens.read(span.start, span.stop))
            return laid_out, self._capture.prepare(laid_out.inputs)

    def run(self, batch: int, prepared: tuple[WindowBatch, torch.Tensor]) -> Datasets:
        """Run the network on the windows; labels are the next tokens, ids the tokens' positions."""
        laid_out, inputs = prepared
        with naming_file(self._path):
            found = self._capture.run_tokens(
                inputs,
                laid_out.keep,
                targets=laid_out.targets,
                top=self._top,
                first_row=self.slices[batch].start,
            )
        self.n_classes = _n_classes(found)
        return _datasets(found) | {
            "labels": laid_out.targets.astype(np.int32),
            "ids": laid_out.positions,
        }

    def write_rest(self, writer: ArtifactWriter, rows: slice) -> None:
        """Write where the documents are."""
        writer.write("documents/starts", self._tokens.starts)
        writer.write("documents/lengths", self._tokens.lengths)
        if self._tokens.names is not None:
            writer.write("documents/names", self._tokens.names)


def _datasets(found: Activations) -> Datasets:
    datasets: Datasets = {"embeddings": found.embeddings}
    if found.logits is not None:
        datasets["logits"] = found.logits
    if found.top is not None:
        datasets["logits_top/classes"] = found.top.classes
        datasets["logits_top/values"] = found.top.values
        datasets["logsumexp"] = found.top.logsumexp
        if found.top.label_logit is not None:
            datasets["label_logit"] = found.top.label_logit
    return datasets


def _n_classes(found: Activations) -> int:
    if found.top is not None:
        return found.top.n_classes
    return 0 if found.logits is None else int(found.logits.shape[1])
