"""A run of many tasks on many workers, simulated: slow tasks, slow workers, lost workers, one storage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import UsageError

_MOST_PLACES = 1 << 24  # workers times repetitions, each of which is a number in memory
_MOST_CHOICES = 4 << 32  # tasks times workers times repetitions, each of which is looked at
_MOST_TASKS = 1 << 20
_MOST_TRIES, _FEW_TASKS = 10, 1000  # of a task on average, where there are more than a few tasks


@dataclass(frozen=True)
class StepTasks:
    """Equal tasks that can be done at the same time, when the step before is finished.

    Attributes
    ----------
    name : str
    n_tasks : int
    seconds : float
        What a task computes on a worker that nothing slows down.
    n_bytes : float
        What it reads and writes.
    """

    name: str
    n_tasks: int
    seconds: float
    n_bytes: float = 0.0


@dataclass(frozen=True)
class Workers:
    """Equal workers, and what befalls them.

    Attributes
    ----------
    count : int
    spread : float
        Of the tasks: computing takes exp(spread · z) times as long, z normal (log-normal, of median 1).
    slow_share, slow_factor : float
        The probability that a worker is slow for the whole run, and how many times as long it computes.
    seconds_to_failure : float
        Mean time to the loss of a worker while it works, exponential; infinity for never.
    restart_seconds : float
        After which another takes its place.
    retries : int
        How often a task that was lost is done again before the run would be given up.
    bandwidth, shared_bandwidth : float
        Bytes a second of a worker, and of the storage to all of them.
    """

    count: int
    spread: float = 0.0
    slow_share: float = 0.0
    slow_factor: float = 1.0
    seconds_to_failure: float = math.inf
    restart_seconds: float = 0.0
    retries: int = 3
    bandwidth: float = math.inf
    shared_bandwidth: float = math.inf

    def check(self) -> None:
        """Raise `UsageError` for a value out of range."""
        for name, value, least, most in (
            ("--workers", self.count, 1, 1 << 20),
            ("--spread", self.spread, 0, 10),
            ("--slow-share", self.slow_share, 0, 1),
            ("--slow-factor", self.slow_factor, 1, 1000),
            ("--restart-minutes", self.restart_seconds, 0, 1e9),
            ("--retries", self.retries, 0, 1 << 20),
        ):
            if not (math.isfinite(value) and least <= value <= most):
                raise UsageError(f"{name} out of range", expected=f"{least:g} to {most:g}", found=value)
        for name, value in (
            ("--hours-to-failure", self.seconds_to_failure),
            ("--disk-bandwidth", self.bandwidth),
            ("--shared-bandwidth", self.shared_bandwidth),
        ):
            if not value > 0:
                raise UsageError(f"{name} out of range", expected="above 0", found=value)


@dataclass(frozen=True)
class SimulatedRuns:
    """What came of R repetitions of S steps.

    Attributes
    ----------
    step_seconds : (R, S) float64
        From the end of the step before to the end of each.
    busy_seconds : (R,) float64
        Time of all workers with a task, lost ones too.
    repeated : (R,) int64
        Tasks that were lost with their workers and done again.
    given_up : (R,) bool
        Whether a task was lost more often than it is done again: such a run would end with an error, and
        is counted here as if it went on.
    """

    step_seconds: NDArray[np.float64]
    busy_seconds: NDArray[np.float64]
    repeated: NDArray[np.int64]
    given_up: NDArray[np.bool_]

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Wall time of each repetition, (R,)."""
        total: NDArray[np.float64] = self.step_seconds.sum(axis=1)
        return total


def simulate(steps: Sequence[StepTasks], workers: Workers, *, repetitions: int, seed: int) -> SimulatedRuns:
    """Play a run through, many times.

    Steps follow one another; within one, the worker that is free first takes the next task. A task asks the
    storage for all its bytes when it starts, which serves first come first served at `shared_bandwidth`, and
    gets them at `bandwidth` at best; then it computes. A worker that is lost takes its running task with it,
    not what is finished; the task waits for a worker, before those not begun yet, and the worker's place is
    filled `restart_seconds` later. Idle workers are not lost.

    All repetitions are played at the same time, start of a task after start of a task. No start lies before
    one that was played earlier, for a task's end, or loss, is drawn at its start; so this is the simulation
    that handles event after event. With nothing slow and nothing lost a step takes ⌈tasks / workers⌉ times
    a task.

    Parameters
    ----------
    steps : sequence of StepTasks
    workers : Workers
    repetitions : int
        R.
    seed : int
        Losses and slow-downs are drawn from generators of their own, so that more of one changes little in
        the other.

    Raises
    ------
    UsageError
        For values out of range, for more than can be played in minutes, and where tasks are lost faster than
        they are done.
    """
    workers.check()
    if repetitions < 1:
        raise UsageError("--repetitions out of range", expected="at least 1", found=repetitions)
    if seed < 0:
        raise UsageError("--seed out of range", expected="at least 0", found=seed)
    places = repetitions * workers.count
    n_tasks = sum(step.n_tasks for step in steps)
    if places > _MOST_PLACES or n_tasks > _MOST_TASKS or places * n_tasks > _MOST_CHOICES:
        raise UsageError(
            "too much to simulate",
            found=f"{n_tasks:,} tasks on {workers.count:,} workers, {repetitions:,} times",
            remedy="lower --repetitions or --workers, or raise --task-minutes",
        )
    run = _Run(workers, repetitions, seed)
    seconds = [run.play(step) for step in steps]
    return SimulatedRuns(np.stack(seconds, axis=1), run.busy, run.repeated, run.given_up)


def ideal_seconds(step: StepTasks, workers: Workers) -> float:
    """Give the time of a step whose work is shared out evenly among workers that nothing slows down.

    n_tasks · (seconds + n_bytes / bandwidth) / min(workers, n_tasks), or all bytes at the storage's bandwidth
    if that takes longer.
    """
    task = step.seconds + step.n_bytes / workers.bandwidth
    at_once = min(workers.count, step.n_tasks)
    return max(step.n_tasks * task / at_once, step.n_tasks * step.n_bytes / workers.shared_bandwidth)


class _Run:
    """All repetitions: where each worker of each of them is."""

    def __init__(self, workers: Workers, repetitions: int, seed: int) -> None:
        self._workers = workers
        slow, spread, losses = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(3))
        self._spread, self._losses = spread, losses
        shape = (repetitions, workers.count)
        self._slowness = np.where(slow.random(shape) < workers.slow_share, workers.slow_factor, 1.0)
        self._free = np.zeros(shape)
        # When a worker lost the task that nobody has taken up yet, and how often that task was lost.
        self._lost_at = np.full(shape, np.inf)
        self._times_lost = np.zeros(shape, np.int64)
        self._storage_free = np.zeros(repetitions)
        self._begun = np.zeros(repetitions)
        self.busy = np.zeros(repetitions)
        self.repeated = np.zeros(repetitions, np.int64)
        self.given_up = np.zeros(repetitions, np.bool_)

    def play(self, step: StepTasks) -> NDArray[np.float64]:
        """Do a step; give its time in each repetition."""
        np.maximum(self._free, self._begun[:, None], out=self._free)
        left = np.full(len(self._begun), step.n_tasks)
        finished = self._begun.copy()
        waiting = np.zeros(len(left), np.int64)
        runs = np.arange(len(left))
        tries = _MOST_TRIES * step.n_tasks + _FEW_TASKS
        while len(runs):
            if tries == 0:
                raise UsageError(
                    f"{step.name}: tasks are lost faster than they are done",
                    remedy="raise --hours-to-failure, or lower --task-minutes",
                )
            tries -= 1
            self._start(step, runs, left, waiting, finished)
            runs = runs[(left[runs] > 0) | (waiting[runs] > 0)]
        seconds = finished - self._begun
        self._begun = finished
        return seconds

    def _start(
        self,
        step: StepTasks,
        runs: NDArray[np.int64],
        left: NDArray[np.int64],
        waiting: NDArray[np.int64],
        finished: NDArray[np.float64],
    ) -> None:
        """Start one task in each of some repetitions; count what is left, what waits again, and the end."""
        own = self._workers
        free = self._free if len(runs) == len(self._free) else self._free[runs]
        worker = free.argmin(axis=1)
        start = self._free[runs, worker]
        again, owner = self._lost_tasks(runs, worker, start, left, waiting)
        start = np.where(again, np.maximum(start, self._lost_at[runs, owner]), start)
        tries = np.where(again, self._times_lost[runs, owner], 0)
        self._lost_at[runs[again], owner[again]] = np.inf
        waiting[runs] -= again
        left[runs] -= ~again

        ready = start + step.n_bytes / own.bandwidth
        if math.isfinite(own.shared_bandwidth):
            served = np.maximum(start, self._storage_free[runs]) + step.n_bytes / own.shared_bandwidth
            self._storage_free[runs] = served
            ready = np.maximum(ready, served)
        slowness = self._slowness[runs, worker]
        if own.spread:
            slowness = slowness * np.exp(own.spread * self._spread.standard_normal(len(runs)))
        end = ready + step.seconds * slowness
        lost = np.zeros(len(runs), np.bool_)
        if math.isfinite(own.seconds_to_failure):
            failure = start + own.seconds_to_failure * self._losses.standard_exponential(len(runs))
            lost = failure < end
            end = np.where(lost, failure, end)
        self.busy[runs] += end - start
        self._free[runs, worker] = end + own.restart_seconds * lost
        done = runs[~lost]
        finished[done] = np.maximum(finished[done], end[~lost])
        if lost.any():
            places = runs[lost], worker[lost]
            self._lost_at[places], self._times_lost[places] = end[lost], tries[lost] + 1
            waiting[runs] += lost
            self.repeated[runs] += lost
            self.given_up[runs] |= lost & (tries >= own.retries)

    def _lost_tasks(
        self,
        runs: NDArray[np.int64],
        worker: NDArray[np.int64],
        start: NDArray[np.float64],
        left: NDArray[np.int64],
        waiting: NDArray[np.int64],
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Tell which repetitions take up a lost task, and whose: the worker's own, or the first one lost.

        A task that will be lost only later waits until then, and is taken if no other is left.
        """
        again, owner = np.zeros(len(runs), np.bool_), worker.copy()
        some = np.flatnonzero(waiting[runs] > 0)
        if not len(some):
            return again, owner
        lost = self._lost_at[runs[some]]
        first = lost.argmin(axis=1)
        mine = np.isfinite(lost[np.arange(len(some)), worker[some]])
        early = lost[np.arange(len(some)), first] <= start[some]
        again[some] = mine | early | (left[runs[some]] == 0)
        owner[some] = np.where(mine, worker[some], first)
        return again, owner
