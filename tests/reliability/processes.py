"""Commands in processes of their own, with limits of time and memory."""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

SECONDS = 30  # in which every command on small files has to end
MEMORY = 4 << 30  # bytes of address space beyond what a process has when its libraries are loaded

# As many threads as the programme's workers leave room for; answers do not depend on it.
# What is left in a folder is looked at: no compiled modules are wanted there.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

# With the tests' own modules, for processes that call functions of them.
_PATH = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])


@dataclass(frozen=True)
class Ended:
    """A process that has ended; a negative status is the signal it died of."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    def __str__(self) -> str:
        return f"status {self.status} after {self.seconds:.1f} s\n{self.stdout[-500:]}\n{self.stderr[-2000:]}"

    def assert_done(self) -> None:
        assert self.status == 0, str(self)

    def assert_refused(self, *statuses: int, naming: str = "") -> None:
        """Hold a failure to the contract: its status, and one line on stderr that names the file.

        What was told before it, such as which index is going to be built, is no part of it.
        """
        assert self.status in statuses, str(self)
        *before, line = self.stderr.splitlines() or [""]
        assert line.startswith("resmem: error: "), str(self)
        assert naming in line, str(self)
        told = [one.startswith("resmem: ") and not one.startswith("resmem: error") for one in before]
        assert all(told), str(self)


class Hang(AssertionError):
    """A process that had to be killed."""


def command(*arguments: object) -> list[str]:
    """Give the words that run `resmem`, in this interpreter's environment."""
    return [sys.executable, "-m", "resmem_cli", *map(str, arguments)]


def start(
    *arguments: object,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    limits: Mapping[int, int] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `resmem`, its limits set by resource number; its output goes to `communicate`."""

    def set_limits() -> None:
        for number, most in (limits or {}).items():
            resource.setrlimit(number, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env={**os.environ, **ONE_THREAD, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=set_limits,
    )


def finish(process: subprocess.Popen[bytes], *, seconds: float = SECONDS) -> Ended:
    """Wait for a process; kill it and raise `Hang` if it does not end in time."""
    began = time.monotonic()
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Hang(f"still running after {seconds} s: {process.args!r}") from None
    took = time.monotonic() - began
    return Ended(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"), took)


def run(
    *arguments: object,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    limits: Mapping[int, int] | None = None,
    seconds: float = SECONDS,
) -> Ended:
    """Run `resmem` in a new interpreter."""
    return finish(start(*arguments, cwd=cwd, env=env, limits=limits), seconds=seconds)


class ForkServer:
    """Runs each command in a process of its own that has its libraries loaded already: a fork of a server.

    A command takes a tenth of the time it takes in a new interpreter; nothing else is shared, for the
    server runs no command itself.

    Parameters
    ----------
    env : mapping, optional
        What libraries read when they are loaded, such as numbers of threads.
    load : sequence of str
        Further modules to have loaded.
    under : sequence of str
        The words of a program to run the server under, such as strace.
    """

    def __init__(
        self, env: Mapping[str, str] | None = None, *, load: Sequence[str] = (), under: Sequence[str] = ()
    ) -> None:
        self._server = subprocess.Popen(
            [*under, sys.executable, __file__, *load],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": _PATH, **(env or {})},
            text=True,
        )

    def run(
        self,
        *arguments: object,
        cwd: Path,
        seconds: float = SECONDS,
        memory: int = MEMORY,
        env: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run `resmem`, with so many bytes of memory beyond those of the loaded libraries."""
        words = [*map(str, arguments)]
        request = {"arguments": words, "cwd": str(cwd), "memory": memory, "env": dict(env or {})}
        return self._ask(request, seconds, f"resmem {' '.join(words)}")

    def call(self, function: Callable[..., Any], *arguments: Any, seconds: float = SECONDS) -> Any:
        """Call a function of a module with JSON values, and give what it gives, which is JSON too."""
        name = f"{function.__module__}:{function.__qualname__}"
        request = {"function": name, "arguments": arguments, "cwd": os.getcwd(), "memory": MEMORY, "env": {}}
        ended = self._ask(request, seconds, f"{name}{arguments}")
        ended.assert_done()
        return json.loads(ended.stdout)

    def _ask(self, request: Mapping[str, object], seconds: float, what: str) -> Ended:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            request = {**request, "seconds": seconds, "streams": folder}
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            reply = json.loads(self._server.stdout.readline())
            if reply["hung"]:
                raise Hang(f"still running after {seconds} s: {what}")
            told = [(Path(folder) / name).read_text(errors="replace") for name in ("stdout", "stderr")]
        return Ended(reply["status"], *told, reply["seconds"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate()


def _serve() -> None:
    """Answer the requests of a `ForkServer`."""
    import pkgutil

    import faiss  # noqa: F401
    import h5py  # noqa: F401
    import scipy.sparse  # noqa: F401

    import resmem_cli.cli

    for module in pkgutil.iter_modules(resmem_cli.cli.__path__):
        importlib.import_module(f"resmem_cli.cli.{module.name}")
    # What commands import when they run.
    for name in ("stages", "arrays", "indexes"):
        package = importlib.import_module(f"resmem_cli.{name}")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"resmem_cli.{name}.{module.name}")
    for name in sys.argv[1:]:
        importlib.import_module(name)
    # Forks share what is there now, instead of copying it when its references are counted anew.
    import gc

    gc.freeze()
    loaded = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for line in sys.stdin:
        request = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            _become_command(request, loaded)
        status = _wait(child, request["seconds"])
        hung = status is None
        if hung:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        reply = {"status": status, "hung": hung, "seconds": time.monotonic() - began}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


def _wait(child: int, seconds: float) -> int | None:
    """Give the status of a child, None if it is still running after so many seconds."""
    import select

    descriptor = os.pidfd_open(child)
    try:
        if not select.select([descriptor], [], [], seconds)[0]:
            return None
    finally:
        os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _become_command(request: dict[str, object], loaded: int) -> None:
    try:
        streams = Path(str(request["streams"]))
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(streams / name, os.O_WRONLY | os.O_CREAT, 0o600), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        most = loaded + int(request["memory"])  # type: ignore[call-overload]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ.update(request["env"])  # type: ignore[arg-type]
        os.chdir(str(request["cwd"]))
        if "function" in request:
            _answer(request)
        sys.argv = ["resmem", *request["arguments"]]  # type: ignore[misc]
        from resmem_cli.cli.failures import run_and_exit
        from resmem_cli.cli.main import run

        run_and_exit(run)
    finally:
        os._exit(99)


def _answer(request: dict[str, Any]) -> NoReturn:
    module, name = request["function"].split(":")
    try:
        json.dump(getattr(importlib.import_module(module), name)(*request["arguments"]), sys.stdout)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    _serve()
