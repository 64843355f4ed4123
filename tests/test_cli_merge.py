"""`resmem merge`: shards together are what the command writes without `--shard`, and answer as that does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Finished, Resmem
from test_cli_update import Arrays, Folder, assert_refused, drawn

from resmem_cli import open_artifact

N_SHARDS = (1, 2, 4, 16)

# Options of `index`, that of every kind that can be cut.
KINDS: dict[str, tuple[object, ...]] = {
    "exact": ("--kind", "exact", "--axes", 0),
    "exact-axes": ("--kind", "exact", "--axes", 4),
    "exact-cosine": ("--kind", "exact", "--metric", "cosine"),
    "ivf": ("--kind", "ivf"),
    "ivf-cosine": ("--kind", "ivf", "--metric", "cosine"),
    "ivf-float32": ("--kind", "ivf", "--storage", "float32"),
    "ivf-rabitq": ("--kind", "ivf-rabitq"),
    "ivf-pq": ("--kind", "ivf-pq"),
    "ivf-pq-coarse": ("--kind", "ivf-pq", "--subquantizers", 2),
    "ivf-pq-8": ("--kind", "ivf-pq", "--bits", 8),
}
MAIN_KINDS = ("exact", "ivf", "ivf-rabitq", "ivf-pq")
each_kind = pytest.mark.parametrize("kind", KINDS)


def with_duplicates(n: int, *, seed: int, times: int = 8) -> Arrays:
    """Draw rows of which each is there several times, near and far apart, with labels of their own."""
    arrays = drawn(n, seed=seed)
    order = np.random.default_rng(seed).permutation(np.arange(n) % (n // times))
    return {**arrays, "embeddings": arrays["embeddings"][order]}


@dataclass
class Shards(Folder):
    """A folder in which commands are run in shards."""

    def done(self, *arguments: object) -> Finished:
        done = self(*arguments)
        assert done.status == 0, done.stderr
        return done

    def write(self, n_shards: int, name: str, *arguments: object) -> list[str]:
        """Run a command for each shard."""
        files = [f"{name}.{number}.h5" for number in range(1, n_shards + 1)]
        for number, file in enumerate(files, start=1):
            self.done(*arguments, "--shard", f"{number}/{n_shards}", "-o", file)
        return files

    def same(self, n_shards: int, *arguments: object) -> None:
        """Hold what is merged to what the command writes at once."""
        if not (self.path / "once.h5").exists():
            self.done(*arguments, "-o", "once.h5")
        shards = self.write(n_shards, "shard", *arguments)
        # In any order.
        self.done("merge", *np.random.default_rng(n_shards).permutation(shards), "-o", "merged.h5")
        assert self.bytes("merged.h5") == self.bytes("once.h5")

    def bytes(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def digest(self, name: str) -> str:
        with open_artifact(self.path / name) as artifact:
            return artifact.header.content_digest

    def index(self, kind: str, n_shards: int) -> list[str]:
        """Make the shards of an index, after what they share."""
        return self.write(n_shards, "index", "index", "train.npz", *self.learnt(kind))

    def learnt(self, kind: str) -> tuple[object, ...]:
        options = KINDS[kind]
        if kind.startswith("exact"):
            return options
        if not (self.path / "trained.h5").exists():
            self.done("index", "train.npz", *options, "--lists", 6, "--train-only", "-o", "trained.h5")
        return ("--trained", "trained.h5")


@pytest.fixture
def folder(tmp_path: Path, resmem: Resmem) -> Shards:
    shards = Shards(tmp_path, resmem)
    shards.save("train", with_duplicates(320, seed=1))
    shards.save("test", drawn(48, seed=2))
    return shards


PREDICT = ("predict", "test.npz", "--index", "i.h5", "--residuals", "r.h5")


def make_memory(folder: Shards) -> None:
    folder.done("index", "train.npz", "--kind", "exact", "-o", "i.h5")
    folder.done("residualize", "train.npz", "-o", "r.h5")


class TestTheSameBytes:
    @pytest.mark.parametrize(
        "options", [[], ["--top", 2], ["--space", "logit"], ["-T", 0.5]], ids=lambda o: " ".join(map(str, o))
    )
    def test_of_residuals(self, options: list[object], folder: Shards) -> None:
        for n_shards in (4,) if options else N_SHARDS:
            folder.same(n_shards, "residualize", "train.npz", *options)

    def test_of_residuals_of_rows_with_names(self, folder: Shards) -> None:
        names = {"ids": np.array([f"row {'x' * (row // 7)}" for row in range(320)])}
        names["class_names"] = np.array(["ant", "bee", "cat", "dog", "eel"])
        folder.save("train", drawn(320, seed=1) | names)
        folder.same(3, "residualize", "train.npz")

    @each_kind
    def test_of_an_index(self, kind: str, folder: Shards) -> None:
        for n_shards in N_SHARDS if kind in MAIN_KINDS else (4,):
            folder.same(n_shards, "index", "train.npz", *folder.learnt(kind))

    def test_of_an_index_of_rows_with_names(self, folder: Shards) -> None:
        folder.save("train", drawn(320, seed=1) | {"ids": np.array([f"{row}" for row in range(320)])})
        for kind in ("exact", "ivf"):
            (folder.path / "once.h5").unlink(missing_ok=True)
            folder.same(3, "index", "train.npz", *folder.learnt(kind))

    @pytest.mark.parametrize(
        "options",
        [
            [],
            ["--compare"],
            ["--top-scores", 2],
            ["--gate-distance", 3, "--gate-confidence", 0.8],
            ["--as-probabilities", "simplex"],
            ["--method", "knn", "--block-rows", 5],
        ],
        ids=lambda options: " ".join(map(str, options)),
    )
    def test_of_predictions(self, options: list[object], folder: Shards) -> None:
        make_memory(folder)
        for n_shards in N_SHARDS if not options else (3,):
            folder.same(n_shards, *PREDICT, "-k", 20, *options)

    def test_of_predictions_with_top_residuals(self, folder: Shards) -> None:
        make_memory(folder)
        folder.done("residualize", "train.npz", "--top", 2, "-o", "r.h5")
        folder.same(3, *PREDICT, "-k", 20)

    def test_of_predictions_of_queries_with_names(self, folder: Shards) -> None:
        make_memory(folder)
        names = {"ids": np.array(["x" * (row + 1) for row in range(48)])}
        folder.save("test", drawn(48, seed=2) | names)
        folder.same(3, *PREDICT, "-k", 20)

    def test_of_predictions_of_queries_without_labels(self, folder: Shards) -> None:
        make_memory(folder)
        queries = drawn(48, seed=2)
        del queries["labels"]
        folder.save("test", queries)
        folder.same(3, *PREDICT, "-k", 20)

    def test_of_predictions_of_which_some_were_tuned_on(self, folder: Shards) -> None:
        make_memory(folder)
        grid = ["-k", "5,20", "--sigma", "0.3,1", "-T", "1.4", "--fraction", 0.5]
        folder.done("tune", "test.npz", "--index", "i.h5", "--train", "train.npz", *grid, "-o", "t.h5")
        for options in ([], ["--gate"]):
            (folder.path / "once.h5").unlink(missing_ok=True)
            for n_shards in (3,):
                folder.same(n_shards, *PREDICT, "--tuning", "t.h5", *options)
        with open_artifact(folder.path / "merged.h5") as merged:
            assert merged.read("tuned_on").sum() == 24

    def test_of_what_a_search_found(self, folder: Shards) -> None:
        make_memory(folder)
        for n_shards in N_SHARDS:
            folder.same(n_shards, "search", "test.npz", "--index", "i.h5", "-k", 20)


def test_the_result_is_told(folder: Shards) -> None:
    shards = folder.write(3, "r", "residualize", "train.npz")
    done = folder.done("merge", *shards, "-o", "r.h5", "--json")
    assert done.json["command"] == "merge"
    assert done.result == {"format": "resmem.residuals", "shards": 3, "rows": 320}
    done = folder.done("merge", *folder.index("ivf", 2), "-o", "i.h5", "--json")
    once = folder.done("index", "train.npz", "--trained", "trained.h5", "-o", "once.h5", "--json")
    assert done.result["shards"] == 2
    for name in ("kind", "rows", "search", "distance_scale", "default_sigma"):
        assert done.result[name] == once.result[name], name


class TestAManifest:
    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("exact-axes", "ivf-float32")])
    def test_of_a_memory_predicts_as_one_file(self, kind: str, folder: Shards) -> None:
        folder.done("index", "train.npz", *folder.learnt(kind), "-o", "i.h5")
        folder.done("residualize", "train.npz", "-o", "r.h5")
        folder.done(*PREDICT, "-k", 20, "-o", "once.h5")
        for n_shards in N_SHARDS if kind in MAIN_KINDS else (4,):
            folder.done("merge", "--manifest", *folder.index(kind, n_shards), "-o", "im.h5")
            shards = folder.write(n_shards, "r", "residualize", "train.npz")
            folder.done("merge", "--manifest", *shards, "-o", "rm.h5")
            files = ("--index", "im.h5", "--residuals", "rm.h5")
            folder.done("predict", "test.npz", *files, "-k", 20, "-o", "manifest.h5")
            assert folder.digest("manifest.h5") == folder.digest("once.h5")
            with open_artifact(folder.path / "im.h5") as found, open_artifact(folder.path / "i.h5") as one:
                for name in ("distance_scale", "embeddings_digest", "metric", "seed", "quality"):
                    assert found.parameters[name] == one.parameters[name], name
                for name in found.own_names:
                    assert np.array_equal(found.read(name), one.read(name)), name

    @pytest.mark.parametrize("n_shards", [2, 16])
    @pytest.mark.parametrize("kind", ["exact", "ivf", "ivf-rabitq", "ivf-pq", "ivf-pq-8"])
    def test_of_an_index_of_few_different_rows_finds_the_first_of_them(
        self, kind: str, n_shards: int, folder: Shards
    ) -> None:
        """Most neighbours of a query are equally near here, and so are the codes of all kinds."""
        folder.save("train", with_duplicates(320, seed=3, times=40))
        folder.done("index", "train.npz", *folder.learnt(kind), "-o", "i.h5")
        folder.done("residualize", "train.npz", "--top", 2, "-o", "r.h5")
        folder.done("merge", "--manifest", *folder.index(kind, n_shards), "-o", "im.h5")
        for k in (1, 7, 64):
            memory = ("--residuals", "r.h5", "-k", k)
            folder.done("predict", "test.npz", "--index", "i.h5", *memory, "-o", "once.h5")
            folder.done("predict", "test.npz", "--index", "im.h5", *memory, "-o", "manifest.h5")
            assert folder.digest("manifest.h5") == folder.digest("once.h5")

    @pytest.mark.parametrize("options", [["--nprobe", 1], ["--nprobe", 2, "--rerank", 1], ["--recall", 0.5]])
    def test_of_an_index_is_searched_as_hard_as_is_asked(self, options: list[object], folder: Shards) -> None:
        folder.done("index", "train.npz", *folder.learnt("ivf-pq"), "-o", "i.h5")
        folder.done("residualize", "train.npz", "-o", "r.h5")
        folder.done("merge", "--manifest", *folder.index("ivf-pq", 3), "-o", "im.h5")
        # So many that some queries find too few in one list, and are searched for again.
        folder.done(*PREDICT, "-k", 100, *options, "-o", "once.h5")
        memory = ("--index", "im.h5", "--residuals", "r.h5")
        folder.done("predict", "test.npz", *memory, "-k", 100, *options, "-o", "manifest.h5")
        assert folder.digest("manifest.h5") == folder.digest("once.h5")

    def test_of_an_exact_index_whose_shards_are_searched_in_other_ways(self, folder: Shards) -> None:
        """As it is where in some shards a sample says that axes are worth it, and in others not."""
        make_memory(folder)
        folder.done(*PREDICT, "-k", 20, "-o", "once.h5")
        for number, axes in enumerate((4, 0, 2), start=1):
            options = ("--kind", "exact", "--axes", axes, "--shard", f"{number}/3")
            folder.done("index", "train.npz", *options, "-o", f"x.{number}.h5")
        for how in ([], ["--manifest"]):
            folder.done("merge", "x.1.h5", "x.2.h5", "x.3.h5", *how, "-o", "i.h5")
            folder.done(*PREDICT, "-k", 20, "-o", "found.h5")
            assert folder.digest("found.h5") == folder.digest("once.h5")
        assert set(folder.done("info", "i.h5", "--json").result["datasets"]) == {"vectors"}

    def test_of_embeddings_is_the_memory_they_are(self, folder: Shards) -> None:
        """Made from the manifest, an index belongs with residuals that were made from the one file."""
        for number, rows in enumerate((slice(0, 160), slice(160, 320)), start=1):
            with np.load(folder.path / "train.npz") as arrays:
                np.savez(folder.path / f"part{number}.npz", **{name: arrays[name][rows] for name in arrays})
        make_memory(folder)
        folder.done(*PREDICT, "-o", "once.h5")
        folder.done("import", "train.npz", "-o", "train.h5")
        shards = []
        for number in (1, 2):
            folder.done("import", f"part{number}.npz", "-o", f"train.{number}.h5")
            shards.append(f"train.{number}.h5")
        mark_as_shards(folder, shards)
        folder.done("merge", "--manifest", *shards, "-o", "manifest.h5")
        with (
            open_artifact(folder.path / "manifest.h5") as found,
            open_artifact(folder.path / "train.h5") as one,
        ):
            assert found.header.content_digest == one.header.content_digest
        folder.done("index", "manifest.h5", "--kind", "exact", "-o", "i.h5")
        folder.done(*PREDICT, "-o", "manifest.p.h5")
        assert folder.digest("manifest.p.h5") == folder.digest("once.h5")

    def test_of_predictions_is_exported_and_analyzed_as_one_file(self, folder: Shards) -> None:
        make_memory(folder)
        folder.done(*PREDICT, "-k", 20, "-o", "once.h5")
        folder.done("merge", "--manifest", *folder.write(3, "p", *PREDICT, "-k", 20), "-o", "manifest.h5")
        for name in ("once", "manifest"):
            folder.done("export", f"{name}.h5", "-o", f"{name}.csv")
            folder.done("export", f"{name}.h5", "-o", f"{name}.npz")
        assert folder.bytes("manifest.csv") == folder.bytes("once.csv")
        assert folder.bytes("manifest.npz") == folder.bytes("once.npz")
        found, one = (
            folder.done("analyze", f"{name}.h5", "--json").result["runs"][0] for name in ("manifest", "once")
        )
        for name in one.keys() - {"predictions", "name", "file"}:
            assert found[name] == one[name], name

    def test_of_a_memory_is_updated_where_that_can_be(self, folder: Shards) -> None:
        folder.save("more", drawn(20, seed=5))
        make_memory(folder)
        folder.done("merge", "--manifest", *folder.write(2, "r", "residualize", "train.npz"), "-o", "rm.h5")
        for name in ("r", "rm"):
            options = (
                "--residuals",
                f"{name}.h5",
                "--add",
                "more.npz",
                "--residuals-output",
                f"new.{name}.h5",
            )
            folder.done("update", *options)
        assert folder.digest("new.rm.h5") == folder.digest("new.r.h5")
        folder.done("merge", "--manifest", *folder.index("exact", 2), "-o", "im.h5")
        options = ("--add", "more.npz", "--index-output")
        assert_refused(
            folder, lambda: folder("update", "--index", "im.h5", *options, "n.h5"), 2, "im.h5", "resmem merge"
        )
        for output in ("im.h5", "index.2.h5"):
            run = ("update", "--index", "im.h5", *options, output)
            assert_refused(folder, lambda run=run: folder(*run), 2, "also an input")

    def test_may_lie_above_its_shards_but_not_beside_them(self, folder: Shards) -> None:
        (folder.path / "shards").mkdir()
        (folder.path / "beside").mkdir()
        shards = folder.write(2, "shards/r", "residualize", "train.npz")
        folder.done("merge", "--manifest", *shards, "-o", "r.h5")
        folder.done("residualize", "train.npz", "-o", "once.h5")
        folder.done("index", "train.npz", "-o", "i.h5")
        folder.done(*PREDICT, "-o", "manifest.h5")
        folder.done("predict", "test.npz", "--index", "i.h5", "--residuals", "once.h5", "-o", "p.h5")
        assert folder.digest("manifest.h5") == folder.digest("p.h5")
        done = folder("merge", "--manifest", *shards, "-o", "beside/r.h5")
        assert done.status == 2
        assert "from its own folder down" in done.stderr
        assert list((folder.path / "beside").iterdir()) == []

    def test_is_no_shard_of_another(self, folder: Shards) -> None:
        shards = folder.write(2, "r", "residualize", "train.npz")
        folder.done("merge", "--manifest", *shards, "-o", "r.h5")
        for more in ([], ["--manifest"]):
            assert_refused(
                folder, lambda more=more: folder("merge", "r.h5", shards[1], *more, "-o", "x.h5"), 65, "r.h5",
                "is no shard",
            )  # fmt: skip


def mark_as_shards(folder: Shards, files: list[str]) -> None:
    """Say in artifacts that they are shards, which only `embed` says of embeddings."""
    from resmem_cli.artifacts.formats import EMBEDDINGS
    from resmem_cli.artifacts.writer import ArtifactWriter

    first, n = 0, 0
    opened = [open_artifact(folder.path / file) for file in files]
    n = sum(artifact.dimensions["n"] for artifact in opened)
    inputs = opened[0].header.inputs
    for number, (file, artifact) in enumerate(zip(files, opened, strict=True), start=1):
        record = {"shard": number, "of": len(files), "first_row": first, "n": n}
        parameters = opened[0].parameters | {"shard": record}
        arrays = {name: artifact.read(name) for name in artifact.names}
        first += artifact.dimensions["n"]
        artifact.close()
        with ArtifactWriter(folder.path / file, EMBEDDINGS, inputs=inputs, parameters=parameters) as writer:
            for name, values in arrays.items():
                writer.write(name, values)


class TestRefused:
    @pytest.fixture
    def shards(self, folder: Shards) -> list[str]:
        return folder.write(3, "r", "residualize", "train.npz")

    @pytest.fixture(params=[[], ["--manifest"]], ids=["file", "manifest"])
    def how(self, request: pytest.FixtureRequest) -> list[str]:
        chosen: list[str] = request.param
        return chosen

    def merge(self, folder: Shards, files: list[str], how: list[str], status: int, *words: str) -> None:
        assert_refused(folder, lambda: folder("merge", *files, *how, "-o", "out.h5"), status, *words)

    def test_a_shard_that_is_missing(self, folder: Shards, shards: list[str], how: list[str]) -> None:
        self.merge(folder, [shards[0], shards[2]], how, 65, "r.1.h5", "not all 3 shards", "without 2")
        self.merge(folder, shards[1:2], how, 65, "r.2.h5", "not all 3 shards", "without 1, 3")

    def test_a_file_that_is_missing(self, folder: Shards, shards: list[str], how: list[str]) -> None:
        self.merge(folder, [*shards[:2], "nowhere.h5"], how, 66, "nowhere.h5", "no such file")

    def test_a_shard_that_is_given_twice(self, folder: Shards, shards: list[str], how: list[str]) -> None:
        self.merge(folder, [*shards, "r.2.h5"], how, 65, "r.2.h5", "shard 2 of 3 is given twice")

    def test_shards_of_other_parameters(self, folder: Shards, shards: list[str], how: list[str]) -> None:
        folder.done("residualize", "train.npz", "-T", 2, "--shard", "2/3", "-o", "x.h5")
        words = ("x.h5", "temperature", "not made as r.1.h5", "expected 1.4", "found 2")
        self.merge(folder, [shards[0], "x.h5", shards[2]], how, 65, *words)

    def test_shards_of_other_inputs(self, folder: Shards, shards: list[str], how: list[str]) -> None:
        folder.save("other", drawn(320, seed=7))
        folder.done("residualize", "other.npz", "--shard", "2/3", "-o", "x.h5")
        self.merge(folder, [shards[0], "x.h5", shards[2]], how, 65, "x.h5", "made from", "not made as r.1.h5")

    def test_shards_of_another_number(self, folder: Shards, shards: list[str], how: list[str]) -> None:
        folder.done("residualize", "train.npz", "--shard", "3/4", "-o", "x.h5")
        words = ("x.h5", "not as many shards as r.1.h5", "expected 3", "found 4")
        self.merge(folder, [*shards[:2], "x.h5"], how, 65, *words)

    def test_shards_of_other_rows(self, folder: Shards, shards: list[str], how: list[str]) -> None:
        folder.save("other", drawn(100, seed=7))
        folder.done("residualize", "other.npz", "--shard", "2/3", "-o", "x.h5")
        words = ("x.h5", "do not follow those of the shard before", "expected row 106 of 320")
        self.merge(folder, [shards[0], "x.h5", shards[2]], how, 65, *words)

    def test_shards_of_another_kind(self, folder: Shards, shards: list[str], how: list[str]) -> None:
        folder.done("index", "train.npz", "--kind", "exact", "--shard", "2/3", "-o", "x.h5")
        words = ("x.h5", "format", "expected resmem.residuals", "found resmem.index")
        self.merge(folder, [shards[0], "x.h5", shards[2]], how, 65, *words)

    def test_what_is_no_shard(self, folder: Shards, shards: list[str], how: list[str]) -> None:
        folder.done("residualize", "train.npz", "-o", "whole.h5")
        self.merge(folder, [*shards[:2], "whole.h5"], how, 65, "whole.h5", "is no shard", "`--shard`")
        self.merge(folder, ["whole.h5"], how, 65, "whole.h5", "is no shard")
        self.merge(folder, ["train.npz"], how, 65, "train.npz")

    def test_what_is_not_made_in_shards(self, folder: Shards, shards: list[str], how: list[str]) -> None:
        folder.learnt("ivf")
        words = ("trained.h5", "resmem.trained is not made in shards")
        self.merge(folder, ["trained.h5", *shards], how, 65, *words)

    def test_an_index_with_other_centres(self, folder: Shards, how: list[str]) -> None:
        folder.index("ivf", 2)
        options = ("index", "train.npz", "--kind", "ivf", "--lists", 6, "--seed", 0)
        folder.done(*options, "--metric", "cosine", "--train-only", "-o", "x.h5")
        folder.done("index", "train.npz", "--trained", "x.h5", "--shard", "2/2", "-o", "index.2.h5")
        self.merge(folder, ["index.1.h5", "index.2.h5"], how, 65, "index.2.h5", "not made as index.1.h5")

    def test_an_output_that_is_there_with_no_clobber(
        self, folder: Shards, shards: list[str], how: list[str]
    ) -> None:
        (folder.path / "out.h5").write_text("precious")
        self.merge(folder, shards, [*how, "--no-clobber"], 74, "out.h5", "--no-clobber")
        folder.done("merge", *shards, *how, "-o", "out.h5")

    def test_an_output_that_is_a_shard(self, folder: Shards, shards: list[str], how: list[str]) -> None:
        assert_refused(folder, lambda: folder("merge", *shards, *how, "-o", shards[1]), 2, "also an input")

    def test_a_flipped_bit(self, folder: Shards, shards: list[str]) -> None:
        with h5py.File(folder.path / shards[1]) as file:
            offset = file["residuals"].id.get_offset()
        content = bytearray(folder.bytes(shards[1]))
        content[offset + 50] ^= 1
        (folder.path / shards[1]).write_bytes(content)
        self.merge(folder, shards, [], 65, shards[1], "residuals")

    def test_a_shard_number_that_is_absurd(self, folder: Shards, shards: list[str], how: list[str]) -> None:
        from test_artifacts_formats import write_artifact

        from resmem_cli.artifacts.formats import RESIDUALS

        for record in (
            {"shard": 1, "of": 1 << 60},
            {"shard": 2, "of": 1},
            {"shard": 0, "of": 1},
            {"shard": 1, "of": 1, "first_row": -3},
            {"shard": 1, "of": 1, "n": 319},
            {"shard": True, "of": 1},
            {"shard": "1", "of": 1},
        ):
            with open_artifact(folder.path / shards[0]) as shard:
                arrays = {name: shard.read(name) for name in shard.names}
                parameters: dict[str, Any] = dict(shard.parameters)
            parameters["shard"] = {"first_row": 0, "n": 106} | record
            path = folder.path / "x.h5"
            write_artifact(path, RESIDUALS, arrays, parameters=parameters)
            self.merge(folder, ["x.h5"], how, 65, "x.h5")
            path.unlink()


class TestAShardAlone:
    def test_is_no_memory(self, folder: Shards) -> None:
        make_memory(folder)
        folder.index("exact", 2)
        folder.write(2, "shard", "residualize", "train.npz")
        folder.save("more", drawn(20, seed=5))
        search = ("search", "test.npz", "--index", "index.1.h5")
        tune = ("tune", "test.npz", "--index", "index.1.h5", "--train", "train.npz")
        update = ("update", "--add", "more.npz")
        for run in (
            (*PREDICT, "--index", "index.1.h5"),
            (*PREDICT, "--residuals", "shard.1.h5"),
            search,
            tune,
        ):
            run = (*run, "-o", "out.h5")
            assert_refused(folder, lambda run=run: folder(*run), 65, "is shard 1 of 2", "resmem merge")
        for run in (
            (*update, "--index", "index.1.h5", "--index-output", "out.h5"),
            (*update, "--residuals", "shard.1.h5", "--residuals-output", "out.h5"),
        ):
            assert_refused(folder, lambda run=run: folder(*run), 65, "is shard 1 of 2", "resmem merge")

    def test_of_predictions_is_not_analyzed(self, folder: Shards) -> None:
        make_memory(folder)
        folder.write(2, "p", *PREDICT)
        assert_refused(folder, lambda: folder("analyze", "p.2.h5"), 65, "p.2.h5", "is shard 2 of 2")


@pytest.mark.parametrize(
    ("shard", "words"),
    [
        ("1", ["--shard", "I/N"]),
        ("0/2", ["--shard", "out of range"]),
        ("3/2", ["--shard", "out of range"]),
        ("1/400", ["--shard", "more shards than the 320 rows"]),
    ],
)
@pytest.mark.parametrize("command", ["residualize", "index"])
def test_a_shard_that_there_is_not_is_refused(
    command: str, shard: str, words: list[str], folder: Shards
) -> None:
    assert_refused(folder, lambda: folder(command, "train.npz", "--shard", shard, "-o", "x.h5"), 2, *words)


def test_the_name_of_a_shard_is_derived_from_the_input(folder: Shards) -> None:
    for command, kind in (("residualize", "residuals"), ("index", "index")):
        folder.done(command, "train.npz", "--shard", "2/8")
        assert (folder.path / f"train.shard-2-of-8.{kind}.h5").is_file()
