"""`theory`: section 3 of the paper measured, as tables, an artifact and figures."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from resmem_cli.errors import UsageError
from resmem_cli.linear_regression.experiment import run_experiment
from resmem_cli.linear_regression.illustration import illustrate
from resmem_cli.linear_regression.tables import regression_tables
from resmem_cli.stages.study import StudyFiles, write_study
from resmem_cli.types import Progress, StageResult, no_progress


@dataclass(frozen=True)
class TheoryConfig:
    """What to measure.

    Attributes
    ----------
    dimensions : tuple of int
        d, each at least 1.
    norm_bounds : tuple of float
        L, the bound on the norm of the fitted parameters, each at least 0; the target has norm 1.
    rows : tuple of int
        n, numbers of training points, each at least 1.
    repetitions : int
        Draws of each (d, n).
    test_points : int
        Test points of each draw.
    seed : int
    """

    dimensions: tuple[int, ...] = (2, 3, 5)
    norm_bounds: tuple[float, ...] = (0.3, 0.6, 0.9)
    rows: tuple[int, ...] = tuple(2**power for power in range(15))
    repetitions: int = 100
    test_points: int = 1000
    seed: int = 0

    def check(self) -> None:
        """Raise `UsageError` for a value out of range."""
        for name, values, least in (
            ("dimensions", self.dimensions, 1),
            ("norm-bounds", self.norm_bounds, 0),
            ("rows", self.rows, 1),
            ("repetitions", (self.repetitions,), 1),
            ("test-points", (self.test_points,), 1),
            ("seed", (self.seed,), 0),
        ):
            _check_values(name, values, least)


def theory(
    *,
    output: Path | str,
    config: TheoryConfig | None = None,
    markdown: Path | str | None = None,
    figures: Path | str | None = None,
    clobber: bool = True,
    progress: Progress = no_progress,
) -> StageResult:
    """Measure the risks of section 3's linear regression beside theorem 3.3 (Yang et al. 2023).

    Covariates uniform on the ball of radius √(d + 2), a linear target of norm 1, least squares over
    parameters of norm at most L, and the nearest neighbour of the exact index on its residuals.

    Parameters
    ----------
    output : pathlib.Path or str
        The study artifact to write.
    config : TheoryConfig, optional
    markdown : pathlib.Path or str, optional
        A file for the tables as Markdown.
    figures : pathlib.Path or str, optional
        A folder for the figures.
    clobber : bool
        Whether existing files may be replaced.
    progress : Progress
        Counts the points drawn.

    Returns
    -------
    StageResult
        `summary["tables"]` holds the tables `risk`, `distance`, `crossings` and `slopes`.

    Raises
    ------
    UsageError
        If a value of the config is out of range.
    OutputError
        If a file can't be written.
    """
    config = config or TheoryConfig()
    config.check()
    files = StudyFiles(
        Path(output),
        None if markdown is None else Path(markdown),
        None if figures is None else Path(figures),
        clobber,
    )
    files.check()
    begun = time.perf_counter()
    measured = run_experiment(
        dimensions=sorted(set(config.dimensions)),
        norm_bounds=sorted(set(config.norm_bounds)),
        rows=sorted(set(config.rows)),
        repetitions=config.repetitions,
        test_points=config.test_points,
        seed=config.seed,
        progress=progress,
    )
    seconds = time.perf_counter() - begun
    return write_study(
        "theory",
        regression_tables(measured, seed=config.seed),
        files,
        parameters=asdict(config),
        drawn_from={"illustration": illustrate(seed=config.seed)} if figures is not None else None,
        summary={"seconds": round(seconds, 1)},
    )


def _check_values(name: str, values: Sequence[float], least: int) -> None:
    if not values:
        raise UsageError(f"--{name}: no values", expected="one or more")
    for value in values:
        if not (math.isfinite(value) and value >= least):
            raise UsageError(f"--{name} out of range", expected=f"at least {least}", found=value)
