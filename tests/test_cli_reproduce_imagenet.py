"""`resmem reproduce imagenet`: table 2 from exported arrays, and its cost from synthetic ones."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished, Resmem

from resmem_cli import ImagenetConfig, open_artifact, reproduce_imagenet
from resmem_cli.artifacts.temporary import discard_unfinished
from resmem_cli.errors import DataError, MissingInputError, ResourceError, UsageError
from resmem_cli.stages.reproduce.imagenet_files import model_name, model_of, models_in
from resmem_cli.stages.reproduce.processes import Measured, run_resmem
from resmem_cli.stages.reproduce.projection import Projection
from resmem_cli.stages.reproduce.published_imagenet import IMAGENET
from resmem_cli.stages.reproduce.synthetic import SyntheticNetwork

ARTIFACTS = ["index.h5", "predictions.h5", "report.h5", "residuals.h5"]
FIGURES = ("base", "ResMem", "gain [95 %]", "TPR", "FPR", "p")
SMALL = ("--rows", "600", "--dimensions", "32", "--classes", "10", "--queries", "50", "--memory", "1G")


def drawn(seed: int) -> dict[str, Any]:
    network = SyntheticNetwork(dimensions=16, classes=6, seed=seed)
    arrays = {}
    for split, n in (("train", 300), ("test", 100)):
        rows = network.read(split, 0, n)
        for name in ("embeddings", "logits", "labels"):
            arrays[f"{split}_{name}"] = getattr(rows, name)
    return arrays


def of_split(arrays: dict[str, Any], split: str) -> dict[str, Any]:
    return {name.removeprefix(f"{split}_"): a for name, a in arrays.items() if name.startswith(split)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All five widths, each in files of another layout."""
    from resmem_cli import ArraySelection, ImportConfig, import_arrays

    folder = tmp_path_factory.mktemp("exported")
    everything = {width: drawn(seed) for seed, width in enumerate(IMAGENET)}
    np.savez(folder / "a0.35.npz", **everything["a0.35"])
    for name, array in everything["a0.5"].items():
        np.save(folder / f"a0.5_{name}.npy", array)
    (folder / "mobilenet_v2_0.75").mkdir()
    for split in ("train", "test"):
        # The validation images of ImageNet are the paper's test images.
        name = {"train": "train", "test": "val"}[split]
        np.savez(folder / "mobilenet_v2_0.75" / f"{name}.npz", **of_split(everything["a0.75"], split))
        np.savez(folder / "one.npz", **everything["a1.0"])
        import_arrays(
            folder / "one.npz",
            output=folder / f"a1.0_{split}.h5",
            config=ImportConfig(arrays=ArraySelection(split=split)),
        )
    (folder / "one.npz").unlink()
    (folder / "a1.3").mkdir()
    np.savez(folder / "a1.3" / "arrays.npz", **everything["a1.3"])
    (folder / "notes.txt").write_text("no arrays")
    return folder


@pytest.fixture(scope="module")
def finished(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a run of all five, and what it told."""
    folder = tmp_path_factory.mktemp("run") / "out"
    return folder, dict(reproduce_imagenet(exported, folder=folder).summary)


def rows_of(summary: dict[str, Any], name: str) -> list[dict[str, Any]]:
    [table] = [one for one in summary["tables"] if one["name"] == name]
    headings = [column["name"] for column in table["columns"]]
    return [dict(zip(headings, row, strict=True)) for row in table["rows"]]


def assert_refused(done: Finished, status: int, *parts: str) -> None:
    assert done.status == status, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    for part in ("resmem: error: ", *parts):
        assert part in line


def times(folder: Path) -> dict[str, int]:
    made = [path for path in folder.rglob("*") if path.is_file() and path.name != "imagenet.h5"]
    return {str(path): path.stat().st_mtime_ns for path in made}


# --- table 2


def test_the_five_rows_stand_beside_the_papers(finished: tuple[Path, dict[str, Any]]) -> None:
    rows = rows_of(finished[1], "table2")
    assert [row["model"] for row in rows] == ["a0.35", "a0.5", "a0.75", "a1.0", "a1.3"]
    assert [(row["k"], row["sigma"], row["T"]) for row in rows] == [
        (10, 0.6, 0.4), (10, 0.6, 0.4), (10, 0.8, 0.6), (20, 0.4, 0.4), (30, 0.4, 0.4),
    ]  # fmt: skip
    assert [row["paper's base"] for row in rows] == [0.602, 0.653, 0.696, 0.713, 0.747]
    assert [row["paper's ResMem"] for row in rows] == [0.612, 0.661, 0.701, 0.718, 0.751]
    gains = [row["paper's gain"] for row in rows]
    assert gains == pytest.approx([0.010, 0.008, 0.005, 0.005, 0.004])
    for row in rows:
        gain = row["gain [95 %]"]
        assert gain["value"] == pytest.approx(row["ResMem"] - row["base"])
        assert gain["value"] == pytest.approx(row["TPR"] - row["FPR"])
        assert gain["low"] <= gain["value"] <= gain["high"]


def test_the_figures_are_those_of_the_separate_commands(
    exported: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path, resmem: Resmem
) -> None:
    arrays = exported / "a0.35.npz"
    for command in (
        ("residualize", arrays, "--split", "train", "-T", "0.4", "-o", "residuals.h5"),
        ("index", arrays, "--split", "train", "-o", "index.h5"),
        ("predict", arrays, "--split", "test", "--index", "index.h5", "--residuals", "residuals.h5",
         "-k", "10", "--sigma", "0.6", "-o", "predictions.h5"),
    ):  # fmt: skip
        assert resmem(*command, cwd=tmp_path).status == 0
    for name in ("residuals.h5", "index.h5", "predictions.h5"):
        assert (tmp_path / name).read_bytes() == (finished[0] / "a0.35" / name).read_bytes()
    [told] = resmem("analyze", "predictions.h5", "--json", cwd=tmp_path).result["runs"]
    row = rows_of(finished[1], "table2")[0]
    gain = dict(zip(("value", "low", "high"), (told["gain"], *told["interval"]), strict=True))
    separate = (told["base_accuracy"], told["accuracy"], gain, told["tpr"], told["fpr"], told["p_value"])
    assert tuple(row[name] for name in FIGURES) == separate


def test_the_command_prints_it_and_repeats_nothing(
    exported: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path, resmem: Resmem
) -> None:
    before = times(finished[0])
    figures, markdown = tmp_path / "figures", tmp_path / "table.md"
    more = ("--markdown", markdown, "--figures", figures)
    done = resmem("reproduce", "imagenet", exported, "-o", finished[0], *more)
    assert done.status == 0, done.stderr
    assert times(finished[0]) == before
    lines = done.stdout.splitlines()
    assert lines[0] == "Table 2: MobileNet-V2 on ImageNet"
    assert [line.split()[0] for line in lines if line.startswith("a")] == list(IMAGENET)
    assert "300 rows of 16 dimensions, 6 classes, 100 queries" in done.stdout
    [notice] = done.stderr.splitlines()
    assert "not of ImageNet's size" in notice
    assert markdown.read_text().startswith("### Table 2: MobileNet-V2 on ImageNet\n")
    assert sorted(path.name for path in figures.iterdir()) == ["imagenet_gain.png", "imagenet_gain.svg"]


def test_the_artifact_holds_every_number(finished: tuple[Path, dict[str, Any]], resmem: Resmem) -> None:
    artifact = finished[0] / "imagenet.h5"
    assert resmem("verify", artifact).status == 0
    with open_artifact(artifact) as file:
        assert file.header.format.name == "resmem.study"
        assert file.parameters["study"] == "imagenet"
        assert [record.role for record in file.header.inputs] == ["train", "test"] * 5
        document = json.loads(file.read("document").tobytes())
        settings, columns = file.read("cells/settings"), file.read("cells/columns")
        values = file.read("cells/values")
    assert document["tables"] == finished[1]["tables"]
    [place] = np.flatnonzero((settings == b"a1.3") & (columns == b"paper's ResMem"))
    assert values[place] == 0.751


def test_a_run_that_was_stopped_makes_what_is_missing_only(exported: Path, tmp_path: Path) -> None:
    models = models_in(exported)[:2]
    whole = reproduce_imagenet(models, folder=tmp_path)
    contents = {path: path.read_bytes() for path in tmp_path.rglob("*.h5")}
    for name in ("predictions.h5", "report.h5", "result.json"):
        (tmp_path / "a0.5" / name).unlink()
    announced: list[str] = []
    again = reproduce_imagenet(models, folder=tmp_path, announce=announced.append)
    assert announced == [str(tmp_path / "a0.5" / "predictions.h5")]
    assert again.summary["tables"] == whole.summary["tables"]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.h5")} == contents


def test_a_run_is_not_continued_with_other_arrays(exported: Path, tmp_path: Path, resmem: Resmem) -> None:
    model, folder = f"a0.35={exported / 'a0.35.npz'}", tmp_path / "out"
    assert resmem("reproduce", "imagenet", "--model", model, "-o", folder, "-q").status == 0
    np.savez(tmp_path / "other.npz", **drawn(9))
    other = ("--model", f"a0.35={tmp_path / 'other.npz'}", "-o", folder)
    assert_refused(resmem("reproduce", "imagenet", *other), 65, "settings.json", "test, train")


def test_tuned_settings_come_beside_and_large_files_can_be_discarded(
    exported: Path, tmp_path: Path, resmem: Resmem
) -> None:
    arrays = ("--model", f"a1.0={exported / 'a1.0_train.h5'},{exported / 'a1.0_test.h5'}")
    more = ("--top", "3", "--tune", "--sample", "40", "--discard")
    done = resmem("reproduce", "imagenet", *arrays, *more, "-o", tmp_path, "--json")
    assert done.status == 0, done.stderr
    [tuned] = rows_of(done.result, "tuned")
    [row] = rows_of(done.result, "table2")
    assert tuned["base"] == row["base"]
    with open_artifact(tmp_path / "a1.0" / "tuned40.h5") as file:
        best = file.parameters["best"]
        assert file.parameters["data"]["kind"] == "leave-one-out"
    assert (tuned["k"], tuned["sigma"], tuned["T"]) == (best["k"], best["sigma"], best["temperature"])
    names = {path.name for path in (tmp_path / "a1.0").glob("*.h5")}
    assert names == {
        "predictions.h5", "report.h5", "tuned40.h5", "tuned40.predictions.h5", "tuned40.report.h5",
    }  # fmt: skip
    before = times(tmp_path)
    assert resmem("reproduce", "imagenet", *arrays, *more, "-o", tmp_path, "-q").status == 0
    assert times(tmp_path) == before


# --- which files are whose


def test_every_layout_is_understood(exported: Path) -> None:
    models = models_in(exported)
    assert [model.name for model in models] == list(IMAGENET)
    assert [model.train.path.name for model in models] == [
        "a0.35.npz", "a0.5_train_embeddings.npy", "train.npz", "a1.0_train.h5", "arrays.npz",
    ]  # fmt: skip
    assert models[0].test.arrays.split == "test"
    assert models[1].test.arrays.labels == str(exported / "a0.5_test_labels.npy")
    assert models[2].test.path.name == "val.npz"


def test_labels_that_all_models_share_are_taken(tmp_path: Path) -> None:
    for name, array in drawn(0).items():
        prefix = "" if name.endswith("labels") else "a0.5_"
        np.save(tmp_path / f"{prefix}{name}.npy", array)
    [model] = models_in(tmp_path)
    assert model.train.arrays.labels == str(tmp_path / "train_labels.npy")
    assert reproduce_imagenet([model], folder=tmp_path / "out").output == tmp_path / "out" / "imagenet.h5"


@pytest.mark.parametrize(
    ("text", "name"),
    [("a0.50", "a0.5"), ("1.0", "a1.0"), ("MobileNet-V2-a1.3", "a1.3"), ("a1.4", "a1.4"), ("mine", "mine")],
)
def test_widths_have_the_names_of_table_2(text: str, name: str) -> None:
    assert model_name(text) == name


@pytest.mark.parametrize("text", ["a0.5", "=a.npz", "a0.5=a,b,c", "a0.5=", "../a=a.npz", ".=a.npz"])
def test_a_model_that_names_no_files_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.npz", "a", "b", "c"):
        np.savez(tmp_path / name, x=1)
        (tmp_path / name).touch()
    with pytest.raises(UsageError):
        model_of(text)


def test_missing_widths_are_left_out_with_a_notice(exported: Path, tmp_path: Path, resmem: Resmem) -> None:
    for name in ("a0.35.npz", "a1.3"):
        os.symlink(exported / name, tmp_path / name)
    done = resmem("reproduce", "imagenet", tmp_path, "-o", tmp_path / "out", "--json")
    assert done.status == 0, done.stderr
    assert [row["model"] for row in rows_of(done.result, "table2")] == ["a0.35", "a1.3"]
    [missing] = [text for text in done.json["notices"] if "left out" in text]
    assert missing.endswith(": a0.5, a0.75, a1.0")


def test_an_unknown_width_needs_settings(exported: Path, tmp_path: Path, resmem: Resmem) -> None:
    os.symlink(exported / "a0.35.npz", tmp_path / "a1.4.npz")
    command = ("reproduce", "imagenet", tmp_path, "-o", tmp_path / "out")
    assert_refused(resmem(*command), 2, "a1.4", "a0.35, a0.5, a0.75, a1.0, a1.3", "--sigma")
    assert_refused(resmem(*command, "-k", "5"), 2, "a1.4")
    assert not (tmp_path / "out").exists()
    done = resmem(*command, "-k", "5", "--sigma", "0.5", "-T", "0.7", "--json")
    [row] = rows_of(done.result, "table2")
    assert (row["model"], row["k"], row["sigma"], row["T"]) == ("a1.4", 5, 0.5, 0.7)
    assert row["paper's base"] is None


def test_arrays_without_labels_are_refused_before_anything_is_made(
    exported: Path, tmp_path: Path, resmem: Resmem
) -> None:
    (tmp_path / "in").mkdir()
    os.symlink(exported / "a0.35.npz", tmp_path / "in" / "a0.35.npz")
    arrays = drawn(1)
    del arrays["test_labels"]
    np.savez(tmp_path / "in" / "a1.0.npz", **arrays)
    done = resmem("reproduce", "imagenet", tmp_path / "in", "-o", tmp_path / "out")
    assert_refused(done, 65, "a1.0.npz", "no labels")
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_refused_before_an_index_is_built(tmp_path: Path) -> None:
    arrays = drawn(0)
    few = {name: array[:9] for name, array in arrays.items()}
    other = {**arrays, "test_embeddings": arrays["test_embeddings"][:, :8]}
    for wrong, kind, words in ((few, UsageError, "larger than the memory"), (other, DataError, "dimension")):
        np.savez(tmp_path / "a0.35.npz", **wrong)
        with pytest.raises(kind, match=words):
            reproduce_imagenet(tmp_path, folder=tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_two_files_of_one_part_and_a_missing_part_are_refused(exported: Path, tmp_path: Path) -> None:
    os.symlink(exported / "a0.35.npz", tmp_path / "a0.5.npz")
    os.symlink(exported / "a0.35.npz", tmp_path / "a0.50.npz")
    with pytest.raises(DataError, match="two files could be meant"):
        models_in(tmp_path)
    (tmp_path / "a0.50.npz").rename(tmp_path / "a0.50_train.npz")
    (tmp_path / "a0.5.npz").unlink()
    with pytest.raises(MissingInputError, match="no file of the embeddings of test"):
        models_in(tmp_path)


def test_what_does_not_go_together_is_refused_in_one_line(
    exported: Path, tmp_path: Path, resmem: Resmem
) -> None:
    out = ("-o", tmp_path / "out")
    one = f"a0.35={exported / 'a0.35.npz'}"
    for arguments, status, words in (
        (out, 2, "no arrays"),
        ((exported, "--model", one, *out), 2, "a folder and models"),
        ((tmp_path / "none", *out), 66, "no such folder"),
        ((exported / "a0.35.npz", *out), 66, "not a folder"),
        ((tmp_path, *out), 66, "no model's files"),
        (("--model", "a0.5=none.npz", *out), 66, "none.npz"),
        (("--model", one, "--model", one, *out), 2, "given twice"),
        (("--model", f"a0.35={exported / 'a1.0_train.h5'}", *out), 65, "one split"),
        ((exported, "--synthetic", *out), 2, "--synthetic"),
        (("--synthetic", "--figures", tmp_path / "f", *out), 2, "--figures"),
        ((exported, "--rows", "600", *out), 2, "for --synthetic only"),
        (("--synthetic", "--rows", "1", *out), 2, "--rows"),
        (("--synthetic", "--top", "0", *out), 2, "--top"),
        ((exported, "--memory", "8", *out), 2, "too little memory"),
    ):
        assert_refused(resmem("reproduce", "imagenet", *arguments), status, words)
        assert not (tmp_path / "out").exists()
    assert_refused(resmem("reproduce", "imagenet", exported), 2, "Missing option '-o'")


def test_settings_out_of_range_are_refused(exported: Path, tmp_path: Path) -> None:
    bad = ({"k": 0}, {"sigma": -1.0}, {"temperature": 0.0}, {"sample": 0}, {"top": 7})
    for config in (ImagenetConfig(**one) for one in bad):
        with pytest.raises(UsageError):
            reproduce_imagenet(exported, folder=tmp_path / "out", config=config)


# --- synthetic arrays


def test_synthetic_arrays_run_through_the_commands_and_are_measured(tmp_path: Path, resmem: Resmem) -> None:
    folder = tmp_path / "out"
    command = ("reproduce", "imagenet", "--synthetic", *SMALL, "-o", folder)
    done = resmem(*command, "--json")
    assert done.status == 0, done.stderr
    started = [line.split()[2] for line in done.stderr.splitlines() if line.startswith("resmem: resmem ")]
    assert started == ["residualize", "index", *["predict"] * 4, "analyze"]
    costs = rows_of(done.result, "cost")
    assert all(row["seconds"] > 0 for row in costs)
    if Path("/proc/self/status").exists():
        assert all(row["peak anonymous"] > 1 << 20 for row in costs)
    projected = {row["part"]: row["seconds"] for row in rows_of(done.result, "projection")}
    assert projected["50,000 queries"] > 0
    assert "paper's base" not in done.stdout
    with open_artifact(folder / "train.h5") as file:
        network = SyntheticNetwork(dimensions=32, classes=10, seed=0)
        expected = network.read("train", 0, 600)
        assert np.array_equal(file.read("embeddings"), expected.embeddings.astype(np.float16))
        assert np.array_equal(file.read("labels"), expected.labels)
    assert resmem("verify", folder / "imagenet.h5").status == 0
    before = times(folder)
    again = resmem(*command)
    assert again.status == 0, again.stderr
    assert times(folder) == before
    assert "not to be set beside the paper's" in again.stdout
    assert_refused(resmem(*command, "--seed", "1"), 65, "seed", "expected 1", "found 0")
    # The pipeline is that of exported arrays.
    sigma = str(rows_of(done.result, "synthetic")[0]["sigma"])
    model = f"mine={folder / 'train.h5'},{folder / 'test50.h5'}"
    settings = ("-k", "20", "--sigma", sigma, "-T", "0.4")
    same = resmem("reproduce", "imagenet", "--model", model, *settings, "-o", tmp_path / "same", "--json")
    [ours], [synthetic] = rows_of(same.result, "table2"), rows_of(done.result, "synthetic")
    assert [ours[name] for name in FIGURES] == [synthetic[name] for name in FIGURES]


def test_a_projection_separates_the_start_and_the_blocks_from_the_queries() -> None:
    start, block_seconds, each = 0.5, 3.0, 0.02

    def takes(queries: int, block: int) -> float:
        return start + -(-queries // block) * block_seconds + queries * each

    for block, smaller in ((512, 250), (64, 32)):
        runs = (takes(100, block), takes(500, block), takes(500, smaller))
        seen = Projection(100, 500, block, smaller, *runs)
        assert seen.start_seconds == pytest.approx(start)
        assert seen.query_seconds == pytest.approx(each)
        assert seen.block_seconds == pytest.approx(block_seconds)
        assert seen.seconds(50_000) == pytest.approx(takes(50_000, block))


def test_a_process_that_fails_raises_what_it_told(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"none\.h5"):
        run_resmem("index", tmp_path / "none.h5")
    with pytest.raises(UsageError, match="No such option"):
        run_resmem("index", "--nonsense")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_that_was_given_back_is_in_the_peak() -> None:
    with Measured() as measured:
        block = np.ones(1 << 24)
        for _ in range(3):
            block.sum()
        del block
    assert measured.cost.anonymous is not None
    assert measured.cost.anonymous > 1 << 27
    assert measured.cost.seconds > 0


def test_a_process_ends_with_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from resmem_cli.stages.reproduce import processes

    monkeypatch.setattr(processes, "_RESMEM", ("bash", "-c", "exec sleep 30"))
    # What a signal does before it ends this process.
    signalled = threading.Timer(0.3, discard_unfinished)
    signalled.start()
    with pytest.raises(ResourceError, match="signal 15"):
        run_resmem("index")
    signalled.join()


def test_a_process_the_system_killed_ran_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from resmem_cli.stages.reproduce import processes

    monkeypatch.setattr(processes, "_RESMEM", ("bash", "-c", "kill -9 $$"))
    with pytest.raises(ResourceError, match="signal 9"):
        run_resmem("index")
