"""The quality an index is tuned to: how it is asked for, recorded in the artifact, and told to the user."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.reader import Artifact
from resmem_cli.errors import DataError, naming_file
from resmem_cli.indexes.approximate import ApproximateIndex
from resmem_cli.indexes.base import Build, Index, QualityTarget
from resmem_cli.indexes.space import check_rows
from resmem_cli.scratch import Scratch
from resmem_cli.stages.sources import EmbeddingSource
from resmem_cli.stages.streaming import read_chosen

# What finding the true neighbours of the held-out rows may cost, in floating point operations.
_TRUTH_FLOPS = 1 << 45
_LEAST_QUERIES = 20


def quality_target(n: int, d: int, *, recall: float, k: int) -> QualityTarget:
    """Choose how many queries to measure n rows of d dimensions with, for a recall at k."""
    queries = max(_LEAST_QUERIES, min(QualityTarget.queries, _TRUTH_FLOPS // (2 * n * d)))
    return QualityTarget(recall=recall, k=k, queries=queries)


def with_queries(target: QualityTarget, source: EmbeddingSource, build: Build) -> QualityTarget:
    """Draw the queries to measure with from those of a file.

    Parameters
    ----------
    target : QualityTarget
        With how many are wanted.
    source : EmbeddingSource
        The file, of the memory's dimension.
    build : Build
        With metric and seed.

    Raises
    ------
    DataError
        If they can't be searched for.
    """
    count = min(source.n, target.queries)
    chosen = np.sort(np.random.default_rng(build.seed).choice(source.n, size=count, replace=False))

    def check(read: NDArray[Any], first: int) -> None:
        with naming_file(source.path):
            check_rows(read, build.metric, first=first)

    given = read_chosen(source.embeddings, chosen, scratch=Scratch(), check=check)
    return replace(target, given=given)


def check_queries(source: EmbeddingSource, *, d: int) -> None:
    """Refuse queries of another dimension than the memory's.

    Raises
    ------
    DataError
        If they are.
    """
    if source.d != d:
        raise DataError(
            "queries of another dimension than the memory",
            file=source.path,
            field=source.sources.get("embeddings"),
            expected=f"{d:,}",
            found=f"{source.d:,}",
        )


def quality_record(
    index: Index, target: QualityTarget | None, *, later: bool = False
) -> dict[str, Any] | None:
    """Say in the artifact what the index's search was tuned to; None if its quality was not measured.

    Of a shard, say what the search of all is to be tuned to later.
    """
    if later and target is not None and isinstance(index, ApproximateIndex):
        return {"target_recall": target.recall, "k": target.k, "measured_on": None}
    if not isinstance(index, ApproximateIndex) or target is None or not index.curve:
        return None
    measured_on = "held-out rows" if target.given is None else "queries"
    return {"target_recall": target.recall, "k": target.k, "measured_on": measured_on}


def recorded_target(index_file: Artifact, n: int) -> QualityTarget | None:
    """Find what an index's search was tuned to, to tune one of n rows to it again.

    Raises
    ------
    DataError
        If the record holds no numbers.
    """
    if not isinstance(index_file.parameters.get("quality"), dict):
        return None
    recall, k = (index_file.number("quality", key) for key in ("target_recall", "k"))
    return quality_target(n, index_file.dimensions["d"], recall=recall, k=int(k))


def quality_summary(index: Index) -> dict[str, Any]:
    """Give how hard an approximate index searches, and what recall was measured for that."""
    if not isinstance(index, ApproximateIndex):
        return {}
    summary: dict[str, Any] = {index.probe_name: index.effort.probe, "rerank": index.effort.rerank}
    chosen = next((point for point in index.curve if point.effort == index.effort), None)
    if chosen is not None:
        summary["recall"] = chosen.recall
        summary["recall_at"] = index.measured_k
        summary["microseconds_a_query"] = chosen.microseconds
    return summary


def shortfall(index: Index, target: QualityTarget | None) -> tuple[str, ...]:
    """Say what an index that was just measured lacks of the recall, or the neighbours, asked for."""
    if not isinstance(index, ApproximateIndex) or target is None or not index.curve:
        return ()
    told = []
    if index.measured_k < target.k:
        told.append(f"recall was measured at {index.measured_k:,} neighbours, for there are no {target.k:,}")
    best = max(point.recall for point in index.curve)
    if best < target.recall:
        told.append(f"recall {target.recall} was not reached; the best measured is {best:.4f}")
    return tuple(told)
