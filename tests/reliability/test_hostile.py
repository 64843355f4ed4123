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


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace | None:
    return Trace(tmp_path_factory.mktemp("trace") / "calls") if can_trace() else None


@pytest.fixture(scope="module")
def traced_server(trace: Trace | None) -> Iterator[ForkServer]:
    """Runs commands with torch loaded, and with strace looking on where it can."""
    with ForkServer(load=_LOADED, under=() if trace is None else trace.words) as server:
        yield server


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "canary-that-nothing-may-touch"
    path.parent.mkdir()
    path.write_bytes(bytes(range(256)) * 256)
    return path


def _parts() -> Iterator[Any]:
    """Give every file with two of its commands, in turns; the long part has the others."""
    for number, (name, hostile) in enumerate(FILES.items()):
        lines = (*hostile.refused, *hostile.may)
        quick = {(number + turn * len(lines) // 2) % len(lines) for turn in range(2)}
        yield pytest.param(name, [line for i, line in enumerate(lines) if i in quick], id=name)
        if rest := [line for i, line in enumerate(lines) if i not in quick]:
            yield pytest.param(name, rest, id=f"{name}, other commands", marks=pytest.mark.long)


@pytest.mark.parametrize(("name", "lines"), list(_parts()))
def test_a_hostile_file_is_refused(
    name: str,
    lines: list[str],
    tmp_path: Path,
    canary: Path,
    traced_server: ForkServer,
    trace: Trace | None,
    small: Workload,
    tally: Tally,
) -> None:
    hostile = FILES[name]
    folder = small.place(tmp_path / "place")
    hostile.make(folder / hostile.name, canary, small.inputs)
    content, listing = canary.read_bytes(), _listing(folder)

    def check(line: str) -> str:
        arguments = [hostile.name if word == "BAD" else word for word in line.split()]
        with watched(canary) as watch:
            ended = traced_server.run(*arguments, cwd=folder, memory=MEMORY)
        told = f"{line}\n{ended}"
        assert not watch.events, f"the canary was {watch.events}\n{told}"
        assert canary.read_bytes() == content, f"the canary was changed\n{told}"
        calls = [] if trace is None else [call for call in trace.news() if canary.name in call]
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

    if trace is not None:
        trace.news()
    tally.each("hostile", lines, check)


@pytest.mark.parametrize("name", [name for name, hostile in FILES.items() if hostile.opens_canary])
def test_is_really_hostile(
    name: str, tmp_path: Path, canary: Path, traced_server: ForkServer, small: Workload
) -> None:
    hostile = FILES[name]
    path = tmp_path / hostile.name
    hostile.make(path, canary, small.inputs)
    assert hostile.opens_canary is not None
    with watched(canary) as watch, contextlib.suppress(AssertionError):
        traced_server.call(hostile.opens_canary, str(path))
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
