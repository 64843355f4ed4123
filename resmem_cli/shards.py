"""Equal ranges of rows, each a piece of work of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from resmem_cli.errors import UsageError

RECORD = "shard"
"""The parameter of an artifact that holds a range of rows only: which of how many, and from which row."""


class Shard(NamedTuple):
    """One of several equal ranges of rows.

    Attributes
    ----------
    number : int
        Which, from 1.
    of : int
        How many there are.
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def check(self) -> None:
        """Raise `UsageError` if there is no such range."""
        if not 1 <= self.number <= self.of:
            raise UsageError("--shard out of range", expected="1/N to N/N", found=str(self))

    def rows(self, n: int) -> slice:
        """Give its rows, of n.

        Raises
        ------
        UsageError
            If there are more ranges than rows.
        """
        self.check()
        if self.of > n:
            raise UsageError(f"--shard: more shards than the {n:,} rows", found=self.of)
        return slice((self.number - 1) * n // self.of, self.number * n // self.of)

    def record(self, n: int) -> dict[str, Any]:
        """Say in an artifact, as JSON values, which of n rows it holds."""
        return {"shard": self.number, "of": self.of, "first_row": self.rows(n).start, "n": n}


def shard_rows(n: int, shard: tuple[int, int] | None) -> slice:
    """Give the rows of a shard, or all n where there is none."""
    return slice(0, n) if shard is None else Shard(*shard).rows(n)


def shard_parameters(n: int, shard: tuple[int, int] | None) -> dict[str, Any]:
    """Give the parameter that says what an artifact of a shard holds; nothing where it holds all n rows."""
    return {} if shard is None else {RECORD: Shard(*shard).record(n)}


def parse_shard(text: str) -> Shard:
    """Read ``I/N``; raises `UsageError`."""
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal()):
        raise UsageError("--shard is not of the form I/N", expected="such as 1/4", found=text)
    shard = Shard(int(number), int(of))
    shard.check()
    return shard


def is_shard(parameters: Mapping[str, Any]) -> bool:
    """Tell, by an artifact's parameters, whether it holds a range of rows only."""
    return parameters.get(RECORD) is not None
