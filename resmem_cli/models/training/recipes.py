"""How networks are trained: the numbers of a recipe, and its learning rate at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

from resmem_cli.errors import UsageError


@dataclass(frozen=True)
class ImageRecipe:
    """Stochastic gradient descent on randomly cropped and flipped images.

    The defaults are those of Yang et al. 2023 for CIFAR100, section 4.2, and the weight decay and the
    augmentation of He et al. 2015, section 4.2.

    Parameters
    ----------
    epochs : int
        Passes over the training images.
    batch_size : int
        Images a step.
    peak_learning_rate, momentum, weight_decay : float
        Of the gradient descent; the decay is of all parameters.
    warmup_epochs : float
        The learning rate rises linearly from zero to its peak in this time.
    drop_epochs : tuple of float
        After each of these it is multiplied by `drop_factor`.
    crop_padding : int
        Pixels of padding on each side, in the mean colour, before a crop of the old size is taken.
    flips : bool
        Whether an image is mirrored left to right with probability 1/2.

    Raises
    ------
    UsageError
        If a number is out of range.
    """

    epochs: int = 256
    batch_size: int = 128
    peak_learning_rate: float = 0.4
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: float = 15.0
    drop_epochs: tuple[float, ...] = (96.0, 192.0, 224.0)
    drop_factor: float = 0.1
    crop_padding: int = 4
    flips: bool = True

    def __post_init__(self) -> None:
        _check_at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        _check_at_least(0, warmup_epochs=self.warmup_epochs, crop_padding=self.crop_padding)

    def scaled_to(self, epochs: int) -> Self:
        """Make the same recipe for another number of epochs, its warm-up and drops moved in proportion."""
        factor = epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            warmup_epochs=self.warmup_epochs * factor,
            drop_epochs=tuple(epoch * factor for epoch in self.drop_epochs),
        )

    def learning_rate(self, epoch: float) -> float:
        """Give the rate of the step that ends when `epoch` epochs are done, a fraction included."""
        warm = min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0
        n_drops = sum(epoch > drop for drop in self.drop_epochs)
        return self.peak_learning_rate * warm * self.drop_factor**n_drops


@dataclass(frozen=True)
class TokenRecipe:
    """AdamW on random windows of tokens, the learning rate falling along a cosine.

    Parameters
    ----------
    steps : int
        Batches in all.
    batch_size : int
        Windows a step.
    window : int
        Tokens of a window that the network sees; each has the next one as its target.
    peak_learning_rate, betas, weight_decay : float
        Of AdamW; the decay is of matrices only, not of biases and normalisations.
    warmup_steps : int
        The learning rate rises linearly from zero to its peak in this time.
    final_share : float
        What is left of the peak at the last step.
    gradient_norm : float
        The gradient is scaled down to this length where it is longer.

    Raises
    ------
    UsageError
        If a number is out of range.
    """

    steps: int = 2000
    batch_size: int = 16
    window: int = 256
    peak_learning_rate: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    warmup_steps: int = 100
    final_share: float = 0.1
    gradient_norm: float = 1.0

    def __post_init__(self) -> None:
        _check_at_least(1, steps=self.steps, batch_size=self.batch_size, window=self.window)
        _check_at_least(0, warmup_steps=self.warmup_steps)

    def learning_rate(self, step: int) -> float:
        """Give the rate of a step, counted from 1."""
        if step < self.warmup_steps:
            return self.peak_learning_rate * step / self.warmup_steps
        way = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        cosine = (1 + math.cos(math.pi * way)) / 2
        return self.peak_learning_rate * (self.final_share + (1 - self.final_share) * cosine)


def _check_at_least(least: int, **numbers: float) -> None:
    for field, number in numbers.items():
        if number < least:
            raise UsageError("out of range", field=field, expected=f"at least {least}", found=number)
