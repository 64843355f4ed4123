"""Steps of a pipeline, written as rules of a Makefile."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from resmem_cli.types import StageResult

# What ends a name in a rule, or stands for something else; blanks, dollars and colons can be escaped.
NOT_FOR_MAKE = "\n\t#%=;|\\"


@dataclass(frozen=True)
class Step:
    """One artifact and how it is made.

    Attributes
    ----------
    output : pathlib.Path
        The artifact.
    inputs : tuple of pathlib.Path
        What it is made from.
    command : tuple of str
        The command that would make it, but for the output.
    do : callable
        Makes it.
    more : tuple of (str, pathlib.Path)
        Options that name files written besides.
    """

    output: Path
    inputs: tuple[Path, ...]
    command: tuple[str, ...]
    do: Callable[[], StageResult]
    more: tuple[tuple[str, Path], ...] = field(default=())

    def rule(self) -> str:
        """Write it as a rule of a Makefile."""
        options = [text for option, path in self.more for text in (option, str(path))]
        command = shlex.join(["resmem", *self.command, *options]).replace("$", "$$")
        inputs = " ".join(_for_make(path) for path in self.inputs)
        folder = _for_make(self.output.parent)
        return f"{_for_make(self.output)}: {inputs} | {folder}\n\t{command} -o {_target(self.output)}\n"


def makefile(steps: Sequence[Step]) -> str:
    """Write the steps as a Makefile, whose first target makes all."""
    if not steps:
        return ""
    last = steps[-1].output
    folder = f"{_for_make(last.parent)}:\n\tmkdir -p {_target(last.parent)}\n"
    return "\n".join([f"all: {_for_make(last)}\n", folder, *(step.rule() for step in steps)])


def _target(path: Path) -> str:
    """Name the target in a recipe: `$@`, unless the shell would take its name apart."""
    quoted = shlex.quote(str(path))
    return "$@" if quoted == str(path) else quoted.replace("$", "$$")


def _for_make(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "\\ ").replace(":", "\\:")
