"""Searching in fewer columns first: bounds that hold, answers of brute force, and a choice that pays."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_indexes_contract import assert_exact, same_bits, whole
from threadpoolctl import threadpool_limits

from resmem_cli.errors import DataError, UsageError
from resmem_cli.indexes.base import Build
from resmem_cli.indexes.choice import Sample, candidates_for
from resmem_cli.indexes.exact import ExactIndex
from resmem_cli.indexes.principal import Reduction, principal_axes
from resmem_cli.rows import ArrayInMemory
from resmem_cli.types import Metric

UNIT = 2.0**-24


def decaying(rng, n, d, *, power=1.0, scale=1.0):
    """Draw rows whose k-th principal axis has a spread of k^−power, in a frame that goes with d."""
    rotation = np.linalg.qr(np.random.default_rng(d).normal(size=(d, d)))[0]
    rows = rng.normal(size=(n, d)) * np.arange(1.0, d + 1) ** -power
    return (scale * (rows @ rotation + 0.1)).astype(np.float32)


def forced(vectors, axes, candidates=60, metric=Metric.EUCLIDEAN):
    parameters = {"axes": axes, "candidates": candidates}
    return ExactIndex.build(vectors, parameters=parameters, build=Build(metric=metric))


class TestReduction:
    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(1, 40),
        st.integers(1, 40),
        st.sampled_from([1e-30, 1e-6, 1, 1e6, 1e18]),
        st.sampled_from([1, 1e-3, 1e-7]),
        st.integers(0, 2**32),
    )
    def test_no_two_reduced_rows_are_farther_apart_than_the_rows(self, d, r, scale, spread, seed):
        rng = np.random.default_rng(seed)
        reduction = Reduction(np.linalg.qr(rng.normal(size=(d, min(r, d))))[0])
        rows = scale * (rng.normal(size=d) + spread * rng.normal(size=(12, d)))
        # Rows within the axes' span have nothing left, and rows off it have nothing else.
        within = rows @ reduction.axes @ reduction.axes.T
        rows = np.concatenate([rows, within, rows - within])
        reduced = reduction.reduce(rows).astype(np.longdouble)
        wide, norms = rows.astype(np.longdouble), np.linalg.norm(rows, axis=1)
        bounds = np.sqrt(np.square(reduced[:, None] - reduced).sum(axis=2))
        distances = np.sqrt(np.square(wide[:, None] - wide).sum(axis=2))
        # Below float32's range, rounding is not in proportion; `Rounding.limit` has room for that.
        allowed = reduction.distortion * (norms[:, None] + norms) + 1e-44
        assert (bounds <= distances + allowed).all()

    def test_three_rows_by_hand(self):
        reduction = Reduction(np.array([[0.0], [1.0], [0.0]]))
        rows = np.array([[3.0, 7.0, 4.0], [0.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
        assert reduction.reduce(rows).tolist() == [[7, 5], [-1, 0], [0, 0]]
        assert reduction.columns == 2

    def test_all_axes_leave_nothing(self):
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(30, 8))
        reduced = Reduction(np.linalg.qr(rng.normal(size=(8, 8)))[0]).reduce(rows)
        np.testing.assert_allclose(reduced[:, -1], 0, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(reduced, axis=1), np.linalg.norm(rows, axis=1), rtol=1e-6)

    def test_its_distortion_is_a_small_multiple_of_float32s(self):
        for d, r in ((64, 8), (512, 63), (3072, 255)):
            axes = np.linalg.qr(np.random.default_rng(1).normal(size=(d, r)))[0]
            assert UNIT < Reduction(axes).distortion < 300 * UNIT

    @pytest.mark.parametrize("wrong", [1e-5, np.nan, 1e200])
    def test_axes_that_are_not_orthonormal(self, wrong):
        axes = np.eye(5)[:, :3]
        axes[0, 1] += wrong
        with pytest.raises(DataError, match="not orthonormal"):
            Reduction(axes)


class TestPrincipalAxes:
    @pytest.mark.parametrize("d", [1, 2, 60, 1100])
    def test_they_span_what_varies(self, d):
        rng = np.random.default_rng(2)
        r = max(1, d // 30)
        planted = np.linalg.qr(rng.normal(size=(d, r)))[0]
        points = rng.normal(size=(500, r)) @ planted.T * 10 + 1e-3 * rng.normal(size=(500, d))
        axes = principal_axes(points, r, seed=0)
        assert axes.shape == (d, r)
        np.testing.assert_allclose(axes.T @ axes, np.eye(r), atol=1e-13)
        np.testing.assert_allclose(np.linalg.norm(planted.T @ axes, axis=0), 1, atol=1e-6)

    @pytest.mark.parametrize("d", [20, 1100])
    @pytest.mark.parametrize("points", ["zeros", "one row", "low rank"])
    def test_points_that_vary_in_fewer_directions_than_asked_for(self, points, d):
        rng = np.random.default_rng(3)
        given = {
            "zeros": np.zeros((40, d)),
            "one row": rng.normal(size=(1, d)),
            "low rank": rng.normal(size=(40, 2)) @ rng.normal(size=(2, d)),
        }[points]
        axes = principal_axes(given, 10, seed=0)
        np.testing.assert_allclose(axes.T @ axes, np.eye(10), atol=1e-13)

    @pytest.mark.parametrize("d", [150, 1100])
    def test_any_number_of_threads_gives_the_same_bits(self, d, monkeypatch):
        points = decaying(np.random.default_rng(4), 700, d).astype(np.float64)
        found = []
        for threads in (1, 2, 3):
            monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
            with threadpool_limits(threads):
                found.append(principal_axes(points, 40, seed=0))
        assert np.array_equal(found[0], found[1])
        assert np.array_equal(found[0], found[2])


class TestSearch:
    @pytest.mark.parametrize("r", [1, 2, 5, 16, 40])
    @pytest.mark.parametrize("k", [1, 10, 53])
    @pytest.mark.parametrize("power", [0, 1, 3])
    def test_the_answer_is_brute_forces(self, power, k, r):
        rng = np.random.default_rng(5)
        vectors = decaying(rng, 600, 40, power=power)
        queries = np.concatenate([vectors[:20], decaying(rng, 20, 40, power=power)])
        found = forced(vectors, r).search(queries, k)
        assert_exact(found, vectors, queries, k)
        assert sum(found.steps.values()) == 40

    def test_every_step_is_named_and_counted(self):
        rng = np.random.default_rng(6)
        vectors = decaying(rng, 3000, 60, power=1.5)
        found = forced(vectors, 6, 90).search(vectors[:300], 53)
        assert list(found.steps) == ["6 axes, 90 candidates", "6 axes, all within reach", "scan"]
        assert sum(found.steps.values()) == 300
        assert min(list(found.steps.values())[:2]) > 20

    def test_what_reaches_too_far_is_compared_in_all_columns(self):
        vectors = np.random.default_rng(7).normal(size=(2000, 30)).astype(np.float32)
        found = forced(vectors, 1).search(vectors[:50], 10)
        assert_exact(found, vectors, vectors[:50], 10)
        assert found.steps["all columns"] == 50

    def test_duplicates_beyond_every_step_are_scanned(self):
        vectors = np.ones((2000, 30), np.float32)
        vectors[::2] += decaying(np.random.default_rng(8), 1000, 30)
        found = forced(vectors, 4).search(np.ones((3, 30), np.float32), 10)
        assert found.rows.tolist() == [list(range(1, 21, 2))] * 3
        assert found.n_scanned == 3

    @pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-30, 1e-20, 1e10, 1e17, 1e18, 1e19, 1e30])
    def test_values_at_the_ends_of_float32(self, scale):
        rng = np.random.default_rng(9)
        vectors = decaying(rng, 300, 12, scale=3 * scale)
        queries = decaying(rng, 30, 12, scale=3 * scale)
        assert_exact(forced(vectors, 4).search(queries, 5), vectors, queries, 5)

    def test_rows_of_large_norm_far_from_the_others(self):
        rng = np.random.default_rng(10)
        vectors = decaying(rng, 400, 20)
        vectors[::40] += np.float32(1e5)
        vectors[7::40, 3] -= np.float32(1e7)
        assert_exact(forced(vectors, 6).search(vectors, 9), vectors, vectors, 9)

    def test_low_rank(self):
        rng = np.random.default_rng(11)
        vectors = (rng.normal(size=(500, 3)) @ rng.normal(size=(3, 25))).astype(np.float32)
        found = forced(vectors, 3, 200).search(vectors[:60], 20)
        assert_exact(found, vectors, vectors[:60], 20)
        assert found.steps["3 axes, 76 candidates"] == 60

    def test_ties_on_a_grid(self):
        rng = np.random.default_rng(12)
        vectors = rng.integers(3, size=(500, 10)).astype(np.float32)
        for r in (1, 5, 10):
            assert_exact(forced(vectors, r).search(vectors[:80], 12), vectors, vectors[:80], 12)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    @pytest.mark.parametrize("metric", Metric)
    def test_any_type_and_metric(self, metric, dtype):
        rng = np.random.default_rng(13)
        vectors, queries = decaying(rng, 900, 30).astype(dtype), decaying(rng, 50, 30)
        found = forced(vectors, 8, 150, metric).search(queries, 20)
        plain = ExactIndex.build(vectors, parameters={"axes": 0}, build=Build(metric=metric))
        assert same_bits(found, plain.search(queries, 20))
        assert found.steps["8 axes, 57 candidates"] > 5

    @pytest.mark.parametrize("n", [1, 2, 3, 5, 54])
    def test_fewer_rows_than_candidates(self, n):
        rng = np.random.default_rng(14)
        vectors, queries = decaying(rng, n, 7), decaying(rng, 9, 7)
        for k in {1, n}:
            assert_exact(forced(vectors, 3).search(queries, k), vectors, queries, k)

    def test_no_queries(self):
        index = forced(decaying(np.random.default_rng(15), 300, 9), 3)
        assert index.search(np.empty((0, 9), np.float32), 5).rows.shape == (0, 5)

    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(1, 12),
        st.integers(1, 12),
        st.integers(54, 120),
        st.sampled_from([1, 1e-2, 1e-4, 1e-6]),
        st.integers(0, 2**32),
    )
    def test_squares_off_by_as_much_as_rounding_can_change_no_answer(self, r, k, candidates, spread, seed):
        rng = np.random.default_rng(seed)
        corners = rng.choice([-1, 1], size=(2, 12))
        vectors = (corners[rng.integers(2, size=90)] + spread * rng.normal(size=(90, 12))).astype(np.float32)
        queries = vectors[:8] + (spread * rng.normal(size=(8, 12))).astype(np.float32)
        index = forced(vectors, r, candidates)
        index.engine = Rounded(rng.choice([-1, 1], size=(8, 90)) * rng.uniform(0.9, 1, size=(8, 90)))
        assert_exact(index.search(queries, k), vectors, queries, k)


@dataclass
class Rounded:
    """An engine whose squares are off by `rounding` times what e float32 sums can lose."""

    rounding: np.ndarray
    reads_all_columns = False

    def nearest(self, queries, memory, count):
        n, e = memory.shape
        points, others = memory.read(0, n).astype(np.float64), queries.astype(np.float64)
        squares = np.square(others[:, None] - points).sum(axis=2)
        sizes = np.square(np.linalg.norm(others, axis=1)[:, None] + np.linalg.norm(points, axis=1))
        squares = (squares + self.rounding[: len(queries)] * (e + 4) * UNIT * sizes).astype(np.float32)
        rows = np.argsort(squares, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(squares, rows, axis=1), rows


@pytest.fixture(scope="module")
def steep():
    return decaying(np.random.default_rng(16), 12_000, 400, power=1.0)


class TestChoice:
    def test_columns_that_matter_little_are_left_for_last(self, steep):
        index = ExactIndex.build(steep)
        said = index.parameters()
        assert 0 < said["axes"] < 200
        assert said["sample"]["work"] < 0.8
        assert set(index.datasets()) == {"vectors", "mean", "axes", "reduced"}
        found = index.search(steep[:200], 53)
        assert next(iter(found.steps)) == f"{said['axes']} axes, {said['candidates']:,} candidates"
        # The sample foretells what the candidates prove.
        assert abs(next(iter(found.steps.values())) / 200 - said["sample"]["proved"]) < 0.1
        plain = ExactIndex.build(steep, parameters={"axes": 0})
        assert plain.parameters()["axes"] == 0
        assert same_bits(found, plain.search(steep[:200], 53))

    def test_columns_that_matter_alike_are_all_compared(self):
        vectors = np.random.default_rng(17).normal(size=(10_000, 100)).astype(np.float32)
        said = ExactIndex.build(vectors).parameters()
        assert said["axes"] == 0
        assert said["sample"]["work"] > 0.8

    @pytest.mark.parametrize("shape", [(9999, 100), (10_000, 64)])
    def test_small_memories_are_compared_in_all_columns_unasked(self, shape):
        said = ExactIndex.build(np.ones(shape, np.float32)).parameters()
        assert said["axes"] == 0
        assert "sample" not in said

    def test_the_same_bytes_for_any_number_of_threads(self, steep, monkeypatch):
        stored = []
        for threads in (1, 2):
            monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
            with threadpool_limits(threads):
                index = ExactIndex.build(steep)
            arrays = {name: whole(rows).tobytes() for name, rows in index.datasets().items()}
            stored.append((arrays, json.dumps(index.parameters())))
        assert stored[0] == stored[1]

    def test_rows_that_are_added_keep_mean_and_axes(self, steep):
        index = ExactIndex.build(steep[:11_000])
        more, _ = index.updated(ArrayInMemory(steep), np.arange(11_000))
        assert np.array_equal(more.space.mean, index.space.mean)
        assert np.array_equal(whole(more.datasets()["axes"]), whole(index.datasets()["axes"]))
        plain = ExactIndex.build(steep, parameters={"axes": 0})
        assert same_bits(more.search(steep[-100:], 53), plain.search(steep[-100:], 53))

    def test_a_sample_is_drawn_without_overlap_where_there_are_enough_rows(self):
        sample = Sample.draw(50_000, 0)
        parts = [sample.queries, sample.fit, sample.compared]
        assert [len(part) for part in parts] == [256, 8192, 16_384]
        assert len(np.unique(np.concatenate(parts))) == 256 + 8192 + 16_384
        for n in (1, 2, 100, 9000, 20_000):
            sample = Sample.draw(n, 0)
            assert min(len(sample.queries), len(sample.fit), len(sample.compared)) >= 1
            assert max(sample.queries.max(), sample.fit.max(), sample.compared.max()) < n

    @pytest.mark.parametrize(("k", "expected"), [(53, 400), (1, 8), (106, 800), (5, 38)])
    def test_candidates_go_with_k(self, k, expected):
        assert candidates_for(k, 400) == expected


class TestRefusals:
    vectors = decaying(np.random.default_rng(18), 200, 6)

    @pytest.mark.parametrize(
        ("parameters", "problem"),
        [
            ({"axes": 7}, r"axes out of range \(expected 0 to 6, found 7\)"),
            ({"axes": -1}, "axes out of range"),
            ({"axes": 2.5}, "axes out of range"),
            ({"axes": 3, "candidates": 53}, "candidates out of range .expected at least 54"),
            ({"nlist": 3}, "unknown parameter of the exact kind .expected axes or candidates, found nlist"),
        ],
    )
    def test_parameters(self, parameters, problem):
        with pytest.raises(UsageError, match=problem):
            ExactIndex.build(self.vectors, parameters=parameters)

    @pytest.mark.parametrize("n", [1, 5000])
    def test_a_row_that_is_not_finite_is_named(self, n):
        vectors = np.zeros((n, 3), np.float32)
        vectors[n - 1, 1] = np.nan
        with pytest.raises(DataError, match=f"row {n - 1:,} holds NaN or infinity"):
            ExactIndex.build(vectors)

    def load(self, **changed):
        index = forced(self.vectors, 3)
        datasets = index.datasets()
        parameters = index.parameters()
        for name, value in changed.items():
            if name in datasets:
                datasets[name] = ArrayInMemory(value)
            else:
                parameters[name] = value
        return ExactIndex.load(datasets, parameters)

    def test_parts_that_fit(self):
        assert self.load().shape == (200, 6)

    @pytest.mark.parametrize(
        ("changed", "problem"),
        [
            ({"mean": np.zeros(5)}, "mean row does not fit"),
            ({"mean": np.full(6, np.nan)}, "mean row holds NaN"),
            ({"axes": np.eye(6)[:, :2]}, "reduced rows do not fit"),
            ({"axes": np.ones((6, 3))}, "not orthonormal"),
            ({"axes": np.eye(5)[:, :3]}, "reduced rows do not fit"),
            ({"reduced": np.zeros((199, 4), np.float32)}, "reduced rows do not fit"),
            ({"candidates": None}, "no number of candidates"),
            ({"candidates": 53}, "no number of candidates"),
        ],
    )
    def test_parts_that_do_not_fit(self, changed, problem):
        with pytest.raises(DataError, match=problem):
            self.load(**changed)
