"""The one place where errors and signals become a line on stderr and an exit status."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from resmem_cli.artifacts.temporary import discard_unfinished
from resmem_cli.errors import OutputError, ResmemError, ResourceError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked the process to end; raised so that temporaries are removed on the way out."""


class _Received:
    number: signal.Signals | None = None


def run_and_exit(command: Callable[[], int | None]) -> NoReturn:
    """Run a command, and end the process as the exit codes promise.

    Parameters
    ----------
    command : callable
        Gives an exit status, or None for 0.
    """
    _listen()
    try:
        status = command() or 0
        sys.stdout.flush()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except (Exception, Interrupted) as error:
        status = 1 if _Received.number is not None else tell(error)
        if isinstance(error, OutputError):
            # After a failed write HDF5 crashes when its objects are freed, so they are not.
            sys.stderr.flush()
            os._exit(status)
    if _Received.number is not None:
        discard_unfinished()
        _die_of(_Received.number)
    sys.exit(status)


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
    traceback.print_exception(error)
    _print("this is a bug in resmem, not in your data; please report it with the lines above")
    return 1


def _listen() -> None:
    for number in _SIGNALS:
        # A signal that the caller ignores, as nohup does with SIGHUP, stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _receive)


def _receive(number: int, frame: FrameType | None) -> NoReturn:
    # Remembered, because a library may turn the exception into one of its own, as faiss does.
    _Received.number = signal.Signals(number)
    signal.signal(number, signal.SIG_DFL)
    raise Interrupted


def _as_resmem_error(error: BaseException) -> ResmemError | None:
    if isinstance(error, ResmemError):
        return error
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "bad_alloc" in str(error)):
        return ResourceError("out of memory", remedy="use a machine with more, or fewer rows at a time")
    if isinstance(error, OSError) and error.errno:
        return OutputError(os.strerror(error.errno), file=error.filename)
    return None


def _print(line: str) -> None:
    sys.stderr.write(f"resmem: error: {line}\n")


def _die_of(number: signal.Signals) -> NoReturn:
    """End by the signal itself, so that the caller's shell sees what happened."""
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)
