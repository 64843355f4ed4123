"""A program that writes to a file while torch restores it."""

from __future__ import annotations

import torch


class Program(torch.nn.Module):
    """Writes to the file it is given the name of."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.file, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.file = state[0]
        self.training = state[1]
        torch.save(torch.ones(1), state[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x
