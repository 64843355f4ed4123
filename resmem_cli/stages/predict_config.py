"""How `predict` is to predict: what is given, what was tuned, and what the defaults are."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resmem_cli.artifacts.reader import Artifact
from resmem_cli.errors import DataError, UsageError, naming_file
from resmem_cli.gate import Gate
from resmem_cli.memory_size import DEFAULT_MEMORY
from resmem_cli.settings import Settings, Softening
from resmem_cli.stages.searching import SearchConfig
from resmem_cli.stages.stored_memory import StoredMemory
from resmem_cli.types import (
    ArraySelection,
    Method,
    ProbabilityMethod,
    ResidualSpace,
)
from resmem_cli.weights import check_sigma, check_strength, default_sigma

if TYPE_CHECKING:
    # They take a while to import, and few runs need them.
    from resmem_cli.stages.tuning_file import TuningChoice

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
    shard : (int, int) or None
        ``(i, N)``: only the i-th, from 1, of N equal ranges of the queries.
    found : tuple of pathlib.Path
        What `search` found, in place of a search: files of all queries and of all of the memory.
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
    shard: tuple[int, int] | None = None
    found: tuple[Path, ...] = ()
    search: SearchConfig = field(default_factory=SearchConfig)
    memory: int = DEFAULT_MEMORY
    arrays: ArraySelection = field(default_factory=ArraySelection)


def tuning_choice(config: PredictConfig) -> TuningChoice | None:
    """Read the tuning artifact, if one is given."""
    if config.tuning is None:
        return None
    from resmem_cli.stages.tuning_file import read_tuning

    return read_tuning(config.tuning)


def settle(
    config: PredictConfig, tuning: TuningChoice | None, index_file: Artifact, memory: StoredMemory
) -> Settings:
    """Put together what is given, what was tuned, and what the defaults are."""
    if tuning is not None:
        tuning.check_memory(index_file.path, index_file.parameters["embeddings_digest"])
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
        sigma=sigma or _default_sigma(index_file),
        temperature=memory.temperature,
        strength=config.strength if config.strength is not None else (best.strength if best else 1.0),
    )


def _default_sigma(index_file: Artifact) -> float:
    with naming_file(index_file.path):
        return default_sigma(index_file.number("distance_scale", "median"))


def sigma_from(config: PredictConfig, tuning: TuningChoice | None) -> str:
    """Say where sigma comes from."""
    if config.sigma:
        return "--sigma"
    return "the index's distance scale" if tuning is None else str(tuning.path)


def chosen_gate(config: PredictConfig, tuning: TuningChoice | None) -> Gate | None:
    """Give the gate: by hand, or the tuned one if wished for; raises `UsageError` if there is none."""
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


def chosen_softening(config: PredictConfig, tuning: TuningChoice | None) -> Softening | None:
    """Give what makes scores probabilities: by hand, or tuned."""
    return config.softening or (tuning.softening if tuning else None)


def probabilities_record(
    config: PredictConfig, tuning: TuningChoice | None, space: ResidualSpace
) -> dict[str, Any] | None:
    """Say in the artifact how scores became probabilities; raises `UsageError` if it is not known how."""
    if config.probabilities is None:
        return None
    softening = None
    if config.probabilities == ProbabilityMethod.TEMPERATURE:
        if space == ResidualSpace.LOGIT:
            raise UsageError(
                "--probabilities temperature in logit space, where scores are probabilities already",
                remedy="give --probabilities simplex or clip, or none",
            )
        softening = chosen_softening(config, tuning)
        if softening is None:
            raise UsageError(
                "--probabilities temperature without a temperature",
                remedy="give --tuning, or --probability-temperature",
            )
    return {
        "method": str(config.probabilities),
        "softening": None if softening is None else asdict(softening),
    }


def check_config(config: PredictConfig) -> None:
    """Raise `UsageError` for numbers out of range, and for options that do not go together."""
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
    if config.gate and (config.gate_distance, config.gate_confidence) != (None, None):
        raise UsageError(
            "--gate and a gate by hand", remedy="give --gate, or --gate-distance and --gate-confidence"
        )
    if config.gate_distance is not None and not (
        math.isfinite(config.gate_distance) and config.gate_distance >= 0
    ):
        raise UsageError(
            "--gate-distance out of range", expected="a number from 0 on", found=config.gate_distance
        )
    if config.gate_confidence is not None and not 0 <= config.gate_confidence <= 1:
        raise UsageError("--gate-confidence out of range", expected="0 to 1", found=config.gate_confidence)
    if config.softening is not None:
        if config.probabilities != ProbabilityMethod.TEMPERATURE:
            raise UsageError(
                "--probability-temperature is for --probabilities temperature",
                found=config.probabilities and str(config.probabilities),
            )
        for name, number in (
            ("--probability-temperature", config.softening.temperature),
            ("--probability-floor", config.softening.floor),
        ):
            if not (math.isfinite(number) and number > 0):
                raise UsageError(f"{name} out of range", expected="a number above 0", found=number)
    for name, value in (("--top-scores", config.top_scores), ("--block-rows", config.block_rows)):
        if value is not None and value < 1:
            raise UsageError(f"{name} out of range", expected="at least 1", found=value)
