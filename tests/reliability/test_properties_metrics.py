"""Metrics, intervals, gates, groups and tables of results against plain formulas."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from reliability.properties import INTEGERS, classified, holds, matrices, plain_softmax, within
from resmem_cli import columns, gate, memory_size, metrics, quality, results, rows, threads, types
from resmem_cli.analysis import groups as grouping
from resmem_cli.analysis.coarse_to_fine import coarse_to_fine, difference_interval
from resmem_cli.analysis.influence import influence
from resmem_cli.calibration import FLOOR
from resmem_cli.errors import DataError, UsageError

Z = 1.959963984540054
Draw = Callable[..., Any]


@st.composite
def answers(draw: Draw) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], int]:
    """Draw labels and two predictions, of any integer type, and the number of classes."""
    n, n_classes = draw(st.integers(1, 30)), draw(st.integers(1, 4))
    classes = arrays(np.int64, n, elements=st.integers(0, n_classes - 1))
    labels, base, predicted = (draw(classes).astype(draw(st.sampled_from(INTEGERS))) for _ in range(3))
    return labels, base, predicted, n_classes


Answers = tuple[NDArray[Any], NDArray[Any], NDArray[Any], int]


@holds(
    "metrics.compare", "metrics.changed_examples", "metrics.mcnemar_p_value", "quality.mcnemar",
    drawn=answers(), weight=2,
)  # fmt: skip
def test_gain(drawn: Answers) -> None:
    labels, base, predicted, _ = drawn
    truth, before, after = labels.tolist(), base.tolist(), predicted.tolist()
    n = len(truth)
    up = [i for i in range(n) if after[i] == truth[i] != before[i]]
    down = [i for i in range(n) if after[i] != truth[i] == before[i]]
    found = metrics.compare(labels, base, predicted)
    assert [part.tolist() for part in metrics.changed_examples(labels, base, predicted)] == [up, down]
    assert (found.n, found.n_corrected, found.n_broken) == (n, len(up), len(down))
    right, base_right = (sum(map(int.__eq__, truth, given)) for given in (after, before))
    within([found.accuracy, found.base_accuracy], [right / n, base_right / n], 1e-15)
    within([found.gain, found.tpr - found.fpr], [(right - base_right) / n] * 2, 1e-15)
    changed = len(up) + len(down)
    tails = sum(math.comb(changed, i) for i in range(min(len(up), len(down)) + 1)) / 2**changed
    p = 1.0 if not changed else min(1.0, 2 * tails)
    within([found.p_value, quality.mcnemar(labels, base, predicted)], [p, p], 1e-12)
    assert found.interval == metrics.gain_interval(len(up), len(down), n)


@holds(
    "metrics.gain_interval", up=st.integers(0, 10**6), down=st.integers(0, 10**6), same=st.integers(0, 10**6)
)
def test_gain_interval(up: int, down: int, same: int) -> None:
    n = up + down + same
    low, high = metrics.gain_interval(up, down, n)
    p, q = (up + 1) / (n + 2), (down + 1) / (n + 2)
    half = Z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    within([low, high], [max(-1, p - q - half), min(1, p - q + half)], 1e-12)
    assert -1 <= low <= high <= 1


@st.composite
def judged(draw: Draw) -> tuple[NDArray[Any], NDArray[Any]]:
    """Draw probabilities, many of them equal, and labels."""
    # More rows than bins of the calibration error.
    shapes = st.tuples(st.integers(1, 40), st.integers(1, 7))
    logits, labels = draw(classified(usual=draw(st.booleans()), shapes=shapes))
    probabilities = plain_softmax(logits, draw(st.sampled_from((1.0, 5.0, 1e30))))
    return probabilities.astype(draw(st.sampled_from((np.float16, np.float32, np.float64)))), labels


@holds("quality.outcomes", "quality.summarize", drawn=judged(), given=st.booleans(), weight=2)
def test_quality(drawn: tuple[NDArray[Any], NDArray[Any]], given: bool) -> None:
    """Of what the probabilities are in float32, in which they are looked at."""
    probabilities, labels = drawn
    p = probabilities.astype(np.float32).astype(np.float64).tolist()
    y = labels.tolist()
    chosen = [len(row) - 1 for row in p] if given else [row.index(max(row)) for row in p]
    found = quality.outcomes(probabilities, labels, predicted=np.array(chosen) if given else None)
    ranks = []
    for row, label, first in zip(p, y, chosen, strict=True):
        order = sorted(range(len(row)), key=lambda c: (c != first, -row[c], c))
        ranks.append(order.index(label))
    assert found.predicted.tolist() == chosen
    assert found.label_rank.tolist() == ranks
    within(found.label_probability, [row[label] for row, label in zip(p, y, strict=True)], 0)
    within(found.confidence, [max(row) for row in p], 0)
    within(found.squares, [math.fsum(v * v for v in row) for row in p], 1e-7)
    told = quality.summarize(found, labels)
    n = len(y)
    own = [row[label] for row, label in zip(p, y, strict=True)]
    brier = [
        math.fsum((v - (c == label)) ** 2 for c, v in enumerate(row)) for row, label in zip(p, y, strict=True)
    ]
    # Rows of float16 do not sum to 1.
    slack = 2e-2 if probabilities.dtype == np.float16 else 1e-6
    within(told.accuracy, sum(rank == 0 for rank in ranks) / n, 1e-12)
    within(told.top5_accuracy, sum(rank < 5 for rank in ranks) / n, 1e-12)
    within(told.nll, math.fsum(-math.log(max(v, FLOOR)) for v in own) / n, 1e-9)
    within(told.brier, math.fsum(brier) / n, slack)
    order = sorted(range(n), key=lambda i: (max(p[i]), i))
    bins = [part.tolist() for part in np.array_split(order, min(quality.N_BINS, n))]
    ece = 0.0
    for rows_of, one in zip(bins, told.reliability, strict=True):
        confidence = math.fsum(max(p[i]) for i in rows_of) / len(rows_of)
        accuracy = sum(ranks[i] == 0 for i in rows_of) / len(rows_of)
        within([one.confidence, one.accuracy, one.n], [confidence, accuracy, len(rows_of)], 1e-12)
        ece += len(rows_of) / n * abs(confidence - accuracy)
    within(told.ece, ece, 1e-12)


@holds(
    "quality.bootstrap_interval",
    values=st.lists(st.sampled_from((-1.0, 0.0, 1.0, 0.25, 1e30, -1e-40)), min_size=1, max_size=5),
    level=st.sampled_from((0.5, 0.9, 0.95)),
)
def test_bootstrap(values: list[float], level: float) -> None:
    """Its ends are quantiles of the means of all n^n resamples, as near as 10,000 of them tell."""
    low, high = quality.bootstrap_interval(np.array(values), level=level)
    n = len(values)
    means = np.sort([math.fsum(drawn) / n for drawn in itertools.product(values, repeat=n)])
    for end, share in ((low, (1 - level) / 2), (high, (1 + level) / 2)):
        # Five standard deviations of a share among 10,000.
        off = 5 * math.sqrt(share * (1 - share) / 10_000)
        around = [
            means[min(len(means) - 1, max(0, int(len(means) * (share + side) + side)))]
            for side in (-off, off)
        ]
        slack = 1e-12 * max(map(abs, values))
        assert around[0] - slack <= end <= around[1] + slack, (end, around)
    assert low <= high


@holds(
    "quality.mean_and_std", "results.mean_of",
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8),
)  # fmt: skip
def test_mean_and_deviation(values: list[float]) -> None:
    mean, std = quality.mean_and_std(values)
    size = max(1e-300, *map(abs, values), *(abs(v) for v in values))
    within(mean, statistics.fmean(values), 1e-14 * size)
    told = results.mean_of(values)
    if len(values) == 1:
        assert std is None
        assert told == values[0]
    else:
        deviation = statistics.stdev(values)
        within(std, deviation, 1e-12 * size)
        assert isinstance(told, results.Estimate)
        within([told.value, (told.high - told.low) / 2], [mean, deviation], 1e-12 * size)


# --- gates


@st.composite
def gated(draw: Draw) -> tuple[NDArray[Any], ...]:
    n = draw(st.integers(1, 12))
    of = st.sampled_from((0.0, 0.5, 1.0, 3.0)) if draw(st.booleans()) else st.floats(0, 2.0**100, width=32)
    widths = st.sampled_from((np.float32, np.float64))
    columns_of = [draw(arrays(np.float64, n, elements=of)).astype(draw(widths)) for _ in range(2)]
    return (
        *columns_of,
        draw(arrays(bool, n)),
        draw(arrays(bool, n)),
        draw(arrays(np.int64, n, elements=st.integers(1, 3))),
    )


@holds("gate.select_gate", "gate.Gate.open", drawn=gated(), weight=2)
def test_the_best_gate(drawn: tuple[NDArray[Any], ...]) -> None:
    """No pair of limits gains more, and none that gains as much is open for more."""
    nearest, confidence, right, base_right, weight = drawn
    found = gate.select_gate(nearest, confidence, right, base_right, weight)

    def gained(opened: NDArray[np.bool_]) -> int:
        return int((weight * np.where(opened, right, base_right)).sum())

    limits = [[*column.tolist(), None] for column in (nearest, confidence)]
    tried = []
    for far, sure in itertools.product(*limits):
        opened = gate.Gate(far, sure).open(nearest, confidence)
        assert opened.tolist() == [
            (far is None or a <= far) and (sure is None or b <= sure)
            for a, b in zip(nearest.tolist(), confidence.tolist(), strict=True)
        ]
        tried.append((gained(opened), int(opened.sum())))
    opened = found.open(nearest, confidence)
    assert (gained(opened), int(opened.sum())) == max(tried)
    assert found.accuracy is not None
    wanted = [gained(opened) / weight.sum(), (weight * right).sum() / weight.sum(), opened.mean()]
    within([found.accuracy, found.plain_accuracy, found.share_open], wanted, 1e-12)


# --- groups, refinement, influence


def _group(
    name: str, of: Sequence[int], truth: list[int], before: list[int], after: list[int]
) -> tuple[Any, ...]:
    n = len(of)
    up = sum(after[i] == truth[i] != before[i] for i in of)
    down = sum(after[i] != truth[i] == before[i] for i in of)
    base, now = (sum(given[i] == truth[i] for i in of) / n for given in (before, after))
    return name, n, base, now, (up - down) / n, up / n, down / n


def _assert_groups(found: list[grouping.Group], wanted: list[tuple[Any, ...]]) -> None:
    assert [(group.name, group.n) for group in found] == [group[:2] for group in wanted]
    numbers = [(g.base_accuracy, g.accuracy, g.gain, g.tpr, g.fpr) for g in found]
    within(np.array(numbers).reshape(-1, 5), np.array([g[2:] for g in wanted]).reshape(-1, 5), 1e-15)


@holds(
    "groups.by_group",
    "groups.by_class",
    drawn=answers(),
    places=st.lists(st.integers(0, 2), min_size=30, max_size=30),
)
def test_groups(drawn: Answers, places: list[int]) -> None:
    labels, base, predicted, _ = drawn
    lists = labels.tolist(), base.tolist(), predicted.tolist()
    group = places[: len(labels)]
    wanted = [
        _group(name, of, *lists)
        for number, name in enumerate("abc")
        if (of := [i for i, place in enumerate(group) if place == number])
    ]
    for dtype in (np.uint8, np.int64, np.uint64):
        _assert_groups(grouping.by_group(np.array(group, dtype), "abc", labels, base, predicted), wanted)
    classes = [
        _group(str(c), of, *lists) for c in range(4) if (of := [i for i, y in enumerate(lists[0]) if y == c])
    ]
    _assert_groups(grouping.by_class(labels, base, predicted), classes)


@holds(
    "groups.by_quantile", "groups.by_frequency", drawn=answers(), n_groups=st.integers(1, 6),
    values=st.lists(st.floats(-1e30, 1e30) | st.sampled_from((0.0, 1.0)), min_size=30, max_size=30),
    counts=st.lists(st.integers(0, 5), min_size=4, max_size=4),
)  # fmt: skip
def test_groups_of_rising_values(
    drawn: Answers, n_groups: int, values: list[float], counts: list[int]
) -> None:
    """All queries are in one group each, equal values together, at most so many, in rising order."""
    labels, base, predicted, _ = drawn
    lists = labels.tolist(), base.tolist(), predicted.tolist()
    for given, found in (
        (
            values[: len(labels)],
            grouping.by_quantile(
                np.array(values[: len(labels)]), labels, base, predicted, n_groups=n_groups, unit="m"
            ),
        ),
        (
            [counts[label] for label in lists[0]],
            grouping.by_frequency(labels, base, predicted, np.array(counts), n_groups=n_groups),
        ),
    ):
        assert 1 <= len(found) <= n_groups
        assert sum(group.n for group in found) == len(labels)
        assert len({group.name for group in found}) == len(found)
        order = sorted(range(len(given)), key=lambda i: given[i])
        start = 0
        for group in found:
            of = order[start : start + group.n]
            start += group.n
            assert start == len(order) or given[order[start - 1]] < given[order[start]], "equal values apart"
            _assert_groups([group], [_group(group.name, of, *lists)])


@holds(
    "coarse_to_fine.coarse_to_fine", "coarse_to_fine.difference_interval",
    drawn=answers(), groups=st.lists(st.integers(0, 1), min_size=4, max_size=4),
)  # fmt: skip
def test_refinement(drawn: Answers, groups: list[int]) -> None:
    labels, base, predicted, n_classes = drawn
    truth, before, after = labels.tolist(), base.tolist(), predicted.tolist()
    found = coarse_to_fine(labels, base, predicted, np.array(groups[:n_classes]))
    wrong = [i for i in range(len(truth)) if before[i] != truth[i]]
    corrected = [i for i in wrong if after[i] == truth[i]]
    others = [i for i in wrong if after[i] != truth[i]]
    inside = Counter(i for i in wrong if groups[truth[i]] == groups[before[i]])
    share = [
        sum(inside[i] for i in some) / len(some) if some else None for some in (corrected, others, wrong)
    ]
    assert (found.groups, found.n_corrected, found.n_base_errors) == (
        len(set(groups[:n_classes])), len(corrected), len(wrong)
    )  # fmt: skip
    assert [found.corrected_in_group, found.uncorrected_in_group, found.errors_in_group] == share
    if not corrected:
        assert found.difference is None
        return
    within(found.difference, share[0] - share[2], 1e-15)
    if others:
        a, b = ((sum(inside[i] for i in some), len(some)) for some in (corrected, others))
        low, high = difference_interval(*a, *b)
        ends = [_wilson(*of) for of in (a, b)]
        p, q = a[0] / a[1], b[0] / b[1]
        wanted = (
            p - q - math.hypot(p - ends[0][0], ends[1][1] - q),
            p - q + math.hypot(ends[0][1] - p, q - ends[1][0]),
        )
        within([low, high], wanted, 1e-9)
        factor = 1 - len(corrected) / len(wrong)
        within(found.interval, [factor * low, factor * high], 1e-15)


def _wilson(count: int, n: int) -> tuple[float, float]:
    """Solve |p̂ − p| = z √(p (1 − p) / n) for p."""
    share = count / n
    roots = np.roots([1 + Z**2 / n, -2 * share - Z**2 / n, share**2])
    return float(roots.real.min()), float(roots.real.max())


@st.composite
def credited(draw: Draw) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    e, k = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    neighbors = np.array([draw(st.permutations(range(8)))[:k] for _ in range(e)])
    contributions = draw(arrays(np.float32, (e, k), elements=st.floats(-2, 2, width=16)))
    return neighbors.astype(draw(st.sampled_from((np.int32, np.int64)))), contributions, draw(arrays(bool, e))


@holds("influence.influence", "influence.Influence.most", drawn=credited())
def test_influence(drawn: tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]) -> None:
    neighbors, contributions, corrected = drawn
    found = influence(neighbors, contributions, corrected)
    for kind, chosen in (("corrected", corrected), ("broken", ~corrected)):
        credit: Counter[int] = Counter()
        n: Counter[int] = Counter()
        for query in np.flatnonzero(chosen):
            for row, given in zip(neighbors[query].tolist(), contributions[query].tolist(), strict=True):
                credit[row] += given  # type: ignore[assignment]
                n[row] += given > 0
        assert found.rows.tolist() == sorted(set(neighbors.ravel().tolist()))
        within(getattr(found, f"credit_{kind}"), [credit[row] for row in found.rows.tolist()], 1e-12)
        assert getattr(found, f"n_{kind}").tolist() == [n[row] for row in found.rows.tolist()]
        most = [row.row for row in found.most(kind, 3)]
        ranked = [row for row in sorted(credit, key=lambda row: (-credit[row], row)) if credit[row] > 0]
        assert most == ranked[:3]


# --- numbers as they are written, sizes, rows

_UNITS = [unit for unit in results.Unit if unit is not results.Unit.TEXT]
_SECONDS = {"h": 3600.0, "min": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6}


@holds(
    "results.show_cell", "results.ResultTable.document", "results.ResultTable.from_document",
    "results.ResultTable.texts", "results.ResultTable.markdown", "results.ResultTable.numbers",
    value=st.floats(-1e9, 1e9) | st.sampled_from((0.0, 1e-30, 1e15, 0.99995, -0.5)),
    width=st.floats(0, 10), unit=st.sampled_from(_UNITS), runs=st.none() | st.integers(2, 9), weight=2,
)  # fmt: skip
def test_what_is_written_is_the_number_rounded(
    value: float, width: float, unit: results.Unit, runs: int | None
) -> None:
    if unit is results.Unit.BYTES:
        value = abs(value)
    shown = results.show_cell(value, unit)
    number, off = _read(shown, unit)
    assert abs(number - value) <= off * 1.000001, (shown, value)
    estimate = results.Estimate(value, value - width, value + width, n_runs=runs)
    written = results.show_cell(estimate, unit)
    assert written.startswith(shown)
    table = results.ResultTable(
        "name", "title", (results.Column("what", results.Unit.TEXT), results.Column("x", unit)),
        (("a|b", estimate), ("c", value), ("d", None)), ("note",),
    )  # fmt: skip
    again = results.ResultTable.from_document(json.loads(json.dumps(table.document())))
    assert again.texts()[1:] == table.texts()[1:]
    told = again.rows[0][1]
    assert isinstance(told, results.Estimate)
    assert told.value == value
    size = abs(value) + width
    within([told.low, told.high], [estimate.low, estimate.high], 1e-15 * size)
    assert again.markdown().splitlines()[-1] == "note"
    assert [number for *_, number in table.numbers()] == [
        estimate, results.Estimate(value, value, value)
    ]  # fmt: skip


def _read(text: str, unit: results.Unit) -> tuple[float, float]:
    """Read a written number back, with how far it may be off."""
    if unit is results.Unit.BYTES:
        digits, name = text.split()
        factor = 1024 ** " KMGT".index(name[0]) if name != "B" else 1
        return float(digits) * factor, factor * (0.05 if "." in digits else 0.5)
    if unit is results.Unit.SECONDS:
        digits, name = text.split()
        number = float(digits.replace(",", "")) * _SECONDS[name]
        return number, abs(number) * 0.5e-2 + 1e-300
    number = float(text.replace(",", ""))
    if unit in (results.Unit.SHARE, results.Unit.GAIN):
        return number / 100, 0.5e-4
    if unit is results.Unit.COUNT:
        return number, 0.5
    if unit is results.Unit.DECIMAL:
        return number, 0.5e-3
    return number, abs(number) * (0.5e-3 if unit is results.Unit.NUMBER else 0.05) + 1e-300


@holds(
    "memory_size.parse_memory", "memory_size.memory_text", "memory_size.part_of_memory",
    "memory_size.memory_budget",
    n_bytes=st.integers(1, 1 << 50), parts=st.integers(1, 100), text=st.text(max_size=6), weight=2,
)  # fmt: skip
def test_sizes_of_memory(n_bytes: int, parts: int, text: str) -> None:
    read = memory_size.parse_memory(memory_size.memory_text(n_bytes))
    assert abs(read - n_bytes) <= 0.06 * n_bytes
    assert memory_size.parse_memory(str(n_bytes)) == n_bytes
    with memory_size.memory_budget(n_bytes):
        part = memory_size.part_of_memory(parts, most=1 << 25)
    assert part == max(1, min(1 << 25, n_bytes // parts))
    with contextlib.suppress(UsageError):
        assert 1 <= memory_size.parse_memory(text) < 1 << 62


@holds(
    "types.row_blocks", "threads.for_each_block", "threads.n_threads", "rows.as_rows",
    "rows.ArrayInMemory.read", "rows.ArrayInMemory.at", "types.no_progress",
    n=st.integers(0, 50), step=st.integers(1, 60), values=matrices(),
)  # fmt: skip
def test_blocks(n: int, step: int, values: NDArray[Any]) -> None:
    blocks = types.row_blocks(n, step)
    seen = np.zeros(n, np.int64)

    def see(block: slice) -> None:
        seen[block] += 1

    threads.for_each_block(see, blocks)
    assert (seen == 1).all()
    assert threads.n_threads() >= 1
    assert all(0 < block.stop - block.start <= step for block in blocks)
    assert types.no_progress(blocks, "") == blocks
    stored = rows.as_rows(values)
    assert stored is rows.as_rows(stored)
    read = [stored.read(block.start, block.stop) for block in types.row_blocks(len(values), step)]
    assert np.array_equal(np.concatenate(read), values)
    assert stored.at(np.array([0])) is values


@holds(
    "columns.check_columns", "columns.check_range",
    values=st.lists(st.integers(-3, 300), max_size=5), stop=st.integers(0, 256), more=st.integers(0, 1),
    dtype=st.sampled_from(INTEGERS),
)  # fmt: skip
def test_columns(values: list[int], stop: int, more: int, dtype: Any) -> None:
    kept = [value for value in values if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max]
    column = np.array(kept, dtype)
    inside = all(0 <= value < stop for value in kept)
    assert _refused(lambda: columns.check_range(column, stop, "x")) is not inside
    other = np.zeros(len(column) + more)
    assert _refused(lambda: columns.check_columns(a=column, b=other)) is bool(more)


def _refused(check: Callable[[], object]) -> bool:
    try:
        check()
    except DataError:
        return True
    return False
