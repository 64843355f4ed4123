"""Commands of the tool run as processes of their own, with the time and the memory each takes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from resmem_cli import errors
from resmem_cli.artifacts.temporary import begin, finished
from resmem_cli.errors import ResmemError

_RESMEM = (sys.executable, "-P", "-m", "resmem_cli")
_SAMPLE_SECONDS = 0.01
_PREFIX = "resmem: error: "


@dataclass(frozen=True)
class Cost:
    """What a piece of work took.

    Attributes
    ----------
    seconds : float
        By the clock.
    cpu_seconds : float
        Of all cores, which other work on the machine lengthens less.
    anonymous, resident : int or None
        Peaks in bytes. Anonymous memory is the process's own; resident memory includes the pages of mapped
        files, which the system takes back when it needs them. None where the system does not tell.
    """

    seconds: float
    cpu_seconds: float
    anonymous: int | None
    resident: int | None


class Measured:
    """Watches a process while it is open: its memory, a hundred times a second. A shorter peak can be missed.

    Parameters
    ----------
    child : int, optional
        A child process, which has been waited for when this is left; this process by default.
    """

    def __init__(self, child: int | None = None) -> None:
        self._status = Path(f"/proc/{os.getpid() if child is None else child}/status")
        self._whose = resource.RUSAGE_SELF if child is None else resource.RUSAGE_CHILDREN
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._peaks: dict[str, int] = {}
        self._start = self._seconds = 0.0
        self._cpu_start = self._cpu_seconds = 0.0

    @property
    def cost(self) -> Cost:
        """What it took."""
        return Cost(self._seconds, self._cpu_seconds, self._peaks.get("RssAnon"), self._peaks.get("VmRSS"))

    def __enter__(self) -> Measured:
        self._start, self._cpu_start = time.perf_counter(), self._cpu()
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._seconds = time.perf_counter() - self._start
        self._cpu_seconds = self._cpu() - self._cpu_start
        self._look()
        self._ended.set()
        self._thread.join()

    def _cpu(self) -> float:
        used = resource.getrusage(self._whose)
        return used.ru_utime + used.ru_stime

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        try:
            lines = self._status.read_text().splitlines()
        except OSError:
            return  # it has ended, or this is no Linux
        for line in lines:
            name, _, size = line.partition(":")
            if name in ("RssAnon", "VmRSS"):
                self._peaks[name] = max(self._peaks.get(name, 0), 1024 * int(size.split()[0]))


def run_resmem(*arguments: str | Path) -> tuple[dict[str, Any], Cost]:
    """Run a command with ``--json`` as a process, which ends with this one.

    Parameters
    ----------
    *arguments : str or pathlib.Path
        The command and its options.

    Returns
    -------
    result : dict
        Its figures.
    cost : Cost
        From its start to its end.

    Raises
    ------
    ResmemError
        As the command did, by its exit status; `ResourceError` if the system killed it.
    """
    command = [*_RESMEM, *map(str, arguments), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        own = Path(f"/proc/{process.pid}")
        # A signal ends this process at once; the other one then removes what it has begun.
        begin(own, lambda _: process.terminate())
        try:
            with Measured(process.pid) as measured:
                output, told = process.communicate()
        except BaseException:
            process.terminate()
            raise
        finally:
            finished(own)
    if process.returncode:
        raise _failure(process.returncode, told, " ".join(["resmem", *map(str, arguments)]))
    result: dict[str, Any] = json.loads(output)["result"]
    return result, measured.cost


def _failure(status: int, told: str, command: str) -> Exception:
    """Make the error that a command ended with."""
    if status < 0:
        return errors.ResourceError(
            f"ended by signal {-status}", file=command, remedy="most likely the memory ran out"
        )
    last = (told.strip().splitlines() or [""])[-1]
    known = {kind.exit_code: kind for kind in ResmemError.__subclasses__()}
    if status in known and last.startswith(_PREFIX):
        return known[status](last.removeprefix(_PREFIX))
    return RuntimeError(f"{command} failed with status {status}:\n{told}")
