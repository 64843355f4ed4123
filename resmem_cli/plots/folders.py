"""matplotlib's own folders, where it can't write into the user's."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHOICE = "MPLCONFIGDIR"
_USUAL = {"XDG_CONFIG_HOME": ".config", "XDG_CACHE_HOME": ".cache"}


@contextmanager
def matplotlib_folders() -> Iterator[None]:
    """Let matplotlib be imported, and its fonts be found, without a word and without a folder left behind.

    Where it can't write, it warns, and makes a temporary folder that it removes when the interpreter is
    taken apart, which the command line leaves undone.
    """
    chosen = os.environ.get(_CHOICE)
    if all(_is_writable(folder) for folder in ([Path(chosen)] if chosen else _usual_folders())):
        yield
        return
    # It also warns that finding the fonts takes long.
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="resmem-", ignore_cleanup_errors=True) as folder:
        os.environ[_CHOICE] = folder
        try:
            yield
        finally:
            if chosen is None:
                del os.environ[_CHOICE]
            else:
                os.environ[_CHOICE] = chosen
            logger.setLevel(level)


def _usual_folders() -> Iterator[Path]:
    for variable, name in _USUAL.items():
        try:
            base = Path(os.environ.get(variable) or Path.home() / name)
        except RuntimeError:  # a user without a home
            base = Path(os.devnull)
        yield base / "matplotlib"


def _is_writable(folder: Path) -> bool:
    """Tell whether a folder is there or can be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
