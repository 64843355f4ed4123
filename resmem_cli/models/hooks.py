"""Layers of an ordinary network, read by the hooks of its modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from resmem_cli.errors import DataError
from resmem_cli.models.extra import torch
from resmem_cli.models.layers import Activations, LinearCalls, Site, forward, listed


class HookReader:
    """Reads any module of a network that runs as Python code."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._layers = dict(module.named_modules())

    @property
    def names(self) -> Sequence[str]:
        """Every layer of the network."""
        return list(self._layers)

    def has(self, layer: str) -> bool:
        """Whether there is such a layer."""
        return layer in self._layers

    def check(self, site: Site) -> None:
        """Raise `DataError` if the layer is compiled, as it takes no hooks then."""
        if isinstance(self._layers[site.layer], torch.jit.ScriptModule):
            raise DataError(
                "is a TorchScript part of the network and can't be read",
                field=f"layer '{site.layer}'",
                remedy="name a layer outside that part",
            )

    def linear_calls(self, inputs: torch.Tensor) -> LinearCalls:
        """Run the network once and see which `torch.nn.Linear` it calls."""
        calls: list[tuple[str, object]] = []
        with ExitStack() as hooks:
            for name, layer in self._layers.items():
                if isinstance(layer, torch.nn.Linear):
                    keep = partial(_keep_output, calls, name)
                    hooks.enter_context(layer.register_forward_hook(keep))
            output = forward(self._module, inputs)
        if not calls:
            raise DataError(
                "the network calls no torch.nn.Linear, so its embedding can't be told",
                remedy=f"give --layer; it has {listed([name for name in self._layers if name])}",
            )
        return LinearCalls([name for name, _ in calls], [kept for _, kept in calls], output)

    def activations(self, inputs: torch.Tensor, site: Site) -> Activations:
        """Run the network once and keep copies of what passes the site."""
        layer = self._layers[site.layer]
        kept: list[torch.Tensor | None] = []
        handle = (
            layer.register_forward_pre_hook(partial(_keep_input_copy, kept), with_kwargs=True)
            if site.of_input
            else layer.register_forward_hook(partial(_keep_output_copy, kept))
        )
        with handle:
            output = forward(self._module, inputs)
        return Activations(kept, output)


def _keep_output(
    calls: list[tuple[str, object]], name: str, layer: torch.nn.Module, args: object, output: object
) -> None:
    calls.append((name, output))


def _keep_output_copy(
    kept: list[torch.Tensor | None], layer: torch.nn.Module, args: object, output: object
) -> None:
    # A copy, for the next layer may work in place (ReLU(inplace=True)).
    found = _first_tensor(output)
    kept.append(None if found is None else found.clone())


def _keep_input_copy(
    kept: list[torch.Tensor | None],
    layer: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    found = _first_tensor((*args, *kwargs.values()))
    kept.append(None if found is None else found.clone())


def _first_tensor(value: object) -> torch.Tensor | None:
    values = value.values() if isinstance(value, Mapping) else value
    if isinstance(values, Iterable) and not isinstance(values, torch.Tensor):
        values = next((item for item in values if isinstance(item, torch.Tensor)), None)
    return values if isinstance(values, torch.Tensor) else None
