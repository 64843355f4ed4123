"""`resmem run`: the whole pipeline in one folder, each step as its own artifact."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from resmem_cli.arrays.class_groups import read_class_groups
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.artifacts.temporary import make_folder, new_file
from resmem_cli.errors import MissingInputError, ResmemError, UsageError
from resmem_cli.files import require_file
from resmem_cli.memory_size import DEFAULT_MEMORY
from resmem_cli.stages.analyze import AnalyzeConfig, analyze
from resmem_cli.stages.index import index
from resmem_cli.stages.index_config import IndexConfig
from resmem_cli.stages.makefile import NOT_FOR_MAKE, Step, makefile
from resmem_cli.stages.predict import predict
from resmem_cli.stages.predict_config import PredictConfig
from resmem_cli.stages.residualize import ResidualizeConfig, residualize
from resmem_cli.stages.sources import open_embeddings
from resmem_cli.stages.tune import tune
from resmem_cli.stages.tune_config import TuneConfig
from resmem_cli.types import ArraySelection, Progress, StageResult, no_progress

RULES = "pipeline.mk"
"""The file, in the folder, of the rules that Make would follow."""


@dataclass(frozen=True)
class RunConfig:
    """How to run the pipeline.

    Attributes
    ----------
    train_split, test_split : str or None
        Which of exported arrays; where both inputs are one file, `train` and `test` if not given.
    sample : int
        Rows of the memory that settings are tuned on, each left out in turn.
    groups : pathlib.Path, str or None
        The superclass of each class.
    memory : int
        Bytes of anonymous memory to stay within.
    memory_text : str or None
        The same as the user wrote it, for the commands; None for the default.
    force : bool
        Whether to make what is up to date again.
    """

    train_split: str | None = None
    test_split: str | None = None
    sample: int = 10_000
    groups: Path | str | None = None
    memory: int = DEFAULT_MEMORY
    memory_text: str | None = None
    force: bool = False


def run(
    train: Path | str,
    test: Path | str | None,
    *,
    folder: Path | str,
    config: RunConfig | None = None,
    announce: Callable[[str], None] | None = None,
    progress: Progress = no_progress,
) -> StageResult:
    """Index, tune, residualize, predict and analyze; skip what is up to date.

    A step is up to date if its artifact is whole, was made from inputs of the same digests by the same
    command (as the rules left in the folder by the last run tell), and is no older than they are.

    Parameters
    ----------
    train, test : pathlib.Path or str
        Embeddings with logits and labels: artifacts, or exported arrays. `test` None for the same file.
    folder : pathlib.Path or str
        Where everything is written; made if need be.
    config : RunConfig, optional
    announce : callable, optional
        Is told each step as it begins, or that it is skipped.
    progress : Progress

    Returns
    -------
    StageResult
        `summary["makefile"]` holds the rules, `summary["report"]` what `analyze` tells.

    Raises
    ------
    UsageError, MissingInputError, DataError, OutputError
        As the step's command does; what earlier steps made stays.
    """
    config = config or RunConfig()
    train, folder = Path(train), Path(folder)
    test = train if test is None else Path(test)
    groups = () if config.groups is None else (Path(config.groups),)
    for path in (train, test, *groups):
        _require(path)
    for path in (train, test, *groups, folder):
        if str(path).startswith("~") or any(character in str(path) for character in NOT_FOR_MAKE):
            raise UsageError("a name that Make can't hold", file=path, remedy="rename it")
    steps = pipeline(train, test, folder, config, progress)
    _check_inputs(train, test, config)
    make_folder(folder)
    known = _read(folder / RULES)
    made, skipped, result = [], [], None
    notices: list[str] = []
    fresh: set[Path] = set()

    @cache
    def current() -> dict[Path, set[str]]:
        return _digests(train, test, config)

    for i, step in enumerate(steps):
        if not config.force and not fresh & set(step.inputs) and _up_to_date(step, known, current):
            skipped.append(step.output.name)
            _tell(announce, f"{step.output} is up to date")
            continue
        more = [text for option, path in step.more for text in (option, str(path))]
        _tell(announce, shlex.join(["resmem", *step.command, *more, "-o", str(step.output)]))
        # Should a later step fail, the artifacts of the last run's commands are not those of these rules.
        _write_rules(folder, makefile(steps[:i]))
        result = step.do()
        notices += [text for text in result.notices if text not in notices]
        fresh.add(step.output)
        made.append(step.output.name)
    rules = makefile(steps)
    _write_rules(folder, rules)
    if result is None:
        result = analyze([folder / "predictions.h5"], config=_analysis(config, folder))
        notices += result.notices
    summary: dict[str, Any] = {
        "folder": str(folder),
        "made": made,
        "up_to_date": skipped,
        "report": result.summary,
        "makefile": rules,
    }
    return StageResult("run", folder / "report.h5", summary, tuple(notices))


def pipeline(
    train: Path, test: Path, folder: Path, config: RunConfig, progress: Progress = no_progress
) -> list[Step]:
    """Put together the steps."""
    train_split, test_split = _splits(train, test, config)
    if train.samefile(test) and train_split == test_split:
        raise UsageError("training and test rows are the same", found=f"split {train_split} of {train}")
    made = {name: folder / f"{name}.h5" for name in ("index", "tuning", "residuals", "predictions", "report")}
    of_train = () if train_split is None else ("--split", train_split)
    of_test = () if test_split is None else ("--split", test_split)
    of_memory = () if config.memory_text is None else ("--memory", config.memory_text)
    train_arrays, test_arrays = ArraySelection(split=train_split), ArraySelection(split=test_split)
    page = folder / "report.html"
    groups = () if config.groups is None else ("--groups", str(config.groups))

    return [
        Step(
            made["index"],
            (train,),
            ("index", str(train), *of_train, *of_memory),
            lambda: index(
                train,
                output=made["index"],
                config=IndexConfig(memory=config.memory, arrays=train_arrays),
                progress=progress,
            ),
        ),
        Step(
            made["tuning"],
            (train, made["index"]),
            (
                "tune",
                "--leave-one-out",
                "--sample",
                str(config.sample),
                "--index",
                str(made["index"]),
                "--train",
                str(train),
                *(() if train_split is None else ("--train-split", train_split)),
                *of_memory,
            ),
            lambda: tune(
                None,
                index=made["index"],
                train=train,
                output=made["tuning"],
                config=TuneConfig(
                    leave_one_out=True,
                    sample=config.sample,
                    memory=config.memory,
                    train_arrays=train_arrays,
                ),
                progress=progress,
            ),
        ),
        Step(
            made["residuals"],
            (train, made["tuning"]),
            ("residualize", str(train), *of_train, "--tuning", str(made["tuning"])),
            lambda: residualize(
                train,
                output=made["residuals"],
                config=ResidualizeConfig(arrays=train_arrays),
                tuning=made["tuning"],
                progress=progress,
            ),
        ),
        Step(
            made["predictions"],
            (test, made["index"], made["residuals"], made["tuning"]),
            (
                "predict",
                str(test),
                *of_test,
                "--index",
                str(made["index"]),
                "--residuals",
                str(made["residuals"]),
                "--tuning",
                str(made["tuning"]),
                "--compare",
                *of_memory,
            ),
            lambda: predict(
                test,
                index=made["index"],
                residuals=made["residuals"],
                output=made["predictions"],
                config=PredictConfig(
                    tuning=made["tuning"], compare=True, memory=config.memory, arrays=test_arrays
                ),
                progress=progress,
            ),
        ),
        Step(
            made["report"],
            (
                made["predictions"],
                made["tuning"],
                *(() if config.groups is None else (Path(config.groups),)),
            ),
            ("analyze", str(made["predictions"]), "--tuning", str(made["tuning"]), *groups),
            lambda: analyze(
                [made["predictions"]], output=made["report"], config=_analysis(config, folder, page)
            ),
            more=(("--html", page),),
        ),
    ]


def _analysis(config: RunConfig, folder: Path, page: Path | None = None) -> AnalyzeConfig:
    return AnalyzeConfig(tuning=folder / "tuning.h5", groups=config.groups, html=page)


def _check_inputs(train: Path, test: Path, config: RunConfig) -> None:
    """Refuse inputs that a later step would refuse."""
    if config.sample < 1:
        raise UsageError("--sample out of range", expected="at least 1", found=config.sample)
    for path, split in zip((train, test), _splits(train, test, config), strict=True):
        with open_embeddings(path, ArraySelection(split=split)) as source:
            source.require_labels()
            n_classes = source.require_logits().shape[1]
            names = None if source.class_names is None else [name.decode() for name in source.class_names]
    if config.groups is not None:
        read_class_groups(Path(config.groups), n_classes, names)


def _digests(train: Path, test: Path, config: RunConfig) -> dict[Path, set[str]]:
    """Give the digests of what is read of each input."""
    digests: dict[Path, set[str]] = {train: set(), test: set()}
    for path, split in zip((train, test), _splits(train, test, config), strict=True):
        with open_embeddings(path, ArraySelection(split=split)) as source:
            digests[path].add(source.digest)
    return digests


def _splits(train: Path, test: Path, config: RunConfig) -> tuple[str | None, str | None]:
    if train.samefile(test):
        return config.train_split or "train", config.test_split or "test"
    return config.train_split, config.test_split


def _up_to_date(step: Step, known: str, current: Callable[[], dict[Path, set[str]]]) -> bool:
    """Whether an artifact is whole, no older than its inputs, and made from these by the same command."""
    if step.rule() not in known:
        return False
    try:
        with open_artifact(step.output) as made_file:
            made_from = {record.digest for record in made_file.header.inputs}
        digests = current()
        for path in step.inputs:
            if path in digests:
                wanted = digests[path]
            elif path.suffix == ".h5" and path.parent == step.output.parent:
                with open_artifact(path) as input_file:
                    wanted = {input_file.header.content_digest}
            else:
                continue
            if not wanted & made_from:
                return False
        if any(path.stat().st_size == 0 for _, path in step.more):
            return False
        made = min(path.stat().st_mtime_ns for path in (step.output, *(path for _, path in step.more)))
        return all(path.stat().st_mtime_ns <= made for path in step.inputs)
    except (OSError, ResmemError):
        return False


def _require(path: Path) -> None:
    if path.is_dir():
        raise MissingInputError("a folder, not a file", file=path)
    require_file(path)


def _write_rules(folder: Path, rules: str) -> None:
    with new_file(folder / RULES) as stream:
        stream.write(rules.encode(errors="replace"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _tell(announce: Callable[[str], None] | None, text: str) -> None:
    if announce is not None:
        announce(text)
