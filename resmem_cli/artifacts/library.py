"""The process in which the HDF5 library meets strangers' files: one for all, as long as none harms it."""

from __future__ import annotations

import itertools
import os
import resource
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from h5py._objects import phil

from resmem_cli.artifacts.answers import Hdf5Answers
from resmem_cli.errors import ResmemError, naming_file
from resmem_cli.isolation.process import CrashError, Isolated

# A process that is kept holds on to the memory that this one had when it was made.
_MOST_KEPT = 2 << 30

_lock = threading.RLock()
_numbers = itertools.count()
_current: _Process | None = None


class LibraryFile:
    """An open file as the library sees it, in the process of its own.

    Where that process crashes, the file is tried once more in a new one: it may have been harmed by another
    file before. After any refusal the next file gets a new one.

    Parameters
    ----------
    path : pathlib.Path
        Its name, for errors.
    descriptor : int
        The open file; under its name there may be another one by now.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self._number = next(_numbers)

    def ask(self, question: Mapping[str, Any], **how: Any) -> tuple[Any, bytes]:
        """Ask about the file; see `Hdf5Answers` for the questions and `Isolated.ask` for the rest."""
        with _lock:
            while True:
                with naming_file(self._path):
                    process = _process()
                alone = not process.files - {self._number}
                try:
                    process.show(self._number, self._descriptor, self._path)
                    return process.isolated.ask({**question, "file": self._number}, file=self._path, **how)
                except CrashError:
                    _end()
                    if alone:
                        raise
                except ResmemError:
                    _end()
                    raise

    def close(self) -> None:
        """Have the library forget the file."""
        with _lock:
            if _current is None or not _current.isolated.is_own or self._number not in _current.files:
                return
            try:
                _current.hide(self._number)
            except ResmemError:
                _end()
            else:
                if not _current.kept:
                    _end()


class _Process:
    def __init__(self) -> None:
        self.kept = _anonymous_bytes() <= _MOST_KEPT
        self.isolated = Isolated(_Files, lock=phil)
        self.files: set[int] = set()

    def show(self, number: int, descriptor: int, path: Path) -> None:
        if number not in self.files:
            self.isolated.hand_over(descriptor, file=path)
            self.isolated.ask({"ask": "open", "file": number}, file=path)
            self.files.add(number)

    def hide(self, number: int) -> None:
        self.files.discard(number)
        self.isolated.ask({"ask": "close", "file": number})


class _Files:
    """What answers in the process."""

    def __init__(self, receive: Callable[[], int]) -> None:
        self._receive = receive
        self._files: dict[int, tuple[int, Hdf5Answers]] = {}

    def __call__(self, question: Mapping[str, Any]) -> tuple[Any, bytes]:
        number = question["file"]
        match question["ask"]:
            case "open":
                descriptor = self._receive()
                self._files[number] = descriptor, Hdf5Answers(Path(f"/dev/fd/{descriptor}"))
            case "close":
                descriptor, answers = self._files.pop(number)
                answers.close()
                os.close(descriptor)
            case _:
                return self._files[number][1](question)
        return None, b""


def _process() -> _Process:
    """Give the process, a new one if there is none that runs."""
    global _current
    if _current is None or not _current.isolated.is_own:
        _current = _Process()
    return _current


def _end() -> None:
    global _current
    if _current is not None:
        _current.isolated.close()
    _current = None


def _forget_after_fork() -> None:
    """Leave process and lock to the process that this one was forked from."""
    global _lock
    _lock = threading.RLock()
    _end()


os.register_at_fork(after_in_child=_forget_after_fork)


def _anonymous_bytes() -> int:
    """Give the memory of this process that is no file's: pages of files cost nothing to hold on to."""
    try:
        resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    except (OSError, ValueError):
        return 0
    return (resident - shared) * resource.getpagesize()
