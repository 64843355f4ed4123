"""The network of sample_data, from its weights to its embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("safetensors", reason="needs the torch extra")

from resmem_cli.models.capture import EmbeddingCapture  # noqa: E402
from resmem_cli.models.checkpoint import load_network  # noqa: E402

SAMPLE_DATA = Path(__file__).parents[1] / "sample_data"


@pytest.mark.parametrize("block", [1, 97, 597])
def test_the_sample_network_gives_the_same_predictions_in_any_blocks(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.chdir(SAMPLE_DATA)
    monkeypatch.syspath_prepend(SAMPLE_DATA)
    network = load_network(Path("digits.safetensors"), arch="train_digits:make_network")
    with np.load("digits_test.npz") as digits:
        images, labels = digits["x"], digits["y"]
    capture = EmbeddingCapture(network)

    starts = range(0, len(images), block)
    blocks = [capture.run(capture.prepare(images[start : start + block])) for start in starts]
    embeddings = np.concatenate([found.embeddings for found in blocks])
    logits = np.concatenate([found.logits for found in blocks])

    assert capture.layer_name == "head:input"
    assert embeddings.shape == (597, 16)
    assert np.mean(logits.argmax(axis=1) == labels) == pytest.approx(532 / 597)
    whole = capture.run(capture.prepare(images))
    np.testing.assert_allclose(embeddings, whole.embeddings, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits, whole.logits, rtol=1e-5, atol=1e-5)
