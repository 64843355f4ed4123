"""What runs in the process of its own: it gives up all that is not needed, and answers."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import json
import os
import resource
import signal
import socket
import stat
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from resmem_cli.errors import ResmemError
from resmem_cli.lack_of_memory import is_lack_of_memory

SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
LENGTH = 8
"""Bytes of the length of an answer's head."""

FIELDS = ("problem", "file", "field", "expected", "found", "remedy")
"""What an error tells."""

Answers = Callable[[Any], tuple[Any, bytes | memoryview]]
"""Answers a question, which is a JSON value, with a JSON value and with bytes."""


def serve(
    make: Callable[[Callable[[], int]], Answers],
    questions: int,
    replies: int,
    files: socket.socket,
    keep: Sequence[int] | None,
    *,
    seconds: int,
    memory: int,
) -> NoReturn:
    """Answer until there are no more questions; this is the process of its own."""
    try:
        gc.disable()  # what it has in common with the other process is the other's to finalize
        for number in SIGNALS:
            # Whoever stops a group of processes stops the other one, and so this one.
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        _close_streams()
        own = {questions, replies, files.fileno()}
        if keep is None:
            keep = _read_only()
        _close_all_but({*own, *keep})
        os.chdir("/")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        _limit(memory)
        answers: Answers | None = None
        with os.fdopen(questions, "rb") as stream:
            for line in stream:
                _limit_time(seconds)
                try:
                    answers = answers or make(lambda: _received(files))
                    value, content = answers(json.loads(line))
                    _reply(replies, {"value": value, "size": memoryview(content).nbytes}, content)
                except Exception as error:
                    _reply(replies, {"error": _described(error)}, b"")
    finally:
        os._exit(0)


def _received(files: socket.socket) -> int:
    """Receive an open file."""
    _, descriptors, _, _ = socket.recv_fds(files, 1, 1)
    return descriptors[0]


def _close_streams() -> None:
    """Let what libraries print, such as when they abort, go nowhere."""
    faulthandler.disable()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)


def _read_only() -> list[int]:
    """List what is open for reading only: no lock is held by it, and no pipe kept from its end."""
    found = []
    for number in map(int, os.listdir("/dev/fd")):
        with contextlib.suppress(OSError):
            regular = stat.S_ISREG(os.fstat(number).st_mode)
            if regular and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                found.append(number)
    return found


def _close_all_but(keep: set[int]) -> None:
    """Close what belongs to the other process, such as its pipes and its locks."""
    first = 3
    for number in sorted(keep):
        os.closerange(first, number)
        first = number + 1
    os.closerange(first, max(first, resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def _limit(memory: int) -> None:
    for number, most in ((resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(number, (most, most))
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory
        before = resource.getrlimit(resource.RLIMIT_AS)[0]
        most = most if before == resource.RLIM_INFINITY else min(most, before)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_time(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + 1 + seconds
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (most, hard))


def _reply(replies: int, head: dict[str, Any], content: bytes | memoryview) -> None:
    text = json.dumps(head).encode()
    for part in (len(text).to_bytes(LENGTH, "little"), text, content):
        view = memoryview(part).cast("B")
        while view:
            view = view[os.write(replies, view) :]


def _described(error: Exception) -> dict[str, Any]:
    if is_lack_of_memory(error):
        return {"kind": "MemoryError"}
    if isinstance(error, ResmemError):
        values = {name: getattr(error, name) for name in FIELDS}
        told = {name: value if value is None else str(value) for name, value in values.items()}
        return {"kind": type(error).__name__, **told}
    return {"kind": "bug", "problem": "".join(traceback.format_exception(error))}
