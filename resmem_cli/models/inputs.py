"""Batches of saved inputs as the tensors a network takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError
from resmem_cli.models.extra import torch
from resmem_cli.types import ImageLayout

_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class ImagePreprocessing:
    """How 8-bit images were scaled in training: ``(x / 255 − mean) / std``, channel by channel.

    Parameters
    ----------
    mean, std : tuple of float
        On the scale [0, 1], one for each channel, or one for all; std > 0.
    layout : ImageLayout, optional
        Where the channels are; by default told by the axis of length 1, 3 or 4.

    Raises
    ------
    UsageError
        If a value is out of range, or there are not as many means as standard deviations.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: ImageLayout | None = None

    def __post_init__(self) -> None:
        for flag, values, lowest in (("--mean", self.mean, "from 0"), ("--std", self.std, "above 0")):
            too_low = [value for value in values if not (value >= 0 if lowest == "from 0" else value > 0)]
            too_high = [value for value in values if value > 1]
            if too_low or too_high or not values:
                raise UsageError(
                    f"{flag} out of range",
                    expected=f"values {lowest} to 1, on the scale of x / 255",
                    found=_listed(too_low or too_high or values) or "none",
                    remedy="divide by 255" if too_high and not too_low else None,
                )
        if len(self.mean) != len(self.std) and 1 not in (len(self.mean), len(self.std)):
            raise UsageError(
                "--mean and --std are not for the same channels",
                expected="one value for each channel, or one for all",
                found=f"{len(self.mean)} and {len(self.std)}",
            )


def as_inputs(batch: NDArray[Any], preprocessing: ImagePreprocessing | None = None) -> torch.Tensor:
    """Copy a batch into a tensor: floats as float32, integers (token ids) as int64, 8-bit images scaled.

    Parameters
    ----------
    batch : array of shape (b, ...)
        At least one row. Images of uint8 are ``(b, H, W, C)``, ``(b, C, H, W)``, or ``(b, H, W)`` in gray.
    preprocessing : ImagePreprocessing, optional
        For uint8 only, and needed for it.

    Returns
    -------
    torch.Tensor
        Writable and contiguous; of 8-bit images ``(b, C, H, W)`` float32, the same bits as torch gives
        for ``(x / 255 − mean) / std`` in float32, with the channels where the batch has them in memory.

    Raises
    ------
    DataError
        If the batch has no rows, is of uint8 without `preprocessing`, bool or another type that does not
        say how the network saw its inputs in training, or is of uint8 and no images of as many channels.
    UsageError
        If `preprocessing` is given for another type, or the images' layout can't be told.
    """
    if batch.ndim == 0 or batch.shape[0] == 0:
        raise DataError("inputs have no rows", found=f"shape {batch.shape}")
    if preprocessing is not None:
        return _scaled(batch, preprocessing)
    if batch.dtype == np.uint8 or batch.dtype == np.bool_:
        images = "for 8-bit images give --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 (your own), or --mean 0 --std 1"
        raise DataError(
            "inputs of this type do not tell how the network was fed in training",
            expected="float32, or integer token ids wider than 8 bits",
            found=batch.dtype,
            remedy=f"{images} for plain [0, 1]"
            if batch.dtype == np.uint8
            else "save them as float32, as in training",
        )
    if np.issubdtype(batch.dtype, np.floating):
        dtype: type[np.generic] = np.float32
    elif np.issubdtype(batch.dtype, np.integer):
        dtype = np.int64
    else:
        raise DataError("inputs are not numbers", expected="float32 or integer token ids", found=batch.dtype)
    # A copy, for a network may write into its input.
    return torch.from_numpy(np.array(batch, dtype=dtype, order="C"))


def _scaled(batch: NDArray[Any], preprocessing: ImagePreprocessing) -> torch.Tensor:
    if batch.dtype != np.uint8:
        raise UsageError(
            "--mean and --std are for 8-bit images",
            expected="uint8 inputs",
            found=batch.dtype,
            remedy="leave them out: other inputs are fed as they are",
        )
    images = _channels_first(batch, preprocessing.layout)
    n_channels = images.shape[1]
    mean = _per_channel("--mean", preprocessing.mean, n_channels)
    std = _per_channel("--std", preprocessing.std, n_channels)
    # torch warns of arrays it may not write to, such as mapped ones, though this one is only read.
    pixels = torch.from_numpy(images if images.flags.writeable else images.copy(order="K"))
    # Channels that are last in memory stay there: that costs no reordering, and convolutions are faster.
    scaled = pixels.to(torch.float32)
    # Divisions, for products would differ from a plain loop's last bit.
    return scaled.div_(255).sub_(mean).div_(std)


def _channels_first(batch: NDArray[np.uint8], layout: ImageLayout | None) -> NDArray[np.uint8]:
    if batch.ndim == 3:
        return batch[:, np.newaxis]
    if batch.ndim != 4:
        raise DataError(
            "no images",
            expected="(rows, height, width, channels), (rows, channels, height, width) or gray images",
            found=f"shape {batch.shape}",
        )
    first, last = batch.shape[1] in _CHANNELS, batch.shape[3] in _CHANNELS
    if layout is None and first == last:
        raise UsageError(
            "both the second axis and the last could be the channels"
            if first
            else "no axis of 1, 3 or 4 channels",
            found=f"shape {batch.shape}",
            remedy="say it with --layout nhwc|nchw",
        )
    if layout is None:
        layout = ImageLayout.NCHW if first else ImageLayout.NHWC
    return batch if layout is ImageLayout.NCHW else batch.transpose(0, 3, 1, 2)


def _per_channel(flag: str, values: tuple[float, ...], n_channels: int) -> torch.Tensor:
    if len(values) not in (1, n_channels):
        raise UsageError(
            f"{flag} does not fit the images",
            expected=f"{n_channels} values, one a channel, or one for all",
            found=_listed(values),
        )
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
