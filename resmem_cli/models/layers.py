"""Where an embedding is read in a network, and what reading it takes of each kind of network."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from resmem_cli.errors import DataError
from resmem_cli.models.extra import torch

_INPUT = ":input"
_LISTED = 8


@dataclass(frozen=True)
class Site:
    """Where a tensor is read: a layer, its input or output, and which of its calls in one pass."""

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
class LayerCall:
    """One call of a layer in a forward pass: its name, its class and its output's shape."""

    layer: str
    kind: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class LinearCalls:
    """The linear layers of one forward pass in the order of their calls, and the network's output."""

    layers: Sequence[str]
    outputs: Sequence[object]
    output: object


@dataclass
class Kept:
    """A copy of what passes one site in a forward pass, and how often its layer was called.

    Only the call that the site names is kept, or the last so far: never all of them at once.
    """

    site: Site
    calls: int = 0
    tensor: torch.Tensor | None = field(default=None, repr=False)

    def see(self, tensor: torch.Tensor | None) -> None:
        """Take the next call's tensor; None where it passed none."""
        if self.site.call in (-1, self.calls):
            # A copy, for the next layer may work in place (ReLU(inplace=True)).
            self.tensor = None if tensor is None else tensor.clone()
        self.calls += 1

    def see_again(self, tensor: torch.Tensor) -> None:
        """Take another tensor for the call seen last."""
        self.calls -= 1
        self.see(tensor)


class LayerReader(Protocol):
    """Reads layers of one network; each kind of network has its own way."""

    @property
    def names(self) -> Sequence[str]:
        """Every layer, as `torch.nn.Module.named_modules` names them."""

    def has(self, layer: str) -> bool:
        """Whether there is such a layer."""

    def check(self, site: Site, option: str) -> None:
        """Raise `DataError` if the layer is there but can't be read."""

    def linear_calls(self, inputs: torch.Tensor) -> LinearCalls:
        """Run the network once and see which linear layers it calls."""

    def calls(self, inputs: torch.Tensor) -> list[LayerCall]:
        """Run the network once and see every layer it calls, in the order in which the calls begin."""

    def read(self, inputs: torch.Tensor, sites: Sequence[Site]) -> tuple[list[Kept], object]:
        """Run the network once and keep what passes the sites, beside the network's output."""


def named_site(reader: LayerReader, text: str, option: str) -> Site:
    """Find the site of ``name`` or ``name:input``, given with an option.

    Raises
    ------
    DataError
        If there is no such layer, with the nearest names, or it can't be read.
    """
    site = Site.parse(text)
    if not reader.has(site.layer):
        names = [name for name in reader.names if name]
        near = difflib.get_close_matches(site.layer, names, n=4, cutoff=0.5)
        raise DataError(
            "the network has no such layer",
            field=option,
            found=site.layer,
            remedy=f"it has {listed(near or names)}",
        )
    reader.check(site, option)
    return site


def tensor_of(kept: Kept, inputs: torch.Tensor, option: str) -> torch.Tensor:
    """Take what was kept, or raise `DataError` if the layer was not called so often or passed no tensor."""
    site = kept.site
    if not -kept.calls <= site.call < kept.calls:
        raise DataError(
            f"the network calls this layer {kept.calls} times on inputs of shape {tuple(inputs.shape)}",
            field=f"layer '{site.layer}'",
            expected=f"at least {max(site.call + 1, 1)}",
        )
    if kept.tensor is None:
        raise DataError("has no tensor there", field=f"layer '{site}'", remedy=f"give another {option}")
    return kept.tensor


def listed(names: Sequence[str]) -> str:
    """Tell the first few layers."""
    shown = ", ".join(names[:_LISTED])
    return (f"{shown}, ..." if len(names) > _LISTED else shown) or "no layers"
