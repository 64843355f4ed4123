"""`resmem analyze`: what memory changed, and the training rows that did it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.formats import PREDICTIONS, REPORT
from resmem_cli.artifacts.provenance import InputRecord
from resmem_cli.artifacts.reader import Artifact, open_artifact
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError, UsageError
from resmem_cli.metrics import Gain, changed_examples, compare
from resmem_cli.stages.streaming import BLOCK_BYTES
from resmem_cli.types import StageResult, row_blocks

HEAVIEST = 3
"""How many neighbours are told of each changed example."""

_NUMBERS = ("k", "sigma", "temperature")
_NEIGHBOR_FIELDS = ("rows", "labels", "distances", "weights")


@dataclass(frozen=True)
class ChangedExamples:
    """Queries whose answer memory turned right, or wrong, with the neighbours that weighed most.

    Attributes
    ----------
    queries : (e,) int64
        Query rows: first those corrected, then those broken.
    labels, base_predicted, predicted : (e,) int32
        True class, and both answers.
    neighbors : dict of (e, h) arrays
        `rows`, `labels`, `distances`, `weights`, the heaviest first.
    """

    queries: NDArray[np.int64]
    labels: NDArray[np.int32]
    base_predicted: NDArray[np.int32]
    predicted: NDArray[np.int32]
    neighbors: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Run:
    """One predictions artifact, analysed.

    Attributes
    ----------
    path : pathlib.Path
        The artifact.
    parameters : dict
        Its parameters.
    knn_accuracy : float
        Of the neighbours' vote alone.
    gain : Gain
        Its method against the base network.
    changed : ChangedExamples
        The examples behind the gain.
    class_names : (C,) bytes or None
        UTF-8.
    record : InputRecord
        Its lineage.
    """

    path: Path
    parameters: dict[str, Any]
    knn_accuracy: float
    gain: Gain
    changed: ChangedExamples
    class_names: NDArray[np.bytes_] | None
    record: InputRecord


def analyze(
    predictions: Sequence[Path | str],
    *,
    output: Path | str | None = None,
    clobber: bool = True,
    n_examples: int = 3,
) -> StageResult:
    """Set predictions against the base network's.

    Parameters
    ----------
    predictions : sequence of pathlib.Path or str
        Predictions artifacts with labels, one or more.
    output : pathlib.Path, optional
        A report artifact to write, with every changed example.
    clobber : bool
        Whether an existing output may be replaced.
    n_examples : int
        How many corrected and how many broken examples of each file the summary tells.

    Returns
    -------
    StageResult
        `summary["runs"]` has one entry a file.

    Raises
    ------
    UsageError, MissingInputError, DataError, OutputError
        As the message says; nothing is written then.
    """
    if not predictions or isinstance(predictions, Path | str):
        raise UsageError("no list of predictions given", expected="one file or more")
    if n_examples < 0:
        raise UsageError("--examples out of range", expected="at least 0", found=n_examples)
    runs = [analyze_run(Path(path)) for path in predictions]
    output = None if output is None else Path(output)
    if output is not None:
        _write_report(runs, output, clobber=clobber)
    return StageResult("analyze", output, {"runs": [_summarize(run, n_examples) for run in runs]})


def analyze_run(path: Path) -> Run:
    """Analyse one predictions artifact; raises as `analyze` does."""
    with open_artifact(path, PREDICTIONS) as artifact:
        if "labels" not in artifact:
            raise DataError(
                "has no labels to compare with", file=path, remedy="predict queries that have labels"
            )
        labels, base, predicted, knn = (
            artifact.read(name) for name in ("labels", "base_predicted", "predicted", "knn_predicted")
        )
        _check_classes(path, artifact, labels, base, predicted)
        queries = np.concatenate(changed_examples(labels, base, predicted))
        return Run(
            path=path,
            parameters={**artifact.parameters, **{name: artifact.number(name) for name in _NUMBERS}},
            knn_accuracy=float(np.mean(knn == labels)),
            gain=compare(labels, base, predicted),
            changed=ChangedExamples(
                queries=queries,
                labels=labels[queries],
                base_predicted=base[queries],
                predicted=predicted[queries],
                neighbors=_heaviest_neighbors(artifact, queries),
            ),
            class_names=artifact.read_optional("class_names"),
            record=InputRecord("predictions", path.name, PREDICTIONS.name, artifact.header.content_digest),
        )


def _check_classes(path: Path, artifact: Artifact, *columns: NDArray[np.int32]) -> None:
    n_classes = artifact.number("n_classes")
    for column in columns:
        if column.min() < 0 or column.max() >= n_classes:
            found = f"{column.min()} to {column.max()}"
            raise DataError(
                "classes that there are not", file=path, expected=f"0 to {n_classes - 1}", found=found
            )


def _heaviest_neighbors(artifact: Artifact, queries: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Pick the neighbours of some queries, reading all in blocks; weights fall with distance."""
    n, k = artifact.dimensions["q"], artifact.dimensions["k"]
    h = min(HEAVIEST, k)
    picked: dict[str, NDArray[Any]] = {}
    order = np.argsort(queries)
    ordered = queries[order]
    for name in _NEIGHBOR_FIELDS:
        rows = artifact.rows(f"neighbors/{name}")
        picked[name] = np.empty((len(queries), h), rows.dtype)
        for block in row_blocks(n, max(1, BLOCK_BYTES // (8 * k))):
            first, last = np.searchsorted(ordered, (block.start, block.stop))
            if first < last:
                inside = ordered[first:last] - block.start
                picked[name][order[first:last]] = rows.read(block.start, block.stop)[inside, :h]
    return picked


def _summarize(run: Run, n_examples: int) -> dict[str, Any]:
    gain = run.gain
    n_corrected = gain.n_corrected
    return {
        "predictions": str(run.path),
        "method": str(run.parameters["method"]),
        **{name: run.parameters[name] for name in _NUMBERS},
        "knn_accuracy": run.knn_accuracy,
        **asdict(gain),
        "tpr": gain.tpr,
        "fpr": gain.fpr,
        "corrected": [_example(run, i) for i in range(min(n_examples, n_corrected))],
        "broken": [_example(run, n_corrected + i) for i in range(min(n_examples, gain.n_broken))],
    }


def _example(run: Run, i: int) -> dict[str, Any]:
    changed = run.changed

    def name(label: np.int32) -> str:
        return (
            str(label)
            if run.class_names is None
            else run.class_names[label].decode("utf-8", errors="replace")
        )

    rows, labels, distances, weights = (changed.neighbors[field][i] for field in _NEIGHBOR_FIELDS)
    return {
        "query": int(changed.queries[i]),
        "label": name(changed.labels[i]),
        "base_predicted": name(changed.base_predicted[i]),
        "predicted": name(changed.predicted[i]),
        "neighbors": [
            {"row": int(row), "label": name(label), "distance": float(distance), "weight": float(weight)}
            for row, label, distance, weight in zip(rows, labels, distances, weights, strict=True)
        ],
    }


def _write_report(runs: Sequence[Run], output: Path, *, clobber: bool) -> None:
    parameters = {"runs": [run.parameters for run in runs]}
    with ArtifactWriter(
        output,
        REPORT,
        inputs=[run.record for run in runs],
        parameters=parameters,
        reads=[run.path for run in runs],
        clobber=clobber,
    ) as writer:
        gains = [run.gain for run in runs]
        table: dict[str, NDArray[Any]] = {
            "names": np.array([run.path.name.encode() for run in runs]),
            "methods": np.array([str(run.parameters["method"]).encode() for run in runs]),
            "n_queries": np.array([gain.n for gain in gains], np.int64),
            "accuracies": np.array(
                [(run.gain.base_accuracy, run.knn_accuracy, run.gain.accuracy) for run in runs]
            ),
            "n_corrected": np.array([gain.n_corrected for gain in gains], np.int64),
            "n_broken": np.array([gain.n_broken for gain in gains], np.int64),
            "gain": np.array([gain.gain for gain in gains]),
            "gain_interval": np.array([gain.interval for gain in gains]),
            "p_values": np.array([gain.p_value for gain in gains]),
        }
        for name, values in table.items():
            writer.write(f"runs/{name}", values)
        _write_changed(writer, runs)
        names = runs[0].class_names
        if names is not None and all(
            run.class_names is not None and np.array_equal(run.class_names, names) for run in runs
        ):
            writer.write("class_names", names)


def _write_changed(writer: ArtifactWriter, runs: Sequence[Run]) -> None:
    changed = [run.changed for run in runs]
    counts = [len(examples.queries) for examples in changed]
    if not sum(counts):
        return
    # Files predicted with fewer neighbours than others set how many all of them show.
    h = min(examples.neighbors["rows"].shape[1] for examples in changed)
    writer.write("changed/runs", np.repeat(np.arange(len(runs), dtype=np.int32), counts))
    for name in ("queries", "labels", "base_predicted", "predicted"):
        writer.write(f"changed/{name}", np.concatenate([getattr(examples, name) for examples in changed]))
    for name in _NEIGHBOR_FIELDS:
        rows = [examples.neighbors[name][:, :h] for examples in changed]
        writer.write(f"changed/neighbors/{name}", np.ascontiguousarray(np.concatenate(rows)))
