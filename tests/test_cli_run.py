"""`resmem run`: all artifacts in one folder, each made when it has to be, and Make doing the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import N_TEST, Finished, Resmem, classifier_arrays

from resmem_cli import open_artifact
from resmem_cli.stages.run import RULES

STEPS = ["index.h5", "tuning.h5", "residuals.h5", "predictions.h5", "report.h5"]
MADE = [*STEPS, "report.html"]
SAMPLE = ("--sample", "40")
GROUPS = "ant,insect\nbee,insect\ncat,mammal\ndog,mammal\neel,fish\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with all inputs."""
    monkeypatch.chdir(tmp_path)
    make_inputs(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the pipeline has run on `arrays.npz`; to be copied."""
    from resmem_cli.stages.run import RunConfig, run

    folder = tmp_path_factory.mktemp("finished")
    make_inputs(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        run("arrays.npz", None, folder="resmem", config=RunConfig(sample=40))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def done_before(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of that folder, with the times of its files."""
    folder = tmp_path / "again"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    return folder


def make_inputs(folder: Path) -> None:
    arrays = classifier_arrays()
    np.savez(folder / "arrays.npz", **arrays)
    for split in ("train", "test"):
        own = {name: arrays[f"{split}_{name}"] for name in ("embeddings", "logits", "labels")}
        np.savez(folder / f"{split}.npz", **own, class_names=arrays["class_names"])
    (folder / "groups.csv").write_text(GROUPS)


def result_of(done: Finished) -> dict[str, Any]:
    assert done.status == 0, done.stderr
    result: dict[str, Any] = done.result
    return result


def steps_made(done: Finished) -> list[str]:
    result = result_of(done)
    made: list[str] = result["made"]
    assert sorted(made + result["up_to_date"]) == sorted(STEPS)
    return made


def assert_refused(done: Finished, status: int, *parts: object) -> None:
    assert done.status == status, done.stderr
    assert done.stdout == ""
    line = done.stderr.splitlines()[-1]
    for part in ("resmem: error: ", *parts):
        assert str(part) in line


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def touch(path: Path | str) -> None:
    later = time.time() + 10
    os.utime(path, (later, later))


# --- all of it


def test_all_artifacts_are_made_and_the_report_is_shown(folder: Path, resmem: Resmem) -> None:
    done = resmem("run", "arrays.npz", *SAMPLE)
    assert done.status == 0, done.stderr
    assert sorted(contents(folder / "resmem")) == sorted([*MADE, RULES])
    for name in STEPS:
        assert resmem("verify", folder / "resmem" / name).status == 0
    for words in ("kNN-LM 0.4", "gain (points)", "\n# the same as a Makefile:\nall: resmem/report.h5\n"):
        assert words in done.stdout
    announced = [line for line in done.stderr.splitlines() if line.startswith("resmem: resmem ")]
    assert [line.split()[2] for line in announced] == ["index", "tune", "residualize", "predict", "analyze"]
    with open_artifact(folder / "resmem/predictions.h5") as file:
        assert file.dimensions["q"] == N_TEST
        assert "tuned_on" not in file
        assert {record.role for record in file.header.inputs} == {"queries", "index", "residuals", "tuning"}


def test_the_commands_that_are_announced_make_the_same_bytes(folder: Path, resmem: Resmem) -> None:
    done = resmem("run", "arrays.npz", *SAMPLE)
    before = contents(folder / "resmem")
    shutil.rmtree(folder / "resmem")
    (folder / "resmem").mkdir()
    for line in done.stderr.splitlines():
        if line.startswith("resmem: resmem "):
            command = line.removeprefix("resmem: resmem ").split()
            more = ("--html", "resmem/report.html") if command[0] == "analyze" else ()
            assert resmem(*command, *more).status == 0
    after = contents(folder / "resmem")
    assert {name: after[name] for name in MADE} == {name: before[name] for name in MADE}


def test_json_has_the_steps_the_report_and_the_rules(done_before: Path, resmem: Resmem) -> None:
    done = resmem("run", "arrays.npz", *SAMPLE, "--json")
    assert done.status == 0, done.stderr
    document = done.json
    assert set(document) == {"resmem", "command", "output", "result", "notices"}
    assert (document["command"], document["output"]) == ("run", "resmem/report.h5")
    result = document["result"]
    assert set(result) == {"folder", "made", "up_to_date", "report", "makefile"}
    assert result["folder"] == "resmem"
    assert result["makefile"] == (done_before / "resmem" / RULES).read_text()
    told = resmem("analyze", "resmem/predictions.h5", "--tuning", "resmem/tuning.h5", "--json").result
    assert result["report"] == told


# --- again


def test_a_second_run_makes_nothing_and_tells_the_same(done_before: Path, resmem: Resmem) -> None:
    before = contents(done_before / "resmem")
    stamps = {path.name: path.stat().st_mtime_ns for path in (done_before / "resmem").iterdir()}
    done = resmem("run", "arrays.npz", *SAMPLE)
    assert done.status == 0, done.stderr
    assert done.stderr.splitlines()[: len(STEPS)] == [
        f"resmem: resmem/{name} is up to date" for name in STEPS
    ]
    assert contents(done_before / "resmem") == before
    after = {path.name: path.stat().st_mtime_ns for path in (done_before / "resmem").iterdir()}
    assert {name: after[name] for name in MADE} == {name: stamps[name] for name in MADE}
    shown = resmem("run", "arrays.npz", *SAMPLE, "--force")
    assert shown.stdout == done.stdout


@pytest.mark.parametrize(
    ("changed", "made"),
    [
        ("arrays.npz", STEPS),
        ("resmem/index.h5", [name for name in STEPS if name != "index.h5"]),
        ("resmem/tuning.h5", ["residuals.h5", "predictions.h5", "report.h5"]),
        ("resmem/residuals.h5", ["predictions.h5", "report.h5"]),
        ("resmem/predictions.h5", ["report.h5"]),
        ("resmem/report.h5", []),
    ],
)
def test_a_newer_input_has_what_depends_on_it_made_again(
    changed: str, made: list[str], done_before: Path, resmem: Resmem
) -> None:
    touch(done_before / changed)
    assert steps_made(resmem("run", "arrays.npz", *SAMPLE, "--json")) == made


@pytest.mark.parametrize(
    ("missing", "made"),
    [
        ("tuning.h5", STEPS[1:]),
        ("predictions.h5", STEPS[3:]),
        ("report.html", STEPS[4:]),
        (RULES, STEPS),
    ],
)
def test_what_is_missing_is_made_again(
    missing: str, made: list[str], done_before: Path, resmem: Resmem
) -> None:
    before = contents(done_before / "resmem")
    (done_before / "resmem" / missing).unlink()
    assert steps_made(resmem("run", "arrays.npz", *SAMPLE, "--json")) == made
    assert contents(done_before / "resmem") == before


def test_newer_test_rows_leave_the_memory_as_it_is(folder: Path, resmem: Resmem) -> None:
    call = ("run", "train.npz", "test.npz", *SAMPLE, "--json")
    assert steps_made(resmem(*call)) == STEPS
    touch("test.npz")
    assert steps_made(resmem(*call)) == ["predictions.h5", "report.h5"]


def test_options_have_what_depends_on_them_made_again(done_before: Path, resmem: Resmem) -> None:
    call = ("run", "arrays.npz", "--json")
    assert steps_made(resmem(*call, "--sample", "50")) == STEPS[1:]
    assert steps_made(resmem(*call, "--sample", "50")) == []
    with_groups = (*call, "--sample", "50", "--groups", "groups.csv")
    done = resmem(*with_groups)
    assert steps_made(done) == ["report.h5"]
    assert done.result["report"]["runs"][0]["coarse"]["groups"] == 3
    assert steps_made(resmem(*with_groups)) == []
    touch("groups.csv")
    assert steps_made(resmem(*with_groups)) == ["report.h5"]


def test_force_makes_all_again(done_before: Path, resmem: Resmem) -> None:
    before = contents(done_before / "resmem")
    assert steps_made(resmem("run", "arrays.npz", *SAMPLE, "--force", "--json")) == STEPS
    assert contents(done_before / "resmem") == before


def test_quiet_tells_nothing_on_stderr(done_before: Path, resmem: Resmem) -> None:
    done = resmem("run", "arrays.npz", *SAMPLE, "--quiet")
    assert (done.status, done.stderr) == (0, "")
    assert "gain (points)" in done.stdout


# --- inputs


def test_two_files_answer_as_one_file_with_two_splits(folder: Path, finished: Path, resmem: Resmem) -> None:
    assert resmem("run", "train.npz", "test.npz", *SAMPLE).status == 0
    splits = ("--train-split", "train", "--test-split", "test")
    assert resmem("run", "arrays.npz", "arrays.npz", *splits, *SAMPLE, "-o", "one").status == 0
    paths = [folder / "resmem", folder / "one", finished / "resmem"]
    scores = []
    for path in paths:
        with open_artifact(path / "predictions.h5") as file:
            scores.append(file.read("scores").tobytes())
    assert scores[0] == scores[1] == scores[2]


def test_a_test_file_without_splits_goes_with_the_training_split_of_another(
    folder: Path, resmem: Resmem
) -> None:
    call = ("run", "arrays.npz", "test.npz", "--train-split", "train", *SAMPLE, "--json")
    assert steps_made(resmem(*call)) == STEPS


def test_the_same_rows_for_both_are_refused_by_any_name(folder: Path, resmem: Resmem) -> None:
    (folder / "link.npz").symlink_to("arrays.npz")
    for test in ("arrays.npz", folder / "arrays.npz", "link.npz"):
        done = resmem("run", "arrays.npz", test, "--test-split", "train")
        assert_refused(done, 2, "training and test rows are the same", "split train of arrays.npz")
    assert not (folder / "resmem").exists()


@pytest.mark.parametrize("arguments", [("no.npz",), ("arrays.npz", "no.npz"), (".",)])
def test_missing_inputs_are_told_before_anything_is_made(
    arguments: tuple[str, ...], folder: Path, resmem: Resmem
) -> None:
    assert_refused(resmem("run", *arguments), 66, arguments[-1])
    assert not (folder / "resmem").exists()


def test_missing_groups_are_told_before_anything_is_made(folder: Path, resmem: Resmem) -> None:
    assert_refused(resmem("run", "arrays.npz", "--groups", "no.csv"), 66, "no.csv")
    assert not (folder / "resmem").exists()


def test_a_folder_that_is_a_file_is_refused(folder: Path, resmem: Resmem) -> None:
    (folder / "out").write_text("mine")
    assert_refused(resmem("run", "arrays.npz", "-o", "out"), 74, "out", "not a folder")
    assert_refused(resmem("run", "arrays.npz", "-o", "out/deeper"), 74, "out/deeper")
    assert (folder / "out").read_text() == "mine"


@pytest.mark.parametrize("character", list("\n\t#%=;|\\"))
@pytest.mark.parametrize("what", ["train", "test", "folder", "groups"])
def test_names_that_make_can_not_hold_are_refused(
    what: str, character: str, folder: Path, resmem: Resmem
) -> None:
    name = f"a{character}b"
    for suffix in (".npz", ".csv"):
        shutil.copy("groups.csv", name + suffix)
    options = {
        "train": (f"{name}.npz",),
        "test": ("train.npz", f"{name}.npz"),
        "folder": ("arrays.npz", "-o", name),
        "groups": ("arrays.npz", "--groups", f"{name}.csv"),
    }
    done = resmem("run", *options[what])
    assert done.status == 2
    assert "a name that Make can't hold" in done.stderr
    assert not {"resmem", name} & {path.name for path in folder.iterdir()}


# --- a step that fails


def test_a_failing_step_leaves_the_earlier_artifacts_and_nothing_else(folder: Path, resmem: Resmem) -> None:
    arrays = dict(np.load("test.npz"))
    arrays["embeddings"] = arrays["embeddings"][:, :3]
    np.savez("narrow.npz", **arrays)
    done = resmem("run", "train.npz", "narrow.npz", *SAMPLE)
    assert_refused(done, 65, "narrow.npz")
    assert sorted(contents(folder / "resmem")) == sorted([*STEPS[:3], RULES])
    # They are up to date once the cause is mended.
    shutil.copy("test.npz", "narrow.npz")
    assert steps_made(resmem("run", "train.npz", "narrow.npz", *SAMPLE, "--json")) == STEPS[3:]


def test_a_failed_run_of_other_options_is_not_taken_for_the_last_that_succeeded(
    done_before: Path, resmem: Resmem
) -> None:
    before = contents(done_before / "resmem")
    report = done_before / "resmem" / "report.html"
    report.unlink()
    report.mkdir()
    assert resmem("run", "arrays.npz", "--sample", "60").status == 74
    assert contents_of(done_before, "tuning.h5") != before["tuning.h5"]
    report.rmdir()
    assert steps_made(resmem("run", "arrays.npz", *SAMPLE, "--json")) == STEPS[1:]
    assert contents(done_before / "resmem") == before


def contents_of(folder: Path, name: str) -> bytes:
    return (folder / "resmem" / name).read_bytes()


# --- Make


def run_make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The installed command stands beside the interpreter.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("train", "test", "output", "groups"),
    [
        ("arrays.npz", None, "resmem", None),
        ("my $train: 1.npz", "it's $(the) test.npz", "out $HOME of/it's all", "the groups.csv"),
    ],
)
def test_the_printed_makefile_makes_the_same_bytes_elsewhere(
    train: str,
    test: str | None,
    output: str,
    groups: str | None,
    folder: Path,
    resmem: Resmem,
) -> None:
    for place in ("here", "there"):
        (folder / place).mkdir()
        shutil.copy("train.npz" if test else "arrays.npz", folder / place / train)
        if test is not None:
            shutil.copy("test.npz", folder / place / test)
        if groups is not None:
            shutil.copy("groups.csv", folder / place / groups)
    options = (*SAMPLE, "-o", output, *(() if groups is None else ("--groups", groups)))
    arguments = (train,) if test is None else (train, test)
    done = resmem("run", *arguments, *options, cwd=folder / "here")
    assert done.status == 0, done.stderr
    rules = done.stdout.partition("# the same as a Makefile:\n")[2]
    assert rules == (folder / "here" / output / RULES).read_text()
    (folder / "there" / "Makefile").write_text(rules)
    made = run_make(folder / "there")
    assert made.returncode == 0, made.stderr
    ours, theirs = (contents(folder / place / output) for place in ("here", "there"))
    assert set(theirs) == set(MADE)
    for name in MADE:
        assert ours[name] == theirs[name], name
    assert "Nothing to be done for 'all'" in run_make(folder / "there").stdout
    # Make takes what `run` made for made.
    (folder / "here" / "Makefile").write_text(rules)
    assert "Nothing to be done for 'all'" in run_make(folder / "here").stdout
