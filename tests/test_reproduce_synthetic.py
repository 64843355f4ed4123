"""Synthetic arrays of ImageNet's kind: the same rows in any blocks, right about as often as wished."""

from __future__ import annotations

import numpy as np
import pytest

from resmem_cli.stages.reproduce.synthetic import BASE_ACCURACY, CONFIDENCE, SyntheticNetwork

N = 1500  # more than one chunk


@pytest.fixture(scope="module")
def network() -> SyntheticNetwork:
    return SyntheticNetwork(dimensions=128, classes=20, seed=3)


@pytest.mark.parametrize("step", [1, 997])
def test_the_size_of_blocks_changes_no_bit(step: int, network: SyntheticNetwork) -> None:
    whole = network.read("train", 0, N)
    # One row at a time takes long: those on both sides of where a chunk ends are enough.
    for start in range(1012, 1036, step) if step == 1 else range(0, N, step):
        stop = min(start + step, N)
        part = network.read("train", start, stop)
        for name in ("embeddings", "logits", "labels"):
            assert getattr(part, name).tobytes() == getattr(whole, name)[start:stop].tobytes()


def test_the_same_seed_draws_the_same_rows_and_another_does_not(network: SyntheticNetwork) -> None:
    same, other = (SyntheticNetwork(dimensions=128, classes=20, seed=seed) for seed in (3, 4))
    rows = network.read("train", 0, 50)
    assert same.read("train", 0, 50).logits.tobytes() == rows.logits.tobytes()
    assert not np.array_equal(other.read("train", 0, 50).embeddings, rows.embeddings)


def test_queries_are_no_rows_of_the_memory(network: SyntheticNetwork) -> None:
    train, test = (network.read(split, 0, 200).embeddings for split in ("train", "test"))
    assert not (train[:, None] == test).all(axis=2).any()


def test_the_network_is_right_and_sure_as_often_as_it_was_fitted_to() -> None:
    rows = SyntheticNetwork(dimensions=1280, classes=100, seed=0).read("test", 0, 2048)
    right = rows.logits.argmax(axis=1) == rows.labels
    assert right.mean() == pytest.approx(BASE_ACCURACY, abs=0.03)
    probabilities = np.exp(rows.logits - rows.logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert probabilities.max(axis=1).mean() == pytest.approx(CONFIDENCE, abs=0.03)


def test_embeddings_are_like_those_after_relu6_with_few_axes_carrying_most() -> None:
    embeddings = SyntheticNetwork(dimensions=256, classes=50, seed=0).read("train", 0, 2048).embeddings
    assert embeddings.dtype == np.float32
    assert embeddings.min() == 0
    assert embeddings.max() <= 6
    assert 0.5 < (embeddings == 0).mean() < 0.85
    variances = np.linalg.eigvalsh(np.cov(embeddings.T))[::-1]
    assert variances[:32].sum() > 0.5 * variances.sum()
    assert variances.sum() ** 2 / np.square(variances).sum() < 100
