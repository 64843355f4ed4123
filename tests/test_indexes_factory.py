"""Indexes from faiss factory strings, and the bytes they are read back from."""

import os
import signal

import faiss
import numpy as np
import pytest

from resmem_cli.errors import DataError, UsageError
from resmem_cli.indexes.approximate import BUILT_ANEW, MEASURED_BEFORE
from resmem_cli.indexes.base import Build, QualityTarget
from resmem_cli.indexes.factory import FactoryIndex
from resmem_cli.rows import ArrayInMemory

N, D = 400, 8

STRINGS = {
    "Flat": ("probe", 1),
    "SQ8": ("probe", 1),
    "LSH": ("probe", 1),
    "PCA4,Flat": ("probe", 1),
    "RQ2x4": ("probe", 1),
    "SQ4,Refine(SQ8)": ("probe", 1),
    "IVF16,Flat": ("nprobe", 16),
    "IVF16,SQ8": ("nprobe", 16),
    "PCA4,IVF8_HNSW4,SQfp16": ("nprobe", 8),
    "IVF16,SQ4,RFlat": ("nprobe", 16),
    "IVF16,RaBitQ4": ("nprobe", 16),
    "HNSW8": ("efSearch", N),
    "HNSW8,SQ8": ("efSearch", N),
    "RR4,HNSW8,Refine(Flat)": ("efSearch", N),
}


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(20, D))[rng.integers(20, size=N)] * 5 + rng.normal(size=(N, D))).astype(
        np.float32
    )


def made(vectors, factory, **settings):
    return FactoryIndex.build(vectors, parameters={"factory": factory}, build=Build(**settings))


def stored(index):
    return {
        name: ArrayInMemory(np.array(rows.read(0, rows.shape[0]))) for name, rows in index.datasets().items()
    }


def forged(index, engine):
    """Give what a file would hold with other bytes of faiss's."""
    return {**stored(index), "engine": ArrayInMemory(np.frombuffer(engine, np.uint8))}


@pytest.mark.parametrize("factory", STRINGS)
def test_any_string_is_built_measured_searched_and_loaded(vectors, factory, capfd):
    index = made(vectors, factory, quality=QualityTarget(k=5, queries=20, recall=0.9))
    assert (index.probe_name, index.largest_probe) == STRINGS[factory]
    assert max(point.recall for point in index.curve) > 0.9
    assert np.array_equal(np.sort(stored(index)["graph/rows"].array), np.arange(N))
    found = index.search(vectors[:30], 5)
    assert np.mean(found.rows[:, 0] == np.arange(30)) > 0.9
    loaded = FactoryIndex.load(stored(index), index.parameters())
    again = loaded.search(vectors[:30], 5)
    assert np.array_equal(again.rows, found.rows)
    assert (loaded.code_bytes, loaded.probes) == (index.code_bytes, index.probes)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("factory", ["IVF64,PQ4", "OPQ4,IVF64,PQ4", "IVF64,PQ4,RFlat", "LSH", "IVF32,PQ8x6"])
def test_tables_and_rotations_larger_than_what_is_stored_are_loaded(vectors, factory):
    index = made(vectors, factory)
    loaded = FactoryIndex.load(stored(index), index.parameters())
    assert np.array_equal(loaded.search(vectors, 5).rows, index.search(vectors, 5).rows)


def test_a_graph_that_can_not_be_added_to_is_built_twice(vectors):
    index = made(vectors[:300], "NSG8", quality=QualityTarget(k=5, queries=10))
    assert index.probe_name == "efSearch"
    assert stored(index)["graph/rows"].array.tolist() == list(range(300))
    assert index.curve
    same = made(vectors[:300], "NSG8", quality=QualityTarget(k=5, queries=10))
    assert np.array_equal(stored(same)["engine"].array, stored(index)["engine"].array)
    grown, notices = index.updated(ArrayInMemory(vectors), np.arange(300))
    assert notices == ("the index was built anew: faiss can't add to NSG8",)
    assert grown.search(vectors[399:], 1).rows.tolist() == [[399]]


def test_held_out_rows_are_added_last_but_to_lists(vectors):
    target = QualityTarget(k=5, queries=20)
    assert stored(made(vectors, "IVF8,SQ8", quality=target))["graph/rows"].array.tolist() == list(range(N))
    rows = stored(made(vectors, "SQ8", quality=target))["graph/rows"].array
    assert (np.diff(rows[:-20]) > 0).all()
    assert rows.tolist() != list(range(N))


@pytest.mark.parametrize("factory", ["PCA4,Flat", "IVF16,SQ8", "HNSW8,SQ8", "RR4,IVF16,SQ4"])
def test_threads_and_batches_change_no_bit(vectors, factory, monkeypatch):
    before = faiss.omp_get_max_threads()
    bytes_made, answers = [], []
    try:
        for threads in (1, 2, 3):
            faiss.omp_set_num_threads(threads)
            monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
            index = made(vectors, factory, quality=QualityTarget(k=5))
            bytes_made.append(stored(index)["engine"].array.tobytes())
            answers.append(index.search(vectors, 9))
    finally:
        faiss.omp_set_num_threads(before)
    assert bytes_made[0] == bytes_made[1] == bytes_made[2]
    alone = np.concatenate([index.search(vectors[row : row + 1], 9).rows for row in range(N)])
    for found in answers:
        assert np.array_equal(found.rows, alone)


def test_more_lists_visited_compare_more_codes(vectors):
    index = made(vectors, "IVF16,SQ8")
    compared = [index.candidates(index.space.searched(vectors), 5, probe=probe)[1] for probe in index.probes]
    assert index.probes == (1, 2, 4, 8, 16)
    assert compared == sorted(compared)
    assert compared[-1] == N


def test_additions_are_added_to_a_copy(vectors):
    index = made(vectors[:300], "IVF16,SQ8", quality=QualityTarget(k=5))
    grown, notices = index.updated(ArrayInMemory(vectors), np.arange(300))
    assert notices == (MEASURED_BEFORE,)
    assert grown.search(vectors[300:], 1).rows[:, 0].tolist() == list(range(300, 400))
    assert index.search(vectors[300:], 1).rows.max() < 300


@pytest.mark.parametrize("factory", ["ITQ,LSH", "L2norm,Flat"])
def test_what_faiss_can_not_copy_is_built_anew(vectors, factory):
    index = made(vectors[:300], factory)
    grown, notices = index.updated(ArrayInMemory(vectors), np.arange(300))
    assert notices == (f"the index was built anew: faiss can't copy {factory}",)
    assert same_engine(grown, made(vectors, factory))


def same_engine(one, other):
    return np.array_equal(stored(one)["engine"].array, stored(other)["engine"].array)


def test_removals_build_it_anew_and_say_so(vectors):
    index = made(vectors, "IVF16,SQ8")
    shrunk, notices = index.updated(ArrayInMemory(vectors[100:]), np.arange(100, N))
    assert notices == (BUILT_ANEW,)
    assert same_engine(shrunk, made(vectors[100:], "IVF16,SQ8"))


class TestStringsThatCanNotBe:
    @pytest.mark.parametrize(
        ("factory", "reason"),
        [
            ("nonsense", "could not parse index string nonsense"),
            ("IVF16,Nonsense", "could not parse code description"),
            ("PQ3", r"dimension of the vector \(d\) should be a multiple"),
            ("PQ8x99", "nbits larger than 24 is not practical"),
            ("BFlat", "could not parse"),
            ("IVF99999999999,Flat", "faiss can't build it"),
            *[
                (text, "expected no number that is zero")
                for text in ("IVF0,Flat", "RR0,Flat", "RQ0x8", "PQ8x0", "PCAR0,IVF4,Flat", "ZnLattice0x10_6")
            ],
            ("HNSW1", "expected a graph of at least 2 links"),
            ("HNSW1,Flat", "expected a graph of at least 2 links"),
            ("IVF8_HNSW0,Flat", "expected a graph of at least 2 links"),
            ("NSG1,Flat", "expected a graph of at least 2 links"),
            ("IDMap,Flat", "expected no IDMap"),
            ("IVF16,Flat,IDMap2", "expected no IDMap"),
            ("Flat٣", "expected ASCII, as faiss factory strings are"),
            ("IVF401,Flat", "should be at least as large as number of clusters"),
        ],
    )
    def test_are_refused_in_one_line(self, vectors, factory, reason):
        with pytest.raises(UsageError, match=reason) as refused:
            made(vectors, factory)
        assert "\n" not in str(refused.value)
        assert ".cpp" not in str(refused.value)

    @pytest.mark.parametrize("factory", ["IVF4,SQ8", "PQ4", "OPQ4,PQ4", "RQ2x4"])
    def test_can_not_learn_from_rows_whose_squares_overflow(self, vectors, factory):
        # faiss's k-means ends the process.
        with pytest.raises(DataError, match="rows too large for faiss to learn"):
            made(vectors * np.float32(1e25), factory)

    @pytest.mark.parametrize("parameters", [None, {}, {"factory": ""}, {"factory": 3}])
    def test_must_be_given(self, vectors, parameters):
        with pytest.raises(UsageError, match=r"no factory string \(expected --factory, such as IVF1024,SQ8"):
            FactoryIndex.build(vectors, parameters=parameters)


@pytest.fixture(scope="module")
def index(vectors):
    return made(vectors, "IVF16,SQ8")


class TestForgedBytes:
    def load(self, index, engine, **parameters):
        return FactoryIndex.load(forged(index, engine), {**index.parameters(), **parameters})

    def bytes_of(self, index):
        return stored(index)["engine"].array.tobytes()

    @pytest.mark.parametrize("engine", [b"", b"IxF2", b"nonsense" * 100, bytes(10_000)])
    def test_no_index_at_all(self, index, engine):
        with pytest.raises(DataError, match="engine: is no faiss index this tool can load"):
            self.load(index, engine)

    def test_an_index_cut_short(self, index):
        engine = self.bytes_of(index)
        for stop in range(0, len(engine), 501):
            with pytest.raises(DataError, match="engine: is no faiss index"):
                self.load(index, engine[:stop])

    def test_bytes_after_its_end(self, index):
        with pytest.raises(DataError, match="engine: goes on after the end"):
            self.load(index, self.bytes_of(index) + b"more")

    def test_an_index_of_other_rows(self, index, vectors):
        for other in (made(vectors[:300], "SQ8"), made(np.ascontiguousarray(vectors[:, :4]), "SQ8")):
            with pytest.raises(DataError, match=r"engine: is an index of other rows \(expected \(400, 8\)"):
                self.load(index, self.bytes_of(other))

    def test_an_index_of_inner_products(self, index, vectors):
        other = faiss.IndexFlatIP(D)
        other.add(vectors)
        with pytest.raises(DataError, match="engine: is no trained index of Euclidean distances"):
            self.load(index, faiss.serialize_index(other).tobytes())

    def test_lists_in_another_file_are_refused_before_it_is_opened(self, index, vectors, tmp_path):
        other = faiss.index_factory(D, "IVF4,Flat")
        other.cp.min_points_per_centroid = 1
        other.train(vectors)
        path = tmp_path / "lists"
        lists = faiss.OnDiskInvertedLists(other.nlist, other.code_size, str(path))
        other.replace_invlists(lists, False)
        other.add(vectors)
        engine = faiss.serialize_index(other).tobytes()
        assert bytes(str(path), "utf-8") in engine
        del other, lists
        path.unlink()
        path.mkdir()  # opening it would be another error
        with pytest.raises(DataError, match="engine: keeps its lists in another file"):
            self.load(index, engine)

    def test_indexes_inside_each_other_without_end(self, index, vectors):
        other = faiss.IndexFlatL2(D)
        other.add(vectors)
        outer = [other]
        for _ in range(40):
            outer.append(faiss.IndexPreTransform(outer[-1]))
        with pytest.raises(DataError, match="engine: has too many parts inside each other"):
            self.load(index, faiss.serialize_index(outer[-1]).tobytes())

    def test_row_numbers_that_are_not_there(self, index, vectors):
        codes = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatL2(D), D, 4, faiss.ScalarQuantizer.QT_8bit)
        codes.cp.min_points_per_centroid = 1
        codes.train(vectors)
        codes.add_with_ids(vectors, np.arange(N) + 10**9)
        with pytest.raises(DataError, match="engine: names rows that are not there"):
            self.load(index, faiss.serialize_index(codes).tobytes())

    def test_an_index_that_makes_faiss_crash_is_refused(self, index, vectors, monkeypatch):
        # None that faiss 1.15 loads is known to; its place is taken by a signal where it would be read.
        def read_engine(*arguments, **shape):
            os.kill(os.getpid(), signal.SIGSEGV)

        engine = self.bytes_of(index)
        monkeypatch.setattr("resmem_cli.indexes.engine.read_engine", read_engine)
        with pytest.raises(DataError, match=r"engine: damaged so that reading it crashes \(SIGSEGV\)"):
            self.load(index, engine)

    def test_flipped_bytes_are_an_error_or_an_answer(self, index, vectors):
        engine = self.bytes_of(index)
        head = engine.index(b"ilar") + 60
        for place in range(0, head, 37):
            flipped = bytearray(engine)
            flipped[place] ^= 0x55
            try:
                found = self.load(index, bytes(flipped)).search(vectors[:2], 3)
            except (DataError, UsageError):
                continue
            assert ((found.rows >= 0) & (found.rows < N)).all()

    def test_limits_are_put_back(self, index):
        names = ("deserialization_vector_byte_limit", "deserialization_loop_limit")
        before = [getattr(faiss, f"get_{name}")() for name in names]
        with pytest.raises(DataError):
            self.load(index, b"nonsense")
        self.load(index, self.bytes_of(index))
        assert [getattr(faiss, f"get_{name}")() for name in names] == before

    @pytest.mark.parametrize("factory", [None, 5])
    def test_no_factory_string(self, index, factory):
        with pytest.raises(DataError, match=r"parameters\.factory: is no factory string"):
            self.load(index, self.bytes_of(index), factory=factory)

    def test_rows_that_are_no_permutation(self, index):
        datasets = stored(index)
        datasets["graph/rows"].array[0] = 1
        with pytest.raises(DataError, match="graph/rows: is not each of 400 rows once"):
            FactoryIndex.load(datasets, index.parameters())
