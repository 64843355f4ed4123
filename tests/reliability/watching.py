"""When a command begins to write, seen from outside."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self


def state(place: Path) -> tuple[set[str], int]:
    """Tell what is in a folder; it changes when a command that runs there begins to write."""
    # `run` writes to a folder of its own, where it may replace an older run's files.
    folder = place / "run"
    return {*os.listdir(place)}, folder.stat().st_mtime_ns if folder.exists() else 0


class Watch:
    """Measures, while it is open, how long what runs in a folder goes on when it has begun to write there.

    Attributes
    ----------
    seconds : float
    """

    def __init__(self, place: Path) -> None:
        self.seconds = 0.0
        self._place = place
        self._before = state(place)
        self._began: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ended.wait(0.001):
            if state(self._place) != self._before:
                self._began = time.monotonic()
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = time.monotonic()
        self._ended.set()
        self._thread.join()
        self.seconds = 0.0 if self._began is None else ended - self._began
