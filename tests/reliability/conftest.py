"""What the tests of the reliability programme share."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import pytest

from reliability.processes import ForkServer
from reliability.workload import Workload


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    """Runs commands in processes of their own, quickly."""
    with ForkServer() as server:
        yield server


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, server: ForkServer) -> Workload:
    """Artifacts of some kilobytes, where a random change hits something that matters."""
    return Workload(tmp_path_factory.mktemp("small"), server, n_train=120, n_test=30, d=8)


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory, server: ForkServer) -> Workload:
    """Artifacts that take a command some tenths of a second to write."""
    return Workload(tmp_path_factory.mktemp("large"), server, n_train=4000, n_test=1000, d=32)


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[..., ForkServer]]:
    """Give the server whose libraries were loaded with these variables; each is started once."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(**env: str) -> ForkServer:
            return stack.enter_context(ForkServer(env))

        yield start
