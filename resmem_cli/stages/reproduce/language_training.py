"""The models of `reproduce language`, trained step by step so that a run that was stopped goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resmem_cli.artifacts.temporary import new_file
from resmem_cli.stages.reproduce.language_config import WINDOW, LanguageStudyConfig, ModelSize
from resmem_cli.stages.reproduce.language_texts import TokenDocuments
from resmem_cli.stages.reproduce.run_folder import RunFolder, write_json
from resmem_cli.types import Progress, no_progress, row_blocks

if TYPE_CHECKING:
    from resmem_cli.models.training.documents import Documents
    from resmem_cli.models.training.recipes import TokenRecipe

NETWORK = "network.safetensors"
TRAINING = "training.json"
_UNFINISHED = "training.pt"
_TOLD_LOSSES = 100  # of so many last steps the mean is told
_WARMUP_SHARE = 12


def train_model(
    folder: RunFolder,
    size: ModelSize,
    files: dict[str, Path],
    config: LanguageStudyConfig,
    *,
    vocabulary: int,
    announce: Callable[[str], None] | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Train a model, if it is not in its folder, going on with an unfinished run.

    Parameters
    ----------
    folder : RunFolder
        Of this size.
    size : ModelSize
    files : mapping
        The token ids of `token_files`.
    config : LanguageStudyConfig
    vocabulary : int
    announce : callable, optional
        Is told the loss at every checkpoint.
    progress : Progress

    Returns
    -------
    pathlib.Path
        The weights; beside them `training.json` tells the losses and the time.

    Raises
    ------
    MissingExtraError
        If torch is not installed.
    DataError
        If the loss is not finite any more, or an unfinished run is damaged.
    """

    def train(path: Path) -> None:
        from resmem_cli.models.training.language_run import LanguageModelRun

        documents = _documents(files["train"])
        recipe = _recipe(config)
        run = LanguageModelRun(
            "transformer-lm",
            size.arch_args(vocabulary),
            documents,
            recipe,
            seed=config.seed,
            device=config.device,
        )
        unfinished = path.with_name(_UNFINISHED)
        kept: dict[str, Any] = {"losses": [], "seconds": 0.0}
        if unfinished.exists():
            kept = run.restore(unfinished)
        losses, start = list(kept["losses"]), time.perf_counter() - kept["seconds"]
        left = row_blocks(recipe.steps - run.steps_done, 1)
        for _ in progress(left, f"training {size.name}"):
            losses.append(run.run_step())
            if run.steps_done % config.checkpoint_steps == 0 and run.steps_done < recipe.steps:
                seconds = time.perf_counter() - start
                _write(unfinished, run.state(losses=losses, seconds=seconds))
                if announce is not None:
                    mean = np.mean(losses[-config.checkpoint_steps :])
                    announce(
                        f"{size.name}: {run.steps_done:,} of {recipe.steps:,} steps, "
                        f"loss {mean:.3f} nats a token, {seconds:.0f} s"
                    )
        seconds = time.perf_counter() - start
        told = {
            "weights": run.n_weights,
            "steps": recipe.steps,
            "tokens": recipe.steps * recipe.batch_size * WINDOW,
            "seconds": seconds,
            "train_loss": float(np.mean(losses[-_TOLD_LOSSES:])),
            "validation_loss": run.loss(_documents(files["validation"])),
        }
        write_json(path.with_name(TRAINING), told)
        _write(path, run.weights())

    path = folder.make(NETWORK, train)
    with suppress(OSError):
        path.with_name(_UNFINISHED).unlink()
    return path


def _recipe(config: LanguageStudyConfig) -> TokenRecipe:
    from resmem_cli.models.training.recipes import TokenRecipe

    return TokenRecipe(
        steps=config.steps,
        batch_size=config.batch_size,
        window=WINDOW,
        peak_learning_rate=config.peak_learning_rate,
        warmup_steps=min(TokenRecipe.warmup_steps, config.steps // _WARMUP_SHARE),
    )


def _documents(path: Path) -> Documents:
    from resmem_cli.models.training.documents import Documents

    read = TokenDocuments.read(path)
    return Documents(read.tokens, read.offsets[:-1], np.diff(read.offsets))


def _write(path: Path, content: bytes) -> None:
    with new_file(path) as stream:
        stream.write(content)
