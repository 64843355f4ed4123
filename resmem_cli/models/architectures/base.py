"""The registry of architectures, and the one function that makes a network from ``--arch``."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from resmem_cli.errors import ResmemError, ResourceError, UsageError
from resmem_cli.models.extra import torch
from resmem_cli.models.torchfile import ALLOCATION_FAILED, reason
from resmem_cli.registry import import_modules

FIELD = "--arch"

_Factory = TypeVar("_Factory", bound=Callable[..., torch.nn.Module])
_SourceFunction = Callable[[str, Mapping[str, Any]], torch.nn.Module]
_Conversion = Callable[[torch.nn.Module, Mapping[str, Any], Path], Mapping[str, Any]]
_Source_ = TypeVar("_Source_", bound=_SourceFunction)


@dataclass(frozen=True)
class _Named:
    factory: Callable[..., torch.nn.Module]
    takes_name: bool


@dataclass(frozen=True)
class _Source:
    make: _SourceFunction
    form: str
    takes_folder: bool
    convert: _Conversion | None


_NAMED: dict[str, _Named] = {}
_SOURCES: dict[str, _Source] = {}


def architecture(*names: str) -> Callable[[_Factory], _Factory]:
    """Register a factory ``f(**arch_args)`` for a name, or ``f(name, **arch_args)`` for several."""

    def register(factory: _Factory) -> _Factory:
        for name in names:
            _NAMED[name] = _Named(factory, takes_name=len(names) > 1)
        return factory

    return register


def architecture_source(
    prefix: str, *, form: str, takes_folder: bool = False, convert: _Conversion | None = None
) -> Callable[[_Source_], _Source_]:
    """Register a function ``f(rest, arch_args)`` for architectures written ``prefix:rest``.

    Parameters
    ----------
    prefix : str
        What comes before the colon; ``""`` registers the one function for all prefixes that no other
        function has, which gets the whole text.
    form : str
        How to write such an architecture, such as ``timm:NAME``, for messages.
    takes_folder : bool
        Whether `rest` is a folder of this machine, of which `architecture_label` keeps the last name only.
    convert : callable, optional
        ``f(network, weights, path)``, which names and joins a checkpoint's weights as its network does.
    """

    def register(make: _Source_) -> _Source_:
        _SOURCES[prefix] = _Source(make, form, takes_folder, convert)
        return make

    return register


def make_network(arch: str, *, arch_args: Mapping[str, Any] | None = None) -> torch.nn.Module:
    """Make the network that an architecture names, with weights of no meaning.

    Parameters
    ----------
    arch : str
        One of `architecture_names`, or one of the forms ``timm:NAME``, ``transformers:FOLDER`` and
        ``package.module:factory``.
    arch_args : mapping, optional
        Keyword arguments of the factory.

    Raises
    ------
    UsageError
        If there is no such architecture, or its factory does not take the arguments, fails, or makes
        something else than a `torch.nn.Module`.
    MissingExtraError
        If it comes from a package that is not installed.
    MissingInputError, DataError
        If it is described by a file that is missing or can't be used.
    """
    arguments = dict(arch_args or {})
    if ":" in arch:
        source, rest = _source(arch)
        return source.make(rest, arguments)
    _import_modules()
    named = _NAMED.get(arch)
    if named is None:
        raise UsageError("no such architecture", field=FIELD, found=arch, remedy=f"give {_offered(arch)}")
    positional = (arch,) if named.takes_name else ()
    return call_factory(arch, named.factory, *positional, arch_args=arguments)


def convert_weights(
    arch: str, network: torch.nn.Module, weights: Mapping[str, Any], path: Path
) -> Mapping[str, Any]:
    """Name and join the weights of a checkpoint as the network does that `arch` made.

    Raises
    ------
    DataError
        If they can't be converted.
    """
    convert = _source(arch)[0].convert if ":" in arch else None
    return weights if convert is None else convert(network, weights, path)


def architecture_names() -> list[str]:
    """List the architectures that have a name of their own."""
    _import_modules()
    return list(_NAMED)


def architecture_label(arch: str) -> str:
    """Name an architecture without the folders of this machine: ``transformers:gpt2``."""
    if ":" not in arch:
        return arch
    source, rest = _source(arch)
    if not source.takes_folder:
        return arch
    return f"{arch.partition(':')[0]}:{Path(os.path.abspath(rest)).name}"


def call_factory(
    arch: str,
    factory: Callable[..., object],
    *positional: str,
    arch_args: Mapping[str, Any],
) -> torch.nn.Module:
    """Call a factory of networks, whose code can raise anything.

    Raises
    ------
    UsageError
        If it raises, or makes something else than a `torch.nn.Module`; the line holds the arguments.
    ResourceError
        If memory runs out.
    """
    try:
        network = factory(*positional, **arch_args)
    except (ResmemError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        refuse_lack_of_memory(error)
        given = ", ".join(f"{name}={value!r}" for name, value in arch_args.items())
        raise UsageError(f"{arch}({given}) failed: {reason(error)}", field=FIELD) from error
    if not isinstance(network, torch.nn.Module):
        raise UsageError(
            f"{arch} did not make a network",
            field=FIELD,
            expected="torch.nn.Module",
            found=type(network).__name__,
        )
    return network


def refuse_lack_of_memory(error: BaseException) -> None:
    """Raise `ResourceError` if this is how torch says that memory for a network's weights ran out."""
    if ALLOCATION_FAILED in str(error):
        raise ResourceError("not enough memory for the network's weights", field=FIELD) from error


@cache
def _import_modules() -> None:
    import_modules(__name__.rpartition(".")[0])


def _source(arch: str) -> tuple[_Source, str]:
    _import_modules()
    prefix, _, rest = arch.partition(":")
    if prefix and prefix in _SOURCES:
        return _SOURCES[prefix], rest
    return _SOURCES[""], arch


def _offered(arch: str) -> str:
    names = difflib.get_close_matches(arch, _NAMED, n=4, cutoff=0.4) or list(_NAMED)
    return ", ".join([*names, *sorted(source.form for source in _SOURCES.values())])
