"""What the approximate kinds share: candidates re-ranked by true distances, and a measured quality."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import UsageError
from resmem_cli.indexes.base import SCANNED, Build, Index, Neighbors, check_search
from resmem_cli.indexes.proof import nearest_candidates, scan
from resmem_cli.indexes.space import Space
from resmem_cli.indexes.stored import damaged, positive, whole
from resmem_cli.rows import ArrayInMemory, RandomRows
from resmem_cli.types import Metric, row_blocks

MEASURED_BEFORE = "the index's recall was measured before rows were added to it"
"""The notice of an update that leaves the measured quality as it was."""

BUILT_ANEW = "the index was built anew: what it learnt from the removed rows would tell of them"
"""The notice of an update that removes rows."""

_UNFILLED_ROWS = 64  # queries searched again together
_CURVE = ("probes", "rerank", "recall", "compared")
_CURVE_TYPES = (np.int32, np.int32, np.float64, np.float64)
_RANDOM_READ = 4.0  # how much longer a byte takes that is read at a random row


@dataclass(frozen=True)
class Effort:
    """How hard an approximate index searches.

    Attributes
    ----------
    probe : int
        What the kind calls `nprobe` (lists visited) or `efSearch` (length of the candidate queue).
    rerank : int
        Candidates fetched for each neighbour wanted, and compared by true distances; at least 1.
    """

    probe: int
    rerank: int = 1


@dataclass(frozen=True)
class Quality:
    """What one effort gave on rows held out of the index.

    Attributes
    ----------
    effort : Effort
        The setting.
    recall : float
        Share of the true k nearest rows that were found.
    compared : float
        Codes compared with a query, on average: a cost that is the same on every machine.
    microseconds : float or None
        Time a query, measured; not stored, as it differs from run to run.
    """

    effort: Effort
    recall: float
    compared: float
    microseconds: float | None = None


Candidates = tuple[NDArray[np.int64], float]
"""Rows and the codes compared with a query, as `ApproximateIndex.candidates` gives them."""


class ApproximateIndex(Index):
    """An index whose candidates are re-ranked by true distances, so that weights are right.

    Attributes
    ----------
    probe_name : str
        The search parameter's name in this kind: ``nprobe`` or ``efSearch``.
    effort : Effort
        Of the next search.
    reranks : tuple of int
        Numbers of candidates for each neighbour wanted that are worth measuring: more for coarser codes.
    queued : bool
        Whether the search parameter is the length of a queue that holds the candidates, so that more of
        them make the search go further; if not, few candidates are the first of many.
    curve : tuple of Quality
        What was measured when the index was built, by rising probe, then rerank; empty if nothing was.
    measured_k : int
        How many neighbours were looked for when it was measured; 0 if nothing was.
    """

    probe_name: ClassVar[str]
    effort: Effort
    reranks: tuple[int, ...] = (1, 2, 4, 8, 16)
    queued: bool = False
    curve: tuple[Quality, ...] = ()
    measured_k: int = 0

    def common_datasets(self) -> dict[str, RandomRows]:
        """Give what every approximate kind stores: vectors, mean, axes if any, and the curve."""
        stored: dict[str, RandomRows] = {"vectors": self.vectors, "mean": ArrayInMemory(self.space.mean)}
        if self.space.axes is not None:
            stored["axes"] = ArrayInMemory(self.space.axes)
        if self.curve:
            columns = np.array(
                [(*astuple(point.effort), point.recall, point.compared) for point in self.curve]
            )
            for name, dtype, values in zip(_CURVE, _CURVE_TYPES, columns.T, strict=True):
                stored[f"curve/{name}"] = ArrayInMemory(values.astype(dtype))
        return stored

    def common_parameters(self) -> dict[str, Any]:
        """Give metric, effort and k, as `load_common` takes them."""
        return {
            "metric": str(self.metric),
            "effort": asdict(self.effort),
            "measured_k": self.measured_k,
        }

    def load_common(self, datasets: Mapping[str, RandomRows], parameters: Mapping[str, Any]) -> None:
        """Set vectors, space, curve and effort from what was stored.

        Raises
        ------
        DataError
            If they can't be.
        """
        self.vectors = datasets["vectors"]
        self.load_space(datasets, parameters)
        self.load_measured(datasets, parameters)

    def load_space(self, datasets: Mapping[str, RandomRows], parameters: Mapping[str, Any]) -> None:
        """Set the space of the vectors there are from what was stored; raises as `load_common`."""
        d = self.shape[1]
        try:
            metric = Metric(parameters["metric"])
        except (KeyError, ValueError) as error:
            raise damaged("parameters.metric", "is no metric of this tool") from error
        mean = whole(datasets, "mean")
        axes = whole(datasets, "axes") if "axes" in datasets else None
        if mean.shape != (d,) or not np.isfinite(mean).all():
            raise damaged("mean", f"is not {d:,} finite numbers")
        if axes is not None and (
            len(axes) != d or not 1 <= axes.shape[1] <= d or not np.isfinite(axes).all()
        ):
            raise damaged("axes", f"is not up to {d:,} finite columns of {d:,} numbers")
        self.space = Space(metric, mean, axes)

    def load_measured(self, datasets: Mapping[str, RandomRows], parameters: Mapping[str, Any]) -> None:
        """Set curve and effort from what was stored; raises as `load_common`."""
        effort = parameters.get("effort")
        if not isinstance(effort, dict) or set(effort) != {"probe", "rerank"}:
            raise damaged("parameters.effort", "is not a probe and a rerank")
        probe, rerank = (positive(effort[name], f"parameters.effort.{name}") for name in ("probe", "rerank"))
        self.effort = Effort(probe, rerank)
        self.curve = _stored_curve(datasets)
        self.measured_k = positive(parameters.get("measured_k"), "parameters.measured_k") if self.curve else 0

    @property
    @abstractmethod
    def probes(self) -> tuple[int, ...]:
        """Settings of the search parameter worth measuring, rising; `search` tries those when rows lack."""

    @property
    def largest_probe(self) -> int:
        """The largest setting of the search parameter that may be chosen by hand."""
        return self.probes[-1]

    @property
    @abstractmethod
    def code_bytes(self) -> int:
        """Bytes of one row's code that a comparison reads."""

    @abstractmethod
    def candidates(
        self, searched_queries: NDArray[np.float32], count: int, *, probe: int
    ) -> tuple[NDArray[np.int64], float]:
        """Find rows that are probably near.

        Parameters
        ----------
        searched_queries : (n_queries, space.dimension) float32
            As `space.searched` gives them.
        count : int
            Candidates of each query, from 1 to n.
        probe : int
            The search parameter.

        Returns
        -------
        rows : (n_queries, count) int64
            The nearest first; −1 where there are no more. The same for a query in any batch.
        compared : float
            How many codes were compared with each query, on average.
        """

    def ordered(self, searched_queries: NDArray[np.float32], count: int, *, probe: int) -> Candidates:
        """Give the candidates in an order in which few are the first of many: those equally near by row."""
        return self.candidates(searched_queries, count, probe=probe)

    def search(self, queries: NDArray[Any], k: int) -> Neighbors:
        """Find most of the k nearest rows of each query, by (distance, row); see `Index.search`.

        A query for which the search finds fewer than k rows is searched harder, and at last compared
        with all rows.
        """
        check_search(queries, k, index=self)
        n = self.shape[0]
        count = min(n, k * self.effort.rerank)
        searched = self.space.searched(queries)
        candidates, _ = self.candidates(searched, count, probe=self.effort.probe)
        rows = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k), np.float64)
        filled = (candidates >= 0).sum(axis=1) >= k
        some = np.flatnonzero(filled)
        rows[some], distances[some] = nearest_candidates(
            queries[some], candidates[some], k, vectors=self.vectors, metric=self.metric
        )
        steps = {"candidates": len(some)}
        left = np.flatnonzero(~filled)
        for probe in (probe for probe in self.probes if probe > self.effort.probe):
            if not len(left):
                break
            found, _ = self.candidates(searched[left], count, probe=probe)
            filled = (found >= 0).sum(axis=1) >= k
            some = left[filled]
            rows[some], distances[some] = nearest_candidates(
                queries[some], found[filled], k, vectors=self.vectors, metric=self.metric
            )
            steps["wider search"] = steps.get("wider search", 0) + len(some)
            left = left[~filled]
        for block in row_blocks(len(left), _UNFILLED_ROWS):
            some = left[block]
            rows[some], distances[some] = scan(queries[some], k, vectors=self.vectors, metric=self.metric)
        if len(left):
            steps[SCANNED] = len(left)
        return Neighbors(rows=rows, distances=distances, steps=steps)

    def take_effort(self, other: ApproximateIndex) -> None:
        """Take over how hard to search, and what was measured, from an index of nearly the same rows."""
        self.effort, self.curve, self.measured_k = other.effort, other.curve, other.measured_k

    def updated(
        self, vectors: RandomRows, kept: NDArray[np.int64], *, build: Build | None = None
    ) -> tuple[Self, tuple[str, ...]]:
        """Add rows to what there is; after a removal, build it anew; see `Index.updated`.

        The mean, centres, code words and links of a graph are made of all rows. Who has the rows that are
        left can take them off the mean, and has what was removed.
        """
        build = replace(build or Build(), metric=self.metric)
        if len(kept) < self.shape[0]:
            parameters = self.build_parameters(vectors.shape[0])
            return type(self).build(vectors, parameters=parameters, build=build), (BUILT_ANEW,)
        return self.grown(vectors, build=build)

    @abstractmethod
    def grown(self, vectors: RandomRows, *, build: Build) -> tuple[Self, tuple[str, ...]]:
        """Make the index of this memory's rows and those that come after them in `vectors`.

        Gives index and notices, as `updated` does.
        """

    @abstractmethod
    def build_parameters(self, n: int) -> dict[str, Any]:
        """Give the parameters with which n other rows are built into an index like this one."""

    def choose_effort(
        self, *, recall: float | None = None, probe: int | None = None, rerank: int | None = None
    ) -> Effort:
        """Choose how hard to search, and search so from now on.

        Parameters
        ----------
        recall : float, optional
            The cheapest measured effort with at least this recall is taken.
        probe, rerank : int, optional
            Parts of the effort to set by hand.

        Raises
        ------
        UsageError
            If nothing measured reaches the recall, or a number is out of range.
        """
        effort = self.effort
        if recall is not None:
            effort = self.cheapest(recall).effort
        if probe is not None:
            if not 1 <= probe <= self.largest_probe:
                raise UsageError(
                    f"{self.probe_name} out of range", expected=f"1 to {self.largest_probe:,}", found=probe
                )
            effort = replace(effort, probe=probe)
        if rerank is not None:
            if rerank < 1:
                raise UsageError("--rerank out of range", expected="at least 1", found=rerank)
            effort = replace(effort, rerank=rerank)
        self.effort = effort
        return effort

    def cheapest(self, recall: float) -> Quality:
        """Choose the cheapest measured effort that reaches a recall.

        By the bytes a search reads, which are the same on every machine: codes in order, and the
        candidates' vectors at random places, which count more.

        Raises
        ------
        UsageError
            If none does.
        """
        reached = [point for point in self.curve if point.recall >= recall]
        if not reached:
            if not self.curve:
                raise UsageError(
                    "the recall of this index was not measured",
                    remedy=f"set its {self.probe_name} by hand, or build it with its recall measured",
                )
            raise UsageError(
                "no measured effort of this index reaches the recall",
                expected=f"at most {max(point.recall for point in self.curve):.4f}",
                found=recall,
                remedy=f"ask for less, set its {self.probe_name} by hand, or build it with finer codes",
            )
        vector_bytes = self.vectors.dtype.itemsize * self.shape[1] * _RANDOM_READ

        def cost(point: Quality) -> float:
            candidates = point.effort.rerank * self.measured_k
            return point.compared * self.code_bytes + candidates * vector_bytes

        return min(reached, key=cost)


def _stored_curve(datasets: Mapping[str, RandomRows]) -> tuple[Quality, ...]:
    if "curve/probes" not in datasets:
        return ()
    columns = [whole(datasets, f"curve/{name}") for name in _CURVE]
    curve = tuple(
        Quality(Effort(int(probe), int(rerank)), float(recall), float(compared))
        for probe, rerank, recall, compared in zip(*columns, strict=True)
    )
    for point in curve:
        if min(point.effort.probe, point.effort.rerank) < 1 or not 0 <= point.recall <= 1:
            raise damaged("curve", "holds an effort below 1, or a recall that is no share")
    return curve
