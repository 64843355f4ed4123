"""Searching with torch gives the answers of faiss, to the bit."""

import sys

import numpy as np
import pytest
from test_indexes_contract import assert_exact, brute_force, on_a_grid, same_bits

from resmem_cli.errors import MissingExtraError, UsageError
from resmem_cli.indexes import searched
from resmem_cli.indexes.base import Build
from resmem_cli.indexes.exact import ExactIndex
from resmem_cli.types import Metric

torch = pytest.importorskip("torch")

from resmem_cli.models import search as torch_search  # noqa: E402
from resmem_cli.models.search import TorchSearch  # noqa: E402

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def engine(request):
    return TorchSearch(request.param)


def with_engine(vectors, engine, **options):
    index = ExactIndex.build(vectors, **options)
    index.engine = engine
    return index


def points(seed, n=700, d=24):
    rng = np.random.default_rng(seed)
    return (50 + rng.normal(size=(n, d))).astype(np.float32)


@pytest.mark.parametrize("k", [1, 5, 53, 700])
@pytest.mark.parametrize("n_queries", [1, 40])
def test_the_bits_are_those_of_faiss(engine, k, n_queries):
    vectors, queries = points(0), points(1, n=n_queries)
    found = with_engine(vectors, engine).search(queries, k)
    assert_exact(found, vectors, queries, k)
    assert same_bits(found, ExactIndex.build(vectors).search(queries, k))


def test_no_queries(engine):
    assert with_engine(points(0), engine).search(points(1)[:0], 4).rows.shape == (0, 4)


@pytest.mark.parametrize("k", [1, 7, 60])
def test_ties_go_to_the_lower_row(engine, k):
    rng = np.random.default_rng(2)
    vectors, queries = on_a_grid(rng, 500, 3), on_a_grid(rng, 60, 3)
    assert_exact(with_engine(vectors, engine).search(queries, k), vectors, queries, k)


def test_more_twins_than_candidates_are_scanned(engine):
    vectors = np.ones((300, 4), np.float32)
    vectors[0] = 5
    found = with_engine(vectors, engine).search(np.ones((2, 4), np.float32), 3)
    assert found.rows.tolist() == [[1, 2, 3]] * 2
    assert found.n_scanned == 2


@pytest.mark.parametrize("scale", [1e-45, 1e-20, 1e18, 1e19, 1e30])
@pytest.mark.parametrize("n", [20, 200])
def test_values_at_the_ends_of_float32(engine, scale, n):
    rng = np.random.default_rng(7)
    vectors, queries = ((scale * rng.normal(scale=3, size=(rows, 8))).astype(np.float32) for rows in (n, 30))
    assert_exact(with_engine(vectors, engine).search(queries, 5), vectors, queries, 5)


def test_rows_whose_squares_overflow_among_rows_whose_do_not(engine):
    vectors = np.zeros((200, 8), np.float32)
    vectors[:, 0] = np.linspace(-2e18, 0, 200)
    vectors[0, 0] = 1.9e19
    queries = np.zeros((50, 8), np.float32)
    queries[:, 0] = np.linspace(0, 1.9e19, 50)
    assert_exact(with_engine(vectors, engine).search(queries, 2), vectors, queries, 2)


@pytest.mark.parametrize("metric", Metric)
def test_reduced_rows_and_any_metric(engine, metric):
    vectors, queries = points(3), points(4, n=30)
    build = Build(metric=metric)
    found = with_engine(vectors, engine, parameters={"axes": 3}, build=build).search(queries, 9)
    plain = ExactIndex.build(vectors, parameters={"axes": 0}, build=build).search(queries, 9)
    assert same_bits(found, plain)


def test_a_memory_in_blocks(engine, monkeypatch):
    vectors, queries = points(5), points(6, n=30)
    expected = ExactIndex.build(vectors).search(queries, 9)
    monkeypatch.setattr(searched, "KEPT_BYTES", 1000)
    monkeypatch.setattr(searched, "BLOCK_BYTES", 4 * 24 * 37)
    monkeypatch.setattr(torch_search, "_SQUARES", 100)
    index = with_engine(vectors, engine)
    assert same_bits(index.search(queries, 9), expected)
    assert same_bits(index.search(queries, 9), expected)


def test_blocks_kept_on_the_device_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(torch_search, "_free_bytes", lambda device: 1e9)
    engine = TorchSearch("cpu")
    vectors, queries = points(5), points(6, n=30)
    index = with_engine(vectors, engine)
    first = index.search(queries, 9)
    assert len(engine._kept) == 1
    assert same_bits(index.search(queries, 9), first)
    del index
    assert len(engine._kept) == 0


def test_torchs_own_precision_is_put_back(engine):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        vectors = points(8)
        found = with_engine(vectors, engine).search(vectors[:20], 5)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert found.rows[:, 0].tolist() == list(range(20))
    assert brute_force(vectors, vectors[:20], 5)[0].tolist() == found.rows.tolist()


def test_a_device_that_is_not_there():
    with pytest.raises(UsageError, match="no such device"):
        TorchSearch("cuda:99")


def test_without_torch_it_says_what_to_install(monkeypatch):
    for name in ("resmem_cli.models.extra", "resmem_cli.models.search", "resmem_cli.models.devices"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'resmem-cli\[torch\]'"):
        __import__("resmem_cli.models.search")
