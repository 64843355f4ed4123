"""`resmem search`, and `predict` and `tune` with what was found before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Finished, Resmem
from test_artifacts_formats import write_artifact
from test_cli_merge import Shards, with_duplicates
from test_cli_update import Arrays, assert_refused, drawn

from resmem_cli import open_artifact
from resmem_cli.artifacts.shard_formats import NEIGHBORS

each_kind = pytest.mark.parametrize(
    "kind", ["exact", "exact-cosine", "ivf", "ivf-rabitq", "ivf-pq", "ivf-pq-coarse"]
)


@pytest.fixture
def folder(tmp_path: Path, resmem: Resmem) -> Shards:
    shards = Shards(tmp_path, resmem)
    shards.save("train", with_duplicates(240, seed=1))
    shards.save("test", drawn(30, seed=2))
    return shards


def make_memory(folder: Shards, kind: str = "exact", n_shards: int = 3) -> None:
    """Make a memory in one piece and in shards: `i.h5`, `r.h5`, and `im.h5`."""
    folder.done("index", "train.npz", *folder.learnt(kind), "-o", "i.h5")
    folder.done("residualize", "train.npz", "-o", "r.h5")
    folder.done("merge", "--manifest", *folder.index(kind, n_shards), "-o", "im.h5")


def predict(folder: Shards, index: str, *options: object, to: str = "p.h5") -> Finished:
    files = ("--index", index, "--residuals", "r.h5")
    return folder("predict", "test.npz", *files, *options, "-o", to)


def found(files: list[str]) -> list[str]:
    return [word for file in files for word in ("--found", file)]


def search_shards(folder: Shards, n_queries: int, n_memory: int, *options: object) -> list[str]:
    """Search each range of the queries in each shard of the memory."""
    files = []
    for query in range(1, n_queries + 1):
        for memory in range(1, n_memory + 1):
            files.append(f"f.{query}.{memory}.h5")
            shards = ("--shard", f"{query}/{n_queries}", "--memory-shard", f"{memory}/{n_memory}")
            folder.done("search", "test.npz", "--index", "im.h5", *shards, *options, "-o", files[-1])
    return files


def arrays(path: Path) -> Arrays:
    with open_artifact(path, NEIGHBORS) as artifact:
        return {name: artifact.read(name) for name in artifact.names}


class TestWhatIsFound:
    @each_kind
    def test_are_the_neighbours_that_predict_finds(self, kind: str, folder: Shards) -> None:
        make_memory(folder, kind)
        assert predict(folder, "i.h5", "-k", 20).status == 0
        done = folder.done("search", "test.npz", "--index", "i.h5", "-k", 20, "-o", "f.h5", "--json")
        assert done.json["command"] == "search"
        assert {name: done.result[name] for name in ("queries", "memory", "k")} == {
            "queries": 30, "memory": 240, "k": 20,
        }  # fmt: skip
        stored = arrays(folder.path / "f.h5")
        assert set(stored) == {"rows", "distances"}
        with open_artifact(folder.path / "p.h5") as predictions:
            assert np.array_equal(stored["rows"], predictions.read("neighbors/rows"))
            assert np.allclose(stored["distances"], predictions.read("neighbors/distances"), rtol=1e-6)

    def test_of_shards_are_rows_of_theirs_with_distances_of_codes(self, folder: Shards) -> None:
        make_memory(folder, "ivf-pq")
        for number, file in enumerate(search_shards(folder, 1, 3, "-k", 5)):
            stored = arrays(folder.path / file)
            rows = stored["rows"]
            assert set(stored) == {"rows", "distances", "squares"}
            assert ((rows >= 80 * number) & (rows < 80 * number + 80) | (rows == -1)).all()
            assert np.isinf(stored["distances"][rows < 0]).all()
            assert np.isfinite(stored["distances"][rows >= 0]).all()

    def test_the_name_is_derived_from_the_queries(self, folder: Shards) -> None:
        make_memory(folder)
        folder.done("search", "test.npz", "--index", "im.h5")
        folder.done("search", "test.npz", "--index", "im.h5", "--shard", "2/3", "--memory-shard", "1/3")
        names = {path.name for path in folder.path.glob("test.*neighbors.h5")}
        assert names == {"test.neighbors.h5", "test.shard-2-of-3.memory-1-of-3.neighbors.h5"}

    def test_needs_no_logits(self, folder: Shards) -> None:
        make_memory(folder)
        folder.save("test", {"embeddings": drawn(30, seed=2)["embeddings"]})
        folder.done("search", "test.npz", "--index", "im.h5", "-o", "f.h5")

    def test_does_not_depend_on_the_block(self, folder: Shards) -> None:
        make_memory(folder, "ivf-pq")
        for rows in (1, 7, 30):
            options = ("--block-rows", rows, "-k", 20)
            folder.done("search", "test.npz", "--index", "im.h5", *options, "-o", f"{rows}.h5")
        assert folder.digest("1.h5") == folder.digest("7.h5") == folder.digest("30.h5")


class TestPredictions:
    @each_kind
    @pytest.mark.parametrize(("n_queries", "n_memory"), [(1, 1), (2, 4)])
    def test_are_the_same_without_a_search(
        self, kind: str, n_queries: int, n_memory: int, folder: Shards
    ) -> None:
        make_memory(folder, kind, n_memory)
        assert predict(folder, "i.h5", "-k", 20).status == 0
        files = search_shards(folder, n_queries, n_memory, "-k", 20)
        # With either form of the same memory, and with the files in any order.
        for index in ("im.h5", "i.h5"):
            done = predict(folder, index, "-k", 20, *found(files[::-1]), "--json", to="f.p.h5")
            assert done.status == 0, done.stderr
            assert folder.digest("f.p.h5") == folder.digest("p.h5")
        assert set(done.result["answered_by"]) == {"found before"}

    @pytest.mark.parametrize("index", ["i.h5", "im.h5"])
    def test_are_the_same_where_too_few_were_found(self, index: str, folder: Shards) -> None:
        """One list holds less than 100 rows of the 240: those queries are searched for again."""
        make_memory(folder, "ivf")
        options = ("-k", 100, "--nprobe", 1, "--rerank", 1)
        assert predict(folder, "i.h5", *options).status == 0
        files = search_shards(folder, 2, 3, *options)
        done = predict(folder, index, *options, *found(files), "--json", to="f.p.h5")
        assert done.status == 0, done.stderr
        assert folder.digest("f.p.h5") == folder.digest("p.h5")
        assert len(done.result["answered_by"]) > 1

    def test_are_the_same_with_all_neighbours(self, folder: Shards) -> None:
        make_memory(folder)
        assert predict(folder, "i.h5", "-k", 240).status == 0
        files = search_shards(folder, 1, 3, "-k", 240)
        assert arrays(folder.path / files[0])["rows"].shape == (30, 80)
        assert predict(folder, "im.h5", "-k", 240, *found(files), to="f.p.h5").status == 0
        assert folder.digest("f.p.h5") == folder.digest("p.h5")

    def test_of_a_range_need_only_its_files(self, folder: Shards) -> None:
        make_memory(folder)
        files = search_shards(folder, 3, 2 + 1, "-k", 20)
        shards = folder.write(
            2, "p", "predict", "test.npz", "--index", "i.h5", "--residuals", "r.h5", "-k", 20
        )
        for number, needed in ((1, files[:6]), (2, files[3:])):
            output = f"f.{number}.h5"
            shard = ("--shard", f"{number}/2")
            assert predict(folder, "im.h5", "-k", 20, *shard, *found(needed), to=output).status == 0
            assert folder.digest(output) == folder.digest(shards[number - 1])

    def test_take_a_merged_file_or_a_manifest_of_the_queries(self, folder: Shards) -> None:
        make_memory(folder, "ivf-pq")
        assert predict(folder, "i.h5", "-k", 20).status == 0
        shards = folder.write(3, "f", "search", "test.npz", "--index", "im.h5", "-k", 20)
        for how in ([], ["--manifest"]):
            folder.done("merge", *shards, *how, "-o", "merged.h5")
            assert predict(folder, "im.h5", "-k", 20, *found(["merged.h5"]), to="f.p.h5").status == 0
            assert folder.digest("f.p.h5") == folder.digest("p.h5")

    @pytest.mark.parametrize("kind", ["exact", "ivf-pq"])
    def test_may_compare(self, kind: str, folder: Shards) -> None:
        """The baselines of a tuning look at more neighbours than the answer here, and so must the search."""
        make_memory(folder, kind)
        tune = ("tune", "test.npz", "--index", "i.h5", "--train", "train.npz", *GRID, "-k", "20,40")
        folder.done(*tune, "-o", "t.h5")
        options = ("-k", 5, "--tuning", "t.h5", "--compare")
        assert predict(folder, "i.h5", *options).status == 0
        with open_artifact(folder.path / "p.h5") as predictions:
            compared = predictions.parameters["compared"]
        largest = max(one["settings"].get("k", 1) for one in compared)
        assert largest > 5
        files = search_shards(folder, 2, 3, "-k", largest)
        assert predict(folder, "im.h5", *options, *found(files), to="f.p.h5").status == 0
        assert folder.digest("f.p.h5") == folder.digest("p.h5")


GRID = ("-k", "5,20", "--sigma", "0.3,1", "-T", "1.4")


class TestTuning:
    @pytest.mark.parametrize(
        ("queries", "options"),
        [
            (["test.npz"], []),
            (["test.npz"], ["--fraction", 0.5]),
            ([], ["--leave-one-out"]),
            ([], ["--leave-one-out", "--sample", 50]),
            (["test.npz"], ["--leave-one-out", "--sample", 50]),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("kind", ["exact", "ivf-pq"])
    def test_writes_the_same_bytes_without_a_search(
        self, kind: str, queries: list[str], options: list[object], folder: Shards
    ) -> None:
        make_memory(folder, kind)
        tune = ("tune", *queries, "--index", "i.h5", "--train", "train.npz", *GRID, *options)
        folder.done(*tune, "-o", "t.h5")
        folder.done(*tune, *found(folder.write(3, "found", *tune)), "-o", "f.t.h5")
        assert folder.bytes("f.t.h5") == folder.bytes("t.h5")

    def test_refuses_what_was_found_for_something_else(self, folder: Shards) -> None:
        make_memory(folder)
        tune = ("tune", "test.npz", "--index", "i.h5", "--train", "train.npz", *GRID)
        half = folder.write(2, "half", *tune, "--fraction", 0.5)
        whole = folder.write(2, "whole", *tune)
        own = folder.write(2, "own", *tune, "--leave-one-out")
        more = folder.write(2, "more", *tune, "-k", "5,30")
        for files, words in (
            (half, ["half.1.h5", "was searched for something else", "rows_digest"]),
            (own, ["own.1.h5", "was searched for something else"]),
            (more, ["more.1.h5", "k", "expected 20", "found 30"]),
            (whole[1:], ["not all queries were searched", "expected 0 to 30", "found 15 to 30"]),
            ([*whole, whole[0]], ["were searched twice"]),
            ([*whole, "nowhere.h5"], ["nowhere.h5"]),
        ):
            run = (*tune, *found(files), "-o", "out.h5")
            status = 66 if "nowhere.h5" in files else 65
            assert_refused(folder, lambda run=run: folder(*run), status, *words)

    def test_does_not_both_search_a_range_and_take_what_was_found(self, folder: Shards) -> None:
        make_memory(folder)
        tune = ("tune", "test.npz", "--index", "i.h5", "--train", "train.npz", *GRID)
        files = folder.write(1, "f", *tune)
        run = (*tune, *found(files), "--shard", "1/2", "-o", "out.h5")
        assert_refused(folder, lambda: folder(*run), 2, "--shard and --found")


class TestRefused:
    @pytest.fixture
    def files(self, folder: Shards) -> list[str]:
        make_memory(folder)
        return search_shards(folder, 2, 3, "-k", 20)

    def refuse(self, folder: Shards, files: list[str], *words: str, options: tuple[object, ...] = ()) -> None:
        options = ("-k", 20, *options, *found(files))
        assert_refused(folder, lambda: predict(folder, "im.h5", *options, to="out.h5"), 65, *words)

    def test_a_range_of_the_queries_that_is_missing(self, folder: Shards, files: list[str]) -> None:
        self.refuse(folder, files[:3], "not all queries were searched", "expected 0 to 30", "found 0 to 15")
        self.refuse(folder, files[3:], "not all queries were searched", "found 15 to 30")

    @pytest.mark.parametrize("left_out", [0, 1, 2, 5])
    def test_a_shard_of_the_memory_that_is_missing(
        self, left_out: int, folder: Shards, files: list[str]
    ) -> None:
        words = ("not all memory rows were searched", "expected 0 to 240")
        self.refuse(folder, files[:left_out] + files[left_out + 1 :], *words)

    def test_a_file_that_is_given_twice(self, folder: Shards, files: list[str]) -> None:
        self.refuse(folder, [*files, files[4]], "some memory rows were searched twice")

    def test_ranges_that_overlap(self, folder: Shards, files: list[str]) -> None:
        folder.done("search", "test.npz", "--index", "im.h5", "-k", 20, "--shard", "1/3", "-o", "x.h5")
        self.refuse(folder, [*files, "x.h5"], "some queries were searched twice")

    def test_another_number_of_neighbours(self, folder: Shards, files: list[str]) -> None:
        words = ("f.1.1.h5", "k: was searched for something else", "expected 10", "found 20")
        assert_refused(
            folder, lambda: predict(folder, "im.h5", "-k", 10, *found(files), to="out.h5"), 65, *words
        )

    def test_another_index(self, folder: Shards, files: list[str]) -> None:
        folder.save("train", drawn(240, seed=7))
        make_memory(folder)
        self.refuse(folder, files, "f.1.1.h5", "embeddings_digest: was searched for something else")

    def test_another_kind_of_index(self, folder: Shards, files: list[str]) -> None:
        make_memory(folder, "ivf")
        self.refuse(folder, files, "f.1.1.h5", "kind: was searched for something else", "exact")

    def test_another_effort(self, folder: Shards) -> None:
        make_memory(folder, "ivf")
        files = search_shards(folder, 1, 3, "-k", 20, "--nprobe", 2)
        words = ("f.1.1.h5", "search: was searched for something else")
        self.refuse(folder, files, *words, options=("--nprobe", 3))

    def test_other_queries(self, folder: Shards, files: list[str]) -> None:
        folder.save("test", drawn(30, seed=8))
        self.refuse(folder, files, "f.1.1.h5", "queries_digest: was searched for something else")

    def test_what_is_no_such_file(self, folder: Shards, files: list[str]) -> None:
        self.refuse(folder, [*files, "i.h5"], "i.h5", "expected resmem.neighbors", "found resmem.index")

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("rows", 80, ["rows"]),
            ("rows", -2, ["rows"]),
            ("rows", 1 << 60, ["rows"]),
            ("distances", np.nan, ["distances"]),
            ("distances", -1, ["distances"]),
            ("squares", np.nan, ["squares"]),
            ("squares", None, ["memory_rows"]),
        ],
    )
    def test_values_that_cannot_be(
        self, name: str, value: float | None, words: list[str], folder: Shards
    ) -> None:
        make_memory(folder, "ivf")
        files = search_shards(folder, 1, 3, "-k", 20)
        forge(folder, files[0], name, value)
        self.refuse(folder, files, files[0], *words)

    @pytest.mark.parametrize(
        "parameters",
        [
            {"memory_rows": None},
            {"memory_rows": [0]},
            {"memory_rows": ["0", "80"]},
            {"memory_rows": [0, 79]},
            {"memory_rows": [-5, 80]},
            {"shard": 4},
            {"shard": {"first_row": -1}},
            {"shard": {"first_row": "0"}},
            {"k": 21},
            {"search": {}},
        ],
        ids=str,
    )
    def test_parameters_that_cannot_be(
        self, parameters: dict[str, object], folder: Shards, files: list[str]
    ) -> None:
        forge(folder, files[0], "rows", None, parameters=parameters)
        self.refuse(folder, files, "f.1")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["-k", 241], ["k out of range", "expected 1 to 240"]),
            (["-k", 0], ["k out of range"]),
            (["--block-rows", 0], ["--block-rows"]),
            (["--shard", "1/31"], ["more shards than the 30 rows"]),
            (["--memory-shard", "1/2"], ["--memory-shard", "expected I/3", "found 1/2"]),
            (["--memory-shard", "4/3"], ["out of range"]),
            (["--memory-shard", "x"], ["I/N"]),
            (["--nprobe", 3], ["nprobe"]),
        ],
        ids=str,
    )
    def test_options_out_of_range(self, options: list[object], words: list[str], folder: Shards) -> None:
        make_memory(folder)
        run = ("search", "test.npz", "--index", "im.h5", *options, "-o", "x.h5")
        assert_refused(folder, lambda: folder(*run), 2, *words)

    def test_a_shard_of_an_index_in_one_file(self, folder: Shards) -> None:
        make_memory(folder)
        run = ("search", "test.npz", "--index", "i.h5", "--memory-shard", "1/3", "-o", "x.h5")
        assert_refused(folder, lambda: folder(*run), 2, "--memory-shard", "expected I/1")

    def test_queries_of_another_width(self, folder: Shards) -> None:
        make_memory(folder)
        folder.save("test", {"embeddings": np.ones((3, 7), np.float32)})
        run = ("search", "test.npz", "--index", "im.h5", "-o", "x.h5")
        assert_refused(folder, lambda: folder(*run), 65, "test.npz", "dimension", "expected 8", "found 7")

    def test_a_query_that_is_not_finite(self, folder: Shards) -> None:
        make_memory(folder)
        queries = drawn(30, seed=2)
        queries["embeddings"][17, 3] = np.nan
        folder.save("test", queries)
        run = ("search", "test.npz", "--index", "im.h5", "--shard", "2/2", "-o", "x.h5")
        assert_refused(folder, lambda: folder(*run), 65, "test.npz", "17")


def forge(
    folder: Shards, file: str, name: str, value: float | None, *, parameters: dict[str, object] | None = None
) -> None:
    """Write a file again with another value, without a dataset, or with other parameters."""
    path = folder.path / file
    with open_artifact(path, NEIGHBORS) as artifact:
        stored = {one: artifact.read(one) for one in artifact.names}
        told = {**artifact.parameters, **(parameters or {})}
    if value is not None:
        stored[name][3, 0] = value
    elif parameters is None:
        del stored[name]
    path.unlink()
    write_artifact(path, NEIGHBORS, stored, parameters=told)
