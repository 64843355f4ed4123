"""Foreign faiss indexes: made from a factory string, written as bytes, and read back with care."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, ResmemError, ResourceError, UsageError
from resmem_cli.indexes.one_thread import one_faiss_thread
from resmem_cli.isolation.process import Isolated
from resmem_cli.lack_of_memory import is_there_room
from resmem_cli.rows import ArrayInMemory, RandomRows

_CRASHING = re.compile(r"(HNSW|NSG)[01](?!\d)")  # faiss 1.15.1 divides by the logarithm of the links
_ZERO = re.compile(r"(?<!\d)0+(?!\d)")  # faiss crashes on many a count of zero
_MOST_PARTS = 32  # indexes, transforms and lists inside each other; factory strings make up to about ten
_LOOPS = 1 << 16  # lists, chains and splits that any index may have, however few its rows
_ROTATION_BYTES, _ROOM = 16, 1 << 20
_TRIAL_QUERIES, _TRIAL_NEIGHBORS = 2, 16
_TRIAL_SECONDS_A_ROW, _TRIAL_SECONDS_A_BYTE = 1e-4, 1e-7
_OWN_FILES = (b"ilod",)  # inverted lists in another file, whose path the bytes name
_REASON = re.compile(r"(?:.*failed: |.*?\.cpp:\d+: )", re.DOTALL)


def from_factory(d: int, text: str) -> Any:
    """Make an empty faiss index from a factory string, with Euclidean distances.

    Raises
    ------
    UsageError
        If faiss can't make one, or the tool can't use it.
    """
    if not text.isascii():
        raise UsageError(
            "--factory can't be built", expected="ASCII, as faiss factory strings are", found=text
        )
    if _CRASHING.search(text):
        raise UsageError("--factory can't be built", expected="a graph of at least 2 links", found=text)
    if _ZERO.search(text):
        raise UsageError("--factory can't be built", expected="no number that is zero", found=text)
    if "IDMap" in text:
        raise UsageError(
            "--factory can't be built", expected="no IDMap: rows are numbered by the memory", found=text
        )
    with faiss_errors(text):
        return faiss.index_factory(d, text, faiss.METRIC_L2)


@contextmanager
def faiss_errors(text: str) -> Iterator[None]:
    """Turn what faiss throws for a factory string into a usage error with faiss's reason."""
    try:
        yield
    except (RuntimeError, AssertionError, MemoryError) as error:
        reason = " ".join(_REASON.sub("", str(error), count=1).split()) or type(error).__name__
        raise UsageError(f"--factory {text}: faiss can't build it: {reason}") from error


def read_engine(stored: RandomRows, *, n: int, d: int) -> Any:
    """Read a faiss index that was written into a file of this tool.

    No vector of it may be longer than the bytes stored, no loop longer than the rows explain, and lists
    in other files are refused before faiss opens them.

    Parameters
    ----------
    stored : (f,) uint8
        The bytes; they are checked against their digest as they are read.
    n, d : int
        Rows and dimensions it must have.

    Raises
    ------
    DataError
        If they are no such index.
    """
    limits = {
        # faiss also holds random rotations to it, before it reads them.
        "deserialization_vector_byte_limit": stored.shape[0] + _ROTATION_BYTES * d * d + _ROOM,
        "deserialization_loop_limit": max(n + 1, _LOOPS),
    }
    before = {name: getattr(faiss, f"get_{name}")() for name in limits}
    reader = _WatchedReader(stored)
    try:
        for name, value in limits.items():
            getattr(faiss, f"set_{name}")(value)
        # Tables of products may be larger than what is stored; they are made below, where faiss limits them.
        index = faiss.read_index(faiss.PyCallbackIOReader(reader.read), faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE)
    except (RuntimeError, MemoryError) as error:
        raise _damaged("is no faiss index this tool can load") from error
    finally:
        for name, value in before.items():
            getattr(faiss, f"set_{name}")(value)
    if reader.position != stored.shape[0]:
        raise _damaged("goes on after the end of the index")
    if (index.d, index.ntotal) != (d, n):
        raise _damaged("is an index of other rows", expected=(n, d), found=(index.ntotal, index.d))
    if index.metric_type != faiss.METRIC_L2 or not index.is_trained:
        raise _damaged("is no trained index of Euclidean distances")
    inner = innermost(index)
    if isinstance(inner, faiss.IndexIVFPQ) and inner.by_residual:
        inner.precompute_table()
    return index


def try_engine(stored: RandomRows, *, n: int, d: int) -> None:
    """Read and search a faiss index in a process of its own, as `read_engine` and searches do after it.

    Numbers that lead faiss out of its arrays, or on for hours, are in what is stored, and not in the
    queries: each list and each link is looked at once.

    Parameters
    ----------
    stored, n, d
        As for `read_engine`.

    Raises
    ------
    DataError
        If they are no such index, or faiss crashes, spins or takes more memory than that explains.
    """

    def answers(question: Any) -> tuple[Any, bytes]:
        with one_faiss_thread(), damaged_engine():
            index = read_engine(stored, n=n, d=d)
            dial = SearchDial(index)
            dial.set(dial.largest)
            queries = np.random.default_rng(0).standard_normal((_TRIAL_QUERIES, d), np.float32)
            checked_nodes(index.search(queries, min(n, _TRIAL_NEIGHBORS))[1], n)
        return None, b""

    n_bytes = stored.shape[0]
    seconds = 15 + n * _TRIAL_SECONDS_A_ROW + n_bytes * _TRIAL_SECONDS_A_BYTE
    with Isolated(
        lambda receive: answers, keep=None, seconds=seconds, memory=(4 << 30) + 4 * n_bytes
    ) as trial:
        try:
            trial.ask(None)
        except ResmemError as error:
            if isinstance(error, ResourceError) and not is_there_room():
                raise
            raise _damaged(error.problem, expected=error.expected, found=error.found) from error


def check_readable(engine: Any, factory: str, *, d: int) -> None:
    """Make sure that an index can be read back as it will be written.

    Raises
    ------
    UsageError
        If it can't.
    """
    try:
        read_engine(ArrayInMemory(faiss.serialize_index(engine)), n=engine.ntotal, d=d)
    except DataError as error:
        raise UsageError(
            f"--factory {factory}: faiss can't read back what it would write", found=error.problem
        ) from error


class _WatchedReader:
    """Hands bytes to faiss, looking at the marks of four letters before faiss acts on them."""

    def __init__(self, stored: RandomRows) -> None:
        self._stored = stored
        self._parts = 0
        self.position = 0

    def read(self, count: int) -> bytes:
        stop = min(self.position + count, self._stored.shape[0])
        values = self._stored.read(self.position, stop).tobytes()
        self.position = stop
        if count == 4 and values.isalnum():
            self._parts += 1
            if values in _OWN_FILES:
                raise _damaged("keeps its lists in another file")
            if self._parts > _MOST_PARTS:
                raise _damaged("has too many parts inside each other")
        return values


@contextmanager
def damaged_engine() -> Iterator[None]:
    """Take what faiss can't do with an index it loaded as damage of its bytes.

    Raises
    ------
    DataError
        If it raises an error, other than that memory is out.
    """
    try:
        yield
    except RuntimeError as error:
        if "bad_alloc" in str(error):
            raise
        raise _damaged("is an index that faiss can't search") from error


class SearchDial:
    """The one parameter of a faiss index that says how hard it searches.

    Attributes
    ----------
    name : str
        ``nprobe`` of inverted lists, ``efSearch`` of graphs, or ``probe`` where there is none.
    largest : int
        Its largest value.
    grows : bool
        Whether the value must be at least the number of candidates.
    """

    def __init__(self, index: Any) -> None:
        self._index = index
        self._lists = faiss.try_extract_index_ivf(index)
        inner = innermost(index)
        self._graph = inner if isinstance(inner, faiss.IndexHNSW | faiss.IndexNSG) else None
        n = max(1, index.ntotal)
        self.grows = False
        if self._lists is not None:
            self.name, self.largest = "nprobe", int(self._lists.nlist)
        elif self._graph is not None:
            self.name, self.largest, self.grows = "efSearch", n, True
        else:
            self.name, self.largest = "probe", 1

    def set(self, value: int) -> None:
        """Turn it."""
        if self._lists is not None:
            self._lists.nprobe = value
        elif isinstance(self._graph, faiss.IndexHNSW):
            self._graph.hnsw.efSearch = value
        elif self._graph is not None:
            self._graph.nsg.search_L = value

    def start_counting(self) -> None:
        """Forget what was counted."""
        faiss.cvar.indexIVF_stats.reset()
        faiss.cvar.hnsw_stats.reset()

    def counted(self, n_queries: int, value: int) -> float:
        """Tell how many codes were compared with each of some queries since."""
        if self._lists is not None:
            return float(faiss.cvar.indexIVF_stats.ndis / n_queries)
        if isinstance(self._graph, faiss.IndexHNSW):
            return float(faiss.cvar.hnsw_stats.ndis / n_queries)
        if self._graph is not None:  # faiss does not count; it looks at the links of each row in the queue
            return float(min(self._index.ntotal, value * self._graph.nsg.R))
        return float(self._index.ntotal)


def innermost(index: Any) -> Any:
    """Take off transforms and refinements."""
    index = faiss.downcast_index(index)
    while isinstance(index, faiss.IndexPreTransform | faiss.IndexRefine):
        outer = index
        inner = outer.index if isinstance(outer, faiss.IndexPreTransform) else outer.base_index
        index = faiss.downcast_index(inner)
    return index


def code_bytes(index: Any) -> int:
    """Count the bytes of a code that a comparison reads."""
    inner = innermost(index)
    if isinstance(inner, faiss.IndexHNSW | faiss.IndexNSG):
        inner = faiss.downcast_index(inner.storage)
    size = getattr(inner, "code_size", 0)
    return int(size) if size > 0 else 4 * int(inner.d)


def checked_nodes(nodes: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Check the row numbers that a faiss index gave, which those of inverted lists take from its bytes."""
    if nodes.size and (nodes.max() >= n or nodes.min() < -1):
        raise _damaged("names rows that are not there")
    return nodes


def _damaged(problem: str, *, expected: object = None, found: object = None) -> DataError:
    return DataError(problem, field="engine", expected=expected, found=found, remedy="build the index again")
