"""What happens in the process of its own stays there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from resmem_cli.errors import DataError, MissingInputError, ResourceError
from resmem_cli.isolation.process import Isolated

FILE = Path("a.h5")


def answers(question: Any) -> tuple[Any, bytes]:
    if isinstance(question, str) and question.startswith("/"):
        with open(question, "wb") as file:
            file.write(b"more than nothing")
    match question:
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "abort":
            os.abort()
        case "spin":
            while True:
                pass
        case "memory":
            return None, bytes(1 << 31)
        case "refuse":
            raise DataError("damaged", file="another", field="x", expected=3, found=4, remedy="mend it")
        case "miss":
            raise MissingInputError("no such file")
        case "bug":
            return {}["nothing"], b""
        case "descriptors":
            return sorted(map(int, os.listdir("/dev/fd"))), b""
        case "pid":
            return os.getpid(), b""
    return {"asked": question}, b"content"


def isolated(**limits: Any) -> Isolated:
    return Isolated(lambda receive: answers, file=FILE, **limits)


def test_answers_come_in_the_order_of_the_questions() -> None:
    with isolated() as process:
        for question in (1, "two", [3], None, {"four": 4.5}):
            assert process.ask(question, at_most=100) == ({"asked": question}, b"content")


def test_bytes_go_where_they_are_wanted() -> None:
    content = bytearray(7)
    with isolated() as process:
        process.ask(1, into=memoryview(content))
    assert content == b"content"


@pytest.mark.parametrize("limit", [{"at_most": 6}, {"into": memoryview(bytearray(6))}])
def test_bytes_that_were_not_to_be_expected_are_refused(limit: dict[str, Any]) -> None:
    with isolated() as process, pytest.raises(DataError, match=r"a\.h5: damaged so that reading it gives"):
        process.ask(1, **limit)


@pytest.mark.parametrize(("question", "how"), [("crash", "SIGSEGV"), ("abort", "SIGABRT")])
def test_a_crash_is_one_line(question: str, how: str, capfd: pytest.CaptureFixture[str]) -> None:
    with isolated() as process, pytest.raises(DataError, match=rf"a\.h5: .* crashes \({how}\)"):
        process.ask(question)
    assert capfd.readouterr() == ("", "")


def test_a_spin_ends() -> None:
    began = time.monotonic()
    with isolated(seconds=1) as process, pytest.raises(DataError, match="takes more than 1 s"):
        process.ask("spin")
    assert time.monotonic() - began < 60


def test_too_much_memory_is_refused() -> None:
    with isolated(memory=1 << 30) as process, pytest.raises(ResourceError, match="less than 1,024 MiB"):
        process.ask("memory", at_most=1 << 32)


def test_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "written"
    with isolated() as process, pytest.raises(RuntimeError, match="File too large"):
        process.ask(str(path))
    assert path.read_bytes() == b""


def test_errors_keep_their_kind_and_get_the_name_of_the_file() -> None:
    with isolated() as process:
        with pytest.raises(DataError) as caught:
            process.ask("refuse")
        assert str(caught.value) == "a.h5: x: damaged (expected 3, found 4); mend it"
        with pytest.raises(MissingInputError, match=r"a\.h5: no such file"):
            process.ask("miss")
        with pytest.raises(RuntimeError, match="KeyError: 'nothing'"):
            process.ask("bug")


def test_it_has_no_descriptors_of_the_other_process(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w"), isolated() as process:
        descriptors, _ = process.ask("descriptors")
    # Three streams, two pipes, what receives files, and the folder that was listed.
    assert len(descriptors) <= 7


def test_no_process_is_left() -> None:
    with isolated() as process:
        pid, _ = process.ask("pid")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_ends_with_the_other_process() -> None:
    code = """
import os, signal
from test_isolation import isolated
process = isolated()
print(process.ask("pid")[0], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    pid = int(told.stdout)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.01)
    raise AssertionError("still there")


def test_a_signal_meets_the_other_process_only(tmp_path: Path) -> None:
    """A process of its own that inherited the handlers would remove the other's unfinished files."""
    from resmem_cli.artifacts.temporary import begin, finished

    path = tmp_path / "unfinished"
    path.write_text("")
    begin(path, Path.unlink)
    try:
        with isolated() as process:
            pid, _ = process.ask("pid")
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
            assert process.ask("pid") == (pid, b"")
    finally:
        finished(path)
    assert path.exists()


def test_an_open_file_can_be_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")

    def make(receive: Any) -> Any:
        return lambda question: (None, os.pread(receive(), 100, 0))

    with Isolated(make, file=FILE) as process, path.open("rb") as stream:
        path.unlink()
        process.hand_over(stream.fileno())
        assert process.ask(None, at_most=100) == (None, b"content")


def test_a_fork_of_the_other_process_does_not_end_it() -> None:
    with isolated() as process:
        child = os.fork()
        if child == 0:
            process.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert process.ask(1, at_most=100) == ({"asked": 1}, b"content")


def test_an_answer_that_was_not_waited_for_is_not_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(size: int) -> bytearray:
        raise Interrupted

    with isolated() as process:
        monkeypatch.setattr("resmem_cli.isolation.process.bytearray", interrupt, raising=False)
        with pytest.raises(Interrupted):
            process.ask(1, at_most=100)
        monkeypatch.undo()
        assert not process.is_own


def test_descriptors_beyond_those_of_select_are_no_damage() -> None:
    code = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (2000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1200)]
from test_isolation import isolated
with isolated() as process:
    assert process.ask(1, at_most=100) == ({"asked": 1}, b"content")
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_children_that_are_waited_for_by_no_one_are_no_error() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with isolated() as process:
            assert process.ask(1, at_most=100) == ({"asked": 1}, b"content")
        with isolated() as process, pytest.raises(DataError, match="gives nonsense"):
            process.ask("crash")
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_one_that_was_killed_had_too_little_memory() -> None:
    with isolated() as process:
        os.kill(process.ask("pid")[0], signal.SIGKILL)
        with pytest.raises(ResourceError, match=r"a\.h5: not enough memory"):
            process.ask(1)
