"""The one place where errors and signals become a line on stderr and an exit status."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from resmem_cli.artifacts.temporary import discard_unfinished
from resmem_cli.errors import OutputError, ResmemError, ResourceError
from resmem_cli.lack_of_memory import is_lack_of_memory, is_there_room

# As malloc.h numbers them.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Those that end a command, which then leaves nothing behind."""

_at_leaving: list[Callable[[], object]] = []


def run_and_exit(command: Callable[[], int | None]) -> NoReturn:
    """Run a command, and end the process as the exit codes promise.

    Parameters
    ----------
    command : callable
        Gives an exit status, or None for 0.
    """
    open_missing_streams()
    sys.excepthook = sys.unraisablehook = _keep_silent
    _listen()
    keep_freed_memory(1 << 30)
    if not sys.warnoptions:
        # Python's warnings are for who wrote the code; what a user should know is a notice.
        warnings.simplefilter("ignore")
    try:
        status = command() or 0
        sys.stdout.flush()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except Exception as error:
        # The error still holds what it happened to: after a failed write HDF5 crashes when its objects
        # are freed.
        end(tell(error))
    end(status)


def _keep_silent(*_: object) -> None:
    """Print nothing of an exception that nobody catches.

    It is of an object that is freed after an error, such as one of HDF5 after a failed write, or one met
    while an error is told, for which only a lack of memory is a reason. The error itself is told by `tell`.
    """


def at_leaving(do: Callable[[], object]) -> None:
    """Have something done when the process is about to end by `end`, and not by a crash."""
    _at_leaving.append(do)


def end(status: int) -> NoReturn:
    """End the process; all files are closed by now, and taking the interpreter apart takes some 30 ms."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    _end_other_processes()
    for do in _at_leaving:
        do()
    os._exit(status)


def keep_freed_memory(most: int) -> None:
    """Have glibc give the memory of one block's arrays, up to `most` bytes, to the next, not to the system.

    On a small ResNet page faults were a tenth of the run of `embed` otherwise.
    """
    with contextlib.suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            set_option(option, most)


def open_missing_streams() -> None:
    """Give a process started with closed streams something to write to.

    A file opened later would get the number of the missing stream, and then the messages of others.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names and symbols that the terminal's encoding has not are no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")


def tell(error: BaseException) -> int:
    """Print one line for an error that was foreseen, a traceback for one that was not; give the status."""
    known = _as_resmem_error(error)
    if known is not None:
        _print(str(known))
        return known.exit_code
    # What typer raises for a wrong command line; its class lives in a private module of each version.
    message, code = getattr(error, "format_message", None), getattr(error, "exit_code", None)
    if callable(message) and isinstance(code, int):
        context = getattr(error, "ctx", None)
        path = getattr(context, "command_path", "resmem")
        _print(f"{' '.join(str(message()).split())} See '{path} --help'.")
        return code
    if not is_there_room():
        # Python and libraries say anything when an allocation fails where they foresee no failure.
        _print(str(_out_of_memory()))
        return ResourceError.exit_code
    with contextlib.suppress(OSError, ValueError):
        traceback.print_exception(error)
    _print("this is a bug in resmem, not in your data; please report it with the lines above")
    return 1


def _listen() -> None:
    for number in SIGNALS:
        if not is_ignored(number):
            signal.signal(number, _receive)


def is_ignored(number: int) -> bool:
    """Tell whether the caller ignores a signal, as nohup does with SIGHUP: then it stays ignored."""
    return signal.getsignal(number) is signal.SIG_IGN


def _receive(number: int, frame: FrameType | None) -> NoReturn:
    # An exception raised here would be lost where Python ignores exceptions, as in a finalizer.
    discard_unfinished()
    _end_other_processes()
    die_of(signal.Signals(number))


def _end_other_processes() -> None:
    # A signal can come while the module is imported, or while it notes a process.
    end_all = getattr(sys.modules.get("resmem_cli.isolation.process"), "end_all", None)
    if end_all is not None:
        with contextlib.suppress(Exception):
            end_all()


def _as_resmem_error(error: BaseException) -> ResmemError | None:
    if is_lack_of_memory(error):
        return _out_of_memory()
    if isinstance(error, ResmemError):
        return error
    if isinstance(error, OSError) and error.errno:
        return OutputError(os.strerror(error.errno), file=error.filename)
    return None


def _out_of_memory() -> ResourceError:
    return ResourceError("out of memory", remedy="use a machine with more, or fewer rows at a time")


def _print(line: str) -> None:
    # The status is told even where the line can't be.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"resmem: error: {line}\n")
        sys.stderr.flush()


def die_of(number: signal.Signals) -> NoReturn:
    """End by the signal itself, so that the caller's shell sees what happened."""
    sys.stderr.flush()
    if number is not signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    os._exit(128 + number)
