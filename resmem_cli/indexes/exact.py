"""Exact search: in fewer columns where that pays, in all columns, or by true distances; always proved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError
from resmem_cli.indexes.base import Build, Index, Neighbors, check_search, index_kind, search_others
from resmem_cli.indexes.choice import (
    CHOICE_NEIGHBORS,
    MIN_COLUMNS,
    MIN_ROWS,
    MOST_WITHIN,
    Sample,
    candidates_for,
    choose,
)
from resmem_cli.indexes.principal import Reduction
from resmem_cli.indexes.proof import Differences, Rounding, straight
from resmem_cli.indexes.reduced import Reduced
from resmem_cli.indexes.searched import CentredRows, Engine, FaissSearch, SearchedRows, StoredRows, check_mean
from resmem_cli.indexes.space import Space, mean_row
from resmem_cli.indexes.steps import ExactSearch
from resmem_cli.rows import ArrayInMemory, RandomRows, as_rows
from resmem_cli.types import Metric

# More rows than k that are re-ranked: the first are nearly always enough, the others where many tie.
EXTRA_CANDIDATES = (12, 100)

_FEW_QUERIES = 16  # take less time by differences than their memory takes to be centred
_ROUNDED = 1.01 * 2.0**-24
_LARGEST_NORM = 1e300  # beyond any whose square float32 holds; JSON has no infinity


@index_kind("exact")
class ExactIndex(Index):
    """The answer is right to the last bit, for every query.

    Parameters
    ----------
    vectors : (n, d) float32 or float16
        The memory; kept, not copied.
    space : Space
        Metric and mean.
    reduced : Reduced or None
        The memory in fewer columns, to be searched first.
    largest_norm : float or None
        At least the largest norm of a centred row; None to compute it.
    sample : mapping or None
        What axes and candidates were chosen from.
    given : bool
        Whether the number of axes or candidates was given, not chosen.

    Attributes
    ----------
    engine : Engine
        Finds the candidates; may be replaced.

    Raises
    ------
    DataError
        If a row holds NaN or infinity, or the parts do not fit together.
    """

    exact = True
    parameter_names = ("axes", "candidates")

    def __init__(
        self,
        vectors: RandomRows,
        space: Space,
        *,
        reduced: Reduced | None = None,
        largest_norm: float | None = None,
        sample: Mapping[str, Any] | None = None,
        given: bool = False,
    ) -> None:
        check_mean(space.mean)
        self.vectors, self.space = vectors, space
        self.engine: Engine = FaissSearch()
        self._reduced, self._sample, self._given = reduced, sample, given
        if reduced is not None:
            self._stored = StoredRows(reduced.rows)
        if reduced is None:
            # Made now, so that what is wrong with the rows is told now.
            columns = self._all_columns
            largest_norm = columns.largest_norm() if largest_norm is None else largest_norm
        elif largest_norm is None:
            largest_norm = reduced.norm_bound()
        self._largest_norm = min(largest_norm, _LARGEST_NORM)

    @classmethod
    def check_parameters(cls, parameters: Mapping[str, Any], *, n: int, d: int) -> None:
        """Check axes and candidates; see `Index.check_parameters`."""
        _check(parameters, d)

    @classmethod
    def build(
        cls,
        vectors: NDArray[Any] | RandomRows,
        *,
        parameters: Mapping[str, Any] | None = None,
        build: Build | None = None,
    ) -> Self:
        """Build the index of (n, d) vectors; see `Index.build`.

        Parameters
        ----------
        vectors : (n, d) float32 or float16
            Kept, not copied.
        parameters : mapping, optional
            `axes`: how many to search first; 0 for none. `candidates`: how many rows to re-rank then, for
            53 neighbours. What is missing is chosen from a sample.
        build : Build, optional
            Metric, seed, scratch.
        """
        build, memory = build or Build(), as_rows(vectors)
        axes, candidates = _check(parameters or {}, memory.shape[1])
        space = Space(build.metric, mean_row(memory, build.metric, progress=build.progress))
        n, d = memory.shape
        given = axes is not None or candidates is not None
        plain = cls(memory, space, given=given)
        if axes == 0 or (axes is None and (n < MIN_ROWS or d < MIN_COLUMNS)):
            return plain
        sample = Sample.draw(n, build.seed)
        own = memory.at(sample.queries).take(sample.queries, axis=0)
        reach = np.zeros(len(own))
        if n > 1:
            found = search_others(plain, own, sample.queries, min(CHOICE_NEIGHBORS, n - 1))
            reach = straight(found.distances[:, -1], build.metric)
        choice = choose(memory, space, sample, reach, axes=axes, seed=build.seed)
        if choice.axes is None:
            return cls(memory, space, largest_norm=plain._largest_norm, sample=choice.sample)
        reduction, fetched = Reduction(choice.axes), candidates or choice.candidates
        reduced = Reduced.make(memory, space, reduction, fetched, build=build)
        return cls(memory, space, reduced=reduced, sample=choice.sample, given=given)

    @classmethod
    def load(cls, datasets: Mapping[str, RandomRows], parameters: Mapping[str, Any]) -> Self:
        """Make the index from what `datasets` and `parameters` gave; see `Index.load`."""
        vectors = datasets["vectors"]
        n, d = vectors.shape
        mean = datasets["mean"].read(0, datasets["mean"].shape[0])
        if mean.shape != (d,):
            raise DataError("the mean row does not fit", field="mean", expected=(d,), found=mean.shape)
        largest = parameters.get("largest_norm")
        return cls(
            vectors,
            Space(Metric(parameters["metric"]), mean),
            reduced=Reduced.load(datasets, parameters, (n, d)),
            largest_norm=largest if isinstance(largest, float) else None,
            sample=parameters.get("sample"),
            given=bool(parameters.get("given")),
        )

    def datasets(self) -> dict[str, RandomRows]:
        """Give `vectors` and `mean`, and `axes` and `reduced` if there are any."""
        stored: dict[str, RandomRows] = {"vectors": self.vectors, "mean": ArrayInMemory(self.space.mean)}
        return stored if self._reduced is None else {**stored, **self._reduced.datasets()}

    def parameters(self) -> dict[str, Any]:
        """Give the metric, the largest norm, axes and candidates, and what the sample said."""
        parameters = {"metric": str(self.metric), "largest_norm": self._largest_norm, "given": self._given}
        if self._sample is not None:
            parameters["sample"] = dict(self._sample)
        return {**parameters, **self._asked()}

    def updated(
        self, vectors: RandomRows, kept: NDArray[np.int64], *, build: Build | None = None
    ) -> tuple[Self, tuple[str, ...]]:
        """Make the index of a changed memory; see `Index.updated`.

        Where rows are only added, mean and axes stay, and the added rows get their coordinates; the answers
        do not depend on them. Otherwise all is made anew: mean and axes are made of the removed rows too.
        """
        build = replace(build or Build(), metric=self.metric)
        if self._reduced is None or len(kept) < self.shape[0]:
            return type(self).build(vectors, parameters=self.asked, build=build), ()
        reduced = self._reduced.extended(vectors, self.space, build=build)
        return type(self)(vectors, self.space, reduced=reduced, sample=self._sample, given=self._given), ()

    def search(self, queries: NDArray[Any], k: int) -> Neighbors:
        """Find the k nearest rows of each query, by (distance, row); see `Index.search`."""
        check_search(queries, k, index=self)
        search = ExactSearch(
            queries, self.space.centred(queries), k, vectors=self.vectors, metric=self.metric
        )
        if self._reduced is not None and not self.engine.reads_all_columns:
            self._search_reduced(search, k, self._reduced)
        if len(search.left):
            self._search_all_columns(search, k)
        return search.scan()

    def _search_all_columns(self, search: ExactSearch, k: int) -> None:
        d = self.shape[1]
        for extra in EXTRA_CANDIDATES:
            if not len(search.left):
                break
            memory: SearchedRows = self._all_columns
            rounding: Rounding | Differences = Rounding(d, _ROUNDED, self._largest_norm)
            engine = self.engine
            with np.errstate(over="ignore"):
                points = search.centred[search.left].astype(np.float32)
            if self._compares_as_stored(search):
                memory, rounding, engine = self._as_stored, Differences(d), FaissSearch(differences=True)
                points = np.ascontiguousarray(search.queries[search.left], np.float32)
            search.by_candidates(
                "all columns", points, memory=memory, width=k + extra, rounding=rounding, engine=engine
            )

    def _compares_as_stored(self, search: ExactSearch) -> bool:
        """Whether so few queries are left that centring a memory too large to be kept would cost more."""
        return (
            not self._all_columns.kept
            and not self.engine.reads_all_columns
            and len(search.left) <= _FEW_QUERIES
            and self.metric == Metric.EUCLIDEAN
            and self.vectors.dtype == np.float32
            and search.queries.dtype in (np.float16, np.float32)
        )

    def _search_reduced(self, search: ExactSearch, k: int, reduced: Reduced) -> None:
        n, width = self.shape[0], candidates_for(k, reduced.candidates)
        if width >= n:
            return
        reduction = reduced.reduction
        rounding = Rounding(reduction.columns, reduction.distortion, self._largest_norm)
        points = reduction.reduce(search.centred)
        named = f"{reduced.n_axes} axes"
        search.by_candidates(
            f"{named}, {width:,} candidates",
            points,
            memory=self._stored,
            width=width,
            rounding=rounding,
            engine=self.engine,
        )
        if len(search.left):
            search.within_reach(
                f"{named}, all within reach",
                points[search.left],
                memory=self._stored,
                most=max(width, n // MOST_WITHIN),
                rounding=rounding,
            )

    @property
    def asked(self) -> dict[str, int]:
        """The parameters that were given, and not chosen."""
        return self._asked() if self._given else {}

    def _asked(self) -> dict[str, int]:
        """Give the parameters with which the same would be built again."""
        if self._reduced is None:
            return {"axes": 0}
        return {"axes": self._reduced.n_axes, "candidates": self._reduced.candidates}

    @cached_property
    def _all_columns(self) -> CentredRows:
        return CentredRows(self.vectors, self.space)

    @cached_property
    def _as_stored(self) -> StoredRows:
        return StoredRows(self.vectors)


def _check(parameters: Mapping[str, Any], d: int) -> tuple[int | None, int | None]:
    """Give the number of axes and of candidates, None where they are to be chosen."""
    ranges = {"axes": (0, d), "candidates": (CHOICE_NEIGHBORS + 1, None)}
    for name, value in parameters.items():
        if name not in ranges:
            raise UsageError("unknown parameter of the exact kind", expected=" or ".join(ranges), found=name)
        low, high = ranges[name]
        if not isinstance(value, int) or value < low or (high is not None and value > high):
            expected = f"at least {low}" if high is None else f"{low} to {high}"
            raise UsageError(f"{name} out of range", expected=expected, found=value)
    return parameters.get("axes"), parameters.get("candidates")
