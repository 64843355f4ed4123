"""`resmem predict`: the network's answer corrected by what the memory says of the query's neighbours."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from resmem_cli.analysis import Gate
from resmem_cli.artifacts.formats import INDEX, PREDICTIONS, RESIDUALS
from resmem_cli.artifacts.reader import Artifact, open_artifact
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.calibration import ProbabilityMethod, Softening
from resmem_cli.errors import DataError, UsageError, naming_file
from resmem_cli.memory_size import DEFAULT_MEMORY, memory_budget
from resmem_cli.stages.comparison import Comparison
from resmem_cli.stages.lineage import artifact_record, check_lineage
from resmem_cli.stages.prediction_run import Answer, PredictionRun
from resmem_cli.stages.searching import SearchConfig, prepare_search, search_record, search_summary
from resmem_cli.stages.sources import EmbeddingSource, open_embeddings
from resmem_cli.stages.stored_index import load_index
from resmem_cli.stages.stored_memory import StoredMemory
from resmem_cli.stages.streaming import query_rows
from resmem_cli.stages.tuning_file import Settings, TuningChoice, read_tuning
from resmem_cli.types import ArraySelection, Method, Progress, ResidualSpace, StageResult, no_progress
from resmem_cli.weights import check_sigma, check_strength, default_sigma

DEFAULT_K = 53


@dataclass(frozen=True)
class PredictConfig:
    """How to predict.

    Attributes
    ----------
    k : int or None
        Neighbours of each query; None for the tuned number, or 53.
    sigma : float or None
        Unit of distance of the weights; None for the tuned one, or 0.18 × the index's distance scale.
    strength : float or None
        Factor of the memory's share; None for the tuned one, or 1.
    tuning : pathlib.Path, str or None
        A tuning artifact, for what is not given.
    gate : bool
        Whether to use memory only where the gate of `tuning` lets it.
    gate_distance, gate_confidence : float or None
        A gate by hand: the farthest nearest neighbour, and the most confident network, to use memory with.
    probabilities : ProbabilityMethod or None
        Write the scores as probabilities too.
    softening : Softening or None
        For `ProbabilityMethod.TEMPERATURE`; None for the tuned one.
    compare : bool
        Run the baselines on the same search too, for `analyze --compare`; needs labels.
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

    k: int | None = None
    sigma: float | None = None
    strength: float | None = None
    tuning: Path | str | None = None
    gate: bool = False
    gate_distance: float | None = None
    gate_confidence: float | None = None
    probabilities: ProbabilityMethod | None = None
    softening: Softening | None = None
    compare: bool = False
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
        tuning = None if config.tuning is None else read_tuning(config.tuning)
        memory = StoredMemory(memory_file)
        settings = _settings(config, tuning, index_file, memory)
        if config.compare:
            source.require_labels()
        comparison = None
        gate = _gate(config, tuning)
        if config.compare:
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
        notices = (*source.notices, *_top_logits_notices(source, memory, residuals))
        marks = None if tuning is None else tuning.tuned_on(source)
        parameters = {
            "method": str(config.method),
            "k": k,
            "sigma": settings.sigma,
            "temperature": memory.temperature,
            "strength": settings.strength,
            "space": str(memory.space),
            "gate": None if gate is None else {"distance": gate.distance, "confidence": gate.confidence},
            "probabilities": _probabilities_record(config, tuning),
            "tuning": None if tuning is None else dict(tuning.data),
            "compared": None if comparison is None else [one.record() for one in comparison.methods],
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
                reads=(*source.files, index, residuals, *(() if tuning is None else (tuning.path,))),
                clobber=clobber,
            )
        )
        writer.add_inputs(
            source.record("queries"),
            artifact_record("index", index_file),
            artifact_record("residuals", memory_file),
            *(() if tuning is None else (tuning.record,)),
        )
        if marks is not None:
            writer.write("tuned_on", marks)
        run = PredictionRun(
            searched,
            memory,
            source,
            writer,
            index_path=index,
            answer=Answer(
                settings=settings,
                method=config.method,
                top_scores=config.top_scores,
                gate=gate,
                probabilities=config.probabilities,
                softening=_softening(config, tuning),
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
        "sigma_from": _sigma_from(config, tuning),
        "temperature": memory.temperature,
        "strength": settings.strength if settings.strength != 1 else None,
        "space": str(memory.space) if memory.space != ResidualSpace.PROBABILITY else None,
        **search_summary(searched),
        **run.accuracies(),
        **run.truncation(),
        **run.gating(),
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


def _settings(
    config: PredictConfig, tuning: TuningChoice | None, index_file: Artifact, memory: StoredMemory
) -> Settings:
    """Put together what is given, what was tuned, and what the defaults are."""
    if tuning is not None:
        tuning.check_memory(index_file)
        tuned, stored = (tuning.space, tuning.best.temperature), (memory.space, memory.temperature)
        if tuned != stored:
            raise DataError(
                "tuned for residuals of another temperature or space",
                file=tuning.path,
                expected=f"T = {tuned[1]:g} in {tuned[0]} space",
                found=f"T = {stored[1]:g} in {stored[0]} space",
                remedy=f"make the residuals again with --tuning {tuning.path}",
            )
    best = tuning.best if tuning else None
    sigma = config.sigma or (best.sigma if best else None)
    return Settings(
        k=config.k or (best.k if best else DEFAULT_K),
        sigma=sigma or default_sigma(index_file.number("distance_scale", "median")),
        temperature=memory.temperature,
        strength=config.strength if config.strength is not None else (best.strength if best else 1.0),
    )


def _sigma_from(config: PredictConfig, tuning: TuningChoice | None) -> str:
    if config.sigma:
        return "--sigma"
    return "the index's distance scale" if tuning is None else str(tuning.path)


def _gate(config: PredictConfig, tuning: TuningChoice | None) -> Gate | None:
    by_hand = (config.gate_distance, config.gate_confidence)
    if by_hand != (None, None):
        return Gate(distance=by_hand[0], confidence=by_hand[1])
    if not config.gate:
        return None
    if tuning is None:
        raise UsageError(
            "--gate without a gate", remedy="give --tuning, or --gate-distance or --gate-confidence"
        )
    return tuning.gate


def _softening(config: PredictConfig, tuning: TuningChoice | None) -> Softening | None:
    return config.softening or (tuning.softening if tuning else None)


def _probabilities_record(config: PredictConfig, tuning: TuningChoice | None) -> dict[str, Any] | None:
    if config.probabilities is None:
        return None
    softening = None
    if config.probabilities == ProbabilityMethod.TEMPERATURE:
        softening = _softening(config, tuning)
        if softening is None:
            raise UsageError(
                "--probabilities temperature without a temperature",
                remedy="give --tuning, or --probability-temperature",
            )
    return {
        "method": str(config.probabilities),
        "softening": None if softening is None else asdict(softening),
    }


def _check_config(config: PredictConfig) -> None:
    if config.k is not None and config.k < 1:
        raise UsageError("k out of range", expected="at least 1", found=config.k)
    if config.sigma is not None:
        check_sigma(config.sigma)
    if config.strength is not None:
        check_strength(config.strength)
    if config.method != Method.RESMEM:
        for option, wanted in (
            ("--gate", config.gate or config.gate_distance is not None or config.gate_confidence is not None),
            ("--probabilities", config.probabilities is not None),
            ("--compare", config.compare),
        ):
            if wanted:
                raise UsageError(f"{option} is for --method resmem", found=str(config.method))
    if config.gate_distance is not None and not config.gate_distance >= 0:
        raise UsageError("--gate-distance out of range", expected="from 0 on", found=config.gate_distance)
    if config.gate_confidence is not None and not 0 <= config.gate_confidence <= 1:
        raise UsageError("--gate-confidence out of range", expected="0 to 1", found=config.gate_confidence)
    for name, value in (("--top-scores", config.top_scores), ("--block-rows", config.block_rows)):
        if value is not None and value < 1:
            raise UsageError(f"{name} out of range", expected="at least 1", found=value)
