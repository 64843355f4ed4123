"""A limit of the address space: whatever ends the process, one line tells it and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from resmem_cli.cli import failures

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")

# A command that has begun a file and then ends in some way.
CODE = """
import os, resource, signal, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from resmem_cli.artifacts.temporary import TemporaryFile
from resmem_cli.cli.failures import run_and_exit
from resmem_cli.cli.limited import go_on_where_a_crash_is_told
from resmem_cli.errors import DataError
go_on_where_a_crash_is_told()
def command():
    temporary = TemporaryFile(Path("out"))
    if sys.argv[1] == "done":
        temporary.discard()
    os.write(2, b"native\\n")
    sys.stderr.write("own\\n")
    exec(sys.argv[1] if sys.argv[1] != "done" else "")
run_and_exit(command)
"""


def run(how: str, folder: Path) -> tuple[int, str]:
    command = [sys.executable, "-c", CODE, how]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("os.abort()", "SIGABRT"),
        ("signal.signal(2, signal.SIG_DFL); signal.raise_signal(2)", "SIGINT"),
        ("os._exit(1)", "status 1"),
        # As where there is no memory to tell that there is none.
        ("from resmem_cli.cli import failures; failures._as_resmem_error = None; 1 / 0", "status 1"),
    ],
)
def test_a_crash_is_told_in_one_line_and_leaves_nothing(how: str, name: str, tmp_path: Path) -> None:
    status, stderr = run(how, tmp_path)
    assert status == 71
    assert stderr.splitlines()[0] == "own"
    (line,) = stderr.splitlines()[1:]
    assert line.startswith(f"resmem: error: a library ended it ({name}), most likely for lack of memory")
    assert "1024 MiB" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_from_outside_is_the_status(number: signal.Signals, tmp_path: Path) -> None:
    status, stderr = run(f"os.kill(os.getpid(), {int(number)})", tmp_path)
    assert (status, stderr) == (-number, "own\nnative\n")
    assert list(tmp_path.iterdir()) == []


def test_other_ends_are_what_they_are_without_a_limit(tmp_path: Path) -> None:
    assert run("done", tmp_path) == (0, "own\nnative\n")
    status, stderr = run("raise DataError('damaged', file='a.h5')", tmp_path)
    assert status == 65
    assert "resmem: error: a.h5: damaged" in stderr.splitlines()


def test_a_signal_is_handed_on(tmp_path: Path) -> None:
    how = "print(os.getpid(), flush=True); import time; time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", CODE, how], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert child != process.pid
        process.terminate()
        process.communicate(timeout=5)
    assert process.returncode == -signal.SIGTERM
    assert not os.path.exists(f"/proc/{child}")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_while_its_module_is_imported_is_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resmem_cli.isolation.process", types.ModuleType("half imported"))
    failures._end_other_processes()


def test_nothing_is_said_of_what_is_freed_after_an_error(tmp_path: Path) -> None:
    """As by HDF5's objects after a failed write: seen in the reliability programme, on a full disk."""
    code = """
from resmem_cli.cli.failures import run_and_exit
from resmem_cli.errors import OutputError
class Failing:
    def __del__(self):
        raise RuntimeError("can't be closed")
def command():
    failing = Failing()
    del failing
    raise OutputError("can't be written", file="a.h5")
run_and_exit(command)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (74, "resmem: error: a.h5: can't be written\n")
