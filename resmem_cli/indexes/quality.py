"""How good an approximate index is: recall against exact search, on rows held out as queries."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.indexes.approximate import ApproximateIndex, Effort, Quality
from resmem_cli.indexes.base import Build
from resmem_cli.indexes.exact import ExactIndex
from resmem_cli.indexes.proof import true_distances
from resmem_cli.indexes.scale import search_rows
from resmem_cli.memory_size import part_of_memory
from resmem_cli.types import row_blocks

GOOD_ENOUGH = 0.9999
"""Recall from which on searching harder is not worth measuring."""

_TRUTH_QUERIES = 512  # searched together at least, as a large memory is centred again for each batch
_MOST_BYTES = 1 << 26  # of the candidates of queries measured together
_HELD = 48  # bytes for each of them
_NO_ROW = -2  # no query of its own: neither a row nor the -1 of a missing candidate
_LEAST_GAIN = 1e-4  # of recall, from one setting of the search parameter to the next but one


def held_out_rows(n: int, build: Build) -> NDArray[np.int64]:
    """Draw the rows whose neighbours are looked for when quality is measured.

    Parameters
    ----------
    n : int
        Rows of the memory.
    build : Build
        With the seed and how many rows are wanted.

    Returns
    -------
    (m,) int64
        Ascending. At most `build.quality.queries` and a tenth of the rows, but at least 1; none if
        quality is not to be measured, or with given queries, or n is 1.
    """
    if build.quality is None or build.quality.given is not None or n < 2:
        return np.empty(0, np.int64)
    count = max(1, min(build.quality.queries, n // 10))
    rows: NDArray[np.int64] = np.random.default_rng(build.seed).choice(n, size=count, replace=False)
    return np.sort(rows)


def tune(index: ApproximateIndex, rows: NDArray[np.int64], *, build: Build, own_present: bool) -> None:
    """Measure an index at every effort worth trying, and set the cheapest that reaches the recall.

    Sets `index.curve` and `index.effort`. If no effort reaches `build.quality.recall`, the effort of the
    largest recall is set, and the curve shows how far it goes. Without queries nothing is changed.

    Parameters
    ----------
    index : ApproximateIndex
        What is measured; its `vectors` are all rows of the memory.
    rows : (m,) int64
        The queries, as `held_out_rows` gave them; none with given queries, for which all rows count.
    build : Build
        With the recall and k wanted, and the given queries if any.
    own_present : bool
        Whether these rows are in the index. If so, each query's own row is left out of the candidates
        and of the truth: right for kinds in which the own row does not change what else is visited. If
        not, none of `rows` is, and the truth is taken from the other rows of the memory.
    """
    if build.quality is None:
        return
    queries = build.quality.given
    if queries is None:
        queries = index.vectors.at(rows)[rows]
    else:
        rows, own_present = np.full(len(queries), _NO_ROW), True
    n = index.shape[0]
    k = min(build.quality.k, n - 1 if own_present else n - len(rows))
    if not len(rows) or k < 1:
        return
    reach = _true_reach(index, queries, rows, k, build=build, own_present=own_present)
    curve: list[Quality] = []
    best: list[float] = []
    # A queue of fewer than k is one of k.
    probes = [probe for probe in index.probes if not index.queued or 2 * probe > k] or index.probes[-1:]
    for part in build.progress(row_blocks(len(probes), 1), "measuring recall"):
        points = _measure(index, queries, rows, reach, k, probe=probes[part.start], own=own_present)
        curve += points
        best.append(points[-1].recall)
        if best[-1] >= GOOD_ENOUGH or (len(best) > 2 and best[-1] - best[-3] < _LEAST_GAIN):
            break
    index.curve, index.measured_k = tuple(curve), k
    most = max(point.recall for point in curve)
    index.effort = index.cheapest(min(build.quality.recall, most)).effort


def _true_reach(
    index: ApproximateIndex,
    queries: NDArray[Any],
    rows: NDArray[np.int64],
    k: int,
    *,
    build: Build,
    own_present: bool,
) -> NDArray[np.float64]:
    """Compute the true distance from each query to the k-th nearest of the rows that count."""
    n = index.shape[0]
    plain = replace(build, metric=index.metric, quality=None)
    exact = ExactIndex.build(index.vectors, parameters={"axes": 0}, build=plain)
    reach = np.full(len(rows), np.nan)
    # Rows that do not count are dropped afterwards, so some more are asked for, and more again if too few.
    wanted = k + (1 if own_present else 1 + 2 * k * len(rows) // n + 8)
    left = np.arange(len(rows))
    step = max(_TRUTH_QUERIES, search_rows(index.shape))
    while len(left):
        wanted = min(n, wanted)
        for block in build.progress(row_blocks(len(left), step), "searching exactly"):
            some = left[block]
            found = exact.search(queries[some], wanted)
            counts = found.rows != rows[some, None] if own_present else ~np.isin(found.rows, rows)
            rank = counts.cumsum(axis=1)
            reached = rank[:, -1] >= k
            at = (rank >= k).argmax(axis=1)
            reach[some[reached]] = found.distances[reached, at[reached]]
        left = np.flatnonzero(np.isnan(reach))
        wanted *= 2
    return reach


def _measure(
    index: ApproximateIndex,
    queries: NDArray[Any],
    rows: NDArray[np.int64],
    reach: NDArray[np.float64],
    k: int,
    *,
    probe: int,
    own: bool,
) -> list[Quality]:
    """Measure one setting of the search parameter with every number of candidates, rising."""
    available = index.shape[0] - (1 if own else len(rows))
    searched = index.space.searched(queries)
    # Numbers of candidates with the rerank they are for; the first that takes all there are is the last.
    counts: dict[int, int] = {}
    for rerank in sorted(index.reranks):
        counts.setdefault(min(available, k * rerank), rerank)
    points = []
    for together in [[count] for count in counts] if index.queued else [list(counts)]:
        most = together[-1]
        found = dict.fromkeys(together, 0)
        compared = 0
        seconds_search = seconds_rerank = 0.0
        for block in row_blocks(len(rows), max(1, part_of_memory(16, most=_MOST_BYTES) // (_HELD * most))):
            start = perf_counter()
            candidates, some_compared = index.ordered(searched[block], most + own, probe=probe)
            seconds_search += perf_counter() - start
            # The whole number that the mean is of, so that the blocks change nothing.
            compared += round(some_compared * len(candidates))
            if own:
                candidates = _without_own(candidates, rows[block])
            start = perf_counter()
            distances = true_distances(queries[block], candidates, vectors=index.vectors, metric=index.metric)
            seconds_rerank += perf_counter() - start
            # A row as near as the k-th is as good as the k-th: with equal rows, which is found is chance.
            near = distances <= reach[block, None]
            for count in together:
                found[count] += int(np.minimum(near[:, :count].sum(axis=1), k).sum())
        points += [
            Quality(
                Effort(probe, counts[count]),
                recall=found[count] / (k * len(rows)),
                compared=compared / len(rows),
                microseconds=1e6 * (seconds_search + seconds_rerank * count / most) / len(rows),
            )
            for count in together
        ]
    return points


def _without_own(candidates: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave each query's own row out of its candidates, or else the last of them."""
    own = candidates == rows[:, None]
    own[~own.any(axis=1), -1] = True
    others: NDArray[np.int64] = candidates[~own].reshape(len(rows), -1)
    return others
