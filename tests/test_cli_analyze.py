from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Pipeline, Resmem

from resmem_cli import open_artifact


def test_accuracies_and_changes_are_those_of_the_file(pipeline: Pipeline, resmem: Resmem) -> None:
    [run] = resmem("analyze", pipeline.predictions, "--json").result["runs"]
    with open_artifact(pipeline.predictions) as artifact:
        labels, base, predicted, knn = (
            artifact.read(name) for name in ("labels", "base_predicted", "predicted", "knn_predicted")
        )
    right, base_right = predicted == labels, base == labels
    assert run["n"] == len(labels)
    assert run["base_accuracy"] == base_right.mean()
    assert run["accuracy"] == right.mean()
    assert run["knn_accuracy"] == (knn == labels).mean()
    assert run["n_corrected"] == (right & ~base_right).sum()
    assert run["n_broken"] == (~right & base_right).sum()
    assert run["gain"] == pytest.approx(right.mean() - base_right.mean())
    assert run["tpr"] - run["fpr"] == pytest.approx(run["gain"])
    low, high = run["interval"]
    assert low < run["gain"] < high


def test_the_table_shows_files_side_by_side(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    memory = ["--index", pipeline.index, "--residuals", pipeline.residuals, "--method", "knn"]
    other = tmp_path / "knn.h5"
    assert resmem("predict", pipeline.test, *memory, "-o", other).status == 0
    done = resmem("analyze", pipeline.predictions, other)
    assert done.stderr == ""
    header = done.stdout.splitlines()[0]
    assert str(pipeline.predictions) in header
    assert str(other) in header
    method = next(line for line in done.stdout.splitlines() if line.lstrip().startswith("method"))
    assert method.split() == ["method", "resmem", "knn"]


def test_examples_name_classes_and_the_rows_that_did_most(pipeline: Pipeline, resmem: Resmem) -> None:
    [run] = resmem("analyze", pipeline.predictions, "--json", "--examples", "1").result["runs"]
    [example] = run["corrected"]
    query = example["query"]
    with open_artifact(pipeline.predictions) as artifact:
        names = [name.decode() for name in artifact.read("class_names")]
        assert example["label"] == example["predicted"] == names[artifact.read("labels")[query]]
        assert example["base_predicted"] == names[artifact.read("base_predicted")[query]]
        contributions = artifact.read("neighbors/contributions")[query]
        rows = artifact.read("neighbors/rows")[query]
    most = np.argsort(-np.abs(contributions), kind="stable")[:3]
    assert [near["contribution"] for near in example["neighbors"]] == list(contributions[most])
    assert [near["row"] for near in example["neighbors"]] == list(rows[most])


def test_the_report_holds_every_changed_example(pipeline: Pipeline, resmem: Resmem) -> None:
    [run] = resmem("analyze", pipeline.predictions, "--json").result["runs"]
    with open_artifact(pipeline.report) as report, open_artifact(pipeline.predictions) as predictions:
        queries = report.read("changed/queries")
        assert len(queries) == run["n_corrected"] + run["n_broken"]
        contributions = predictions.read("neighbors/contributions")[queries]
        most = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, :3]
        for name in ("rows", "labels", "distances", "weights", "contributions"):
            of_all = predictions.read(f"neighbors/{name}")[queries]
            picked = np.take_along_axis(of_all, most, axis=1)
            assert np.array_equal(report.read(f"changed/neighbors/{name}"), picked)
        assert report.read("runs/gain")[0] == run["gain"]
        assert list(report.read("runs/gain_interval")[0]) == run["interval"]


def test_a_gain_under_the_limit_ends_in_3_after_the_table(pipeline: Pipeline, resmem: Resmem) -> None:
    done = resmem("analyze", pipeline.predictions, "--fail-under-gain", "99")
    assert done.status == 3
    assert "accuracy" in done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert "expected at least 99 points" in done.stderr
    assert resmem("analyze", pipeline.predictions, "--fail-under-gain", "-99").status == 0


def test_predictions_without_labels_are_refused(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    with open_artifact(pipeline.test) as artifact:
        np.savez(tmp_path / "q.npz", embeddings=artifact.read("embeddings"), logits=artifact.read("logits"))
    memory = ["--index", pipeline.index, "--residuals", pipeline.residuals]
    assert resmem("predict", tmp_path / "q.npz", *memory, "-o", tmp_path / "p.h5").status == 0
    done = resmem("analyze", tmp_path / "p.h5", "-o", tmp_path / "report.h5")
    assert done.status == 65
    assert "no labels" in done.stderr
    assert not (tmp_path / "report.h5").exists()


def test_a_limit_of_just_the_gain_is_met(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    [run] = resmem("analyze", pipeline.predictions, "--json").result["runs"]
    limit = 100 * (run["n_corrected"] - run["n_broken"]) / run["n"]
    for limit_given, status in ((limit, 0), (limit + 0.01, 3), (float("nan"), 2)):
        done = resmem("analyze", pipeline.predictions, "--fail-under-gain", limit_given)
        assert done.status == status
