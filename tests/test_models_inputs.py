"""Batches of saved inputs turned into tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from resmem_cli.errors import DataError, UsageError
from resmem_cli.types import ImageLayout

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.inputs import ImagePreprocessing, as_inputs  # noqa: E402


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
        (np.zeros((2, 2), np.uint8), "found uint8.*--mean 0.5,0.5,0.5 .*--mean 0 --std 1 for plain"),
        (np.zeros((2, 2), bool), "found bool.*save them as float32"),
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


MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


def test_one_pixel_by_hand() -> None:
    inputs = as_inputs(
        np.array([[[[255, 0, 51]]]], np.uint8),
        ImagePreprocessing((0.5, 0.25, 0.2), (0.5, 0.25, 0.1), ImageLayout.NHWC),
    )

    assert inputs.shape == (1, 3, 1, 1)
    assert inputs.flatten().tolist() == pytest.approx([1.0, -1.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("n_channels", [1, 3, 4])
def test_images_equal_a_plain_loop_in_either_layout(n_channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 7, n_channels), np.uint8)
    mean, std = (*MEAN, 0.5)[:n_channels], (*STD, 0.5)[:n_channels]
    before = images.copy()
    plain = images.transpose(0, 3, 1, 2).astype(np.float64) / 255
    plain = (plain - np.reshape(mean, (1, -1, 1, 1))) / np.reshape(std, (1, -1, 1, 1))
    looped = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    looped = (looped - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)

    for batch in (images, np.ascontiguousarray(images.transpose(0, 3, 1, 2)), np.asfortranarray(images)):
        inputs = as_inputs(batch, ImagePreprocessing(mean, std))
        assert inputs.dtype == torch.float32
        assert torch.equal(inputs, looped)
        assert np.abs(inputs.numpy() - plain).max() <= 1e-6
        inputs += 1
    assert_array_equal(images, before)


def test_channels_stay_where_they_are_in_memory() -> None:
    images = np.zeros((2, 5, 6, 3), np.uint8)
    plain = ImagePreprocessing((0,), (1,))
    assert as_inputs(images, plain).is_contiguous(memory_format=torch.channels_last)
    assert as_inputs(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), plain).is_contiguous()


def test_gray_images_get_a_channel() -> None:
    inputs = as_inputs(np.full((2, 5, 3), 51, np.uint8), ImagePreprocessing((0,), (1,)))

    assert_array_equal(inputs.numpy(), np.full((2, 1, 5, 3), np.float32(0.2)))


def test_one_value_is_for_all_channels() -> None:
    images = np.arange(2 * 5 * 5 * 3, dtype=np.uint8).reshape(2, 5, 5, 3)

    assert torch.equal(
        as_inputs(images, ImagePreprocessing((0.5,), (0.25,) * 3)),
        as_inputs(images, ImagePreprocessing((0.5,) * 3, (0.25,))),
    )


@pytest.mark.parametrize("shape", [(2, 3, 8, 3), (2, 8, 8, 8)])
def test_a_layout_that_can_not_be_told_is_asked_for(shape: tuple[int, ...]) -> None:
    images = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    with pytest.raises(UsageError, match=r"found shape \(2, .*--layout nhwc\|nchw"):
        as_inputs(images, ImagePreprocessing((0,), (1,)))

    for layout, axes in ((ImageLayout.NHWC, (0, 3, 1, 2)), (ImageLayout.NCHW, (0, 1, 2, 3))):
        inputs = as_inputs(images, ImagePreprocessing((0,), (1,), layout))
        assert_array_equal(inputs.numpy(), images.transpose(axes).astype(np.float32) / 255)


def test_a_mapped_array_of_images_is_taken_without_a_warning(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 8, 8, 3), np.uint8))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")

    assert as_inputs(mapped, ImagePreprocessing((0,), (1,))).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint16", "bool"])
def test_preprocessing_is_for_8_bit_images_only(dtype: str) -> None:
    with pytest.raises(UsageError, match=f"expected uint8 inputs, found {dtype}"):
        as_inputs(np.ones((2, 4, 4, 3), dtype), ImagePreprocessing((0,), (1,)))


@pytest.mark.parametrize("shape", [(2, 12), (2, 1, 3, 4, 4)])
def test_8_bit_arrays_that_are_no_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="no images"):
        as_inputs(np.ones(shape, np.uint8), ImagePreprocessing((0,), (1,)))


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ((125.3, 0.5, 0.5), (0.2,) * 3, "--mean out of range .*found 125.3.*; divide by 255"),
        ((0.5,), (63.0,), "--std out of range .*found 63.*; divide by 255"),
        ((-0.5,), (1,), "--mean out of range .*found -0.5"),
        ((0.5,), (0.0,), "--std out of range .*above 0 .*found 0"),
        ((float("nan"),), (1,), "--mean out of range .*found nan"),
        ((), (1,), "--mean out of range .*found none"),
        ((0.5, 0.5), (0.5, 0.5, 0.5), "not for the same channels .*found 2 and 3"),
    ],
)
def test_means_and_deviations_that_can_not_be(
    mean: tuple[float, ...], std: tuple[float, ...], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        ImagePreprocessing(mean, std)


def test_means_must_fit_the_channels() -> None:
    images = np.ones((2, 8, 5, 3), np.uint8)
    for mean, std, flag in (((0.1, 0.2, 0.3, 0.4), (1,), "--mean"), ((0,), (0.5, 0.6), "--std")):
        with pytest.raises(UsageError, match=f"{flag} does not fit the images .expected 3 values"):
            as_inputs(images, ImagePreprocessing(mean, std))
