"""Class means and residuals of logits: by hand, and in any blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resmem_cli.logit_space import ClassMeans, compute_logit_residuals

LOGITS = np.array([[1, 3], [5, 7], [2, 2]], np.float32)
LABELS = np.array([1, 1, 0])


def means_of(logits: np.ndarray, labels: np.ndarray, *, n_classes: int, step: int) -> np.ndarray:
    means = ClassMeans(n_classes)
    for start in range(0, len(logits), step):
        means.update(logits[start : start + step], labels[start : start + step])
    return means.result()


def test_means_and_residuals_by_hand() -> None:
    means = means_of(LOGITS, LABELS, n_classes=2, step=3)
    assert means.tolist() == [[2, 2], [3, 5]]
    residuals = compute_logit_residuals(LOGITS, LABELS, means)
    assert residuals.dtype == np.float32
    assert residuals.tolist() == [[2, 2], [-2, -2], [0, 0]]


def test_a_class_without_rows_has_means_of_0() -> None:
    logits = np.array([[1, 2, 3], [3, 2, 1]], np.float32)
    means = means_of(logits, np.array([2, 0]), n_classes=3, step=1)
    assert means.tolist() == [[3, 2, 1], [0, 0, 0], [1, 2, 3]]


def test_before_any_row_all_means_are_0() -> None:
    assert not ClassMeans(3).result().any()


def test_residuals_of_a_class_sum_to_0() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 5)).astype(np.float32), rng.integers(5, size=200)
    residuals = compute_logit_residuals(logits, labels, means_of(logits, labels, n_classes=5, step=200))
    for c in range(5):
        assert np.abs(residuals[labels == c].sum(axis=0, dtype=np.float64)).max() < 1e-5


@given(seed=st.integers(0, 10_000), step=st.integers(1, 90), scale=st.floats(1e-3, 1e6))
@settings(max_examples=40, deadline=None)
def test_blocks_change_no_bit_of_the_means(seed: int, step: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=scale, size=(90, 7)).astype(np.float32)
    labels = rng.integers(6, size=90)
    whole = means_of(logits, labels, n_classes=7, step=90)
    assert means_of(logits, labels, n_classes=7, step=step).tobytes() == whole.tobytes()
    wide = logits.astype(np.float64)
    expected = np.array(
        [wide[labels == c].mean(axis=0) if (labels == c).any() else np.zeros(7) for c in range(7)]
    )
    assert np.allclose(whole, expected, rtol=1e-12, atol=1e-12 * scale)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrow_logits_are_summed_in_float64(dtype: type) -> None:
    logits = np.full((4096, 1), 1.0, dtype)
    logits[0] = 2048
    means = means_of(logits, np.zeros(4096, np.int64), n_classes=1, step=4096)
    assert means[0, 0] == (2048 + 4095) / 4096
