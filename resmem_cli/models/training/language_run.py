"""A built-in language model in training, which can be put aside after any step and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resmem_cli.errors import DataError
from resmem_cli.models.architectures.base import make_network
from resmem_cli.models.devices import choose_device, make_deterministic
from resmem_cli.models.extra import torch
from resmem_cli.models.training.documents import Documents
from resmem_cli.models.training.recipes import TokenRecipe
from resmem_cli.models.training.saving import network_bytes, read_state, state_bytes
from resmem_cli.models.training.tokens import LanguageModelTraining, language_model_loss


class LanguageModelRun:
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
        chosen = choose_device(device)
        make_deterministic(chosen)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self._network = make_network(arch, arch_args=arch_args)
        self._training = LanguageModelTraining(
            self._network, documents, recipe, seed=seed, device=str(chosen)
        )
        self._window = recipe.window

    @property
    def steps_done(self) -> int:
        """Batches so far."""
        return self._training.steps_done

    @property
    def n_weights(self) -> int:
        """Numbers that are learnt."""
        return sum(parameter.numel() for parameter in self._network.parameters())

    def run_step(self) -> float:
        """Train on one batch and give its loss; raises `DataError` if it is not finite any more."""
        return self._training.run_step()

    def loss(self, documents: Documents) -> float:
        """Give the mean loss on other documents, in nats a token, by windows that do not overlap."""
        return language_model_loss(self._network, documents, window=self._window)

    def state(self, **kept: Any) -> bytes:
        """Give what `restore` needs to go on, and plain values to be kept with it."""
        return state_bytes({"training": self._training.state_dict(), "kept": kept})

    def restore(self, path: Path) -> dict[str, Any]:
        """Go on where a run of the same settings was put aside; give the values kept with it.

        Raises
        ------
        DataError
            If the file is damaged, or is not of such a run.
        """
        state = read_state(path)
        try:
            self._training.load_state_dict(state["training"])
            return dict(state["kept"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                "an unfinished training run of another network",
                file=path,
                found=str(error).partition("\n")[0],
                remedy="remove it, to train from the beginning",
            ) from error

    def weights(self) -> bytes:
        """Give the network as it is, as a safetensors file."""
        return network_bytes(self._network)
