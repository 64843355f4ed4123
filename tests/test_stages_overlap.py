"""Reading, computing and writing at once, in order."""

from __future__ import annotations

import threading

import pytest

from resmem_cli.stages.overlap import overlapped


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_every_item_passes_the_three_steps_in_order(n: int) -> None:
    steps: dict[str, list[int]] = {"read": [], "compute": [], "write": []}

    def read(item: int) -> int:
        steps["read"].append(item)
        return item * 10

    def compute(item: int, found: int) -> int:
        assert found == item * 10
        steps["compute"].append(item)
        return found + 1

    def write(item: int, result: int) -> None:
        assert result == item * 10 + 1
        steps["write"].append(item)

    overlapped(range(n), read=read, compute=compute, write=write)
    assert steps == {name: list(range(n)) for name in steps}


def test_the_next_item_is_read_and_the_last_written_while_one_is_computed() -> None:
    meeting = threading.Barrier(3, timeout=20)

    def read(item: int) -> None:
        if item == 2:
            meeting.wait()

    def compute(item: int, found: None) -> None:
        if item == 1:
            meeting.wait()

    def write(item: int, result: None) -> None:
        if item == 0:
            meeting.wait()

    overlapped(range(3), read=read, compute=compute, write=write)


def test_reading_runs_one_item_ahead_and_no_further() -> None:
    read: list[int] = []

    def compute(item: int, found: None) -> None:
        assert len(read) <= item + 2

    overlapped(range(20), read=read.append, compute=compute, write=lambda item, result: None)


@pytest.mark.parametrize("failing", ["read", "compute", "write"])
@pytest.mark.parametrize("at", [0, 3, 4])
def test_what_a_step_raises_is_raised_and_nothing_later_is_written(failing: str, at: int) -> None:
    written: list[int] = []

    def step(name: str, item: int) -> None:
        if name == failing and item == at:
            raise ValueError(name)

    def write(item: int, result: None) -> None:
        step("write", item)
        written.append(item)

    with pytest.raises(ValueError, match=failing):
        overlapped(
            range(5),
            read=lambda item: step("read", item),
            compute=lambda item, found: step("compute", item),
            write=write,
        )
    assert written == list(range(len(written)))
    assert len(written) <= at


@pytest.mark.parametrize("failing", ["read", "compute"])
def test_a_failed_write_is_told_before_what_failed_after_it(failing: str) -> None:
    def fail(item: int) -> None:
        if item == 1:
            raise ValueError(item)

    def write(item: int, result: None) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full") as raised:
        overlapped(
            range(3),
            read=lambda item: fail(item) if failing == "read" else None,
            compute=lambda item, found: fail(item) if failing == "compute" else None,
            write=write,
        )
    assert isinstance(raised.value.__context__, ValueError)
