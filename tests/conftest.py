"""Arrays of a small classifier, and the command line as a user meets it."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

from resmem_cli.cli.failures import tell
from resmem_cli.cli.main import app

# Modules whose every test needs an optional package.
NEEDS = {
    "torch": ("test_models_*.py", "test_arrays_*.py", "test_cli_embed.py", "test_readme.py"),
    "pyarrow": ("test_arrays_*.py",),
}
MISSING = [package for package in NEEDS if importlib.util.find_spec(package) is None]
pytest_plugins = ("reliability.tally",)
# No test fails on a time.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
collect_ignore_glob = [pattern for package in MISSING for pattern in NEEDS[package]]


def pytest_report_header() -> list[str]:
    return [f"skipped, for {package} is not installed: {', '.join(NEEDS[package])}" for package in MISSING]


N_TRAIN, N_TEST, D, C = 300, 80, 8, 5


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def result(self) -> Any:
        return self.json["result"]


Resmem = Callable[..., Finished]


@pytest.fixture(autouse=True, scope="module")
def _freed_memory_goes_back() -> Iterator[None]:
    """Keep the tests' own process small: files are opened in forks of it."""
    yield
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def resmem(monkeypatch: pytest.MonkeyPatch) -> Resmem:
    """Run `resmem` with arguments, in this process, where a warning is an error."""
    # Which is to stay small.
    monkeypatch.setattr("resmem_cli.cli.options.keep_freed_memory", lambda most: None)

    def call(*arguments: object, cwd: Path | None = None) -> Finished:
        if cwd is not None:
            monkeypatch.chdir(cwd)
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            try:
                status = app([*map(str, arguments)], prog_name="resmem", standalone_mode=False) or 0
            except Exception as error:
                status = tell(error)
        return Finished(status, stdout.getvalue(), stderr.getvalue())

    return call


@pytest.fixture(scope="session")
def resmem_process() -> Resmem:
    """Run `resmem` with arguments, in a process of its own."""

    def call(*arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", "resmem_cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            timeout=120,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return call


def classifier_arrays(seed: int = 0) -> dict[str, NDArray[Any]]:
    """Embeddings in clusters, and logits that are right about seven times in ten."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(C, D)) * 2
    arrays: dict[str, NDArray[Any]] = {"class_names": np.array(["ant", "bee", "cat", "dog", "eel"])}
    for split, n in (("train", N_TRAIN), ("test", N_TEST)):
        labels = generator.integers(0, C, size=n)
        embeddings = centres[labels] + generator.normal(size=(n, D))
        logits = generator.normal(size=(n, C)) + 1.5 * np.eye(C)[labels]
        arrays[f"{split}_embeddings"] = embeddings.astype(np.float32)
        arrays[f"{split}_logits"] = logits.astype(np.float32)
        arrays[f"{split}_labels"] = labels
    return arrays


@dataclass(frozen=True)
class Pipeline:
    """The files of a whole pipeline. Tests read them and leave them as they are."""

    arrays: Path
    train: Path
    test: Path
    residuals: Path
    index: Path
    predictions: Path
    report: Path
    tuning: Path

    @property
    def artifacts(self) -> tuple[Path, ...]:
        return (
            self.train,
            self.test,
            self.residuals,
            self.index,
            self.predictions,
            self.report,
            self.tuning,
        )


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Every artifact of one small pipeline."""
    return make_pipeline(tmp_path_factory.mktemp("pipeline"))


def make_pipeline(folder: Path, seed: int = 0, temperature: float = 1.4) -> Pipeline:
    from resmem_cli import (
        ArraySelection,
        ImportConfig,
        PredictConfig,
        ResidualizeConfig,
        TuneConfig,
        analyze,
        import_arrays,
        index,
        predict,
        residualize,
        tune,
    )

    names = (
        "train.h5",
        "test.h5",
        "residuals.h5",
        "index.h5",
        "predictions.h5",
        "report.h5",
        "tuning.h5",
    )
    files = Pipeline(folder / "arrays.npz", *(folder / name for name in names))
    np.savez(files.arrays, **classifier_arrays(seed))
    for split, path in (("train", files.train), ("test", files.test)):
        import_arrays(files.arrays, output=path, config=ImportConfig(arrays=ArraySelection(split=split)))
    residualize(files.train, output=files.residuals, config=ResidualizeConfig(temperature=temperature))
    index(files.train, output=files.index)
    predict(
        files.test,
        index=files.index,
        residuals=files.residuals,
        output=files.predictions,
        config=PredictConfig(k=20),
    )
    analyze([files.predictions], output=files.report)
    grid = TuneConfig(k=(5, 20), sigma=(0.3, 1.0), temperature=(temperature,), fraction=0.5)
    tune(files.test, index=files.index, train=files.train, output=files.tuning, config=grid)
    return files
