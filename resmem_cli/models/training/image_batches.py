"""What images go through before a network in training: scaling, random crops and flips."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from resmem_cli.models.extra import torch
from resmem_cli.models.inputs import ImagePreprocessing
from resmem_cli.types import ImageLayout


def preprocessing_of(images: NDArray[np.uint8]) -> ImagePreprocessing:
    """Take mean and standard deviation of every channel of images ``(n, h, w, channels)``.

    They are computed in float64 from the counts of the 256 byte values. A channel of one colour gets the
    standard deviation 1.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(images.shape[3]):
        # numpy would widen the bytes to 64 bits before it counts them.
        counts = torch.bincount(torch.from_numpy(images[..., channel].flatten()), minlength=256)
        share = counts / counts.sum(dtype=torch.float64)
        mean = float(share @ values)
        means.append(mean)
        stds.append(math.sqrt(share @ (values - mean) ** 2) or 1.0)
    return ImagePreprocessing(tuple(means), tuple(stds), ImageLayout.NHWC)


def scaled(images: torch.Tensor, preprocessing: ImagePreprocessing) -> torch.Tensor:
    """Scale uint8 images ``(b, h, w, channels)`` on their device to what `as_inputs` would, to the bit.

    The float32 result has the same shape: the channels stay last.
    """
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=images.device)
        for values in (preprocessing.mean, preprocessing.std)
    )
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)


def augmented(
    images: torch.Tensor, *, crop_padding: int, flips: bool, generator: np.random.Generator
) -> torch.Tensor:
    """Crop each image at random out of its padded self, and mirror it with probability 1/2.

    Parameters
    ----------
    images : float tensor of shape (b, h, w, channels)
        Scaled, so that the padding of zeros has the mean colour.
    crop_padding : int
        Pixels of padding on each side.
    flips : bool
        Whether to mirror left to right at all.
    generator : numpy.random.Generator
        Draws on the CPU, so that a seed means the same on every device.

    Returns
    -------
    tensor of the same shape
    """
    n_images, height, width, channels = images.shape
    tops, lefts = generator.integers(0, 2 * crop_padding, size=(2, n_images, 1), endpoint=True)
    columns = np.broadcast_to(np.arange(width), (n_images, width))
    if flips:
        columns = np.where(generator.random((n_images, 1)) < 0.5, columns, columns[:, ::-1])
    padded_width = width + 2 * crop_padding
    first_pixels = np.arange(n_images).reshape(-1, 1, 1) * (height + 2 * crop_padding) * padded_width
    pixels = (
        first_pixels
        + (tops + np.arange(height))[:, :, np.newaxis] * padded_width
        + (lefts + columns)[:, np.newaxis, :]
    )
    padded = torch.nn.functional.pad(images, (0, 0, *[crop_padding] * 4))
    wanted = torch.from_numpy(pixels.ravel()).to(images.device)
    return padded.view(-1, channels)[wanted].view(images.shape)
