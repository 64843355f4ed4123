"""A language model in training, put aside and taken up again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resmem_cli.errors import DataError
from resmem_cli.models.training.documents import Documents
from resmem_cli.models.training.language_run import LanguageModelRun
from resmem_cli.models.training.recipes import TokenRecipe

RECIPE = TokenRecipe(steps=6, batch_size=3, window=8, warmup_steps=2)
ARGUMENTS = {"vocab_size": 11, "context": 8, "width": 8, "depth": 1, "heads": 2}


def documents() -> Documents:
    tokens = np.arange(200, dtype=np.uint16) % 11
    return Documents(tokens, np.array([0, 5, 120]), np.array([5, 115, 80]))


def language_run(seed: int = 1, **changed: int) -> LanguageModelRun:
    arguments = {**ARGUMENTS, **changed}
    return LanguageModelRun("transformer-lm", arguments, documents(), RECIPE, seed=seed, device="cpu")


def test_a_run_that_was_put_aside_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, first, second = language_run(), language_run(), language_run()
    losses = [whole.run_step() for _ in range(6)]

    begun = [first.run_step() for _ in range(4)]
    (tmp_path / "run.pt").write_bytes(first.state(losses=begun))
    kept = second.restore(tmp_path / "run.pt")

    assert kept == {"losses": begun}
    assert second.steps_done == 4
    assert begun + [second.run_step() for _ in range(2)] == losses
    assert second.weights() == whole.weights()
    assert second.loss(documents()) == whole.loss(documents())
    assert language_run(seed=2).weights() != language_run().weights()


def test_tied_weights_are_counted_once() -> None:
    width, vocabulary = 8, 11
    block = 12 * width**2 + 4 * width + 5 * width + 2 * 2 * width
    assert language_run().n_weights == vocabulary * width + 8 * width + block + 2 * width


def test_the_state_of_another_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.pt").write_bytes(language_run(width=16).state())

    with pytest.raises(DataError, match=r"run\.pt: an unfinished training run of another network.*remove it"):
        language_run().restore(tmp_path / "run.pt")
