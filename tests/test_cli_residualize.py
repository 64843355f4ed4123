from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import N_TRAIN, C, Pipeline, Resmem, classifier_arrays

from resmem_cli import TopResiduals, compute_residuals, open_artifact


def test_residuals_are_those_of_the_formula(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    done = resmem("residualize", pipeline.train, "-T", "2", "-o", tmp_path / "r.h5", "--json")
    assert done.status == 0
    arrays = classifier_arrays()
    logits, labels = arrays["train_logits"], arrays["train_labels"]
    with open_artifact(tmp_path / "r.h5") as artifact:
        residuals = artifact.read("residuals")
        assert artifact.parameters["temperature"] == 2
        assert np.array_equal(artifact.read("labels"), labels)
    assert np.array_equal(residuals, compute_residuals(logits, labels, temperature=2))
    assert done.result["base_accuracy"] == np.mean(logits.argmax(axis=1) == labels)


@pytest.mark.parametrize("block_rows", [1, 7, N_TRAIN])
@pytest.mark.parametrize("options", [[], ["--top", "3"]])
def test_the_size_of_the_blocks_changes_nothing(
    block_rows: int, options: list[str], tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    files = [tmp_path / "whole.h5", tmp_path / "blocks.h5"]
    assert resmem("residualize", pipeline.train, *options, "-o", files[0]).status == 0
    blocks = ["--block-rows", block_rows]
    assert resmem("residualize", pipeline.train, *options, *blocks, "-o", files[1]).status == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_top_keeps_the_label_and_the_most_probable_others(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    assert resmem("residualize", pipeline.train, "--top", "3", "-o", tmp_path / "r.h5").status == 0
    arrays = classifier_arrays()
    dense = compute_residuals(arrays["train_logits"], arrays["train_labels"])
    with open_artifact(tmp_path / "r.h5") as artifact:
        top = TopResiduals(artifact.read("top/classes"), artifact.read("top/values"), C)
    assert np.array_equal(top.classes[:, 0], arrays["train_labels"])
    largest = np.sort(np.abs(dense), axis=1)[:, -3:]
    assert np.abs(np.sort(np.abs(top.signed_values()), axis=1) - largest).max() < 1e-5


def test_embeddings_without_labels_are_refused(tmp_path: Path, resmem: Resmem) -> None:
    np.savez(tmp_path / "a.npz", embeddings=np.ones((3, 2)), logits=np.eye(3) * 2 - 1)
    done = resmem("residualize", tmp_path / "a.npz")
    assert done.status == 65
    assert "--labels" in done.stderr


def test_top_beyond_the_classes_is_refused(pipeline: Pipeline, resmem: Resmem) -> None:
    done = resmem("residualize", pipeline.train, "--top", "6")
    assert done.status == 2
    assert "1 to 5" in done.stderr


@pytest.mark.parametrize("options", [[], ["--top", "2"]])
def test_ids_and_class_names_go_along(options: list[str], tmp_path: Path, resmem: Resmem) -> None:
    arrays = {
        "embeddings": np.ones((3, 2)),
        "logits": np.eye(3) * 2 - 1,
        "labels": np.arange(3),
        "ids": np.array(["x", "yy", "z"]),
        "class_names": np.array(["ant", "bee", "cat"]),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    assert resmem("residualize", tmp_path / "a.npz", *options, "-o", tmp_path / "r.h5").status == 0
    with open_artifact(tmp_path / "r.h5") as artifact:
        assert list(artifact.read("ids")) == [b"x", b"yy", b"z"]
        assert list(artifact.read("class_names")) == [b"ant", b"bee", b"cat"]
