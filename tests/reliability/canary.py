"""A file that nothing may touch, and what would tell that something did."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

# As sys/inotify.h numbers them; closing is not asked for, as it follows on opening.
_EVENTS = {
    0x001: "read",
    0x002: "written",
    0x004: "attributes changed",
    0x020: "opened",
    0x400: "removed",
    0x800: "renamed",
}
_HEAD = struct.Struct("iIII")  # of an event: watch, kinds, cookie, length of the name that follows
_CALLS = "open,openat,openat2,execve,execveat,creat,truncate,unlink,unlinkat,rename,renameat,renameat2"


@dataclass
class Watch:
    """What was done to a file while it was watched."""

    events: set[str] = field(default_factory=set)


@contextmanager
def watched(path: Path) -> Iterator[Watch]:
    """Have the system (Linux's inotify) tell what any process does to a file; known when this is left."""
    system = ctypes.CDLL(None, use_errno=True)
    descriptor = system.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0 or system.inotify_add_watch(descriptor, os.fsencode(path), sum(_EVENTS)) < 0:
        raise OSError(ctypes.get_errno(), "inotify", str(path))
    watch = Watch()
    try:
        yield watch
        try:
            content = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            content = b""
    finally:
        os.close(descriptor)
    place = 0
    while place < len(content):
        _, kinds, _, length = _HEAD.unpack_from(content, place)
        watch.events |= {name for kind, name in _EVENTS.items() if kinds & kind}
        place += _HEAD.size + length


class Trace:
    """Some kinds of system calls of processes, as strace writes them.

    Parameters
    ----------
    path : pathlib.Path
        Where it writes them.
    calls : str
        Which; those that open, start, remove and rename files if not given.
    """

    def __init__(self, path: Path, calls: str = _CALLS) -> None:
        self.path = path
        self.words = ("strace", "-f", "--seccomp-bpf", "-qq", "-s", "4096", "-e", f"trace={calls}",
                      "-e", "signal=none", "-o", str(path))  # fmt: skip
        self._seen = 0

    def news(self) -> list[str]:
        """Give the calls since the last time."""
        if not self.path.exists():  # strace is starting
            return []
        with self.path.open(errors="replace") as stream:
            stream.seek(self._seen)
            lines = stream.readlines()
            self._seen = stream.tell()
        return lines


@functools.cache
def can_trace() -> bool:
    """Whether strace is there and may trace; some containers forbid it."""
    if shutil.which("strace") is None:
        return False
    words = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=execve", "-o", os.devnull, "true"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0
