"""Every point of a grid against `predict` with its settings, to the last query."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resmem_cli.calibration import FLOOR
from resmem_cli.logit_space import ClassMeans, compute_logit_residuals
from resmem_cli.memory import DenseMemory, TopMemory, neighbor_votes
from resmem_cli.prediction import predict_from_neighbors
from resmem_cli.residuals import compute_residuals, compute_top_residuals, softmax
from resmem_cli.tuning import methods, sweep
from resmem_cli.tuning.grid import Grid, Points
from resmem_cli.tuning.methods import Tuner, interpolate
from resmem_cli.tuning.sweep import Mix, Searched
from resmem_cli.tuning.tables import DenseTable, SparseTable
from resmem_cli.types import ResidualSpace
from resmem_cli.weights import neighbor_weights

KINDS = ("dense", "top 1", "top 2", "top all", "logit")
GRID = Grid((1, 2, 7, 20), (1e-40, 1e-12, 0.2, 0.9, 1e30, 1e300), (0.3, 1.0, 1.4), (0.0, 0.3, 1.0, 2.5))


class World:
    """A small memory and queries, with what `predict` says of them.

    `step` quantises all numbers, so that many distances and logits are equal.
    """

    def __init__(self, seed=0, *, n=60, q=25, n_classes=4, d=3, step=0.0, flat=False, kind="dense"):
        rng = np.random.default_rng(seed)

        def draw(*shape):
            numbers = rng.normal(size=shape)
            return np.round(numbers / step) * step if step else numbers

        rows, queries = draw(n, d), draw(q, d)
        if step:
            rows[n // 2 :] = rows[: n - n // 2]
            queries[: q // 2] = rows[: q // 2]
        distances = np.linalg.norm(queries[:, None] - rows[None], axis=2)
        order = np.argsort(distances, axis=1, kind="stable")
        self.labels = rng.integers(0, n_classes, n).astype(np.int32)
        self.logits = (draw(n, n_classes) * 2).astype(np.float32)
        own = (draw(q, n_classes) * 2).astype(np.float32)
        if flat:
            self.logits[:] = 0
            own[:] = 0
        self.searched = Searched(
            order, np.take_along_axis(distances, order, axis=1), own, rng.integers(0, n_classes, q)
        )
        self.kind = kind
        self.space = ResidualSpace.LOGIT if kind == "logit" else ResidualSpace.PROBABILITY
        self.n_classes = n_classes

    def residuals(self, temperature):
        if self.kind.startswith("top"):
            m = self.n_classes if self.kind == "top all" else int(self.kind[-1])
            top = compute_top_residuals(self.logits, self.labels, top=m, temperature=temperature)
            return SparseTable.of_residuals(top), TopMemory(top)
        if self.kind == "logit":
            means = ClassMeans(self.n_classes)
            means.update(self.logits, self.labels)
            dense = compute_logit_residuals(self.logits, self.labels, means.result())
        else:
            dense = compute_residuals(self.logits, self.labels, temperature=temperature)
        return DenseTable(dense), DenseMemory(dense)

    def tuner(self, **given):
        return Tuner(self.searched, self.labels, self.residuals, space=self.space, **given)

    def predict(self, point):
        found, k = self.searched, point["k"]
        return predict_from_neighbors(
            found.logits,
            rows=found.rows[:, :k],
            distances=found.distances[:, :k],
            neighbor_labels=self.labels[found.rows[:, :k]],
            residuals=self.residuals(point["temperature"])[1],
            sigma=point["sigma"],
            temperature=point["temperature"],
            strength=point["strength"],
            space=self.space,
        )

    def votes(self, point):
        found, k = self.searched, point["k"]
        weights = neighbor_weights(found.distances[:, :k], sigma=point["sigma"])
        return neighbor_votes(self.labels[found.rows[:, :k]], weights, n_classes=self.n_classes)


def assert_counts(point, right, base_right):
    """The shares of a point are these counts, to the last bit."""
    q = len(right)
    assert point["accuracy"] == right.sum() / q, point
    assert point["tpr"] == (right & ~base_right).sum() / q, point
    assert point["fpr"] == (~right & base_right).sum() / q, point


def assert_resmem_as_predicted(world, grid=GRID):
    points = world.tuner().resmem(grid)
    base_right = world.searched.logits.argmax(axis=1) == world.searched.labels
    assert len(points) == len(grid)
    for i in range(len(points)):
        point = points.at(i)
        assert_counts(point, world.predict(point).predicted == world.searched.labels, base_right)


def assert_same(one: Points, other: Points):
    assert one.columns().keys() == other.columns().keys()
    for name, values in one.columns().items():
        assert np.array_equal(values, other.columns()[name]), name


@pytest.fixture
def rechecked(monkeypatch):
    """Queries that were too close and decided in `predict`'s arithmetic."""
    counted = []
    recheck = sweep._recheck

    def count(unsure, *arguments):
        counted.append(unsure.shape[1])
        return recheck(unsure, *arguments)

    monkeypatch.setattr(sweep, "_recheck", count)
    return counted


def test_three_rows_by_hand():
    # Distances 0, log 2, log 4 weigh 4 : 2 : 1 with sigma 1; logits of log 3 and 0 are 3/4 and 1/4.
    logits = np.log([[3, 1], [1, 3], [1, 1]]).astype(np.float32)
    labels = np.array([1, 0, 0], np.int32)  # residuals (-3/4, 3/4), (3/4, -3/4), (1/2, -1/2)
    searched = Searched(
        np.array([[0, 1, 2]]), np.log([[1.0, 2.0, 4.0]]), np.log([[3, 2]]).astype(np.float32), np.array([1])
    )
    dense = compute_residuals(logits, labels, temperature=1)
    tuner = Tuner(searched, labels, lambda _: (DenseTable(dense), DenseMemory(dense)), likelihood=True)
    points = tuner.resmem(Grid((1, 2, 3), (1.0,), (1.0,), (1.0,)))
    # 0.4 + 3/4, 0.4 + 1/4, 0.4 + 1/7: of class 1, out of 1.
    assert points.accuracy.tolist() == [1, 1, 1]
    assert points.tpr.tolist() == [1, 1, 1]
    assert points.fpr.tolist() == [0, 0, 0]
    own = [1, 0.65, 0.4 + 1 / 7]
    assert np.allclose(points.nll, -np.log(own), atol=1e-6)
    weak = tuner.resmem(Grid((1, 2, 3), (1.0,), (1.0,), (0.25,)))
    assert weak.accuracy.tolist() == [1, 0, 0]  # 0.4 + 3/16, 0.4 + 1/16, 0.4 + 1/28
    votes = tuner.knn([1, 2, 3], [1.0])
    assert votes.accuracy.tolist() == [1, 1, 1]
    assert np.allclose(votes.nll, -np.log([1, 2 / 3, 4 / 7]), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("seed", "n_classes"), [(0, 3), (1, 5), (2, 7)])
def test_every_point_counts_as_predict_does(kind, seed, n_classes):
    assert_resmem_as_predicted(World(seed, n_classes=n_classes, kind=kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [0.5, 2.0])
def test_ties_count_as_predict_counts_them(kind, step, rechecked):
    assert_resmem_as_predicted(World(3, n_classes=4, step=step, kind=kind))
    assert sum(rechecked) > 50


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_knows_nothing_ties_all_classes(kind, rechecked):
    assert_resmem_as_predicted(World(4, n_classes=5, step=1.0, flat=True, kind=kind))
    assert sum(rechecked) > 50


@pytest.mark.parametrize("kind", KINDS)
def test_large_logits_count_as_predict_does(kind):
    world = World(5, n_classes=4, step=0.5, kind=kind)
    world.logits *= 200
    world.searched.logits[...] *= 200
    assert_resmem_as_predicted(world)


@pytest.mark.parametrize("kind", KINDS)
def test_one_class_is_always_right(kind):
    world = World(n_classes=1, kind="top 1" if kind.startswith("top") else kind)
    assert_resmem_as_predicted(world)
    assert set(world.tuner().resmem(GRID).accuracy) == {1}


def test_residuals_of_classes_that_no_neighbour_keeps():
    # 40 classes of which a neighbour stores 2: most classes stand in the column of all others.
    assert_resmem_as_predicted(World(6, n=30, n_classes=40, kind="top 2"))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_classes=st.integers(1, 6),
    step=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    kind=st.sampled_from(["dense", "top 1", "top all", "logit"]),
    ks=st.lists(st.integers(1, 20), min_size=1, max_size=4, unique=True).map(sorted),
    sigmas=st.lists(st.floats(1e-45, 1e35), min_size=1, max_size=3),
    temperatures=st.lists(st.sampled_from([0.01, 0.5, 1.0, 3.0]), min_size=1, max_size=2),
    strengths=st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 10.0]), min_size=1, max_size=3),
)
def test_any_grid_on_any_small_memory_counts_as_predict_does(
    seed, n_classes, step, kind, ks, sigmas, temperatures, strengths
):
    world = World(seed, n=20, q=12, n_classes=n_classes, step=step, kind=kind)
    assert_resmem_as_predicted(world, Grid(tuple(ks), tuple(sigmas), tuple(temperatures), tuple(strengths)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_float32_of_sums_is_rechecked_alike(kind, monkeypatch):
    """Deciding every query in `predict`'s arithmetic, or only those too close, is one result."""
    world = World(7, step=0.5, kind=kind)
    few = world.tuner().resmem(GRID)
    monkeypatch.setattr(sweep, "_UNIT", 1.0)
    assert_same(world.tuner().resmem(GRID), few)


class TestVotes:
    @pytest.mark.parametrize("dense_classes", [0, 2048])
    @pytest.mark.parametrize("step", [0.0, 0.5])
    def test_knn_counts_as_the_votes_do(self, step, dense_classes, monkeypatch):
        monkeypatch.setattr(methods, "_DENSE_CLASSES", dense_classes)
        world = World(8, n_classes=4, step=step)
        points = world.tuner().knn(GRID.k, GRID.sigma)
        base_right = world.searched.logits.argmax(axis=1) == world.searched.labels
        assert len(points) == len(GRID.k) * len(GRID.sigma)
        for i in range(len(points)):
            right = world.votes(points.at(i)).argmax(axis=1) == world.searched.labels
            assert_counts(points.at(i), right, base_right)

    @pytest.mark.parametrize("dense_classes", [0, 2048])
    @pytest.mark.parametrize("step", [0.0, 0.5])
    def test_knn_lm_counts_as_the_interpolation_does(self, step, dense_classes, monkeypatch, rechecked):
        monkeypatch.setattr(methods, "_DENSE_CLASSES", dense_classes)
        world = World(9, n_classes=4, step=step)
        points = world.tuner().knn_lm(GRID.k, GRID.sigma, (0.5, 1.0), (0.0, 0.1, 0.5, 1.0))
        base_right = world.searched.logits.argmax(axis=1) == world.searched.labels
        assert len(points) == len(GRID.k) * len(GRID.sigma) * 8
        for i in range(len(points)):
            point = points.at(i)
            network = softmax(world.searched.logits, temperature=point["temperature"])
            mixed = interpolate(world.votes(point), network, weight=point["strength"])
            assert_counts(point, mixed.argmax(axis=1) == world.searched.labels, base_right)
        assert not step or sum(rechecked) > 0

    def test_interpolation_by_hand(self):
        votes = np.array([[1, 0]], np.float32)
        mixed = interpolate(votes, np.array([[0.25, 0.75]], np.float32), weight=0.25)
        assert np.allclose(mixed, [[0.25 + 0.75 / 4, 0.75 * 3 / 4]])


def oracle_nll(world, point, memory, network):
    """Mean of -log p of the true classes, all in float64; scores clipped and normalised."""
    found, k, t = world.searched, point["k"], point["temperature"]
    queries = np.arange(len(found))
    distances = found.distances[:, :k]
    weights = np.exp(-(distances - distances[:, :1]) / point["sigma"])
    weights /= weights.sum(axis=1, keepdims=True)
    summed = np.einsum("qk,qkc->qc", weights, memory[found.rows[:, :k]])
    if world.space == ResidualSpace.LOGIT:
        scaled = (found.logits + point["strength"] * summed) / t
        scaled -= scaled.max(axis=1, keepdims=True)
        probabilities = np.exp(scaled)
    else:
        shares = np.exp((found.logits - found.logits.max(axis=1, keepdims=True)).astype(np.float64) / t)
        shares /= shares.sum(axis=1, keepdims=True)
        probabilities = np.maximum(point["strength"] * summed + network * shares, 0)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return -np.log(np.maximum(probabilities[queries, found.labels], FLOOR))


class TestLikelihood:
    GRID = Grid((1, 2, 7, 20), (0.05, 0.2, 0.9, 1e30), (0.3, 1.0, 1.4), (0.0, 0.3, 1.0, 2.5))

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("n_classes", [3, 40])
    def test_nll_is_that_of_the_clipped_and_normalised_scores(self, kind, n_classes):
        world = World(10, n_classes=n_classes, kind=kind)
        points = world.tuner(likelihood=True).resmem(self.GRID)
        for i in range(len(points)):
            point = points.at(i)
            table, memory = world.residuals(point["temperature"])
            dense = memory.top.to_dense() if kind.startswith("top") else table.vectors
            each = oracle_nll(world, point, dense.astype(np.float64), 1)
            # A probability that all but vanishes is one of rounding errors: its logarithm is not compared.
            settled = (each < -np.log(1e-4)) | (each >= -np.log(FLOOR))
            slack = (~settled).sum() * -np.log(FLOOR) / len(each)
            assert abs(point["nll"] - each.mean()) < 1e-3 + slack
            if settled.all():
                assert point["nll"] == pytest.approx(each.mean(), rel=1e-3)

    @pytest.mark.parametrize("dense_classes", [0, 2048])
    def test_nll_of_the_votes(self, dense_classes, monkeypatch):
        monkeypatch.setattr(methods, "_DENSE_CLASSES", dense_classes)
        world = World(11, n_classes=5)
        votes = np.eye(5)[world.labels]
        tuner = world.tuner(likelihood=True)
        knn = tuner.knn(self.GRID.k, self.GRID.sigma)
        for i in range(len(knn)):
            expected = oracle_nll(world, knn.at(i), votes, 0).mean()
            assert knn.nll[i] == pytest.approx(expected, rel=1e-5)
        lm = tuner.knn_lm(self.GRID.k, self.GRID.sigma, (0.7, 1.0), (0.2, 0.9))
        for i in range(len(lm)):
            expected = oracle_nll(world, lm.at(i), votes, 1 - lm.strength[i]).mean()
            assert lm.nll[i] == pytest.approx(expected, rel=1e-5)

    def test_no_label_costs_more_than_the_floor(self):
        world = World(12, n_classes=3)
        world.searched.logits[...] *= 1000
        points = world.tuner(likelihood=True).knn([1], [0.1])
        right = world.votes(points.at(0)).argmax(axis=1) == world.searched.labels
        assert points.nll[0] == pytest.approx((~right).mean() * -np.log(FLOOR), rel=1e-6)

    def test_without_it_no_nll_is_computed(self):
        assert World().tuner().resmem(self.GRID).nll is None


class TestWeights:
    WEIGHTS = np.array([0.0, 0.25, 1.0, 3.5, 10.0])

    @pytest.mark.parametrize("kind", KINDS)
    def test_shares_are_weighted_sums(self, kind):
        world = World(13, step=0.5, kind=kind)
        weights = np.random.default_rng(0).choice(self.WEIGHTS, size=len(world.searched))
        points = world.tuner(query_weights=weights, likelihood=True).resmem(GRID)
        labels = world.searched.labels
        base_right = world.searched.logits.argmax(axis=1) == labels
        total = weights.sum()
        for i in range(len(points)):
            point = points.at(i)
            right = world.predict(point).predicted == labels
            assert point["accuracy"] == pytest.approx(weights[right].sum() / total, abs=1e-12)
            assert point["tpr"] == pytest.approx(weights[right & ~base_right].sum() / total, abs=1e-12)
            assert point["fpr"] == pytest.approx(weights[~right & base_right].sum() / total, abs=1e-12)

    def test_points_with_the_same_right_answers_tie_to_the_last_bit(self):
        # Whichever column of the grid they stand in, and whatever stands beside them.
        world = World(13, step=0.5)
        weights = np.random.default_rng(0).uniform(0.1, 1, size=3)[np.arange(25) % 3]
        tuner = world.tuner(query_weights=weights)
        points = tuner.resmem(GRID)
        for i in range(len(points)):
            one = points.at(i)
            alone = tuner.resmem(Grid(*((one[name],) for name in ("k", "sigma", "temperature", "strength"))))
            assert alone.at(0) == one
        untouched = points.strength == 0
        assert not points.fpr[untouched].any()
        assert len(set(points.accuracy[untouched])) == 1

    def test_whole_weights_are_as_many_copies_of_a_query(self):
        world = World(14)
        found, times = world.searched, np.random.default_rng(1).integers(0, 4, size=25)
        weighted = world.tuner(query_weights=times.astype(np.float64), likelihood=True).resmem(GRID)
        some = np.repeat(np.arange(25), times)
        world.searched = Searched(
            found.rows[some], found.distances[some], found.logits[some], found.labels[some]
        )
        copied = world.tuner(likelihood=True).resmem(GRID)
        for name, values in copied.columns().items():
            assert np.allclose(values, weighted.columns()[name], rtol=0, atol=1e-12), name

    def test_equal_weights_are_none(self):
        tuner = World(15).tuner(query_weights=np.full(25, 0.2), likelihood=True)
        plain = World(15).tuner(likelihood=True).resmem(GRID)
        for name, values in tuner.resmem(GRID).columns().items():
            assert np.allclose(values, plain.columns()[name], rtol=0, atol=1e-12), name


class TestBlocks:
    @staticmethod
    def all_points(world):
        tuner = world.tuner(likelihood=True)
        return (
            tuner.resmem(GRID),
            tuner.knn(GRID.k, GRID.sigma),
            tuner.knn_lm(GRID.k, GRID.sigma, (0.5, 1.0), (0.2, 0.5)),
        )

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(("elements", "queries"), [(1, 4096), (20 * 4 * 3, 4096), (1 << 22, 7), (1, 1)])
    def test_their_size_changes_nothing(self, elements, queries, kind, monkeypatch):
        world = World(16, step=0.25, kind=kind)
        whole = self.all_points(world)
        monkeypatch.setattr(sweep, "_TERM_ELEMENTS", elements)
        monkeypatch.setattr(sweep, "_CHUNK_QUERIES", queries)
        for one, other in zip(self.all_points(world), whole, strict=True):
            assert_same(one, other)

    def test_their_size_changes_likelihoods_of_many_sparse_classes_by_rounding_only(self, monkeypatch):
        world = World(22, n_classes=57, kind="top 1")
        whole = world.tuner(likelihood=True).resmem(GRID)
        monkeypatch.setattr(sweep, "_TERM_ELEMENTS", 1)
        parts = world.tuner(likelihood=True).resmem(GRID)
        assert np.array_equal(parts.accuracy, whole.accuracy)
        assert np.allclose(parts.nll, whole.nll, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_number_of_threads_changes_nothing(self, kind, monkeypatch):
        monkeypatch.setattr(sweep, "_TERM_ELEMENTS", 200)
        world = World(17, step=0.25, kind=kind)
        found = {}
        for threads in ("1", "2", "5"):
            monkeypatch.setenv("OMP_NUM_THREADS", threads)
            found[threads] = self.all_points(world)
        for threads, one in itertools.product(("2", "5"), range(3)):
            assert_same(found[threads][one], found["1"][one])

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_order_of_the_queries_changes_no_count(self, kind):
        world = World(18, step=0.25, kind=kind)
        straight, found = world.tuner().resmem(GRID), world.searched
        world.searched = Searched(
            found.rows[::-1], found.distances[::-1], found.logits[::-1], found.labels[::-1]
        )
        assert_same(world.tuner().resmem(GRID), straight)

    def test_progress_sees_every_query_once(self):
        seen = []

        def progress(blocks, description):
            seen.extend(range(block.start, block.stop) for block in blocks)
            return blocks

        World(19).tuner(progress=progress).knn([1], [0.5])
        assert [i for block in seen for i in block] == list(range(25))


class TestTables:
    @pytest.mark.parametrize("m", [1, 3, 6])
    def test_sparse_terms_are_the_dense_ones_in_their_columns(self, m):
        rng = np.random.default_rng(m)
        labels = rng.integers(0, 6, 30).astype(np.int32)
        top = compute_top_residuals(rng.normal(size=(30, 6)), labels, top=m)
        rows, own = rng.integers(0, 30, (8, 5)), rng.integers(0, 6, 8)
        self.check(SparseTable.of_residuals(top), top.to_dense(), rows, own)

    def test_sparse_votes_are_the_dense_ones_in_their_columns(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 6, 30).astype(np.int32)
        rows, own = rng.integers(0, 30, (8, 5)), rng.integers(0, 6, 8)
        self.check(SparseTable.of_labels(labels, 6), np.eye(6, dtype=np.float32)[labels], rows, own)

    @staticmethod
    def check(sparse, dense, rows, own):
        terms, whole = sparse.terms(rows, own), DenseTable(dense).terms(rows, own)
        scores = np.random.default_rng(1).normal(size=(len(rows), dense.shape[1])).astype(np.float32)
        taken = terms.of(scores)
        assert np.array_equal(whole.values, dense[rows])
        assert whole.of(scores) is scores
        for i, columns in enumerate(terms.columns):
            inside = columns >= 0
            classes = columns[inside]
            assert not inside[-1]
            assert columns[terms.own[i]] == own[i]
            assert set(classes) == set(np.flatnonzero(dense[rows[i]].any(axis=0))) | {own[i]}
            assert len(set(classes)) == len(classes)
            assert np.array_equal(terms.values[i][:, inside], dense[rows[i]][:, classes])
            assert not terms.values[i][:, ~inside].any()
            assert np.array_equal(taken[i, inside], scores[i, classes])
            others = np.setdiff1d(np.arange(dense.shape[1]), classes)
            assert taken[i, -1] == scores[i, others].max(initial=-np.inf)
            assert (taken[i, :-1][~inside[:-1]] == -np.inf).all()

    def test_the_largest_entry_is_that_of_either_sign(self):
        assert DenseTable(np.array([[0.25, -0.75], [0.5, 0]], np.float32)).largest == 0.75


def test_a_recheck_of_many_is_done_in_parts(monkeypatch):
    world = World(20, step=1.0, flat=True)
    whole = world.tuner().resmem(GRID)
    monkeypatch.setattr(sweep, "_RECHECK_ELEMENTS", 1)
    assert_same(world.tuner().resmem(GRID), whole)


def test_a_mix_without_network_leaves_its_logits_out():
    world = World(21)
    one, other = (Mix(1.0, 0.0, t) for t in (1.0, 5.0))
    table = SparseTable.of_labels(world.labels, 4)
    recheck = world.tuner()._recheck_votes
    outcome = sweep.sweep(world.searched, table, [one, other], [1, 5], [0.5], recheck=recheck)
    assert np.array_equal(outcome.right[0], outcome.right[1])
