"""Reading a stranger's bytes in a process of its own: if a library crashes or spins, only that one ends."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import math
import os
import resource
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from resmem_cli import errors
from resmem_cli.errors import DataError, ResmemError, ResourceError
from resmem_cli.lack_of_memory import is_lack_of_memory, is_there_room

_WALL_SECONDS = 300  # a slow disk is no attack
_MOST_HEAD = 1 << 26  # bytes
_LENGTH = 8  # bytes of the length of a head
_DYING_SECONDS = 2.0
_FIELDS = ("problem", "file", "field", "expected", "found", "remedy")
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

Answers = Callable[[Any], tuple[Any, bytes | memoryview]]
"""Answers a question, which is a JSON value, with a JSON value and with bytes."""


class Isolated:
    """A process that answers questions about a file, and can do nothing else.

    It is a fork of this one, so that it starts in milliseconds with all libraries loaded. It has limits of
    processor time and memory, writes to no file, and ends with this object or with this process.

    Parameters
    ----------
    make : callable
        Called in the process of its own; gives what answers there.
    file : pathlib.Path, optional
        What it is all about, for errors.
    keep : sequence of int, optional
        The open descriptors that it may use; None for all, where it ends soon.
    lock : context manager, optional
        Held while the process is made, so that it finds the library it needs at rest.
    seconds : float
        Processor time for one question.
    memory : int
        Bytes it may take beyond what this process has.
    """

    def __init__(
        self,
        make: Callable[[], Answers],
        *,
        file: Path | None = None,
        keep: Sequence[int] | None = (),
        lock: AbstractContextManager[Any] | None = None,
        seconds: float = 15,
        memory: int = 4 << 30,
    ) -> None:
        self._file = file
        self._seconds, self._memory = math.ceil(seconds), memory
        there, self._questions = os.pipe()
        self._replies, back = os.pipe()
        try:
            with lock or nullcontext(), _signals_held():
                self._process = _fork()
                if self._process == 0:
                    _serve(make, there, back, keep, seconds=self._seconds, memory=memory)
        except OSError as error:
            self._process = 0
            raise ResourceError(f"no process to read it in: {error}", file=file) from error
        finally:
            os.close(there)
            os.close(back)

    def ask(self, question: Any, *, into: memoryview | None = None, at_most: int = 0) -> tuple[Any, bytes]:
        """Ask, and wait for the answer.

        Parameters
        ----------
        question : JSON value
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
        DataError
            If the process crashed, took too long, or gave what can be no answer.
        ResourceError
            If it had not enough memory.
        """
        try:
            os.write(self._questions, json.dumps(question).encode() + b"\n")
            head = json.loads(self._read(int.from_bytes(self._read(_LENGTH), "little"), at_most=_MOST_HEAD))
            error = self._rebuilt(head["error"]) if "error" in head else None
            if error is None and into is None:
                return head["value"], self._read(head["size"], at_most=at_most)
            if error is None and into is not None and head["size"] == into.nbytes:
                self._fill(into.cast("B"))
                return head["value"], b""
        except (OSError, ValueError, EOFError, KeyError, TypeError) as failure:
            raise self._failed() from failure
        raise error or self._failed()

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._reap(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, size: int, *, at_most: int = _LENGTH) -> bytes:
        if not 0 <= size <= at_most:
            raise ValueError(f"{size} bytes")
        content = bytearray(size)
        self._fill(memoryview(content))
        return bytes(content)

    def _fill(self, view: memoryview) -> None:
        place = 0
        while place < view.nbytes:
            if not select.select([self._replies], [], [], _WALL_SECONDS)[0]:
                raise TimeoutError
            n = os.readv(self._replies, [view[place:]])
            if not n:
                raise EOFError
            place += n

    def _rebuilt(self, described: dict[str, Any]) -> Exception:
        """Make the error again that was raised in the process."""
        kind = getattr(errors, str(described["kind"]), None)
        if isinstance(kind, type) and issubclass(kind, ResmemError):
            fields = {name: described[name] for name in _FIELDS} | {"file": self._file}
            return kind(fields.pop("problem"), **fields)
        if described["kind"] == "MemoryError":
            return self._too_little_memory()
        return RuntimeError(described["problem"])

    def _too_little_memory(self) -> ResourceError:
        problem = "not enough memory to read it"
        if not is_there_room():
            return ResourceError(problem, file=self._file, remedy="use a machine with more")
        most = f"less than {self._memory >> 20:,} MiB"
        return ResourceError(problem, file=self._file, expected=most, remedy="store it in smaller chunks")

    def _failed(self) -> ResmemError:
        """Say why there is no answer."""
        status = self._reap(0)
        if not is_there_room():
            return self._too_little_memory()
        how = "gives nonsense"
        if status == -signal.SIGXCPU:
            how = f"takes more than {self._seconds} s"
        elif status < 0 and status != -signal.SIGPIPE:
            how = f"crashes ({signal.Signals(-status).name})"
        return DataError(
            f"damaged so that reading it {how}", file=self._file, remedy="copy or create it again"
        )

    def _reap(self, number: int) -> int:
        """Give the status of the process, which ends by a signal now, or if it does not end itself."""
        process, self._process = self._process, 0
        os.close(self._questions)
        os.close(self._replies)
        deadline = time.monotonic() + _DYING_SECONDS
        while number == 0 and time.monotonic() < deadline:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return 0


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Keep signals waiting, so that none meets the new process while it still has this one's handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _fork() -> int:
    with warnings.catch_warnings():
        # From 3.12 on Python warns of threads, whose locks would stay closed; none is used there.
        warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning)
        return os.fork()


def _serve(
    make: Callable[[], Answers],
    questions: int,
    replies: int,
    keep: Sequence[int] | None,
    *,
    seconds: int,
    memory: int,
) -> NoReturn:
    """Answer until there are no more questions; this is the process of its own."""
    try:
        gc.disable()  # what it has in common with the other process is the other's to finalize
        for number in (*_SIGNALS, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        _close_streams()
        if keep is not None:
            _close_all_but({questions, replies, *keep})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        _limit(memory)
        answers: Answers | None = None
        with os.fdopen(questions, "rb") as stream:
            for line in stream:
                _limit_time(seconds)
                try:
                    answers = answers or make()
                    value, content = answers(json.loads(line))
                    _reply(replies, {"value": value, "size": memoryview(content).nbytes}, content)
                except Exception as error:
                    _reply(replies, {"error": _described(error)}, b"")
    finally:
        os._exit(0)


def _close_streams() -> None:
    """Let what libraries print, such as when they abort, go nowhere."""
    faulthandler.disable()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)


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
    for part in (len(text).to_bytes(_LENGTH, "little"), text, content):
        view = memoryview(part).cast("B")
        while view:
            view = view[os.write(replies, view) :]


def _described(error: Exception) -> dict[str, Any]:
    if is_lack_of_memory(error):
        return {"kind": "MemoryError"}
    if isinstance(error, ResmemError):
        values = {name: getattr(error, name) for name in _FIELDS}
        told = {name: value if value is None else str(value) for name, value in values.items()}
        return {"kind": type(error).__name__, **told}
    return {"kind": "bug", "problem": "".join(traceback.format_exception(error))}
