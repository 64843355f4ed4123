"""A built-in language model in training, which can be put aside after any step and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resmem_cli.models.training.documents import Documents
from resmem_cli.models.training.recipes import TokenRecipe
from resmem_cli.models.training.resumable import ResumableRun
from resmem_cli.models.training.tokens import LanguageModelTraining, language_model_loss


class LanguageModelRun(ResumableRun):
    """A language model and its training.

    Parameters
    ----------
    arch : str
        A built-in architecture, such as ``transformer-lm``.
    arch_args : mapping
        Its keyword arguments.
    documents : Documents
        To learn from.
    recipe : TokenRecipe
    seed : int
        Of the first weights and of everything drawn in training.
    device : str
        As for `choose_device`.
    """

    def __init__(
        self,
        arch: str,
        arch_args: Mapping[str, Any],
        documents: Documents,
        recipe: TokenRecipe,
        *,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self._prepare(arch, arch_args, seed=seed, device=device)
        self._training = self._saved = LanguageModelTraining(
            self._network, documents, recipe, seed=seed, device=self.device
        )
        self._window = recipe.window

    @property
    def steps_done(self) -> int:
        """Batches so far."""
        return self._training.steps_done

    def run_step(self) -> float:
        """Train on one batch and give its loss; raises `DataError` if it is not finite any more."""
        return self._training.run_step()

    def loss(self, documents: Documents) -> float:
        """Give the mean loss on other documents, in nats a token, by windows that do not overlap."""
        return language_model_loss(self._network, documents, window=self._window)
