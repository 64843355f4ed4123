"""`resmem predict`: the network's answer corrected by what the memory says of the query's neighbours."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resmem_cli.artifacts.formats import INDEX, PREDICTIONS, RESIDUALS
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError, UsageError
from resmem_cli.indexes.base import Index
from resmem_cli.memory import Prediction, predict_from_neighbors
from resmem_cli.residuals import largest_entries
from resmem_cli.stages.lineage import artifact_record, check_lineage
from resmem_cli.stages.sources import EmbeddingSource, open_embeddings
from resmem_cli.stages.stored_memory import StoredMemory, load_index
from resmem_cli.stages.streaming import query_rows
from resmem_cli.types import ArraySelection, Method, Progress, StageResult, no_progress, row_blocks
from resmem_cli.weights import check_sigma, default_sigma


@dataclass(frozen=True)
class PredictConfig:
    """How to predict.

    Attributes
    ----------
    k : int
        Neighbours of each query.
    sigma : float or None
        Unit of distance of the weights; None for 0.18 × the index's distance scale.
    method : Method
        Whose answer `predicted` and `scores` hold.
    top_scores : int or None
        Store only this many best scores of each query.
    block_rows : int or None
        Queries at a time; None to choose. Changes nothing in the result.
    arrays : ArraySelection
        Which arrays, where the queries are exported arrays.
    """

    k: int = 53
    sigma: float | None = None
    method: Method = Method.RESMEM
    top_scores: int | None = None
    block_rows: int | None = None
    arrays: ArraySelection = field(default_factory=ArraySelection)


def predict(
    queries: Path | str,
    *,
    index: Path | str,
    residuals: Path | str,
    output: Path | str,
    config: PredictConfig | None = None,
    clobber: bool = True,
    progress: Progress = no_progress,
) -> StageResult:
    """Predict every query, and keep the memory rows its answer came from.

    Parameters
    ----------
    queries : pathlib.Path or str
        An embeddings artifact or exported arrays, with logits; labels are carried over if there.
    index, residuals : pathlib.Path or str
        Artifacts made from the same embeddings.
    output : pathlib.Path or str
        The artifact to write.
    config : PredictConfig, optional
        The parameters.
    clobber : bool
        Whether an existing output may be replaced.
    progress : Progress
        Shows how far the queries have come.

    Raises
    ------
    UsageError
        If k, sigma or another parameter is out of range.
    MissingInputError, DataError, OutputError
        As the message says, among them inputs that do not belong together, and queries with only their
        largest logits for a memory of another temperature than 1; nothing is written then.
    """
    queries, index, residuals, output = Path(queries), Path(index), Path(residuals), Path(output)
    config = config or PredictConfig()
    _check_config(config)
    with ExitStack() as stack:
        index_file = stack.enter_context(open_artifact(index, INDEX))
        memory_file = stack.enter_context(open_artifact(residuals, RESIDUALS))
        source = stack.enter_context(open_embeddings(queries, config.arrays))
        check_lineage(index_file, memory_file, source)
        n, k = index_file.dimensions["n"], config.k
        if k > n:
            raise UsageError(
                "k is larger than the memory", file=index, expected=f"at most {n:,}", found=f"{k:,}"
            )
        n_classes = source.require_logits().shape[1]
        if config.top_scores is not None and config.top_scores > n_classes:
            raise UsageError(
                "--top-scores out of range",
                expected=f"1 to {n_classes:,} (the classes)",
                found=config.top_scores,
            )
        sigma = config.sigma or default_sigma(index_file.number("distance_scale", "median"))
        memory = StoredMemory(memory_file)
        notices = (*source.notices, *_top_logits_notices(source, memory, residuals))
        parameters = {
            "method": str(config.method),
            "k": k,
            "sigma": sigma,
            "temperature": memory.temperature,
            "n_classes": n_classes,
            "n_memory": n,
            "top_scores": config.top_scores,
        }
        writer = stack.enter_context(
            ArtifactWriter(
                output,
                PREDICTIONS,
                parameters=parameters,
                reads=(*source.files, index, residuals),
                clobber=clobber,
            )
        )
        writer.add_inputs(
            source.record("queries"),
            artifact_record("index", index_file),
            artifact_record("residuals", memory_file),
        )
        run = _Run(load_index(index_file), memory, source, config=config, sigma=sigma)
        run.write(writer, progress)
    summary = {
        "queries": source.n,
        "memory": n,
        "method": str(config.method),
        "k": k,
        "sigma": sigma,
        "sigma_from": "--sigma" if config.sigma else "the index's distance scale",
        "temperature": memory.temperature,
        **run.accuracies(),
        "queries_scanned": run.n_scanned,
    }
    return StageResult("predict", output, summary, notices)


class _Run:
    """One pass over the queries."""

    def __init__(
        self,
        index: Index,
        memory: StoredMemory,
        source: EmbeddingSource,
        *,
        config: PredictConfig,
        sigma: float,
    ) -> None:
        self._config = config
        self._sigma = sigma
        self._source = source
        self._logits = source.require_logits()
        self._class_names = source.class_names
        if self._class_names is None:
            self._class_names = memory.class_names
        self._index = index
        self._memory = memory
        self._n_right = dict.fromkeys(("base_accuracy", "knn_accuracy", "accuracy"), 0)
        self.n_scanned = 0

    def write(self, writer: ArtifactWriter, progress: Progress) -> None:
        source, config = self._source, self._config
        n, n_classes = self._logits.shape
        for name in ("predicted", "base_predicted", "knn_predicted"):
            writer.create(name, (n,), np.int32)
        if config.top_scores is None:
            writer.create("scores", (n, n_classes), np.float32)
        else:
            writer.create("top_scores/classes", (n, config.top_scores), np.int32)
            writer.create("top_scores/values", (n, config.top_scores), np.float32)
        for name, dtype in (
            ("rows", np.int64),
            ("distances", np.float64),
            ("weights", np.float32),
            ("labels", np.int32),
        ):
            writer.create(f"neighbors/{name}", (n, config.k), dtype)
        for name, values in (
            ("labels", source.labels),
            ("ids", source.ids),
            ("class_names", self._class_names),
        ):
            if values is not None:
                writer.write(name, values)
        step = config.block_rows or query_rows(
            n_memory=self._index.shape[0], d=source.d, n_classes=n_classes, k=config.k
        )
        for block in progress(row_blocks(n, step), "predicting"):
            self._write_block(writer, block)

    def _write_block(self, writer: ArtifactWriter, block: slice) -> None:
        found = self._index.search(self._source.embeddings.read(block.start, block.stop), self._config.k)
        labels = self._memory.labels[found.rows]
        prediction = predict_from_neighbors(
            self._logits.read(block.start, block.stop),
            rows=found.rows,
            distances=found.distances,
            neighbor_labels=labels,
            residuals=self._memory,
            sigma=self._sigma,
            temperature=self._memory.temperature,
            method=self._config.method,
        )
        writer.append("predicted", prediction.predicted)
        writer.append("base_predicted", prediction.base_predicted)
        writer.append("knn_predicted", prediction.knn_predicted)
        if self._config.top_scores is None:
            writer.append("scores", prediction.scores)
        else:
            best = largest_entries(prediction.scores, self._config.top_scores)
            writer.append("top_scores/classes", best.astype(np.int32))
            writer.append("top_scores/values", np.take_along_axis(prediction.scores, best, axis=1))
        writer.append("neighbors/rows", found.rows)
        writer.append("neighbors/distances", found.distances)
        writer.append("neighbors/weights", prediction.weights)
        writer.append("neighbors/labels", labels)
        self.n_scanned += found.n_scanned
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
        if self._source.labels is None:
            return {}
        shares = {name: n_right / self._source.n for name, n_right in self._n_right.items()}
        return {
            **shares,
            "gain": (self._n_right["accuracy"] - self._n_right["base_accuracy"]) / self._source.n,
        }


def _top_logits_notices(source: EmbeddingSource, memory: StoredMemory, residuals: Path) -> list[str]:
    """Say what the queries' largest logits stand for, or refuse them with memory of another temperature."""
    logits = source.top_logits
    if logits is None:
        return []
    if memory.temperature != 1:
        raise DataError(
            "has the largest logits of each query only, and the log-sum-exp of all of them at T = 1",
            file=source.path,
            expected="residuals of temperature 1",
            found=f"{memory.temperature} in {residuals}",
            remedy="make the residuals again with -T 1, or embed the queries without --top",
        )
    n_classes = logits.shape[1]
    return [
        f"{source.path}: the {logits.n_kept:,} largest of {n_classes:,} logits of each query are known; "
        "the others share what probability is left"
    ]


def _check_config(config: PredictConfig) -> None:
    if config.k < 1:
        raise UsageError("k out of range", expected="at least 1", found=config.k)
    if config.sigma is not None:
        check_sigma(config.sigma)
    for name, value in (("--top-scores", config.top_scores), ("--block-rows", config.block_rows)):
        if value is not None and value < 1:
            raise UsageError(f"{name} out of range", expected="at least 1", found=value)
