"""Which kind of index suits a memory, and about what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from resmem_cli.indexes.choice import MIN_COLUMNS
from resmem_cli.indexes.counts import (
    HELD_OUT,
    SCALE_QUERIES,
    adding_operations,
    code_bytes,
    coding_seconds,
    measuring_operations,
    planned_lists,
    rotating_operations,
    training_operations,
    training_rows,
    visited_lists,
)
from resmem_cli.indexes.ivf_pq import DEFAULT_BITS
from resmem_cli.indexes.searched import KEPT_BYTES
from resmem_cli.memory_size import memory_text
from resmem_cli.threads import n_threads

EXACT_SIZE = 1 << 31
"""Numbers in a memory (rows · dimensions) up to which comparing with all of them is the default."""

# What one core does, measured on machines of 2026; all costs are estimates made from these.
PRODUCTS = 40e9
"""Floating point operations a second of one core in products of large matrices, as measured."""

_ROWS = 4e9  # bytes of rows compared a second, read at random
_FLOAT_CODES, _BIT_CODES, _BYTE_CODES, _FAST_CODES = 12e9, 3e9, 1e9, 16e9  # of codes in lists, read in order
_VISITS = 3e6  # lists visited a second, without their codes
_CANDIDATES = 7e6  # candidates a second that are kept and fetched
_DIFFERENCES = {2: 0.8e9, 4: 2.5e9}  # coordinates of them a second compared by true distances; by itemsize
_NODES = 4e6  # nodes of a graph visited a second, read at random, without their values
FILE = 500e6
"""Bytes read and written a second, whatever the cores, as measured."""


_REDUCED = 8  # columns for each of the axes that the exact kind searches first
_COPIED = 16  # one part in so many of the memory may be a copy of the rows
_ROW_NUMBER = 8
FETCHED = 160
"""Candidates of a query that are fetched and compared by true distances."""

SETTINGS = 40
"""Searches of the usual cost that measuring recall takes of each row held out, as more lists are visited."""


@dataclass(frozen=True)
class Plan:
    """A kind of index with its parameters, the reason, and about what it costs.

    Attributes
    ----------
    n, d : int
        Rows and dimensions of the memory.
    kind : str
        Kind of index.
    parameters : mapping
        Of the kind; what is missing the kind chooses.
    reason : str
        Why this kind, in a sentence or two.
    search_bytes : float
        What a search reads again and again; it is quick while this stays in memory.
    build_bytes : float
        Memory for the build.
    disk_bytes : float
        Size of the artifact.
    build_seconds : float or None
        Time for the build, with the measurements; None if not known.
    query_seconds : float
        Time a query in a large batch.
    recall : float or None
        Share of the true neighbours that the kind usually finds with a search still much cheaper than
        exact; 1 if all, None if not known.
    threads : int
        Cores that times are for; not part of the summary.
    """

    n: int
    d: int
    kind: str
    parameters: Mapping[str, Any]
    reason: str
    search_bytes: float = 0
    build_bytes: float = 0
    disk_bytes: float = 0
    build_seconds: float | None = 0
    query_seconds: float = 0
    recall: float | None = None
    threads: int = field(default_factory=n_threads)

    def sentence(self) -> str:
        """Say what is going to be built, why, and what it will cost."""
        given = ", ".join(f"{name} {value}" for name, value in self.parameters.items())
        time = "" if self.build_seconds is None else f"{time_text(self.build_seconds)} and "
        found = "" if self.recall is None else f", recall {recall_text(self.recall)}"
        return (
            f"{self.kind}{f' ({given})' if given else ''}: {self.reason} "
            f"It takes about {time}{memory_text(self.build_bytes)} of memory to build and "
            f"{memory_text(self.disk_bytes)} of disk; a search reads {memory_text(self.search_bytes)} and "
            f"takes about {time_text(self.query_seconds)} a query{found}."
        )

    def excess(self, memory: int) -> str | None:
        """Say so if the build can't stay within the memory, in bytes; None if it can."""
        if self.build_bytes <= memory:
            return None
        return (
            f"{self.kind} is built in memory as a whole, and {memory_text(self.build_bytes)} are more than "
            f"the {memory_text(memory)} to stay within; exact and the ivf kinds keep to any memory"
        )

    def summary(self) -> dict[str, Any]:
        """Give the plan as JSON values."""
        values = asdict(self)
        del values["threads"]
        return {
            "kind": values.pop("kind"),
            "rows": values.pop("n"),
            "dimensions": values.pop("d"),
            **values,
            "parameters": dict(self.parameters),
        }


def plan_index(
    n: int,
    d: int,
    *,
    itemsize: int,
    memory: int,
    kind: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    threads: int | None = None,
) -> Plan:
    """Choose a kind of index for a memory, and estimate what it costs.

    Up to `EXACT_SIZE` numbers search is exact. Beyond, rows are put in lists, as product-quantized codes of
    4 bits a dimension, which are scanned fastest; if need be they are read from the disk.

    Parameters
    ----------
    n, d : int
        Rows and dimensions.
    itemsize : int
        Bytes of a number of the embeddings.
    memory : int
        Bytes to stay within.
    kind : str, optional
        The kind the user wants; only the cost is estimated then.
    parameters : mapping, optional
        What the user set.
    threads : int, optional
        Cores of the machine that does it; this machine's if not given.

    Returns
    -------
    Plan
        Estimates are good to a factor of 2 or 3.
    """
    given, threads = dict(parameters or {}), threads or n_threads()
    numbers = f"{n:,} row{'s' if n != 1 else ''} of {d:,} dimensions"
    if kind is not None:
        reason = f"as asked, for {numbers}."
        asked = Plan(n, d, kind, given, reason, threads=threads)
        return _COSTS.get(kind, _unknown)(asked, itemsize, memory)
    kind, reason = _chosen(n, d, memory, numbers, given, threads)
    return _COSTS[kind](Plan(n, d, kind, given, reason, threads=threads), itemsize, memory)


def chosen_kind(n: int, d: int, memory: int) -> str:
    """Give the name of the kind that `plan_index` chooses."""
    return _chosen(n, d, memory, "", {}, 1)[0]


def _chosen(
    n: int, d: int, memory: int, numbers: str, given: Mapping[str, Any], threads: int
) -> tuple[str, str]:
    """Choose a kind, and say why."""
    if n * d <= EXACT_SIZE:
        return "exact", f"{numbers} are few enough to find all true neighbours of every query."
    too_many = (
        f"comparing each query with all {numbers} would take {time_text(_products(2.0 * n * d, threads))}"
    )
    codes = n * ((code_bytes("ivf-pq", d, given) or 0) + _ROW_NUMBER)
    reason = f"{too_many}, so lists of near rows; their codes, of a few bits a dimension, are "
    if codes <= memory:
        reason += f"{memory_text(codes)} and fit in memory."
    else:
        reason += (
            f"{memory_text(codes)}, more than the {memory_text(memory)} of memory: they are searched from "
            "the disk."
        )
    return "ivf-pq", reason


def _exact(plan: Plan, itemsize: int, memory: int) -> Plan:
    n, d = plan.n, plan.d
    centred = min(4 * n * d, KEPT_BYTES)
    reduced = 4 * n * d / _REDUCED if d >= MIN_COLUMNS else 0
    return _with_costs(
        plan,
        search_bytes=n * d * itemsize + centred + reduced,
        build_bytes=min(2 * centred + min(n * d * itemsize, memory / _COPIED), memory),
        disk_bytes=n * d * itemsize + reduced,
        build_seconds=_products(measuring_operations(n, d, None), plan.threads) + 2 * n * d * itemsize / FILE,
        query_seconds=_products(2.0 * n * d, plan.threads),
        recall=1.0,
    )


def _ivf(plan: Plan, itemsize: int, memory: int) -> Plan:
    return _lists(plan, itemsize, memory, rate=_FLOAT_CODES, recall=0.99)


def _rabitq(plan: Plan, itemsize: int, memory: int) -> Plan:
    return _lists(plan, itemsize, memory, rate=_BIT_CODES, recall=0.95)


def _pq(plan: Plan, itemsize: int, memory: int) -> Plan:
    rate = _FAST_CODES if plan.parameters.get("bits", DEFAULT_BITS) == 4 else _BYTE_CODES
    return _lists(plan, itemsize, memory, rate=rate, recall=0.95)


def _lists(plan: Plan, itemsize: int, memory: int, *, rate: float, recall: float) -> Plan:
    """Estimate a kind with inverted lists; `rate` is the bytes of codes that a core compares a second."""
    n, d, threads = plan.n, plan.d, plan.threads
    code, lists = code_bytes(plan.kind, d, plan.parameters) or 0, planned_lists(plan.kind, n, plan.parameters)
    visited = visited_lists(lists)
    entries = n * (code + _ROW_NUMBER)
    query = _products(2.0 * lists * d + rotating_operations(d, plan.kind), threads)
    query += (visited / lists * n * code / rate + visited / _VISITS) / threads
    query += FETCHED * (1 / _CANDIDATES + d / _DIFFERENCES.get(itemsize, _DIFFERENCES[4])) / threads
    needed = 4 * d * (training_rows(n, lists) + 4 * lists)
    return _with_costs(
        plan,
        search_bytes=entries + 4 * lists * d,
        build_bytes=min(needed + min(n * d * itemsize, memory / _COPIED), memory),
        disk_bytes=n * d * itemsize + entries + 4 * lists * d,
        build_seconds=_products(training_operations(n, d, lists), threads)
        + _products(adding_operations(n, d, lists, kind=plan.kind), threads)
        + coding_seconds(n, d, plan.kind, plan.parameters) / threads
        + _products(measuring_operations(n, d, lists), threads)
        + (SCALE_QUERIES + SETTINGS * HELD_OUT) * query
        + 2 * (n * d * itemsize + entries) / FILE,
        query_seconds=query,
        recall=recall,
    )


def _graph(plan: Plan, itemsize: int, memory: int) -> Plan:
    n, d = plan.n, plan.d
    links, tries = plan.parameters.get("links", 32), plan.parameters.get("ef_construction", 80)
    node = 4 * d + 8 * links + 16
    visit = 1 / _NODES + 4 * d / _ROWS
    query = 20 * links * visit / plan.threads
    return _with_costs(
        plan,
        search_bytes=n * node,
        build_bytes=1.1 * n * node,
        disk_bytes=n * (d * itemsize + 8 * links + 12),
        build_seconds=n * links * tries**0.5 * 2 * visit / plan.threads
        + _products(measuring_operations(n, d, None), plan.threads)
        + (SCALE_QUERIES + 10 * HELD_OUT) * query
        + 2 * n * (d * itemsize + 8 * links) / FILE,
        query_seconds=query,
        recall=0.99,
    )


def _unknown(plan: Plan, itemsize: int, memory: int) -> Plan:
    """Estimate a factory string: as if it kept the rows as they are searched."""
    n, d = plan.n, plan.d
    return _with_costs(
        plan,
        search_bytes=4 * n * d,
        build_bytes=4 * n * d,
        disk_bytes=n * d * (itemsize + 4),
        build_seconds=None,
        query_seconds=_products(2.0 * n * d, plan.threads),
    )


_COSTS = {"exact": _exact, "ivf": _ivf, "ivf-rabitq": _rabitq, "ivf-pq": _pq, "hnsw": _graph}


def _with_costs(plan: Plan, **costs: Any) -> Plan:
    return replace(plan, **costs)


def _products(operations: float, threads: int) -> float:
    """Estimate the seconds of a product of matrices on so many cores."""
    return operations / (PRODUCTS * threads)


def time_text(seconds: float) -> str:
    """Write a duration with two or three digits, such as `90 s`."""
    if seconds < 1e-3:
        return f"{max(1, round(1e6 * seconds))} µs"
    if seconds < 1:
        return f"{max(1, round(1e3 * seconds)):,} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"


def recall_text(recall: float) -> str:
    """Write the share of the neighbours that a kind usually finds."""
    return "1" if recall == 1 else f"about {recall:.2f}"
