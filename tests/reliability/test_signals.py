"""SIGINT, SIGTERM and SIGHUP at a random moment: a command ends by the signal at once, and leaves nothing."""

from __future__ import annotations

import signal
import time
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
from reliability.processes import finish, start
from reliability.tally import Tally, seeds
from reliability.workload import Workload, written

SECONDS = 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@seeds(quick=10, long=100, together=10)
def test_a_signal_ends_a_command_and_leaves_nothing(
    number: signal.Signals,
    seeds: range,
    tally: Tally,
    tmp_path: Path,
    small: Workload,
    large: Workload,
) -> None:
    """Before the tool's first line SIGINT is the interpreter's, which shows a traceback of its own start.

    Seen to fail: with a handler that removed nothing ("expected [], found ['.a912….resmem-tmp']"), and with
    SIGINT left to the interpreter while the tool is imported ("status -2 … KeyboardInterrupt").
    """

    def check(seed: int) -> str:
        # An odd step, so that each signal meets every command with and without an older file.
        command = WRITERS[(7 * seed + number) % len(WRITERS)]
        place = large.place(tmp_path / str(seed))
        new = large.undisturbed(command)
        old = older_files(command, small, large) if seed % 2 else {}
        put(place, old)
        seconds = large.seconds_of_writing(command)
        process = start(*command.arguments, "--quiet", cwd=place)
        share = np.random.default_rng(seed).uniform(-0.4, 0.8)
        disturbing.wait_for_moment(process, place, share, seconds=seconds)
        if number is signal.SIGINT:
            disturbing.wait_for_the_tool(process)
        process.send_signal(number)
        sent = time.monotonic()
        ended = finish(process)
        assert time.monotonic() - sent < SECONDS, str(ended)
        outcome = which_files(place, command, old=old, new=new)
        if ended.status == 0:
            assert outcome == "new file", str(ended)
            return "done before"
        assert ended.status == -number, str(ended)
        assert ended.stderr == "", str(ended)
        if command.name == disturbing.RESUMED.name:
            # What is to be resumed stays.
            return f"{number.name}: {outcome}"
        assert_nothing_else(place, written(place, command))
        return f"{number.name}: {outcome}"

    tally.each("signals", seeds, check)
