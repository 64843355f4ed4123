"""Where an embedding is read in a network, and what reading it takes of each kind of network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from resmem_cli.errors import DataError, ResourceError
from resmem_cli.models.extra import torch
from resmem_cli.models.torchfile import ALLOCATION_FAILED, reason

_INPUT = ":input"
_LISTED = 8


@dataclass(frozen=True)
class Site:
    """Where the embedding is read: a layer, its input or output, and which of its calls in one pass."""

    layer: str
    of_input: bool
    call: int = -1

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read ``name`` or ``name:input``."""
        return cls(text.removesuffix(_INPUT), of_input=text.endswith(_INPUT))

    def __str__(self) -> str:
        return self.layer + _INPUT * self.of_input


@dataclass(frozen=True)
class LinearCalls:
    """The linear layers of one forward pass in the order of their calls, and the network's output."""

    layers: Sequence[str]
    outputs: Sequence[object]
    output: object


@dataclass(frozen=True)
class Activations:
    """What passed a site in one forward pass, at each call of its layer, and the network's output.

    A call that passed no tensor is None.
    """

    kept: Sequence[torch.Tensor | None]
    output: object


class LayerReader(Protocol):
    """Reads layers of one network; each kind of network has its own way."""

    @property
    def names(self) -> Sequence[str]:
        """Every layer, as `torch.nn.Module.named_modules` names them."""

    def has(self, layer: str) -> bool:
        """Whether there is such a layer."""

    def check(self, site: Site) -> None:
        """Raise `DataError` if the layer is there but can't be read."""

    def linear_calls(self, inputs: torch.Tensor) -> LinearCalls:
        """Run the network once and see which linear layers it calls."""

    def activations(self, inputs: torch.Tensor, site: Site) -> Activations:
        """Run the network once and keep copies of what passes the site."""


def forward(network: Callable[[torch.Tensor], object], inputs: torch.Tensor) -> object:
    """Run a network, turning whatever it raises into `DataError` or `ResourceError`."""
    try:
        return network(inputs)
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        # The user's own code: a wrong shape or an id outside the vocabulary can raise anything.
        shape = tuple(inputs.shape)
        if ALLOCATION_FAILED in str(error):
            raise ResourceError(
                f"not enough memory for a batch of shape {shape}", remedy="take smaller batches"
            ) from error
        raise DataError(
            f"the network fails on {inputs.dtype} inputs of shape {shape}: {reason(error)}",
            remedy="check the shape and type of the saved inputs",
        ) from error


def listed(names: Sequence[str]) -> str:
    """Tell the first few layers."""
    shown = ", ".join(names[:_LISTED])
    return (f"{shown}, ..." if len(names) > _LISTED else shown) or "no layers"
