"""Recall measured on rows held out, against exact search."""

import numpy as np
import pytest

from resmem_cli.indexes.approximate import ApproximateIndex, Effort, Quality
from resmem_cli.indexes.base import Build, QualityTarget
from resmem_cli.indexes.quality import held_out_rows, tune
from resmem_cli.indexes.space import Space
from resmem_cli.memory_size import memory_budget
from resmem_cli.rows import ArrayInMemory
from resmem_cli.types import Metric


class Lossy(ApproximateIndex):
    """An index of known recall: with probe p, a query sees only those rows whose number modulo 8 is below p.

    Its order is rough: distances are rounded to whole numbers, so that re-ranking helps.
    """

    kind = "lossy"
    probe_name = "nprobe"
    reranks = (1, 2, 4)
    probes = (1, 2, 4, 8)
    code_bytes = 4
    build = load = datasets = parameters = updated = None

    def __init__(self, vectors, present=None, *, metric=Metric.EUCLIDEAN):
        self.vectors = ArrayInMemory(vectors)
        self.space = Space(metric, np.zeros(vectors.shape[1]))
        self.effort = Effort(1, 1)
        self.present = np.arange(len(vectors)) if present is None else present
        self.calls = []

    def candidates(self, searched_queries, count, *, probe):
        self.calls.append((probe, count))
        seen = self.present[self.present % 8 < probe]
        found = np.full((len(searched_queries), count), -1)
        rows = self.space.searched(self.vectors.array[seen])
        for query, searched in enumerate(searched_queries):
            order = np.argsort(np.rint(np.linalg.norm(rows - searched, axis=1)), kind="stable")
            best = seen[order[:count]]
            found[query, : len(best)] = best
        return found, float(len(seen))


Lossy.__abstractmethods__ = frozenset()


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(scale=3, size=(640, 4)).astype(np.float32)


def build(**target):
    return Build(quality=QualityTarget(**target))


def expected_recall(index, rows, k, probe, rerank, *, own_present):
    """Compute recall by hand, with distances in float64."""
    everything = index.vectors.array.astype(np.float64)
    shares = []
    for row in rows:
        distances = np.linalg.norm(everything - everything[row], axis=1)
        out = np.isin(np.arange(len(everything)), [row] if own_present else rows)
        distances[out] = np.inf
        true = set(np.argsort(distances)[:k].tolist())
        searched = index.space.searched(index.vectors.array[[row]])
        found, _ = index.candidates(searched, k * rerank + own_present, probe=probe)
        found = [other for other in found[0].tolist() if other != row and other >= 0][: k * rerank]
        shares.append(len(true & set(found)) / k)
    return np.mean(shares)


class TestHeldOutRows:
    def test_a_tenth_or_as_many_as_wanted(self):
        assert len(held_out_rows(640, build(queries=1000))) == 64
        assert len(held_out_rows(10**6, build(queries=1000))) == 1000
        assert len(held_out_rows(640, build(queries=5))) == 5

    @pytest.mark.parametrize(("n", "count"), [(1, 0), (2, 1), (3, 1), (19, 1), (20, 2)])
    def test_of_few_rows(self, n, count):
        assert len(held_out_rows(n, build())) == count

    def test_ascending_and_different_and_of_the_seed(self):
        rows = held_out_rows(1000, build())
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
        assert 0 <= rows[0] <= rows[-1] < 1000
        assert np.array_equal(rows, held_out_rows(1000, build()))
        other = held_out_rows(1000, Build(seed=1, quality=QualityTarget()))
        assert not np.array_equal(rows, other)

    def test_none_where_quality_is_not_to_be_measured(self):
        assert held_out_rows(1000, Build()).tolist() == []


@pytest.mark.parametrize("own_present", [True, False])
def test_recall_is_that_worked_out_by_hand(vectors, own_present):
    wanted = build(k=10)
    rows = held_out_rows(640, wanted)
    present = np.arange(640) if own_present else np.setdiff1d(np.arange(640), rows)
    index = Lossy(vectors, present)
    tune(index, rows, build=wanted, own_present=own_present)
    assert [point.effort for point in index.curve] == [
        Effort(probe, rerank) for probe in (1, 2, 4, 8) for rerank in (1, 2, 4)
    ]
    assert index.measured_k == 10
    for point in index.curve:
        by_hand = expected_recall(
            index, rows, 10, point.effort.probe, point.effort.rerank, own_present=own_present
        )
        assert point.recall == pytest.approx(by_hand, abs=1e-12)
        assert point.microseconds > 0
    assert index.curve[-1].recall > 0.99


def test_one_search_for_each_setting_serves_every_rerank(vectors):
    index = Lossy(vectors)
    tune(index, held_out_rows(640, build(k=10)), build=build(k=10), own_present=True)
    assert index.calls == [(1, 41), (2, 41), (4, 41), (8, 41)]


def test_a_queue_is_searched_for_each_number_of_candidates(vectors):
    index = Lossy(vectors)
    index.queued = True
    tune(index, held_out_rows(640, build(k=5)), build=build(k=5), own_present=True)
    # Queues of 1 and 2 would be of 5.
    assert index.calls == [(4, 6), (4, 11), (4, 21), (8, 6), (8, 11), (8, 21)]


def test_the_cheapest_effort_that_reaches_the_target_is_set(vectors):
    for recall in (0.1, 0.3, 0.9, 0.99):
        index, wanted = Lossy(vectors), build(k=10, recall=recall)
        tune(index, held_out_rows(640, wanted), build=wanted, own_present=True)
        chosen = next(point for point in index.curve if point.effort == index.effort)
        assert chosen.recall >= recall
        cheaper = [point for point in index.curve if point.compared < chosen.compared]
        assert all(point.recall < recall or point.effort.rerank > 1 for point in cheaper)


def test_without_an_effort_that_reaches_the_target_the_best_is_set(vectors):
    index, wanted = Lossy(vectors), build(k=10, recall=0.99)
    index.probes = (1, 2)
    tune(index, held_out_rows(640, wanted), build=wanted, own_present=True)
    best = max(point.recall for point in index.curve)
    assert best < 0.5
    assert next(point for point in index.curve if point.effort == index.effort).recall == best


def test_measuring_ends_where_recall_is_complete_or_stays(vectors):
    index = Lossy(vectors)
    index.probes = (8, 16, 32)
    index.reranks = (8,)
    tune(index, held_out_rows(640, build(k=5)), build=build(k=5), own_present=True)
    assert [probe for probe, _ in index.calls] == [8]
    index = Lossy(vectors, np.arange(0, 640, 2))
    index.probes = (8, 16, 32, 64, 128)
    tune(index, held_out_rows(640, build(k=5)), build=build(k=5), own_present=True)
    assert [probe for probe, _ in index.calls] == [8, 16, 32]


@pytest.mark.parametrize("own_present", [True, False])
@pytest.mark.parametrize("n", [2, 3, 11, 40])
def test_k_is_at_most_the_rows_there_are(vectors, n, own_present):
    wanted = build(k=53)
    rows = held_out_rows(n, wanted)
    present = np.arange(n) if own_present else np.setdiff1d(np.arange(n), rows)
    index = Lossy(vectors[:n], present)
    tune(index, rows, build=wanted, own_present=own_present)
    assert index.measured_k == (n - 1 if own_present else n - len(rows))
    assert index.curve[-1].recall == 1


@pytest.mark.parametrize("own_present", [True, False])
def test_twins_count_as_found_whichever_is_found(own_present):
    # All rows are the same: any k of them are the nearest.
    wanted = build(k=10)
    rows = held_out_rows(200, wanted)
    present = np.arange(200) if own_present else np.setdiff1d(np.arange(200), rows)
    index = Lossy(np.ones((200, 3), np.float32), present)
    tune(index, rows, build=wanted, own_present=own_present)
    assert index.curve[0].recall == 1


def test_held_out_rows_among_themselves_are_no_truth():
    # The held-out rows lie together, far from the others: their neighbours are to be sought among those.
    vectors = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    wanted = build(k=3, queries=20)
    rows = held_out_rows(200, wanted)
    vectors[rows] += np.float32(1000)
    index = Lossy(vectors, np.setdiff1d(np.arange(200), rows))
    index.probes, index.reranks = (8,), (32,)
    tune(index, rows, build=wanted, own_present=False)
    assert index.curve[-1].recall == 1


def test_cosine(vectors):
    wanted = build(k=10)
    scaled = vectors * np.linspace(0.1, 10, 640, dtype=np.float32)[:, None]
    index = Lossy(scaled, metric=Metric.COSINE)
    index.reranks = (60,)
    rows = held_out_rows(640, wanted)
    tune(index, rows, build=wanted, own_present=True)
    assert index.curve[-1].recall == 1


def test_nothing_is_set_where_nothing_is_to_be_measured(vectors):
    index = Lossy(vectors)
    tune(index, np.empty(0, np.int64), build=build(), own_present=True)
    tune(index, np.arange(3), build=Build(), own_present=True)
    assert (index.curve, index.effort, index.measured_k, index.calls) == ((), Effort(1, 1), 0, [])


def test_the_cheapest_weighs_codes_against_candidates(vectors):
    index = Lossy(vectors)
    index.measured_k = 10
    few_codes = Quality(Effort(1, 16), recall=0.9, compared=100)
    many_codes = Quality(Effort(8, 1), recall=0.9, compared=1000)
    index.curve = (few_codes, many_codes)
    assert index.cheapest(0.9) is many_codes
    index.code_bytes = 400
    assert index.cheapest(0.9) is few_codes


def test_given_queries_are_measured_against_all_rows(vectors):
    given = np.random.default_rng(9).normal(scale=3, size=(50, 4)).astype(np.float32)
    wanted = build(k=10, given=given)
    assert held_out_rows(640, wanted).tolist() == []
    index = Lossy(vectors)
    tune(index, held_out_rows(640, wanted), build=wanted, own_present=False)
    distances = np.linalg.norm(vectors.astype(np.float64) - given[:, None], axis=2)
    true = np.argsort(distances, axis=1)[:, :10]
    for point in index.curve:
        found, _ = index.candidates(given, 10 * point.effort.rerank, probe=point.effort.probe)
        shares = [len(np.intersect1d(*pair)) / 10 for pair in zip(found, true, strict=True)]
        assert point.recall == pytest.approx(np.mean(shares))
    assert index.curve[-1].recall > 0.99


def test_what_is_measured_does_not_depend_on_the_memory():
    class Counting(Lossy):
        def candidates(self, searched_queries, count, *, probe):
            found, _ = super().candidates(searched_queries, count, probe=probe)
            # A mean of one code, which times 49 is not 1 again.
            return found, max(1, len(found) // 49) / len(found)

    vectors = np.random.default_rng(6).normal(size=(2450, 4)).astype(np.float32)
    wanted = build(k=10, queries=245)
    curves = []
    for n_bytes in (1 << 33, 16 * 48 * 40 * 49):  # all queries together, and 49
        index = Counting(vectors)
        with memory_budget(n_bytes):
            tune(index, held_out_rows(2450, wanted), build=wanted, own_present=True)
        curves.append([(point.effort, point.recall, point.compared) for point in index.curve])
    assert curves[0] == curves[1]
    assert curves[0][0][2] == 5 / 245
