"""The kind `factory`: any index that faiss makes from a factory string, re-ranked by true distances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError
from resmem_cli.indexes.approximate import MEASURED_BEFORE, ApproximateIndex, Effort
from resmem_cli.indexes.base import Build, index_kind
from resmem_cli.indexes.clustering import drawn_sample
from resmem_cli.indexes.engine import (
    SearchDial,
    check_readable,
    checked_nodes,
    code_bytes,
    damaged_engine,
    faiss_errors,
    from_factory,
    innermost,
    read_engine,
    try_engine,
)
from resmem_cli.indexes.one_thread import one_faiss_thread
from resmem_cli.indexes.parameters import checked_permutation
from resmem_cli.indexes.quality import held_out_rows, tune
from resmem_cli.indexes.space import Space, mean_row
from resmem_cli.rows import ArrayInMemory, RandomRows, as_rows
from resmem_cli.threads import for_each_block
from resmem_cli.types import Progress, row_blocks

_ADD_ELEMENTS = 1 << 22  # values of a block that is added; some indexes depend on it, so it is fixed
_DEFAULT_EFFORT = 64


@index_kind("factory")
class FactoryIndex(ApproximateIndex):
    """An index that faiss's `index_factory` makes.

    It is built with one thread, and searched for one query at a time: many of faiss's transforms and
    graphs give other bits with more threads, and their matrix products other bits in another batch. All
    of it lies in memory, and twice while it is read or written. Its lists and codes are faiss's own; the
    other kinds are built with all cores, and read where they lie.

    Parameters
    ----------
    vectors : (n, d)
        All rows of the memory.
    space : Space
        Where the searched rows live.
    engine : faiss.Index
        The index.
    rows : (n,) int64
        The row that each of its numbers stands for. It may lack rows only while it is built.
    factory : str
        The string.
    """

    def __init__(
        self, vectors: RandomRows, space: Space, engine: Any, rows: NDArray[np.int64], factory: str
    ) -> None:
        self.vectors, self.space = vectors, space
        self._engine, self._rows, self._factory = engine, rows, factory
        self._dial = SearchDial(engine)
        self.effort = Effort(min(_DEFAULT_EFFORT, self.probes[-1]), 2)

    parameter_names = ("factory",)

    @property
    def probe_name(self) -> str:  # type: ignore[override]
        """``nprobe`` of inverted lists, ``efSearch`` of graphs, or ``probe`` where there is none."""
        return self._dial.name

    @property
    def queued(self) -> bool:  # type: ignore[override]
        """Whether it is a graph."""
        return self._dial.grows

    @classmethod
    def check_parameters(cls, parameters: Mapping[str, Any], *, n: int, d: int) -> None:
        """Have faiss make the empty index; see `Index.check_parameters`."""
        from_factory(d, _factory_string(parameters))

    @classmethod
    def build(
        cls,
        vectors: NDArray[Any] | RandomRows,
        *,
        parameters: Mapping[str, Any] | None = None,
        build: Build | None = None,
    ) -> Self:
        """Train on a sample, add all rows, and measure the quality; see `Index.build`.

        Queries for the measurement are left out of the index until it is done. They can stay in
        inverted lists; an index that can't be added to is built a second time.

        Parameters
        ----------
        vectors, build
            As in `Index.build`.
        parameters : mapping
            `factory`: such as ``IVF1024,SQ8`` or ``OPQ16,IVF256,PQ16``.
        """
        vectors, build = as_rows(vectors), build or Build()
        index = cls._measured(vectors, _factory_string(parameters), build)
        check_readable(index._engine, index._factory, d=index.space.dimension)
        return index

    @classmethod
    def _measured(cls, vectors: RandomRows, factory: str, build: Build) -> Self:
        space = Space(build.metric, mean_row(vectors, build.metric, progress=build.progress))
        n = vectors.shape[0]
        held_out, everything = held_out_rows(n, build), np.arange(n)
        engine = _trained(factory, vectors, space, held_out, build=build)
        if faiss.try_extract_index_ivf(engine) is not None:
            index = cls._filled(engine, vectors, space, everything, factory, build=build)
            tune(index, held_out, build=build, own_present=True)
            return index
        others = np.setdiff1d(everything, held_out)
        index = cls._filled(engine, vectors, space, others, factory, build=build)
        tune(index, held_out, build=build, own_present=False)
        if not len(held_out) or not _is_filled_once(engine):
            index._add(held_out, progress=build.progress)
            return index
        again = _trained(factory, vectors, space, held_out, build=build)
        whole = cls._filled(again, vectors, space, everything, factory, build=build)
        whole.take_effort(index)
        return whole

    @classmethod
    def _filled(
        cls,
        engine: Any,
        vectors: RandomRows,
        space: Space,
        rows: NDArray[np.int64],
        factory: str,
        *,
        build: Build,
    ) -> Self:
        index = cls(vectors, space, engine, np.empty(0, np.int64), factory)
        index._add(rows, progress=build.progress)
        index.effort = Effort(min(_DEFAULT_EFFORT, index.probes[-1]), 2)
        return index

    @classmethod
    def load(cls, datasets: Mapping[str, RandomRows], parameters: Mapping[str, Any]) -> Self:
        """Make the index from what was stored; see `engine` for what is checked, and tried first."""
        index = cls.__new__(cls)
        index.load_common(datasets, parameters)
        n = index.shape[0]
        factory = parameters.get("factory")
        if not isinstance(factory, str):
            raise DataError(
                "is no factory string", field="parameters.factory", remedy="build the index again"
            )
        index._factory = factory
        index._rows = checked_permutation(datasets["graph/rows"].read(0, n), n, field="graph/rows")
        try_engine(datasets["engine"], n=n, d=index.space.dimension)
        index._engine = read_engine(datasets["engine"], n=n, d=index.space.dimension)
        index._dial = SearchDial(index._engine)
        return index

    def datasets(self) -> dict[str, RandomRows]:
        """Give the common datasets, `engine` and `graph/rows`."""
        return {
            **self.common_datasets(),
            "engine": ArrayInMemory(faiss.serialize_index(self._engine)),
            "graph/rows": ArrayInMemory(self._rows),
        }

    def parameters(self) -> dict[str, Any]:
        """Give the common parameters and `factory`."""
        return {**self.common_parameters(), "factory": self._factory}

    def grown(self, vectors: RandomRows, *, build: Build) -> tuple[Self, tuple[str, ...]]:
        """Add rows to a copy; where faiss can't add, build anew; see `ApproximateIndex.grown`."""
        n, why = self.shape[0], "add to"
        engine = None
        if not _is_filled_once(self._engine):
            try:
                engine = faiss.clone_index(self._engine)
            except RuntimeError:
                why = "copy"  # some transforms
        if engine is None:
            index = type(self).build(vectors, parameters=self.build_parameters(n), build=build)
            return index, (f"the index was built anew: faiss can't {why} {self._factory}",)
        index = type(self)(vectors, self.space, engine, self._rows, self._factory)
        index._add(np.arange(n, vectors.shape[0]), progress=build.progress)
        index.take_effort(self)
        return index, (MEASURED_BEFORE,) if self.curve else ()

    def build_parameters(self, n: int) -> dict[str, Any]:
        """Give `factory`."""
        return {"factory": self._factory}

    @property
    def probes(self) -> tuple[int, ...]:
        """Powers of 2, up to all lists or a queue of 1,024 rows; 1 alone where nothing can be set."""
        most = min(self._dial.largest, 1024) if self._dial.grows else self._dial.largest
        first = 4 if self._dial.grows else 0
        return (*(1 << power for power in range(first, most.bit_length()) if 1 << power < most), most)

    @property
    def largest_probe(self) -> int:
        """All lists, or a queue of all rows."""
        return self._dial.largest

    @property
    def code_bytes(self) -> int:
        """Bytes of one row's code."""
        return code_bytes(self._engine)

    def candidates(
        self, searched_queries: NDArray[np.float32], count: int, *, probe: int
    ) -> tuple[NDArray[np.int64], float]:
        """Search each query alone, with the search parameter at `probe`.

        Of the codes compared, which faiss adds up for the whole process, threads can lose a few.
        """
        return self._candidates(searched_queries, count, probe=probe, together=16)

    def ordered(
        self, searched_queries: NDArray[np.float32], count: int, *, probe: int
    ) -> tuple[NDArray[np.int64], float]:
        """Search as `candidates` does, on one thread: what is compared is counted exactly, and stored."""
        return self._candidates(searched_queries, count, probe=probe, together=max(1, len(searched_queries)))

    def _candidates(
        self, searched_queries: NDArray[np.float32], count: int, *, probe: int, together: int
    ) -> tuple[NDArray[np.int64], float]:
        """Search so many queries together on a thread."""
        n_queries, n = len(searched_queries), self._engine.ntotal
        found = np.full((n_queries, count), -1, np.int64)
        if not n_queries:
            return found, 0.0
        width = min(count, n)
        value = max(probe, width) if self._dial.grows else probe
        self._dial.set(value)
        self._dial.start_counting()

        def search(block: slice) -> None:
            with one_faiss_thread(), damaged_engine():
                for query in range(block.start, block.stop):
                    _, nodes = self._engine.search(searched_queries[query : query + 1], width)
                    there = checked_nodes(nodes[0], n) >= 0
                    found[query, :width][there] = self._rows[nodes[0][there]]

        for_each_block(search, row_blocks(n_queries, together))
        return found, self._dial.counted(n_queries, value)

    def _add(self, rows: NDArray[np.int64], *, progress: Progress) -> None:
        """Add some of the memory's rows, in blocks that depend on their dimension only."""
        step = max(1, len(rows)) if _is_filled_once(self._engine) else self._block_rows
        with one_faiss_thread(), faiss_errors(self._factory):
            for block in progress(row_blocks(len(rows), step), "adding rows"):
                part = rows[block]
                self._engine.add(self.space.searched(self.vectors.at(part)[part]))
        self._rows = np.concatenate([self._rows, rows])
        self._dial = SearchDial(self._engine)

    @property
    def _block_rows(self) -> int:
        return max(1, _ADD_ELEMENTS // self.shape[1])


def _factory_string(parameters: Mapping[str, Any] | None) -> str:
    given = dict(parameters or {})
    factory = given.pop("factory", None)
    if given:
        raise UsageError(
            "the kind factory has no such parameter", expected="factory", found=next(iter(given))
        )
    if not isinstance(factory, str) or not factory:
        raise UsageError("no factory string", expected="--factory, such as IVF1024,SQ8", found=factory)
    return factory


def _trained(
    factory: str, vectors: RandomRows, space: Space, held_out: NDArray[np.int64], *, build: Build
) -> Any:
    """Train an index on a sample of the rows that are not held out."""
    engine = from_factory(space.dimension, factory)
    if engine.is_trained:
        return engine
    lists = faiss.try_extract_index_ivf(engine)
    inner = innermost(engine)
    clusters = isinstance(faiss.downcast_index(engine), faiss.IndexPreTransform)
    for part in (inner, getattr(inner, "pq", None), getattr(inner, "rq", None)):
        clustering = getattr(part, "cp", None)
        if clustering is not None:
            clustering.min_points_per_centroid = 1  # faiss would print a warning below 39
            clusters = True
    sample = drawn_sample(vectors, space, 0 if lists is None else lists.nlist, left_out=held_out, build=build)
    if clusters:
        _check_squares(sample, factory)
    with one_faiss_thread(), faiss_errors(factory):
        engine.train(sample)
    return engine


def _check_squares(sample: NDArray[np.float32], factory: str) -> None:
    """Refuse rows whose squares overflow, for which faiss's k-means finds no centre and ends the process.

    Raises
    ------
    DataError
        If the distance of two rows could.
    """
    most = (float(np.finfo(np.float32).max) / sample.shape[1]) ** 0.5 / 4
    largest = float(max(sample.max(), -sample.min()))
    if largest > most:
        raise DataError(
            f"rows too large for faiss to learn {factory} from",
            expected=f"values up to {most:.2g} after centring",
            found=f"{largest:.2g}",
            remedy="use the kind exact, or divide all rows by one number",
        )


def _is_filled_once(engine: Any) -> bool:
    """Tell whether faiss can't add to an index that has rows."""
    return isinstance(innermost(engine), faiss.IndexNSG)
