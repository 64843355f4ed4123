"""Dask's `distributed`: a scheduler somewhere, or processes of this machine, and tasks on them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from resmem_cli.cluster.tasks import Done, Task, VersionError, installed_versions, run_task
from resmem_cli.errors import (
    BusyError,
    MissingExtraError,
    MissingInputError,
    ResmemError,
    ResourceError,
    UsageError,
)
from resmem_cli.lack_of_memory import is_lack_of_memory

_POLL = 0.02  # seconds
# What a connection says when the scheduler goes while it is asked.
_LOST = (OSError, TimeoutError, asyncio.CancelledError, concurrent.futures.CancelledError)
_LOCAL, _FILE = "local:", "file:"
_NETWORK = ("tcp://", "tls://", "ucx://", "ws://", "wss://")


@dataclass
class State:
    """How far all tasks have come.

    Attributes
    ----------
    total, done, before : int
        Tasks; finished ones; those of them that an earlier run had done.
    running : int
        Those being done.
    workers : int
        Processes that there are.
    retries : int
        How often a task was given out again.
    """

    total: int
    done: int = 0
    before: int = 0
    running: int = 0
    workers: int = 0
    retries: int = 0


Watch = Callable[[State], None]


@dataclass
class Outcome:
    """What all tasks took.

    Attributes
    ----------
    done : list of Done
        In the order of their ends.
    retries : int
    """

    done: list[Done] = field(default_factory=list)
    retries: int = 0


class Cluster:
    """Workers that tasks are given to, one at a time each.

    Parameters
    ----------
    client : distributed.Client
    name : str
        As the user named the scheduler.
    worker_timeout : float
        Seconds to wait for a worker.
    """

    def __init__(self, client: Any, name: str, *, worker_timeout: float) -> None:
        self._client, self._name, self._worker_timeout = client, name, worker_timeout

    @property
    def n_workers(self) -> int:
        """How many workers there are now."""
        return len(self._client.nthreads())

    def run(
        self,
        tasks: Sequence[Task],
        *,
        retries: int,
        state: State,
        watch: Watch,
        kept: str,
        outcome: Outcome,
    ) -> None:
        """Do all tasks.

        Parameters
        ----------
        tasks : sequence of Task
        retries : int
            How often a task that fails is given out again.
        state : State
            Counted on.
        watch : callable
            Is told whenever it changes, and a few times a second.
        kept : str
            The folder where finished tasks' outputs stay, if one can't be done.
        outcome : Outcome
            To which tasks are added as they are done.

        Raises
        ------
        BusyError
            If there are no workers, or the scheduler is lost.
        ResmemError
            That of a task which fails each time.
        """
        try:
            self._run(tasks, retries, state, watch, kept, outcome)
        except _LOST as error:
            raise self._lost(state, kept) from error

    def _run(
        self, tasks: Sequence[Task], retries: int, state: State, watch: Watch, kept: str, outcome: Outcome
    ) -> None:
        pending = deque(replace(task, versions=installed_versions()) for task in tasks)
        running: dict[Any, Task] = {}
        tried: dict[str, int] = {}
        without_since = time.monotonic()
        while pending or running:
            self._require_scheduler(state, kept)
            state.workers = self.n_workers
            if state.workers:
                without_since = time.monotonic()
            elif time.monotonic() - without_since > self._worker_timeout:
                raise self._no_workers()
            # No more than there are workers: what waits here is not lost with the scheduler.
            while pending and len(running) < state.workers:
                task = pending.popleft()
                running[self._submit(task)] = task
            state.running = len(running)
            watch(state)
            time.sleep(_POLL)
            for future in [future for future in running if future.status != "pending"]:
                task = running.pop(future)
                if future.status == "finished":
                    outcome.done.append(future.result())
                    state.done += 1
                    continue
                self._require_scheduler(state, kept)
                tried[task.name] = tried.get(task.name, 0) + 1
                error = future.exception() if future.status == "error" else None
                if isinstance(error, VersionError | UsageError) or tried[task.name] > retries:
                    raise _told(error, task, tried[task.name], _kept(state, kept))
                state.retries += 1
                outcome.retries += 1
                pending.appendleft(task)
        state.running = 0
        watch(state)

    def _submit(self, task: Task) -> Any:
        return self._client.submit(_on_worker, task, pure=False, retries=0)

    def _require_scheduler(self, state: State, kept: str) -> None:
        if self._client.status != "running":
            raise self._lost(state, kept)

    def _lost(self, state: State, kept: str) -> BusyError:
        return BusyError(
            f"the scheduler {self._name} is lost",
            remedy=f"start it and run the command again: {_kept(state, kept)}",
        )

    def _no_workers(self) -> BusyError:
        address = self._client.scheduler.address
        return BusyError(
            f"no workers at the scheduler {self._name} for {self._worker_timeout:g} s",
            remedy=f"start one: dask worker {address} --nthreads 1 --memory-limit 0",
        )


@contextmanager
def connected(scheduler: str, *, worker_timeout: float) -> Iterator[Cluster]:
    """Connect to a scheduler, or start processes of this machine.

    Parameters
    ----------
    scheduler : str
        ``tcp://host:port``, ``file:scheduler.json``, or ``local:N``.
    worker_timeout : float
        Seconds to wait for the scheduler, and for a worker.

    Raises
    ------
    UsageError
        If it is none of these.
    MissingExtraError
        If `distributed` is not installed.
    MissingInputError, BusyError
        If there is no such file, or nobody answers.
    """
    check_scheduler(scheduler)
    try:
        import distributed
    except ImportError as error:
        raise MissingExtraError(
            "--scheduler needs the package distributed", remedy='pip install "resmem-cli[cluster]"'
        ) from error
    with ExitStack() as stack:
        stack.enter_context(_without_logs())
        where: dict[str, Any]
        if scheduler.startswith(_LOCAL):
            where = {"address": stack.enter_context(_local_cluster(int(scheduler.removeprefix(_LOCAL))))}
        elif scheduler.startswith(_FILE):
            path = Path(scheduler.removeprefix(_FILE))
            # A scheduler that was started just before writes it in a second or two.
            deadline = time.monotonic() + worker_timeout
            while not path.is_file():
                if time.monotonic() > deadline:
                    raise MissingInputError(
                        "no such scheduler file",
                        file=path,
                        remedy=f"start dask scheduler --scheduler-file {path}",
                    )
                time.sleep(_POLL)
            where = {"scheduler_file": str(path)}
        else:
            where = {"address": scheduler}
        try:
            new_client: Any = distributed.Client
            client = stack.enter_context(new_client(**where, timeout=worker_timeout, set_as_default=False))
        except (OSError, TimeoutError, ValueError) as error:
            raise BusyError(
                f"no scheduler answers at {scheduler}",
                found=str(error).splitlines()[0] if str(error) else type(error).__name__,
                remedy="start one: dask scheduler --scheduler-file scheduler.json",
            ) from error
        yield Cluster(client, scheduler, worker_timeout=worker_timeout)


@contextmanager
def _without_logs() -> Iterator[None]:
    """Leave it to `Cluster` to tell of workers and schedulers that come and go."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def check_scheduler(scheduler: str) -> None:
    """Raise `UsageError` unless it has one of the three forms."""
    number = scheduler.removeprefix(_LOCAL)
    fits = scheduler.startswith((*_NETWORK, _FILE)) or (
        scheduler.startswith(_LOCAL) and number.isdecimal() and int(number) > 0
    )
    if not fits:
        raise UsageError(
            "--scheduler", expected="tcp://host:port, file:scheduler.json or local:N", found=scheduler
        )


@contextmanager
def _local_cluster(n_workers: int) -> Iterator[Any]:
    from distributed import LocalCluster

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // n_workers))
    new_cluster: Any = LocalCluster
    with new_cluster(
        n_workers=n_workers,
        threads_per_worker=1,
        processes=True,
        # Pages of mapped files would count.
        memory_limit=0,
        dashboard_address=None,
        silence_logs=logging.CRITICAL,
        env={"OMP_NUM_THREADS": threads},
    ) as cluster:
        yield cluster


def _on_worker(task: Task) -> Done:
    import distributed

    n_threads = distributed.get_worker().state.nthreads
    # A worker of one thread is told by its environment how many a task may use.
    return run_task(task, threads=n_threads if n_threads > 1 else None)


def _told(error: BaseException | None, task: Task, tried: int, kept: str) -> ResmemError:
    """Tell of a task that can't be done: as its own error does, and with what is kept."""
    times = "" if tried == 1 else f" {tried} times"
    if isinstance(error, ResmemError):
        return _renamed(type(error), f"{task.name} failed{times}: {error}", kept)
    more = f"give workers more, or cut more shards (--shards); {kept}"
    if error is None or type(error).__name__ == "KilledWorker":
        return ResourceError(f"{task.name}: its worker ended, most likely for lack of memory", remedy=more)
    if is_lack_of_memory(error):
        return ResourceError(f"{task.name}: out of memory on its worker", remedy=more)
    return _renamed(ResmemError, f"{task.name} failed{times}: {type(error).__name__}: {error}", kept)


def _kept(state: State, folder: str) -> str:
    return f"{state.done} of {state.total} are done, and kept in {folder}"


def _renamed(kind: type[ResmemError], problem: str, kept: str) -> ResmemError:
    return kind(problem, remedy=kept)
