"""`resmem update` against a memory built from scratch on the same rows."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import N_TEST, N_TRAIN, C, D, Finished, Resmem
from numpy.typing import NDArray
from test_stages_top_logits import ENCODER, M, write_embeddings

from resmem_cli import open_artifact
from resmem_cli.artifacts.formats import Format
from resmem_cli.artifacts.reader import Artifact
from resmem_cli.errors import DataError
from resmem_cli.indexes.approximate import MEASURED_BEFORE
from resmem_cli.indexes.base import index_kinds

N_FIRST, N_ADDED, N_QUERIES = 240, 80, 50
REMOVED = np.arange(3, 240, 12)
KILLED_BETWEEN_RENAMES = """
import os, signal, sys
from resmem_cli.cli.failures import run_and_exit
from resmem_cli.cli.main import run

rename = os.replace
def replace(*names):
    os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
    rename(*names)
os.replace = replace
run_and_exit(run)
"""
Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def rows() -> Arrays:
    """Draw 320 rows of a memory."""
    return drawn(N_FIRST + N_ADDED, seed=1)


def drawn(n: int, *, seed: int, d: int = D, n_classes: int = C) -> Arrays:
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n)
    centres = np.random.default_rng(9).normal(size=(n_classes, d)) * 2
    return {
        "embeddings": (centres[labels] + rng.normal(size=(n, d))).astype(np.float32),
        "logits": (rng.normal(size=(n, n_classes)) + 1.5 * np.eye(n_classes)[labels]).astype(np.float32),
        "labels": labels,
    }


def chosen(rows: Arrays, which: Any) -> Arrays:
    return {name: values[which] for name, values in rows.items()}


@dataclass
class Folder:
    """A folder in which commands run."""

    path: Path
    resmem: Resmem

    def __call__(self, *arguments: object) -> Finished:
        return self.resmem(*arguments, cwd=self.path)

    def save(self, name: str, arrays: Arrays) -> None:
        np.savez(self.path / f"{name}.npz", **arrays)

    def make(self, name: str, arrays: Arrays, *options: object) -> None:
        """Make the index and the residuals of a memory."""
        self.save(name, arrays)
        assert self("index", f"{name}.npz", "--kind", "exact", "-o", f"{name}.index.h5").status == 0
        assert self("residualize", f"{name}.npz", *options, "-o", f"{name}.residuals.h5").status == 0

    def list_ids(self, ids: Any) -> None:
        (self.path / "ids.txt").write_text("".join(f"{one}\n" for one in ids))

    def update(self, name: str, *options: object, to: str = "new") -> Finished:
        """Update both files of a memory."""
        files = ["--index", f"{name}.index.h5", "--residuals", f"{name}.residuals.h5"]
        outputs = ["--index-output", f"{to}.index.h5", "--residuals-output", f"{to}.residuals.h5"]
        return self("update", *files, *options, *outputs)

    def predictions(self, name: str, *options: object) -> Arrays:
        """Predict some queries with a memory."""
        self.save("queries", drawn(N_QUERIES, seed=2))
        files = ["--index", f"{name}.index.h5", "--residuals", f"{name}.residuals.h5"]
        done = self("predict", "queries.npz", *files, "-k", 20, *options, "-o", f"{name}.p.h5")
        assert done.status == 0, done.stderr
        with open_artifact(self.path / f"{name}.p.h5") as artifact:
            return {dataset: artifact.read(dataset) for dataset in artifact.shapes}

    def ids(self, name: str) -> list[Any]:
        """Give the ids both files of a memory hold."""
        stored = []
        for kind in ("index", "residuals"):
            with open_artifact(self.path / f"{name}.{kind}.h5") as artifact:
                stored.append(artifact.read("ids").tolist())
        assert stored[0] == stored[1]
        return stored[0]

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.path.iterdir()}


@pytest.fixture
def folder(tmp_path: Path, resmem: Resmem) -> Folder:
    return Folder(tmp_path, resmem)


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert np.array_equal(found[name], values), name


def kept_and_added() -> NDArray[np.int64]:
    return np.delete(np.arange(N_FIRST + N_ADDED), REMOVED)


def assert_refused(folder: Folder, run: Callable[[], Finished], status: int, *words: str) -> None:
    before = folder.files()
    done = run()
    assert done.status == status, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr
    assert folder.files() == before


class TestTheNewMemory:
    @pytest.mark.parametrize(
        "options",
        [[], ["-T", "0.7"], ["--top", "3"], ["--top", "2", "-T", "3"], ["--top", "5"]],
        ids=" ".join,
    )
    def test_predicts_as_one_built_from_scratch(
        self, options: list[str], folder: Folder, rows: Arrays
    ) -> None:
        folder.make("old", chosen(rows, slice(N_FIRST)), *options)
        folder.save("more", chosen(rows, slice(N_FIRST, None)))
        folder.list_ids(REMOVED)
        done = folder.update("old", "--add", "more.npz", "--remove", "ids.txt", "--json")
        assert done.status == 0, done.stderr
        counts = {"rows_before": 240, "removed": 20, "added": 80, "rows": 300}
        assert {name: done.result[name] for name in counts} == counts
        folder.make("scratch", chosen(rows, kept_and_added()), *options)
        assert_same(folder.predictions("new"), folder.predictions("scratch"))

    def test_holds_what_one_built_from_scratch_holds(self, folder: Folder, rows: Arrays) -> None:
        named = rows | {"ids": np.arange(1000, 1320)}
        folder.make("old", chosen(named, slice(N_FIRST)))
        folder.save("more", chosen(named, slice(N_FIRST, None)))
        folder.list_ids(1000 + REMOVED)
        assert folder.update("old", "--add", "more.npz", "--remove", "ids.txt").status == 0
        folder.make("scratch", chosen(named, kept_and_added()))
        for kind in ("index", "residuals"):
            with (
                open_artifact(folder.path / f"new.{kind}.h5") as new,
                open_artifact(folder.path / f"scratch.{kind}.h5") as scratch,
            ):
                assert new.header.content_digest == scratch.header.content_digest
                assert new.parameters.get("distance_scale") == scratch.parameters.get("distance_scale")
                assert new.parameters.get("search") == scratch.parameters.get("search")
                assert new.parameters["embeddings_digest"] != scratch.parameters["embeddings_digest"]

    def test_is_the_same_however_its_files_are_updated(self, folder: Folder, rows: Arrays) -> None:
        folder.make("old", chosen(rows, slice(N_FIRST)), "--top", 3)
        folder.save("more", chosen(rows, slice(N_FIRST, None)))
        folder.list_ids(REMOVED)
        change = ["--add", "more.npz", "--remove", "ids.txt"]
        assert folder.update("old", *change).status == 0
        for kind in ("index", "residuals"):
            done = folder("update", f"--{kind}", f"old.{kind}.h5", *change, f"--{kind}-output", "one.h5")
            assert done.status == 0, done.stderr
            assert folder.files()["one.h5"] == folder.files()[f"new.{kind}.h5"]

    @pytest.mark.parametrize("kind", ["npy", "h5"])
    def test_takes_rows_from_arrays_of_any_kind(self, kind: str, folder: Folder, rows: Arrays) -> None:
        folder.make("old", chosen(rows, slice(N_FIRST)))
        more = chosen(rows, slice(N_FIRST, None))
        folder.save("more", more)
        if kind == "npy":
            for name, values in more.items():
                np.save(folder.path / f"{name}.npy", values)
            arrays = ["embeddings.npy", "--logits", "logits.npy", "--labels", "labels.npy"]
        else:
            assert folder("import", "more.npz", "-o", "more.h5").status == 0
            arrays = ["more.h5"]
        assert folder.update("old", "--add", *arrays, to="a").status == 0
        assert folder.update("old", "--add", "more.npz", to="b").status == 0
        assert_same(folder.predictions("a"), folder.predictions("b"))
        with (
            open_artifact(folder.path / "a.index.h5") as a,
            open_artifact(folder.path / "b.residuals.h5") as b,
        ):
            assert a.parameters["embeddings_digest"] == b.parameters["embeddings_digest"]

    def test_takes_shards_one_after_another(self, folder: Folder, rows: Arrays) -> None:
        folder.make("part0", chosen(rows, slice(100)))
        for part, start in enumerate((100, 200, 300)):
            folder.save("shard", chosen(rows, slice(start, start + 100)))
            assert folder.update(f"part{part}", "--add", "shard.npz", to=f"part{part + 1}").status == 0
        folder.make("scratch", rows)
        assert_same(folder.predictions("part3"), folder.predictions("scratch"))
        assert folder.ids("part3") == list(range(320))

    def test_of_float16_rows_takes_float32_ones_as_they_are(self, folder: Folder, rows: Arrays) -> None:
        half = chosen(rows, slice(N_FIRST))
        half["embeddings"] = half["embeddings"].astype(np.float16)
        folder.make("old", half)
        more = chosen(rows, slice(N_FIRST, None))
        folder.save("more", more)
        assert folder.update("old", "--add", "more.npz").status == 0
        folder.make("scratch", {name: np.concatenate([half[name], more[name]]) for name in rows})
        assert_same(folder.predictions("new"), folder.predictions("scratch"))

    def test_with_nothing_added_is_the_old_one_without_some_rows(self, folder: Folder, rows: Arrays) -> None:
        folder.make("old", rows)
        (folder.path / "ids.txt").write_bytes(b"\xef\xbb\xbf7\r\n\r\n  12 \n7\n\n+3")
        done = folder.update("old", "--remove", "ids.txt", "--json")
        assert done.status == 0, done.stderr
        assert (done.result["removed"], done.result["added"]) == (3, 0)
        folder.make("scratch", chosen(rows, np.delete(np.arange(320), [3, 7, 12])))
        assert_same(folder.predictions("new"), folder.predictions("scratch"))

    def test_holds_no_trace_of_removed_rows(self, folder: Folder, rows: Arrays) -> None:
        marked = {name: values.copy() for name, values in rows.items()}
        marked["embeddings"][50:60] = np.float32(1.2345e-3)
        marked["logits"][50:60] = [9.125, -3.75, 2.625, 0.375, -8.5]
        marked["ids"] = np.array([f"person {i:04d}" for i in range(320)])
        for options in ([], ["--top", "4"]):
            folder.make("old", marked, *options)
            with open_artifact(folder.path / "old.residuals.h5") as old:
                name = "top/values" if options else "residuals"
                residual = np.unique(old.read(name)[50:60], axis=0)[0].tobytes()
            traces = [np.full(D, 1.2345e-3, np.float32).tobytes(), residual, b"person 0050", b"person 0059"]
            before = folder.files()
            for file in ("old.index.h5", "old.residuals.h5"):
                assert sum(trace in before[file] for trace in traces) >= 3
            folder.list_ids(marked["ids"][50:60])
            assert folder.update("old", "--remove", "ids.txt").status == 0
            after = folder.files()
            for file in ("new.index.h5", "new.residuals.h5"):
                assert not any(trace in after[file] for trace in traces)
                assert b"person 0049" in after[file]

    def test_stays_small_in_blocks_of_few_rows(
        self, folder: Folder, rows: Arrays, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder.make("old", chosen(rows, slice(N_FIRST)), "--top", 3)
        folder.save("more", chosen(rows, slice(N_FIRST, None)))
        folder.list_ids(REMOVED)
        change = ["--add", "more.npz", "--remove", "ids.txt"]
        assert folder.update("old", *change, to="whole").status == 0
        monkeypatch.setattr("resmem_cli.stages.streaming.BLOCK_BYTES", 1000)
        assert folder.update("old", *change, to="blocks").status == 0
        for kind in ("index", "residuals"):
            assert folder.files()[f"blocks.{kind}.h5"] == folder.files()[f"whole.{kind}.h5"]

    def test_is_described_by_lineage_and_figures(self, folder: Folder, rows: Arrays) -> None:
        folder.make("old", chosen(rows, slice(N_FIRST)))
        folder.save("more", chosen(rows, slice(N_FIRST, None)))
        folder.list_ids(REMOVED)
        done = folder.update("old", "--add", "more.npz", "--remove", "ids.txt")
        assert done.status == 0
        shown = dict(line.split("  ", 1) for line in done.stdout.splitlines())
        assert {
            name: shown[name].strip() for name in ("rows before", "removed", "added", "rows", "kind")
        } == {
            "rows before": "240",
            "removed": "20",
            "added": "80",
            "rows": "300",
            "kind": "exact",
        }
        assert float(shown["default sigma"]) > 0
        for kind in ("index", "residuals"):
            with open_artifact(folder.path / f"new.{kind}.h5") as artifact:
                roles = [(record.role, record.file) for record in artifact.header.inputs]
                assert artifact.parameters["update"]["removed"] == 20
            assert roles == [(kind, f"old.{kind}.h5"), ("added", "more.npz"), ("removed", "ids.txt")]

    def test_goes_where_its_name_says_if_nothing_else_is_said(self, folder: Folder, rows: Arrays) -> None:
        folder.make("old", rows)
        folder.list_ids([5])
        files = ["--index", "old.index.h5", "--residuals", "old.residuals.h5"]
        assert folder("update", *files, "--remove", "ids.txt").status == 0
        assert {"old.index.updated.h5", "old.residuals.updated.h5"} <= folder.files().keys()

    def test_is_that_of_its_own_update_only(self, folder: Folder, rows: Arrays) -> None:
        folder.make("old", rows)
        for name, ids in (("a", [1, 2]), ("b", [1, 3])):
            folder.list_ids(ids)
            assert folder.update("old", "--remove", "ids.txt", to=name).status == 0
        folder.save("queries", drawn(5, seed=2))
        done = folder("predict", "queries.npz", "--index", "a.index.h5", "--residuals", "b.residuals.h5")
        assert done.status == 65
        assert "not the same embeddings as a.index.h5" in done.stderr


class TestEveryKindOfIndex:
    @pytest.mark.parametrize("metric", ["euclidean", "cosine"])
    @pytest.mark.parametrize("kind", sorted(index_kinds()))
    def test_finds_what_one_built_from_scratch_finds(
        self, kind: str, metric: str, folder: Folder, rows: Arrays
    ) -> None:
        options = [
            "--metric",
            metric,
            *(["--factory", "IVF8,SQ8"] if kind == "factory" else ["--kind", kind]),
        ]
        folder.make("old", chosen(rows, slice(N_FIRST)))
        folder.make("scratch", chosen(rows, kept_and_added()))
        assert folder("index", "old.npz", *options, "-o", "old.index.h5", "-q").status == 0
        assert folder("index", "scratch.npz", *options, "-o", "scratch.index.h5", "-q").status == 0
        folder.save("more", chosen(rows, slice(N_FIRST, None)))
        folder.list_ids(REMOVED)
        done = folder.update("old", "--add", "more.npz", "--remove", "ids.txt", "--json")
        assert done.status == 0, done.stderr
        assert (done.result["kind"], done.result["metric"], done.result["rows"]) == (kind, metric, 300)
        sigma = ["--sigma", 0.3]
        # A codebook trained on as few rows as there are code words knows them all, and no others.
        hard = [] if kind == "exact" else ["--rerank", 8]
        found = {
            name: folder.predictions(name, *sigma, *hard)["neighbors/rows"] for name in ("new", "scratch")
        }
        folder.make("exact", chosen(rows, kept_and_added()))
        assert folder("index", "exact.npz", "--metric", metric, "-o", "exact.index.h5").status == 0
        true = folder.predictions("exact", *sigma)["neighbors/rows"]
        recall = {
            name: np.mean([np.isin(own, others).mean() for own, others in zip(true, rows_of, strict=True)])
            for name, rows_of in found.items()
        }
        assert recall["new"] >= recall["scratch"] - 0.05
        assert recall["new"] > 0.9
        with open_artifact(folder.path / "new.index.h5") as new:
            assert np.array_equal(new.read("vectors"), rows["embeddings"][kept_and_added()])

    @pytest.mark.parametrize("kind", sorted(index_kinds()))
    def test_holds_no_trace_of_removed_rows(self, kind: str, folder: Folder, rows: Arrays) -> None:
        marked = {name: values.copy() for name, values in rows.items()}
        marked["embeddings"][7] = np.linspace(1.23, 4.56, D)
        folder.save("old", marked)
        options = ["--factory", "IVF8,SQ8"] if kind == "factory" else ["--kind", kind]
        assert folder("index", "old.npz", *options, "-o", "old.h5", "-q").status == 0
        folder.list_ids([7])
        assert (
            folder("update", "--index", "old.h5", "--remove", "ids.txt", "--index-output", "n.h5").status == 0
        )
        trace = marked["embeddings"][7].tobytes()
        assert trace in folder.files()["old.h5"]
        assert trace not in folder.files()["n.h5"]

    @pytest.mark.parametrize("change", ["add", "remove", "both"])
    @pytest.mark.parametrize("kind", [*sorted({*index_kinds()} - {"factory"}), "IVF8,SQ8", "PQ4x4fs"])
    def test_tells_what_became_of_it(self, kind: str, change: str, folder: Folder, rows: Arrays) -> None:
        folder.save("old", chosen(rows, slice(N_FIRST)))
        options = ["--kind", kind] if kind in index_kinds() else ["--factory", kind]
        assert folder("index", "old.npz", *options, "-o", "old.h5", "-q").status == 0
        folder.save("more", chosen(rows, slice(N_FIRST, None)))
        folder.list_ids([7])
        added, removed = ["--add", "more.npz"], ["--remove", "ids.txt"]
        done = folder(
            *["update", "--index", "old.h5", "--index-output", "new.h5"],
            *{"add": added, "remove": removed, "both": added + removed}[change],
        )
        assert done.status == 0, done.stderr
        with open_artifact(folder.path / "old.h5") as old, open_artifact(folder.path / "new.h5") as new:
            measured = "curve/recall" in new
            as_before = measured and np.array_equal(new.read("curve/recall"), old.read("curve/recall"))
        assert measured == (kind != "exact")
        # Of recall measured before, only where that is what is stored; of a removal, nothing that is not so.
        assert (MEASURED_BEFORE in done.stderr) == (as_before and change == "add")
        assert ("built anew" in done.stderr) == (kind != "exact" and not (as_before and change == "add"))
        assert len(done.stderr.splitlines()) == (kind != "exact")

    def test_is_tuned_to_what_the_old_one_was_with_queries_for_its_own_rows(
        self, folder: Folder, rows: Arrays
    ) -> None:
        folder.save("old", chosen(rows, slice(60)))
        folder.save("more", chosen(rows, slice(60, None)))
        tuned = ["--kind", "ivf", "-k", 7, "--recall", 0.8]
        assert folder("index", "old.npz", *tuned, "-o", "old.h5", "-q").status == 0
        folder.list_ids([3])
        updating = ["update", "--index", "old.h5", "--index-output", "new.h5", "--remove", "ids.txt"]
        assert folder(*updating, "--add", "more.npz").status == 0
        folder.save("scratch", chosen(rows, np.delete(np.arange(320), 3)))
        with open_artifact(folder.path / "new.h5") as new:
            assert new.parameters["quality"] == {
                "target_recall": 0.8,
                "k": 7,
                "measured_on": "held-out rows",
            }
            lists = new.parameters["search"]["lists"]
        scratch = ["index", "scratch.npz", *tuned, "--lists", lists, "-o", "scratch.h5", "-q"]
        assert folder(*scratch).status == 0
        with open_artifact(folder.path / "new.h5") as new, open_artifact(folder.path / "scratch.h5") as other:
            assert np.array_equal(new.read("curve/recall"), other.read("curve/recall"))

    def test_says_if_it_misses_the_recall_that_was_asked_for(self, folder: Folder, rows: Arrays) -> None:
        folder.save("old", rows)
        options = ["--factory", "PQ1x2", "-k", 1, "--recall", 1]
        built = folder("index", "old.npz", *options, "-o", "old.h5")
        assert "recall 1.0 was not reached" in built.stderr
        folder.list_ids([3])
        done = folder("update", "--index", "old.h5", "--index-output", "new.h5", "--remove", "ids.txt")
        assert "recall 1.0 was not reached" in done.stderr
        assert "recall at" in done.stdout


class TestTheLargestLogits:
    """Memories and new rows with only the largest logits of each row."""

    @pytest.mark.parametrize("kept", [3, M])
    def test_give_the_residuals_that_all_logits_give(self, kept: int, folder: Folder) -> None:
        for kind, top in (("sparse", M), ("dense", None)):
            write_embeddings(folder.path / f"{kind}.h5", "train", top=top)
            write_embeddings(folder.path / f"more.{kind}.h5", "test", top=top)
        options = ["-T", "1", "--top", kept]
        assert folder("residualize", "sparse.h5", *options, "-o", "r.h5").status == 0
        stored = []
        for kind in ("sparse", "dense"):
            done = folder(
                *["update", "--residuals", "r.h5", "--add", f"more.{kind}.h5"],
                *["--residuals-output", f"{kind}.r.h5", "--json"],
            )
            assert done.status == 0, done.stderr
            with open_artifact(folder.path / f"{kind}.r.h5") as artifact:
                stored.append([artifact.read(f"top/{name}") for name in ("classes", "values")])
        assert np.array_equal(stored[0], stored[1])
        assert len(stored[0][0]) == N_TRAIN + N_TEST

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["-T", "1.4", "--top", "3"], ["residuals of temperature 1", "1.4 in r.h5"]),
            (["-T", "1"], ["truncated residuals", "whole ones in r.h5"]),
            (["-T", "1", "--top", M + 1], [f"at least {M + 1}", f"found {M}"]),
        ],
    )
    def test_are_not_enough_for_any_memory(
        self, options: list[object], words: list[str], folder: Folder
    ) -> None:
        write_embeddings(folder.path / "dense.h5", "train", top=None)
        write_embeddings(folder.path / "more.h5", "test", top=M)
        assert folder("residualize", "dense.h5", *options, "-o", "r.h5").status == 0
        run = partial(folder, "update", "--residuals", "r.h5", "--add", "more.h5")
        assert_refused(folder, run, 65, "more.h5", *words)

    def test_of_another_network_are_refused(self, folder: Folder) -> None:
        write_embeddings(folder.path / "old.h5", "train", top=M)
        other = {"encoder": ENCODER | {"checkpoint_digest": "b" * 64}}
        write_embeddings(folder.path / "more.h5", "test", top=M, parameters=other)
        assert folder("index", "old.h5", "-o", "old.index.h5").status == 0
        assert folder("residualize", "old.h5", "-T", 1, "--top", 2, "-o", "old.residuals.h5").status == 0
        for kind in ("index", "residuals"):
            run = partial(folder, "update", f"--{kind}", f"old.{kind}.h5", "--add", "more.h5")
            assert_refused(folder, run, 65, f"old.{kind}.h5", "checkpoint digest", "more.h5", "bbb")


class TestIds:
    def test_number_rows_that_have_none_for_good(self, folder: Folder, rows: Arrays) -> None:
        folder.make("old", chosen(rows, slice(10)))
        folder.save("more", chosen(rows, slice(10, 13)))
        folder.list_ids([8, 9])
        assert folder.update("old", "--add", "more.npz", "--remove", "ids.txt", to="b").status == 0
        assert folder.ids("b") == [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12]
        folder.list_ids([12, 0])
        assert folder.update("b", "--add", "more.npz", "--remove", "ids.txt", to="c").status == 0
        assert folder.ids("c") == [1, 2, 3, 4, 5, 6, 7, 10, 11, 13, 14, 15]
        folder.list_ids([9])
        again = partial(folder.update, "c", "--remove", "ids.txt", to="d")
        assert_refused(folder, again, 65, "line 1 names no row", "found 9")

    @pytest.mark.parametrize("text", [False, True])
    def test_of_the_user_go_along(self, text: bool, folder: Folder, rows: Arrays) -> None:
        ids = np.arange(500, 820)
        named = rows | {"ids": np.array([f"id {one}é" for one in ids]) if text else ids}
        folder.make("old", chosen(named, slice(N_FIRST)))
        more = chosen(named, slice(N_FIRST, None))
        if text:
            more["ids"] = np.char.add(more["ids"], " and longer")
        folder.save("more", more)
        folder.list_ids(named["ids"][REMOVED])
        assert folder.update("old", "--add", "more.npz", "--remove", "ids.txt").status == 0
        expected = np.concatenate([np.delete(named["ids"][:N_FIRST], REMOVED), more["ids"]]).tolist()
        assert folder.ids("new") == [one.encode() if text else one for one in expected]
        folder.make("scratch", chosen(rows, kept_and_added()))
        assert_same(folder.predictions("new"), folder.predictions("scratch"))

    def test_that_name_several_rows_remove_them_all(self, folder: Folder, rows: Arrays) -> None:
        folder.make("old", rows | {"ids": np.arange(320) // 40})
        folder.list_ids([2, 7])
        assert folder.update("old", "--remove", "ids.txt").status == 0
        assert sorted(set(folder.ids("new"))) == [0, 1, 3, 4, 5, 6]

    def test_of_a_removed_row_may_come_again(self, folder: Folder, rows: Arrays) -> None:
        named = rows | {"ids": np.arange(320)}
        folder.make("old", chosen(named, slice(N_FIRST)))
        folder.save("more", chosen(rows, slice(300, 302)) | {"ids": np.array([7, 500])})
        folder.list_ids([7])
        assert folder.update("old", "--add", "more.npz", "--remove", "ids.txt").status == 0
        assert folder.ids("new")[-2:] == [7, 500]

    @pytest.mark.parametrize("own", [False, True])
    def test_may_be_numbered_on(self, own: bool, folder: Folder, rows: Arrays) -> None:
        ids = {"ids": np.arange(900, 910)} if own else {}
        folder.make("old", chosen(rows, slice(10)) | ids)
        folder.save("more", chosen(rows, slice(10, 12)) | {"ids": np.array([900, 3])})
        assert folder.update("old", "--add", "more.npz", "--renumber").status == 0
        assert folder.ids("new")[-2:] == ([910, 911] if own else [10, 11])


class TestTheListOfIds:
    def test_may_come_from_a_pipe(self, folder: Folder, rows: Arrays) -> None:
        folder.make("old", rows)
        folder.list_ids([1, 2])
        assert folder.update("old", "--remove", "ids.txt", to="file").status == 0
        read, write = os.pipe()
        os.write(write, (folder.path / "ids.txt").read_bytes())
        os.close(write)
        assert folder.update("old", "--remove", f"/dev/fd/{read}", to="pipe").status == 0
        os.close(read)
        assert_same(folder.predictions("pipe"), folder.predictions("file"))

    def test_that_is_empty_is_told(self, folder: Folder, rows: Arrays) -> None:
        folder.make("old", rows)
        folder.list_ids([])
        done = folder.update("old", "--remove", "ids.txt")
        assert done.status == 0
        assert "ids.txt: names no row, so none is removed" in done.stderr


class TestTwoOutputs:
    """Are changed together or not at all."""

    @pytest.fixture
    def memory(self, folder: Folder, rows: Arrays) -> Folder:
        """Make a memory, and an earlier update of it in the place of the next one."""
        folder.make("old", rows)
        folder.list_ids([1, 2])
        assert folder.update("old", "--remove", "ids.txt").status == 0
        folder.list_ids([3])
        return folder

    @pytest.mark.parametrize("failing", ["resmem.index", "resmem.residuals"])
    def test_stay_as_they_were_if_the_last_check_of_one_fails(
        self, failing: str, memory: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def check(path: Path, fmt: Format, *, trusted: bool) -> Artifact:
            if fmt.name == failing:
                raise DataError("does not hold", file=path)
            return open_artifact(path, fmt, trusted=trusted)

        monkeypatch.setattr("resmem_cli.artifacts.writer.open_artifact", check)
        run = partial(memory.update, "old", "--remove", "ids.txt")
        assert_refused(memory, run, 65, f"new.{failing.removeprefix('resmem.')}.h5: does not hold")

    @pytest.mark.parametrize("working", [0, 1])
    def test_stay_as_they_were_if_one_does_not_get_to_the_disk(
        self, working: int, memory: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        left = [None] * working

        def fsync(descriptor: int) -> None:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                if not left:
                    raise OSError(errno.EIO, "")
                left.pop()

        monkeypatch.setattr("os.fsync", fsync)
        assert_refused(memory, partial(memory.update, "old", "--remove", "ids.txt"), 74, "can't be written")

    def test_of_which_one_is_old_are_refused_until_the_same_update_is_run_again(self, memory: Folder) -> None:
        before = memory.files()
        arguments = ["--index", "old.index.h5", "--residuals", "old.residuals.h5", "--remove", "ids.txt"]
        arguments += ["--index-output", "new.index.h5", "--residuals-output", "new.residuals.h5"]
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_BETWEEN_RENAMES, "update", *arguments],
            cwd=memory.path,
            check=False,
            timeout=120,
        )
        assert killed.returncode == -signal.SIGKILL
        after = memory.files()
        outputs = {"new.index.h5", "new.residuals.h5"}
        assert len([name for name in outputs if after[name] != before[name]]) == 1
        assert memory("verify", *outputs).status == 0
        memory.save("queries", drawn(5, seed=2))
        pair = ["--index", "new.index.h5", "--residuals", "new.residuals.h5"]
        refused = memory("predict", "queries.npz", *pair, "-o", "p.h5")
        assert refused.status == 65
        assert "new.residuals.h5: not the same embeddings as new.index.h5" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1

        assert memory("update", *arguments).status == 0
        assert all(memory.files()[name] != before[name] for name in outputs)
        assert memory("predict", "queries.npz", *pair, "-o", "p.h5").status == 0
        assert memory.files().keys() == before.keys() | {"queries.npz", "p.h5"}


class TestRefusals:
    def test_of_rows_without_a_direction(self, folder: Folder, rows: Arrays) -> None:
        folder.save("old", rows)
        assert folder("index", "old.npz", "--metric", "cosine", "-o", "old.h5").status == 0
        folder.save("more", chosen(rows, slice(3)) | {"embeddings": np.eye(3, D, -1)})
        run = partial(folder, "update", "--index", "old.h5", "--add", "more.npz")
        assert_refused(folder, run, 65, "more.npz: row 0 is all zeros")

    @pytest.fixture
    def memory(self, folder: Folder, rows: Arrays) -> Folder:
        folder.make("old", chosen(rows, slice(N_FIRST)))
        folder.save("more", chosen(rows, slice(N_FIRST, None)))
        folder.list_ids(REMOVED)
        return folder

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"3\n240\n", ["ids.txt", "line 2", "found 240", "number of a row of old.index.h5"]),
            (b"-1\n", ["line 1", "found -1"]),
            (b"4\n\n\n five\n", ["line 4", "found five"]),
            (b"1.0\n", ["found 1.0"]),
            (b"1_0\n", ["found 1_0"]),
            (b"\xff\xfe\n", ["line 1", "\\xff"]),
            (b"9" * 5000, ["line 1"]),
            (b"7\n" + b"\0" * 100_000, ["line 2"]),
            (b"99999999999999999999\n", ["line 1"]),
            ("\n".join(map(str, range(240))).encode(), ["all rows", "ids.txt"]),
        ],
    )
    def test_of_a_list_of_ids(self, content: bytes, words: list[str], memory: Folder) -> None:
        (memory.path / "ids.txt").write_bytes(content)
        for change in (["--remove", "ids.txt"], ["--add", "more.npz", "--remove", "ids.txt"]):
            assert_refused(memory, partial(memory.update, "old", *change), 65, *words)

    def test_of_a_list_that_is_not_there(self, memory: Folder) -> None:
        assert_refused(
            memory, partial(memory.update, "old", "--remove", "no.txt"), 66, "no.txt: no such file"
        )

    def test_of_lines_far_longer_than_any_id_without_room_for_as_many(
        self, folder: Folder, rows: Arrays
    ) -> None:
        folder.make("old", rows | {"ids": np.array([f"r{i}" for i in range(320)])})
        folder.list_ids(["r7"] * 100_000 + ["x" * 1_000_000])  # 100 GB, if all were as wide
        run = partial(folder.update, "old", "--remove", "ids.txt")
        assert_refused(folder, run, 65, "line 100,001 names no row")

    def test_of_numbers_beyond_64_bits(self, folder: Folder, rows: Arrays) -> None:
        ids = np.arange(320)
        ids[-1] = np.iinfo(np.int64).max - 1
        folder.make("old", rows | {"ids": ids})
        folder.save("more", chosen(rows, slice(2)))
        run = partial(folder.update, "old", "--add", "more.npz", "--renumber")
        assert_refused(folder, run, 65, "old.index.h5: ids: no 2 numbers of 64 bits", "leave --renumber out")
        folder.save("one", chosen(rows, slice(1)))
        assert folder.update("old", "--add", "one.npz", "--renumber").status == 0
        assert folder.ids("new")[-1] == np.iinfo(np.int64).max

    def test_of_text_ids_that_are_not_there(self, folder: Folder, rows: Arrays) -> None:
        folder.make("old", rows | {"ids": np.array([f"r{i}" for i in range(320)])})
        folder.list_ids(["r7", "r7 "])
        run = partial(folder.update, "old", "--remove", "ids.txt")
        assert_refused(folder, run, 65, "line 2", "an id of old.index.h5")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--add", "more.npz"], ["nothing to update", "--index"]),
            (["--index", "old.index.h5"], ["nothing to do", "--add"]),
            (["--index", "old.index.h5", "--remove", "ids.txt", "--renumber"], ["give --add"]),
            (["--index", "old.index.h5", "--remove", "ids.txt", "--split", "train"], ["give --add"]),
            (
                ["--index", "old.index.h5", "--remove", "ids.txt", "--residuals-output", "x.h5"],
                ["--residuals"],
            ),
            (
                ["--index", "old.index.h5", "--remove", "ids.txt", "--index-output", "old.index.h5"],
                ["old.index.h5", "input"],
            ),
            (
                ["--index", "old.index.h5", "--residuals", "old.residuals.h5", "--remove", "ids.txt"]
                + ["--index-output", "x.h5", "--residuals-output", "./x.h5"],
                ["both outputs"],
            ),
        ],
    )
    def test_of_options_that_do_not_go_together(
        self, arguments: list[str], words: list[str], memory: Folder
    ) -> None:
        assert_refused(memory, partial(memory, "update", *arguments), 2, *words)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"embeddings": np.ones((4, D + 1), np.float32)}, ["dimension", "expected 8", "found 9"]),
            ({"logits": np.ones((4, C + 1), np.float32)}, ["number of classes", "expected 5", "found 6"]),
            ({"labels": None}, ["has no labels"]),
            ({"logits": None}, ["has no logits"]),
            ({"embeddings": np.full((4, D), np.nan, np.float32)}, ["more.npz: embeddings", "not finite"]),
            ({"ids": np.arange(4)}, ["more.npz: ids: has ids", "--renumber"]),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
    )
    def test_of_rows_that_do_not_fit(
        self, change: Arrays, words: list[str], memory: Folder, rows: Arrays
    ) -> None:
        arrays = chosen(rows, slice(4)) | change
        memory.save("more", {name: values for name, values in arrays.items() if values is not None})
        assert_refused(memory, partial(memory.update, "old", "--add", "more.npz"), 65, *words)

    @pytest.mark.parametrize(
        ("ids", "words"),
        [
            (None, ["more.npz: ids: has no ids", "--renumber"]),
            (np.array(["a", "b"]), ["expected integers", "found text"]),
            (np.array([400, 239]), ["row 1", "found 239"]),
        ],
    )
    def test_of_ids_that_do_not_fit(
        self, ids: NDArray[Any] | None, words: list[str], folder: Folder, rows: Arrays
    ) -> None:
        folder.make("old", chosen(rows, slice(N_FIRST)) | {"ids": np.arange(N_FIRST)})
        folder.save("more", chosen(rows, slice(2)) | ({} if ids is None else {"ids": ids}))
        assert_refused(folder, partial(folder.update, "old", "--add", "more.npz"), 65, *words)

    def test_of_numbers_for_rows_named_by_text(self, folder: Folder, rows: Arrays) -> None:
        folder.make("old", chosen(rows, slice(4)) | {"ids": np.array(list("abcd"))})
        folder.save("more", chosen(rows, slice(4, 6)))
        run = partial(folder.update, "old", "--add", "more.npz", "--renumber")
        assert_refused(folder, run, 65, "old.index.h5: ids", "--renumber")

    def test_of_class_names_that_differ(self, folder: Folder, rows: Arrays) -> None:
        folder.make("old", chosen(rows, slice(40)) | {"class_names": np.array(list("abcde"))})
        folder.save("more", chosen(rows, slice(40, 50)) | {"class_names": np.array(list("abcxe"))})
        run = partial(folder.update, "old", "--add", "more.npz")
        assert_refused(folder, run, 65, "class names", "old.residuals.h5", "more.npz")

    def test_of_files_of_two_memories(self, memory: Folder, rows: Arrays) -> None:
        memory.make("other", chosen(rows, slice(10, 250)))
        run = partial(
            memory,
            *["update", "--index", "old.index.h5", "--residuals", "other.residuals.h5"],
            *["--remove", "ids.txt", "--index-output", "x.h5", "--residuals-output", "y.h5"],
        )
        assert_refused(memory, run, 65, "old.index.h5", "other.residuals.h5", "embeddings")

    def test_of_a_memory_damaged_where_its_last_rows_are(self, memory: Folder) -> None:
        with open_artifact(memory.path / "old.residuals.h5") as old:
            last = old.read("residuals")[-1].tobytes()
        content = bytearray(memory.files()["old.residuals.h5"])
        content[content.index(last)] ^= 1
        (memory.path / "old.residuals.h5").write_bytes(content)
        run = partial(memory.update, "old", "--add", "more.npz", "--remove", "ids.txt")
        assert_refused(memory, run, 65, "old.residuals.h5: residuals", "a digest does not hold")

    def test_of_other_artifacts(self, memory: Folder) -> None:
        run = partial(memory, "update", "--index", "old.residuals.h5", "--remove", "ids.txt")
        assert_refused(memory, run, 65, "expected resmem.index")

    def test_of_outputs_that_are_there_if_so_wished(self, memory: Folder) -> None:
        (memory.path / "new.residuals.h5").write_bytes(b"mine")
        assert_refused(
            memory,
            partial(memory.update, "old", "--remove", "ids.txt", "--no-clobber"),
            74,
            "new.residuals.h5",
        )
