"""The kind `hnsw`: a graph of near rows, walked from a few far ones towards the query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.indexes.approximate import MEASURED_BEFORE, ApproximateIndex, Effort
from resmem_cli.indexes.base import Build, index_kind
from resmem_cli.indexes.parameters import checked_permutation, chosen_parameters, stored_parameters
from resmem_cli.indexes.quality import held_out_rows, tune
from resmem_cli.indexes.space import Space, mean_row
from resmem_cli.rows import ArrayInMemory, RandomRows, as_rows
from resmem_cli.types import Progress, no_progress, row_blocks

# Name: (default, least, most). faiss ends with the process where links is 1.
_PARAMETERS = {"links": (32, 2, 512), "ef_construction": (80, 1, 10_000)}

_ADD_ELEMENTS = 1 << 23  # values of a block that is added; the graph depends on it, so it is fixed
_CHECK_NODES = 1 << 18
_EFFORTS = (16, 32, 64, 128, 256, 512, 1024)
_DEFAULT_EFFORT = 128


@index_kind("hnsw")
class HNSWIndex(ApproximateIndex):
    """Rows linked with near rows, in levels that thin out (Malkov and Yashunin 2018), by faiss.

    Needs, in memory, `4·d` bytes for the searched row and about `8·links + 16` for its links, of each of
    the n rows. From 1.15.1 on faiss builds the same graph with any number of threads.

    Parameters
    ----------
    vectors : (n, d)
        All rows of the memory.
    space : Space
        Where the searched rows live.
    graph : faiss.IndexHNSWFlat
        The nodes.
    rows : (n_nodes,) int64
        The row each node stands for. A graph may lack rows only while it is built.
    parameters : mapping
        `links` and `ef_construction`.
    """

    parameter_names = ("links", "ef_construction")
    probe_name = "efSearch"
    reranks = (1,)
    queued = True

    def __init__(
        self,
        vectors: RandomRows,
        space: Space,
        graph: Any,
        rows: NDArray[np.int64],
        parameters: Mapping[str, int],
    ) -> None:
        self.vectors = vectors
        self.space = space
        self.effort = Effort(_DEFAULT_EFFORT)
        self._graph = graph
        self._rows = rows
        self._parameters = dict(parameters)

    @classmethod
    def check_parameters(cls, parameters: Mapping[str, Any], *, n: int, d: int) -> None:
        """Check links and ef_construction; see `Index.check_parameters`."""
        chosen_parameters(parameters, _PARAMETERS, kind="hnsw")

    @classmethod
    def build(
        cls,
        vectors: NDArray[Any] | RandomRows,
        *,
        parameters: Mapping[str, Any] | None = None,
        build: Build | None = None,
    ) -> Self:
        """Build the graph; see `Index.build`.

        Rows held out as queries are added last, after the quality was measured without them.

        Parameters
        ----------
        vectors, build
            As in `Index.build`.
        parameters : mapping, optional
            `links`: neighbours of each row, 32; twice as many on the lowest level.
            `ef_construction`: how hard neighbours are looked for, 80.
        """
        vectors, build = as_rows(vectors), build or Build()
        chosen = chosen_parameters(parameters, _PARAMETERS, kind="hnsw")
        space = Space(build.metric, mean_row(vectors, build.metric, progress=build.progress))
        graph = _empty_graph(space.dimension, chosen, seed=build.seed)
        index = cls(vectors, space, graph, np.empty(0, np.int64), chosen)
        held_out = held_out_rows(vectors.shape[0], build)
        _reserve(graph, vectors.shape[0])
        index._add(np.setdiff1d(np.arange(vectors.shape[0]), held_out), progress=build.progress)
        tune(index, held_out, build=build, own_present=False)
        index._add(held_out, progress=build.progress)
        return index

    @classmethod
    def load(cls, datasets: Mapping[str, RandomRows], parameters: Mapping[str, Any]) -> Self:
        """Make the index from what was stored; nothing reaches faiss before it was checked."""
        index = cls.__new__(cls)
        index.load_common(datasets, parameters)
        n = index.shape[0]
        index._parameters = stored_parameters(parameters, _PARAMETERS, kind="hnsw")
        index._rows = checked_permutation(datasets["graph/rows"].read(0, n), n, field="graph/rows")
        levels = datasets["graph/levels"].read(0, n).astype(np.int32)
        neighbors = datasets["graph/neighbors"]
        graph = _empty_graph(index.space.dimension, index._parameters)
        offsets = _checked_graph(graph.hnsw, levels, neighbors)
        entry = _entry_point(parameters, levels)
        _reserve(graph, n)
        _add_rows(graph.storage, index.space, index.vectors, index._rows)
        graph.ntotal = n
        faiss.copy_array_to_vector(levels, graph.hnsw.levels)
        faiss.copy_array_to_vector(offsets, graph.hnsw.offsets)
        links = neighbors.read(0, neighbors.shape[0]).astype(np.int32, copy=False)
        faiss.copy_array_to_vector(np.ascontiguousarray(links), graph.hnsw.neighbors)
        graph.hnsw.entry_point = entry
        graph.hnsw.max_level = int(levels[entry]) - 1
        index._graph = graph
        return index

    def datasets(self) -> dict[str, RandomRows]:
        """Give the common datasets and `graph/levels`, `graph/neighbors`, `graph/rows`."""
        return {
            **self.common_datasets(),
            "graph/levels": FaissVector(self._graph, self._graph.hnsw.levels),
            "graph/neighbors": FaissVector(self._graph, self._graph.hnsw.neighbors),
            "graph/rows": ArrayInMemory(self._rows),
        }

    def parameters(self) -> dict[str, Any]:
        """Give the common parameters, how the graph was built, and where its searches begin."""
        return {**self.common_parameters(), **self._parameters, "entry": int(self._graph.hnsw.entry_point)}

    def grown(self, vectors: RandomRows, *, build: Build) -> tuple[Self, tuple[str, ...]]:
        """Add rows to a copy of the graph; see `ApproximateIndex.grown`."""
        n = self.shape[0]
        graph = faiss.clone_index(self._graph)
        graph.hnsw.rng = faiss.RandomGenerator(build.seed + n)
        index = type(self)(vectors, self.space, graph, self._rows, self._parameters)
        index.take_effort(self)
        index._add(np.arange(n, vectors.shape[0]), progress=build.progress)
        return index, (MEASURED_BEFORE,) if self.curve else ()

    def build_parameters(self, n: int) -> dict[str, Any]:
        """Give `links` and `ef_construction`."""
        return dict(self._parameters)

    @property
    def probes(self) -> tuple[int, ...]:
        """Lengths of the candidate queue: powers of 2 from 16 to 1,024, as far as there are rows."""
        n = self.shape[0]
        return (*(probe for probe in _EFFORTS if probe < n), *((n,) if n <= _EFFORTS[-1] else ()))

    @property
    def largest_probe(self) -> int:
        """The candidate queue can hold all rows."""
        return self.shape[0]

    @property
    def code_bytes(self) -> int:
        """Bytes of a searched row, which is float32."""
        return 4 * self.space.dimension

    def candidates(
        self, searched_queries: NDArray[np.float32], count: int, *, probe: int
    ) -> tuple[NDArray[np.int64], float]:
        """Walk the graph with a queue of `probe` candidates, or `count` if that is more."""
        found = np.full((len(searched_queries), count), -1, np.int64)
        if not len(searched_queries):
            return found, 0.0
        parameters = faiss.SearchParametersHNSW()
        parameters.efSearch = max(probe, count)
        stats = faiss.cvar.hnsw_stats
        stats.reset()
        width = min(count, self._graph.ntotal)
        _, nodes = self._graph.search(searched_queries, width, params=parameters)
        there = nodes >= 0
        found[:, :width][there] = self._rows[nodes[there]]
        return found, stats.ndis / len(searched_queries)

    def _add(self, rows: NDArray[np.int64], *, progress: Progress) -> None:
        """Add nodes for some of the memory's rows."""
        _add_rows(self._graph, self.space, self.vectors, rows, progress=progress)
        self._rows = np.concatenate([self._rows, rows])


class FaissVector:
    """A vector inside a faiss index as rows, which are copied as they are read."""

    def __init__(self, owner: Any, vector: Any) -> None:
        self._owner = owner  # frees the vector when it goes
        self._values: NDArray[Any] = faiss.rev_swig_ptr(vector.data(), vector.size())
        self.shape: tuple[int, ...] = self._values.shape
        self.dtype: np.dtype[Any] = self._values.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Copy values `start` to `stop`."""
        return self._values[start:stop].copy()

    def at(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copy the values."""
        return self._values.copy()


def _empty_graph(d: int, parameters: Mapping[str, int], *, seed: int = 0) -> Any:
    graph = faiss.IndexHNSWFlat(d, parameters["links"])
    graph.hnsw.efConstruction = parameters["ef_construction"]
    graph.hnsw.rng = faiss.RandomGenerator(seed)
    return graph


def _reserve(graph: Any, n: int) -> None:
    """Make room for all nodes, which would be copied to twice the room whenever it runs out."""
    links = graph.hnsw.nb_neighbors(1)
    for vector, size in (
        (faiss.downcast_index(graph.storage).codes, n * graph.d * 4),
        # Twice `links` on the lowest level, and one node in `links` is on the next.
        (graph.hnsw.neighbors, n * (2 * links + 2)),
    ):
        vector.resize(size)
        vector.resize(0)


def _add_rows(
    target: Any,
    space: Space,
    vectors: RandomRows,
    rows: NDArray[np.int64],
    *,
    progress: Progress = no_progress,
) -> None:
    """Add searched rows to a faiss index, in blocks that depend on their dimension only."""
    step = max(1, _ADD_ELEMENTS // vectors.shape[1])
    for block in progress(row_blocks(len(rows), step), "linking rows"):
        part = rows[block]
        target.add(space.searched(vectors.at(part)[part]))


def _checked_graph(hnsw: Any, levels: NDArray[np.int32], neighbors: RandomRows) -> NDArray[np.uint64]:
    """Check that faiss can walk a stored graph without leaving it; give where each node's links begin."""
    n = len(levels)
    starts = faiss.vector_to_array(hnsw.cum_nneighbor_per_level).astype(np.int64)
    if levels.min() < 1 or levels.max() >= len(starts):
        raise _damaged("graph/levels", f"holds levels out of 1 to {len(starts) - 1}")
    offsets = np.concatenate([[0], np.cumsum(starts[levels])])
    if neighbors.shape != (offsets[-1],):
        raise _damaged("graph/neighbors", f"has {neighbors.shape[0]:,} values for {offsets[-1]:,} links")
    for block in row_blocks(n, _CHECK_NODES):
        first = offsets[block.start]
        links = neighbors.read(int(first), int(offsets[block.stop]))
        if links.min() < -1 or links.max() >= n:
            raise _damaged("graph/neighbors", f"links to a node that is not there, of {n:,}")
        # A link on a level leads to a node that has that level, or faiss would look past its links.
        for level in range(1, int(levels[block].max())):
            nodes = np.flatnonzero(levels[block] > level) + block.start
            on_level = np.arange(starts[level], starts[level + 1])
            linked = links[(offsets[nodes] - first)[:, None] + on_level]
            if (levels[linked[linked >= 0]] <= level).any():
                raise _damaged("graph/neighbors", f"links to a node that is not on level {level}")
    return offsets.astype(np.uint64)


def _entry_point(parameters: Mapping[str, Any], levels: NDArray[np.int32]) -> int:
    entry = parameters.get("entry")
    if not isinstance(entry, int) or isinstance(entry, bool) or not 0 <= entry < len(levels):
        raise _damaged("parameters.entry", "is no node of the graph")
    if levels[entry] != levels.max():
        raise _damaged("parameters.entry", "is not on the highest level")
    return entry


def _damaged(field: str, problem: str) -> DataError:
    return DataError(problem, field=field, remedy="build the index again")
