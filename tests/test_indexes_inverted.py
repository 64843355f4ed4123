"""The kinds with inverted lists, against faiss's own lists and float64 brute force."""

import tracemalloc

import faiss
import numpy as np
import pytest

from resmem_cli.errors import DataError, UsageError
from resmem_cli.indexes import list_scanner
from resmem_cli.indexes.approximate import BUILT_ANEW
from resmem_cli.indexes.base import Build, QualityTarget
from resmem_cli.indexes.clustering import Centres, default_lists, drawn_sample, learnt_centres
from resmem_cli.indexes.ivf import IVFIndex
from resmem_cli.indexes.ivf_pq import IVFPQIndex
from resmem_cli.indexes.ivf_rabitq import IVFRaBitQIndex
from resmem_cli.indexes.lists import ListLayout, ListWriter, MappedLists, checked_layout
from resmem_cli.indexes.rotated import Rotated, random_axes
from resmem_cli.indexes.space import Space
from resmem_cli.rows import ArrayInMemory
from resmem_cli.scratch import Scratch
from resmem_cli.types import Metric

N, D = 1500, 12
CASES = {
    "ivf-float16": (IVFIndex, {}),
    "ivf-float32": (IVFIndex, {"storage": "float32"}),
    "ivf-rabitq": (IVFRaBitQIndex, {}),
    "ivf-rabitq-1": (IVFRaBitQIndex, {"bits": 1}),
    "ivf-pq": (IVFPQIndex, {}),
    "ivf-pq-residual": (IVFPQIndex, {"subquantizers": 6, "residual": True}),
    "ivf-pq-whole": (IVFPQIndex, {"residual": False}),
    "ivf-pq-odd": (IVFPQIndex, {"subquantizers": 3}),
    "ivf-pq-8": (IVFPQIndex, {"bits": 8}),
    "ivf-pq-8-6": (IVFPQIndex, {"subquantizers": 6, "bits": 8}),
}
every_case = pytest.mark.parametrize(("kind", "parameters"), CASES.values(), ids=CASES)
every_kind = pytest.mark.parametrize("kind", [IVFIndex, IVFRaBitQIndex, IVFPQIndex])


@pytest.fixture
def thread_count():
    """Set faiss's thread count, and put it back after the test."""
    before = faiss.omp_get_max_threads()
    yield faiss.omp_set_num_threads
    faiss.omp_set_num_threads(before)


def in_clusters(n=N, d=D, *, seed=0, spread=0.3):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, d)) + 3
    return (centres[rng.integers(40, size=n)] + rng.normal(scale=spread, size=(n, d))).astype(np.float32)


def brute_force(vectors, queries, k):
    to_all = np.linalg.norm(vectors.astype(np.float64) - queries[:, None].astype(np.float64), axis=2)
    rows = np.argsort(to_all, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(to_all, rows, axis=1)


def by_row(squares, rows):
    order = np.argsort(rows, axis=1, kind="stable")
    return np.take_along_axis(squares, order, axis=1), np.take_along_axis(rows, order, axis=1)


def recall(found, rows):
    return np.mean([len(np.intersect1d(*pair)) for pair in zip(found, rows, strict=True)]) / rows.shape[1]


def stored(index):
    """Give an index's arrays by name, as a file would hold them."""
    return {name: rows.read(0, rows.shape[0]).copy() for name, rows in index.datasets().items()}


def loaded(kind, arrays, parameters):
    return kind.load({name: ArrayInMemory(array) for name, array in arrays.items()}, parameters)


def assert_same(one, other):
    assert one.parameters() == other.parameters()
    arrays, others = stored(one), stored(other)
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)


def faiss_built(index):
    """Make faiss's own index with the same centres and code words, and add the rows to it."""
    arrays = stored(index)
    quantizer = faiss.IndexFlatL2(index.space.dimension)
    quantizer.add(arrays["lists/centroids"])
    engine = index.empty_engine(quantizer)
    engine.is_trained = True
    engine.add(index.space.searched(arrays["vectors"]))
    return engine, quantizer


@every_case
class TestEveryCoding:
    def test_the_lists_are_those_of_faiss(self, kind, parameters):
        vectors, queries = in_clusters(), in_clusters(60, seed=1)
        index = kind.build(vectors, parameters=parameters)
        engine, _quantizer = faiss_built(index)
        searched = index.space.searched(queries)
        for probe in (1, 5, index.probes[-1]):
            engine.nprobe = probe
            squares, rows = by_row(*engine.search(searched, N))
            own_squares, own_rows = by_row(*index.nearest_codes(searched, N, probe=probe)[1::-1])
            np.testing.assert_array_equal(own_rows, rows)
            squares[rows < 0] = np.inf
            if kind is IVFRaBitQIndex:
                # A few are raised: see `LowerBounds`.
                assert (own_squares >= squares).all()
                raised = own_squares > squares
                assert raised.mean() < 0.05
                if raised.any():
                    assert np.median(own_squares[raised] / squares[raised]) < 1.2
                squares = own_squares
            else:
                np.testing.assert_allclose(own_squares, squares, rtol=1e-5)
            # Of equally near codes those of the first rows, which faiss leaves open.
            order = np.lexsort((rows, squares))[:, :40]
            found, compared = index.candidates(searched, 40, probe=probe)
            expected = np.take_along_axis(rows, order, axis=1)
            np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(expected, axis=1))
            lists = index.centres.nearest(searched, probe)[0]
            sizes = [engine.get_list_size(int(number)) for number in lists.ravel()]
            assert compared == sum(sizes) / len(queries)
        assert compared == N

    def test_all_lists_find_nearly_every_neighbour(self, kind, parameters):
        vectors, queries = in_clusters(), in_clusters(60, seed=1)
        index = kind.build(vectors, parameters=parameters)
        index.choose_effort(probe=index.probes[-1], rerank=16)
        found = index.search(queries, 10)
        rows, distances = brute_force(vectors, queries, 10)
        assert recall(found.rows, rows) > 0.995
        same = found.rows == rows
        np.testing.assert_allclose(found.distances[same], distances[same], rtol=1e-13)
        assert found.steps == {"candidates": 60}

    def test_a_few_lists_find_most_neighbours(self, kind, parameters):
        vectors, queries = in_clusters(6000), in_clusters(200, seed=1)
        index = kind.build(vectors, parameters={**parameters, "lists": 128})
        assert index.effort.probe <= index.probes[-1] / 8
        index.choose_effort(probe=8, rerank=8)
        assert recall(index.search(queries, 10).rows, brute_force(vectors, queries, 10)[0]) > 0.9

    def test_a_query_has_the_same_answer_in_any_batch_and_with_any_threads(
        self, kind, parameters, thread_count, monkeypatch
    ):
        vectors, queries = in_clusters(), in_clusters(300, seed=1)
        index = kind.build(vectors, parameters=parameters)
        index.choose_effort(probe=3)
        whole = index.search(queries, 20)
        thread_count(1)
        parts = [index.search(part, 20) for part in np.split(queries, [1, 2, 9, 50])]
        monkeypatch.setattr(list_scanner, "_BATCH_ELEMENTS", 60)
        parts.append(index.search(queries[::-1], 20))
        rows = np.concatenate([part.rows for part in parts])
        distances = np.concatenate([part.distances for part in parts])
        np.testing.assert_array_equal(rows, np.concatenate([whole.rows, whole.rows[::-1]]))
        np.testing.assert_array_equal(distances, np.concatenate([whole.distances, whole.distances[::-1]]))

    def test_the_same_rows_give_the_same_bytes_with_any_threads_blocks_and_scratch(
        self, kind, parameters, thread_count, monkeypatch, tmp_path
    ):
        vectors = in_clusters()
        whole = kind.build(vectors, parameters=parameters)
        thread_count(1)
        assert_same(kind.build(vectors, parameters=parameters), whole)
        for rows in (7, 1499):
            monkeypatch.setattr(kind, "block_rows", lambda self, build, rows=rows: rows)
            build = Build(scratch=Scratch(tmp_path))
            assert_same(kind.build(vectors, parameters=parameters, build=build), whole)

    def test_what_was_stored_answers_alike(self, kind, parameters):
        vectors, queries = in_clusters(), in_clusters(50, seed=1)
        index = kind.build(vectors, parameters=parameters)
        again = loaded(kind, stored(index), index.parameters())
        assert_same(again, index)
        assert again.search(queries, 9).rows.tolist() == index.search(queries, 9).rows.tolist()

    def test_with_rows_added_it_is_the_memory_built_at_once(self, kind, parameters, monkeypatch):
        rows = in_clusters(2000)
        index = kind.build(rows[:N], parameters={**parameters, "lists": 16})
        # Built at once, with the centres, code words and mean that the update keeps.
        whole = kind(ArrayInMemory(rows), index.space, index.settings)
        whole.centres, whole.codebook = index.centres, index.codebook
        whole.fill(None, build=Build())
        for block_rows in (1 << 18, 311):
            monkeypatch.setattr(kind, "block_rows", lambda self, build, block_rows=block_rows: block_rows)
            updated, notices = index.updated(ArrayInMemory(rows), np.arange(N))
            assert not notices
            assert_same(updated, whole)
        updated.choose_effort(probe=updated.probes[-1], rerank=200)
        found = updated.search(rows[::20], 1)
        assert found.rows[:, 0].tolist() == list(range(0, len(rows), 20))

    def test_after_a_removal_it_is_the_memory_built_from_scratch(self, kind, parameters):
        vectors = in_clusters(2000)
        index = kind.build(vectors[:N], parameters={**parameters, "lists": 8})
        kept = np.flatnonzero(np.random.default_rng(2).random(N) < 0.7)
        for rows in (vectors[kept], np.concatenate([vectors[kept], vectors[N:]])):
            updated, notices = index.updated(ArrayInMemory(rows), kept)
            assert notices == (BUILT_ANEW,)
            assert_same(updated, kind.build(rows, parameters={**parameters, "lists": 8}))

    @pytest.mark.parametrize("n", [1, 2, 3, 7, 30])
    def test_more_lists_than_the_rows_left_can_fill_become_fewer(self, kind, parameters, n):
        vectors = in_clusters(40)
        build = Build(quality=QualityTarget(k=2))
        index = kind.build(vectors, parameters={**parameters, "lists": 20}, build=build)
        updated, _ = index.updated(ArrayInMemory(vectors[:n]), np.arange(n), build=build)
        assert 1 <= updated.settings["lists"] <= max(1, n // 2)
        updated.choose_effort(probe=updated.probes[-1], rerank=40)
        assert updated.search(vectors[:n], 1).rows[:, 0].tolist() == list(range(n))

    def test_an_update_may_remove_or_add_all_rows(self, kind, parameters):
        vectors = in_clusters()
        index = kind.build(vectors, parameters=parameters)
        same, _ = index.updated(ArrayInMemory(vectors), np.arange(N))
        assert_same(same, index)
        for kept, rows in ((np.array([7]), vectors[[7]]), (np.empty(0, np.int64), vectors[:3])):
            updated, _ = index.updated(ArrayInMemory(rows), kept)
            assert updated.search(rows, 1).rows[:, 0].tolist() == list(range(len(rows)))

    def test_more_neighbours_than_the_lists_visited_hold(self, kind, parameters):
        vectors, queries = in_clusters(300), in_clusters(20, seed=1)
        index = kind.build(vectors, parameters=parameters)
        index.choose_effort(probe=1, rerank=1)
        found = index.search(queries, 300)
        assert found.rows.tolist() == brute_force(vectors, queries, 300)[0].tolist()
        assert found.steps == {"candidates": 0, "wider search": 20}

    @pytest.mark.parametrize("n", [1, 2, 3, 9, 40])
    def test_few_rows(self, kind, parameters, n):
        vectors = in_clusters(n)
        index = kind.build(vectors, parameters=parameters)
        for k in {1, n}:
            assert index.search(vectors, k).rows.tolist() == brute_force(vectors, vectors, k)[0].tolist()

    @pytest.mark.parametrize("value", [0, 1, -1e4, 1e30])
    def test_all_rows_equal(self, kind, parameters, value):
        index = kind.build(np.full((200, D), value, np.float32), parameters=parameters)
        found = index.search(np.full((2, D), value, np.float32), 200)
        assert found.rows.tolist() == [list(range(200))] * 2
        assert (found.distances == 0).all()

    @pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-10, 1e10, 1e19, 1e30])
    def test_values_at_the_ends_of_float32(self, kind, parameters, scale):
        vectors = (scale * (in_clusters(300).astype(np.float64) - 3)).astype(np.float32)
        if kind is IVFRaBitQIndex and scale > 1e15:
            with pytest.raises(DataError, match="too large for ivf-rabitq .*use the kind exact"):
                kind.build(vectors, parameters=parameters)
            return
        found = kind.build(vectors, parameters=parameters).search(vectors[:30], 300)
        np.testing.assert_allclose(found.distances, brute_force(vectors, vectors[:30], 300)[1], rtol=1e-13)
        assert np.sort(found.rows, axis=1).tolist() == [list(range(300))] * 30

    @pytest.mark.parametrize("scale", [1e10, 1e19, 1e37])
    def test_queries_far_away(self, kind, parameters, scale):
        vectors, queries = in_clusters(300), in_clusters(10, seed=1)
        queries[::2, 0] *= np.float32(scale)
        found = kind.build(vectors, parameters=parameters).search(queries, 5)
        rows, distances = brute_force(vectors, queries, 5)
        np.testing.assert_allclose(found.distances[::2], distances[::2], rtol=1e-4)
        assert np.isfinite(found.distances).all()
        if scale > 1e15:
            assert found.rows[::2].tolist() == rows[::2].tolist()
            assert found.n_scanned == 5

    def test_cosine(self, kind, parameters):
        lengths = np.random.default_rng(3).uniform(0.01, 100, size=(N, 1)).astype(np.float32)
        vectors, queries = in_clusters() * lengths, in_clusters(40, seed=1)
        index = kind.build(vectors, parameters=parameters, build=Build(metric=Metric.COSINE))
        index.choose_effort(probe=index.probes[-1], rerank=16)
        found = index.search(queries, 10)
        wide = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        asked = queries / np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
        distances = 1 - asked @ wide.T
        rows = np.argsort(distances, axis=1)[:, :10]
        assert recall(found.rows, rows) > 0.995
        np.testing.assert_allclose(
            found.distances, np.take_along_axis(distances, found.rows, axis=1), atol=1e-14
        )
        assert loaded(kind, stored(index), index.parameters()).metric == Metric.COSINE

    def test_float16_vectors(self, kind, parameters):
        vectors = in_clusters().astype(np.float16)
        index = kind.build(vectors, parameters=parameters)
        index.choose_effort(probe=index.probes[-1], rerank=16)
        assert recall(index.search(vectors[:50], 5).rows, brute_force(vectors, vectors[:50], 5)[0]) > 0.99

    def test_quality_is_measured_on_rows_that_the_centres_did_not_see(self, kind, parameters):
        build = Build(quality=QualityTarget(recall=0.9, k=10, queries=50))
        index = kind.build(in_clusters(3000), parameters=parameters, build=build)
        assert index.curve
        reached = [point for point in index.curve if point.recall >= 0.9]
        assert index.effort in [point.effort for point in reached]
        again = loaded(kind, stored(index), index.parameters())
        assert again.curve == tuple(index.curve) or len(again.curve) == len(index.curve)
        more, notices = index.updated(ArrayInMemory(in_clusters(3000)), np.arange(3000))
        assert more.curve == index.curve
        assert len(notices) == 1


@pytest.mark.parametrize(("spread", "residual"), [(0.05, True), (3, False)])
def test_the_centre_is_taken_off_where_lists_are_narrow(spread, residual):
    index = IVFPQIndex.build(in_clusters(spread=spread), parameters={"lists": 128})
    assert index.settings["residual"] is residual
    assert loaded(IVFPQIndex, stored(index), index.parameters()).settings["residual"] is residual


def test_the_settings_measured_go_up_to_all_lists():
    index = IVFIndex.build(in_clusters(), parameters={"lists": 20})
    n_lists = index.settings["lists"]
    assert index.probes == (*(probe for probe in (1, 2, 3, 4, 6, 8, 12, 16) if probe < n_lists), n_lists)


def test_float32_codes_in_all_lists_are_exact():
    vectors, queries = in_clusters(), in_clusters(100, seed=1)
    index = IVFIndex.build(vectors, parameters={"storage": "float32"})
    index.choose_effort(probe=index.probes[-1], rerank=2)
    rows, distances = brute_force(vectors, queries, 20)
    found = index.search(queries, 20)
    assert found.rows.tolist() == rows.tolist()
    np.testing.assert_allclose(found.distances, distances, rtol=1e-13)


class TestRefusals:
    @every_kind
    def test_an_unknown_parameter(self, kind):
        with pytest.raises(
            UsageError, match=f"{kind.kind} has no such parameter.*expected lists.*found nlist"
        ):
            kind.build(in_clusters(), parameters={"nlist": 4})

    @every_kind
    @pytest.mark.parametrize("lists", [0, N + 1, "4", 2.5])
    def test_numbers_of_lists(self, kind, lists):
        with pytest.raises(UsageError, match=f"lists of {kind.kind} out of range .expected 1 to 1,500"):
            kind.build(in_clusters(), parameters={"lists": lists})

    @every_kind
    def test_more_lists_than_rows_to_learn_from(self, kind):
        build = Build(quality=QualityTarget(queries=5))
        with pytest.raises(UsageError, match="more lists of .*expected 1 to 95, found 96"):
            kind.build(in_clusters(100), parameters={"lists": 96}, build=build)

    @pytest.mark.parametrize("bits", [0, 9, "four"])
    def test_bits(self, bits):
        with pytest.raises(UsageError, match="bits of ivf-rabitq out of range .expected 1 to 8"):
            IVFRaBitQIndex.build(in_clusters(), parameters={"bits": bits})

    @pytest.mark.parametrize("bits", [0, 3, 16, "4", True, None])
    def test_bits_that_no_code_word_has(self, bits):
        with pytest.raises(UsageError, match="bits of ivf-pq out of range .expected 4 or 8, found "):
            IVFPQIndex.build(in_clusters(), parameters={"bits": bits})

    @pytest.mark.parametrize("parts", [5, 7, 11])
    def test_subquantizers_that_do_not_divide_the_dimension(self, parts):
        with pytest.raises(UsageError, match=f"dimension 12 .expected 1, 2, 3, 4, 6, 12, found {parts}"):
            IVFPQIndex.build(in_clusters(), parameters={"subquantizers": parts})

    def test_storage(self):
        with pytest.raises(
            UsageError, match="no such storage of ivf .expected float32 or float16, found 'int8'"
        ):
            IVFIndex.build(in_clusters(), parameters={"storage": "int8"})

    @every_kind
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_row_that_is_not_finite_is_named(self, kind, bad):
        vectors = in_clusters()
        vectors[7, 3] = bad
        with pytest.raises(DataError, match="row 7 holds NaN"):
            kind.build(vectors)
        index = kind.build(in_clusters())
        with pytest.raises(DataError, match="row 7 holds NaN"):
            index.updated(ArrayInMemory(vectors), np.arange(3))
        vectors = np.concatenate([in_clusters(), vectors])
        with pytest.raises(DataError, match=f"row {N + 7:,} holds NaN"):
            index.updated(ArrayInMemory(vectors), np.arange(N))

    def test_rows_too_large_for_float16(self):
        vectors = 1e5 * in_clusters()
        with pytest.raises(DataError, match="too large for float16 .*use storage float32"):
            IVFIndex.build(vectors, parameters={"storage": "float16"})
        assert IVFIndex.build(vectors).settings["storage"] == "float32"
        assert IVFIndex.build(1e-6 * in_clusters()).settings["storage"] == "float32"
        assert IVFIndex.build(in_clusters()).settings["storage"] == "float16"

    def test_added_rows_too_large_for_float16(self):
        index = IVFIndex.build(in_clusters())
        rows = np.concatenate([in_clusters(), 1e5 * in_clusters(50, seed=1)])
        updated, notices = index.updated(ArrayInMemory(rows), np.arange(N))
        assert updated.settings["storage"] == "float32"
        assert "built anew: the added rows are too large" in notices[0]
        assert updated.search(rows[-3:], 1).rows[:, 0].tolist() == [N + 47, N + 48, N + 49]

    def test_added_rows_too_large_for_float16_while_others_are_removed(self):
        index = IVFIndex.build(in_clusters())
        rows = np.concatenate([in_clusters()[1:], 1e5 * in_clusters(50, seed=1)])
        updated, notices = index.updated(ArrayInMemory(rows), np.arange(1, N))
        assert updated.settings["storage"] == "float32"
        assert notices == (BUILT_ANEW,)

    def test_float32_that_was_asked_for_stays_after_a_removal(self):
        index = IVFIndex.build(in_clusters(), parameters={"storage": "float32"})
        updated, _ = index.updated(ArrayInMemory(in_clusters()[1:]), np.arange(1, N))
        assert updated.settings["storage"] == "float32"

    def test_lists_outgrown_are_told(self):
        index = IVFIndex.build(in_clusters(200))
        _, notices = index.updated(ArrayInMemory(in_clusters(6000)), np.arange(200))
        assert "few for 6,000 rows" in notices[0]


@pytest.fixture(scope="module", params=[IVFIndex, IVFRaBitQIndex, IVFPQIndex], ids=lambda kind: kind.kind)
def built(request):
    """Build an index, and give its kind and what would be stored."""
    index = request.param.build(in_clusters())
    return request.param, stored(index), index.parameters()


class TestForgedFiles:
    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("lists/sizes", lambda sizes: sizes + 1, "sizes of lists that do not hold"),
            ("lists/sizes", lambda sizes: sizes - sizes.max(), "sizes of lists that do not hold"),
            ("lists/sizes", lambda sizes: sizes * (1 << 61), "sizes of lists that do not hold"),
            ("lists/sizes", lambda sizes: sizes[:-1], "is not one number for each list"),
            ("lists/entries", lambda entries: entries[:-8], "lists of another length"),
            ("lists/entries", lambda entries: np.append(entries, entries[:8]), "lists of another length"),
            ("lists/centroids", lambda centres: centres[:-1], "is not of shape"),
            ("lists/centroids", lambda centres: centres[:, 1:], "is not of shape"),
            ("lists/centroids", lambda centres: centres * np.nan, "holds NaN"),
        ],
    )
    def test_arrays_that_do_not_fit(self, built, name, change, message):
        kind, arrays, parameters = built
        with pytest.raises(DataError, match=message):
            loaded(kind, {**arrays, name: change(arrays[name])}, parameters)

    @pytest.mark.parametrize(
        "change", [{"lists": 0}, {"lists": None}, {"effort": {"probe": 99, "rerank": 1}}]
    )
    def test_parameters_that_do_not_fit(self, built, change):
        kind, arrays, parameters = built
        with pytest.raises(DataError, match="build the index again"):
            loaded(kind, arrays, {**parameters, **change})

    @pytest.mark.parametrize(("kind", "name"), [(IVFPQIndex, "residual"), (IVFIndex, "storage")])
    @pytest.mark.parametrize("value", [None, 2, "yes"])
    def test_what_a_build_chooses_is_never_missing(self, kind, name, value):
        index = kind.build(in_clusters(200))
        with pytest.raises(DataError, match="parameters"):
            loaded(kind, stored(index), {**index.parameters(), name: value})

    @pytest.mark.parametrize("row", [-2, -1, N, 1 << 40, -(1 << 62)])
    def test_rows_that_are_not_there_are_never_used(self, built, row):
        kind, arrays, parameters = built
        layout = loaded(kind, arrays, parameters).layout
        entries = arrays["lists/entries"].copy()
        every = np.arange(len(layout.sizes))
        places = layout._row_words(every[layout.sizes > 0], np.zeros_like(every[layout.sizes > 0]))
        entries.view(np.int64)[places] = row
        index = loaded(kind, {**arrays, "lists/entries": entries}, parameters)
        index.choose_effort(probe=index.probes[-1])
        if row == -1:  # as if fewer rows were there
            found = index.search(arrays["vectors"][:9], N)
            assert np.sort(found.rows, axis=1).tolist() == [list(range(N))] * 9
        else:
            with pytest.raises(DataError, match="names a row that is not there"):
                index.search(arrays["vectors"][:9], N)
        with pytest.raises(DataError, match="names a row that is not there"):
            index.updated(ArrayInMemory(arrays["vectors"]), np.arange(N))

    def test_an_update_refuses_lists_that_lack_a_row(self, built):
        kind, arrays, parameters = built
        layout = loaded(kind, arrays, parameters).layout
        entries = arrays["lists/entries"].copy()
        largest = np.array([np.argmax(layout.sizes)])
        first, second = (layout._row_words(largest, np.array([slot])) for slot in (0, 1))
        entries.view(np.int64)[second] = entries.view(np.int64)[first]
        index = loaded(kind, {**arrays, "lists/entries": entries}, parameters)
        with pytest.raises(DataError, match="lacks row"):
            index.updated(ArrayInMemory(arrays["vectors"]), np.arange(N))

    def test_a_codebook_of_another_shape(self):
        index = IVFPQIndex.build(in_clusters(), parameters={"subquantizers": 6})
        arrays = stored(index)
        for book in (arrays["lists/codebook"][:, :15], arrays["lists/codebook"][..., :1]):
            with pytest.raises(DataError, match="lists/codebook: is not of shape"):
                loaded(IVFPQIndex, {**arrays, "lists/codebook": book}, index.parameters())
        del arrays["lists/codebook"]
        with pytest.raises(DataError, match="lists/codebook"):
            loaded(IVFPQIndex, arrays, index.parameters())


class ReadRows(ArrayInMemory):
    """Rows that tell which ranges of them were read."""

    def __init__(self, array):
        super().__init__(array)
        self.ranges = []

    def read(self, start, stop):
        self.ranges.append((start, stop))
        return super().read(start, stop)


class TestLists:
    layout = ListLayout(np.array([3, 0, 17, 8]), 5)

    def test_the_layout_by_hand(self):
        assert self.layout.room.tolist() == [8, 0, 24, 8]
        assert self.layout.offsets.tolist() == [0, 104, 104, 416, 520]
        assert (self.layout.n_rows, self.layout.n_bytes) == (28, 520)

    @pytest.mark.parametrize("interleaved", [False, True])
    @pytest.mark.parametrize("code_bytes", [1, 4, 6, 8, 24])
    @pytest.mark.parametrize("step", [1, 5, 28, 90])
    def test_what_is_written_is_read(self, code_bytes, step, interleaved):
        rng = np.random.default_rng(4)
        layout = ListLayout(np.array([3, 0, 79, 8]), code_bytes, interleaved=interleaved)
        n = layout.n_rows
        lists = rng.permutation(np.repeat(np.arange(4), layout.sizes))
        codes = rng.integers(256, size=(n, code_bytes)).astype(np.uint8)
        entries = np.zeros(layout.n_bytes, np.uint8)
        writer = ListWriter(layout, entries)
        blocks = [(first, min(first + step, n)) for first in range(0, n, step)]
        for start, stop in blocks:
            writer.append(lists[start:stop], np.arange(start, stop), codes[start:stop])
        parts = [layout.read(ArrayInMemory(entries), *block) for block in blocks]
        in_order = np.argsort(lists, kind="stable")
        assert np.concatenate([part[0] for part in parts]).tolist() == lists[in_order].tolist()
        assert np.concatenate([part[1] for part in parts]).tolist() == in_order.tolist()
        np.testing.assert_array_equal(np.concatenate([part[2] for part in parts]), codes[in_order])

    def test_interleaved_codes_lie_as_in_lists_of_faiss(self):
        index = IVFPQIndex.build(in_clusters(), parameters={"lists": 4})
        engine, _quantizer = faiss_built(index)
        entries, layout = stored(index)["lists/entries"], index.layout
        for number, size in enumerate(layout.sizes.tolist()):
            start, room = int(layout.offsets[number]), int(layout.room[number])
            assert (engine.invlists.list_size(number), room) == (size, -(-size // 32) * 32)
            packed = faiss.rev_swig_ptr(engine.invlists.get_codes(number), room * layout.code_bytes)
            np.testing.assert_array_equal(entries[start : start + len(packed)], packed)

    def test_only_lists_visited_are_read_and_each_once(self):
        entries = ReadRows(np.zeros(self.layout.n_bytes, np.uint8))
        lists = MappedLists(entries, self.layout)
        assert entries.ranges == []
        lists.check(np.array([[3, 2], [3, 3]]))
        assert entries.ranges == [(104, 520)]
        lists.check(np.array([0, 2]))
        assert entries.ranges == [(104, 520), (0, 104)]
        lists.check(np.array([0, 3]))
        assert len(entries.ranges) == 2

    def test_a_search_reads_the_lists_it_visits(self):
        index = IVFIndex.build(in_clusters())
        entries = ReadRows(stored(index)["lists/entries"])
        again = IVFIndex.load({**index.datasets(), "lists/entries": entries}, index.parameters())
        queries = again.space.searched(in_clusters(1, seed=1))
        again.candidates(queries, 5, probe=2)
        lists = np.sort(again.centres.nearest(queries, 2)[0][0])
        assert {at for span in entries.ranges for at in span} <= {
            int(at) for number in lists for at in again.layout.offsets[number : number + 2]
        }

    def test_lists_of_another_size_than_their_bytes(self):
        with pytest.raises(DataError, match="expected 28 rows in all"):
            checked_layout(np.array([3, 26, -1]), n=28, n_bytes=520, code_bytes=5)
        with pytest.raises(DataError, match="expected 520 bytes, found 519"):
            checked_layout(self.layout.sizes, n=28, n_bytes=519, code_bytes=5)


class TestClustering:
    def test_default_lists(self):
        assert [default_lists(n) for n in (1, 31, 64, 1000, 50_000, 1_000_000)] == [1, 1, 2, 16, 1024, 4096]
        assert default_lists(10**12) == 1 << 16
        few = [default_lists(n, per_root=0.5) for n in (1, 64, 1000, 50_000, 1_000_000)]
        assert few == [1, 2, 16, 128, 512]

    @pytest.mark.parametrize(("n", "d", "lists"), [(5000, 5, 37), (3000, 64, 100), (900, 200, 300)])
    def test_centres_have_the_same_bytes_with_any_threads(self, thread_count, n, d, lists, capfd):
        sample = in_clusters(n, d)
        found = []
        for threads in (1, 2):
            thread_count(threads)
            found.append(learnt_centres(sample.copy(), lists, seed=5))
        assert 0.95 * lists <= len(found[0]) <= lists
        assert np.array_equal(*found)
        assert not np.array_equal(found[0], learnt_centres(sample.copy(), lists, seed=6))
        assert capfd.readouterr() == ("", "")

    def test_near_centres_have_near_numbers(self):
        rng = np.random.default_rng(6)
        corners = 20 * np.array([[0, 0], [0, 1], [1, 0], [1, 1]]).repeat(64, axis=0)
        sample = (corners + rng.normal(size=corners.shape)).astype(np.float32)
        centres = learnt_centres(sample[rng.permutation(256)], 256, seed=0)
        assert len(centres) == 256
        corner = (centres > 10) @ [1, 2]
        assert (np.diff(corner) != 0).sum() < 20
        steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
        assert np.median(steps) < 1

    def test_a_sample_is_spread_and_leaves_rows_out(self):
        vectors = ArrayInMemory(np.arange(100_000, dtype=np.float32)[:, None])
        left_out = np.arange(0, 100_000, 2)
        space = Space(Metric.EUCLIDEAN, np.zeros(1))
        rows = drawn_sample(vectors, space, 400, left_out=left_out, build=Build())[:, 0]
        assert 12_000 < len(rows) < 13_600
        assert (np.diff(rows) > 0).all()
        assert (rows % 2 == 1).all()
        assert np.diff(rows).max() < 100
        few = drawn_sample(vectors, space, 400, left_out=left_out, build=Build(memory=1 << 14))
        assert 220 < len(few) < 290

    @pytest.mark.parametrize("spread", [0, 1e-6, 1])
    def test_the_nearest_centres_are_brute_forces_in_any_batch(self, spread):
        rng = np.random.default_rng(7)
        centres = (50 + spread * rng.normal(size=(90, 8))).astype(np.float32)
        centres[:30] = np.round(centres[:30])
        rows = (50 + spread * rng.normal(size=(200, 8))).astype(np.float32)
        found = Centres(centres)
        nearest, distances = brute_force(centres, rows, 90)
        for count in (1, 2, 7, 90):
            lists, squares = found.nearest(rows, count)
            assert lists.tolist() == nearest[:, :count].tolist()
            np.testing.assert_allclose(squares, distances[:, :count] ** 2, rtol=1e-6)
            alone = np.concatenate([found.nearest(row[None], count)[0] for row in rows[:20]])
            assert alone.tolist() == lists[:20].tolist()
        assert found.assign(rows).tolist() == nearest[:, 0].tolist()


class TestRotation:
    @pytest.mark.parametrize("d", [1, 12, 257])
    def test_a_rows_bits_do_not_depend_on_those_beside_it(self, d):
        rng = np.random.default_rng(8)
        space = Rotated(Metric.EUCLIDEAN, rng.normal(size=d), random_axes(d, seed=1))
        rows = (rng.normal(size=(300, d)) * 10.0 ** rng.integers(-20, 20, size=(300, 1))).astype(np.float32)
        whole = space.searched(rows)
        for part in (slice(0, 1), slice(5, 8), slice(100, 299)):
            assert np.array_equal(space.searched(rows[part]), whole[part])
        assert np.array_equal(space.searched(np.asfortranarray(rows)), whole)
        # To the bit what whole numbers give.
        exact = Space(space.metric, space.mean, space.axes).searched(rows)
        lengths = np.linalg.norm(exact.astype(np.float64), axis=1)
        assert (np.linalg.norm(whole - exact.astype(np.float64), axis=1) <= 1e-6 * lengths).all()

    def test_distances_stay(self):
        rng = np.random.default_rng(9)
        axes = random_axes(64, seed=2)
        np.testing.assert_allclose(axes.T @ axes, np.eye(64), atol=1e-5)
        assert np.array_equal(axes, random_axes(64, seed=2))
        rows = rng.normal(size=(50, 64)).astype(np.float32)
        space = Rotated(Metric.EUCLIDEAN, np.zeros(64), axes)
        np.testing.assert_allclose(
            np.linalg.norm(space.searched(rows), axis=1), np.linalg.norm(rows, axis=1), rtol=1e-5
        )


def test_learning_centres_takes_little_more_than_the_sample():
    sample = np.random.default_rng(0).normal(size=(1 << 17, 32)).astype(np.float32)
    learnt_centres(sample[:4096].copy(), 8, seed=0)  # what is loaded once counts for nothing
    tracemalloc.start()
    learnt_centres(sample, 16, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * sample.nbytes


@pytest.mark.parametrize(("n_lists", "rows"), [(10, 512), (300, 512), (4000, 4000)])
def test_a_sample_is_an_eighth_of_the_memory_at_most_unless_the_lists_need_more(n_lists, rows):
    vectors = ArrayInMemory(np.zeros((5000, 1024), np.float16))
    build = Build(memory=16 << 20)
    space = Space(Metric.EUCLIDEAN, np.zeros(1024))
    sample = drawn_sample(vectors, space, n_lists, left_out=np.empty(0, np.int64), build=build)
    assert len(sample) == rows


def test_the_curve_of_a_file_is_there_whole_or_not_at_all():
    index = IVFIndex.build(in_clusters(), build=Build(quality=QualityTarget(k=3)))
    arrays = stored(index)
    del arrays["curve/rerank"]
    with pytest.raises(DataError, match="curve/rerank: is missing"):
        loaded(IVFIndex, arrays, index.parameters())
