"""A command with a limit of its address space (`ulimit -v`): in a child, so that a crash is told in one line.

Native libraries do not survive an allocation that fails: OpenBLAS writes to no address or ends the process,
OpenMP can't start its threads, an exception leaves a parallel region of faiss and aborts.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import signal
import sys
from types import FrameType
from typing import NoReturn

from resmem_cli.artifacts.temporary import discard_of_crashed, keep_ledger
from resmem_cli.cli.failures import (
    SIGNALS,
    at_leaving,
    die_of,
    end,
    is_ignored,
    open_missing_streams,
    tell,
)
from resmem_cli.errors import ResourceError

_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
_PR_SET_PDEATHSIG = 1

# What scipy's OpenBLAS maps when it is loaded, and for each thread more, measured and rounded up. Where it
# gets less it tries again for ever.
_ROOM, _THREAD_ROOM = 112 << 20, 48 << 20


def go_on_where_a_crash_is_told() -> None:
    """If the address space is limited, return in a child process; this one waits, and ends as that does."""
    open_missing_streams()
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if sys.platform != "linux" or limit == resource.RLIM_INFINITY:
        return
    try:
        files = [os.memfd_create(name) for name in ("ledger", "native", "left")]
    except OSError:
        return
    # A signal waits until it is known what to do about it, in either process.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    parent = os.getpid()
    try:
        child = os.fork()
    except OSError as error:
        end(tell(error))
    if child:
        _wait_for(child, limit, *files)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It died before it was asked to be followed.
        os._exit(128 + signal.SIGKILL)
    _be_the_child(*files)


def _be_the_child(ledger: int, native: int, left: int) -> None:
    sys.meta_path.insert(0, _RoomForBlas())
    keep_ledger(ledger)
    at_leaving(lambda: os.write(left, b"."))
    # What libraries print is kept back until it is known whether it was about memory.
    sys.stderr.flush()
    own = os.dup(2)
    os.dup2(native, 2)
    sys.stderr = os.fdopen(own, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")


class _RoomForBlas:
    """Looks, before a module of scipy is imported, whether there is room for the OpenBLAS it may bring."""

    def __init__(self) -> None:
        # As OpenBLAS counts them.
        told = (os.environ.get(name, "") for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"))
        wanted = next((int(text) for text in told if text.isdecimal()), 0) or sys.maxsize
        n_threads = min(wanted, len(os.sched_getaffinity(0)))
        self._n_bytes = _ROOM + (n_threads - 1) * _THREAD_ROOM

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Find nothing; raise `OSError` where there is no room."""
        if name.startswith("scipy."):
            mmap.mmap(-1, self._n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()


def _wait_for(child: int, limit: int, ledger: int, native: int, left: int) -> NoReturn:
    handed_on = set()

    def hand_on(number: int, frame: FrameType | None) -> None:
        handed_on.add(number)
        os.kill(child, number)

    for number in SIGNALS:
        if not is_ignored(number):
            signal.signal(number, hand_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    # From here on its number may be another process's.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    has_left = os.fstat(left).st_size > 0
    # OpenBLAS ends a process by SIGINT where it can't start a thread.
    by_itself = status == -signal.SIGINT and signal.SIGINT not in handed_on
    if -status in _CRASHES or by_itself or (status >= 0 and not has_left):
        discard_of_crashed(_content(ledger))
        end(tell(_crash(status, limit)))
    with contextlib.suppress(OSError):
        os.write(2, _content(native))
    if status < 0:
        discard_of_crashed(_content(ledger))
        die_of(signal.Signals(-status))
    end(status)


def _crash(status: int, limit: int) -> ResourceError:
    how = f"status {status}" if status >= 0 else signal.Signals(-status).name
    return ResourceError(
        f"a library ended it ({how}), most likely for lack of memory: the limit is {limit >> 20} MiB",
        remedy="raise the limit (ulimit -v), or set OMP_NUM_THREADS=1",
    )


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
