"""Batches of saved inputs turned into tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from resmem_cli.errors import DataError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.inputs import as_inputs  # noqa: E402


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint16", "int64", ">i4"])
def test_token_ids_stay_integers(dtype: str) -> None:
    inputs = as_inputs(np.array([[100, 7], [3, 3]], dtype=dtype))

    assert inputs.dtype == torch.int64
    assert_array_equal(inputs.numpy(), [[100, 7], [3, 3]])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_are_fed_as_float32(dtype: str) -> None:
    inputs = as_inputs(np.array([[0.5, -2.0]], dtype=dtype))

    assert inputs.dtype == torch.float32
    assert_array_equal(inputs.numpy(), [[0.5, -2.0]])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros((2, 2), np.uint8), "found uint8.*float32, scaled and normalised as in training"),
        (np.zeros((2, 2), bool), "found bool.*float32"),
        (np.zeros((2, 2), complex), "not numbers .*found complex128"),
        (np.array([["a", "b"]]), "not numbers"),
        (np.zeros((0, 2), np.float32), r"no rows \(found shape \(0, 2\)\)"),
        (np.array(3.0), "no rows"),
    ],
)
def test_inputs_that_can_not_be_fed(batch: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_inputs(batch)


def test_the_tensor_is_a_copy_and_in_row_order(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "x.npy", rows)
    read_only = np.load(tmp_path / "x.npy", mmap_mode="r")

    for batch in (rows, rows[:, ::-1], np.asfortranarray(rows), read_only):
        before = batch.copy()
        inputs = as_inputs(batch)
        assert inputs.is_contiguous()
        assert_array_equal(inputs.numpy(), before)
        inputs += 1
        assert_array_equal(batch, before)
