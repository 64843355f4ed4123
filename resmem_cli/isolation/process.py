"""A process of its own for work on a stranger's bytes, seen from the one that asks it."""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import select
import signal
import socket
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from resmem_cli import errors
from resmem_cli.errors import DataError, ResmemError, ResourceError
from resmem_cli.isolation.serving import FIELDS, LENGTH, SIGNALS, Answers, serve
from resmem_cli.lack_of_memory import is_there_room
from resmem_cli.types import Closing

_WALL_SECONDS = 300  # a slow disk is no attack
_MOST_HEAD = 1 << 26  # bytes
_DYING_SECONDS = 2.0

_alive: weakref.WeakSet[Isolated] = weakref.WeakSet()


class CrashError(DataError):
    """A library crashed on what it read."""


def end_all() -> None:
    """End all processes that this one has made, before it ends itself."""
    for process in list(_alive):
        process.close()


atexit.register(end_all)


class Isolated(Closing):
    """A process that answers questions about a file, and can do nothing else.

    It is a fork of this one, so that it starts in milliseconds with all libraries loaded. It has limits of
    processor time and memory, can make no file longer, and ends with this object, or when it has answered
    and this process has ended.

    Parameters
    ----------
    make : callable
        Called in the process of its own; gives what answers there. It is given a function that receives
        what `hand_over` sends.
    file : pathlib.Path, optional
        What it is all about, for errors.
    keep : sequence of int, optional
        The open descriptors that it may use; None for all from which one can only read.
    lock : context manager, optional
        Held while the process is made, so that it finds the library it needs at rest.
    seconds : float
        Processor time for one question.
    memory : int
        Bytes it may take beyond what this process has.
    """

    def __init__(
        self,
        make: Callable[[Callable[[], int]], Answers],
        *,
        file: Path | None = None,
        keep: Sequence[int] | None = (),
        lock: AbstractContextManager[Any] | None = None,
        seconds: float = 15,
        memory: int = 4 << 30,
    ) -> None:
        self._file = file
        self._seconds, self._memory = math.ceil(seconds), memory
        self._wall_seconds = max(_WALL_SECONDS, 2 * self._seconds)
        self._owner, self._process = os.getpid(), 0
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            try:
                there, self._questions = os.pipe()
                theirs.callback(os.close, there)
                ours.callback(os.close, self._questions)
                self._replies, back = os.pipe()
                theirs.callback(os.close, back)
                ours.callback(os.close, self._replies)
                self._files, files_there = socket.socketpair()
                theirs.callback(files_there.close)
                ours.callback(self._files.close)
                with lock or nullcontext(), _signals_held():
                    self._process = _fork()
                    if self._process == 0:
                        serve(make, there, back, files_there, keep, seconds=self._seconds, memory=memory)
            except OSError as error:
                raise ResourceError(f"no process to read it in: {error}", file=file) from error
            finally:
                if self._process:
                    ours.pop_all()  # closed with the process
                    _alive.add(self)

    @property
    def is_own(self) -> bool:
        """Whether it runs and was made by this process, and not by one that this was forked from."""
        return bool(self._process) and self._owner == os.getpid()

    def hand_over(self, descriptor: int, *, file: Path | None = None) -> None:
        """Send an open file, to be received there; raises as `ask`."""
        try:
            socket.send_fds(self._files, [b"."], [descriptor])
        except OSError as failure:
            raise self._failed(file or self._file, failure) from failure

    def ask(
        self,
        question: Any,
        *,
        file: Path | None = None,
        into: memoryview | None = None,
        at_most: int = 0,
    ) -> tuple[Any, bytes]:
        """Ask, and wait for the answer.

        Parameters
        ----------
        question : JSON value
        file : pathlib.Path, optional
            What it is about, for errors, if it is not about what all of them are.
        into : memoryview, optional
            What the answer's bytes have to fill.
        at_most : int
            Else, how many bytes to accept.

        Returns
        -------
        value : JSON value
        content : bytes
            Empty if they went `into` something.

        Raises
        ------
        ResmemError
            Whatever was raised there, with the file's name.
        CrashError
            If the process crashed.
        DataError
            If it took too long, or gave what can be no answer.
        ResourceError
            If it had not enough memory, or was killed.
        """
        file = file or self._file
        answered = False
        try:
            os.write(self._questions, json.dumps(question).encode() + b"\n")
            head = json.loads(self._read(int.from_bytes(self._read(LENGTH), "little"), at_most=_MOST_HEAD))
            error = self._rebuilt(head["error"], file) if "error" in head else None
            content = b""
            if error is None and into is None:
                content = self._read(head["size"], at_most=at_most)
            elif error is None and into is not None:
                if head["size"] != into.nbytes:
                    raise ValueError(f"{head['size']} bytes")
                self._fill(into.cast("B"))
            answered = True
        except (OSError, ValueError, EOFError, KeyError, TypeError) as failure:
            raise self._failed(file, failure) from failure
        finally:
            if not answered:
                self.close()  # what was left of the answer would be taken for the next one
        if error is not None:
            raise error
        return head["value"], content

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._end(signal.SIGKILL)

    def _read(self, size: int, *, at_most: int = LENGTH) -> bytes:
        if not 0 <= size <= at_most:
            raise ValueError(f"{size} bytes")
        content = bytearray(size)
        self._fill(memoryview(content))
        return bytes(content)

    def _fill(self, view: memoryview) -> None:
        place = 0
        waiting = select.poll()
        waiting.register(self._replies, select.POLLIN)
        while place < view.nbytes:
            if not waiting.poll(1000 * self._wall_seconds):
                raise TimeoutError
            n = os.readv(self._replies, [view[place:]])
            if not n:
                raise EOFError
            place += n

    def _rebuilt(self, described: dict[str, Any], file: Path | None) -> Exception:
        """Make the error again that was raised in the process."""
        kind = getattr(errors, str(described["kind"]), None)
        if isinstance(kind, type) and issubclass(kind, ResmemError):
            fields = {name: described[name] for name in FIELDS} | {"file": file}
            return kind(fields.pop("problem"), **fields)
        if described["kind"] == "MemoryError":
            return self._too_little_memory(file)
        return RuntimeError(described["problem"])

    def _too_little_memory(self, file: Path | None) -> ResourceError:
        problem = "not enough memory to read it"
        if not is_there_room():
            return ResourceError(problem, file=file, remedy="use a machine with more")
        most = f"less than {self._memory >> 20:,} MiB"
        return ResourceError(problem, file=file, expected=most, remedy="write it again in smaller pieces")

    def _failed(self, file: Path | None, failure: BaseException) -> ResmemError:
        """Say why there is no answer."""
        status = self._end(0)
        if not is_there_room() or status == -signal.SIGKILL:
            return self._too_little_memory(file)
        kind, how = DataError, "gives nonsense"
        if isinstance(failure, TimeoutError):
            how = f"takes more than {self._wall_seconds} s"
        elif status == -signal.SIGXCPU:
            how = f"takes more than {self._seconds} s"
        elif status < 0 and status != -signal.SIGPIPE:
            kind, how = CrashError, f"crashes ({_name_of(-status)})"
        return kind(f"damaged so that reading it {how}", file=file, remedy="copy or create it again")

    def _end(self, number: int) -> int:
        """Give the status of the process, which ends by a signal now, or if it does not end itself."""
        process, self._process = self._process, 0
        if not process:
            return 0
        os.close(self._questions)
        os.close(self._replies)
        self._files.close()
        if self._owner != os.getpid():
            return 0
        # Where children are waited for by someone else, as with SIGCHLD ignored, there is no status.
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            deadline = time.monotonic() + _DYING_SECONDS
            while number == 0 and time.monotonic() < deadline:
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    return os.waitstatus_to_exitcode(status)
                time.sleep(0.01)
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        return 0


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Keep signals waiting, so that none meets the new process while it still has this one's handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _fork() -> int:
    with warnings.catch_warnings():
        # From 3.12 on Python warns of threads, whose locks would stay closed; none is used there.
        warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning)
        return os.fork()
