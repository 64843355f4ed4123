"""Training of a language model by a `TokenRecipe`, step by step, and its loss on other documents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from resmem_cli.errors import DataError
from resmem_cli.models.extra import torch
from resmem_cli.models.training.documents import NO_TARGET, Documents
from resmem_cli.models.training.recipes import TokenRecipe
from resmem_cli.models.training.seeding import torch_seeded
from resmem_cli.types import Progress, no_progress, row_blocks


class LanguageModelTraining:
    """A training run that goes step by step, can be saved between two, and continued.

    What a step draws at random depends on the seed and the step's number alone: its windows, and what the
    network drops. On the CPU, with as many threads, the same seed gives the same weights to the bit,
    whether the run was interrupted or not.

    Parameters
    ----------
    network : torch.nn.Module
        Takes token ids ``(b, L)`` and gives the logits ``(b, L, V)`` of each next token. It is moved to
        `device` and trained in place.
    documents : Documents
    recipe : TokenRecipe
    seed : int
        Of everything drawn in training; the network's first weights are the caller's.
    device : str
        A device of torch.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        documents: Documents,
        recipe: TokenRecipe,
        *,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.steps_done = 0
        self._documents = documents
        self._recipe = recipe
        self._seed = seed
        self._device = torch.device(device)
        self._network = network.to(self._device)
        parameters = list(network.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=recipe.peak_learning_rate, betas=recipe.betas)

    def run_step(self) -> float:
        """Train on one batch of random windows and return its loss, in nats a token.

        Raises
        ------
        DataError
            If the loss is not finite any more.
        """
        step = self.steps_done + 1
        generator = np.random.default_rng([self._seed, step])
        documents, offsets = self._documents.draw(self._recipe.batch_size, self._recipe.window, generator)
        arrays = self._documents.windows(documents, offsets, self._recipe.window)
        ids, targets = (torch.from_numpy(array).to(self._device) for array in arrays)
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate(step)
        self._network.train()
        with torch_seeded(generator, self._device):
            loss = _loss(self._network(ids), targets)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._recipe.gradient_norm)
        self._optimizer.step()
        self.steps_done = step
        value = loss.item()
        if not math.isfinite(value):
            raise DataError(
                f"the loss is not finite any more at step {step}",
                remedy="take a lower peak learning rate or a longer warm-up",
            )
        return value

    def state_dict(self) -> dict[str, Any]:
        """Give what a later run needs to continue: weights, AdamW's moments and the number of steps.

        The tensors are those of the run itself: save them before it goes on.
        """
        return {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "steps_done": self.steps_done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of a run with the same documents, recipe and seed."""
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps_done = state["steps_done"]


def train_language_model(
    network: torch.nn.Module,
    documents: Documents,
    recipe: TokenRecipe,
    *,
    progress: Progress = no_progress,
    seed: int = 0,
    device: str = "cpu",
) -> list[float]:
    """Train a network by a whole recipe, in place, and leave it in evaluation mode.

    The parameters and errors are those of `LanguageModelTraining`; `progress` is handed the steps.

    Returns
    -------
    list of float
        The loss of each step's batch before the step, in nats a token.
    """
    training = LanguageModelTraining(network, documents, recipe, seed=seed, device=device)
    steps = progress(row_blocks(recipe.steps, 1), "training")
    losses = [training.run_step() for _ in steps]
    network.eval()
    return losses


def language_model_loss(
    network: torch.nn.Module, documents: Documents, *, window: int = 256, batch_size: int = 16
) -> float:
    """Give the mean cross-entropy, in nats a token, of a network in evaluation mode.

    Documents are cut into windows that do not overlap, so a token has 0 to ``window - 1`` tokens of
    context before it; every token but a document's first is predicted once.
    """
    device = next(network.parameters()).device
    cut_documents, offsets = documents.cut(window)
    total, n_targets = 0.0, 0
    network.eval()
    with torch.inference_mode():
        for block in row_blocks(len(offsets), batch_size):
            ids, targets = documents.windows(cut_documents[block], offsets[block], window)
            n_block = int((targets != NO_TARGET).sum())
            logits = network(torch.from_numpy(ids).to(device))
            total += _loss(logits, torch.from_numpy(targets).to(device)).item() * n_block
            n_targets += n_block
    return total / n_targets


def _loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET)
