"""Images made worse in ways that tests of robustness use: noise, blur, lost contrast, at five strengths."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError
from resmem_cli.types import row_blocks

STRENGTHS = 5
_BLOCK_ROWS = 512


class Corruption(StrEnum):
    """What is done to an image."""

    NOISE = "noise"
    """Gaussian noise is added to each value of each pixel."""

    BLUR = "blur"
    """A Gaussian filter is laid over height and width."""

    CONTRAST = "contrast"
    """Each channel's values move towards their mean over the image."""


# The numbers of Hendrycks & Dietterich 2019 for 32 x 32 images, on the scale [0, 1] and in pixels.
_AMOUNTS = {
    Corruption.NOISE: (0.04, 0.06, 0.08, 0.09, 0.10),
    Corruption.BLUR: (0.4, 0.6, 0.7, 0.8, 1.0),
    Corruption.CONTRAST: (0.75, 0.5, 0.4, 0.3, 0.15),
}


def corrupted(
    images: NDArray[np.uint8], kind: Corruption, strength: int, *, seed: int = 0
) -> NDArray[np.uint8]:
    """Corrupt images.

    Parameters
    ----------
    images : (n, height, width, channels) uint8
    kind : Corruption
    strength : int
        1 to 5.
    seed : int
        Of noise. An image's noise depends on the seed and its place among `images` alone.

    Returns
    -------
    (n, height, width, channels) uint8
        Rounded, and clipped to 0 to 255.

    Raises
    ------
    UsageError
        If the strength is out of range.
    DataError
        If these are no images.
    """
    if not 1 <= strength <= STRENGTHS:
        raise UsageError("strength out of range", expected=f"1 to {STRENGTHS}", found=strength)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(
            "no images",
            expected="uint8 of shape (n, height, width, channels)",
            found=f"{images.dtype} of shape {images.shape}",
        )
    amount = _AMOUNTS[kind][strength - 1]
    result = np.empty_like(images)
    generator = np.random.default_rng([seed, strength])
    for block in row_blocks(len(images), _BLOCK_ROWS):
        pixels = images[block].astype(np.float32) / 255
        if kind is Corruption.NOISE:
            pixels += generator.standard_normal(pixels.shape, dtype=np.float32) * np.float32(amount)
        elif kind is Corruption.BLUR:
            from scipy.ndimage import gaussian_filter

            pixels = gaussian_filter(pixels, sigma=(0, amount, amount, 0))
        else:
            means = pixels.mean(axis=(1, 2), keepdims=True)
            pixels = (pixels - means) * np.float32(amount) + means
        result[block] = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return result
