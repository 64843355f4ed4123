"""A manifest of shards, opened as the artifact it stands for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Resmem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_artifacts_formats import INPUT, write_artifact
from test_cli_update import drawn

from resmem_cli import open_artifact
from resmem_cli.artifacts.formats import EMBEDDINGS, INDEX, RESIDUALS
from resmem_cli.artifacts.reader import Artifact
from resmem_cli.artifacts.shard_formats import MANIFEST
from resmem_cli.artifacts.sharded import ShardedArtifact
from resmem_cli.artifacts.verifying import verify_blocks
from resmem_cli.errors import DataError, MissingInputError, ResmemError

LENGTHS = (4, 1, 6)
N, C = sum(LENGTHS), 5
RNG = np.random.default_rng(0)
ARRAYS = {
    "residuals": RNG.normal(size=(N, C)).astype("<f4"),
    "labels": RNG.integers(C, size=N).astype("<i4"),
    # Wider in the last shard.
    "ids": np.array([f"row {'x' * row}".encode() for row in range(N)]),
    "class_names": np.array([f"class {c}".encode() for c in range(C)]),
}
PARAMETERS = {"temperature": 1.4, "top": None, "n_classes": C, "embeddings_digest": "0" * 64}


def write_shard(path: Path, rows: slice, **replaced: Any) -> Path:
    arrays = {name: values if name == "class_names" else values[rows] for name, values in ARRAYS.items()}
    arrays["ids"] = arrays["ids"].astype(f"S{max(map(len, arrays['ids']))}")
    return write_artifact(path, RESIDUALS, arrays | replaced, parameters=PARAMETERS, inputs=[INPUT])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards, and the same rows in one file."""
    starts = np.cumsum([0, *LENGTHS])
    (tmp_path / "shards").mkdir()
    for number, (start, stop) in enumerate(zip(starts, starts[1:], strict=False)):
        write_shard(tmp_path / "shards" / f"{number}.h5", slice(start, stop))
    write_shard(tmp_path / "whole.h5", slice(N))
    return tmp_path


SHARDS = ["shards/0.h5", "shards/1.h5", "shards/2.h5"]


def write_manifest(
    folder: Path,
    *,
    files: Any = SHARDS,
    rows: Any = LENGTHS,
    digests: Any = None,
    name: str = "manifest.h5",
    **of: Any,
) -> Path:
    """Write a manifest of shards, by default a right one."""
    if digests is None:
        digests = [open_artifact(folder / shard).header.content_digest for shard in SHARDS][: len(files)]
    told = {"format": RESIDUALS.name, "version": 3, "parameters": PARAMETERS} | of
    arrays = {
        "shards/files": np.array([file if isinstance(file, bytes) else file.encode() for file in files]),
        "shards/rows": np.array(rows, "<i8"),
        "shards/digests": np.array([one if isinstance(one, bytes) else one.encode() for one in digests]),
    }
    of = {key: value for key, value in told.items() if value is not Ellipsis}
    return write_artifact(folder / name, MANIFEST, arrays, parameters={"of": of}, inputs=[INPUT])


class TestTheWhole:
    def test_has_the_shapes_and_rows_of_one_file(self, folder: Path) -> None:
        with open_artifact(write_manifest(folder)) as found, open_artifact(folder / "whole.h5") as whole:
            assert isinstance(found, ShardedArtifact)
            assert found.header.format == RESIDUALS
            assert found.parameters == whole.parameters
            assert found.dimensions == whole.dimensions
            assert found.names == whole.names
            assert found.shapes == whole.shapes
            for name in whole.names:
                assert np.array_equal(found.read(name), whole.read(name)), name
                assert found.rows(name).dtype == whole.rows(name).dtype

    def test_names_all_its_files(self, folder: Path) -> None:
        path = write_manifest(folder)
        with open_artifact(path) as found:
            assert found.files == (path, *(folder / shard for shard in SHARDS))
            assert [shard.path for shard in found.shards] == list(found.files[1:])
            assert "residuals" in found
            assert "top/values" not in found
            assert found.read_optional("top/values") is None
            assert found.own_names == ()

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
    @given(rows=st.lists(st.integers(0, N - 1), max_size=12), bounds=st.tuples(*[st.integers(0, N + 3)] * 2))
    def test_gives_any_rows(self, folder: Path, rows: list[int], bounds: tuple[int, int]) -> None:
        chosen = np.array(rows, np.int64)
        if not (folder / "manifest.h5").exists():
            write_manifest(folder)
        with open_artifact(folder / "manifest.h5") as found:
            for name in ("residuals", "labels", "ids"):
                values = found.rows(name).read(*bounds)
                assert np.array_equal(values, ARRAYS[name][slice(*bounds)])
            picked = found.mapped("residuals").at(chosen)[chosen]
            assert np.array_equal(picked, ARRAYS["residuals"][chosen])

    def test_may_lie_in_another_folder_than_where_it_is_opened_from(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_manifest(folder)
        monkeypatch.chdir(folder.parent)
        with open_artifact(Path(folder.name) / "manifest.h5") as found:
            assert np.array_equal(found.read("residuals"), ARRAYS["residuals"])

    def test_moves_with_its_shards(self, folder: Path) -> None:
        write_manifest(folder)
        folder.rename(folder.parent / "moved")
        with open_artifact(folder.parent / "moved" / "manifest.h5") as found:
            assert np.array_equal(found.read("residuals"), ARRAYS["residuals"])

    def test_can_be_asked_for_as_the_manifest(self, folder: Path) -> None:
        with open_artifact(write_manifest(folder), MANIFEST) as manifest:
            assert not isinstance(manifest, ShardedArtifact)
            assert manifest.read("shards/rows").tolist() == list(LENGTHS)

    def test_is_verified_with_every_shard(self, folder: Path, resmem: Resmem) -> None:
        path = write_manifest(folder)
        with open_artifact(path) as found:
            n_bytes = verify_blocks(found)
        with open_artifact(path, MANIFEST) as manifest:
            own = verify_blocks(manifest)
        shards = 0
        for shard in SHARDS:
            with open_artifact(folder / shard) as artifact:
                shards += verify_blocks(artifact)
        assert n_bytes >= shards > 0
        assert own > 0
        done = resmem("verify", path, "--json")
        assert done.status == 0, done.stderr
        assert done.result["files"][0]["format"] == RESIDUALS.name

    def test_is_told_as_the_whole(self, folder: Path, resmem: Resmem) -> None:
        write_manifest(folder)
        found, whole = (
            resmem("info", folder / name, "--json").result for name in ("manifest.h5", "whole.h5")
        )
        for key in ("format", "format_version", "datasets", "parameters"):
            assert found[key] == whole[key]
        assert resmem("info", folder / "manifest.h5").stdout.count("resmem.residuals") == 1


def flip(path: Path, name: str, at: int = 0) -> None:
    """Flip a bit of the rows of a dataset."""
    with h5py.File(path) as file:
        dataset = file[name].id
        offset = dataset.get_offset() or dataset.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + at] ^= 4
    path.write_bytes(content)


def refused(open_it: Callable[[], Artifact], *words: str, kind: type[ResmemError] = DataError) -> None:
    with pytest.raises(kind) as caught:
        open_it()
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


class TestRefused:
    @pytest.mark.parametrize(
        "name",
        ["/etc/hostname", "../whole.h5", "shards/../../whole.h5", "..", ".", "", "/", "a/../shards/0.h5"],
    )
    def test_a_path_that_leads_elsewhere_than_down(self, name: str, folder: Path) -> None:
        path = write_manifest(folder, files=[SHARDS[0], name, SHARDS[2]])
        refused(lambda: open_artifact(path), "manifest.h5", "outside of its folder", "shards/files")

    def test_an_absolute_path_even_of_a_right_shard(self, folder: Path) -> None:
        path = write_manifest(folder, files=[*SHARDS[:2], str(folder / SHARDS[2])])
        refused(lambda: open_artifact(path), "manifest.h5", "outside of its folder")

    @pytest.mark.parametrize("name", [b"\xff\xfe.h5", b"a\nb.h5", b"nowhere.h5"])
    def test_a_shard_that_is_not_there(self, name: bytes, folder: Path) -> None:
        path = write_manifest(folder, files=[*SHARDS[:2], name])
        refused(lambda: open_artifact(path), "no such file", kind=MissingInputError)

    def test_itself_among_the_shards(self, folder: Path) -> None:
        path = write_manifest(folder, files=[*SHARDS[:2], "manifest.h5"])
        refused(lambda: open_artifact(path), "a manifest among the shards", "manifest.h5")

    def test_another_manifest_among_the_shards(self, folder: Path) -> None:
        write_manifest(folder, name="other.h5")
        path = write_manifest(folder, files=[*SHARDS[:2], "other.h5"])
        refused(lambda: open_artifact(path), "a manifest among the shards", "other.h5", str(path))

    def test_a_shard_in_place_of_another(self, folder: Path) -> None:
        path = write_manifest(folder)
        write_shard(folder / SHARDS[1], slice(2, 3))
        refused(lambda: open_artifact(path), SHARDS[1], "not the shard that was named", str(path))

    def test_shards_in_another_order(self, folder: Path) -> None:
        digests = [open_artifact(folder / shard).header.content_digest for shard in SHARDS]
        path = write_manifest(folder, files=SHARDS[::-1], digests=digests)
        refused(lambda: open_artifact(path), SHARDS[2], "not the shard that was named")

    def test_digests_that_are_no_text(self, folder: Path) -> None:
        path = write_manifest(folder, digests=[b"\xff\xfe"] * 3)
        refused(lambda: open_artifact(path), SHARDS[0], "not the shard that was named")

    @pytest.mark.parametrize("rows", [(4, 1, 5), (4, 2, 6), (-4, 1, 6), (0, 1, 6), (1 << 60, 1, 6)])
    def test_another_number_of_rows(self, rows: tuple[int, ...], folder: Path) -> None:
        path = write_manifest(folder, rows=rows)
        refused(lambda: open_artifact(path), "rows of shard", "resmem merge --manifest")

    @pytest.mark.parametrize(
        ("replaced", "name"),
        [
            (
                {"residuals": ARRAYS["residuals"][4:5, :3], "class_names": ARRAYS["class_names"][:3]},
                "class_names",
            ),
            ({"ids": np.arange(1)}, "ids"),
        ],
    )
    def test_a_shard_of_another_width_or_type(
        self, replaced: dict[str, Any], name: str, folder: Path
    ) -> None:
        parameters = PARAMETERS | {"n_classes": len(replaced.get("class_names", ARRAYS["class_names"]))}
        arrays = {"residuals": ARRAYS["residuals"][4:5], "labels": np.zeros(1, "<i4")}
        arrays |= {"ids": ARRAYS["ids"][4:5], "class_names": ARRAYS["class_names"]} | replaced
        write_artifact(folder / SHARDS[1], RESIDUALS, arrays, parameters=parameters, inputs=[INPUT])
        path = write_manifest(folder)
        refused(lambda: open_artifact(path), SHARDS[1], f"{name} unlike the first shard's", str(path))

    def test_a_shard_of_another_float_type(self, folder: Path) -> None:
        for number, dtype in enumerate(("<f4", "<f2")):
            values = {"embeddings": np.ones((2, 3), dtype)}
            write_artifact(folder / f"e{number}.h5", EMBEDDINGS, values, parameters={"sources": {}})
        files = ["e0.h5", "e1.h5"]
        digests = [open_artifact(folder / file).header.content_digest for file in files]
        path = write_manifest(
            folder, files=files, rows=(2, 2), digests=digests, format=EMBEDDINGS.name, version=2,
            parameters={"sources": {}},
        )  # fmt: skip
        refused(lambda: open_artifact(path), "e1.h5", "embeddings", "float32", "float16")

    def test_a_shard_with_a_dataset_less(self, folder: Path) -> None:
        arrays = {name: ARRAYS[name][4:5] for name in ("residuals", "labels")}
        write_artifact(folder / SHARDS[1], RESIDUALS, arrays, parameters=PARAMETERS, inputs=[INPUT])
        path = write_manifest(folder)
        refused(lambda: open_artifact(path), SHARDS[1], "class_names unlike the first shard's")

    def test_a_shard_of_another_format(self, folder: Path) -> None:
        write_artifact(folder / SHARDS[1], EMBEDDINGS, {"embeddings": np.ones((1, 3), "<f4")})
        path = write_manifest(folder)
        refused(lambda: open_artifact(path), SHARDS[1], "expected resmem.residuals", "resmem.embeddings")

    @pytest.mark.parametrize("name", ["resmem.nonsense", "", MANIFEST.name])
    def test_a_format_that_is_not_known(self, name: str, folder: Path) -> None:
        path = write_manifest(folder, format=name)
        refused(lambda: open_artifact(path), "manifest.h5", "parameters.of.format", "resmem.residuals")

    def test_another_format_than_was_asked_for(self, folder: Path) -> None:
        path = write_manifest(folder)
        refused(
            lambda: open_artifact(path, INDEX),
            "manifest.h5",
            "expected resmem.index",
            "found resmem.residuals",
        )

    @pytest.mark.parametrize(
        "of",
        [
            {"format": ...},
            {"version": ...},
            {"parameters": ...},
            {"format": 3},
            {"version": "3"},
            {"parameters": []},
            {"content_digest": 5},
        ],
        ids=str,
    )
    def test_one_that_does_not_say_what_of(self, of: dict[str, Any], folder: Path) -> None:
        path = write_manifest(folder, **of)
        refused(lambda: open_artifact(path), "manifest.h5", "does not say what of", "parameters.of")

    @pytest.mark.parametrize("of", [None, [], "residuals", 4])
    def test_one_that_says_something_else(self, of: Any, folder: Path) -> None:
        arrays = {"shards/files": np.array([b"shards/0.h5"]), "shards/rows": np.array([4], "<i8")}
        arrays["shards/digests"] = np.array([b"0" * 64])
        path = write_artifact(folder / "m.h5", MANIFEST, arrays, parameters={"of": of})
        refused(lambda: open_artifact(path), "m.h5", "does not say what of")

    @pytest.mark.parametrize("version", [0, 99])
    def test_a_version_that_is_not_known(self, version: int, folder: Path) -> None:
        path = write_manifest(folder, version=version)
        refused(lambda: open_artifact(path), "manifest.h5", "a version this tool does not read", "upgrade")

    @pytest.mark.parametrize("name", PARAMETERS)
    def test_parameters_that_are_missing(self, name: str, folder: Path) -> None:
        parameters = {key: value for key, value in PARAMETERS.items() if key != name}
        path = write_manifest(folder, parameters=parameters)
        refused(lambda: open_artifact(path), "manifest.h5", f"parameters without ['{name}']")

    @pytest.mark.parametrize("n_classes", [4, 6, "5", True])
    def test_a_count_of_something_else(self, n_classes: Any, folder: Path) -> None:
        path = write_manifest(folder, parameters=PARAMETERS | {"n_classes": n_classes})
        refused(lambda: open_artifact(path), "manifest.h5", "n_classes", "not a count of what is there")


@pytest.fixture
def memory(tmp_path: Path, resmem: Resmem) -> Path:
    """A memory of 2 shards, of which a manifest each is made."""
    np.savez(tmp_path / "train.npz", **drawn(120, seed=1))
    np.savez(tmp_path / "test.npz", **drawn(10, seed=2))
    for command, options in (("index", ["--kind", "exact"]), ("residualize", [])):
        for number in (1, 2):
            output = f"{command}.{number}.h5"
            done = resmem(
                command, "train.npz", *options, "--shard", f"{number}/2", "-o", output, cwd=tmp_path
            )
            assert done.status == 0, done.stderr
        shards = [f"{command}.1.h5", f"{command}.2.h5"]
        assert resmem("merge", "--manifest", *shards, "-o", f"{command}.h5", cwd=tmp_path).status == 0
    return tmp_path


PREDICT = ("predict", "test.npz", "--index", "index.h5", "--residuals", "residualize.h5", "-k", 100)


@pytest.mark.parametrize(("file", "name"), [("residualize", "residuals"), ("index", "vectors")])
def test_a_flipped_bit_in_a_shard_is_found(file: str, name: str, memory: Path, resmem: Resmem) -> None:
    assert resmem(*PREDICT, "-o", "p.h5", cwd=memory).status == 0
    flip(memory / f"{file}.2.h5", name)
    done = resmem("verify", f"{file}.h5", cwd=memory)
    assert done.status == 3
    assert f"{file}.2.h5" in done.stdout + done.stderr
    assert resmem("verify", f"{file}.1.h5", cwd=memory).status == 0
    done = resmem(*PREDICT, "-o", "q.h5", cwd=memory)
    assert done.status == 65
    assert f"{file}.2.h5" in done.stderr
    assert name in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (memory / "q.h5").exists()


def test_a_flipped_bit_in_the_manifest_is_found(memory: Path, resmem: Resmem) -> None:
    flip(memory / "index.h5", "shards/files", at=3)
    done = resmem(*PREDICT, "-o", "q.h5", cwd=memory)
    assert done.status == 65
    assert "index.h5" in done.stderr


@pytest.mark.parametrize(("status", "replace"), [(66, None), (65, "index.2.h5")])
def test_a_missing_or_other_shard_is_told_in_one_line(
    status: int, replace: str | None, memory: Path, resmem: Resmem
) -> None:
    (memory / "index.1.h5").unlink()
    if replace is not None:
        shutil.copy(memory / replace, memory / "index.1.h5")
    for command in ((*PREDICT, "-o", "q.h5"), ("info", "index.h5")):
        done = resmem(*command, cwd=memory)
        assert done.status == status, done.stderr
        assert "index.1.h5" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert resmem("verify", "index.h5", cwd=memory).status == (66 if status == 66 else 3)
    assert not (memory / "q.h5").exists()


@pytest.mark.parametrize("output", ["index.h5", "index.2.h5", "residualize.1.h5"])
def test_a_shard_is_no_output_of_what_reads_it(output: str, memory: Path, resmem: Resmem) -> None:
    before = (memory / output).read_bytes()
    done = resmem(*PREDICT, "-o", output, cwd=memory)
    assert done.status == 2
    assert "also an input" in done.stderr
    assert (memory / output).read_bytes() == before
