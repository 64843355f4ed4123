"""Registries filled by modules that register themselves when they are imported."""

from __future__ import annotations

import importlib
import os
import pkgutil


def import_modules(package: str) -> None:
    """Import every module of a package.

    Raises
    ------
    OSError
        If its folder can't be read, which `pkgutil` takes for an empty one: when memory is out, the tool
        would have no kinds of anything.
    """
    path = importlib.import_module(package).__path__
    names = [module.name for module in pkgutil.iter_modules(path)]
    if not names:
        for folder in path:
            os.listdir(folder)
    for name in names:
        importlib.import_module(f"{package}.{name}")
