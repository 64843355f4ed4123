"""What `analyze` says of one predictions artifact, as plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.analysis import (
    Group,
    by_class,
    by_frequency,
    by_quantile,
    coarse_to_fine,
    influence,
)
from resmem_cli.metrics import compare
from resmem_cli.quality import bootstrap_interval, mean_and_std, summarize
from resmem_cli.stages.analysis_data import Neighborhoods, RunColumns

HEAVIEST = 3
"""How many neighbours are told of each changed example."""

INFLUENTIAL = 10
"""How many memory rows of the largest credit are told."""

_SETTINGS = ("k", "sigma", "temperature")
_AVERAGED = ("base_accuracy", "knn_accuracy", "accuracy", "gain", "tpr", "fpr")
_QUALITIES = ("accuracy", "top5_accuracy", "nll", "brier", "ece")


def report_run(
    run: RunColumns,
    *,
    n_examples: int,
    groups: NDArray[np.int32] | None = None,
    ids: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Tell all of one run.

    Parameters
    ----------
    run : RunColumns
    n_examples : int
        How many corrected and how many broken examples to tell.
    groups : (C,) int32, optional
        The superclass of each class.
    ids : (n,) array, optional
        The user's names of the memory's rows.
    """
    gain = compare(run.labels, run.base_predicted, run.predicted)
    right, base_right = run.predicted == run.labels, run.base_predicted == run.labels
    n_corrected = gain.n_corrected
    parameters = run.parameters
    return {
        "predictions": str(run.path),
        "method": str(parameters["method"]),
        "space": str(parameters.get("space", "probability")),
        **{name: parameters[name] for name in _SETTINGS},
        "strength": float(parameters.get("strength", 1.0)),
        "knn_accuracy": float(np.mean(run.knn_predicted == run.labels)),
        **asdict(gain),
        "interval": list(gain.interval),
        "bootstrap_interval": list(bootstrap_interval(right.astype(np.int8) - base_right.astype(np.int8))),
        "tpr": gain.tpr,
        "fpr": gain.fpr,
        "methods": _methods(run),
        "where": _where(run),
        "coarse": None if groups is None else _coarse(run, groups),
        "corrected": [_example(run, run.changed, i, ids) for i in range(min(n_examples, n_corrected))],
        "broken": [
            _example(run, run.changed, n_corrected + i, ids) for i in range(min(n_examples, gain.n_broken))
        ],
        "influence": _influence(run, n_corrected, ids),
        "explained": [_example(run, run.asked, i, ids, heaviest=None) for i in range(len(run.asked.queries))],
    }


def aggregate(runs: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Give mean and standard deviation of each figure over two runs or more."""
    if len(runs) < 2:
        return None
    told = {name: [run[name] for run in runs] for name in _AVERAGED}
    shared = [{one["name"]: one for one in run["methods"]} for run in runs]
    for name in shared[0]:
        if all(name in methods for methods in shared):
            for quality in _QUALITIES:
                told[f"{name}: {quality}"] = [methods[name][quality] for methods in shared]
    averaged = {}
    for name, values in told.items():
        mean, std = mean_and_std(values)
        averaged[name] = {"mean": mean, "std": std, "n": len(values)}
    return averaged


def _methods(run: RunColumns) -> list[dict[str, Any]]:
    """Tell how good every method of `predict --compare` is, and what it gains on the network."""
    told = []
    base_right = run.base_predicted == run.labels
    # Of files without such columns, what they say of methods is not looked at.
    methods = run.parameters["compared"] if run.compared else ()
    for method, outcomes in zip(methods, run.compared, strict=True):
        quality = summarize(outcomes, run.labels)
        gain = compare(run.labels, run.base_predicted, outcomes.predicted)
        right = outcomes.predicted == run.labels
        told.append(
            {
                "name": str(method["name"]),
                "family": str(method["family"]),
                "settings": dict(method["settings"]),
                **{name: getattr(quality, name) for name in _QUALITIES},
                "gain": gain.gain,
                "interval": list(gain.interval),
                "bootstrap_interval": list(
                    bootstrap_interval(right.astype(np.int8) - base_right.astype(np.int8))
                ),
                "p_value": gain.p_value,
                "p_value_against_resmem": compare(run.labels, run.predicted, outcomes.predicted).p_value,
                "reliability": [asdict(one) for one in quality.reliability],
            }
        )
    return told


def _where(run: RunColumns) -> dict[str, list[dict[str, Any]]]:
    columns = (run.labels, run.base_predicted, run.predicted)
    names = None if run.class_names is None else [run.name(i) for i in range(len(run.class_names))]
    found: dict[str, list[Group]] = {
        "class": by_class(*columns, class_names=names),
        "distance": by_quantile(run.nearest, *columns),
        "confidence": [],
        "frequency": [],
    }
    if run.base_confidence is not None:
        found["confidence"] = by_quantile(run.base_confidence, *columns)
    if run.class_counts is not None:
        found["frequency"] = by_frequency(*columns, run.class_counts)
    return {name: [_renamed(asdict(group)) for group in groups] for name, groups in found.items()}


def _renamed(group: dict[str, Any]) -> dict[str, Any]:
    return {"group": group.pop("name"), **group}


def _coarse(run: RunColumns, groups: NDArray[np.int32]) -> dict[str, Any]:
    found = asdict(coarse_to_fine(run.labels, run.base_predicted, run.predicted, groups))
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _influence(run: RunColumns, n_corrected: int, ids: NDArray[Any] | None) -> dict[str, Any]:
    """Tell the memory rows that did most in corrected, and in broken queries."""
    changed = run.changed
    if not len(changed.queries) or np.isnan(changed.contributions).any():
        return {"corrected": [], "broken": []}
    corrected = np.arange(len(changed.queries)) < n_corrected
    found = influence(changed.rows, changed.contributions, corrected)
    distinct, first = np.unique(changed.rows, return_index=True)
    labels = changed.labels.ravel()[first]

    def told(kind: str) -> list[dict[str, Any]]:
        return [
            {
                "row": one.row,
                "id": _id(ids, one.row),
                "label": run.name(int(labels[np.searchsorted(distinct, one.row)])),
                "n_corrected": one.n_corrected,
                "n_broken": one.n_broken,
                "credit": one.credit_corrected if kind == "corrected" else one.credit_broken,
            }
            for one in found.most(kind, INFLUENTIAL)
        ]

    return {kind: told(kind) for kind in ("corrected", "broken")}


def _example(
    run: RunColumns,
    near: Neighborhoods,
    i: int,
    ids: NDArray[Any] | None,
    *,
    heaviest: int | None = HEAVIEST,
) -> dict[str, Any]:
    """Tell one query, with the neighbours that weighed most, or with all."""
    query = int(near.queries[i])
    margin = _known(near.margins[i])
    added = float(near.contributions[i].sum(dtype=np.float64))
    count = near.rows.shape[1] if heaviest is None else heaviest
    return {
        "query": query,
        "id": _id(run.ids, query),
        **{
            name: run.name(int(run.whole[column][query]))
            for name, column in (
                ("label", "labels"),
                ("base_predicted", "base_predicted"),
                ("predicted", "predicted"),
            )
        },
        "base_margin": None if margin is None or math.isnan(added) else margin - added,
        "margin": margin,
        "neighbors": [
            {
                "row": int(near.rows[i, j]),
                "id": _id(ids, int(near.rows[i, j])),
                "label": run.name(int(near.labels[i, j])),
                "distance": float(near.distances[i, j]),
                "weight": float(near.weights[i, j]),
                "contribution": _known(near.contributions[i, j]),
            }
            for j in near.heaviest(i, count)
        ],
    }


def _known(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def _id(ids: NDArray[Any] | None, row: int) -> str | None:
    if ids is None:
        return None
    value = ids[row]
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
