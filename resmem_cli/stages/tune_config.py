"""What `tune` is to try, on what, and what for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from resmem_cli.artifacts.reader import Artifact
from resmem_cli.errors import UsageError
from resmem_cli.memory_size import DEFAULT_MEMORY
from resmem_cli.stages.searching import SearchConfig
from resmem_cli.stages.sources import EmbeddingSource
from resmem_cli.tuning.grid import Grid, Objective, automatic_grid
from resmem_cli.types import ArraySelection, ResidualSpace

BALANCED = "balanced"
"""Class weights that make every class count alike."""


@dataclass(frozen=True)
class TuneConfig:
    """What to try, on what, and what for.

    Attributes
    ----------
    k, sigma, temperature, strength : tuple or None
        Values to try; None for a grid from the memory's own distances.
    refine : bool or None
        Whether to lay a finer grid around the best point; None where no values are given.
    objective : Objective
        What the best point is best in.
    max_fpr : float
        For `Objective.TPR`: the bound on FPR.
    class_weights : pathlib.Path, str or None
        ``balanced``, or a .npy file of (C,) numbers; None for all queries alike.
    leave_one_out : bool
        Tune on the memory's own rows, each without itself.
    sample : int
        With `leave_one_out`: so many rows of the memory, drawn with `seed`.
    fraction : float or None
        Tune on this share of the queries, drawn with `seed`.
    seed : int
    space : ResidualSpace
        Of the residuals.
    top : int or None
        Keep only this many entries of each residual.
    baselines : bool
        Whether to tune kNN and kNN-LM too, on the same neighbours.
    search : SearchConfig
        How an approximate index searches.
    memory : int
        Bytes of anonymous memory to stay within.
    shard : (int, int) or None
        ``(i, N)``: only search, for the i-th, from 1, of N equal ranges of what is tuned on.
    found : tuple of pathlib.Path
        What such searches found, in place of a search.
    arrays, train_arrays : ArraySelection
        Which arrays, where queries and memory are exported arrays.
    """

    k: tuple[int, ...] | None = None
    sigma: tuple[float, ...] | None = None
    temperature: tuple[float, ...] | None = None
    strength: tuple[float, ...] | None = None
    refine: bool | None = None
    objective: Objective = Objective.ACCURACY
    max_fpr: float = 0.05
    class_weights: Path | str | None = None
    leave_one_out: bool = False
    sample: int = 10_000
    fraction: float | None = None
    seed: int = 0
    space: ResidualSpace = ResidualSpace.PROBABILITY
    top: int | None = None
    baselines: bool = True
    search: SearchConfig = field(default_factory=SearchConfig)
    memory: int = DEFAULT_MEMORY
    shard: tuple[int, int] | None = None
    found: tuple[Path, ...] = ()
    arrays: ArraySelection = field(default_factory=ArraySelection)
    train_arrays: ArraySelection = field(default_factory=ArraySelection)


def lay_grid(config: TuneConfig, index_file: Artifact, memory: EmbeddingSource, *, one_less: bool) -> Grid:
    """Put together what is given and what is chosen automatically."""
    n = index_file.dimensions["n"] - one_less
    if n < 1:
        raise UsageError("the memory has one row, which has no other", file=index_file.path)
    any_temperature = memory.top_logits is None
    if not any_temperature and config.temperature not in (None, (1.0,)):
        raise UsageError(
            "has the largest logits of each row only, and the log-sum-exp of all of them at T = 1",
            file=memory.path,
            expected="--temperature 1",
            found=", ".join(f"{t:g}" for t in config.temperature or ()),
        )
    scale = 0.0 if config.sigma else index_file.number("distance_scale", "median")
    if not config.sigma and not scale > 0:
        raise UsageError(
            "no automatic sigma: the memory has one row, or its rows are too often identical",
            file=index_file.path,
            remedy="give --sigma",
        )
    automatic = automatic_grid(n=n, scale=scale or 1.0, temperatures=any_temperature)
    if config.space == ResidualSpace.LOGIT and config.objective != Objective.NLL:
        # The temperature changes no answer there.
        automatic = replace(automatic, temperature=(1.0,))
    given = {name: getattr(config, name) for name in ("k", "sigma", "temperature", "strength")}
    asked = {name: tuple(sorted(set(values))) for name, values in given.items() if values}
    grid = replace(automatic, **asked)
    if any(given.values()) and config.strength is None:
        grid = replace(grid, strength=(1.0,))
    grid.check(n=n)
    return grid


def refines(config: TuneConfig) -> bool:
    """Whether to lay a finer grid: as given, or where no values are."""
    given = (config.k, config.sigma, config.temperature, config.strength)
    return config.refine if config.refine is not None else not any(given)


def check_config(config: TuneConfig, queries: Path | str | None) -> None:
    """Raise `UsageError` for what can't be tried."""
    if queries is None and not config.leave_one_out:
        raise UsageError("nothing to tune on", remedy="give labelled queries, or --leave-one-out")
    if config.fraction is not None and config.leave_one_out:
        raise UsageError("--fraction is for queries", remedy="use --sample with --leave-one-out")
    if config.fraction is not None and not 0 < config.fraction < 1:
        raise UsageError("--fraction out of range", expected="between 0 and 1", found=config.fraction)
    if config.sample < 1:
        raise UsageError("--sample out of range", expected="at least 1", found=config.sample)
    if config.seed < 0:
        raise UsageError("--seed out of range", expected="at least 0", found=config.seed)
    if not 0 < config.max_fpr <= 1:
        raise UsageError("--max-fpr out of range", expected="above 0, at most 1", found=config.max_fpr)
