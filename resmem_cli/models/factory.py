"""Networks made by the user's own code: `--arch package.module:factory`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from functools import reduce
from typing import Any

from resmem_cli.errors import UsageError
from resmem_cli.models.extra import torch
from resmem_cli.models.torchfile import reason

_FIELD = "--arch"


def make_network(arch: str, *, arch_args: Mapping[str, Any] | None = None) -> torch.nn.Module:
    """Import a factory and call it.

    Parameters
    ----------
    arch : str
        ``package.module:factory``; modules of the current folder can be named too. The factory is a
        function or a class, possibly an attribute of one (``module:Class.method``).
    arch_args : mapping, optional
        Keyword arguments of the factory.

    Returns
    -------
    torch.nn.Module
        What the factory made.

    Raises
    ------
    UsageError
        If `arch` is not of that form, can't be imported, can't be called with these arguments or makes
        something else than a `torch.nn.Module`.
    """
    module_name, colon, attributes = arch.partition(":")
    if not (module_name and colon and attributes):
        raise UsageError(
            "is not of the form package.module:factory",
            field=_FIELD,
            found=arch,
            remedy="for instance my_networks:make_network",
        )
    make_current_folder_importable()
    # User code runs in the next two steps: it can raise anything.
    try:
        factory = reduce(getattr, attributes.split("."), importlib.import_module(module_name))
    except (Exception, SystemExit) as error:
        raise UsageError(f"can't import {arch}: {reason(error)}", field=_FIELD) from error
    if isinstance(factory, torch.nn.Module) or not callable(factory):
        raise UsageError(
            f"{arch} is not a function or class that makes a network",
            field=_FIELD,
            expected="a factory of torch.nn.Module",
            found=type(factory).__name__,
        )
    arguments = dict(arch_args or {})
    try:
        network = factory(**arguments)
    except (Exception, SystemExit) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise UsageError(f"{arch}({given}) failed: {reason(error)}", field=_FIELD) from error
    if not isinstance(network, torch.nn.Module):
        raise UsageError(
            f"{arch} did not make a network",
            field=_FIELD,
            expected="torch.nn.Module",
            found=type(network).__name__,
        )
    return network


def make_current_folder_importable() -> None:
    """Put the current folder first on the import path, for the rest of the process.

    It stays there because a network may import the modules beside it as late as its first forward pass.
    """
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
