"""The graph of kind `hnsw`: what it stores, and that no file can lead faiss out of it."""

import numpy as np
import pytest

from resmem_cli.errors import DataError, UsageError
from resmem_cli.indexes.approximate import BUILT_ANEW, MEASURED_BEFORE
from resmem_cli.indexes.base import Build, QualityTarget
from resmem_cli.indexes.hnsw import HNSWIndex
from resmem_cli.rows import ArrayInMemory

N, D, LINKS = 500, 6, 4


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def index(vectors):
    build = Build(quality=QualityTarget(k=5, queries=30), seed=3)
    return HNSWIndex.build(vectors, parameters={"links": LINKS, "ef_construction": 40}, build=build)


@pytest.fixture
def arrays(index):
    """Copy the stored arrays, to be forged."""
    return {name: np.array(rows.read(0, rows.shape[0])) for name, rows in index.datasets().items()}


def loaded(index, arrays, **parameters):
    datasets = {name: ArrayInMemory(values) for name, values in arrays.items()}
    return HNSWIndex.load(datasets, {**index.parameters(), **parameters})


def links_of(arrays, node, level=0):
    """Give a view of the links of one node on one level."""
    starts = np.array([0, *(2 * LINKS + LINKS * np.arange(20))])
    offset = starts[arrays["graph/levels"][:node]].sum()
    return arrays["graph/neighbors"][offset + starts[level] : offset + starts[level + 1]]


def test_the_graph_is_stored_as_plain_arrays(index, arrays):
    levels, neighbors, rows = (arrays[f"graph/{name}"] for name in ("levels", "neighbors", "rows"))
    assert (levels.dtype, neighbors.dtype, rows.dtype) == (np.int32, np.int32, np.int64)
    assert len(neighbors) == (LINKS * (levels + 1)).sum()
    assert levels.min() == 1
    assert levels[index.parameters()["entry"]] == levels.max() > 1
    assert np.array_equal(np.sort(rows), np.arange(N))
    assert {"links": LINKS, "ef_construction": 40}.items() <= index.parameters().items()
    assert (links_of(arrays, 7) >= 0).any()


def test_queries_that_were_held_out_are_the_last_nodes(arrays):
    rows = arrays["graph/rows"]
    assert (np.diff(rows[:-30]) > 0).all()
    assert (np.diff(rows[-30:]) > 0).all()
    assert not np.array_equal(rows, np.arange(N))


def test_the_seed_makes_the_levels(vectors):
    made = [HNSWIndex.build(vectors, build=Build(seed=seed)).datasets() for seed in (0, 0, 1)]
    levels = [datasets["graph/levels"].read(0, N).tolist() for datasets in made]
    assert levels[0] == levels[1]
    assert levels[0] != levels[2]


def test_a_longer_queue_compares_and_finds_more(index, vectors):
    searched = index.space.searched(vectors[:50])
    compared = [index.candidates(searched, 5, probe=probe)[1] for probe in (5, 50, 400)]
    assert compared[0] < compared[1] < compared[2]
    found, _ = index.candidates(searched, 5, probe=400)
    assert found[:, 0].tolist() == list(range(50))


def test_parts_of_a_queue_shorter_than_k_are_not_measured(vectors):
    index = HNSWIndex.build(vectors, build=Build(quality=QualityTarget(k=100, queries=20)))
    assert [point.effort.probe for point in index.curve][0] == 64


def test_a_graph_in_blocks_is_found_whole(vectors, monkeypatch):
    # Blocks of 20 rows: a block may bring a node of a higher level, where every search then begins.
    monkeypatch.setattr("resmem_cli.indexes.hnsw._ADD_ELEMENTS", 20 * D)
    index = HNSWIndex.build(vectors)
    found = index.search(vectors, 1)
    assert (found.rows[:, 0] == np.arange(N)).all()


def test_additions_extend_the_graph(index, vectors):
    more = np.concatenate([vectors, vectors[:40] + np.float32(0.5)])
    grown, notices = index.updated(ArrayInMemory(more), np.arange(N))
    assert notices == (MEASURED_BEFORE,)
    levels = index.datasets()["graph/levels"].read(0, N)
    assert np.array_equal(grown.datasets()["graph/levels"].read(0, N), levels)
    assert grown.datasets()["graph/rows"].read(N, N + 40).tolist() == list(range(N, N + 40))
    assert (grown.effort, grown.curve) == (index.effort, index.curve)


def test_removals_build_it_anew_and_say_so(index, vectors):
    shrunk, notices = index.updated(ArrayInMemory(vectors[1:]), np.arange(1, N))
    assert notices == (BUILT_ANEW,)
    fresh = HNSWIndex.build(vectors[1:], parameters={"links": LINKS, "ef_construction": 40})
    for name, rows in fresh.datasets().items():
        assert np.array_equal(rows.read(0, rows.shape[0]), shrunk.datasets()[name].read(0, rows.shape[0]))


class TestForgedFiles:
    @pytest.mark.parametrize("value", [N, -2, 2**31 - 1, -(2**31)])
    def test_a_link_to_no_node(self, index, arrays, value):
        links_of(arrays, 123)[0] = value
        with pytest.raises(DataError, match="graph/neighbors: links to a node that is not there"):
            loaded(index, arrays)

    def test_a_link_to_a_node_below_its_level(self, index, arrays):
        high = int(np.flatnonzero(arrays["graph/levels"] > 1)[-1])
        low = int(np.flatnonzero(arrays["graph/levels"] == 1)[0])
        links_of(arrays, high, level=1)[-1] = low
        with pytest.raises(DataError, match="links to a node that is not on level 1"):
            loaded(index, arrays)

    @pytest.mark.parametrize("change", [-1, 1])
    def test_links_too_few_or_many(self, index, arrays, change):
        arrays["graph/neighbors"] = np.resize(
            arrays["graph/neighbors"], len(arrays["graph/neighbors"]) + change
        )
        with pytest.raises(DataError, match=r"graph/neighbors: has [\d,]+ values for [\d,]+ links"):
            loaded(index, arrays)

    @pytest.mark.parametrize("value", [0, -1, 1000, 2**31 - 1])
    def test_levels_out_of_range(self, index, arrays, value):
        arrays["graph/levels"][3] = value
        with pytest.raises(DataError, match="graph/levels: holds levels out of 1 to"):
            loaded(index, arrays)

    def test_levels_moved_between_nodes(self, index, arrays):
        high = int(np.flatnonzero(arrays["graph/levels"] > 1)[-1])
        levels = arrays["graph/levels"]
        levels[high], levels[0] = levels[0], levels[high]
        with pytest.raises(DataError, match=r"graph/neighbors|parameters\.entry"):
            loaded(index, arrays)

    @pytest.mark.parametrize("entry", [None, -1, N, 1.5, True, "0"])
    def test_an_entry_that_is_no_node(self, index, arrays, entry):
        with pytest.raises(DataError, match=r"parameters\.entry: is no node"):
            loaded(index, arrays, entry=entry)

    def test_an_entry_on_a_low_level(self, index, arrays):
        low = int(np.flatnonzero(arrays["graph/levels"] == 1)[0])
        with pytest.raises(DataError, match=r"parameters\.entry: is not on the highest level"):
            loaded(index, arrays, entry=low)

    @pytest.mark.parametrize("value", [-1, N, 0])
    def test_rows_that_are_no_permutation(self, index, arrays, value):
        arrays["graph/rows"][5] = value
        with pytest.raises(DataError, match=r"graph/rows: is not each of 500 rows once"):
            loaded(index, arrays)

    @pytest.mark.parametrize("links", [None, 0, 1, 513, "4", 4.0])
    def test_links_out_of_range(self, index, arrays, links):
        with pytest.raises(DataError, match="links of hnsw out of range"):
            loaded(index, arrays, links=links)

    def test_other_links_than_it_was_built_with(self, index, arrays):
        with pytest.raises(DataError, match="graph/neighbors"):
            loaded(index, arrays, links=LINKS + 1)

    def test_a_mean_that_does_not_fit(self, index, arrays):
        arrays["mean"] = arrays["mean"][:-1]
        with pytest.raises(DataError, match="mean: is not 6 finite numbers"):
            loaded(index, arrays)

    def test_a_curve_that_can_not_be(self, index, arrays):
        arrays["curve/recall"][0] = 1.5
        with pytest.raises(DataError, match="curve: holds an effort below 1"):
            loaded(index, arrays)

    def test_random_links_never_crash(self, index, arrays, vectors):
        rng = np.random.default_rng(1)
        for _ in range(5):
            arrays["graph/neighbors"][:] = rng.integers(-1, N, size=len(arrays["graph/neighbors"]))
            arrays["graph/levels"][:] = 1
            arrays["graph/neighbors"] = arrays["graph/neighbors"][: 2 * LINKS * N]
            found = loaded(index, arrays, entry=0).search(vectors[:20], 30)
            assert ((found.rows >= 0) & (found.rows < N)).all()


@pytest.mark.parametrize(
    "parameters", [{"links": 1}, {"links": 513}, {"links": 2.0}, {"ef_construction": 0}, {"links": True}]
)
def test_parameters_out_of_range(vectors, parameters):
    with pytest.raises(UsageError, match=f"{next(iter(parameters))} of hnsw out of range"):
        HNSWIndex.build(vectors, parameters=parameters)
