"""`resmem reproduce cifar`: small networks on small images, every study, stopped and continued."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Resmem

from resmem_cli.stages.analyze import analyze
from resmem_cli.stages.reproduce.image_studies.base import image_studies

NAMES = ("maple", "oak", "poppy", "rose")
SMALL = ("--held-out", "20", "--device", "cpu", "-k", "5", "--quiet")


def make_images(path: Path, n_train: int = 80, n_test: int = 40) -> Path:
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (4, 32, 32, 3))

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(n) % 4
        noise = generator.integers(-90, 90, (n, 32, 32, 3)) + generator.integers(-60, 60, (n, 1, 1, 3))
        return np.clip(colours[labels] // 2 + 60 + noise, 0, 255).astype(np.uint8), labels

    (x, y), (xt, yt) = draw(n_train), draw(n_test)
    np.savez(path, x_train=x, y_train=y, x_test=xt, y_test=yt, classes=np.array(NAMES))
    return path


@dataclass(frozen=True)
class Reproduced:
    images: Path
    folder: Path
    groups: Path
    arguments: tuple[Any, ...]
    document: dict[str, Any]

    def table(self, name: str) -> dict[str, Any]:
        return next(table for table in self.document["result"]["tables"] if table["name"] == name)

    def column(self, table: str, name: str) -> list[Any]:
        found = self.table(table)
        place = [column["name"] for column in found["columns"]].index(name)
        return [row[place] for row in found["rows"]]


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Reproduced:
    root = tmp_path_factory.mktemp("cifar")
    images, groups = make_images(root / "images.npz"), root / "groups.csv"
    groups.write_text("class,group\nmaple,tree\noak,tree\npoppy,flower\nrose,flower\n")
    arguments = (
        "reproduce", "cifar", images, "-o", root / "out", *SMALL,
        "--epochs", "4", "--seeds", "2", "--depths", "8,14", "--fractions", "0.5,1", "--shifted-rows", "8",
        "--groups", groups, "--joint", "--markdown", root / "tables.md", "--figures", root / "figures",
        "--json",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "resmem_cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Reproduced(images, root / "out", groups, arguments, json.loads(done.stdout))


def test_every_study_gives_its_tables(reproduced: Reproduced) -> None:
    assert list(image_studies()) == [
        "seeds", "epochs", "subsets", "depths", "sensitivity", "changes", "cost", "corruption",
        "distillation", "joint",
    ]  # fmt: skip
    assert [table["name"] for table in reproduced.document["result"]["tables"]] == [
        "seeds", "runs", "epochs", "subsets", "depths", "sensitivity", "changes", "coarse", "examples",
        "cost", "corruption", "distillation", "joint", "joint_runs",
    ]  # fmt: skip
    assert reproduced.document["command"] == "reproduce cifar"


def test_the_runs_are_those_that_the_studies_share(reproduced: Reproduced) -> None:
    assert sorted(path.name for path in (reproduced.folder / "runs").iterdir()) == [
        "resnet14-4-epochs-seed-0",
        "resnet8-4-epochs-seed-0",
        "resnet8-4-epochs-seed-0-50-percent",
        "resnet8-4-epochs-seed-0-joint",
        "resnet8-4-epochs-seed-0-of-resnet14-at-1.4",
        "resnet8-4-epochs-seed-0-of-resnet14-at-4",
        "resnet8-4-epochs-seed-1",
        "resnet8-4-epochs-seed-1-joint",
    ]


def test_the_figures_are_those_of_the_tools_own_stages(reproduced: Reproduced) -> None:
    memory = reproduced.folder / "runs" / "resnet8-4-epochs-seed-0" / "memory"
    predictions = memory / "predictions-k-5-sigma-0.7-T-1.4.h5"
    (told,) = analyze([predictions]).summary["runs"]
    assert reproduced.column("runs", "ResMem")[0] == told["accuracy"]
    assert reproduced.column("runs", "gain")[0]["value"] == told["gain"]
    assert reproduced.column("changes", "TPR")[0] == told["tpr"]
    assert reproduced.column("epochs", "ResMem")[-1] == told["accuracy"]
    assert reproduced.column("depths", "base")[0] == told["base_accuracy"]
    seeds = reproduced.column("seeds", "base")[0]
    each = reproduced.column("runs", "base")
    assert seeds["n"] == 2
    assert seeds["mean"] == pytest.approx(np.mean(each[::2]))
    assert seeds["std"] == pytest.approx(np.std(each[::2], ddof=1))


def test_the_paper_stands_beside_ours(reproduced: Reproduced) -> None:
    assert reproduced.column("seeds", "ResMem")[2] == 0.5966
    assert reproduced.column("seeds", "kNN on labels")[2] == 0.5444
    assert reproduced.column("changes", "gain")[1] == 0.0319
    # After half and all of the schedule.
    assert [reproduced.column("epochs", "paper: ResMem")[i] for i in (0, -1)] == [0.493, 0.595]


def test_the_line_through_the_settings_meets_them(reproduced: Reproduced) -> None:
    rows = reproduced.table("sensitivity")["rows"]
    at_setting = {row[0]: row[2] for row in rows if (row[0], row[1]) in (("k", 5.0), ("σ", 0.7), ("T", 1.4))}
    assert set(at_setting.values()) == {reproduced.column("runs", "ResMem")[0]}
    assert len(at_setting) == 3


def test_tables_are_in_the_artifact_and_in_markdown(reproduced: Reproduced, resmem: Resmem) -> None:
    assert resmem("verify", reproduced.folder / "cifar.h5").status == 0
    exported = reproduced.folder.parent / "cells.csv"
    assert resmem("export", reproduced.folder / "cifar.h5", "--what", "cells", "-o", exported).status == 0
    assert "tuned" in exported.read_text()
    text = (reproduced.folder.parent / "tables.md").read_text()
    assert text.count("### ") == 14
    figures = sorted(path.name for path in (reproduced.folder.parent / "figures").glob("*.png"))
    assert figures == [
        "corruption.png", "cost.png", "depths.png", "early_stopping.png", "examples.png", "joint.png",
        "sensitivity_cifar.png", "subsets.png",
    ]  # fmt: skip


def test_what_was_made_is_not_made_again(reproduced: Reproduced, resmem: Resmem) -> None:
    before = {path: path.stat().st_mtime_ns for path in (reproduced.folder / "runs").rglob("*")}
    again = resmem(*reproduced.arguments)
    assert again.status == 0, again.stderr
    assert again.result["tables"] == reproduced.document["result"]["tables"]
    assert {path: path.stat().st_mtime_ns for path in (reproduced.folder / "runs").rglob("*")} == before


def test_a_killed_run_goes_on_and_ends_with_the_same_network(reproduced: Reproduced, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "resmem_cli", "reproduce", "cifar", reproduced.images, "-o", tmp_path / "out",
        *SMALL, "--epochs", "4", "--seeds", "1", "--studies", "seeds", "--json",
    ]  # fmt: skip
    run = tmp_path / "out" / "runs" / "resnet8-4-epochs-seed-0"
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (run / "unfinished.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "network.safetensors").exists()
    assert subprocess.run([*map(str, command)], capture_output=True, check=False).returncode == 0
    whole = reproduced.folder / "runs" / run.name
    assert (run / "network.safetensors").read_bytes() == (whole / "network.safetensors").read_bytes()
    assert not (run / "unfinished.pt").exists()


def test_another_data_set_in_the_same_folder_is_refused(
    reproduced: Reproduced, tmp_path: Path, resmem: Resmem
) -> None:
    other = make_images(tmp_path / "other.npz", n_train=84)
    done = resmem("reproduce", "cifar", other, "-o", reproduced.folder, *SMALL, "--epochs", "4")
    assert done.status == 65
    assert "other settings" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_other_images_held_out_in_the_same_folder_are_refused(reproduced: Reproduced, resmem: Resmem) -> None:
    options = ("--held-out", "24", "--device", "cpu", "--quiet", "--epochs", "3", "--studies", "seeds")
    done = resmem("reproduce", "cifar", reproduced.images, "-o", reproduced.folder, *options)
    assert done.status == 65
    assert "held_out" in done.stderr


def test_a_damaged_file_of_a_run_is_named(reproduced: Reproduced, tmp_path: Path, resmem: Resmem) -> None:
    shutil.copytree(reproduced.folder, tmp_path / "out")
    told = tmp_path / "out" / "runs" / "resnet8-4-epochs-seed-0" / "training.json"
    told.write_text("[]")
    arguments = [tmp_path / "out" if one == reproduced.folder else one for one in reproduced.arguments]
    done = resmem(*arguments)
    assert done.status == 65
    assert "training.json" in done.stderr
    assert "remove it" in done.stderr


def test_one_share_says_nothing_of_growth(reproduced: Reproduced, resmem: Resmem) -> None:
    done = resmem(*reproduced.arguments, "--studies", "subsets", "--fractions", "1,1")
    (table,) = (table for table in done.result["tables"] if table["name"] == "subsets")
    assert len(table["rows"]) == 1
    assert "grow" not in " ".join(table["notes"])


def test_other_class_names_in_the_same_folder_are_refused(
    reproduced: Reproduced, tmp_path: Path, resmem: Resmem
) -> None:
    with np.load(reproduced.images) as arrays:
        np.savez(tmp_path / "images.npz", **{**arrays, "classes": np.array(["w", "x", "y", "z"])})
    arguments = [tmp_path / "images.npz" if one == reproduced.images else one for one in reproduced.arguments]
    done = resmem(*[one for one in arguments if one not in ("--groups", reproduced.groups)])
    assert done.status == 65
    assert "class_names" in done.stderr


def test_groups_given_later_are_told(reproduced: Reproduced, tmp_path: Path, resmem: Resmem) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_text("class,group\nmaple,a\noak,b\npoppy,b\nrose,c\n")
    given = [groups if argument == reproduced.groups else argument for argument in reproduced.arguments]
    done = resmem(*given, "--studies", "changes")
    assert done.status == 0, done.stderr
    (coarse,) = (table for table in done.result["tables"] if table["name"] == "coarse")
    assert "3 groups" in coarse["title"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nowhere.npz"], 66, "nowhere.npz"),
        (["IMAGES", "--studies", "seeds,tables"], 2, "no such study"),
        (["IMAGES", "--epochs", "0"], 2, "--epochs out of range"),
        (["IMAGES", "--depths", "9"], 2, "--depths out of range"),
        (["IMAGES", "--fractions", "0,1"], 2, "--fractions out of range"),
        (["IMAGES", "--held-out", "20", "-k", "61"], 2, "-k out of range"),
        (["IMAGES", "--held-out", "20", "-k", "9", "--fractions", "0.1,1"], 2, "-k out of range"),
        (["IMAGES", "--held-out", "2"], 2, "--held-out out of range"),
        (["IMAGES", "--device", "abacus"], 2, "not a device"),
        (["IMAGES", "--markdown", "no/such/folder.md"], 74, "does not exist"),
        (["IMAGES", "--groups", "groups.csv"], 66, "groups.csv"),
    ],
)
def test_what_can_not_be_done_is_said_in_one_line(
    reproduced: Reproduced,
    tmp_path: Path,
    resmem: Resmem,
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    given = [str(reproduced.images) if argument == "IMAGES" else argument for argument in arguments]
    done = resmem("reproduce", "cifar", *given, "--quiet", "-o", tmp_path / "out", cwd=tmp_path)
    assert done.status == status, done.stderr
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
