"""`resmem predict`: the network's answer corrected by what the memory says of the query's neighbours."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from resmem_cli.artifacts.formats import INDEX, PREDICTIONS, RESIDUALS
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.artifacts.shard_formats import NEIGHBORS
from resmem_cli.artifacts.sharded import refuse_shard
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError, UsageError, naming_file
from resmem_cli.memory_size import memory_budget
from resmem_cli.shards import shard_parameters, shard_rows
from resmem_cli.stages.found import FoundBefore, SearchRequest
from resmem_cli.stages.lineage import artifact_record, check_lineage, own_rows_notices
from resmem_cli.stages.predict_config import (
    PredictConfig,
    check_config,
    chosen_gate,
    chosen_softening,
    probabilities_record,
    settle,
    sigma_from,
    tuning_choice,
)
from resmem_cli.stages.prediction_run import Answer, PredictionRun
from resmem_cli.stages.searching import prepare_search, search_record, search_summary
from resmem_cli.stages.sources import EmbeddingSource, open_embeddings
from resmem_cli.stages.stored_index import load_index
from resmem_cli.stages.stored_memory import StoredMemory
from resmem_cli.stages.streaming import query_rows
from resmem_cli.types import (
    Progress,
    ResidualSpace,
    StageResult,
    no_progress,
)


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
    check_config(config)
    with ExitStack() as stack:
        stack.enter_context(memory_budget(config.memory))
        index_file = stack.enter_context(open_artifact(index, INDEX))
        memory_file = stack.enter_context(open_artifact(residuals, RESIDUALS))
        whole = stack.enter_context(open_embeddings(queries, config.arrays))
        source = whole.part(shard_rows(whole.n, config.shard))
        for file in (index_file, memory_file):
            refuse_shard(file)
        check_lineage(index_file, memory_file, source)
        tuning = tuning_choice(config)
        memory = StoredMemory(memory_file)
        settings = settle(config, tuning, index_file, memory)
        if config.compare:
            source.require_labels()
        comparison = None
        gate = chosen_gate(config, tuning)
        if config.compare:
            from resmem_cli.stages.comparison import Comparison

            comparison = Comparison(settings, space=memory.space, tuning=tuning, gate=gate)
        n, k = index_file.dimensions["n"], settings.k
        if comparison is not None:
            comparison.k = min(comparison.k, n)
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
        found = None
        if config.found:
            width = k if comparison is None else comparison.k
            asked = SearchRequest(
                whole.embeddings_digest, index_file.parameters["embeddings_digest"], whole.n, None, width
            )
            files = [stack.enter_context(open_artifact(path, NEIGHBORS)) for path in config.found]
            found = FoundBefore(files, searched, asked, wanted=shard_rows(whole.n, config.shard))
        notices = [*source.notices, *_top_logits_notices(source, memory, residuals)]
        parameters = {
            "method": str(config.method),
            "k": k,
            "sigma": settings.sigma,
            "temperature": memory.temperature,
            "strength": settings.strength,
            "space": str(memory.space),
            "gate": None if gate is None else {"distance": gate.distance, "confidence": gate.confidence},
            "probabilities": probabilities_record(config, tuning, memory.space),
            "tuning": None if tuning is None else dict(tuning.data),
            "compared": None if comparison is None else [one.record() for one in comparison.methods],
            "n_classes": n_classes,
            "n_memory": n,
            "top_scores": config.top_scores,
            "search": search_record(searched),
            **shard_parameters(whole.n, config.shard),
        }
        writer = stack.enter_context(
            ArtifactWriter(
                output,
                PREDICTIONS,
                parameters=parameters,
                reads=(
                    *source.files,
                    *index_file.files,
                    *memory_file.files,
                    *(() if tuning is None else (tuning.path,)),
                    *(() if found is None else found.files),
                ),
                clobber=clobber,
            )
        )
        writer.add_inputs(
            source.record("queries"),
            artifact_record("index", index_file),
            artifact_record("residuals", memory_file),
            *(() if tuning is None else (tuning.record,)),
        )
        writer.set_parameters(queries_digest=source.embeddings_digest)
        notices += own_rows_notices(index_file, source)
        if tuning is not None and (marks := tuning.tuned_on(whole)) is not None:
            marks = marks[shard_rows(whole.n, config.shard)]
            writer.write("tuned_on", marks)
            notices.append(f"{int(marks.sum()):,} of {source.n:,} queries were tuned on, and count here too")
        run = PredictionRun(
            searched,
            memory,
            source,
            writer,
            index_path=index,
            found=found,
            first_query=shard_rows(whole.n, config.shard).start,
            answer=Answer(
                settings=settings,
                method=config.method,
                top_scores=config.top_scores,
                gate=gate,
                probabilities=config.probabilities,
                softening=chosen_softening(config, tuning),
                comparison=comparison,
            ),
        )
        step = config.block_rows or query_rows(
            searched, n_classes=n_classes, k=k if comparison is None else comparison.k
        )
        run.write(step, progress)
    summary = {
        "queries": source.n,
        "memory": n,
        "method": str(config.method),
        "k": k,
        "sigma": settings.sigma,
        "sigma_from": sigma_from(config, tuning),
        "temperature": memory.temperature,
        "strength": settings.strength if settings.strength != 1 else None,
        "space": str(memory.space) if memory.space != ResidualSpace.PROBABILITY else None,
        **search_summary(searched),
        **run.accuracies(),
        **run.truncation(),
        **run.gating(),
        "answered_by": dict(run.steps),
    }
    return StageResult("predict", output, summary, tuple(notices))


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
