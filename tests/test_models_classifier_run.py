"""A run put aside and taken up again ends with the same bytes; what it gives is what `embed` gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resmem_cli.artifacts.formats import EMBEDDINGS
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.errors import DataError
from resmem_cli.models.latency import forward_seconds
from resmem_cli.models.training.classifier_run import ClassifierRun
from resmem_cli.models.training.recipes import ImageRecipe
from resmem_cli.stages.embed import embed
from resmem_cli.stages.embedding.config import EmbedConfig, ImageConfig
from resmem_cli.types import ImageLayout

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
LABELS = np.arange(40, dtype=np.int32) % 4
RECIPE = replace(ImageRecipe().scaled_to(3), batch_size=16, peak_learning_rate=0.05)


def make_run(seed: int = 0, **changes: Any) -> ClassifierRun:
    arch_args = {"num_classes": 4} | changes
    return ClassifierRun("cifar-resnet8", arch_args, IMAGES, LABELS, RECIPE, seed=seed, device="cpu")


def test_a_run_taken_up_again_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = make_run()
    reports = [whole.run_epoch() for _ in range(3)]
    aside = make_run()
    aside.run_epoch()
    (tmp_path / "state").write_bytes(aside.state(told=["one"]))
    again = make_run()
    assert again.restore(tmp_path / "state") == {"told": ["one"]}
    assert again.epochs_done == 1
    assert [again.run_epoch() for _ in range(2)] == reports[1:]
    assert again.weights() == whole.weights()


def test_seeds_differ_and_leave_torch_alone() -> None:
    import torch

    before = torch.get_rng_state()
    assert make_run(0).weights() == make_run(0).weights()
    assert make_run(0).weights() != make_run(1).weights()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_state_of_something_else_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "unfinished.pt"
    path.write_bytes(make_run(num_classes=5).state() if content is None else content)
    with pytest.raises(DataError, match=r"unfinished\.pt.*train from the beginning"):
        make_run().restore(path)


def test_outputs_are_those_of_embed(tmp_path: Path) -> None:
    run = make_run()
    run.run_epoch()
    embeddings, logits = run.outputs()
    (tmp_path / "network.safetensors").write_bytes(run.weights())
    np.savez(tmp_path / "images.npz", inputs=IMAGES, labels=LABELS)
    scaling = ImageConfig(run.preprocessing.mean, run.preprocessing.std, ImageLayout.NHWC)
    embed(
        tmp_path / "network.safetensors",
        tmp_path / "images.npz",
        output=tmp_path / "train.h5",
        config=EmbedConfig(arch="cifar-resnet8", arch_args={"num_classes": 4}, images=scaling, device="cpu"),
    )
    with open_artifact(tmp_path / "train.h5", EMBEDDINGS) as file:
        assert np.array_equal(file.read("embeddings"), embeddings)
        assert np.array_equal(file.read("logits"), logits)
    # Looking at the outputs changes nothing of the training.
    undisturbed = make_run()
    undisturbed.run_epoch()
    assert [run.run_epoch() for _ in range(2)] == [undisturbed.run_epoch() for _ in range(2)]
    seconds = forward_seconds(
        tmp_path / "network.safetensors",
        IMAGES[:3],
        arch="cifar-resnet8",
        arch_args={"num_classes": 4},
        mean=scaling.mean,
        std=scaling.std,
    )
    assert seconds.shape == (3,)
    assert (seconds > 0).all()
