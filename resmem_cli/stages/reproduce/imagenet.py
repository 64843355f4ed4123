"""`resmem reproduce imagenet`: table 2, from the exported arrays of networks of several widths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from resmem_cli.artifacts.provenance import InputRecord
from resmem_cli.artifacts.temporary import make_folder
from resmem_cli.errors import DataError, UsageError
from resmem_cli.memory_size import DEFAULT_MEMORY
from resmem_cli.residuals import check_temperature, check_top
from resmem_cli.stages.analyze import AnalyzeConfig, analyze
from resmem_cli.stages.index import index
from resmem_cli.stages.index_config import IndexConfig
from resmem_cli.stages.predict import predict
from resmem_cli.stages.predict_config import PredictConfig
from resmem_cli.stages.reproduce.imagenet_files import Model, Source, models_in
from resmem_cli.stages.reproduce.imagenet_size import STUDY
from resmem_cli.stages.reproduce.imagenet_tables import notices_of, table_2, tuned_table
from resmem_cli.stages.reproduce.published_imagenet import IMAGENET
from resmem_cli.stages.reproduce.run_folder import RunFolder
from resmem_cli.stages.residualize import ResidualizeConfig, residualize
from resmem_cli.stages.sources import EmbeddingSource, open_embeddings
from resmem_cli.stages.study import StudyFiles, write_study
from resmem_cli.stages.tune import tune
from resmem_cli.stages.tune_config import TuneConfig
from resmem_cli.types import Progress, StageResult, no_progress
from resmem_cli.weights import check_sigma

_LARGE = ("index.h5", "*residuals.h5")
_TOLD = ("n", "k", "sigma", "temperature", "strength", "base_accuracy", "accuracy", "gain", "interval", "tpr",
         "fpr", "p_value")  # fmt: skip


@dataclass(frozen=True)
class ImagenetConfig:
    """How to run table 2.

    Attributes
    ----------
    k : int or None
    sigma, temperature : float or None
        The settings of models that are not in table 2; those that are have the paper's.
    top : int or None
        Keep only this many entries of each residual; the paper keeps all.
    tune : bool
        Whether to tune the settings too, on the memory by leave-one-out, and set them beside the paper's.
    sample : int
        Rows of the memory to tune on.
    discard : bool
        Whether to remove a model's index and residuals when its results are known.
    memory : int
        Bytes of anonymous memory to stay within.
    """

    k: int | None = None
    sigma: float | None = None
    temperature: float | None = None
    top: int | None = None
    tune: bool = False
    sample: int = 10_000
    discard: bool = False
    memory: int = DEFAULT_MEMORY


@dataclass(frozen=True)
class _Settings:
    k: int
    sigma: float
    temperature: float


def reproduce_imagenet(
    models: Path | str | Sequence[Model],
    *,
    folder: Path | str,
    config: ImagenetConfig | None = None,
    files: StudyFiles | None = None,
    announce: Callable[[str], None] | None = None,
    progress: Progress = no_progress,
) -> StageResult:
    """Run table 2's rows: index, residualize, predict and analyze each model's arrays.

    What was finished before in the same folder is not repeated.

    Parameters
    ----------
    models : pathlib.Path, str or sequence of Model
        A folder of exported arrays, as `models_in` reads it, or the models.
    folder : pathlib.Path or str
        Where everything is written: a folder for each model, and `imagenet.h5`.
    config : ImagenetConfig, optional
    files : StudyFiles, optional
        Where the tables are written, if not only in the folder.
    announce : callable, optional
        Is told each artifact as it is made.
    progress : Progress

    Returns
    -------
    StageResult
        `summary["tables"]` holds the tables.

    Raises
    ------
    UsageError
        If there is no model, two are of one name, or one is not in table 2 and has no settings.
    MissingInputError, DataError, OutputError
        As the message says; what was made stays.
    """
    config, folder = config or ImagenetConfig(), Path(folder)
    if isinstance(models, Path | str):
        models = models_in(Path(models))
    files = files or StudyFiles(folder / "imagenet.h5")
    _check(models, config)
    settings = {model.name: _settings(model.name, config) for model in models}
    for model in models:
        _check_arrays(model, settings[model.name], config)
    make_folder(folder)
    files.check()
    rows = {
        model.name: _Row(model, settings[model.name], folder, config, announce, progress) for model in models
    }
    results = {name: row.results() for name, row in rows.items()}
    tables = [table_2(results)]
    if config.tune:
        tables.append(tuned_table(results, sample=config.sample))
    parameters = {"models": {model.name: asdict(settings[model.name]) for model in models}, "top": config.top}
    if config.tune:
        parameters["tuned_on"] = config.sample
    inputs = [InputRecord(**record) for row in results.values() for record in row["inputs"]]
    return write_study(
        STUDY,
        tables,
        files,
        parameters=parameters,
        inputs=inputs,
        summary={"folder": str(folder)},
        notices=[*notices_of(results), *(text for row in rows.values() for text in row.notices)],
    )


class _Row:
    """One model's folder, and what is in it."""

    def __init__(
        self,
        model: Model,
        settings: _Settings,
        folder: Path,
        config: ImagenetConfig,
        announce: Callable[[str], None] | None,
        progress: Progress,
    ) -> None:
        self._model, self._settings, self._config, self._progress = model, settings, config, progress
        with _open(model.train) as train, _open(model.test) as test:
            self._shape = (train.n, train.d, train.require_logits().shape[1], test.n)
            self._inputs = [asdict(train.record("train")), asdict(test.record("test"))]
            given = {
                "model": model.name,
                "train": train.digest,
                "test": test.digest,
                **asdict(settings),
                "top": config.top,
            }
        self._run = RunFolder(folder / model.name, given, _of_artifacts(announce))
        self.notices: list[str] = []

    def results(self) -> dict[str, Any]:
        """Do what has not been done, and give what is told of the model."""
        told = {
            "shape": self._shape,
            "inputs": self._inputs,
            "paper": self._run.json("result.json", self._report),
        }
        if self._config.tune:
            told["tuned"] = self._run.json(f"tuned{self._config.sample}.json", self._tuned)
        if self._config.discard:
            for path in (path for name in _LARGE for path in self._run.path.glob(name)):
                path.unlink()
        return told

    def _report(self) -> dict[str, Any]:
        made, chosen = self._run.make, self._settings
        index = self._index()
        residuals = made("residuals.h5", lambda path: self._residualize(path, chosen.temperature))
        config = PredictConfig(k=chosen.k, sigma=chosen.sigma)
        predictions = made("predictions.h5", lambda path: self._predict(path, index, residuals, config))
        return self._analyze(predictions, "report.h5")

    def _tuned(self) -> dict[str, Any]:
        made, name = self._run.make, f"tuned{self._config.sample}"
        index = self._index()
        tuning = made(f"{name}.h5", lambda path: self._tune(path, index))
        residuals = made(f"{name}.residuals.h5", lambda path: self._residualize(path, tuning=tuning))
        config = PredictConfig(tuning=tuning)
        predictions = made(
            f"{name}.predictions.h5", lambda path: self._predict(path, index, residuals, config)
        )
        return self._analyze(predictions, f"{name}.report.h5", tuning=tuning)

    def _index(self) -> Path:
        train = self._model.train
        config = IndexConfig(memory=self._config.memory, arrays=train.arrays)
        return self._run.make(
            "index.h5", lambda path: index(train.path, output=path, config=config, progress=self._progress)
        )

    def _residualize(self, path: Path, temperature: float = 1.0, *, tuning: Path | None = None) -> None:
        train = self._model.train
        config = ResidualizeConfig(temperature=temperature, top=self._config.top, arrays=train.arrays)
        residualize(train.path, output=path, config=config, tuning=tuning, progress=self._progress)

    def _predict(self, path: Path, index: Path, residuals: Path, config: PredictConfig) -> None:
        test = self._model.test
        done = predict(
            test.path,
            index=index,
            residuals=residuals,
            output=path,
            config=replace(config, memory=self._config.memory, arrays=test.arrays),
            progress=self._progress,
        )
        self.notices += done.notices

    def _tune(self, path: Path, index: Path) -> None:
        train = self._model.train
        config = TuneConfig(
            leave_one_out=True,
            sample=self._config.sample,
            top=self._config.top,
            baselines=False,
            memory=self._config.memory,
            train_arrays=train.arrays,
        )
        tune(None, index=index, train=train.path, output=path, config=config, progress=self._progress)

    def _analyze(self, predictions: Path, name: str, *, tuning: Path | None = None) -> dict[str, Any]:
        done = analyze([predictions], output=self._run.path / name, config=AnalyzeConfig(tuning=tuning))
        [told] = done.summary["runs"]
        return {part: told[part] for part in _TOLD}


def _of_artifacts(announce: Callable[[str], None] | None) -> Callable[[str], None] | None:
    """Leave out the JSON files, which take no time of their own."""
    if announce is None:
        return None
    return lambda path: announce(path) if path.endswith(".h5") else None


def _open(source: Source) -> EmbeddingSource:
    return open_embeddings(source.path, source.arrays)


def _check(models: Sequence[Model], config: ImagenetConfig) -> None:
    names = [model.name for model in models]
    if not names:
        raise UsageError("no model", remedy="name a folder, or give --model")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError("a model given twice", found=", ".join(twice), remedy="name each model once")
    if config.k is not None and config.k < 1:
        raise UsageError("k out of range", expected="at least 1", found=config.k)
    if config.sigma is not None:
        check_sigma(config.sigma)
    if config.temperature is not None:
        check_temperature(config.temperature)
    if config.sample < 1:
        raise UsageError("--sample out of range", expected="at least 1", found=config.sample)


def _settings(name: str, config: ImagenetConfig) -> _Settings:
    if name in IMAGENET:
        row = IMAGENET[name]
        return _Settings(row.k, row.sigma, row.temperature)
    if config.k is None or config.sigma is None or config.temperature is None:
        raise UsageError(
            "not a model of the paper's table 2, and no settings for others",
            field=name,
            expected=", ".join(IMAGENET),
            remedy="give -k, --sigma and --temperature, or leave the model out",
        )
    return _Settings(config.k, config.sigma, config.temperature)


def _check_arrays(model: Model, settings: _Settings, config: ImagenetConfig) -> None:
    """Refuse what a later step would refuse, when an index has been built."""
    with _open(model.train) as train, _open(model.test) as test:
        for opened in (train, test):
            opened.require_labels()
        n_classes = train.require_logits().shape[1]
        shapes = [(opened.d, opened.require_logits().shape[1]) for opened in (train, test)]
        if shapes[0] != shapes[1]:
            raise DataError(
                f"dimension and classes are others than in {train.path}",
                file=test.path,
                field=model.name,
                expected=f"{shapes[0][0]:,} and {shapes[0][1]:,}",
                found=f"{shapes[1][0]:,} and {shapes[1][1]:,}",
                remedy="export both from one network",
            )
        if settings.k > train.n:
            raise UsageError(
                "k is larger than the memory",
                file=train.path,
                expected=f"at most {train.n:,}",
                found=f"{settings.k:,}",
            )
    if config.top is not None:
        check_top(config.top, n_classes=n_classes)
