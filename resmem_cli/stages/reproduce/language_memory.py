"""The memory of a model of `reproduce language`: the tool's stages in a run folder, each with its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resmem_cli.artifacts.formats import INDEX, PREDICTIONS
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.indexes.base import Build
from resmem_cli.indexes.exact import ExactIndex
from resmem_cli.stages.analyze import AnalyzeConfig, analyze
from resmem_cli.stages.embed import embed
from resmem_cli.stages.embedding.config import EmbedConfig, LanguageConfig
from resmem_cli.stages.index import index
from resmem_cli.stages.index_config import IndexConfig
from resmem_cli.stages.predict import predict
from resmem_cli.stages.predict_config import PredictConfig
from resmem_cli.stages.reproduce.language_config import (
    PAPER_K,
    PAPER_SIGMA,
    STRIDE,
    TOP,
    WINDOW,
    LanguageStudyConfig,
    ModelSize,
)
from resmem_cli.stages.reproduce.language_training import NETWORK
from resmem_cli.stages.reproduce.run_folder import RunFolder, read_json, write_json
from resmem_cli.stages.residualize import ResidualizeConfig, residualize
from resmem_cli.stages.sources import open_embeddings
from resmem_cli.stages.stored_index import load_index
from resmem_cli.stages.tune import tune
from resmem_cli.stages.tune_config import TuneConfig
from resmem_cli.types import Progress, StageResult, no_progress

TUNED_K = (25, 50, 100, 200, 400, 700)
TUNED_STRENGTH = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
SETTINGS = ("paper", "tuned")
"""The predictions of each model: with the paper's settings, and with tuned ones."""

_TOP_SCORES = 10
_CHOOSING = ("index.h5", "tuning.h5")
_INDEX_PARAMETERS = ("lists", "subquantizers", "bits")


@dataclass(frozen=True)
class Steps:
    """The stages of one model, each of which makes its file if it is not there.

    Attributes
    ----------
    folder : RunFolder
        Of this size.
    size : ModelSize
    tokens : mapping
        The token ids of `token_files`.
    config : LanguageStudyConfig
    vocabulary : int
    progress : Progress
    """

    folder: RunFolder
    size: ModelSize
    tokens: dict[str, Path]
    config: LanguageStudyConfig
    vocabulary: int
    progress: Progress = no_progress

    def run(self) -> None:
        """Make everything that is not there: embeddings, memory, predictions and what is told of them."""
        for part in ("memory", "validation", "test"):
            self._make(f"{part}.h5", partial(self._embed, part))
        path = self.folder.path
        self._make("residuals.h5", self._residualize)
        self._make("index.h5", self._index)
        self._make("tuning.h5", self._tune)
        for settings in SETTINGS:
            self._make(f"{settings}.h5", partial(self._predict, settings))
        self.folder.json("recall.json", self._recall)
        self.folder.json(
            "report.json",
            lambda: (
                analyze(
                    [path / f"{settings}.h5" for settings in SETTINGS],
                    output=path / "report.h5",
                    config=AnalyzeConfig(tuning=path / "tuning.h5", n_examples=0),
                ).summary
            ),
        )

    def told(self, name: str) -> Any:
        """Read JSON values of the folder."""
        return read_json(self.folder.path / name)

    def time_of(self, name: str, n_tokens: int) -> tuple[int, float | None]:
        """Give how many tokens a step went through, and in how many seconds, when its file was made.

        The time is None where the process ended before it was noted.
        """
        path = self.folder.path / _time_of(name)
        if not path.exists():
            return n_tokens, None
        told = read_json(path)
        return n_tokens - told["rows_before"], float(told["seconds"])

    def notices(self) -> list[str]:
        """Give what the stages that made choices said of them, when they were made."""
        paths = [self.folder.path / _time_of(name) for name in _CHOOSING]
        found = [text for path in paths if path.exists() for text in read_json(path)["notices"]]
        return [f"{self.size.name}: {text}" for text in found]

    def bytes_of(self, name: str) -> int:
        """Give the size of a file of the folder."""
        return (self.folder.path / name).stat().st_size

    def _make(self, name: str, do: Callable[[Path], StageResult]) -> None:
        def timed(path: Path) -> None:
            start = time.perf_counter()
            result = do(path)
            told = {
                "seconds": time.perf_counter() - start,
                # What an earlier run had embedded already took none of this time.
                "rows_before": result.summary.get("resumed_from_row") or 0,
                "notices": list(result.notices),
            }
            write_json(path.with_name(_time_of(name)), told)

        self.folder.make(name, timed)

    def _embed(self, part: str, path: Path) -> StageResult:
        return embed(
            path.with_name(NETWORK),
            self.tokens[part],
            output=path,
            config=EmbedConfig(
                arch="transformer-lm",
                arch_args=self.size.arch_args(self.vocabulary),
                device=self.config.device,
                top=min(TOP, self.vocabulary),
                language=LanguageConfig(window=WINDOW, stride=STRIDE),
                resume=True,
            ),
            progress=self.progress,
        )

    def _residualize(self, path: Path) -> StageResult:
        return residualize(
            path.with_name("memory.h5"),
            output=path,
            config=ResidualizeConfig(temperature=1.0, top=min(TOP, self.vocabulary)),
            progress=self.progress,
        )

    def _index(self, path: Path) -> StageResult:
        # Tuned on what it will be asked for, but not on the test tokens.
        return index(
            path.with_name("memory.h5"),
            output=path,
            config=IndexConfig(
                kind=self.config.kind,
                memory=self.config.memory,
                recall=self.config.recall,
                k=PAPER_K,
                queries=None if self.config.kind == "exact" else path.with_name("validation.h5"),
                seed=self.config.seed,
            ),
            progress=self.progress,
        )

    def _tune(self, path: Path) -> StageResult:
        with open_artifact(path.with_name("index.h5"), INDEX) as file:
            most = min(self.config.most_k, file.dimensions["n"])
        return tune(
            path.with_name("validation.h5"),
            index=path.with_name("index.h5"),
            train=path.with_name("memory.h5"),
            output=path,
            config=TuneConfig(
                k=tuple(sorted({min(k, most) for k in (*TUNED_K, most)})),
                strength=TUNED_STRENGTH,
                refine=True,
                seed=self.config.seed,
                memory=self.config.memory,
            ),
            progress=self.progress,
        )

    def _predict(self, settings: str, path: Path) -> StageResult:
        with open_artifact(path.with_name("index.h5"), INDEX) as file:
            n = file.dimensions["n"]
        tuned = settings == "tuned"
        return predict(
            path.with_name("test.h5"),
            index=path.with_name("index.h5"),
            residuals=path.with_name("residuals.h5"),
            output=path,
            config=PredictConfig(
                k=None if tuned else min(PAPER_K, n),
                sigma=None if tuned else PAPER_SIGMA,
                tuning=path.with_name("tuning.h5") if tuned else None,
                compare=True,
                top_scores=min(_TOP_SCORES, self.vocabulary),
                memory=self.config.memory,
            ),
            progress=self.progress,
        )

    def _recall(self) -> dict[str, Any]:
        """Measure the share of the true neighbours of some test tokens that were found for them."""
        path = self.folder.path
        found = {}
        for settings in SETTINGS:
            with open_artifact(path / f"{settings}.h5", PREDICTIONS) as file:
                found[settings] = file.read("neighbors/distances")
        n_queries = len(found["paper"])
        count = min(n_queries, self.config.recall_tokens)
        chosen = np.sort(np.random.default_rng(self.config.seed).choice(n_queries, size=count, replace=False))
        with open_embeddings(path / "test.h5") as source:
            queries = source.embeddings.read(0, n_queries)[chosen]
        with open_artifact(path / "index.h5", INDEX) as file:
            built = load_index(file)
            exact = ExactIndex.build(
                built.vectors, parameters={"axes": 0}, build=Build(memory=self.config.memory)
            )
            start = time.perf_counter()
            most = max(distances.shape[1] for distances in found.values())
            truth = exact.search(queries, most).distances
            seconds = time.perf_counter() - start
            quality = file.parameters.get("quality")
            told = built.parameters()
        # A row as near as the k-th is as good as the k-th: with equal rows, which is found is chance.
        recall = {
            settings: float(np.mean(distances[chosen] <= truth[:, distances.shape[1] - 1 :][:, :1]))
            for settings, distances in found.items()
        }
        return {
            "kind": built.kind,
            "rows": built.shape[0],
            "dimensions": built.shape[1],
            "parameters": {name: told[name] for name in _INDEX_PARAMETERS if name in told},
            "effort": told.get("effort"),
            "target": None if quality is None else quality["target_recall"],
            "k": {settings: int(distances.shape[1]) for settings, distances in found.items()},
            "recall": recall,
            "queries": count,
            "exact_seconds": seconds,
        }


def _time_of(name: str) -> str:
    return f"{name.removesuffix('.h5')}.time.json"
