"""Counts of the reliability programme: kept by its tests, added up and published by the run itself."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_PROPERTY = "reliability"
_PACKAGES = ("resmem-cli", "h5py", "faiss-cpu", "numpy", "pyarrow", "torch")

_HEAD = (
    "| what was done | cases | failed | how the others ended | commit |",
    "| --- | ---: | ---: | --- | --- |",
)

# In the order of the README's table.
ROWS = {
    "kills": "`kill -9` at a random moment",
    "signals": "SIGINT, SIGTERM, SIGHUP at a random moment",
    "full disk": "disk full, or file size limit met, at varied sizes",
    "memory": "address space limited",
    "mutations": "artifacts mutated",
    "crafted": "artifacts mutated, HDF5's checksums made to hold",
    "forged": "artifacts with other values, all digests made to hold",
    "arrays": "exported arrays and checkpoints mutated",
    "hostile": "hostile files",
    "lineage": "files of two pipelines mixed",
    "replacement": "two writers and a reader of one file",
    "workers": "workers and schedulers killed at a random moment",
    "distances": "distances and neighbours against float64",
    "determinism": "other order, batches, threads, SIMD level",
    "properties": "numeric functions against float64 formulas",
    "arguments": "random arguments",
    "installation": "installed and run in odd places",
}


class Tally:
    """Keeps the count of one test's cases; see the fixture `tally`."""

    def __init__(self, node: pytest.Item) -> None:
        self._node = node

    def count(self, row: str, outcome: str, n: int = 1) -> None:
        """Count cases of a row of the table that ended as they may."""
        assert row in ROWS, row
        self._node.user_properties.append((_PROPERTY, (row, outcome, n)))

    def each(self, row: str, cases: Iterable[Any], check: Callable[[Any], str]) -> None:
        """Check cases one by one; count how they ended, and fail at the end if one did not end as it may.

        Parameters
        ----------
        row : str
            A key of `ROWS`.
        cases : iterable
            Such as seeds.
        check : callable
            Gives the outcome in a word or two; raises `AssertionError` for what may not be.
        """
        outcomes: Counter[str] = Counter()
        failures = []
        for case in cases:
            try:
                outcomes[check(case)] += 1
            except AssertionError as error:
                outcomes["failed"] += 1
                failures.append(f"{case}: {error}")
        for outcome, n in outcomes.items():
            self.count(row, outcome, n)
        assert not failures, f"{len(failures)} failed:\n" + "\n\n".join(failures[:10])


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Count cases for the table of the reliability programme."""
    return Tally(request.node)


def seeds(*, quick: int, long: int, together: int) -> pytest.MarkDecorator:
    """Parametrize a test with runs of seeds: few in every run of the tests, many with ``pytest -m long``.

    Parameters
    ----------
    quick, long : int
        How many seeds in all; those of the long part are others.
    together : int
        How many a test gets at once.
    """
    parts = [
        pytest.param(range(first, min(first + together, stop)), id=f"{name}{first}", marks=marks)
        for name, start, stop, marks in (
            ("quick", 0, quick, ()),
            ("long", quick, quick + long, pytest.mark.long),
        )
        for first in range(start, stop, together)
    ]
    return pytest.mark.parametrize("seeds", parts)


# --- hooks: this module is a plugin of the tests (see tests/conftest.py)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--publish", action="store_true", help="Write the reliability programme's figures into README.md."
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: the long part of the reliability programme")
    config.stash[_STARTED] = time.monotonic()


_STARTED = pytest.StashKey[float]()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reports = [
        report
        for kind in ("passed", "failed")
        for report in terminalreporter.stats.get(kind, [])
        if any(name == _PROPERTY for name, _ in report.user_properties)
    ]
    counts: dict[str, Counter[str]] = {row: Counter() for row in ROWS}
    for report in reports:
        for name, value in report.user_properties:
            if name == _PROPERTY:
                row, outcome, n = value
                counts[row][outcome] += n
    if not reports:
        return
    table = _table(counts)
    terminalreporter.section("reliability programme")
    terminalreporter.write_line("\n".join([*_HEAD, *table.values()]))
    if config.getoption("--publish"):
        # How long it took says something of a whole run only.
        seconds = time.monotonic() - config.stash[_STARTED] if set(table) == set(ROWS) else None
        part = "long" if config.getoption("markexpr") == "long" else "quick"
        _publish(part, _conditions(seconds), table)


def _table(counts: dict[str, Counter[str]]) -> dict[str, str]:
    """Make the lines of the table by row, of those rows that were run."""
    lines = {}
    for row, outcomes in counts.items():
        if outcomes:
            ended = ", ".join(f"{n:,} {what}" for what, n in outcomes.most_common() if what != "failed")
            cells = (ROWS[row], f"{outcomes.total():,}", f"{outcomes['failed']:,}", ended, _commit())
            lines[row] = f"| {' | '.join(cells)} |"
    return lines


@functools.cache
def _commit() -> str:
    """Name the commit, and say if more than the README has changed since."""
    git = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=False)
    name = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip() or "unknown"
    changed = git(["git", "diff", "--quiet", "HEAD", "--", ".", ":!README.md"]).returncode
    return f"{name}, changed" if changed else name


def _conditions(seconds: float | None) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    import h5py

    return (
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {os.cpu_count()} cores"
        f"{'' if seconds is None else f', {seconds:.0f} s in all'}; "
        f"Python {platform.python_version()}, {versions}, HDF5 {h5py.version.hdf5_version}."
    )


def _publish(part: str, conditions: str, lines: dict[str, str]) -> None:
    """Write the lines into the README, in the place of those of the same rows; others stay."""
    readme = ROOT / "README.md"
    begin, end = f"<!-- reliability programme: {part} -->\n", "\n<!-- end -->"
    text = readme.read_text()
    before, rest = text.split(begin)
    old, after = rest.split(end, 1)
    stays = {
        row: line
        for row, title in ROWS.items()
        for line in old.splitlines()
        if line.startswith(f"| {title} |")
    }
    rows = stays | lines
    table = [*_HEAD, *(rows[row] for row in ROWS if row in rows)]
    readme.write_text(before + begin + "\n".join([conditions, "", *table]) + end + after)
