"""Which kind of index suits a memory, and about what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from resmem_cli.indexes.choice import MIN_COLUMNS
from resmem_cli.indexes.clustering import default_lists
from resmem_cli.indexes.ivf_pq import DEFAULT_BITS, default_pq_lists, default_subquantizers
from resmem_cli.indexes.searched import KEPT_BYTES
from resmem_cli.memory_size import memory_text
from resmem_cli.threads import n_threads

EXACT_SIZE = 1 << 31
"""Numbers in a memory (rows · dimensions) up to which comparing with all of them is the default."""

# What one core does, measured on machines of 2026; all costs are estimates made from these.
_PRODUCTS = 40e9  # floating point operations a second in products of large matrices
_ROWS = 4e9  # bytes of rows compared a second, read at random
_FLOAT_CODES, _BIT_CODES, _BYTE_CODES, _FAST_CODES = 12e9, 3e9, 1e9, 16e9  # of codes in lists, read in order
_CANDIDATES = 5e6  # candidates a second that are kept, fetched and compared by true distances
_NODES = 4e6  # nodes of a graph visited a second, read at random, without their values
_FILE = 500e6  # bytes read and written a second, whatever the cores
_SCALE_QUERIES = 1000  # exact searches that `index` makes of its own to measure distances
_HELD_OUT = 1000

_REDUCED = 8  # columns for each of the axes that the exact kind searches first
_COPIED = 16  # one part in so many of the memory may be a copy of the rows
_ITERATIONS = 10
_TRAINED = 64  # rows of a centre, in the sample that the centres of lists are learnt from
_ROW_NUMBER = 8
_DEFAULT_BITS = 4
_SHARE_VISITED = 0.02  # of the lists, for a recall of about .95
_MIN_VISITED = 8
_FETCHED = 160  # candidates of a query
_SETTINGS = 40  # searches of the usual cost that measuring recall takes, as more lists are visited


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
    recall: float | None = field(default=None)

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

    Returns
    -------
    Plan
        Estimates are for this machine's cores, and good to a factor of 2 or 3.
    """
    given = dict(parameters or {})
    numbers = f"{n:,} row{'s' if n != 1 else ''} of {d:,} dimensions"
    if kind is not None:
        reason = f"as asked, for {numbers}."
        return _COSTS.get(kind, _unknown)(Plan(n, d, kind, given, reason), itemsize, memory)
    kind, reason = _chosen(n, d, memory, numbers, given)
    return _COSTS[kind](Plan(n, d, kind, given, reason), itemsize, memory)


def chosen_kind(n: int, d: int, memory: int) -> str:
    """Give the name of the kind that `plan_index` chooses."""
    return _chosen(n, d, memory, "", {})[0]


def _chosen(n: int, d: int, memory: int, numbers: str, given: Mapping[str, Any]) -> tuple[str, str]:
    """Choose a kind, and say why."""
    if n * d <= EXACT_SIZE:
        return "exact", f"{numbers} are few enough to find all true neighbours of every query."
    too_many = f"comparing each query with all {numbers} would take {time_text(_products(2.0 * n * d))}"
    codes = n * (_pq_bytes(d, given) + _ROW_NUMBER)
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
        build_seconds=_products(2.0 * _SCALE_QUERIES * n * d) + 2 * n * d * itemsize / _FILE,
        query_seconds=_products(2.0 * n * d),
        recall=1.0,
    )


def _ivf(plan: Plan, itemsize: int, memory: int) -> Plan:
    width = 4 if plan.parameters.get("storage") == "float32" else 2
    return _lists(plan, width * plan.d, itemsize, memory, rate=_FLOAT_CODES, recall=0.99)


def _rabitq(plan: Plan, itemsize: int, memory: int) -> Plan:
    code = _rabitq_bytes(plan.d, plan.parameters.get("bits", _DEFAULT_BITS)) - _ROW_NUMBER
    return _lists(plan, code, itemsize, memory, rate=_BIT_CODES, recall=0.95)


def _pq(plan: Plan, itemsize: int, memory: int) -> Plan:
    bits = plan.parameters.get("bits", DEFAULT_BITS)
    rate, lists = _FAST_CODES if bits == 4 else _BYTE_CODES, default_pq_lists(plan.n, bits)
    code = _pq_bytes(plan.d, plan.parameters)
    return _lists(plan, code, itemsize, memory, rate=rate, recall=0.95, lists=lists)


def _lists(
    plan: Plan,
    code_bytes: float,
    itemsize: int,
    memory: int,
    *,
    rate: float,
    recall: float,
    lists: int | None = None,
) -> Plan:
    """Estimate a kind with inverted lists; `rate` is the bytes of codes that a core compares a second."""
    n, d = plan.n, plan.d
    lists = plan.parameters.get("lists", lists or default_lists(n))
    visited = min(lists, max(_MIN_VISITED, _SHARE_VISITED * lists))
    entries = n * (code_bytes + _ROW_NUMBER)
    trained = min(n, _TRAINED * lists)
    query = _products(2.0 * lists * d) + visited / lists * n * code_bytes / (rate * n_threads())
    query += _FETCHED / (_CANDIDATES * n_threads())
    return _with_costs(
        plan,
        search_bytes=entries + 4 * lists * d,
        build_bytes=min(4 * d * (trained + 4 * lists) + min(n * d * itemsize, memory / _COPIED), memory),
        disk_bytes=n * d * itemsize + entries + 4 * lists * d,
        build_seconds=_products(2.0 * lists * d * (_ITERATIONS * trained + n))
        + _products(2.0 * _HELD_OUT * n * d)
        + (_SCALE_QUERIES + _SETTINGS * _HELD_OUT) * query
        + 2 * (n * d * itemsize + entries) / _FILE,
        query_seconds=query,
        recall=recall,
    )


def _graph(plan: Plan, itemsize: int, memory: int) -> Plan:
    n, d = plan.n, plan.d
    links, tries = plan.parameters.get("links", 32), plan.parameters.get("ef_construction", 80)
    node = 4 * d + 8 * links + 16
    visit = 1 / _NODES + 4 * d / _ROWS
    query = 20 * links * visit / n_threads()
    return _with_costs(
        plan,
        search_bytes=n * node,
        build_bytes=1.1 * n * node,
        disk_bytes=n * (d * itemsize + 8 * links + 12),
        build_seconds=n * links * tries**0.5 * 2 * visit / n_threads()
        + _products(2.0 * _HELD_OUT * n * d)
        + (_SCALE_QUERIES + 10 * _HELD_OUT) * query
        + 2 * n * (d * itemsize + 8 * links) / _FILE,
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
        query_seconds=_products(2.0 * n * d),
    )


_COSTS = {"exact": _exact, "ivf": _ivf, "ivf-rabitq": _rabitq, "ivf-pq": _pq, "hnsw": _graph}


def _with_costs(plan: Plan, **costs: Any) -> Plan:
    return replace(plan, **costs)


def _pq_bytes(d: int, given: Mapping[str, Any]) -> int:
    """Count the bytes of a code of product quantization."""
    bits = given.get("bits", DEFAULT_BITS)
    parts = given.get("subquantizers", default_subquantizers(d, bits))
    return -(-int(parts * bits) // 8)


def _rabitq_bytes(d: int, bits: int) -> float:
    """Count the bytes of a row in a list: its code, two float32 factors or four, and its number."""
    return d * bits / 8 + (8 if bits == 1 else 16) + _ROW_NUMBER


def _products(operations: float) -> float:
    """Estimate the seconds of a product of matrices on this machine."""
    return operations / (_PRODUCTS * n_threads())


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
