from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import N_TEST, C, D, Pipeline, Resmem, classifier_arrays

from resmem_cli import open_artifact


def test_a_split_of_an_npz_becomes_an_artifact(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    output = tmp_path / "test.h5"
    done = resmem("import", pipeline.arrays, "--split", "test", "-o", output, "--json")
    assert done.status == 0
    assert (done.result["rows"], done.result["dimensions"], done.result["classes"]) == (N_TEST, D, C)
    assert done.result["arrays"]["logits"] == "arrays.npz:test_logits"
    arrays = classifier_arrays()
    with open_artifact(output) as artifact:
        for name in ("embeddings", "logits", "labels"):
            assert np.array_equal(artifact.read(name), arrays[f"test_{name}"])
        assert list(artifact.read("class_names")) == [b"ant", b"bee", b"cat", b"dog", b"eel"]


def test_two_splits_and_none_chosen_is_refused(pipeline: Pipeline, resmem: Resmem) -> None:
    done = resmem("import", pipeline.arrays)
    assert done.status == 65
    assert "--split" in done.stderr


def test_arrays_in_several_files_are_named_one_by_one(tmp_path: Path, resmem: Resmem) -> None:
    arrays = classifier_arrays()
    np.save(tmp_path / "e.npy", arrays["train_embeddings"])
    np.savez(tmp_path / "rest.npz", out=arrays["train_logits"], classes_of=arrays["train_labels"][:, None])
    output = tmp_path / "train.h5"
    done = resmem(
        "import", tmp_path / "e.npy", "--logits", f"{tmp_path / 'rest.npz'}:out",
        "--labels", f"{tmp_path / 'rest.npz'}:classes_of", "-o", output,
    )  # fmt: skip
    assert done.status == 0, done.stderr
    with open_artifact(output) as artifact:
        assert np.array_equal(artifact.read("labels"), arrays["train_labels"])
        assert np.array_equal(artifact.read("logits"), arrays["train_logits"])


def test_an_ann_benchmarks_file_is_read(tmp_path: Path, resmem: Resmem) -> None:
    train = np.arange(12, dtype=np.float32).reshape(4, 3)
    with h5py.File(tmp_path / "sift.hdf5", "w") as file:
        file["train"], file["test"] = train, train[:2]
        file["neighbors"], file["distances"] = np.zeros((2, 2), np.int32), np.zeros((2, 2), np.float32)
    done = resmem("import", tmp_path / "sift.hdf5", "--split", "train", "-o", tmp_path / "train.h5")
    assert done.status == 0, done.stderr
    with open_artifact(tmp_path / "train.h5") as artifact:
        assert np.array_equal(artifact.read("embeddings"), train)


def test_probabilities_give_the_residuals_of_the_logits_they_came_from(
    tmp_path: Path, resmem: Resmem
) -> None:
    arrays = classifier_arrays()
    logits = arrays["train_logits"].astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    common = {"embeddings": arrays["train_embeddings"], "labels": arrays["train_labels"]}
    np.savez(tmp_path / "p.npz", probs=probabilities, **common)
    np.savez(tmp_path / "l.npz", logits=logits, **common)
    residuals = []
    for name in ("p", "l"):
        done = resmem("residualize", tmp_path / f"{name}.npz", "-T", "1.7", "-o", tmp_path / f"{name}.h5")
        assert done.status == 0, done.stderr
        with open_artifact(tmp_path / f"{name}.h5") as artifact:
            residuals.append(artifact.read("residuals"))
    assert np.abs(residuals[0] - residuals[1]).max() < 1e-6


def test_probabilities_under_the_name_of_logits_are_refused(tmp_path: Path, resmem: Resmem) -> None:
    np.savez(tmp_path / "a.npz", embeddings=np.ones((4, 2)), logits=np.full((4, 5), 0.2))
    done = resmem("import", tmp_path / "a.npz")
    assert done.status == 65
    assert "--probabilities" in done.stderr


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_float16_is_kept_and_everything_else_becomes_float32(
    dtype: str, tmp_path: Path, resmem: Resmem
) -> None:
    values = np.arange(6).reshape(3, 2).astype(dtype)
    np.save(tmp_path / "e.npy", values)
    assert resmem("import", tmp_path / "e.npy", "-o", tmp_path / "e.h5").status == 0
    with open_artifact(tmp_path / "e.h5") as artifact:
        read = artifact.read("embeddings")
    assert read.dtype == (np.float16 if dtype == "<f2" else np.float32)
    assert np.array_equal(read, values.astype(np.float32))


def test_rows_are_carried_over_for_any_size_of_file(tmp_path: Path, resmem: Resmem) -> None:
    embeddings = np.random.default_rng(0).normal(size=(70_001, 20)).astype(np.float32)
    np.savez_compressed(tmp_path / "big.npz", embeddings=embeddings)
    assert resmem("import", tmp_path / "big.npz", "-o", tmp_path / "big.h5").status == 0
    with open_artifact(tmp_path / "big.h5") as artifact:
        assert np.array_equal(artifact.read("embeddings"), embeddings)


def test_none_leaves_an_array_out(tmp_path: Path, resmem: Resmem) -> None:
    np.savez(tmp_path / "a.npz", embeddings=np.ones((4, 2)), scores=np.ones(4), ids=np.arange(4))
    refused = resmem("import", "a.npz", "-o", "a.h5", cwd=tmp_path)
    assert refused.status == 65
    options = ["--logits", "none", "--ids", "none", "-o", "a.h5"]
    assert resmem("import", "a.npz", *options, cwd=tmp_path).status == 0
    with open_artifact(tmp_path / "a.h5") as artifact:
        assert list(artifact.shapes) == ["embeddings"]
