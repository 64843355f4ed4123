"""What an image classifier is trained for: the labels, a teacher's answers, or the sum with a memory."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import UsageError
from resmem_cli.models.extra import torch

functional = torch.nn.functional


class Objective(Protocol):
    """Gives the mean loss of a batch."""

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, *, rows: NDArray[np.int64], inputs: torch.Tensor
    ) -> torch.Tensor:
        """Compute the loss.

        Parameters
        ----------
        logits : (b, C) floats
        labels : (b,) int64
        rows : (b,) int64
            Which of the training images the batch holds.
        inputs : (b, channels, h, w) floats
            What the network was given, cropped and mirrored.
        """


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, rows: NDArray[np.int64], inputs: torch.Tensor
) -> torch.Tensor:
    """Mean of ``−log softmax(f)[y]``: the objective of Yang et al. 2023, section 4.2."""
    return functional.cross_entropy(logits, labels)


class Distillation:
    """A part of the cross-entropy, and for the rest a teacher's answers at a temperature.

    ``(1 − w) · CE(f, y) + w · T² · KL(softmax(teacher/T) ‖ softmax(f/T))``, Hinton et al. 2015; the teacher
    sees the same cropped and mirrored images.

    Parameters
    ----------
    teacher : torch.nn.Module
        Gives logits of the same classes; it is left in evaluation mode, on the device of its parameters.
    temperature : float
        T > 0.
    weight : float
        w in [0, 1].

    Raises
    ------
    UsageError
        If a number is out of range.
    """

    def __init__(self, teacher: torch.nn.Module, *, temperature: float, weight: float = 0.5) -> None:
        if not temperature > 0:
            raise UsageError("temperature out of range", expected="above 0", found=temperature)
        if not 0 <= weight <= 1:
            raise UsageError("weight out of range", expected="0 to 1", found=weight)
        self._teacher = teacher.eval()
        self._temperature = temperature
        self._weight = weight

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, *, rows: NDArray[np.int64], inputs: torch.Tensor
    ) -> torch.Tensor:
        """Compute the loss; see `Objective`."""
        with torch.no_grad():
            answers = functional.log_softmax(self._teacher(inputs) / self._temperature, dim=1)
        own = functional.log_softmax(logits / self._temperature, dim=1)
        apart = functional.kl_div(own, answers, reduction="batchmean", log_target=True)
        on_labels = functional.cross_entropy(logits, labels)
        return (1 - self._weight) * on_labels + self._weight * self._temperature**2 * apart


class SumWithMemory:
    """The cross-entropy of the sum ``softmax(f/T) + r``, where r is what a memory answers for each image.

    The loss of an image is ``−log min(1, p_y + max(r_y, −p_y / 2))`` with ``p = softmax(f/T)``: where the
    sum is right already nothing is left to learn, where memory takes part of it the image weighs less
    than in the plain cross-entropy, and where memory is wrong it weighs at most as much. (A sum can be
    negative, which has no logarithm; so memory takes away at most half of the network's probability.)
    What the paper's section 5 leaves as future work.

    Parameters
    ----------
    temperature : float
        T of the network's probabilities, and of the residuals that r is made of.
    device : str
        Where the network is.
    """

    def __init__(self, *, temperature: float, device: str = "cpu") -> None:
        self._temperature = temperature
        self._device = torch.device(device)
        self._answers: torch.Tensor | None = None

    def refresh(self, answers: NDArray[np.float32] | None) -> None:
        """Have another memory answer from now on.

        Parameters
        ----------
        answers : (n,) float32 or None
            For each training image, what memory adds to the score of its label, ``r_y``; None for no
            memory, and so the plain cross-entropy at T = 1.
        """
        self._answers = None if answers is None else torch.from_numpy(answers).to(self._device)

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, *, rows: NDArray[np.int64], inputs: torch.Tensor
    ) -> torch.Tensor:
        """Compute the loss; see `Objective`."""
        if self._answers is None:
            return functional.cross_entropy(logits, labels)
        shares = functional.softmax(logits / self._temperature, dim=1)
        own = shares.gather(1, labels[:, None])[:, 0]
        added = self._answers[torch.from_numpy(rows).to(self._device)]
        # Where the network is lost, its probability may round to 0.
        score = (own + torch.maximum(added, -own / 2)).clamp(min=torch.finfo(own.dtype).tiny, max=1.0)
        return -score.log().mean()
