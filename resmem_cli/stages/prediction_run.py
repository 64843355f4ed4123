"""One pass over the queries of `predict`: read, searched, mixed and written at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.formats import PREDICTIONS
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import naming_file
from resmem_cli.gate import Gate
from resmem_cli.indexes.approximate import ApproximateIndex
from resmem_cli.indexes.base import Index, Neighbors
from resmem_cli.indexes.space import check_rows
from resmem_cli.largest import largest_entries
from resmem_cli.prediction import Prediction, predict_from_neighbors
from resmem_cli.settings import Settings, Softening
from resmem_cli.stages.found import FoundBefore
from resmem_cli.stages.overlap import overlapped
from resmem_cli.stages.sources import EmbeddingSource
from resmem_cli.stages.stored_memory import StoredMemory
from resmem_cli.types import Method, ProbabilityMethod, Progress, ResidualSpace, row_blocks

if TYPE_CHECKING:
    # They take a while to import, and few runs need them.
    from resmem_cli.quality import Outcomes
    from resmem_cli.stages.comparison import Comparison


@dataclass(frozen=True)
class Answer:
    """What is answered to every query.

    Attributes
    ----------
    settings : Settings
        The temperature is that of the residuals.
    method, top_scores, probabilities
        As `PredictConfig` has them.
    softening : Softening or None
        For `ProbabilityMethod.TEMPERATURE`.
    gate : Gate or None
        Where memory is used.
    comparison : Comparison or None
        The baselines.
    """

    settings: Settings
    method: Method = Method.RESMEM
    top_scores: int | None = None
    gate: Gate | None = None
    probabilities: ProbabilityMethod | None = None
    softening: Softening | None = None
    comparison: Comparison | None = None


@dataclass(frozen=True)
class _Done:
    """A block of queries, answered."""

    found: Neighbors
    labels: NDArray[np.int32]
    prediction: Prediction
    probabilities: NDArray[np.float32] | None
    compared: list[Outcomes]


_COMPARED: dict[str, Any] = {
    "predicted": np.int32,
    "label_probability": np.float32,
    "confidence": np.float32,
    "squares": np.float32,
    "label_rank": np.int32,
}


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
    answer : Answer
        What to compute.
    found : FoundBefore or None
        Neighbours in place of a search.
    first_query : int
        The number of the first query among those of `found`.

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
        answer: Answer,
        found: FoundBefore | None = None,
        first_query: int = 0,
    ) -> None:
        self._index = index
        self._index_path = index_path
        self._found, self._first_query = found, first_query
        self._memory = memory
        self._source = source
        self._writer = writer
        self._logits = source.require_logits()
        self._answer = answer
        self._top_scores = answer.top_scores
        self._explains = answer.method == Method.RESMEM
        self._gated = self._explains and (answer.gate is not None or answer.settings.strength != 1)
        self._truncated = self._explains and memory.truncated
        self._n_right = dict.fromkeys(("base_accuracy", "knn_accuracy", "accuracy"), 0)
        self._n_proved = 0
        self._largest_bound = 0.0
        self._n_open = self._n_fixed = 0
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
        k = self._answer.settings.k
        declared: dict[str, tuple[tuple[int, ...], Any]] = {
            "predicted": ((n,), np.int32),
            "base_predicted": ((n,), np.int32),
            "knn_predicted": ((n,), np.int32),
            "neighbors/rows": ((n, k), np.int64),
            "neighbors/distances": ((n, k), np.float64),
            "neighbors/weights": ((n, k), np.float32),
            "neighbors/labels": ((n, k), np.int32),
        }
        if self._explains:
            declared["base_confidence"] = ((n,), np.float32)
            declared["runner_up"] = ((n,), np.int32)
            declared["neighbors/contributions"] = ((n, k), np.float32)
        if self._gated:
            declared |= {f"gate/{name}": ((n,), np.uint8) for name in ("open", "fixed")}
        width = n_classes if self._top_scores is None else self._top_scores
        if self._top_scores is None:
            declared["scores"] = ((n, n_classes), np.float32)
        else:
            declared["top_scores/classes"] = ((n, width), np.int32)
            declared["top_scores/values"] = ((n, width), np.float32)
        if self._answer.probabilities is not None:
            declared[self._probabilities] = ((n, width), np.float32)
        if self._truncated:
            declared["truncation/bound"] = ((n,), np.float32)
            declared["truncation/proved"] = ((n,), np.uint8)
        if self._answer.comparison is not None:
            n_methods = len(self._answer.comparison.methods)
            declared |= {f"compared/{name}": ((n, n_methods), dtype) for name, dtype in _COMPARED.items()}
        for spec in PREDICTIONS.datasets:  # in the order that `merge` knows too
            if spec.path in declared:
                writer.create(spec.path, *declared[spec.path])
        writer.write("class_counts", np.bincount(self._memory.labels, minlength=n_classes).astype(np.int64))
        names = self._memory.class_names if source.class_names is None else source.class_names
        for name, values in (("labels", source.labels), ("ids", source.ids), ("class_names", names)):
            if values is not None:
                writer.write(name, values)

    def _read(self, block: slice) -> tuple[NDArray[Any], NDArray[Any]]:
        embeddings = self._source.embeddings.read(block.start, block.stop)
        return embeddings, self._logits.read(block.start, block.stop)

    @property
    def _probabilities(self) -> str:
        return "probabilities" if self._top_scores is None else "top_scores/probabilities"

    def _predict(self, block: slice, read: tuple[NDArray[Any], NDArray[Any]]) -> _Done:
        embeddings, logits = read
        answer = self._answer
        k = answer.settings.k
        comparison = answer.comparison
        with naming_file(self._source.path):
            check_rows(embeddings, self._index.metric, first=block.start, what="query")
        with naming_file(self._index_path):
            whole = self._search(block, embeddings, k if comparison is None else comparison.k)
            found = whole
            if whole.rows.shape[1] > k:
                found = self._nearest(embeddings, whole, k)
        whole_labels = self._memory.labels[whole.rows]
        labels = whole_labels if found is whole else self._memory.labels[found.rows]
        prediction = self._mix(logits, found, labels, gate=answer.gate)
        compared: list[Outcomes] = []
        if comparison is not None and self._source.labels is not None:
            by_gate = {answer.gate: prediction}
            for gate in (None, comparison.gate):
                if gate not in by_gate:
                    by_gate[gate] = self._mix(logits, found, labels, gate=gate)
            own = self._source.labels[block]
            compared = comparison.outcomes(
                logits,
                own,
                found=whole,
                neighbor_labels=whole_labels,
                prediction=by_gate[None],
                gated=by_gate[comparison.gate],
            )
        return _Done(found, labels, prediction, self._as_probabilities(prediction), compared)

    def _search(self, block: slice, embeddings: NDArray[Any], k: int) -> Neighbors:
        if self._found is None:
            return self._index.search(embeddings, k)
        return self._found.search(block, embeddings, first=self._first_query)

    def _nearest(self, embeddings: NDArray[Any], whole: Neighbors, k: int) -> Neighbors:
        """Give what a search for k neighbours finds, where one for more was made."""
        if isinstance(self._index, ApproximateIndex):
            # It compares fewer rows, and so can find others: a comparison must not change the answer.
            return self._index.search(embeddings, k)
        return replace(
            whole,
            rows=np.ascontiguousarray(whole.rows[:, :k]),
            distances=np.ascontiguousarray(whole.distances[:, :k]),
        )

    def _mix(
        self, logits: NDArray[Any], found: Neighbors, labels: NDArray[np.int32], *, gate: Gate | None
    ) -> Prediction:
        settings = self._answer.settings
        return predict_from_neighbors(
            logits,
            rows=found.rows,
            distances=found.distances,
            neighbor_labels=labels,
            residuals=self._memory,
            sigma=settings.sigma,
            temperature=settings.temperature,
            strength=settings.strength,
            space=self._memory.space,
            method=self._answer.method,
            gate=gate,
            explain=self._explains,
        )

    def _as_probabilities(self, prediction: Prediction) -> NDArray[np.float32] | None:
        method = self._answer.probabilities
        if method is None:
            return None
        if self._memory.space == ResidualSpace.LOGIT:
            return prediction.scores  # probabilities already
        from resmem_cli.calibration import to_probabilities

        return to_probabilities(prediction.scores, method, softening=self._answer.softening)

    def _write(self, block: slice, done: _Done) -> None:
        found, prediction = done.found, done.prediction
        append = self._writer.append
        append("predicted", prediction.predicted)
        append("base_predicted", prediction.base_predicted)
        append("knn_predicted", prediction.knn_predicted)
        if self._top_scores is None:
            append("scores", prediction.scores)
            if done.probabilities is not None:
                append(self._probabilities, done.probabilities)
        else:
            best = largest_entries(prediction.scores, self._top_scores)
            append("top_scores/classes", best.astype(np.int32))
            append("top_scores/values", np.take_along_axis(prediction.scores, best, axis=1))
            if done.probabilities is not None:
                append(self._probabilities, np.take_along_axis(done.probabilities, best, axis=1))
        append("neighbors/rows", found.rows)
        append("neighbors/distances", found.distances)
        append("neighbors/weights", prediction.weights)
        append("neighbors/labels", done.labels)
        if prediction.explanation is not None:
            append("base_confidence", prediction.base_confidence)
            append("runner_up", prediction.explanation.runner_up)
            append("neighbors/contributions", prediction.explanation.contributions)
        if self._gated and prediction.fixed is not None:
            opened = np.ones(len(prediction.fixed), bool) if prediction.opened is None else prediction.opened
            append("gate/open", opened.astype(np.uint8))
            append("gate/fixed", prediction.fixed.astype(np.uint8))
            self._n_open += int(opened.sum())
            self._n_fixed += int(prediction.fixed.sum())
        if prediction.truncation is not None:
            append("truncation/bound", prediction.truncation.bound)
            append("truncation/proved", prediction.truncation.proved.astype(np.uint8))
            self._n_proved += int(prediction.truncation.proved.sum())
            self._largest_bound = max(self._largest_bound, float(prediction.truncation.bound.max()))
        for name, dtype in _COMPARED.items() if done.compared else ():
            columns = [getattr(outcome, name) for outcome in done.compared]
            append(f"compared/{name}", np.stack(columns, axis=1).astype(dtype))
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

    def gating(self) -> dict[str, float]:
        """Say where memory was used, if not everywhere."""
        if not self._gated:
            return {}
        return {"share_open": self._n_open / self._source.n, "share_fixed": self._n_fixed / self._source.n}
