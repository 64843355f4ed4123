"""Less address space than a command needs: it ends in status 71 and one line, and leaves what was there."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from reliability.disturbing import RESUMED, WRITERS, assert_nothing_else, older_files, put, which_files
from reliability.processes import run, start
from reliability.tally import Tally, seeds
from reliability.workload import Command, Workload, written

_ROOM = 4 << 20  # for what Python imports before the first line of the tool


def bare_interpreter() -> int:
    """Measure the address space of an interpreter that runs nothing."""
    code = "print(open('/proc/self/statm').read().split()[0])"
    pages = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    return int(pages) * resource.getpagesize()


def needed(writer: Command, large: Workload, folder: Path, env: dict[str, str]) -> int:
    """Measure the most address space that a command takes when nothing limits it."""
    process = start(*writer.arguments, "--quiet", cwd=large.place(folder), env=env)
    most = 0
    while process.poll() is None:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        most = max([most, *(1024 * int(line.split()[1]) for line in lines if line.startswith("VmPeak"))])
        time.sleep(0.005)
    assert process.communicate()[1] == b""
    return most


@seeds(quick=15, long=60, together=15)
def test_a_limit_of_memory_is_told_and_leaves_what_was_there(
    seeds: range, tally: Tally, tmp_path: Path, small: Workload, large: Workload
) -> None:
    """Seen to fail: with the command in the first process, as it was before this test.

    It said "status -11", "status 1 … OpenBLAS error: Memory allocation still failed", "still running after
    30 s" (scipy's OpenBLAS) and "status 65 … memory allocation failed".
    """
    bare = bare_interpreter() + _ROOM

    def check(seed: int) -> str:
        writer = WRITERS[5 * seed % len(WRITERS)]
        # The last bits of a network's sums depend on the number of threads.
        n_threads = "1" if writer.name.startswith("embed") else str(1 + seed % 2)
        env = {"OMP_NUM_THREADS": n_threads, "OPENBLAS_NUM_THREADS": n_threads}
        most = needed(writer, large, tmp_path / f"needs {seed}", env)
        limit = int(bare + np.random.default_rng(seed).uniform(0, 1.05) * (most - bare))
        place = large.place(tmp_path / str(seed))
        new = large.undisturbed(writer)
        old = older_files(writer, small, large) if seed // 2 % 2 else {}
        put(place, old)
        limits = {resource.RLIMIT_AS: limit}
        ended = run(*writer.arguments, "--quiet", cwd=place, env=env, limits=limits)
        outcome = which_files(place, writer, old=old, new=new)
        if ended.status == 0:
            assert outcome == "new file", str(ended)
            return "done"
        ended.assert_refused(71)
        if writer.name != "run":  # which keeps the steps it has done
            assert outcome in ("old file", "no file"), f"{outcome}: {ended}"
        if writer.name != RESUMED.name:  # which keeps its work
            assert_nothing_else(place, written(place, writer))
        return "refused"

    tally.each("memory", seeds, check)
