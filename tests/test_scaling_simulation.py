"""The simulated run: exact where nothing happens, and the same as one that handles event after event."""

from __future__ import annotations

import heapq
import math
from dataclasses import replace

import numpy as np
import pytest

from resmem_cli.errors import UsageError
from resmem_cli.scaling.simulation import StepTasks, Workers, ideal_seconds, simulate

TROUBLED = Workers(
    6, spread=0.3, slow_share=0.2, slow_factor=3.0, seconds_to_failure=200.0, restart_seconds=20.0, retries=1
)


@pytest.mark.parametrize(("tasks", "workers"), [(1, 1), (1, 5), (7, 7), (10, 3), (1000, 8), (1000, 999)])
def test_with_nothing_slow_or_lost_it_takes_whole_rounds(tasks: int, workers: int) -> None:
    steps = [StepTasks("a", tasks, 5.0), StepTasks("b", tasks + 1, 2.0)]
    runs = simulate(steps, Workers(workers), repetitions=3, seed=0)
    first, second = math.ceil(tasks / workers) * 5, math.ceil((tasks + 1) / workers) * 2
    np.testing.assert_array_equal(runs.step_seconds, [[first, second]] * 3)
    np.testing.assert_array_equal(runs.busy_seconds, tasks * 5 + (tasks + 1) * 2)
    assert not runs.repeated.any()
    assert not runs.given_up.any()


def test_no_run_is_shorter_than_its_work_shared_out() -> None:
    step = StepTasks("a", 50, 10.0, 1e6)
    workers = replace(TROUBLED, bandwidth=1e6, shared_bandwidth=3e6)
    runs = simulate([step], workers, repetitions=100, seed=1)
    assert (runs.seconds >= runs.busy_seconds / workers.count).all()
    assert runs.repeated.sum() > 0
    assert runs.given_up.any()
    failing = replace(workers, spread=0, slow_share=0)
    assert (simulate([step], failing, repetitions=100, seed=1).seconds >= ideal_seconds(step, failing)).all()


def test_the_storage_serves_no_more_than_it_can() -> None:
    step = StepTasks("a", 64, 1.0, 100.0)
    workers = Workers(16, bandwidth=100.0, shared_bandwidth=200.0)
    runs = simulate([step], workers, repetitions=2, seed=0)
    # The last bytes come after 64 · 100 / 200 s, and are computed with for one more.
    np.testing.assert_allclose(runs.seconds, 33.0)
    assert ideal_seconds(step, workers) == 32.0
    wide = simulate([step], replace(workers, shared_bandwidth=math.inf), repetitions=2, seed=0)
    np.testing.assert_allclose(wide.seconds, 4 * 2.0)


def test_more_losses_are_never_faster_on_average() -> None:
    steps = [StepTasks("a", 100, 10.0), StepTasks("b", 1, 30.0)]
    means = []
    for hours in (math.inf, 1e5, 3e3, 1e3, 300.0, 100.0):
        workers = replace(TROUBLED, seconds_to_failure=hours)
        runs = simulate(steps, workers, repetitions=300, seed=2)
        means.append((runs.seconds.mean(), runs.repeated.mean()))
    assert means == sorted(means)
    assert means[0][1] == 0


def test_more_trouble_of_other_kinds_takes_longer() -> None:
    step, calm = StepTasks("a", 100, 10.0), Workers(8)
    seconds = [
        simulate([step], workers, repetitions=100, seed=0).seconds.mean()
        for workers in (calm, replace(calm, spread=0.5), replace(calm, slow_share=0.5, slow_factor=4.0))
    ]
    assert seconds == sorted(seconds)


def test_the_same_seed_gives_the_same_and_another_does_not() -> None:
    steps = [StepTasks("a", 30, 10.0), StepTasks("b", 12, 4.0)]
    first, again = (simulate(steps, TROUBLED, repetitions=20, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.step_seconds, again.step_seconds)
    np.testing.assert_array_equal(first.repeated, again.repeated)
    other = simulate(steps, TROUBLED, repetitions=20, seed=8)
    assert not np.array_equal(first.step_seconds, other.step_seconds)


def by_events(step: StepTasks, workers: Workers, seed: int) -> tuple[float, int]:
    """Play one repetition with a queue of events: a worker becomes free, or a task comes back."""
    parts = np.random.SeedSequence(seed).spawn(3)
    slow, spread, losses = (np.random.default_rng(part) for part in parts)
    slowness = np.where(slow.random((1, workers.count)) < workers.slow_share, workers.slow_factor, 1.0)[0]
    left, lost, repeated, finished, stored = step.n_tasks, [], 0, 0.0, 0.0
    idle: list[int] = []
    events: list[tuple[float, int, int, str]] = [(0.0, 1, w, "free") for w in range(workers.count)]
    heapq.heapify(events)
    while events:
        now, _, worker, kind = heapq.heappop(events)
        if kind == "free":
            idle.append(worker)
        else:
            lost.append(worker)
        while idle and (lost or left):
            taker = idle.pop(0)
            if lost:
                lost.remove(taker if taker in lost else lost[0])
            else:
                left -= 1
            stored = max(now, stored) + step.n_bytes / workers.shared_bandwidth
            ready = max(now + step.n_bytes / workers.bandwidth, stored)
            slowed = slowness[taker] * np.exp(workers.spread * spread.standard_normal(1)[0])
            end = ready + step.seconds * slowed
            failure = now + workers.seconds_to_failure * losses.standard_exponential(1)[0]
            if failure < end:
                repeated += 1
                heapq.heappush(events, (failure, 0, taker, "lost"))
                end = failure + workers.restart_seconds
            else:
                finished = max(finished, end)
            heapq.heappush(events, (end, 1, taker, "free"))
    return finished, repeated


@pytest.mark.parametrize("seed", range(25))
def test_it_is_what_events_one_after_another_give(seed: int) -> None:
    step = StepTasks("a", 40, 10.0, 30.0)
    workers = replace(TROUBLED, seconds_to_failure=40.0, bandwidth=20.0, shared_bandwidth=30.0)
    runs = simulate([step], workers, repetitions=1, seed=seed)
    finished, repeated = by_events(step, workers, seed)
    assert runs.repeated[0] == repeated
    assert runs.seconds[0] == pytest.approx(finished)


def test_a_lost_task_is_begun_anew_and_what_is_finished_is_not() -> None:
    workers = Workers(1, seconds_to_failure=30.0, restart_seconds=5.0, retries=1000)
    runs = simulate([StepTasks("a", 20, 10.0)], workers, repetitions=500, seed=0)
    # A try of 10 s is lost with probability p = 1 − exp(−10/30), so p / (1 − p) tries are lost of each task.
    expected = 20 * (math.exp(1 / 3) - 1)
    assert runs.repeated.mean() == pytest.approx(expected, rel=0.1)
    # The mean time to get 10 s without a loss, and the restarts.
    assert runs.seconds.mean() == pytest.approx(20 * 30 * (math.exp(1 / 3) - 1) + 5 * expected, rel=0.05)


@pytest.mark.parametrize(
    "change",
    [
        {"count": 0},
        {"spread": -1.0},
        {"slow_share": 1.5},
        {"slow_factor": 0.5},
        {"seconds_to_failure": 0.0},
        {"seconds_to_failure": math.nan},
        {"restart_seconds": math.inf},
        {"retries": -1},
        {"count": 1 << 30},
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="out of range"):
        simulate([StepTasks("a", 3, 1.0)], replace(TROUBLED, **change), repetitions=2, seed=0)


def test_more_than_can_be_played_is_refused() -> None:
    for repetitions, tasks in ((10**7, 10), (1000, 10**9)):
        with pytest.raises(UsageError, match="too much to simulate"):
            simulate([StepTasks("a", tasks, 1.0)], TROUBLED, repetitions=repetitions, seed=0)
    for repetitions, seed in ((0, 0), (1, -1)):
        with pytest.raises(UsageError):
            simulate([StepTasks("a", 3, 1.0)], TROUBLED, repetitions=repetitions, seed=seed)
