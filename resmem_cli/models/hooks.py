"""Layers of an ordinary network, read by the hooks of its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from resmem_cli.errors import DataError
from resmem_cli.models.extra import torch
from resmem_cli.models.failures import Diagnosis, diagnosis, forward, taken_by
from resmem_cli.models.layers import Kept, LayerCall, LinearCalls, Site, listed


class HookReader:
    """Reads any module of a network that runs as Python code, also of an unflattened export."""

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

    def check(self, site: Site, option: str) -> None:
        """Raise `DataError` if the layer is compiled, as it takes no hooks then."""
        if isinstance(self._layers[site.layer], torch.jit.ScriptModule):
            raise DataError(
                "is a TorchScript part of the network and can't be read",
                field=f"layer '{site.layer}'",
                remedy="name a layer outside that part",
            )

    def linear_calls(self, inputs: torch.Tensor) -> LinearCalls:
        """Run the network once and see which linear layers it calls."""
        names: list[str] = []
        outputs: list[object] = []

        def see(name: str, output: object) -> None:
            names.append(name)
            outputs.append(output)

        with ExitStack() as hooks:
            for name, layer in self._layers.items():
                if isinstance(layer, torch.nn.Linear):
                    hooks.enter_context(layer.register_forward_hook(_after(see, name)))
            output = self._forward(inputs)
        if not names:
            raise DataError(
                "the network calls no torch.nn.Linear, so its embedding can't be told",
                remedy=f"give --layer; it has {listed([name for name in self._layers if name])}",
            )
        return LinearCalls(names, outputs, output)

    def calls(self, inputs: torch.Tensor) -> list[LayerCall]:
        """Run the network once and see every module it calls, in the order in which the calls begin."""
        begun: list[LayerCall | None] = []
        running: list[tuple[str, int]] = []

        def begin(name: str, value: object) -> None:
            running.append((name, len(begun)))
            begun.append(None)

        def end(name: str, output: object) -> None:
            found = _first_tensor(output)
            shape = None if found is None else tuple(found.shape)
            # Those begun later have failed, and the network went on.
            while (last := running.pop())[0] != name:
                pass
            begun[last[1]] = LayerCall(name, _kind(self._layers[name]), shape)

        with ExitStack() as hooks:
            for name, layer in self._hookable():
                hooks.enter_context(layer.register_forward_pre_hook(_before(begin, name), with_kwargs=True))
                hooks.enter_context(layer.register_forward_hook(_after(end, name)))
            self._forward(inputs)
        return [call for call in begun if call is not None]

    def read(self, inputs: torch.Tensor, sites: Sequence[Site]) -> tuple[list[Kept], object]:
        """Run the network once and keep what passes the sites, beside the network's output."""
        kept = [Kept(site) for site in sites]

        def see(keeper: Kept, value: object) -> None:
            keeper.see(_first_tensor(value))

        with ExitStack() as hooks:
            for keeper in kept:
                layer = self._layers[keeper.site.layer]
                hooks.enter_context(
                    layer.register_forward_pre_hook(_before(see, keeper), with_kwargs=True)
                    if keeper.site.of_input
                    else layer.register_forward_hook(_after(see, keeper))
                )
            output = self._forward(inputs)
        return kept, output

    def _forward(self, inputs: torch.Tensor) -> object:
        return forward(self._module, inputs, module=self._module, diagnose=lambda: self._diagnose(inputs))

    def _diagnose(self, inputs: torch.Tensor) -> Diagnosis:
        """Fail once more, seeing which layers are called."""
        first: list[str] = []
        running: list[str] = []

        def begin(name: str, value: object) -> None:
            running.append(name)
            if not first and any(True for _ in self._layers[name].parameters(recurse=False)):
                first.append(name)

        def end(name: str, output: object) -> None:
            while running.pop() != name:
                pass

        with ExitStack() as hooks:
            for name, layer in self._hookable():
                hooks.enter_context(layer.register_forward_pre_hook(_before(begin, name), with_kwargs=True))
                hooks.enter_context(layer.register_forward_hook(_after(end, name)))
            # What it raises has been seen already, and is what the user is told.
            with suppress(Exception, SystemExit):
                self._module(inputs)
        takes = {name: taken_by(self._layers[name]) for name in (*first, *running[-1:])}
        return diagnosis(
            next(((name, takes[name]) for name in first), None),
            next(((name, takes[name]) for name in running[-1:]), None),
        )

    def _hookable(self) -> Iterable[tuple[str, torch.nn.Module]]:
        return (
            (name, layer)
            for name, layer in self._layers.items()
            if not isinstance(layer, torch.jit.ScriptModule)
        )


def _before(see: Callable[[Any, object], None], key: object) -> Callable[..., None]:
    def hook(layer: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        see(key, (*args, *kwargs.values()))

    return hook


def _after(see: Callable[[Any, object], None], key: object) -> Callable[..., None]:
    def hook(layer: torch.nn.Module, args: object, output: object) -> None:
        see(key, output)

    return hook


def _kind(layer: torch.nn.Module) -> str:
    # A layer of an unflattened export has another class, and the name of the one it had.
    name = getattr(layer, "type_name", lambda: None)()
    return str(name).rpartition(".")[2] if name else type(layer).__name__


def _first_tensor(value: object) -> torch.Tensor | None:
    values = value.values() if isinstance(value, Mapping) else value
    if isinstance(values, Iterable) and not isinstance(values, torch.Tensor):
        values = next((item for item in values if isinstance(item, torch.Tensor)), None)
    return values if isinstance(values, torch.Tensor) else None
