"""Every error the library raises on purpose, each with the exit status the command line gives it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

# What steers a terminal: control characters but tab and line feed, and those that turn text round.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Write characters that steer a terminal, which a file's names may have, as JSON writes them."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class ResmemError(Exception):
    """A failure the user can act on, told in one line.

    Parameters
    ----------
    problem : str
        What is wrong, without the file's name.
    file, field : optional
        Where: the file, and the dataset, key or option in it.
    expected, found : optional
        What was wanted and what was there instead.
    remedy : str, optional
        What to do about it.
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        field: str | None = None,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else str(file)
        self.field = field
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(str(self))

    def in_file(self, file: str | Path) -> Self:
        """Make the same error with the file's name, for code that sees only its arrays."""
        return type(self)(
            self.problem,
            file=file,
            field=self.field,
            expected=self.expected,
            found=self.found,
            remedy=self.remedy,
        )

    def __str__(self) -> str:
        where = "".join(f"{part}: " for part in (self.file, self.field) if part)
        facts = [
            f"{name} {value}"
            for name, value in (("expected", self.expected), ("found", self.found))
            if value is not None
        ]
        line = where + self.problem
        if facts:
            line += f" ({', '.join(facts)})"
        if self.remedy:
            line += f"; {self.remedy}"
        return printable(" ".join(line.split()))


class CheckFailedError(ResmemError):
    """A check the user asked for did not hold: `verify`, `analyze --fail-under-gain`."""

    exit_code = 3


class UsageError(ResmemError):
    """A parameter outside its range, or options that do not go together."""

    exit_code = 2


class DataError(ResmemError):
    """A file whose content is damaged, of the wrong kind, or does not belong with the others."""

    exit_code = 65


class MissingInputError(ResmemError):
    """An input file that is not there or can't be opened for reading."""

    exit_code = 66


class MissingExtraError(ResmemError):
    """A command that needs an optional package which is not installed."""

    exit_code = 69


class ResourceError(ResmemError):
    """Not enough memory."""

    exit_code = 71


class OutputError(ResmemError):
    """An output that can't be written: its folder, its permissions, a full disk."""

    exit_code = 74


class BusyError(ResmemError):
    """Something that holds only now: a file another program keeps locked."""

    exit_code = 75


@contextmanager
def naming_file(file: str | Path) -> Iterator[None]:
    """Put a file's name on errors of code that sees only its arrays."""
    try:
        yield
    except ResmemError as error:
        if error.file is None:
            raise error.in_file(file) from error
        raise
