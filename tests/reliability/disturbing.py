"""What the tests share that disturb a command while it writes: by a signal, a limit or another writer."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from reliability.processes import SECONDS, run
from reliability.watching import state
from reliability.workload import COMMANDS, Command, Workload, written

RESUMED = Command(
    "embed --resume",
    (*COMMANDS["embed"].arguments, "--batch-size", "8", "--resume"),
    COMMANDS["embed"].outputs,
)
WRITERS = (*COMMANDS.values(), RESUMED)

# Seconds in which the interpreter has started and loads libraries.
_START = 0.2

# Bytes of files by name.
Files = dict[str, bytes]


def older_files(command: Command, small: Workload, large: Workload) -> Files:
    """Give for each file that a command writes a valid one with other content."""
    new, old = large.undisturbed(command), small.undisturbed(command)
    others = {".h5": small.undisturbed(COMMANDS["import"])["train.h5"]}
    return {
        name: content if content != new.get(name) else others.get(Path(name).suffix, b"all: older\n")
        for name, content in old.items()
    }


def put(folder: Path, files: Files) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def leftovers(folder: Path) -> list[str]:
    """Name what a writer has begun and not finished."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if ".resmem-" in path.name and not path.is_relative_to(folder / "in")
    )


def assert_nothing_else(folder: Path, files: Files) -> None:
    """See that a folder holds these files, and nothing else but its inputs."""
    found = {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.is_relative_to(folder / "in") and not path.is_dir()
    }
    assert found == set(files), f"expected {sorted(files)}, found {sorted(found)}"
    assert leftovers(folder) == []


def which_files(folder: Path, command: Command, *, old: Files, new: Files) -> str:
    """Tell what a command that was disturbed has left: every file as it was before, or whole."""
    # What is unfinished is not among them; whether it may lie there is another question.
    found = {name: content for name, content in written(folder, command).items() if ".resmem-" not in name}
    versions = set()
    for name in old.keys() | new.keys() | found.keys():
        content = found.get(name)
        if content == new.get(name):
            versions.add("new file")
        elif content == old.get(name):
            versions.add("no file" if content is None else "old file")
        elif name.endswith(".mk") and content is not None and _is_part_of_rules(content, new[name]):
            pass  # `run` leaves the rules of the steps it has done
        else:
            what = "is gone" if content is None else f"has {len(content)} bytes and is no whole version"
            raise AssertionError(f"{command.name}: {name} {what}")
    return versions.pop() if len(versions) == 1 else "some files new"


def _is_part_of_rules(content: bytes, whole: bytes) -> bool:
    rules, of_whole = (text.partition(b"\n")[2] for text in (content, whole))
    return of_whole.startswith(rules) and of_whole[len(rules) :][:1] in (b"", b"\n")


def wait_for_moment(process: subprocess.Popen[bytes], place: Path, share: float, *, seconds: float) -> None:
    """Wait until a process has done a share of its writing; a share below 0 is one of what comes before.

    The writing is waited for, and no fixed time, for the machine may be busier than when `seconds` were
    measured.
    """
    if share < 0:
        time.sleep(_START * (1 + share))
        return
    before = state(place)
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < deadline and state(place) == before:
        time.sleep(0.001)
    time.sleep(share * seconds)


def wait_for_the_tool(process: subprocess.Popen[bytes]) -> None:
    """Wait while SIGINT is the interpreter's, which then tells where in its own start it was."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None and status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if line.startswith("Sig"))
        caught = int(lines["SigCgt"], 16)
        of_interpreter = caught >> signal.SIGINT - 1 & 1 and not caught >> signal.SIGTERM - 1 & 1
        if not of_interpreter:
            return
        time.sleep(0.001)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and the commands it runs, as the system does when a machine's memory is out."""
    children = _children(process.pid)
    process.kill()
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    process.communicate()


def _children(parent: int) -> list[int]:
    try:
        return [
            int(child)
            for task in Path(f"/proc/{parent}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []


def is_accepted(*arguments: object, cwd: Path) -> None:
    """See that `resmem` takes a file for whole."""
    run("verify", *arguments, cwd=cwd).assert_done()
