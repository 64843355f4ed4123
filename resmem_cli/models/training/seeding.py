"""Random draws that a training run can repeat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from resmem_cli.models.extra import torch


@contextmanager
def torch_seeded(generator: np.random.Generator, device: torch.device) -> Iterator[None]:
    """Seed torch from `generator` for what a network draws itself, which is what it drops.

    Afterwards torch's generator on the CPU, and on `device` if that is of CUDA, are as they were.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(generator.integers(2**63)))
        yield
