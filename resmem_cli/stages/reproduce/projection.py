"""The time that many queries take, from what few of them took."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Projection:
    """What predicting many queries takes, from what few of them took.

    Three runs are measured: of few queries, of some, and of these again in smaller blocks. They tell what a
    process does once, what each block takes, and what each query takes.

    Attributes
    ----------
    few, some : int
        Queries.
    block, small_block : int
        Queries that are searched together, and in the last run.
    few_seconds, some_seconds, small_seconds : float
        What the runs took.
    """

    few: int
    some: int
    block: int
    small_block: int
    few_seconds: float
    some_seconds: float
    small_seconds: float

    @property
    def block_seconds(self) -> float:
        """Seconds that a block takes however few queries it holds: mostly, reading the memory."""
        blocks = math.ceil(self.some / self.small_block) - self._blocks(self.some)
        return max(0.0, (self.small_seconds - self.some_seconds) / blocks) if blocks else 0.0

    @property
    def query_seconds(self) -> float:
        """Seconds of one more query in a block."""
        blocks = self._blocks(self.some) - self._blocks(self.few)
        taken = self.some_seconds - self.few_seconds - blocks * self.block_seconds
        return max(0.0, taken / (self.some - self.few))

    @property
    def start_seconds(self) -> float:
        """Seconds of what is done once: the start, and the checks of the memory."""
        rest = self._blocks(self.few) * self.block_seconds + self.few * self.query_seconds
        return max(0.0, self.few_seconds - rest)

    def seconds(self, queries: int) -> float:
        """Seconds that so many queries take."""
        blocks = self._blocks(queries) * self.block_seconds
        return self.start_seconds + blocks + queries * self.query_seconds

    def _blocks(self, queries: int) -> int:
        return math.ceil(queries / self.block)
