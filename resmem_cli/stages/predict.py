"""`resmem predict`: the network's answer corrected by what the memory says of the query's neighbours."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from resmem_cli.artifacts.formats import INDEX, PREDICTIONS, RESIDUALS
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError, UsageError, naming_file
from resmem_cli.memory_size import DEFAULT_MEMORY, memory_budget
from resmem_cli.stages.lineage import artifact_record, check_lineage
from resmem_cli.stages.prediction_run import PredictionRun
from resmem_cli.stages.searching import SearchConfig, prepare_search, search_record, search_summary
from resmem_cli.stages.sources import EmbeddingSource, open_embeddings
from resmem_cli.stages.stored_index import load_index
from resmem_cli.stages.stored_memory import StoredMemory
from resmem_cli.stages.streaming import query_rows
from resmem_cli.types import ArraySelection, Method, Progress, StageResult, no_progress
from resmem_cli.weights import check_sigma, default_sigma


@dataclass(frozen=True)
class PredictConfig:
    """How to predict.

    Attributes
    ----------
    k : int
        Neighbours of each query.
    sigma : float or None
        Unit of distance of the weights; None for 0.18 × the index's distance scale.
    method : Method
        Whose answer `predicted` and `scores` hold.
    top_scores : int or None
        Store only this many best scores of each query.
    block_rows : int or None
        Queries at a time; None to choose. Changes nothing in the result.
    search : SearchConfig
        How hard an approximate index searches, and with what.
    memory : int
        Bytes of anonymous memory to stay within.
    arrays : ArraySelection
        Which arrays, where the queries are exported arrays.
    """

    k: int = 53
    sigma: float | None = None
    method: Method = Method.RESMEM
    top_scores: int | None = None
    block_rows: int | None = None
    search: SearchConfig = field(default_factory=SearchConfig)
    memory: int = DEFAULT_MEMORY
    arrays: ArraySelection = field(default_factory=ArraySelection)


def predict(
    queries: Path | str,
    *,
    index: Path | str,
    residuals: Path | str,
    output: Path | str,
    config: PredictConfig | None = None,
    clobber: bool = True,
    progress: Progress = no_progress,
) -> StageResult:
    """Predict every query, and keep the memory rows its answer came from.

    Parameters
    ----------
    queries : pathlib.Path or str
        An embeddings artifact or exported arrays, with logits; labels are carried over if there.
    index, residuals : pathlib.Path or str
        Artifacts made from the same embeddings.
    output : pathlib.Path or str
        The artifact to write.
    config : PredictConfig, optional
        The parameters.
    clobber : bool
        Whether an existing output may be replaced.
    progress : Progress
        Shows how far the queries have come.

    Raises
    ------
    UsageError
        If k, sigma or another parameter is out of range.
    MissingInputError, DataError, OutputError
        As the message says, among them inputs that do not belong together, and queries with only their
        largest logits for a memory of another temperature than 1; nothing is written then.
    """
    queries, index, residuals, output = Path(queries), Path(index), Path(residuals), Path(output)
    config = config or PredictConfig()
    _check_config(config)
    with ExitStack() as stack:
        stack.enter_context(memory_budget(config.memory))
        index_file = stack.enter_context(open_artifact(index, INDEX))
        memory_file = stack.enter_context(open_artifact(residuals, RESIDUALS))
        source = stack.enter_context(open_embeddings(queries, config.arrays))
        check_lineage(index_file, memory_file, source)
        n, k = index_file.dimensions["n"], config.k
        if k > n:
            raise UsageError(
                "k is larger than the memory", file=index, expected=f"at most {n:,}", found=f"{k:,}"
            )
        n_classes = source.require_logits().shape[1]
        if config.top_scores is not None and config.top_scores > n_classes:
            raise UsageError(
                "--top-scores out of range",
                expected=f"1 to {n_classes:,} (the classes)",
                found=config.top_scores,
            )
        searched = load_index(index_file)
        with naming_file(index):
            prepare_search(searched, config.search)
        sigma = config.sigma or default_sigma(index_file.number("distance_scale", "median"))
        memory = StoredMemory(memory_file)
        notices = (*source.notices, *_top_logits_notices(source, memory, residuals))
        parameters = {
            "method": str(config.method),
            "k": k,
            "sigma": sigma,
            "temperature": memory.temperature,
            "n_classes": n_classes,
            "n_memory": n,
            "top_scores": config.top_scores,
            "search": search_record(searched),
        }
        writer = stack.enter_context(
            ArtifactWriter(
                output,
                PREDICTIONS,
                parameters=parameters,
                reads=(*source.files, index, residuals),
                clobber=clobber,
            )
        )
        writer.add_inputs(
            source.record("queries"),
            artifact_record("index", index_file),
            artifact_record("residuals", memory_file),
        )
        run = PredictionRun(
            searched,
            memory,
            source,
            writer,
            index_path=index,
            k=k,
            sigma=sigma,
            method=config.method,
            top_scores=config.top_scores,
        )
        step = config.block_rows or query_rows(searched, n_classes=n_classes, k=k)
        run.write(step, progress)
    summary = {
        "queries": source.n,
        "memory": n,
        "method": str(config.method),
        "k": k,
        "sigma": sigma,
        "sigma_from": "--sigma" if config.sigma else "the index's distance scale",
        "temperature": memory.temperature,
        **search_summary(searched),
        **run.accuracies(),
        **run.truncation(),
        "answered_by": dict(run.steps),
    }
    return StageResult("predict", output, summary, notices)


def _top_logits_notices(source: EmbeddingSource, memory: StoredMemory, residuals: Path) -> list[str]:
    """Say what the queries' largest logits stand for, or refuse them with memory of another temperature."""
    logits = source.top_logits
    if logits is None:
        return []
    if memory.temperature != 1:
        raise DataError(
            "has the largest logits of each query only, and the log-sum-exp of all of them at T = 1",
            file=source.path,
            expected="residuals of temperature 1",
            found=f"{memory.temperature} in {residuals}",
            remedy="make the residuals again with -T 1, or embed the queries without --top",
        )
    n_classes = logits.shape[1]
    return [
        f"{source.path}: the {logits.n_kept:,} largest of {n_classes:,} logits of each query are known; "
        "the others share what probability is left"
    ]


def _check_config(config: PredictConfig) -> None:
    if config.k < 1:
        raise UsageError("k out of range", expected="at least 1", found=config.k)
    if config.sigma is not None:
        check_sigma(config.sigma)
    for name, value in (("--top-scores", config.top_scores), ("--block-rows", config.block_rows)):
        if value is not None and value < 1:
            raise UsageError(f"{name} out of range", expected="at least 1", found=value)
