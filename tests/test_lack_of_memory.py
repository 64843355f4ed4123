"""Errors that mean that memory ran out, told from those that only sound like it."""

from __future__ import annotations

import errno

import pytest

from resmem_cli import lack_of_memory
from resmem_cli.errors import DataError, MissingExtraError
from resmem_cli.lack_of_memory import is_lack_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libfaiss.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        RuntimeError("std::bad_alloc"),
        ValueError("Unable to create dataset (memory allocation failed for chunk)"),
    ],
)
def test_the_ways_of_libraries_to_say_it_are_known(error: Exception) -> None:
    assert is_lack_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), ImportError("No module named 'torch'"), KeyError("a")],
)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_lack_of_memory(error)


def made_from(error: Exception, reason: Exception) -> Exception:
    error.__cause__ = reason
    return error


def test_a_file_that_asks_for_too_much_is_damaged_unless_there_is_no_room_for_a_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = made_from(DataError("damaged"), OSError("memory allocation failed"))
    assert not is_lack_of_memory(error)
    monkeypatch.setattr(lack_of_memory, "is_there_room", lambda: False)
    assert is_lack_of_memory(error)
    assert not is_lack_of_memory(DataError("damaged"))


def test_a_package_for_which_there_is_no_room_is_not_missing() -> None:
    assert is_lack_of_memory(made_from(MissingExtraError("no torch"), ImportError("failed to map segment")))
    assert not is_lack_of_memory(made_from(MissingExtraError("no torch"), ImportError("no such module")))
