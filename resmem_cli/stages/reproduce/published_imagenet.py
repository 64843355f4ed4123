"""The numbers of the paper's table 2, to be set beside ours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImagenetRow:
    """A row of table 2.

    Attributes
    ----------
    k, sigma, temperature
        The settings of ResMem.
    base_accuracy, accuracy : float
        Of the network alone and with ResMem, shares of 1.
    """

    k: int
    sigma: float
    temperature: float
    base_accuracy: float
    accuracy: float


IMAGENET = {
    "a0.35": ImagenetRow(10, 0.6, 0.4, 0.602, 0.612),
    "a0.5": ImagenetRow(10, 0.6, 0.4, 0.653, 0.661),
    "a0.75": ImagenetRow(10, 0.8, 0.6, 0.696, 0.701),
    "a1.0": ImagenetRow(20, 0.4, 0.4, 0.713, 0.718),
    "a1.3": ImagenetRow(30, 0.4, 0.4, 0.747, 0.751),
}
"""Table 2: MobileNet-V2 of five widths on ImageNet's 50,000 validation images."""

IMAGENET_ROWS, IMAGENET_DIMENSIONS, IMAGENET_CLASSES = 1_281_167, 1280, 1000
"""Training images, entries of an embedding of MobileNet-V2, classes."""

IMAGENET_QUERIES = 50_000
"""Validation images, on which the paper tests."""
