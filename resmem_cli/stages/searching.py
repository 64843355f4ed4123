"""How a loaded index is to search: how hard, and with what."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from resmem_cli.errors import UsageError
from resmem_cli.indexes.approximate import ApproximateIndex
from resmem_cli.indexes.base import Index
from resmem_cli.indexes.exact import ExactIndex
from resmem_cli.indexes.sharded import ShardedExact

BACKENDS = ("faiss", "torch")


@dataclass(frozen=True)
class SearchConfig:
    """How to search.

    Attributes
    ----------
    recall : float or None
        Of an approximate index: take the cheapest effort measured to reach it; None for the one it was
        tuned to.
    nprobe, ef_search : int or None
        Of an approximate index, by hand: lists visited, or length of the candidate queue.
    rerank : int or None
        Of an approximate index: candidates compared by true distances for each neighbour.
    backend : str
        ``faiss`` or ``torch``, for exact search; both give the same answer to the bit.
    device : str
        Where torch searches: ``auto``, ``cuda``, ``mps`` or ``cpu``.
    """

    recall: float | None = None
    nprobe: int | None = None
    ef_search: int | None = None
    rerank: int | None = None
    backend: str = "faiss"
    device: str = "auto"


def prepare_search(index: Index, config: SearchConfig) -> None:
    """Have an index search as wished.

    Raises
    ------
    UsageError
        If its kind can't, or a number is out of range.
    MissingExtraError
        If torch is wished for and not installed.
    """
    if config.backend not in BACKENDS:
        raise UsageError("no such backend", expected=" or ".join(BACKENDS), found=config.backend)
    if config.device != "auto" and config.backend != "torch":
        raise UsageError("--device is for --backend torch", remedy="give both, or neither")
    if config.recall is not None and not 0 < config.recall <= 1:
        raise UsageError("--recall out of range", expected="above 0, at most 1", found=config.recall)
    by_hand = {"nprobe": config.nprobe, "efSearch": config.ef_search}
    given = {name: value for name, value in by_hand.items() if value is not None}
    if isinstance(index, ApproximateIndex):
        wrong = [name for name in given if name != index.probe_name]
        if wrong:
            raise UsageError(
                f"an index of kind {index.kind} has no {wrong[0]}", expected=f"{index.probe_name} or --recall"
            )
        if given and config.recall is not None:
            raise UsageError(f"--recall chooses {index.probe_name}", remedy="give one of them")
        if config.backend != "faiss":
            raise UsageError(
                "--backend torch is for exact search", expected="an index of kind exact", found=index.kind
            )
        index.choose_effort(recall=config.recall, probe=given.get(index.probe_name), rerank=config.rerank)
        return
    if config.rerank is not None or config.recall not in (None, 1.0) or given:
        raise UsageError(
            "an exact index finds all neighbours", expected="no --recall, --nprobe, --ef-search or --rerank"
        )
    if config.backend == "torch" and isinstance(index, ExactIndex | ShardedExact):
        from resmem_cli.models.search import TorchSearch

        index.engine = TorchSearch(config.device)


def search_record(index: Index) -> dict[str, Any] | None:
    """Say in the artifact what a result depends on: the effort of an approximate search."""
    return asdict(index.effort) if isinstance(index, ApproximateIndex) else None


def search_summary(index: Index) -> dict[str, Any]:
    """Say how an approximate index searched, and what recall was measured for that."""
    if not isinstance(index, ApproximateIndex):
        return {}
    measured = {point.effort: point.recall for point in index.curve}
    return {
        index.probe_name: index.effort.probe,
        "rerank": index.effort.rerank,
        "measured_recall": measured.get(index.effort),
        "measured_at_k": index.measured_k if index.effort in measured else None,
    }
