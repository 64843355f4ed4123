"""Tokens and spatial axes pooled into one vector, beside numpy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from resmem_cli.errors import DataError, UsageError
from resmem_cli.types import Pooling

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.pooling import pooled  # noqa: E402

TOKENS = torch.tensor([[[1.0, 8.0], [2.0, 6.0], [6.0, 1.0]], [[0.0, 0.0], [3.0, -3.0], [0.0, 0.0]]])


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (Pooling.MEAN, [[3, 5], [1, -1]]),
        (Pooling.MAX, [[6, 8], [3, 0]]),
        (Pooling.CLS, [[1, 8], [0, 0]]),
        (Pooling.LAST, [[6, 1], [0, 0]]),
        (Pooling.NONE, [[1, 8, 2, 6, 6, 1], [0, 0, 3, -3, 0, 0]]),
    ],
)
def test_hand_worked_tokens(pool: Pooling, expected: object) -> None:
    assert_array_equal(pooled(TOKENS, pool, n_rows=2), expected)


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 5, 4, 2), (3, 5, 1, 2), (3, 5, 2, 3, 4)])
def test_pools_are_those_of_numpy(shape: tuple[int, ...]) -> None:
    activations = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    axes = (1,) if len(shape) == 3 else tuple(range(2, len(shape)))
    given = torch.from_numpy(activations)

    np.testing.assert_allclose(
        pooled(given, Pooling.MEAN, n_rows=3), activations.mean(axis=axes), rtol=1e-5, atol=1e-7
    )
    assert_array_equal(pooled(given, Pooling.MAX, n_rows=3), activations.max(axis=axes))
    assert_array_equal(pooled(given, Pooling.NONE, n_rows=3), activations.reshape(3, -1))


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 1), (3, 5, 1, 1), (3, 5, 1, 1, 1)])
@pytest.mark.parametrize("pool", [None, *Pooling])
def test_one_vector_a_row_is_taken_as_it_is(shape: tuple[int, ...], pool: Pooling | None) -> None:
    activations = torch.arange(15.0).reshape(shape)

    assert_array_equal(pooled(activations, pool, n_rows=3), activations.reshape(3, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_mean_in_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    # The sum, 400,000, is beyond float16, and in bfloat16 adding 100 to 32,768 changes nothing.
    activations = torch.full((2, 4000, 3), 100.0, dtype=dtype)

    found = pooled(activations, Pooling.MEAN, n_rows=2)

    assert found.dtype == torch.float32
    assert_array_equal(found, np.full((2, 3), 100))


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5)])
def test_without_a_pool_the_shape_and_the_choices_are_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError) as caught:
        pooled(torch.zeros(shape), None, n_rows=2, what="embedding at layer 'x'")

    assert str(caught.value).startswith("embedding at layer 'x': more than one vector per row (expected")
    assert f"found {shape}" in str(caught.value)
    assert "--pool mean, max, cls, last, none" in str(caught.value)


@pytest.mark.parametrize("pool", [Pooling.CLS, Pooling.LAST])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4, 5, 6)])
def test_a_spatial_map_has_no_first_or_last_token(pool: Pooling, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=rf"--pool: .*{pool} is a token.*expected mean, max or none"):
        pooled(torch.zeros(shape), pool, n_rows=2)


@pytest.mark.parametrize("shape", [(), (2,), (3, 4), (4, 3, 2)])
@pytest.mark.parametrize("pool", [None, Pooling.NONE, Pooling.MEAN])
def test_another_number_of_rows_is_refused(shape: tuple[int, ...], pool: Pooling | None) -> None:
    with pytest.raises(DataError, match="not one entry per row .*--layer"):
        pooled(torch.zeros(shape), pool, n_rows=2)


def test_six_axes_can_only_be_flattened() -> None:
    activations = torch.zeros(2, 3, 4, 5, 2, 2)

    assert pooled(activations, Pooling.NONE, n_rows=2).shape == (2, 240)
    with pytest.raises(DataError, match=r"a shape that --pool mean does not take"):
        pooled(activations, Pooling.MEAN, n_rows=2)
