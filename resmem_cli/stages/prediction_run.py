"""One pass over the queries of `predict`: read, searched, mixed and written at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import naming_file
from resmem_cli.indexes.base import Index, Neighbors
from resmem_cli.indexes.space import check_rows
from resmem_cli.memory import Prediction, predict_from_neighbors
from resmem_cli.residuals import largest_entries
from resmem_cli.stages.overlap import overlapped
from resmem_cli.stages.sources import EmbeddingSource
from resmem_cli.stages.stored_memory import StoredMemory
from resmem_cli.types import Method, Progress, row_blocks


class PredictionRun:
    """Predicts every query and writes the answers.

    Parameters
    ----------
    index, memory
        To search, and to mix.
    source : EmbeddingSource
        The queries, with logits.
    writer : ArtifactWriter
        Of a predictions artifact.
    index_path : pathlib.Path
        The file of the index, for errors.
    k, sigma, method, top_scores
        As `PredictConfig` has them; sigma is known by now.

    Attributes
    ----------
    steps : Counter
        How many queries each step of the search answered.
    """

    def __init__(
        self,
        index: Index,
        memory: StoredMemory,
        source: EmbeddingSource,
        writer: ArtifactWriter,
        *,
        index_path: Path,
        k: int,
        sigma: float,
        method: Method,
        top_scores: int | None,
    ) -> None:
        self._index = index
        self._index_path = index_path
        self._memory = memory
        self._source = source
        self._writer = writer
        self._logits = source.require_logits()
        self._k = k
        self._sigma = sigma
        self._method = method
        self._top_scores = top_scores
        self._truncated = method == Method.RESMEM and memory.truncated
        self._n_right = dict.fromkeys(("base_accuracy", "knn_accuracy", "accuracy"), 0)
        self._n_proved = 0
        self._largest_bound = 0.0
        self.steps: Counter[str] = Counter()

    def write(self, step: int, progress: Progress) -> None:
        """Predict all queries, `step` at a time."""
        self._declare()
        overlapped(
            progress(row_blocks(self._source.n, step), "predicting"),
            read=self._read,
            compute=self._predict,
            write=self._write,
        )

    def _declare(self) -> None:
        source, writer = self._source, self._writer
        n, n_classes = self._logits.shape
        declared: dict[str, tuple[tuple[int, ...], Any]] = {
            "predicted": ((n,), np.int32),
            "base_predicted": ((n,), np.int32),
            "knn_predicted": ((n,), np.int32),
            "neighbors/rows": ((n, self._k), np.int64),
            "neighbors/distances": ((n, self._k), np.float64),
            "neighbors/weights": ((n, self._k), np.float32),
            "neighbors/labels": ((n, self._k), np.int32),
        }
        if self._top_scores is None:
            declared["scores"] = ((n, n_classes), np.float32)
        else:
            declared["top_scores/classes"] = ((n, self._top_scores), np.int32)
            declared["top_scores/values"] = ((n, self._top_scores), np.float32)
        if self._truncated:
            declared["truncation/bound"] = ((n,), np.float32)
            declared["truncation/proved"] = ((n,), np.uint8)
        for name, (shape, dtype) in declared.items():
            writer.create(name, shape, dtype)
        names = self._memory.class_names if source.class_names is None else source.class_names
        for name, values in (("labels", source.labels), ("ids", source.ids), ("class_names", names)):
            if values is not None:
                writer.write(name, values)

    def _read(self, block: slice) -> tuple[NDArray[Any], NDArray[Any]]:
        embeddings = self._source.embeddings.read(block.start, block.stop)
        return embeddings, self._logits.read(block.start, block.stop)

    def _predict(
        self, block: slice, read: tuple[NDArray[Any], NDArray[Any]]
    ) -> tuple[Neighbors, NDArray[np.int32], Prediction]:
        embeddings, logits = read
        with naming_file(self._source.path):
            check_rows(embeddings, self._index.metric, first=block.start, what="query")
        with naming_file(self._index_path):
            found = self._index.search(embeddings, self._k)
        labels = self._memory.labels[found.rows]
        prediction = predict_from_neighbors(
            logits,
            rows=found.rows,
            distances=found.distances,
            neighbor_labels=labels,
            residuals=self._memory,
            sigma=self._sigma,
            temperature=self._memory.temperature,
            method=self._method,
        )
        return found, labels, prediction

    def _write(self, block: slice, result: tuple[Neighbors, NDArray[np.int32], Prediction]) -> None:
        found, labels, prediction = result
        append = self._writer.append
        append("predicted", prediction.predicted)
        append("base_predicted", prediction.base_predicted)
        append("knn_predicted", prediction.knn_predicted)
        if self._top_scores is None:
            append("scores", prediction.scores)
        else:
            best = largest_entries(prediction.scores, self._top_scores)
            append("top_scores/classes", best.astype(np.int32))
            append("top_scores/values", np.take_along_axis(prediction.scores, best, axis=1))
        append("neighbors/rows", found.rows)
        append("neighbors/distances", found.distances)
        append("neighbors/weights", prediction.weights)
        append("neighbors/labels", labels)
        if prediction.truncation is not None:
            append("truncation/bound", prediction.truncation.bound)
            append("truncation/proved", prediction.truncation.proved.astype(np.uint8))
            self._n_proved += int(prediction.truncation.proved.sum())
            self._largest_bound = max(self._largest_bound, float(prediction.truncation.bound.max()))
        self.steps.update(found.steps)
        self._count(prediction, block)

    def _count(self, prediction: Prediction, block: slice) -> None:
        if self._source.labels is None:
            return
        own = self._source.labels[block]
        for name, predicted in (
            ("base_accuracy", prediction.base_predicted),
            ("knn_accuracy", prediction.knn_predicted),
            ("accuracy", prediction.predicted),
        ):
            self._n_right[name] += int((predicted == own).sum())

    def accuracies(self) -> dict[str, float]:
        """Give the shares of right answers, and the gain, where labels are known."""
        if self._source.labels is None:
            return {}
        shares = {name: n_right / self._source.n for name, n_right in self._n_right.items()}
        return {
            **shares,
            "gain": (self._n_right["accuracy"] - self._n_right["base_accuracy"]) / self._source.n,
        }

    def truncation(self) -> dict[str, Any]:
        """Say what the residual entries that were not kept could have changed, where there are such."""
        if not self._truncated:
            return {}
        return {
            "proved_untouched_by_truncation": self._n_proved / self._source.n,
            "largest_truncation_bound": self._largest_bound,
        }
