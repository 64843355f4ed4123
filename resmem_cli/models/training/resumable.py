"""A built-in network in training, which can be put aside and taken up again with the same result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from resmem_cli.errors import DataError
from resmem_cli.models.architectures.base import make_network
from resmem_cli.models.devices import choose_device, make_deterministic
from resmem_cli.models.extra import torch
from resmem_cli.models.training.saving import network_bytes, read_state, state_bytes


class Training(Protocol):
    """What moves a network forward, and knows where it is."""

    def state_dict(self) -> dict[str, Any]:
        """Give what a later run needs to continue."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of a run with the same data, recipe and seed."""


class ResumableRun:
    """A network and its training; a subclass makes the network with `_prepare`, then the training.

    Attributes
    ----------
    device : str
        Where it runs.
    """

    device: str
    _network: torch.nn.Module
    _saved: Training

    def _prepare(self, arch: str, arch_args: Mapping[str, Any], *, seed: int, device: str) -> None:
        """Choose the device, and make the network with weights drawn from `seed`."""
        chosen = choose_device(device)
        make_deterministic(chosen)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self._network = make_network(arch, arch_args=arch_args)
        self.device = str(chosen)

    @property
    def n_weights(self) -> int:
        """Numbers that are learnt."""
        return sum(parameter.numel() for parameter in self._network.parameters())

    def state(self, **kept: Any) -> bytes:
        """Give what `restore` needs to go on, and plain values to be kept with it."""
        return state_bytes({"training": self._saved.state_dict(), "kept": kept})

    def restore(self, path: Path) -> dict[str, Any]:
        """Go on where a run of the same settings was put aside; give the values kept with it.

        Raises
        ------
        DataError
            If the file is damaged, or is not of such a run.
        """
        state = read_state(path)
        try:
            self._saved.load_state_dict(state["training"])
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
