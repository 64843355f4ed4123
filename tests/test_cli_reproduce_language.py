"""`resmem reproduce language`: from texts to tables, stopped at any point and continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Resmem

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("tokenizers", reason="needs the language extra")

from resmem_cli import LanguageStudyConfig, open_artifact, reproduce_language  # noqa: E402
from resmem_cli.errors import DataError, UsageError  # noqa: E402
from resmem_cli.metrics import compare  # noqa: E402
from resmem_cli.results import ResultTable  # noqa: E402
from resmem_cli.stages.reproduce.language_config import ModelSize, model_size  # noqa: E402
from resmem_cli.stages.reproduce.language_tables import reach_words  # noqa: E402
from resmem_cli.stages.reproduce.language_texts import TokenDocuments, first_tokens, pieces  # noqa: E402
from resmem_cli.stages.reproduce.language_where import folders_of  # noqa: E402

WORDS = [
    "the",
    "a",
    "red",
    "old",
    "new",
    "cat",
    "dog",
    "bird",
    "tree",
    "river",
    "sees",
    "likes",
    "and",
    "then",
]
SMALL = LanguageStudyConfig(
    glob="*.txt",
    exclude=(),
    held_out=0.2,
    vocabulary=270,
    sizes=(ModelSize(16, 1), ModelSize(32, 1)),
    steps=6,
    batch_size=2,
    checkpoint_steps=2,
    memory_tokens=900,
    validation_tokens=80,
    test_tokens=120,
    excerpt=50,
    recall_tokens=40,
    most_k=60,
    examples=3,
)
OPTIONS = (
    *("--glob", "*.txt", "--held-out", "0.2", "--vocab", "270", "--sizes", "16x1,32x1", "--steps", "6"),
    *("--batch-size", "2", "--checkpoint-steps", "2", "--memory-tokens", "900"),
    *("--validation-tokens", "80", "--test-tokens", "120", "--most-k", "60", "--examples", "3"),
)
TABLES = ["accuracy", "gain", "reach", "where", "knn_lm", "recall", "bytes", "speed", "examples"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight texts of sentences that repeat their words."""
    folder = tmp_path_factory.mktemp("texts")
    generator = np.random.default_rng(0)
    for number in range(8):
        sentences = (" ".join(generator.choice(WORDS, size=7)) + ".\n" for _ in range(20))
        (folder / f"{number}.txt").write_text("".join(sentences))
    return folder


@pytest.fixture(scope="module")
def finished(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    reproduce_language(texts, folder=folder, config=SMALL)
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """Every file whose bytes do not depend on the time it took, or on where the folder lies."""
    paths = [path for path in folder.rglob("*") if path.suffix in (".h5", ".npz", ".safetensors")]
    paths += [folder / "tokenizer.json", folder / "split.json", folder / "settings.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name != "language.h5"}


def tables_of(study: Path) -> dict[str, ResultTable]:
    with open_artifact(study) as file:
        document = json.loads(bytes(file.read("document")))
    return {table["name"]: ResultTable.from_document(table) for table in document["tables"]}


def rows_of(table: ResultTable) -> list[dict[str, Any]]:
    names = [column.name for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in table.rows]


class Stopped(Exception):  # noqa: N818 - it is no error
    pass


def test_the_command_prints_and_writes_every_table(texts: Path, tmp_path: Path, resmem: Resmem) -> None:
    folder = tmp_path / "run"
    more = ("--markdown", tmp_path / "tables.md", "--figures", tmp_path / "figures")
    done = resmem("reproduce", "language", texts, "-o", folder, *OPTIONS, *more)

    assert done.status == 0, done.stderr
    assert list(tables_of(folder / "language.h5")) == TABLES
    for title in (
        "Accuracy of the next token, without and with memory",
        "What memory corrected (TPR) and broke (FPR)",
        "Does the smaller model with memory reach the larger one without?",
        "Table 3: kNN-LM by its weight, and ResMem",
        "Recall of the index",
        "Bytes stored",
        "Time of each step",
        "Figure 3: tokens that memory corrected",
    ):
        assert title in done.stdout
        assert f"### {title}" in (tmp_path / "tables.md").read_text()
    assert "38.01" in done.stdout
    assert "2.93 in section 4.4" in done.stdout
    assert "appendix E" in done.stdout
    assert "2 of 6 steps, loss" in done.stderr
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    names = ("language_accuracy", "language_knn_lm")
    assert figures == {f"{name}.{kind}" for name in names for kind in ("svg", "png")}

    again = resmem("reproduce", "language", texts, "-o", folder, *OPTIONS, "--json")
    assert again.status == 0
    assert again.stderr == ""
    assert [table["name"] for table in again.result["tables"]] == TABLES
    assert again.json["command"] == "reproduce language"
    quiet = resmem("reproduce", "language", texts, "-o", folder, *OPTIONS, "-q")
    assert quiet.stderr == ""
    assert quiet.stdout.startswith("Accuracy of the next token")
    assert resmem("verify", folder / "language.h5", folder / "16x1" / "index.h5").status == 0
    assert resmem("info", folder / "language.h5").status == 0


def test_a_finished_run_is_not_repeated(finished: Path, texts: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    study = (finished / "language.h5").read_bytes()
    told: list[str] = []

    reproduce_language(texts, folder=finished, config=SMALL, announce=told.append)

    assert told == []
    assert (finished / "language.h5").read_bytes() == study
    del before[finished / "language.h5"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    "point",
    ["test_tokens.npz", "32x1: 4 of 6", "32x1/recall.json"],
)
def test_a_run_stopped_anywhere_goes_on_to_the_same_bytes(
    point: str, finished: Path, texts: Path, tmp_path: Path
) -> None:
    def stop(text: str) -> None:
        if point in text:
            raise Stopped

    with pytest.raises(Stopped):
        reproduce_language(texts, folder=tmp_path / "run", config=SMALL, announce=stop)
    made = {path for path in (tmp_path / "run").rglob("*") if path.suffix in (".h5", ".safetensors", ".npz")}
    times = {path: path.stat().st_mtime_ns for path in made}

    reproduce_language(texts, folder=tmp_path / "run", config=SMALL)

    assert results(tmp_path / "run") == results(finished)
    assert {path: path.stat().st_mtime_ns for path in made} == times
    assert not list((tmp_path / "run").rglob("training.pt"))


def test_a_killed_run_trains_on_from_its_checkpoint(texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "resmem_cli", "reproduce", "language", str(texts), "-o", str(folder)]
    steps = ["--steps", "400", "--checkpoint-steps", "3"]
    with subprocess.Popen([*command, *OPTIONS, *steps], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 100
        while not (folder / "16x1" / "training.pt").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not (folder / "16x1" / "network.safetensors").exists()
    as_given: dict[str, Any] = {"exclude": ("site-packages",), "excerpt": 512, "recall_tokens": 1000}
    told: list[str] = []

    def until_it_tells(text: str) -> None:
        told.append(text)
        if "steps, loss" in text:
            raise Stopped

    with pytest.raises(Stopped):
        reproduce_language(
            texts,
            folder=folder,
            config=replace(SMALL, **as_given, steps=400, checkpoint_steps=3),
            announce=until_it_tells,
        )
    assert told[0].endswith("network.safetensors")
    assert int(told[1].split(" of ")[0].split(": ")[1]) >= 6


def test_tables_tell_what_the_artifacts_hold(finished: Path) -> None:
    tables = tables_of(finished / "language.h5")
    small, large, *paper = rows_of(tables["accuracy"])
    assert [row["model"] for row in paper] == ["paper: T5-small", "paper: T5-base", "paper: T5-large"]
    assert (small["model"], small["memory"]) == ("16x1", 900)
    columns = {}
    for size, row in (("16x1", small), ("32x1", large)):
        for name, heading in (("paper", "ResMem k = 50, σ = 1"), ("tuned", "ResMem tuned")):
            with open_artifact(finished / size / f"{name}.h5") as file:
                labels, base, predicted = (file.read(c) for c in ("labels", "base_predicted", "predicted"))
            assert len(labels) == 120
            assert row["base"] == np.mean(base == labels)
            assert row[heading] == np.mean(predicted == labels)
            columns[size, name] = labels, base, predicted
    assert np.array_equal(columns["16x1", "paper"][0], columns["32x1", "tuned"][0])
    with open_artifact(finished / "16x1" / "paper.h5") as file:
        assert (file.parameters["k"], file.parameters["sigma"], file.parameters["temperature"]) == (50, 1, 1)

    gain = rows_of(tables["gain"])[1]
    told = compare(*columns["16x1", "tuned"])
    assert (gain["TPR"], gain["FPR"], gain["gain [95 %]"].value) == (told.tpr, told.fpr, told.gain)
    reached = rows_of(tables["reach"])[1]
    labels, alone, _ = columns["32x1", "paper"]
    against = compare(labels, alone, columns["16x1", "tuned"][2])
    assert reached["difference [95 %]"].value == against.gain
    assert reached["p"] == against.p_value

    [where] = rows_of(tables["where"])
    assert (where["folder"], where["tokens"], where["files"]) == ("(no folder)", 120, 2)
    assert where["16x1 base"] == small["base"]
    assert where["16x1 gain, tuned"] == rows_of(tables["gain"])[1]["gain [95 %]"]

    votes = rows_of(tables["knn_lm"])
    assert [row["paper: T5-large"] for row in votes[:7]] == [
        0.4476, 0.4488, 0.4483, 0.4466, 0.4427, 0.4297, 0.4095,
    ]  # fmt: skip
    assert votes[0]["16x1, tuned"] == small["base"]
    assert votes[7]["32x1, tuned"] == large["ResMem tuned"]


def test_recall_is_that_of_the_test_tokens(finished: Path) -> None:
    small = rows_of(tables_of(finished / "language.h5")["recall"])[0]
    assert small["kind"] == "ivf-pq"
    assert small["test tokens"] == 40
    chosen = np.sort(np.random.default_rng(0).choice(120, size=40, replace=False))
    with open_artifact(finished / "16x1" / "test.h5") as file:
        queries = file.read("embeddings")[chosen].astype(np.float64)
    with open_artifact(finished / "16x1" / "memory.h5") as file:
        memory = file.read("embeddings").astype(np.float64)
    with open_artifact(finished / "16x1" / "paper.h5") as file:
        found = file.read("neighbors/rows")[chosen]
    distances = np.linalg.norm(queries[:, None] - memory, axis=2)
    nearest = np.sort(distances, axis=1)[:, 49]
    own = np.take_along_axis(distances, found, axis=1)
    assert small["recall at 50"] == pytest.approx(np.mean(own <= nearest[:, None] + 1e-9), abs=1e-12)


def test_examples_are_corrected_tokens_in_their_context(finished: Path, texts: Path) -> None:
    rows = rows_of(tables_of(finished / "language.h5")["examples"])
    corpus = " ".join(path.read_text() for path in sorted(texts.iterdir())).replace("\n", "↵")
    assert 0 < len(rows) <= 3
    for row in rows:
        context = row["test text"].removeprefix("…")
        assert context in corpus
        assert row["training text that did most"].removeprefix("…") in corpus
        assert row["network"] != row["ResMem, true"]
        assert (texts / row["file"]).exists()


def test_bytes_and_times_are_told_of_every_model(finished: Path) -> None:
    tables = tables_of(finished / "language.h5")
    for row in rows_of(tables["bytes"]):
        assert row["index"] == (finished / row["model"] / "index.h5").stat().st_size
        assert row["residuals B/token"] >= 512
    speed = rows_of(tables["speed"])
    assert len(speed) == 14
    assert all(row["tokens/s"] == row["tokens"] / row["seconds"] for row in speed)


def test_an_output_among_the_texts_is_refused(texts: Path, resmem: Resmem) -> None:
    done = resmem("reproduce", "language", texts, "-o", texts / "run", *OPTIONS, "-q")
    assert done.status == 2
    assert "the folder of texts" in done.stderr
    assert not (texts / "run").exists()


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--sizes", "16x1"], 2, ["--sizes", "two different ones"]),
        (["--sizes", "16,32"], 2, ["--sizes", "WIDTHxDEPTH", "found 16"]),
        (["--steps", "0"], 2, ["--steps out of range"]),
        (["--held-out", "0.5"], 2, ["--held-out"]),
        (["--vocab", "100"], 2, ["--vocab", "at least 256"]),
        (["--kind", "none"], 2, ["no such kind of index"]),
        (["--recall", "2"], 2, ["--recall out of range"]),
        (["--memory-tokens", "20"], 2, ["--memory-tokens out of range"]),
        (["--sizes", "33x1,16x1"], 2, ["--sizes", "the smaller ones first"]),
        (["--device", "cuda:77"], 2, ["--device"]),
        (["--glob", "*.rst"], 65, ["too few texts", "*.rst", "--glob"]),
    ],
)
def test_what_can_t_be_run_is_refused_in_one_line(
    options: list[str], status: int, words: list[str], texts: Path, tmp_path: Path, resmem: Resmem
) -> None:
    done = resmem("reproduce", "language", texts, "-o", tmp_path / "run", *OPTIONS, "-q", *options)

    assert done.status == status
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    for word in words:
        assert word in line


def test_a_missing_folder_is_told(tmp_path: Path, resmem: Resmem) -> None:
    done = resmem("reproduce", "language", tmp_path / "nowhere", "-o", tmp_path / "run")

    assert done.status == 66
    assert "nowhere: no such folder" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_of_other_settings_is_refused(finished: Path, texts: Path) -> None:
    with pytest.raises(DataError, match="other settings.*seed|seed.*other settings"):
        reproduce_language(texts, folder=finished, config=replace(SMALL, seed=1))


def test_other_texts_than_a_folder_s_are_refused(finished: Path, tmp_path: Path, texts: Path) -> None:
    for path in texts.iterdir():
        (tmp_path / path.name).write_text(path.read_text() + "More.\n")
    with pytest.raises(DataError, match="texts: the folder holds a run with other settings"):
        reproduce_language(tmp_path, folder=finished, config=SMALL)


def test_a_missing_package_is_told(
    texts: Path, tmp_path: Path, resmem: Resmem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    done = resmem("reproduce", "language", texts, "-o", tmp_path / "run", *OPTIONS)

    assert done.status == 69
    assert "resmem-cli[language]" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_told_with_what_to_do(texts: Path, tmp_path: Path) -> None:
    def stop(text: str) -> None:
        if "16x1: 2 of 6" in text:
            raise Stopped

    with pytest.raises(Stopped):
        reproduce_language(texts, folder=tmp_path / "run", config=SMALL, announce=stop)
    (tmp_path / "run" / "16x1" / "training.pt").write_bytes(b"no state")
    with pytest.raises(DataError, match=r"training\.pt.*remove it"):
        reproduce_language(texts, folder=tmp_path / "run", config=SMALL)


def test_the_exact_kind_of_index_can_be_used(finished: Path, texts: Path, tmp_path: Path) -> None:
    result = reproduce_language(
        texts, folder=tmp_path / "run", config=replace(SMALL, kind="exact", examples=0)
    )

    tables = {table["name"]: ResultTable.from_document(table) for table in result.summary["tables"]}
    small = rows_of(tables["recall"])[0]
    assert (small["kind"], small["recall at 50"], small["recall at it"]) == ("exact", 1.0, 1.0)
    assert tables["examples"].rows == ()


def documents(*lengths: int) -> TokenDocuments:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    names = np.array([f"{i}".encode() for i in range(len(lengths))])
    return TokenDocuments(np.arange(sum(lengths), dtype=np.uint16), offsets, names)


def test_the_memory_is_cut_where_it_holds_as_many_tokens_as_wanted() -> None:
    cut = first_tokens(documents(5, 1, 4, 6), 6)

    assert cut.n_targets == 6
    assert cut.offsets.tolist() == [0, 5, 6, 9]
    assert cut.names.tolist() == [b"0", b"1", b"2"]
    assert first_tokens(documents(5, 4), 7).n_targets == 7
    assert first_tokens(documents(5, 4), 100).n_targets == 7


def test_pieces_are_drawn_once_each_until_there_are_as_many_tokens_as_wanted() -> None:
    source = documents(70, 33, 1, 50)

    drawn = pieces(source, 40, length=16, seed=0)

    assert drawn.n_targets == 40
    assert max(np.diff(drawn.offsets)) <= 16
    assert len(set(drawn.tokens.tolist())) == len(drawn.tokens)
    for i, name in enumerate(drawn.names):
        piece = drawn.tokens[drawn.offsets[i] : drawn.offsets[i + 1]]
        assert {source.at(int(token)) for token in piece} == {int(name)}
    everything = pieces(source, 1000, length=16, seed=0)
    assert sorted(np.diff(everything.offsets)) == [2, 6, *[16] * 9]
    assert drawn.tokens.tolist() != pieces(source, 40, length=16, seed=1).tokens.tolist()


def test_tokens_are_told_by_the_first_folder_of_their_text() -> None:
    offsets = np.array([0, 3, 4, 8], np.int64)
    source = TokenDocuments(np.arange(8), offsets, np.array([b"a/b/c.py", b"d.py", b"e.py"]))

    assert folders_of(source).tolist() == ["a", "a", *["(no folder)"] * 3]


def test_whether_a_model_is_reached_is_said_of_the_interval() -> None:
    def words(n_corrected: int, n_broken: int) -> str:
        labels, alone, predicted = np.zeros(1000, int), np.zeros(1000, int), np.zeros(1000, int)
        alone[:n_corrected] = 1
        predicted[n_corrected : n_corrected + n_broken] = 1
        return reach_words("small", "large", compare(labels, alone, predicted))

    assert words(90, 30).startswith("small passes large: +6.00 points")
    assert words(30, 90).startswith("small does not reach large: -6.00 points")
    assert words(31, 30).startswith("small and large can't be told apart: +0.10 points")


def test_heads_divide_the_width() -> None:
    assert model_size("192x3").arch_args(4096) == {
        "vocab_size": 4096, "context": 256, "width": 192, "depth": 3, "heads": 6,
    }  # fmt: skip
    for width in (1, 8, 31, 100, 97):
        assert width % ModelSize(width, 1).arch_args(10)["heads"] == 0
    with pytest.raises(UsageError, match="WIDTHxDEPTH"):
        model_size("0x3")
