"""What `predict` adds to a prediction: baselines, probabilities, a gate; and memory in logit space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Pipeline, Resmem
from numpy.typing import NDArray

from resmem_cli import neighbor_weights, open_artifact, outcomes, softmax, to_probabilities
from resmem_cli.memory import neighbor_votes
from resmem_cli.tuning.methods import interpolate

Read = dict[str, NDArray[Any]]


def predicted(resmem: Resmem, pipeline: Pipeline, output: Path, *more: object) -> tuple[Read, Any]:
    """Predict the test rows, and read all there is."""
    memory = ["--index", pipeline.index, "--residuals", pipeline.residuals]
    done = resmem("predict", pipeline.test, *memory, "-o", output, "-k", "20", *more)
    assert done.status == 0, done.stderr
    with open_artifact(output) as file:
        return {name: file.read(name) for name in file.shapes}, dict(file.parameters)


def test_each_method_of_the_comparison_is_what_its_name_says(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    read, parameters = predicted(resmem, pipeline, tmp_path / "p.h5", "--compare")
    names = [method["name"] for method in parameters["compared"]]
    with open_artifact(pipeline.test) as file:
        logits, labels = file.read("logits"), file.read("labels")
    weights = neighbor_weights(read["neighbors/distances"], sigma=parameters["sigma"])
    votes = neighbor_votes(read["neighbors/labels"], weights, n_classes=5)
    expected = {
        "base": softmax(logits),
        "kNN": votes,
        "kNN-LM 0.4": interpolate(votes, softmax(logits), weight=0.4),
        "ResMem, clip": to_probabilities(read["scores"], "clip"),
        "ResMem, simplex": to_probabilities(read["scores"], "simplex"),
    }
    for name, probabilities in expected.items():
        scores = read["scores"] if name.startswith("ResMem") else logits if name == "base" else None
        want, i = outcomes(probabilities, labels, scores=scores), names.index(name)
        for column in ("predicted", "label_probability", "confidence", "squares", "label_rank"):
            assert np.array_equal(read[f"compared/{column}"][:, i], getattr(want, column)), (name, column)


def test_a_comparison_changes_nothing_else(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    plain, _ = predicted(resmem, pipeline, tmp_path / "p.h5")
    # The baselines were tuned with a larger k.
    read, parameters = predicted(
        resmem, pipeline, tmp_path / "c.h5", "--compare", "--tuning", pipeline.tuning, "-k", "3"
    )
    assert max(method["settings"].get("k", 0) for method in parameters["compared"]) > 3
    assert read["neighbors/rows"].shape == (80, 3)
    assert np.array_equal(read["neighbors/rows"], plain["neighbors/rows"][:, :3])
    alone, _ = predicted(resmem, pipeline, tmp_path / "a.h5", "--tuning", pipeline.tuning, "-k", "3")
    for name in alone:
        assert np.array_equal(alone[name], read[name]), name


def test_a_comparison_needs_labels(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    with open_artifact(pipeline.test) as file:
        np.savez(tmp_path / "q.npz", embeddings=file.read("embeddings"), logits=file.read("logits"))
    memory = ["--index", pipeline.index, "--residuals", pipeline.residuals]
    done = resmem("predict", tmp_path / "q.npz", *memory, "--compare", "-o", tmp_path / "p.h5")
    assert done.status == 65
    assert "has no labels" in done.stderr
    assert not (tmp_path / "p.h5").exists()


@pytest.mark.parametrize("method", ["simplex", "clip", "temperature"])
def test_probabilities_are_written_whole_or_of_the_best_classes(
    method: str, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    softening = ["--probability-temperature", "0.7"] if method == "temperature" else []
    options = ["--probabilities", method, *softening]
    read, parameters = predicted(resmem, pipeline, tmp_path / "p.h5", *options)
    probabilities = read["probabilities"]
    assert probabilities.min() >= 0
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert parameters["probabilities"]["method"] == method
    best, _ = predicted(resmem, pipeline, tmp_path / "b.h5", *options, "--top-scores", "2")
    picked = np.take_along_axis(probabilities, best["top_scores/classes"].astype(np.int64), axis=1)
    assert np.array_equal(best["top_scores/probabilities"], picked)
    by_name, _ = predicted(resmem, pipeline, tmp_path / "n.h5", "--as-probabilities", method, *softening)
    assert np.array_equal(by_name["probabilities"], probabilities)


def test_a_gate_by_hand_leaves_the_network_its_answers(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    plain, _ = predicted(resmem, pipeline, tmp_path / "p.h5")
    limit = float(np.median(plain["base_confidence"]))
    read, parameters = predicted(resmem, pipeline, tmp_path / "g.h5", "--gate-confidence", repr(limit))
    opened = read["gate/open"] != 0
    assert np.array_equal(opened, plain["base_confidence"] <= limit)
    assert np.array_equal(read["gate/fixed"] != 0, ~opened)
    assert np.array_equal(read["predicted"], np.where(opened, plain["predicted"], plain["base_predicted"]))
    assert np.array_equal(read["scores"][opened], plain["scores"][opened])
    assert parameters["gate"] == {"distance": None, "confidence": limit}


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--gate"], 2, "--gate without a gate"),
        (["--gate-distance", "-1"], 2, "--gate-distance out of range"),
        (["--gate-confidence", "1.5"], 2, "--gate-confidence out of range"),
        (["--strength", "-0.1"], 2, "strength out of range"),
        (["--probabilities", "temperature"], 2, "without a temperature"),
        (["--as-probabilities", "sparsemax"], 2, "expected simplex or clip or temperature"),
        (["--probability-floor", "0.1"], 2, "--probability-floor is for --probability-temperature"),
        (["--method", "knn", "--compare"], 2, "--compare is for --method resmem"),
        (["--probabilities", "clip", "--probability-temperature", "1"], 2, "is for --probabilities"),
        (["--probabilities", "temperature", "--probability-temperature", "0"], 2, "temperature out of range"),
        (["--probability-floor", "0", "--probability-temperature", "1", "--probabilities", "temperature"], 2,
         "--probability-floor out of range"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(
    options: list[str], status: int, words: str, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    memory = ["--index", pipeline.index, "--residuals", pipeline.residuals]
    done = resmem("predict", pipeline.test, *memory, *options, "-o", tmp_path / "p.h5")
    assert done.status == status, done.stderr
    assert words in done.stderr
    assert (tmp_path / "p.h5").exists() == (status == 0)


class TestLogitSpace:
    def test_the_scores_are_the_softmax_of_the_corrected_logits(
        self, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
    ) -> None:
        residuals, output = tmp_path / "r.h5", tmp_path / "p.h5"
        assert (
            resmem("residualize", pipeline.train, "--space", "logit", "-T", "2", "-o", residuals).status == 0
        )
        memory = ["--index", pipeline.index, "--residuals", residuals]
        options = ["-k", "7", "--strength", "0.5", "-o", output]
        assert resmem("predict", pipeline.test, *memory, *options).status == 0
        with open_artifact(pipeline.train) as file:
            f, y = file.read("logits").astype(np.float64), file.read("labels")
        means = np.stack([f[y == label].mean(axis=0) for label in range(5)])
        with open_artifact(pipeline.test) as file:
            logits = file.read("logits").astype(np.float64)
        with open_artifact(output) as file:
            rows, weights = file.read("neighbors/rows"), file.read("neighbors/weights").astype(np.float64)
            scores, answers = file.read("scores"), file.read("predicted")
        sums = logits + 0.5 * np.einsum("qk,qkc->qc", weights, (means[y] - f)[rows])
        expected = np.exp(sums / 2)
        expected /= expected.sum(axis=1, keepdims=True)
        assert scores == pytest.approx(expected, abs=1e-6)
        assert np.array_equal(answers, sums.argmax(axis=1))
        assert resmem("analyze", output).status == 0

    def test_it_is_refused_with_top_residuals_and_by_update(
        self, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
    ) -> None:
        residuals = tmp_path / "r.h5"
        done = resmem("residualize", pipeline.train, "--space", "logit", "--top", "2", "-o", residuals)
        assert (done.status, residuals.exists()) == (2, False)
        assert resmem("residualize", pipeline.train, "--space", "logit", "-o", residuals).status == 0
        (tmp_path / "forget.txt").write_text("3\n")
        done = resmem(
            "update", "--residuals", residuals, "--remove", tmp_path / "forget.txt",
            "--residuals-output", tmp_path / "new.h5",
        )  # fmt: skip
        assert done.status == 65
        assert "class means" in done.stderr
        assert not (tmp_path / "new.h5").exists()


@pytest.mark.parametrize("block_rows", [1, 7, 80])
def test_blocks_of_queries_change_nothing(
    block_rows: int, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    options = ["--compare", "--tuning", pipeline.tuning, "--gate-distance", "2", "--probabilities", "clip"]
    whole, _ = predicted(resmem, pipeline, tmp_path / "w.h5", *options)
    parts, _ = predicted(resmem, pipeline, tmp_path / "b.h5", *options, "--block-rows", block_rows)
    for name in whole:
        assert np.array_equal(whole[name], parts[name]), name


def test_the_memory_s_own_rows_as_queries_are_told(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    memory = ["--index", pipeline.index, "--residuals", pipeline.residuals, "-o", tmp_path / "p.h5"]
    assert "the memory's own rows" in resmem("predict", pipeline.train, *memory).stderr
    options = ["--index", pipeline.index, "--train", pipeline.train, "-k", "3", "--sigma", "1", "-T", "1.4"]
    done = resmem("tune", pipeline.train, *options, "-o", tmp_path / "t.h5")
    assert "the memory's own rows" in done.stderr


def test_a_tuning_of_another_memory_makes_no_residuals(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    done = resmem("residualize", pipeline.test, "--tuning", pipeline.tuning, "-o", tmp_path / "r.h5")
    assert done.status == 65
    assert "tuned on another memory" in done.stderr
    assert not (tmp_path / "r.h5").exists()
    for option in (["-T", "2"], ["--space", "probability"], ["--top", "2"]):
        done = resmem("residualize", pipeline.train, "--tuning", pipeline.tuning, *option)
        assert done.status == 2
        assert "give one of them" in done.stderr


def test_the_tuned_gate_is_the_one_applied(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    for space in ("probability", "logit"):
        tuning, residuals, output = (tmp_path / f"{space}-{name}.h5" for name in ("t", "r", "p"))
        options = ["--index", pipeline.index, "--train", pipeline.train, "--space", space, "-k", "5,20"]
        options += ["--sigma", "0.5,1.5", "--strength", "0.7,1", "-o", tuning]
        assert resmem("tune", pipeline.test, *options).status == 0
        assert resmem("residualize", pipeline.train, "--tuning", tuning, "-o", residuals).status == 0
        memory = ["--index", pipeline.index, "--residuals", residuals, "--tuning", tuning]
        assert resmem("predict", pipeline.test, *memory, "--gate", "-o", output).status == 0
        with open_artifact(tuning) as file:
            gate = file.parameters["gate"]
        with open_artifact(output) as file:
            right = file.read("predicted") == file.read("labels")
            assert right.mean() == pytest.approx(gate["accuracy"])
            assert file.read("gate/open").mean() == pytest.approx(gate["share_open"])
