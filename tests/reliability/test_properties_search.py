"""Distances, searches, the scale of a memory and the whole method, against numpy's differences in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from reliability.properties import EXTREMES, FLOATS, UNIT, holds, plain_softmax, within
from resmem_cli.errors import DataError
from resmem_cli.indexes import distances, proof, scale, space
from resmem_cli.indexes.base import Build, check_search, search_others
from resmem_cli.indexes.exact import ExactIndex
from resmem_cli.residual_memory import ResidualMemory
from resmem_cli.rows import ArrayInMemory, as_rows
from resmem_cli.types import Metric

ROUNDING = 2.0**-52
Draw = Callable[..., Any]


@st.composite
def memories(draw: Draw) -> dict[str, Any]:
    """Draw a memory and queries of any size, some of them rows of the memory."""
    n, d, n_queries = draw(st.integers(1, 12)), draw(st.integers(1, 5)), draw(st.integers(1, 6))
    element = draw(
        st.sampled_from((
            st.floats(-3, 3, width=32), st.sampled_from((0.0, 1.0, 2.0)), st.sampled_from(EXTREMES),
            st.floats(-1e3, 1e3, width=32).map(lambda value: 1e4 + value),
        ))
    )  # fmt: skip
    dtype = draw(st.sampled_from((np.float32, np.float16)))
    vectors = draw(arrays(np.float64, (n, d), elements=element))
    queries = draw(arrays(np.float64, (n_queries, d), elements=element))
    own = draw(arrays(np.int64, n_queries, elements=st.integers(-1, n - 1)))
    vectors, queries = (np.clip(values, *_RANGE[dtype]).astype(dtype) for values in (vectors, queries))
    queries[own >= 0] = vectors[own[own >= 0]]
    metric = draw(st.sampled_from(Metric))
    if metric is Metric.COSINE:
        # A row of zeros has no direction; tiny ones keep few digits of theirs in float16.
        vectors[:, 0] = np.where(np.abs(vectors).max(axis=1) > 1e-30, vectors[:, 0], 1)
        queries[:, 0] = np.where(np.abs(queries).max(axis=1) > 1e-30, queries[:, 0], 1)
    return {"vectors": vectors, "queries": queries, "metric": metric, "k": draw(st.integers(1, n))}


_RANGE = {np.float32: (-3e38, 3e38), np.float16: (-6e4, 6e4)}


def _squares(queries: NDArray[Any], vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Give squared Euclidean distances; sizes are divided by, so that no square is lost."""
    q, z = queries.astype(np.float64), vectors.astype(np.float64)
    differences = q[:, None, :] - z[None, :, :]
    return (differences * differences).sum(axis=2)


def _truth(queries: NDArray[Any], vectors: NDArray[Any], metric: Metric) -> NDArray[np.float64]:
    if metric is Metric.COSINE:
        unit = [rows / np.linalg.norm(rows, axis=1)[:, None] for rows in (
            queries.astype(np.longdouble), vectors.astype(np.longdouble))]  # fmt: skip
        differences = unit[0][:, None, :] - unit[1][None, :, :]
        return ((differences * differences).sum(axis=2) / 2).astype(np.float64)
    return np.sqrt(_squares(queries, vectors))


@holds(
    "distances.true_distances", "distances.straight", "distances.rough_squares", drawn=memories(), weight=2
)
def test_distances(drawn: dict[str, Any]) -> None:
    vectors, queries, metric = drawn["vectors"], drawn["queries"], drawn["metric"]
    n, d = vectors.shape
    rows = np.tile(np.arange(n), (len(queries), 1))
    rows[:, 0] = -1
    true = _truth(queries, vectors, metric)
    true[:, 0] = np.inf
    found = distances.true_distances(queries, rows, vectors=vectors, metric=metric)
    rounded = 8 * d**0.5 * ROUNDING * np.sqrt(true) + 16 * ROUNDING**2 if metric is Metric.COSINE else 0
    # Squares of differences below 1e-154 are rounded to what float64 has.
    off = (d + 4) * ROUNDING * true + rounded + 1e-160
    with np.errstate(invalid="ignore"):
        within(found[:, 1:], true[:, 1:], off[:, 1:])
    assert np.isinf(found[:, 0]).all()
    apart = distances.straight(found, metric)
    within(apart, np.sqrt(2 * found) if metric is Metric.COSINE else found, 0)
    squares, error = distances.rough_squares(queries, rows, vectors=as_rows(vectors), metric=metric)
    exact = np.minimum(apart[:, 1:] ** 2, float(np.finfo(np.float32).max) if error > 1e-10 else np.inf)
    within(squares[:, 1:], exact, exact * error + 2.0**-100)
    assert np.isinf(squares[:, 0]).all()


@holds(
    "exact.ExactIndex.build", "exact.ExactIndex.search", "proof.scan", "proof.nearest_candidates",
    "base.check_search", drawn=memories(), weight=4,
)  # fmt: skip
def test_nearest_rows(drawn: dict[str, Any]) -> None:
    """By (distance, row), and the same by the index, by a scan, and among candidates in any order."""
    vectors, queries, metric, k = drawn["vectors"], drawn["queries"], drawn["metric"], drawn["k"]
    n = len(vectors)
    all_rows = np.tile(np.arange(n), (len(queries), 1))
    true = distances.true_distances(queries, all_rows, vectors=vectors, metric=metric)
    wanted = np.argsort(true, axis=1, kind="stable")[:, :k]
    index = ExactIndex.build(vectors, build=Build(metric=metric))
    check_search(queries, k, index=index)
    found = index.search(queries, k)
    near = np.take_along_axis(true, wanted, axis=1)
    for rows, apart in (
        (found.rows, found.distances),
        proof.scan(queries, k, vectors=vectors, metric=metric),
        proof.nearest_candidates(queries, all_rows[:, ::-1].copy(), k, vectors=vectors, metric=metric),
    ):
        assert rows.tolist() == wanted.tolist()
        assert apart.tobytes() == near.tobytes()
    alone = index.search(queries[-1:], k)
    assert alone.rows.tolist() == wanted[-1:].tolist()


@holds("base.search_others", "scale.measure_distance_scale", drawn=memories(), weight=2)
def test_other_rows(drawn: dict[str, Any]) -> None:
    vectors, metric = drawn["vectors"], drawn["metric"]
    n = len(vectors)
    index = ExactIndex.build(vectors, build=Build(metric=metric))
    measured = scale.measure_distance_scale(index)
    if n == 1:
        assert measured["median"] == 0
        return
    k, own = min(drawn["k"], n - 1), np.arange(n)
    true = distances.true_distances(vectors, np.tile(own, (n, 1)), vectors=vectors, metric=metric)
    np.fill_diagonal(true, np.inf)
    wanted = np.argsort(true, axis=1, kind="stable")[:, : n - 1]
    found = search_others(index, vectors, own, k)
    assert found.rows.tolist() == wanted[:, :k].tolist()
    farthest = np.take_along_axis(true, wanted, axis=1)[:, min(53, n - 1) - 1]
    within(measured["median"], np.median(farthest), 0)


@holds(
    "space.squared_norms", "space.sum_squares", "space.directions", "space.mean_row", "space.check_rows",
    "space.Space.centred", "space.Space.searched", drawn=memories(), weight=2,
)  # fmt: skip
def test_space(drawn: dict[str, Any]) -> None:
    vectors, metric = drawn["vectors"], drawn["metric"]
    wide = vectors.astype(np.float64)
    squares = (wide.astype(np.longdouble) ** 2).sum(axis=1).astype(np.float64)
    within(space.squared_norms(vectors), squares, vectors.shape[1] * ROUNDING * squares)
    assert space.sum_squares(wide).tobytes() == space.squared_norms(vectors).tobytes()
    norms = np.where(squares > 0, np.sqrt(squares), 1)[:, None]
    within(space.directions(vectors), wide / norms, 8 * ROUNDING)
    rows = space.directions(vectors) if metric is Metric.COSINE else wide
    size = np.abs(rows).max(axis=0)
    mean = space.mean_row(ArrayInMemory(vectors), metric)
    within(mean, rows.astype(np.longdouble).mean(axis=0).astype(np.float64), 20 * ROUNDING * size)
    of = space.Space(metric, mean)
    within(of.centred(vectors), rows - mean, 4 * ROUNDING * size)
    with np.errstate(over="ignore"):
        assert np.array_equal(of.searched(vectors), of.centred(vectors).astype(np.float32))
    for dtype in FLOATS:
        with np.errstate(over="ignore"):
            cast = vectors.astype(dtype)
        assert _refused(lambda cast=cast: space.check_rows(cast, Metric.EUCLIDEAN)) is not bool(
            np.isfinite(cast).all()
        )
        if np.isfinite(cast).all():
            without = bool((~cast.any(axis=1)).any())
            assert _refused(lambda cast=cast: space.check_rows(cast, Metric.COSINE)) is without


@holds("proof.nearest_bounded", "proof.Rounding.limit", "proof.Differences.limit", drawn=memories(), weight=2)
def test_limits_of_rounding(drawn: dict[str, Any]) -> None:
    """What a search in float32 computes of a row is within the limit of its true distance."""
    vectors, queries = drawn["vectors"].astype(np.float32), drawn["queries"].astype(np.float32)
    n, d = vectors.shape
    of = space.Space(Metric.EUCLIDEAN, space.mean_row(ArrayInMemory(vectors)))
    centred = [of.centred(rows) for rows in (queries, vectors)]
    norms = [np.sqrt(space.squared_norms(rows)) for rows in centred]
    rounding = proof.Rounding(d, 1.01 * 2.0**-24, float(norms[1].max()))
    with np.errstate(over="ignore", invalid="ignore"):
        q, z = (rows.astype(np.float32) for rows in centred)
        products = (q * q).sum(axis=1)[:, None] - 2 * (q @ z.T) + (z * z).sum(axis=1)
        plain = ((queries[:, None] - vectors[None]) ** 2).sum(axis=2, dtype=np.float32)
    apart = np.sqrt(_squares(queries, vectors))
    bounds = np.empty((len(queries), n), np.float32)
    for row in range(n):
        limit = rounding.limit(norms[0], apart[:, row])
        good = np.isfinite(limit)
        assert (products[good, row] <= limit[good]).all(), (products[good, row], limit[good])
        by_differences = proof.Differences(d).limit(norms[0], apart[:, row])
        good = np.isfinite(by_differences)
        assert (plain[good, row] <= by_differences[good]).all()
    bounds[...] = np.where(np.isfinite(products), products, np.inf)
    order = np.argsort(bounds, axis=1, kind="stable")
    rows, found = proof.nearest_bounded(
        queries, norms[0], order, np.take_along_axis(bounds, order, axis=1), drawn["k"],
        vectors=as_rows(vectors), metric=Metric.EUCLIDEAN, rounding=rounding,
    )  # fmt: skip
    wanted = proof.scan(queries, drawn["k"], vectors=vectors)
    assert rows.tolist() == wanted[0].tolist()
    assert found.tobytes() == wanted[1].tobytes()


@holds(
    "residual_memory.ResidualMemory.fit", "residual_memory.ResidualMemory.predict",
    "residual_memory.ResidualMemory.neighbors",
    drawn=memories(), seed=st.integers(0, 1000), sigma=st.sampled_from((1e-9, 0.5, 3.0)), weight=2,
)  # fmt: skip
def test_the_whole_method(drawn: dict[str, Any], seed: int, sigma: float) -> None:
    """Equation 8; and with a small sigma, distinct rows give back their labels (remark 4.1)."""
    vectors, queries, k = drawn["vectors"], drawn["queries"], drawn["k"]
    generator = np.random.default_rng(seed)
    n_classes, t = 4, 1.4
    logits = generator.normal(size=(len(vectors), n_classes)).astype(np.float32)
    labels = generator.integers(n_classes, size=len(vectors))
    own = generator.normal(size=(len(queries), n_classes)).astype(np.float32)
    memory = ResidualMemory.fit(vectors, logits, labels, temperature=t)
    found = memory.predict(queries, own, k=k, sigma=sigma)
    all_rows = np.tile(np.arange(len(vectors)), (len(queries), 1))
    true = distances.true_distances(queries, all_rows, vectors=vectors)
    near = np.argsort(true, axis=1, kind="stable")[:, :k]
    assert memory.neighbors(queries, k=k).rows.tolist() == near.tolist()
    apart = np.take_along_axis(true, near, axis=1)
    with np.errstate(over="ignore", under="ignore"):
        raw = np.exp(-(apart - apart[:, :1]) / sigma)
    weights = raw / raw.sum(axis=1, keepdims=True)
    residuals = np.eye(n_classes)[labels] - plain_softmax(logits, t)
    wanted = plain_softmax(own, t) + (weights[:, :, None] * residuals[near]).sum(axis=1)
    within(found.scores, wanted, (60 + 4 * k) * UNIT * 2)
    if sigma < 1e-6 and len(np.unique(vectors, axis=0)) == len(vectors):
        again = memory.predict(vectors, logits, k=k, sigma=np.nextafter(0, 1))
        if not (np.sort(_truth(vectors, vectors, Metric.EUCLIDEAN), axis=1)[:, 1:2] < 1e-300).any():
            assert again.predicted.tolist() == labels.tolist()
            within(again.scores, np.eye(n_classes)[labels], 1e-6)


def _refused(check: Callable[[], object]) -> bool:
    try:
        check()
    except DataError:
        return True
    return False
