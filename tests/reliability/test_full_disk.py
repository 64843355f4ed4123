"""A full disk, or a limit of file sizes, at any size: status 74 and one line; what was there stays."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np

from reliability.disturbing import RESUMED, WRITERS, Files, assert_nothing_else, older_files, put, which_files
from reliability.processes import ONE_THREAD, SECONDS, Ended, command, run
from reliability.tally import Tally, seeds
from reliability.workload import Command, Workload, written

# The disk is there for this one process, and gone with it: what it then holds is copied elsewhere.
_ON_A_SMALL_DISK = """
mount -t tmpfs -o size="$1" small "$2" && cp -a "$3/." "$2" && cd "$2" || exit 99
result=$4
shift 4
"$@"
status=$?
rm in && cp -a . "$result" || exit 99
exit $status
"""
_PAGE = 4096


@functools.cache
def can_mount() -> bool:
    """Tell whether this user may mount a file system for a process, as root or in a namespace."""
    if shutil.which("unshare") is None:
        return False
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "small", "/mnt"]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


def run_on_a_small_disk(writer: Command, place: Path, old: Files, *, free: int) -> Ended:
    """Run a command where only so many bytes are free beside its older files; bring what it leaves back."""
    disk, before = place / "disk", place / "before"
    disk.mkdir()
    before.mkdir()
    put(before, old)
    (before / "in").symlink_to(place / "in")
    size = sum(-(-len(content) // _PAGE) * _PAGE for content in old.values()) + free
    script = ["sh", "-c", _ON_A_SMALL_DISK, "sh", str(size), disk, before, place]
    began = time.monotonic()
    done = subprocess.run(
        ["unshare", "-rm", *script, *command(*writer.arguments, "--quiet")],
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    disk.rmdir()
    shutil.rmtree(before)
    return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


@seeds(quick=10, long=100, together=10)
def test_a_full_disk_is_told_and_leaves_what_was_there(
    seeds: range, tally: Tally, tmp_path: Path, small: Workload, large: Workload
) -> None:
    """Seen to fail: with a temporary left where writing failed ("expected [], found ['.26a7….resmem-tmp']").

    And before figures and pages got their names together with the report ("181: some files new: status 74").
    """

    def check(seed: int) -> str:
        writer = WRITERS[7 * seed % len(WRITERS)]
        generator = np.random.default_rng(seed)
        place = large.place(tmp_path / str(seed))
        new = large.undisturbed(writer)
        old = older_files(writer, small, large) if seed // 2 % 2 else {}
        if seed % 2 and can_mount():
            how = "disk full"
            size = generator.integers(_PAGE, sum(map(len, new.values())) + _PAGE)
            ended = run_on_a_small_disk(writer, place, old, free=int(size))
        else:
            how = "file size limit met"
            put(place, old)
            most = int(generator.integers(max(map(len, new.values()))))
            ended = run(*writer.arguments, "--quiet", cwd=place, limits={resource.RLIMIT_FSIZE: most})
        outcome = which_files(place, writer, old=old, new=new)
        if ended.status == 0:
            assert outcome == "new file", str(ended)
            assert how == "disk full", str(ended)
            return "just enough room"
        ended.assert_refused(74)
        if writer.name != "run":  # which keeps the steps it has done
            assert outcome in ("old file", "no file"), f"{outcome}: {ended}"
        if writer.name != RESUMED.name:  # which keeps its work
            assert_nothing_else(place, written(place, writer))
        return how

    tally.each("full disk", seeds, check)
