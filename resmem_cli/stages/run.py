"""`resmem run`: the whole pipeline in one folder, each step as its own artifact."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.artifacts.temporary import write_text
from resmem_cli.errors import MissingInputError, OutputError, ResmemError, UsageError
from resmem_cli.files import require_file
from resmem_cli.memory_size import DEFAULT_MEMORY
from resmem_cli.stages.analyze import AnalyzeConfig, analyze
from resmem_cli.stages.index import IndexConfig, index
from resmem_cli.stages.predict import predict
from resmem_cli.stages.predict_config import PredictConfig
from resmem_cli.stages.residualize import ResidualizeConfig, residualize
from resmem_cli.stages.tune import TuneConfig, tune
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


@dataclass(frozen=True)
class Step:
    """One artifact and how it is made.

    Attributes
    ----------
    output : pathlib.Path
        The artifact.
    inputs : tuple of pathlib.Path
        What it is made from.
    command : tuple of str
        The command that would make it, but for the output.
    do : callable
        Makes it.
    more : tuple of (str, pathlib.Path)
        Options that name files written besides.
    """

    output: Path
    inputs: tuple[Path, ...]
    command: tuple[str, ...]
    do: Callable[[], StageResult]
    more: tuple[tuple[str, Path], ...] = field(default=())

    def rule(self) -> str:
        """Write it as a rule of a Makefile."""
        options = [text for option, path in self.more for text in (option, str(path))]
        command = shlex.join(["resmem", *self.command, *options]).replace("$", "$$")
        inputs = " ".join(_for_make(path) for path in self.inputs)
        folder = _for_make(self.output.parent)
        return f"{_for_make(self.output)}: {inputs} | {folder}\n\t{command} -o {_target(self.output)}\n"


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

    A step is up to date if its artifact is no older than its inputs, and was made by the same command: as
    Make would see it, and besides as the rules left in the folder by the last run tell.

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
        if str(path).startswith("~") or any(character in str(path) for character in _NOT_FOR_MAKE):
            raise UsageError("a name that Make can't hold", file=path, remedy="rename it")
    steps = pipeline(train, test, folder, config, progress)
    folder_made = _make(folder)
    known = "" if folder_made else _read(folder / RULES)
    made, skipped, result = [], [], None
    notices: list[str] = []
    fresh: set[Path] = set()
    for i, step in enumerate(steps):
        if not config.force and not fresh & set(step.inputs) and _up_to_date(step, known):
            skipped.append(step.output.name)
            _tell(announce, f"{step.output} is up to date")
            continue
        _tell(announce, shlex.join(["resmem", *step.command, "-o", str(step.output)]))
        # Should a later step fail, the artifacts of the last run's commands are not those of these rules.
        write_text(folder / RULES, makefile(steps[:i]))
        result = step.do()
        notices += [text for text in result.notices if text not in notices]
        fresh.add(step.output)
        made.append(step.output.name)
    rules = makefile(steps)
    write_text(folder / RULES, rules)
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
    train_split, test_split = config.train_split, config.test_split
    if train.samefile(test):
        train_split, test_split = train_split or "train", test_split or "test"
        if train_split == test_split:
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


def makefile(steps: Sequence[Step]) -> str:
    """Write the steps as a Makefile, whose first target makes all."""
    if not steps:
        return ""
    last = steps[-1].output
    folder = f"{_for_make(last.parent)}:\n\tmkdir -p {_target(last.parent)}\n"
    return "\n".join([f"all: {_for_make(last)}\n", folder, *(step.rule() for step in steps)])


def _analysis(config: RunConfig, folder: Path, page: Path | None = None) -> AnalyzeConfig:
    return AnalyzeConfig(tuning=folder / "tuning.h5", groups=config.groups, html=page)


def _up_to_date(step: Step, known: str) -> bool:
    if step.rule() not in known:
        return False
    try:
        open_artifact(step.output).close()  # what is damaged is made again
        made = min(path.stat().st_mtime_ns for path in (step.output, *(path for _, path in step.more)))
        return all(path.stat().st_mtime_ns <= made for path in step.inputs)
    except (OSError, ResmemError):
        return False


# What ends a name in a rule, or stands for something else; blanks, dollars and colons can be escaped.
_NOT_FOR_MAKE = "\n\t#%=;|\\"


def _target(path: Path) -> str:
    """Name the target in a recipe: `$@`, unless the shell would take its name apart."""
    quoted = shlex.quote(str(path))
    return "$@" if quoted == str(path) else quoted.replace("$", "$$")


def _for_make(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "\\ ").replace(":", "\\:")


def _require(path: Path) -> None:
    if path.is_dir():
        raise MissingInputError("a folder, not a file", file=path)
    require_file(path)


def _make(folder: Path) -> bool:
    """Make the folder; say whether it is new."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise OutputError("not a folder", file=folder) from None
        return False
    except OSError as error:
        raise OutputError(f"can't be made: {error.strerror}", file=folder) from error
    return True


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _tell(announce: Callable[[str], None] | None, text: str) -> None:
    if announce is not None:
        announce(text)
