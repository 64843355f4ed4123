"""What networks are trained for: hand-worked losses, and what their gradients leave alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from resmem_cli.errors import UsageError
from resmem_cli.models.training.objectives import Distillation, SumWithMemory, cross_entropy

LOGITS = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
LABELS = torch.tensor([0, 1])
ROWS = np.array([0, 1])
INPUTS = torch.zeros(2, 3, 4, 4)


class Teacher(torch.nn.Module):
    """Says 3 to 1 for the first class, whatever it sees."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[math.log(3.0), 0.0]]).expand(len(images), 2)


def plain() -> float:
    return -(math.log(0.75) + math.log(0.5)) / 2


def test_the_cross_entropy_is_the_mean_over_the_batch() -> None:
    assert cross_entropy(LOGITS, LABELS, rows=ROWS, inputs=INPUTS).item() == pytest.approx(plain())


def test_a_teacher_without_weight_leaves_the_cross_entropy() -> None:
    objective = Distillation(Teacher(), temperature=4.0, weight=0.0)
    assert objective(LOGITS, LABELS, rows=ROWS, inputs=INPUTS).item() == pytest.approx(plain())


def test_distillation_is_the_divergence_times_the_squared_temperature() -> None:
    # At T = 1 the first row agrees with the teacher; the second says 1/2 where the teacher says 3/4.
    apart = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    objective = Distillation(Teacher(), temperature=1.0, weight=1.0)
    assert objective(LOGITS, LABELS, rows=ROWS, inputs=INPUTS).item() == pytest.approx(apart / 2, rel=1e-5)
    # At T = 2 the teacher says sqrt(3) to 1.
    share = math.sqrt(3) / (1 + math.sqrt(3))
    apart = share * math.log(share / 0.5) + (1 - share) * math.log((1 - share) / 0.5)
    objective = Distillation(Teacher(), temperature=2.0, weight=1.0)
    found = objective(LOGITS[1:], LABELS[1:], rows=ROWS[1:], inputs=INPUTS[1:]).item()
    assert found == pytest.approx(4 * apart, rel=1e-5)


def test_no_memory_is_the_plain_cross_entropy() -> None:
    objective = SumWithMemory(temperature=2.0)
    assert objective(LOGITS, LABELS, rows=ROWS, inputs=INPUTS).item() == pytest.approx(plain())
    objective.refresh(np.zeros(2, np.float32))
    objective.refresh(None)
    assert objective(LOGITS, LABELS, rows=ROWS, inputs=INPUTS).item() == pytest.approx(plain())


@pytest.mark.parametrize(
    ("added", "score"),
    [(0.0, 0.75), (0.1, 0.85), (0.25, 1.0), (0.9, 1.0), (-0.25, 0.5), (-0.375, 0.375), (-0.9, 0.375)],
)
def test_memory_adds_to_the_probability_up_to_1_and_takes_at_most_half(added: float, score: float) -> None:
    objective = SumWithMemory(temperature=1.0)
    objective.refresh(np.array([9.0, added], np.float32))
    found = objective(LOGITS[:1], LABELS[:1], rows=np.array([1]), inputs=INPUTS[:1]).item()
    assert found == pytest.approx(-math.log(score), abs=1e-6)


def test_an_image_that_memory_answers_teaches_the_network_nothing() -> None:
    logits = LOGITS.clone().requires_grad_(True)
    objective = SumWithMemory(temperature=1.0)
    objective.refresh(np.array([0.5, -0.9], np.float32))
    objective(logits, LABELS, rows=ROWS, inputs=INPUTS).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[0], torch.zeros(2))
    # Where memory is wrong, the gradient is that of the plain cross-entropy.
    assert torch.allclose(logits.grad[1], torch.tensor([0.25, -0.25]))


def test_a_lost_network_has_a_finite_loss() -> None:
    objective = SumWithMemory(temperature=1.0)
    objective.refresh(np.zeros(2, np.float32))
    loss = objective(torch.tensor([[-1e4, 0.0]]), LABELS[:1], rows=ROWS[:1], inputs=INPUTS[:1])
    assert math.isfinite(loss.item())


@pytest.mark.parametrize("arguments", [{"temperature": 0.0}, {"temperature": 1.0, "weight": 1.5}])
def test_numbers_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="out of range"):
        Distillation(Teacher(), **arguments)
