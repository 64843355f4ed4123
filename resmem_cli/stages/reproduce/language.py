"""`resmem reproduce language`: language models on a folder of texts, with and without memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from resmem_cli.arrays.byte_pairs import require_tokenizers
from resmem_cli.arrays.corpus import find_corpus
from resmem_cli.arrays.tokenizing import TextTokenizer
from resmem_cli.artifacts.provenance import InputRecord
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.errors import UsageError
from resmem_cli.files import followed
from resmem_cli.stages.lineage import artifact_record
from resmem_cli.stages.reproduce.language_config import LanguageStudyConfig, python_source
from resmem_cli.stages.reproduce.language_costs import (
    bytes_table,
    examples_table,
    recall_table,
    speed_table,
)
from resmem_cli.stages.reproduce.language_examples import Example, corrected_examples
from resmem_cli.stages.reproduce.language_memory import SETTINGS, Steps
from resmem_cli.stages.reproduce.language_tables import (
    accuracy_table,
    gain_table,
    knn_lm_table,
    reach_table,
)
from resmem_cli.stages.reproduce.language_texts import TOKENIZER, token_files
from resmem_cli.stages.reproduce.language_training import train_model
from resmem_cli.stages.reproduce.language_where import where_table
from resmem_cli.stages.reproduce.run_folder import RunFolder
from resmem_cli.stages.study import StudyFiles, write_study
from resmem_cli.types import Progress, StageResult, no_progress

STUDY = "language.h5"
"""The artifact, in the folder of the run."""


def reproduce_language(
    texts: Path | str | None,
    *,
    folder: Path | str,
    config: LanguageStudyConfig | None = None,
    files: StudyFiles | None = None,
    announce: Callable[[str], None] | None = None,
    progress: Progress = no_progress,
) -> StageResult:
    """Train language models on texts, give each a memory, and set what it does beside the paper's numbers.

    The texts are dealt out by file. A byte-pair tokenizer and decoder-only transformers of two sizes or more
    learn from the training texts, whose tokens become the memory. Settings are tuned on the validation
    tokens; what is told is of the test tokens (Yang et al. 2023, section 4.3, appendices E and F).

    Parameters
    ----------
    texts : pathlib.Path, str or None
        A folder; None for the source of Python's standard library.
    folder : pathlib.Path or str
        Where everything is written; what is there already is not made again.
    config : LanguageStudyConfig, optional
    files : StudyFiles, optional
        Where the tables go; `language.h5` in the folder if not given.
    announce : callable, optional
        Is told each step as it begins, and how training goes.
    progress : Progress

    Returns
    -------
    StageResult
        `summary["tables"]` holds the tables.

    Raises
    ------
    MissingExtraError
        If torch or the package tokenizers is not installed.
    UsageError, MissingInputError, DataError, ResourceError, OutputError
        As the message says; what was made before stays.
    """
    config = config or LanguageStudyConfig()
    config.check()
    folder = Path(folder)
    files = files or StudyFiles(folder / STUDY)
    require_tokenizers()
    corpus = find_corpus(
        python_source() if texts is None else Path(texts), glob=config.glob, exclude=config.exclude
    )
    if texts is not None and followed(folder).is_relative_to(followed(texts)):
        raise UsageError(
            "the output lies in the folder of texts, and would be read as texts the next time",
            file=folder,
            remedy="name a folder elsewhere",
        )
    settings = config.settings(digest=corpus.digest, device=_device(config.device))
    run = RunFolder(folder, settings, _making(announce))
    files.check()
    tokens = token_files(run, corpus, config)
    tokenizer = TextTokenizer(folder / TOKENIZER)
    models = []
    for size in config.sizes:
        own = RunFolder(folder / size.name, {**settings, "size": size.name}, _making(announce))
        train_model(
            own,
            size,
            tokens,
            config,
            vocabulary=tokenizer.vocabulary,
            announce=announce,
            progress=progress,
        )
        models.append(Steps(own, size, tokens, config, tokenizer.vocabulary, progress))
    for steps in models:
        steps.run()
    first = models[0]
    examples = [
        Example(**told)
        for told in run.json(
            f"examples_{config.examples}.json",
            lambda: [
                one.document()
                for one in corrected_examples(
                    first.folder.path / "tuned.h5",
                    first.folder.path / "residuals.h5",
                    tokens,
                    tokenizer,
                    count=config.examples,
                    seed=config.seed,
                )
            ],
        )
    ]
    tables = [
        accuracy_table(models),
        gain_table(models),
        reach_table(models),
        where_table(models, tokens["test"]),
        knn_lm_table(models),
        recall_table(models),
        bytes_table(models),
        speed_table(models),
        examples_table(examples, first.size.name),
    ]
    summary: dict[str, Any] = {
        "folder": str(folder),
        "texts": len(corpus.names),
        "vocabulary": tokenizer.vocabulary,
    }
    return write_study(
        "language",
        tables,
        files,
        parameters=settings,
        inputs=_records(models),
        summary=summary,
        notices=(*corpus.notices, *(text for steps in models for text in steps.notices())),
    )


def _making(announce: Callable[[str], None] | None) -> Callable[[str], None] | None:
    return None if announce is None else lambda path: announce(f"making {path}")


def _device(name: str) -> str:
    from resmem_cli.models.devices import choose_device

    return choose_device(name).type


def _records(models: list[Steps]) -> list[InputRecord]:
    records = []
    for steps in models:
        for settings in SETTINGS:
            with open_artifact(steps.folder.path / f"{settings}.h5") as file:
                records.append(artifact_record(f"{steps.size.name} {settings}", file))
    return records
