"""Schedulers and workers of Dask, as the tests start and kill them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ENV = {"OMP_NUM_THREADS": "1"}


class Machines:
    """A scheduler and its workers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.start_scheduler()

    @property
    def option(self) -> str:
        return f"file:{self.file}"

    def start_scheduler(self) -> None:
        self.file.unlink(missing_ok=True)
        self.scheduler = self._dask(
            "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", self.file
        )
        until(self.file.exists)

    def add_worker(self) -> subprocess.Popen[bytes]:
        options = ("--nthreads", "1", "--memory-limit", "0", "--no-dashboard", "--death-timeout", "60")
        self.workers.append(self._dask("worker", "--scheduler-file", self.file, *options))
        return self.workers[-1]

    def _dask(self, *arguments: object) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *map(str, arguments)],
                stdout=log,
                stderr=log,
                env={**os.environ, **ENV},
                # Worker and nanny are killed together.
                start_new_session=True,
            )

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for process in (*self.workers, self.scheduler):
            self.kill(process)


def until(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.005)
