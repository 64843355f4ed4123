"""`resmem embed --shard` and `resmem merge`: the embeddings of one run, of images and of language."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Resmem
from test_cli_merge import N_SHARDS, Shards
from test_cli_update import assert_refused

torch = pytest.importorskip("torch", reason="needs the torch extra")

from test_cli_embed_language import MODEL, documents, made  # noqa: E402

from resmem_cli import open_artifact  # noqa: E402

SAMPLE_DATA = Path(__file__).parents[1] / "sample_data"
DIGITS = ("embed", SAMPLE_DATA / "digits.safetensors", "digits.npz", "--arch", "train_digits:make_network")
N = 40

__all__ = ["made"]


@pytest.fixture
def folder(tmp_path: Path, resmem: Resmem, monkeypatch: pytest.MonkeyPatch) -> Shards:
    monkeypatch.syspath_prepend(SAMPLE_DATA)
    with np.load(SAMPLE_DATA / "digits_test.npz") as arrays:
        n = len(arrays["y"])
        few = {name: arrays[name][:N] if len(arrays[name]) == n else arrays[name] for name in arrays}
    shards = Shards(tmp_path, resmem)
    shards.save("digits", few)
    shards.save("named", few | {"ids": np.array(["x" * (1 + row // 5) for row in range(N)])})
    return shards


def language(made: Path, *options: object) -> tuple[object, ...]:
    return ("embed", made / "lm.safetensors", made / "tokens.npz", *MODEL, *options)


class TestTheSameBytes:
    @pytest.mark.parametrize(
        "options", [[], ["--batch-size", 7, "--storage", "float16"]], ids=lambda o: " ".join(map(str, o))
    )
    def test_of_images(self, options: list[object], folder: Shards) -> None:
        for n_shards in (4,) if options else N_SHARDS:
            folder.same(n_shards, *DIGITS, *options)
        with open_artifact(folder.path / "merged.h5") as merged:
            assert merged.dimensions["n"] == N
            assert {"embeddings", "logits", "labels"} <= set(merged.names)

    def test_of_images_with_names(self, folder: Shards) -> None:
        folder.same(3, *DIGITS[:2], "named.npz", *DIGITS[3:])

    @pytest.mark.parametrize("options", [[], ["--top", 3], ["--batch-size", 2]], ids=str)
    def test_of_language(self, options: list[object], made: Path, folder: Shards) -> None:
        for n_shards in (4,) if options else N_SHARDS:
            folder.same(n_shards, *language(made, *options))
        with open_artifact(folder.path / "merged.h5") as merged:
            assert merged.read("documents/lengths").tolist() == [len(one) for one in documents(made)]


def test_a_shard_holds_its_rows_of_one_run(made: Path, folder: Shards) -> None:
    folder.done(*language(made), "-o", "once.h5")
    shards = folder.write(4, "s", *language(made))
    first = 0
    with open_artifact(folder.path / "once.h5") as once:
        for shard in shards:
            with open_artifact(folder.path / shard) as part:
                n = part.dimensions["n"]
                for name in ("embeddings", "logits", "labels", "ids"):
                    assert np.array_equal(part.read(name), once.read(name)[first : first + n]), name
                first += n
        assert first == once.dimensions["n"]


@pytest.mark.parametrize("n_shards", N_SHARDS)
def test_a_manifest_is_the_memory_that_one_file_is(n_shards: int, made: Path, folder: Shards) -> None:
    """An index of one and residuals of the other belong together, and so do their predictions."""
    folder.done(*language(made), "-o", "once.h5")
    shards = folder.write(n_shards, "s", *language(made))
    folder.done("merge", "--manifest", *shards, "-o", "manifest.h5")
    with open_artifact(folder.path / "manifest.h5") as found, open_artifact(folder.path / "once.h5") as once:
        assert found.header.content_digest == once.header.content_digest
        assert found.shapes == once.shapes
        for name in once.names:
            assert np.array_equal(found.read(name), once.read(name)), name
    for name in ("manifest", "once"):
        folder.done("index", f"{name}.h5", "--kind", "exact", "-o", f"{name}.i.h5")
        folder.done("residualize", f"{name}.h5", "--top", 4, "-o", f"{name}.r.h5")
    for kind in ("i", "r"):
        assert folder.digest(f"manifest.{kind}.h5") == folder.digest(f"once.{kind}.h5")
    for queries, index, residuals in (("manifest", "once", "manifest"), ("once", "manifest", "once")):
        memory = ("--index", f"{index}.i.h5", "--residuals", f"{residuals}.r.h5", "-k", 5)
        folder.done("predict", f"{queries}.h5", *memory, "-o", f"{queries}.p.h5")
    assert folder.digest("manifest.p.h5") == folder.digest("once.p.h5")


def test_an_index_of_a_manifest_in_shards_is_that_of_one_file(made: Path, folder: Shards) -> None:
    shards = folder.write(3, "s", *language(made))
    folder.done("merge", "--manifest", *shards, "-o", "train.h5")
    folder.done("merge", *shards, "-o", "once.h5")
    for name in ("train", "once"):
        parts = folder.write(2, f"{name}.i", "index", f"{name}.h5", "--kind", "exact")
        folder.done("merge", *parts, "-o", f"{name}.i.h5")
    assert folder.digest("train.i.h5") == folder.digest("once.i.h5")


def test_shards_of_other_networks_or_inputs_are_refused(made: Path, folder: Shards) -> None:
    folder.write(2, "s", *DIGITS)
    folder.done(*DIGITS[:2], "named.npz", *DIGITS[3:], "--shard", "2/2", "-o", "x.h5")
    assert_refused(folder, lambda: folder("merge", "s.1.h5", "x.h5", "-o", "o.h5"), 65, "x.h5", "made from")
    folder.done(*DIGITS, "--storage", "float16", "--shard", "2/2", "-o", "x.h5")
    for more in ([], ["--manifest"]):
        run = ("merge", "s.1.h5", "x.h5", *more, "-o", "o.h5")
        assert_refused(folder, lambda run=run: folder(*run), 65, "x.h5", "embeddings", "float16")
