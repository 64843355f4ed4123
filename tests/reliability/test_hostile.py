"""Files made to harm: refused in one line by every command they are given to, and nothing else touched.

That files are hostile is shown by reading some of them as a program without the tool's care does, which
touches the canary.

Seen to fail: with external links, external storage and virtual datasets let through the canary was opened
and read; without the refusal of faiss's on-disk lists it was opened for writing, in each wrapping; with
`weights_only=False` it was written; with control characters printed as they are, they were told; without the
ranges of stored classes `analyze` ended with an IndexError.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reliability.canary import Trace, can_trace, watched
from reliability.hostile_arrays import ARRAYS_FILES, FAISS
from reliability.hostile_folders import FOLDERS
from reliability.hostile_hdf5 import HDF5
from reliability.hostile_hdf5_types import HDF5_TYPES
from reliability.hostile_results import ARTIFACTS
from reliability.processes import Ended, ForkServer
from reliability.tally import Tally
from reliability.workload import Workload

FILES = {**HDF5, **HDF5_TYPES, **ARRAYS_FILES, **FAISS, **FOLDERS, **ARTIFACTS}
MEMORY = 2 << 30
CHECK_FAILED = 3  # what `verify` ends with
_LOADED = ("pyarrow.parquet", "PIL.Image", "safetensors.torch", "tokenizers", "resmem_cli.stages.embed")


@dataclass(frozen=True)
class Watched:
    """A server, and what strace tells of its processes, where it can look on."""

    server: ForkServer
    trace: Trace | None

    def calls(self, name: str) -> list[str]:
        """Give the new calls that name a file."""
        return [] if self.trace is None else [call for call in self.trace.news() if name in call]


@contextlib.contextmanager
def _watched_server(folder: Path, *load: str) -> Iterator[Watched]:
    trace = Trace(folder / "calls") if can_trace() else None
    with ForkServer(load=load, under=() if trace is None else trace.words) as server:
        yield Watched(server, trace)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Runs commands."""
    with _watched_server(tmp_path_factory.mktemp("plain"), "pyarrow.parquet") as watched_server:
        yield watched_server


@pytest.fixture(scope="module")
def with_torch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Runs commands that need torch, which makes every fork slower."""
    with _watched_server(tmp_path_factory.mktemp("torch"), *_LOADED) as watched_server:
        yield watched_server


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "canary-that-nothing-may-touch"
    path.parent.mkdir()
    path.write_bytes(bytes(range(256)) * 256)
    return path


def _parts() -> Iterator[Any]:
    """Give every file with one of its commands, in turns; the long part has the others."""
    for number, (name, hostile) in enumerate(FILES.items()):
        lines = [*hostile.refused, *hostile.may]
        quick = lines.pop(number % len(lines))
        yield pytest.param(name, [quick], id=name)
        if lines:
            yield pytest.param(name, lines, id=f"{name}, other commands", marks=pytest.mark.long)


@pytest.mark.parametrize(("name", "lines"), list(_parts()))
def test_a_hostile_file_is_refused(
    name: str,
    lines: list[str],
    tmp_path: Path,
    canary: Path,
    plain: Watched,
    with_torch: Watched,
    small: Workload,
    tally: Tally,
) -> None:
    hostile = FILES[name]
    folder = small.place(tmp_path / "place")
    hostile.make(folder / hostile.name, canary, small.inputs)
    content, listing = canary.read_bytes(), _listing(folder)
    plain.calls(""), with_torch.calls("")

    def check(line: str) -> str:
        arguments = [hostile.name if word == "BAD" else word for word in line.split()]
        needs_torch = line.startswith("embed") or hostile.name.endswith((".pt", ".pth"))
        runner = with_torch if needs_torch else plain
        with watched(canary) as watch:
            ended = runner.server.run(*arguments, cwd=folder, memory=MEMORY)
        told = f"{line}\n{ended}"
        assert not watch.events, f"the canary was {watch.events}\n{told}"
        assert canary.read_bytes() == content, f"the canary was changed\n{told}"
        calls = runner.calls(canary.name)
        assert not calls, f"{calls[0]}\n{told}"
        _check_text(ended)
        if ended.status == 0 and line in hostile.may:
            for path in sorted(folder.glob("out*")):
                _remove(path)
            outcome = "done"
        else:
            statuses = (CHECK_FAILED,) if line.startswith("verify") else hostile.statuses
            ended.assert_refused(*statuses, naming=hostile.name)
            outcome = "refused"
        assert _listing(folder) == listing, f"left {_listing(folder) - listing}\n{told}"
        return outcome

    tally.each("hostile", lines, check)


@pytest.mark.parametrize("name", [name for name, hostile in FILES.items() if hostile.opens_canary])
def test_is_really_hostile(
    name: str, tmp_path: Path, canary: Path, with_torch: Watched, small: Workload
) -> None:
    hostile = FILES[name]
    path = tmp_path / hostile.name
    hostile.make(path, canary, small.inputs)
    assert hostile.opens_canary is not None
    with watched(canary) as watch, contextlib.suppress(AssertionError):
        with_torch.server.call(hostile.opens_canary, str(path))
    assert "opened" in watch.events


def _listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _remove(path: Path) -> None:
    if path.is_dir():
        for inner in path.iterdir():
            _remove(inner)
        path.rmdir()
    else:
        path.unlink()


def _check_text(ended: Ended) -> None:
    """No character that steers a terminal may come out of a file, but those that scripts need."""
    for text in (ended.stdout, ended.stderr):
        steering = {char for char in text if unicodedata.category(char) in ("Cc", "Cf")} - set(
            "\n\t\u200c\u200d"
        )
        assert not steering, f"{steering}\n{ended}"
