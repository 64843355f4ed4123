"""Which candidates a scan of lists takes where codes are equally near, and that shards have the same."""

from __future__ import annotations

import numpy as np
import pytest
from test_indexes_inverted import CASES, D, brute_force, in_clusters

from resmem_cli.errors import DataError, UsageError
from resmem_cli.indexes import list_scanner
from resmem_cli.indexes.base import Build
from resmem_cli.indexes.exact import ExactIndex
from resmem_cli.indexes.hnsw import HNSWIndex
from resmem_cli.indexes.ivf_rabitq import IVFRaBitQIndex
from resmem_cli.indexes.sharded import Part, ShardedInverted, merge_parts, sharded_index
from resmem_cli.rows import ArrayInMemory

N = 600
every_case = pytest.mark.parametrize(("kind", "parameters"), CASES.values(), ids=CASES)


def repeated(times, *, n=N):
    """Draw rows of which each is there several times, far apart."""
    order = np.random.default_rng(5).permutation(np.arange(n) % (n // times))
    return in_clusters(n // times)[order]


def built(kind, parameters, rows):
    return kind.build(rows, parameters={"lists": 4, **parameters})


def in_shards(index, n_shards):
    """Cut an index in shards with the same centres and codes."""
    shards = []
    for rows in np.array_split(index.vectors.read(0, N), n_shards):
        parameters = {"metric": str(index.metric), **index.settings}
        shard = type(index).with_learnt(ArrayInMemory(rows), index.learnt(), parameters)
        shard.fill(None, build=Build())
        shards.append(shard)
    return sharded_index(shards, index.common_datasets(), index.parameters())


def expected(index, queries, count, *, probe):
    """Scan all codes there are, and take the first by (square, row)."""
    rows, squares, _ = index.nearest_codes(queries, N, probe=probe)
    order = np.lexsort((rows, squares), axis=1)[:, :count]
    return np.take_along_axis(rows, order, axis=1)


def assert_same_sets(found, rows):
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(rows, axis=1))


@every_case
class TestOfEquallyNearCodes:
    @pytest.mark.parametrize("times", [3, 24, 100])
    def test_those_of_the_first_rows_are_taken(self, kind, parameters, times):
        index = built(kind, parameters, repeated(times))
        queries = index.space.searched(in_clusters(25, seed=1))
        for probe in index.probes:
            for count in (2, 7, 30, 150):
                found, squares, _ = index.nearest_codes(queries, count, probe=probe)
                assert_same_sets(found, expected(index, queries, count, probe=probe))
                assert np.array_equal(np.isinf(squares), found < 0)

    def test_shards_have_the_candidates_of_the_whole(self, kind, parameters):
        index = built(kind, parameters, repeated(24))
        queries = index.space.searched(in_clusters(25, seed=1))
        for n_shards in (1, 2, 5):
            sharded = in_shards(index, n_shards)
            for probe, count in ((1, 7), (2, 30), (index.probes[-1], 2)):
                rows, compared = index.candidates(queries, count, probe=probe)
                found, compared_in_shards = sharded.candidates(queries, count, probe=probe)
                assert_same_sets(found, rows)
                assert compared_in_shards == pytest.approx(compared)
                np.testing.assert_array_equal(sharded.ordered(queries, count, probe=probe)[0], found)
                np.testing.assert_array_equal(index.ordered(queries, count, probe=probe)[0], found)

    def test_shards_answer_as_the_whole(self, kind, parameters):
        index, queries = built(kind, parameters, repeated(24)), in_clusters(25, seed=1)
        for n_shards in (1, 3):
            sharded = in_shards(index, n_shards)
            for probe, rerank, k in ((1, 1, 10), (2, 2, 25), (1, 1, 400)):
                for one in (index, sharded):
                    one.choose_effort(probe=probe, rerank=rerank)
                whole, found = index.search(queries, k), sharded.search(queries, k)
                np.testing.assert_array_equal(found.rows, whole.rows)
                np.testing.assert_array_equal(found.distances, whole.distances)
                parts = [sharded.search_shard(number, queries, k) for number in range(n_shards)]
                # Of these some are left for a wider search.
                merged = merge_parts(index, parts, k)
                filled = merged.rows[:, -1] >= 0
                np.testing.assert_array_equal(merged.rows[filled], whole.rows[filled])
                np.testing.assert_array_equal(merged.distances[filled], whole.distances[filled])


def test_rabitq_codes_of_several_bits_are_compared_whatever_is_in_the_heap():
    """In a shard the heap holds farther rows, so that fewer codes are left out, of which some are near."""
    rng = np.random.default_rng(0)
    rows, queries = (rng.normal(size=(n, 64)).astype(np.float32) for n in (N, 200))
    index = built(IVFRaBitQIndex, {"bits": 8}, rows)
    sharded = in_shards(index, 4)
    searched = index.space.searched(queries)
    found = index.candidates(searched, 60, probe=4)[0]
    assert_same_sets(found, sharded.candidates(searched, 60, probe=4)[0])


class TestWidening:
    """More candidates are fetched until one is farther than the last that is wanted."""

    def test_it_does_not_matter_how_many_more_are_fetched_at_first(self, monkeypatch):
        kind, parameters = CASES["ivf-pq"]
        index = built(kind, parameters, repeated(100))
        queries = index.space.searched(in_clusters(25, seed=1))
        for tied in (1, 5, N):
            monkeypatch.setattr(list_scanner, "_TIED", tied)
            assert_same_sets(index.candidates(queries, 7, probe=2)[0], expected(index, queries, 7, probe=2))

    def test_most_queries_are_scanned_once(self, monkeypatch):
        kind, parameters = CASES["ivf-float32"]
        index = built(kind, parameters, in_clusters(N))
        queries = index.space.searched(in_clusters(25, seed=1))
        widths = []
        scan = list_scanner.ListScanner._scanned

        def scanned(self, queries, count, *arguments, **options):
            widths.append(count)
            return scan(self, queries, count, *arguments, **options)

        monkeypatch.setattr(list_scanner.ListScanner, "_scanned", scanned)
        index.candidates(queries, 7, probe=4)
        assert widths == [7 + list_scanner._TIED]

    def test_any_number_of_rows_may_be_equal(self, monkeypatch):
        """The widest scans are of few queries at a time."""
        monkeypatch.setattr(list_scanner, "_WIDENING", 3)
        monkeypatch.setattr(list_scanner, "_BATCH_ELEMENTS", 2 * N)
        for kind, parameters in CASES.values():
            index = built(kind, parameters, np.ones((N, D), np.float32))
            for count in (1, 7, N - 1, N):
                found = index.candidates(index.space.searched(in_clusters(7)), count, probe=1)[0]
                np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(count), (7, 1)))

    def test_lists_that_name_a_row_many_times_are_refused(self):
        kind, parameters = CASES["ivf-float16"]
        index = built(kind, parameters, np.ones((N, D), np.float32))
        entries, layout = index.entries.read(0, index.entries.shape[0]).copy(), index.layout
        entries[-8 * int(layout.room[-1]) :].view(np.int64)[:] = N - 1
        scanner = list_scanner.ListScanner(index.new_engine(), index.centres, ArrayInMemory(entries), layout)
        with pytest.raises(DataError, match="do not hold each row once"):
            scanner.nearest(index.space.searched(in_clusters(3)), 7, probe=1, together=3)


class TestMerging:
    def test_the_nearest_by_distance_then_row_by_hand(self):
        index = ExactIndex.build(np.eye(4, D, dtype=np.float32))
        parts = [
            Part(np.array([[1, 0]]), np.array([[1.0, 2.0]])),
            Part(np.array([[2, 3]]), np.array([[1.0, 2.0]])),
        ]
        for order in (parts, parts[::-1]):
            merged = merge_parts(index, order, 3)
            assert merged.rows.tolist() == [[1, 2, 0]]
            assert merged.distances.tolist() == [[1.0, 1.0, 2.0]]

    def test_only_candidates_of_the_whole_are_taken_by_hand(self):
        kind, parameters = CASES["ivf-float32"]
        index = kind.build(in_clusters(N), parameters={"lists": 4, **parameters})
        index.choose_effort(probe=4, rerank=1)
        # Row 2 is nearest, but its code is not; with one candidate more it is found.
        parts = [
            Part(np.array([[0, -1]]), np.array([[3.0, np.inf]]), np.array([[1, np.inf]], np.float32)),
            Part(np.array([[1, 2]]), np.array([[2.0, 0.5]]), np.array([[1, 4]], np.float32)),
        ]
        assert merge_parts(index, parts, 2).rows.tolist() == [[1, 0]]
        assert merge_parts(index, parts, 1).rows.tolist() == [[0]]
        index.choose_effort(probe=4, rerank=2)
        assert merge_parts(index, parts, 2).rows.tolist() == [[2, 1]]


class TestShardsThatDoNotGoTogether:
    def test_of_other_centres(self):
        one, other = (CASES["ivf-float32"][0].build(in_clusters(N, seed=seed)) for seed in (0, 1))
        with pytest.raises(DataError, match="shard 2 has other centres or codes than the first"):
            sharded_index([one, other], {}, one.parameters())

    def test_of_other_kinds(self):
        exact = ExactIndex.build(in_clusters(N))
        inverted = CASES["ivf-float32"][0].build(in_clusters(N))
        with pytest.raises(DataError, match="shards of several kinds or metrics"):
            sharded_index([exact, inverted], {}, {})

    def test_of_a_kind_that_can_not_be_cut(self):
        graph = HNSWIndex.build(in_clusters(N))
        with pytest.raises(DataError, match="hnsw can't be in shards"):
            sharded_index([graph, graph], {}, {})

    def test_nothing_is_built_or_changed(self):
        index = built(*CASES["ivf-float32"], in_clusters(N))
        sharded = in_shards(index, 2)
        assert isinstance(sharded, ShardedInverted)
        assert sharded.datasets() == {}
        for refused in (
            lambda: type(sharded).build(in_clusters(N)),
            lambda: type(sharded).load({}, {}),
            lambda: sharded.updated(sharded.vectors, np.arange(N)),
            lambda: sharded.build_parameters(N),
        ):
            with pytest.raises(UsageError, match="not for an index in shards"):
                refused()


def test_exact_shards_answer_as_brute_force():
    rows, queries = repeated(24), in_clusters(25, seed=1)
    for n_shards in (1, 3, 7):
        sharded = sharded_index([ExactIndex.build(part) for part in np.array_split(rows, n_shards)], {}, {})
        for k in (1, 30, N):
            found = sharded.search(queries, k)
            nearest, distances = brute_force(rows, queries, k)
            np.testing.assert_array_equal(found.rows, nearest)
            np.testing.assert_allclose(found.distances, distances, rtol=1e-12)
