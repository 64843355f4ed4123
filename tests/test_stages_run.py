"""The pipeline in one folder: what is made, what is skipped, and the Makefile that does the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import classifier_arrays

from resmem_cli.errors import DataError, UsageError
from resmem_cli.stages.run import RULES, RunConfig, run
from resmem_cli.types import StageResult

ARTIFACTS = ["index.h5", "tuning.h5", "residuals.h5", "predictions.h5", "report.h5"]


@pytest.fixture
def arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("arrays.npz")
    np.savez(path, **classifier_arrays())
    return path


def pipeline(arrays: Path, **config: object) -> StageResult:
    return run(arrays, None, folder="out", config=RunConfig(sample=50, **config))  # type: ignore[arg-type]


def test_every_step_is_made_once(arrays: Path) -> None:
    first = pipeline(arrays)
    assert first.summary["made"] == ARTIFACTS
    assert sorted(path.name for path in Path("out").iterdir()) == sorted([*ARTIFACTS, "report.html", RULES])
    again = pipeline(arrays)
    assert again.summary["made"] == []
    assert again.summary["up_to_date"] == ARTIFACTS
    assert again.summary["makefile"] == first.summary["makefile"] == Path("out", RULES).read_text()
    assert again.summary["report"]["runs"][0]["accuracy"] == first.summary["report"]["runs"][0]["accuracy"]


def test_another_command_makes_its_step_and_what_depends_on_it(arrays: Path) -> None:
    pipeline(arrays)
    again = run(arrays, None, folder="out", config=RunConfig(sample=60))
    assert again.summary["up_to_date"] == ["index.h5"]
    assert again.summary["made"] == ARTIFACTS[1:]


def test_what_is_older_than_its_inputs_is_made_again(arrays: Path) -> None:
    pipeline(arrays)
    later = time.time() + 5
    os.utime("out/tuning.h5", (later, later))
    assert pipeline(arrays).summary["up_to_date"] == ["index.h5", "tuning.h5"]


def test_older_inputs_with_another_content_are_noticed(arrays: Path) -> None:
    pipeline(arrays)
    changed = classifier_arrays()
    changed["test_labels"] = (changed["test_labels"] + 1) % 5
    np.savez(arrays, **changed)
    os.utime(arrays, (1e9, 1e9))
    again = pipeline(arrays)
    assert again.summary["made"] == ["predictions.h5", "report.h5"]


def test_what_is_wrong_with_the_test_rows_is_told_before_anything_is_made(arrays: Path) -> None:
    whole = classifier_arrays()
    del whole["test_labels"]
    np.savez(arrays, **whole)
    with pytest.raises(DataError, match="labels"):
        pipeline(arrays)
    assert not Path("out").exists()


def test_what_is_damaged_is_made_again(arrays: Path) -> None:
    pipeline(arrays)
    whole = Path("out/residuals.h5").read_bytes()
    Path("out/residuals.h5").write_bytes(whole[:-100])
    again = pipeline(arrays)
    assert again.summary["up_to_date"] == ["index.h5", "tuning.h5"]
    assert Path("out/residuals.h5").read_bytes() == whole


def test_force_makes_all_again(arrays: Path) -> None:
    pipeline(arrays)
    assert pipeline(arrays, force=True).summary["made"] == ARTIFACTS


def test_the_settings_are_tuned_on_the_memory_and_reported_on_the_test_rows(arrays: Path) -> None:
    result = pipeline(arrays)
    [told] = result.summary["report"]["runs"]
    assert told["n"] == len(classifier_arrays()["test_labels"])
    assert [method["name"] for method in told["methods"]][:3] == [
        "base",
        "base, tuned temperature",
        "kNN, tuned",
    ]
    assert any("optimistic" in text for text in result.notices)


def test_two_files_need_no_splits(arrays: Path) -> None:
    whole = classifier_arrays()
    for split in ("train", "test"):
        np.savez(
            f"{split}.npz", **{name: whole[f"{split}_{name}"] for name in ("embeddings", "logits", "labels")}
        )
    run(arrays, None, folder="one", config=RunConfig(sample=50))
    run(Path("train.npz"), Path("test.npz"), folder="two", config=RunConfig(sample=50))
    one, two = (Path(folder, "predictions.h5") for folder in ("one", "two"))
    from resmem_cli import open_artifact

    with open_artifact(one) as first, open_artifact(two) as second:
        assert np.array_equal(first.read("scores"), second.read("scores"))


def test_training_rows_are_no_test_rows(arrays: Path) -> None:
    with pytest.raises(UsageError, match="training and test rows are the same"):
        pipeline(arrays, test_split="train")
    assert not Path("out", "index.h5").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("name", ["arrays.npz", "my arrays $1.npz"])
def test_the_makefile_makes_the_same_bytes(arrays: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in ("a", "b"):
        shutil.copy(arrays, tmp_path / folder / name)
    os.chdir(tmp_path / "a")
    result = pipeline(Path(name))
    (tmp_path / "b" / "Makefile").write_text(result.summary["makefile"])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["make"],
        cwd=tmp_path / "b",
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for made in (*ARTIFACTS, "report.html"):
        assert (tmp_path / "a/out" / made).read_bytes() == (tmp_path / "b/out" / made).read_bytes(), made
