"""A predictions artifact as `analyze` takes it apart: its columns, and the neighbours of changed queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.formats import PREDICTIONS
from resmem_cli.artifacts.provenance import InputRecord
from resmem_cli.artifacts.reader import Artifact, open_artifact
from resmem_cli.artifacts.sharded import refuse_shard
from resmem_cli.artifacts.structure import DAMAGED
from resmem_cli.errors import DataError
from resmem_cli.metrics import changed_examples
from resmem_cli.quality import Outcomes
from resmem_cli.stages.streaming import BLOCK_BYTES
from resmem_cli.types import ResidualSpace, row_blocks

_NUMBERS = ("k", "sigma", "temperature")
_NEIGHBOR_FIELDS = ("rows", "labels", "distances", "weights", "contributions")


@dataclass(frozen=True)
class Neighborhoods:
    """Neighbours of some queries.

    Attributes
    ----------
    queries : (e,) int64
        Which queries.
    rows, labels, distances, weights, contributions : (e, k) arrays
        Nearest first; contributions are NaN where the file has none.
    margins : (e,) float64
        Lead of the predicted class over the runner-up, in the unit of the contributions: of scores, or in
        logit space of corrected logits; NaN where scores are missing, or 0.
    """

    queries: NDArray[np.int64]
    rows: NDArray[np.int64]
    labels: NDArray[np.int32]
    distances: NDArray[np.float64]
    weights: NDArray[np.float32]
    contributions: NDArray[np.float32]
    margins: NDArray[np.float64]

    def heaviest(self, i: int, count: int) -> NDArray[np.int64]:
        """Give the places of the neighbours that did most: by contribution, or by weight if not known."""
        sizes = np.abs(self.contributions[i])
        if np.isnan(sizes).any():
            sizes = self.weights[i]
        return np.argsort(-sizes, kind="stable")[:count]


@dataclass(frozen=True)
class RunColumns:
    """One predictions artifact, read.

    Attributes
    ----------
    path : pathlib.Path
    files : tuple of pathlib.Path
        All that were read: a manifest's shards too.
    parameters : mapping
    record : InputRecord
        Its lineage.
    residuals_digest : str or None
        Of the residuals it was made with.
    kept : (n,) int64
        The queries reported on: those that settings were not tuned on.
    n_left_out : int
        The others.
    all_tuned_on : bool
        Whether settings were tuned on every query, which are then all reported on.
    labels, base_predicted, predicted, knn_predicted : (n,) int32
    nearest : (n,) float64
        Distance to the nearest neighbour.
    base_confidence : (n,) float32 or None
    class_names : (C,) bytes or None
    class_counts : (C,) int64 or None
        Rows of the memory of each class.
    ids : (q,) array or None
        Of all queries.
    compared : list of Outcomes
        Of each method in `parameters["compared"]`.
    changed : Neighborhoods
        Of the queries that memory corrected, then of those it broke.
    asked : Neighborhoods
        Of the queries asked for by number.
    """

    path: Path
    files: tuple[Path, ...]
    parameters: Mapping[str, Any]
    record: InputRecord
    residuals_digest: str | None
    kept: NDArray[np.int64]
    n_left_out: int
    all_tuned_on: bool
    labels: NDArray[np.int32]
    base_predicted: NDArray[np.int32]
    predicted: NDArray[np.int32]
    knn_predicted: NDArray[np.int32]
    nearest: NDArray[np.float64]
    base_confidence: NDArray[np.float32] | None
    class_names: NDArray[np.bytes_] | None
    class_counts: NDArray[np.int64] | None
    ids: NDArray[Any] | None
    compared: list[Outcomes]
    changed: Neighborhoods
    asked: Neighborhoods
    whole: Mapping[str, NDArray[np.int32]]

    def name(self, label: int) -> str:
        """Give a class its name, or its number."""
        if self.class_names is None:
            return str(label)
        return str(self.class_names[label].decode("utf-8", errors="replace"))


def read_run(
    path: Path,
    *,
    tuned_rows: NDArray[np.int64] | None = None,
    all_tuned_on: bool = False,
    explain: tuple[int, ...] = (),
) -> RunColumns:
    """Read a predictions artifact.

    Parameters
    ----------
    path : pathlib.Path
        With labels.
    tuned_rows : (t,) int64, optional
        Queries to leave out besides those the file marks.
    all_tuned_on : bool
        Whether settings were tuned on every query.
    explain : tuple of int
        Queries whose neighbours are wanted too.

    Raises
    ------
    MissingInputError, DataError
        If there is no such file, or it can't be used.
    """
    with open_artifact(path, PREDICTIONS) as file:
        refuse_shard(file)
        if "labels" not in file:
            raise DataError(
                "has no labels to compare with", file=path, remedy="predict queries that have labels"
            )
        names = ("labels", "base_predicted", "predicted", "knn_predicted")
        whole = {name: file.read(name) for name in names}
        _check_classes(path, file, *whole.values())
        n = file.dimensions["q"]
        for query in explain:
            if not 0 <= query < n:
                raise DataError(
                    "no such query to explain", file=path, expected=f"0 to {n - 1:,}", found=f"{query:,}"
                )
        marks = file.read_optional("tuned_on")
        left_out = np.zeros(n, bool) if marks is None else marks != 0
        if tuned_rows is not None:
            left_out[tuned_rows[tuned_rows < n]] = True
        all_tuned_on |= bool(left_out.all())
        kept = np.arange(n) if all_tuned_on else np.flatnonzero(~left_out)
        labels, base, predicted, knn = (whole[name][kept] for name in names)
        changed = kept[np.concatenate(changed_examples(labels, base, predicted))]
        confidence = file.read_optional("base_confidence")
        return RunColumns(
            path=path,
            files=file.files,
            parameters={**file.parameters, **{name: file.number(name) for name in _NUMBERS}},
            record=InputRecord("predictions", path.name, PREDICTIONS.name, file.header.content_digest),
            residuals_digest=next((r.digest for r in file.header.inputs if r.role == "residuals"), None),
            kept=kept,
            n_left_out=0 if all_tuned_on else int(left_out.sum()),
            all_tuned_on=all_tuned_on,
            labels=labels,
            base_predicted=base,
            predicted=predicted,
            knn_predicted=knn,
            nearest=_nearest(file)[kept],
            base_confidence=None if confidence is None else confidence[kept],
            class_names=file.read_optional("class_names"),
            class_counts=file.read_optional("class_counts"),
            ids=file.read_optional("ids"),
            compared=_compared(file, kept),
            changed=_neighborhoods(file, changed, whole),
            asked=_neighborhoods(file, np.array(explain, np.int64), whole),
            whole=whole,
        )


def _check_classes(path: Path, file: Artifact, *columns: NDArray[np.int32]) -> None:
    n_classes = file.number("n_classes")
    for column in columns:
        if column.min() < 0 or column.max() >= n_classes:
            found = f"{column.min()} to {column.max()}"
            raise DataError(
                "classes that there are not", file=path, expected=f"0 to {n_classes - 1}", found=found
            )


def _compared(file: Artifact, kept: NDArray[np.int64]) -> list[Outcomes]:
    if "compared/predicted" not in file:
        return []
    methods = file.parameters.get("compared")
    n_methods = file.dimensions["b"]
    if not isinstance(methods, list) or len(methods) != n_methods or not all(map(_is_method, methods)):
        raise DataError("methods without names", file=file.path, field="parameters.compared", remedy=DAMAGED)
    columns = {field.name: file.read(f"compared/{field.name}")[kept] for field in fields(Outcomes)}
    return [
        Outcomes(**{name: np.ascontiguousarray(values[:, i]) for name, values in columns.items()})
        for i in range(n_methods)
    ]


def _is_method(told: Any) -> bool:
    return (
        isinstance(told, dict) and {"name", "family"} <= set(told) and isinstance(told.get("settings"), dict)
    )


def _blocks(file: Artifact) -> list[slice]:
    return row_blocks(file.dimensions["q"], max(1, BLOCK_BYTES // (8 * file.dimensions["k"])))


def _nearest(file: Artifact) -> NDArray[np.float64]:
    distances = file.rows("neighbors/distances")
    return np.concatenate([distances.read(b.start, b.stop)[:, 0] for b in _blocks(file)])


def _neighborhoods(
    file: Artifact, queries: NDArray[np.int64], whole: Mapping[str, NDArray[np.int32]]
) -> Neighborhoods:
    """Pick the neighbours of some queries, reading all in blocks."""
    picked: dict[str, NDArray[Any]] = {}
    for name in _NEIGHBOR_FIELDS:
        if f"neighbors/{name}" in file:
            picked[name] = _pick(file, f"neighbors/{name}", queries)
        else:
            picked[name] = np.full((len(queries), file.dimensions["k"]), np.nan, np.float32)
    return Neighborhoods(queries=queries, margins=_margins(file, queries, whole), **picked)


def _pick(file: Artifact, name: str, queries: NDArray[np.int64]) -> NDArray[Any]:
    rows = file.rows(name)
    picked = np.empty((len(queries), *rows.shape[1:]), rows.dtype)
    order = np.argsort(queries, kind="stable")
    ordered = queries[order]
    for block in row_blocks(rows.shape[0], max(1, BLOCK_BYTES // (8 * rows.shape[1]))):
        first, last = np.searchsorted(ordered, (block.start, block.stop))
        if first < last:
            picked[order[first:last]] = rows.read(block.start, block.stop)[ordered[first:last] - block.start]
    return picked


def _margins(
    file: Artifact, queries: NDArray[np.int64], whole: Mapping[str, NDArray[np.int32]]
) -> NDArray[np.float64]:
    runner_up = file.read_optional("runner_up")
    if "scores" not in file or runner_up is None:
        return np.full(len(queries), np.nan)
    scores = _pick(file, "scores", queries).astype(np.float64)
    places = np.arange(len(queries))
    ours, theirs = scores[places, whole["predicted"][queries]], scores[places, runner_up[queries]]
    lead: NDArray[np.float64]
    if file.parameters.get("space") != ResidualSpace.LOGIT:
        lead = ours - theirs
        return lead
    known = (ours > 0) & (theirs > 0)
    lead = np.full(len(queries), np.nan)
    lead[known] = file.number("temperature") * np.log(ours[known] / theirs[known])
    return lead
