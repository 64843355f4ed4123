"""Embeddings and what goes with them, read alike from an artifact and from exported arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.base import ArrayRows, RowSource
from resmem_cli.arrays.embedding_arrays import open_embedding_arrays
from resmem_cli.arrays.rows import FiniteRows
from resmem_cli.artifacts.formats import EMBEDDINGS
from resmem_cli.artifacts.provenance import (
    DatasetDigest,
    InputRecord,
    block_rows,
    content_digest,
    digest_rows,
)
from resmem_cli.artifacts.reader import Artifact, is_artifact, open_artifact
from resmem_cli.errors import DataError, UsageError
from resmem_cli.rows import RowRange
from resmem_cli.stages.top_logits import TOP_LOGITS, SpreadLogits, TopLogitRows
from resmem_cli.types import ArraySelection, Closing, row_blocks


class EmbeddingSource(Closing):
    """Rows of embeddings, and their logits, labels and names where there are any.

    Close it, or use it as a context manager.

    Attributes
    ----------
    path : pathlib.Path
        Where they come from.
    files : tuple of pathlib.Path
        Every file that is read.
    embeddings : RowSource
        (n, d) float32 or float16.
    logits : RowSource or None
        (n, C) float32 or float16; log-probabilities made up for most classes where only the largest logits
        are stored.
    top_logits : TopLogitRows or None
        What is stored in that case.
    labels : (n,) int32 or None
        In [0, C).
    ids : (n,) int64 or bytes, or None
        The user's names of the rows.
    class_names : (C,) bytes or None
        UTF-8.
    sources : mapping
        Where each array was found, by role.
    encoder : mapping or None
        Which network made the embeddings, where `embed` made them.
    notices : tuple of str
        What the user should know of how the arrays are read.
    """

    def __init__(
        self,
        path: Path,
        arrays: Mapping[str, RowSource],
        *,
        parameters: Mapping[str, Any],
        kind: str,
        files: tuple[Path, ...],
        notices: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.files = files
        self.notices = notices
        self._parameters = parameters
        self.sources: Mapping[str, str] = parameters["sources"]
        self.encoder: Mapping[str, Any] | None = parameters.get("encoder")
        self.embeddings = arrays["embeddings"]
        self.top_logits = _top_logits(path, arrays, parameters)
        self.logits: RowSource | None = arrays.get("logits")
        if self.top_logits:
            self.logits = SpreadLogits(self.top_logits)
        self.labels = self._whole(arrays, "labels")
        self.ids = self._whole(arrays, "ids")
        self.class_names = self._whole(arrays, "class_names")
        self.n, self.d = self.embeddings.shape
        self.n_classes = None if self.logits is None else self.logits.shape[1]
        if self.top_logits and self.class_names is not None and len(self.class_names) != self.n_classes:
            raise DataError(
                "not one name a class",
                file=path,
                field="class_names",
                expected=self.n_classes,
                found=len(self.class_names),
            )
        self._arrays = arrays
        self._digests: dict[str, DatasetDigest] = {}
        self._kind = kind
        self._stack = ExitStack()

    @staticmethod
    def _whole(arrays: Mapping[str, RowSource], name: str) -> NDArray[Any] | None:
        return arrays[name].read(0, arrays[name].shape[0]) if name in arrays else None

    @property
    def arrays(self) -> Mapping[str, RowSource]:
        """Everything there is, by the dataset names of the embeddings format."""
        return self._arrays

    @cached_property
    def digest(self) -> str:
        """Content digest of an embeddings artifact that holds these rows.

        Exported arrays are read once more to compute it, so that index and residuals made straight
        from the same arrays are known to belong together.
        """
        return content_digest({name: self._dataset_digest(name) for name in self._arrays})

    def _dataset_digest(self, name: str) -> DatasetDigest:
        if name not in self._digests:
            self._digests[name] = self._compute_digest(name)
        return self._digests[name]

    def _compute_digest(self, name: str) -> DatasetDigest:
        spec, rows = EMBEDDINGS.spec(name), self._arrays[name]
        step = block_rows(spec, rows.dtype, rows.shape)
        blocks: Iterator[NDArray[Any]] = (rows.read(b.start, b.stop) for b in row_blocks(rows.shape[0], step))
        return digest_rows(spec, rows.dtype, rows.shape, blocks)

    @cached_property
    def embeddings_digest(self) -> str:
        """Digest of the embeddings alone: what an index and residuals must have in common."""
        return content_digest({"embeddings": self._dataset_digest("embeddings")})

    def part(self, rows: slice) -> EmbeddingSource:
        """Give a range of the rows, as a source of its own; its digests are those of the whole."""
        return self if rows == slice(0, self.n) else _PartSource(self, rows)

    def record(self, role: str) -> InputRecord:
        """Describe this source for the lineage of what is made from it."""
        return InputRecord(role=role, file=self.path.name, format=self._kind, digest=self.digest)

    def require_logits(self) -> RowSource:
        """Give the logits.

        Raises
        ------
        DataError
            If there are none.
        """
        if self.logits is None:
            raise DataError(
                "has no logits", file=self.path, remedy="name them with --logits or --probabilities"
            )
        return self.logits

    def require_labels(self) -> NDArray[np.int32]:
        """Give the labels.

        Raises
        ------
        DataError
            If there are none.
        """
        if self.labels is None:
            raise DataError("has no labels", file=self.path, remedy="name them with --labels")
        return self.labels

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def closing(self, *resources: Any) -> Self:
        """Close these too, when the source is closed."""
        for resource in resources:
            self._stack.enter_context(resource)
        return self


def open_embeddings(path: Path | str, selection: ArraySelection | None = None) -> EmbeddingSource:
    """Open an embeddings artifact, or a file of exported arrays.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    selection : ArraySelection, optional
        Which of a file's arrays are meant.

    Raises
    ------
    MissingInputError
        If there is no such file.
    DataError
        If it can't be used; the message says why.
    UsageError
        If arrays are selected from an artifact, whose names are fixed.
    """
    path = Path(path)
    selection = selection or ArraySelection()
    if is_artifact(path):
        artifact = open_artifact(path, EMBEDDINGS)
        chosen = [name for name, value in dataclasses.asdict(selection).items() if value is not None]
        if chosen:
            artifact.close()
            raise UsageError(
                "an embeddings artifact has fixed names and no splits",
                file=path,
                found=", ".join(f"--{name.replace('_', '-')}" for name in chosen),
                remedy="leave the option out",
            )
        try:
            return _ArtifactSource(artifact).closing(artifact)
        except BaseException:
            artifact.close()
            raise
    arrays = open_embedding_arrays(path, selection)
    found: dict[str, RowSource] = {"embeddings": arrays.embeddings}
    if arrays.logits is not None:
        found["logits"] = arrays.logits
    for name, values in (("labels", arrays.labels), ("ids", arrays.ids), ("class_names", arrays.class_names)):
        if values is not None:
            found[name] = ArrayRows(values)
    return EmbeddingSource(
        path,
        found,
        parameters={"sources": arrays.sources},
        kind="arrays",
        files=arrays.files,
        notices=arrays.notices,
    ).closing(arrays)


def _top_logits(
    path: Path, arrays: Mapping[str, RowSource], parameters: Mapping[str, Any]
) -> TopLogitRows | None:
    if TOP_LOGITS[0] not in arrays:
        return None
    n_classes = parameters.get("n_classes")
    # Nothing else in the file tells the number of classes.
    if type(n_classes) is not int:
        raise DataError(
            "not a number",
            file=path,
            field="parameters.n_classes",
            found=n_classes,
            remedy="make the file again with `resmem embed`",
        )
    return TopLogitRows(path, arrays, n_classes)


def _check_labels(path: Path, labels: NDArray[np.int32] | None, n_classes: int | None) -> None:
    if labels is None:
        return
    wrong = (labels < 0) | (labels >= (np.inf if n_classes is None else n_classes))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"label of row {row:,} out of range",
            file=path,
            field="labels",
            expected="at least 0" if n_classes is None else f"0 to {n_classes - 1:,}",
            found=int(labels[row]),
            remedy="make the file again",
        )


class _PartSource(EmbeddingSource):
    def __init__(self, whole: EmbeddingSource, rows: slice) -> None:
        def is_cut(name: str) -> bool:
            return EMBEDDINGS.spec(name).dims[0] == EMBEDDINGS.row_axis

        super().__init__(
            whole.path,
            {name: RowRange(array, rows) if is_cut(name) else array for name, array in whole.arrays.items()},
            parameters=whole._parameters,
            kind=whole._kind,
            files=whole.files,
            notices=whole.notices,
        )
        self._of = whole

    @cached_property
    def digest(self) -> str:
        return self._of.digest

    @cached_property
    def embeddings_digest(self) -> str:
        return self._of.embeddings_digest


class _ArtifactSource(EmbeddingSource):
    def __init__(self, artifact: Artifact) -> None:
        arrays: dict[str, RowSource] = {name: artifact.rows(name) for name in artifact.shapes}
        if "logits" in arrays:
            logits = arrays["logits"]
            arrays["logits"] = FiniteRows(logits, file=artifact.path, field="logits", dtype=logits.dtype)
        super().__init__(
            artifact.path,
            arrays,
            parameters=artifact.parameters,
            kind=EMBEDDINGS.name,
            files=artifact.files,
        )
        _check_labels(artifact.path, self.labels, self.n_classes)
        self._content_digest = artifact.header.content_digest
        self._digests = dict(artifact.digests)
        self._embeddings_digest = artifact.embeddings_digest

    @cached_property
    def digest(self) -> str:
        return self._content_digest

    @cached_property
    def embeddings_digest(self) -> str:
        return self._embeddings_digest or content_digest({"embeddings": self._dataset_digest("embeddings")})
