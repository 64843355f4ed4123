"""`kill -9` at a random moment: every file is the old one or the whole new one; the next run cleans up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reliability import disturbing
from reliability.disturbing import (
    WRITERS,
    assert_nothing_else,
    older_files,
    put,
    which_files,
)
from reliability.processes import ForkServer, run, start
from reliability.tally import Tally, seeds
from reliability.workload import Workload
from resmem_cli import open_artifact


@seeds(quick=60, long=580, together=20)
def test_a_killed_command_leaves_whole_files_and_its_rerun_the_same_bytes(
    seeds: range, tally: Tally, tmp_path: Path, small: Workload, large: Workload, server: ForkServer
) -> None:
    """Seen to fail: with artifacts written under their final names, and with nothing swept.

    It said "index-exact.h5 has 48 bytes and is no whole version" and "expected ['train.h5'], found
    ['.934a….resmem-tmp', 'train.h5']".
    """

    def check(seed: int) -> str:
        # Two seeds a command: without and with an older file.
        command = WRITERS[seed // 2 % len(WRITERS)]
        generator = np.random.default_rng(seed)
        place = large.place(tmp_path / str(seed))
        new = large.undisturbed(command)
        old = older_files(command, small, large) if seed % 2 else {}
        put(place, old)
        seconds = large.seconds_of_writing(command)
        process = start(*command.arguments, cwd=place)
        share = generator.uniform(-0.2, 1)
        disturbing.wait_for_moment(process, place, share, seconds=seconds)
        disturbing.kill(process)
        outcome = which_files(place, command, old=old, new=new)
        server.run(*command.arguments, cwd=place).assert_done()
        assert which_files(place, command, old={}, new=new) == "new file", command.name
        assert_nothing_else(place, new)
        return outcome

    tally.each("kills", seeds, check)


SYNTHETIC = (
    "reproduce", "imagenet", "--synthetic", "--rows", "600", "--dimensions", "32", "--classes", "10",
    "--queries", "50", "--memory", "1G", "-o", "out",
)  # fmt: skip


@pytest.mark.long
def test_a_killed_reproduction_leaves_whole_files_and_its_rerun_the_same_artifacts(
    tally: Tally, tmp_path: Path
) -> None:
    """Its commands are killed with it. What it measures, and so its report, is never the same again."""
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    whole = run(*SYNTHETIC, cwd=undisturbed)
    whole.assert_done()
    made = {path.name: path.read_bytes() for path in (undisturbed / "out").glob("*.h5")}
    assert made.keys() > {"train.h5", "index.h5", "predictions.h5", "imagenet.h5"}
    del made["imagenet.h5"]

    def check(seed: int) -> str:
        place = tmp_path / str(seed)
        place.mkdir()
        process = start(*SYNTHETIC, cwd=place)
        share = np.random.default_rng(seed).uniform(-0.2, 1)
        disturbing.wait_for_moment(process, place, share, seconds=whole.seconds)
        disturbing.kill(process)
        killed = {path.name: path.read_bytes() for path in place.rglob("*.h5")}
        for name in killed.keys() & made.keys():
            assert killed[name] == made[name], name
        run(*SYNTHETIC, cwd=place).assert_done()
        again = {path.name: path.read_bytes() for path in (place / "out").glob("*.h5")}
        assert again.pop("imagenet.h5")
        assert again == made
        open_artifact(place / "out" / "imagenet.h5").close()
        assert disturbing.leftovers(place) == []
        return "new file" if "imagenet.h5" in killed else "some files new" if killed else "no file"

    tally.each("kills", range(20), check)
