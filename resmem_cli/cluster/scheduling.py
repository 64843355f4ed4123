"""A command whose shards are tasks: in how many, where they are made, and how they are put together."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resmem_cli.cluster.engine import Cluster, Outcome, State, Watch, check_scheduler, connected
from resmem_cli.cluster.tasks import Done, Task
from resmem_cli.cluster.work import WorkFolder, work_folder
from resmem_cli.errors import UsageError
from resmem_cli.memory_size import DEFAULT_MEMORY
from resmem_cli.scaling.sizes import MemorySize
from resmem_cli.scaling.task_times import (
    OF_QUERIES,
    TaskTime,
    append_task_times,
    can_be_planned,
    check_task_times,
)
from resmem_cli.shards import Shard
from resmem_cli.stages.merge import MergeConfig, merge
from resmem_cli.threads import n_threads
from resmem_cli.types import Progress, StageResult

_OF_MERGE = ("format", "shards")
_LEAST_SHARDS, _SHARDS_A_WORKER = 8, 4


@dataclass(frozen=True)
class Scheduling:
    """On what, and in how many pieces.

    Attributes
    ----------
    scheduler : str
        ``tcp://host:port``, ``file:scheduler.json`` or ``local:N``.
    shards : int or None
        How many; None for as many as an earlier run has begun with, or some for each worker.
    manifest : bool
        Leave the shards where they are, and make a manifest of them.
    worker_timeout : float
        Seconds to wait for a worker.
    retries : int
        How often a shard that fails is given out again.
    task_times : pathlib.Path or None
        A file of JSON lines to which is added what each task took.
    """

    scheduler: str
    shards: int | None = None
    manifest: bool = False
    worker_timeout: float = 60
    retries: int = 2
    task_times: Path | None = None

    def check(self) -> None:
        """Raise `UsageError` for numbers out of range."""
        check_scheduler(self.scheduler)
        for flag, value, least in (
            ("--shards", self.shards, 1),
            ("--retries", self.retries, 0),
            ("--worker-timeout", self.worker_timeout, 0),
        ):
            if value is not None and value < least:
                raise UsageError(f"{flag} out of range", expected=f"at least {least}", found=value)


def no_watch(state: State) -> None:
    """Show nothing."""


class Run:
    """One command on a cluster."""

    def __init__(
        self,
        command: str,
        output: Path,
        cluster: Cluster,
        folder: WorkFolder,
        scheduling: Scheduling,
        watch: Watch,
    ) -> None:
        self.command, self.output, self.folder, self.scheduling = command, output, folder, scheduling
        self._cluster, self._watch = cluster, watch
        self.n_tasks = self.n_before = 0
        self.outcome = Outcome()

    @contextmanager
    def timing(self, step: str, size: MemorySize) -> Iterator[None]:
        """Take the time of what is done here, before the tasks."""
        began = time.monotonic()
        yield
        self._keep([TaskTime(step, time.monotonic() - began, n_threads(), size)])

    def _keep(self, times: Iterable[TaskTime]) -> None:
        if self.scheduling.task_times is not None:
            append_task_times(self.scheduling.task_times, (one for one in times if can_be_planned(one.size)))

    def count(self, n: int) -> int:
        """Choose the number of shards for n rows; raises `UsageError` if more are wanted."""
        default = min(n, max(_LEAST_SHARDS, _SHARDS_A_WORKER * self._cluster.n_workers))
        count = self.folder.shard_count(self.scheduling.shards, default)
        Shard(count, count).rows(n)
        return count

    def do(self, tasks: Sequence[Task]) -> None:
        """Do those tasks whose outputs are not there yet."""
        missing = [task for task in tasks if not self.folder.is_done(Path(task.output))]
        before = len(tasks) - len(missing)
        state = State(total=len(tasks), done=before, before=before)
        outcome = Outcome()
        try:
            self._cluster.run(
                missing,
                retries=self.scheduling.retries,
                state=state,
                watch=self._watch,
                kept=str(self.folder.path),
                outcome=outcome,
            )
        finally:
            # What is done is found by the next run, and not timed again.
            self._keep(_task_times(outcome.done))
        self.n_tasks += len(missing)
        self.n_before += before
        self.outcome.done += outcome.done
        self.outcome.retries += outcome.retries

    def finish(
        self, shards: Sequence[Task], *, clobber: bool, progress: Progress, memory: int = DEFAULT_MEMORY
    ) -> StageResult:
        """Put shards together, and clean up."""
        config = MergeConfig(manifest=self.scheduling.manifest, memory=memory)
        paths = [task.output for task in shards]
        merged = merge(paths, output=self.output, config=config, clobber=clobber, progress=progress)
        return self.close(merged.summary, len(shards))

    def close(self, summary: Mapping[str, Any], n_shards: int) -> StageResult:
        """Remove what is not needed any more, and tell what was done."""
        self.folder.remove_others()
        if not self.scheduling.manifest:
            self.folder.remove()
        done = self.outcome.done
        notices = tuple(dict.fromkeys(notice for one in done for notice in one.notices))
        told = {
            **{name: value for name, value in summary.items() if name not in _OF_MERGE},
            "shards": n_shards,
            "tasks": self.n_tasks,
            "found": self.n_before or None,
            "retries": self.outcome.retries or None,
            "workers": len({one.worker for one in done}) or None,
            "task_seconds": round(sum(one.seconds for one in done), 3),
        }
        return StageResult(self.command, self.output, told, notices)


@contextmanager
def running(
    command: str,
    output: Path | str,
    read: Mapping[str, Any],
    config: Any,
    scheduling: Scheduling,
    watch: Watch,
    *,
    clobber: bool,
) -> Iterator[Run]:
    """Hold the folder and the connection of a command.

    Parameters
    ----------
    command : str
    output : pathlib.Path or str
    read : mapping
        The files it reads, by role.
    config : dataclass
        Its options.
    scheduling : Scheduling
    watch : callable
        Is told how far the tasks have come.
    clobber : bool
        Whether an existing output may be replaced.
    """
    scheduling.check()
    output = Path(output)
    if scheduling.task_times is not None:
        check_task_times(scheduling.task_times, [output, *_files(read.values())])
    with (
        work_folder(output, command, read, config, clobber=clobber) as folder,
        connected(scheduling.scheduler, worker_timeout=scheduling.worker_timeout) as cluster,
    ):
        yield Run(command, output, cluster, folder, scheduling, watch)


def by_rows(
    run: Run,
    stage: str,
    arguments: Sequence[Any],
    options: Mapping[str, Any],
    config: Any,
    count: int,
    *,
    step: str = "",
    size: MemorySize | None = None,
) -> list[Task]:
    """Make a task of each range of rows; `step` and `size` are what it is in a plan."""
    return [
        Task(
            name=f"shard {number} of {count}",
            function=f"resmem_cli.stages.{stage}",
            arguments=tuple(arguments),
            options={**options, "config": replace(config, shard=Shard(number, count))},
            output=str(run.folder.file(f"{number:05}-of-{count:05}.h5").absolute()),
            step=step,
            size=size,
        )
        for number in range(1, count + 1)
    ]


def _files(read: Iterable[Any]) -> Iterator[Path]:
    for one in read:
        if isinstance(one, tuple | list):
            yield from _files(one)
        elif one is not None:
            yield Path(one)


def _task_times(done: Sequence[Done]) -> Iterator[TaskTime]:
    for one in done:
        size = one.task.size
        if size is not None:
            of_queries = one.task.step in OF_QUERIES
            own = replace(size, queries=one.rows) if of_queries else replace(size, rows=one.rows)
            yield TaskTime(one.task.step, one.seconds, one.cores, own)
