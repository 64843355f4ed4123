"""Networks made by the user's own code: ``package.module:factory``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from functools import reduce
from typing import Any

from resmem_cli.errors import UsageError
from resmem_cli.models.architectures.base import FIELD, architecture_source, call_factory
from resmem_cli.models.extra import torch
from resmem_cli.models.torchfile import reason


@architecture_source("", form="package.module:factory")
def make_from_factory(arch: str, arch_args: Mapping[str, Any]) -> torch.nn.Module:
    """Import a factory and call it.

    Parameters
    ----------
    arch : str
        ``package.module:factory``; modules of the current folder can be named too. The factory is a
        function or a class, possibly an attribute of one (``module:Class.method``).
    arch_args : mapping
        Keyword arguments of the factory.

    Raises
    ------
    UsageError
        If `arch` is not of that form, can't be imported, can't be called with these arguments or makes
        something else than a `torch.nn.Module`.
    """
    module_name, _, attributes = arch.partition(":")
    if not (module_name and attributes):
        raise UsageError(
            "is not of the form package.module:factory",
            field=FIELD,
            found=arch,
            remedy="for instance my_networks:make_network",
        )
    make_current_folder_importable()
    # Importing runs the user's code: it can raise anything.
    try:
        factory = reduce(getattr, attributes.split("."), importlib.import_module(module_name))
    except (Exception, SystemExit) as error:
        raise UsageError(f"can't import {arch}: {reason(error)}", field=FIELD) from error
    if isinstance(factory, torch.nn.Module) or not callable(factory):
        raise UsageError(
            f"{arch} is not a function or class that makes a network",
            field=FIELD,
            expected="a factory of torch.nn.Module",
            found=type(factory).__name__,
        )
    return call_factory(arch, factory, arch_args=arch_args)


def make_current_folder_importable() -> None:
    """Put the current folder first on the import path, for the rest of the process.

    It stays there because a network may import the modules beside it as late as its first forward pass.
    """
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
