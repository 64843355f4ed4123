"""What `analyze` tells beyond the gain: methods, places, groups, explanations, influence, figures, a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Pipeline, Resmem

from resmem_cli import open_artifact, summarize
from resmem_cli.quality import Outcomes


@pytest.fixture
def compared(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> Path:
    path = tmp_path / "compared.h5"
    memory = ["--index", pipeline.index, "--residuals", pipeline.residuals, "--tuning", pipeline.tuning]
    assert resmem("predict", pipeline.test, *memory, "--compare", "-o", path).status == 0
    return path


def kept(path: Path) -> Any:
    with open_artifact(path) as file:
        return np.flatnonzero(file.read("tuned_on") == 0)


def test_the_queries_tuned_on_are_left_out_of_every_number(compared: Path, resmem: Resmem) -> None:
    done = resmem("analyze", compared, "--compare", "--json")
    [run] = done.result["runs"]
    rows = kept(compared)
    assert run["n"] == len(rows) == 40
    assert "40 of 80 queries, on which settings were tuned, are left out" in done.stderr
    with open_artifact(compared) as file:
        labels = file.read("labels")[rows]
        names = [method["name"] for method in file.parameters["compared"]]
        columns = {
            name: file.read(f"compared/{name}")[rows]
            for name in ("predicted", "label_probability", "confidence", "squares", "label_rank")
        }
    assert [method["name"] for method in run["methods"]] == names
    for i, method in enumerate(run["methods"]):
        quality = summarize(Outcomes(**{name: values[:, i] for name, values in columns.items()}), labels)
        for name in ("accuracy", "top5_accuracy", "nll", "brier", "ece"):
            assert method[name] == getattr(quality, name)


def test_queries_tuned_on_are_known_under_other_names_and_labels(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    with open_artifact(pipeline.test) as file:
        arrays = {name: file.read(name) for name in ("embeddings", "logits", "labels")}
    arrays["labels"] = arrays["labels"][::-1]
    np.savez(tmp_path / "renamed.npz", class_names=np.array(list("abcde")), ids=np.arange(80) + 7, **arrays)
    with open_artifact(pipeline.train) as file:
        memory = {name: file.read(name) for name in ("embeddings", "logits", "labels")}
    np.savez(tmp_path / "memory.npz", **memory)
    index, residuals, output = (tmp_path / f"{name}.h5" for name in ("index", "residuals", "p"))
    assert resmem("index", tmp_path / "memory.npz", "-o", index).status == 0
    assert resmem("residualize", tmp_path / "memory.npz", "-o", residuals).status == 0
    options = ["--index", index, "--residuals", residuals, "-k", "5", "-o", output]
    assert resmem("predict", tmp_path / "renamed.npz", *options, "--tuning", pipeline.tuning).status == 0
    assert resmem("analyze", output, "--json").result["runs"][0]["n"] == 40
    assert resmem("predict", tmp_path / "renamed.npz", *options).status == 0
    assert resmem("analyze", output, "--json").result["runs"][0]["n"] == 80
    done = resmem("analyze", output, "--tuning", pipeline.tuning, "--json")
    assert done.result["runs"][0]["n"] == 40


def test_without_baselines_a_comparison_is_refused(pipeline: Pipeline, resmem: Resmem) -> None:
    done = resmem("analyze", pipeline.predictions, "--compare")
    assert done.status == 65
    assert "predict with --compare" in done.stderr


def test_tuning_on_all_that_is_reported_is_told(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    tuning = tmp_path / "t.h5"
    options = ["--index", pipeline.index, "--train", pipeline.train, "-k", "20", "--sigma", "1", "-T", "1.4"]
    assert resmem("tune", pipeline.test, *options, "-o", tuning).status == 0
    done = resmem("analyze", pipeline.predictions, "--tuning", tuning, "--json")
    assert "the settings were tuned on these same queries" in done.stderr
    assert done.result["runs"][0]["n"] == 80
    assert done.json["notices"]


def test_groups_say_whether_wrong_answers_were_near_misses(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    (tmp_path / "groups.csv").write_text("class,group\nant,small\nbee,small\ncat,large\ndog,large\neel,wet\n")
    [run] = resmem("analyze", pipeline.predictions, "--groups", tmp_path / "groups.csv", "--json").result[
        "runs"
    ]
    with open_artifact(pipeline.predictions) as file:
        y, base, answer = (file.read(name) for name in ("labels", "base_predicted", "predicted"))
    group = np.array([0, 0, 1, 1, 2])
    wrong = base != y
    corrected = wrong & (answer == y)
    inside = group[base] == group[y]
    assert run["coarse"]["errors_in_group"] == inside[wrong].mean()
    assert run["coarse"]["corrected_in_group"] == inside[corrected].mean()
    shown = resmem("analyze", pipeline.predictions, "--groups", tmp_path / "groups.csv").stdout
    assert "coarse to fine, 3 groups of classes:" in shown


def test_an_explanation_adds_up(pipeline: Pipeline, resmem: Resmem) -> None:
    [run] = resmem("analyze", pipeline.predictions, "--explain", "3", "--json").result["runs"]
    [told] = run["explained"]
    with open_artifact(pipeline.predictions) as file:
        scores, answer, other = (file.read(name)[3] for name in ("scores", "predicted", "runner_up"))
    assert len(told["neighbors"]) == 20
    assert told["margin"] == pytest.approx(scores[answer] - scores[other], abs=1e-6)
    added = sum(near["contribution"] for near in told["neighbors"])
    assert told["base_margin"] + added == pytest.approx(told["margin"], abs=1e-6)
    sizes = [abs(near["contribution"]) for near in told["neighbors"]]
    assert sizes == sorted(sizes, reverse=True)
    assert "lead of" in resmem("analyze", pipeline.predictions, "--explain", "3").stdout
    assert resmem("analyze", pipeline.predictions, "--explain", "80").status == 65


def test_influence_counts_what_rows_did(pipeline: Pipeline, resmem: Resmem) -> None:
    done = resmem("analyze", pipeline.predictions, "--influence", "--json")
    [run] = done.result["runs"]
    with open_artifact(pipeline.predictions) as file:
        y, base, answer = (file.read(name) for name in ("labels", "base_predicted", "predicted"))
        rows, added = file.read("neighbors/rows"), file.read("neighbors/contributions").astype(np.float64)
    corrected = (answer == y) & (base != y)
    first = run["influence"]["corrected"][0]
    mine = added[corrected] * (rows[corrected] == first["row"])
    assert first["credit"] == pytest.approx(mine.sum())
    assert first["n_corrected"] == (mine.max(axis=1) > 0).sum()
    assert "rows that corrected most" in resmem("analyze", pipeline.predictions, "--influence").stdout


def test_several_files_are_averaged(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    memory = ["--index", pipeline.index, "--residuals", pipeline.residuals]
    assert resmem("predict", pipeline.test, *memory, "-k", "3", "-o", tmp_path / "3.h5").status == 0
    files = (pipeline.predictions, tmp_path / "3.h5")
    result = resmem("analyze", *files, "--json").result
    accuracies = [run["accuracy"] for run in result["runs"]]
    assert result["aggregate"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert result["aggregate"]["accuracy"]["std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert "mean ± std" in resmem("analyze", *files).stdout


def test_figures_and_page_hold_the_report(
    tmp_path: Path, compared: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    page, figures = tmp_path / "page.html", tmp_path / "figures"
    options = [
        "--tuning",
        pipeline.tuning,
        "--html",
        page,
        "--figures",
        figures,
        "-o",
        tmp_path / "report.h5",
    ]
    done = resmem("analyze", compared, *options)
    assert done.status == 0, done.stderr
    assert {path.stem for path in figures.iterdir()} >= {
        "methods",
        "reliability",
        "sensitivity",
        "where_class",
    }
    assert {path.suffix for path in figures.iterdir()} == {".svg", ".png"}
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>") or text.startswith("<!doctype html>")
    assert "kNN-LM 0.4" in text
    before = page.read_bytes(), (tmp_path / "report.h5").read_bytes()
    assert resmem("analyze", compared, *options).status == 0
    assert (page.read_bytes(), (tmp_path / "report.h5").read_bytes()) == before
    with open_artifact(tmp_path / "report.h5") as report:
        document = json.loads(report.read("document").tobytes())
        assert list(report.read("methods/quality")[:, 0]) == [
            method["accuracy"] for method in document["runs"][0]["methods"]
        ]
    assert str(tmp_path) not in json.dumps(document)
    assert resmem("analyze", compared, "--html", compared).status == 2
    assert resmem("analyze", compared, "--html", page, "--no-clobber").status == 74
    (figures / "methods.svg").write_text("mine")
    assert resmem("analyze", compared, "--figures", figures, "--no-clobber").status == 74
    assert (figures / "methods.svg").read_text() == "mine"
    done = resmem("analyze", compared, "--figures", page)
    assert (done.status, "not a folder" in done.stderr) == (74, True)


def test_the_page_explains_the_queries_asked_for(tmp_path: Path, compared: Path, resmem: Resmem) -> None:
    page = tmp_path / "page.html"
    done = resmem("analyze", compared, "--explain", "3", "--html", page, "--json")
    [told] = done.result["runs"][0]["explained"]
    text = page.read_text()
    section = text[text.index("Explained examples") : text.index("Parameters")]
    assert "Query 3" in section
    for near in told["neighbors"]:
        assert f">{near['row']}<" in section


def test_places_are_shown(compared: Path, resmem: Resmem) -> None:
    shown = resmem("analyze", compared, "--where").stdout
    for title in ("distance to the nearest row", "the network's confidence", "memory's rows of the class"):
        assert title in shown


def test_ids_come_from_the_memory_s_residuals(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    with open_artifact(pipeline.train) as file:
        arrays = {name: file.read(name) for name in ("embeddings", "logits", "labels")}
    np.savez(tmp_path / "named.npz", ids=np.array([f"row-{i}" for i in range(300)]), **arrays)
    index, residuals, output = (tmp_path / f"{name}.h5" for name in ("index", "residuals", "p"))
    assert resmem("index", tmp_path / "named.npz", "-o", index).status == 0
    assert resmem("residualize", tmp_path / "named.npz", "-o", residuals).status == 0
    memory = ["--index", index, "--residuals", residuals]
    assert resmem("predict", pipeline.test, *memory, "-k", "3", "-o", output).status == 0
    [run] = resmem("analyze", output, "--explain", "0", "--residuals", residuals, "--json").result["runs"]
    for near in run["explained"][0]["neighbors"]:
        assert near["id"] == f"row-{near['row']}"
    done = resmem("analyze", output, "--residuals", pipeline.residuals)
    assert done.status == 65
    assert "not the residuals" in done.stderr
