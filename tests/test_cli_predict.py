from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import N_TEST, Pipeline, Resmem, classifier_arrays

from resmem_cli import open_artifact

Memory = list[object]


@pytest.fixture
def memory(pipeline: Pipeline) -> Memory:
    return ["--index", pipeline.index, "--residuals", pipeline.residuals]


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = np.exp(logits.astype(np.float64) / temperature)
    return scaled / scaled.sum(axis=1, keepdims=True)


def by_hand(
    k: int, sigma: float, temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows, distances, votes and scores, straight from the paper's formulas in float64."""
    arrays = {name: array for name, array in classifier_arrays().items() if name != "class_names"}
    train, test = (arrays[f"{split}_embeddings"].astype(np.float64) for split in ("train", "test"))
    distances = np.linalg.norm(test[:, None] - train[None], axis=2)
    rows = np.argsort(distances, axis=1, kind="stable")[:, :k]
    near = np.take_along_axis(distances, rows, axis=1)
    weights = np.exp(-near / sigma)
    weights /= weights.sum(axis=1, keepdims=True)
    onehot = np.eye(5)[arrays["train_labels"]]
    residuals = onehot - softmax(arrays["train_logits"], temperature)
    scores = softmax(arrays["test_logits"], temperature) + np.einsum("qk,qkc->qc", weights, residuals[rows])
    return rows, near, np.einsum("qk,qkc->qc", weights, onehot[rows]), scores


def test_predictions_are_those_of_the_paper_s_formulas(
    tmp_path: Path, pipeline: Pipeline, memory: Memory, resmem: Resmem
) -> None:
    options = ["-k", "20", "--sigma", "0.9", "-o", tmp_path / "p.h5", "--json"]
    done = resmem("predict", pipeline.test, *memory, *options)
    assert done.status == 0, done.stderr
    rows, distances, votes, scores = by_hand(20, 0.9, 1.4)
    labels = classifier_arrays()["test_labels"]
    with open_artifact(tmp_path / "p.h5") as artifact:
        assert np.array_equal(artifact.read("neighbors/rows"), rows)
        assert np.allclose(artifact.read("neighbors/distances"), distances, rtol=1e-14)
        assert np.abs(artifact.read("scores") - scores).max() < 1e-6
        assert np.array_equal(artifact.read("predicted"), scores.argmax(axis=1))
        assert np.array_equal(artifact.read("knn_predicted"), votes.argmax(axis=1))
        assert np.array_equal(artifact.read("neighbors/labels"), classifier_arrays()["train_labels"][rows])
        assert list(artifact.read("class_names")) == [b"ant", b"bee", b"cat", b"dog", b"eel"]
    assert done.result["accuracy"] == np.mean(scores.argmax(axis=1) == labels)
    assert done.result["sigma_from"] == "--sigma"


@pytest.mark.parametrize("block_rows", [1, 7, N_TEST])
def test_the_size_of_the_blocks_changes_nothing(
    block_rows: int, tmp_path: Path, pipeline: Pipeline, memory: Memory, resmem: Resmem
) -> None:
    output = tmp_path / "predictions.h5"
    options = ["-k", "20", "--block-rows", block_rows, "-o", output]
    assert resmem("predict", pipeline.test, *memory, *options).status == 0
    assert output.read_bytes() == pipeline.predictions.read_bytes()


def test_the_number_of_threads_changes_nothing(
    tmp_path: Path, pipeline: Pipeline, memory: Memory, resmem_process: Resmem
) -> None:
    for threads in ("1", "2"):
        options = ["-k", "20", "-o", tmp_path / f"{threads}.h5"]
        done = resmem_process("predict", pipeline.test, *memory, *options, env={"OMP_NUM_THREADS": threads})
        assert done.status == 0
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()


def test_the_order_of_the_queries_changes_nothing(
    tmp_path: Path, pipeline: Pipeline, memory: Memory, resmem: Resmem
) -> None:
    arrays = classifier_arrays()
    backwards = {name: arrays[f"test_{name}"][::-1] for name in ("embeddings", "logits", "labels")}
    np.savez(tmp_path / "backwards.npz", **backwards)
    options = ["-k", "20", "-o", tmp_path / "p.h5"]
    assert resmem("predict", tmp_path / "backwards.npz", *memory, *options).status == 0
    with open_artifact(tmp_path / "p.h5") as turned, open_artifact(pipeline.predictions) as straight:
        for name in straight.shapes:
            if not name.startswith("class_"):
                assert np.array_equal(turned.read(name)[::-1], straight.read(name)), name


def test_exported_arrays_and_their_artifact_predict_alike(
    tmp_path: Path, pipeline: Pipeline, memory: Memory, resmem: Resmem
) -> None:
    options = ["--split", "test", "-k", "20", "-o", tmp_path / "p.h5"]
    assert resmem("predict", pipeline.arrays, *memory, *options).status == 0
    with open_artifact(tmp_path / "p.h5") as direct, open_artifact(pipeline.predictions) as imported:
        assert direct.header.content_digest == imported.header.content_digest


def test_the_default_sigma_comes_from_the_index_and_is_printed_and_stored(
    tmp_path: Path, pipeline: Pipeline, memory: Memory, resmem: Resmem
) -> None:
    done = resmem("predict", pipeline.test, *memory, "-o", tmp_path / "p.h5", "--json")
    with open_artifact(pipeline.index) as index, open_artifact(tmp_path / "p.h5") as predictions:
        expected = 0.18 * index.parameters["distance_scale"]["median"]
        assert predictions.parameters["sigma"] == expected
        assert predictions.parameters["k"] == 53
    assert done.result["sigma"] == expected
    assert done.result["sigma_from"] == "the index's distance scale"


@pytest.mark.parametrize("method", ["base", "knn"])
def test_other_methods_write_their_own_answer_from_the_same_neighbours(
    method: str, tmp_path: Path, pipeline: Pipeline, memory: Memory, resmem: Resmem
) -> None:
    options = ["-k", "20", "--method", method, "-o", tmp_path / "p.h5"]
    assert resmem("predict", pipeline.test, *memory, *options).status == 0
    with open_artifact(tmp_path / "p.h5") as other, open_artifact(pipeline.predictions) as own:
        for name in ("neighbors/rows", "neighbors/weights", "base_predicted", "knn_predicted"):
            assert np.array_equal(other.read(name), own.read(name))
        assert np.array_equal(other.read("predicted"), own.read(f"{method}_predicted"))
        assert np.array_equal(other.read("scores").argmax(axis=1), own.read(f"{method}_predicted"))


def test_without_labels_it_still_predicts(
    tmp_path: Path, pipeline: Pipeline, memory: Memory, resmem: Resmem
) -> None:
    arrays = classifier_arrays()
    np.savez(tmp_path / "q.npz", embeddings=arrays["test_embeddings"], logits=arrays["test_logits"])
    done = resmem("predict", tmp_path / "q.npz", *memory, "-k", "20", "-o", tmp_path / "p.h5", "--json")
    assert done.status == 0, done.stderr
    assert "accuracy" not in done.result
    with open_artifact(tmp_path / "p.h5") as unlabelled, open_artifact(pipeline.predictions) as labelled:
        assert "labels" not in unlabelled
        assert np.array_equal(unlabelled.read("predicted"), labelled.read("predicted"))


def test_top_residuals_of_all_classes_predict_as_dense_ones(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    residuals, output = tmp_path / "r.h5", tmp_path / "p.h5"
    assert resmem("residualize", pipeline.train, "--top", "5", "-o", residuals).status == 0
    memory = ["--index", pipeline.index, "--residuals", residuals]
    assert resmem("predict", pipeline.test, *memory, "-k", "20", "-o", output).status == 0
    with open_artifact(output) as top, open_artifact(pipeline.predictions) as dense:
        assert np.abs(top.read("scores") - dense.read("scores")).max() < 1e-5


def test_only_the_best_scores_are_kept_if_asked(
    tmp_path: Path, pipeline: Pipeline, memory: Memory, resmem: Resmem
) -> None:
    options = ["-k", "20", "--top-scores", "2", "-o", tmp_path / "p.h5"]
    assert resmem("predict", pipeline.test, *memory, *options).status == 0
    with open_artifact(tmp_path / "p.h5") as best, open_artifact(pipeline.predictions) as whole:
        scores = whole.read("scores")
        assert np.array_equal(
            best.read("top_scores/classes"), np.argsort(-scores, axis=1, kind="stable")[:, :2]
        )
        assert np.array_equal(best.read("top_scores/values"), -np.sort(-scores, axis=1)[:, :2])


def test_training_rows_get_their_labels_back_for_a_small_sigma(
    tmp_path: Path, pipeline: Pipeline, memory: Memory, resmem: Resmem
) -> None:
    options = ["--sigma", "1e-6", "-o", tmp_path / "p.h5", "--json"]
    done = resmem("predict", pipeline.train, *memory, *options)
    assert done.result["accuracy"] == 1
    with open_artifact(tmp_path / "p.h5") as artifact:
        onehot = np.eye(5)[classifier_arrays()["train_labels"]]
        assert np.abs(artifact.read("scores") - onehot).max() <= 1e-6
        assert np.array_equal(artifact.read("neighbors/rows")[:, 0], np.arange(len(onehot)))
        assert not artifact.read("neighbors/distances")[:, 0].any()


def test_large_files_have_the_same_bytes_for_any_size_of_block(tmp_path: Path, resmem: Resmem) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        "embeddings": generator.normal(size=(9_000, 4)).astype(np.float32),
        "logits": generator.normal(size=(9_000, 40)).astype(np.float32),
        "labels": generator.integers(0, 40, size=9_000),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    for command in ("index", "residualize"):
        assert resmem(command, "a.npz", "-o", f"{command}.h5", cwd=tmp_path).status == 0
    memory = ["--index", "index.h5", "--residuals", "residualize.h5", "-k", "50"]
    for block_rows in (997, 9_000):
        options = ["--block-rows", block_rows, "-o", f"{block_rows}.h5"]
        assert resmem("predict", "a.npz", *memory, *options, cwd=tmp_path).status == 0
    assert (tmp_path / "997.h5").read_bytes() == (tmp_path / "9000.h5").read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recall", "0.9", "--nprobe", "2"], "--recall chooses nprobe; give one of them"),
        (["--recall", "1.5"], "--recall out of range (expected above 0, at most 1, found 1.5)"),
        (["--recall", "nan"], "--recall out of range"),
        (["--recall", "0"], "--recall out of range"),
        (["--recall", "0.9"], "the recall of this index was not measured; set its nprobe by hand"),
        (["--device", "cpu"], "--device is for --backend torch"),
    ],
)
def test_ways_to_search_that_do_not_go_together_are_refused(
    options: list[str], words: str, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    index = tmp_path / "ivf.h5"
    assert resmem("index", pipeline.train, "--kind", "ivf", "--no-measure", "-o", index).status == 0
    files = ["--index", index, "--residuals", pipeline.residuals]
    done = resmem("predict", pipeline.test, *files, *options, "-o", tmp_path / "p.h5")
    assert done.status == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
