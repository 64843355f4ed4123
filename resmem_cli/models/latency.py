"""How long a network takes for one image at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.models.checkpoint import load_network
from resmem_cli.models.extra import torch
from resmem_cli.models.inputs import ImagePreprocessing, as_inputs
from resmem_cli.types import ImageLayout

_WARM_UP = 5


def forward_seconds(
    checkpoint: Path,
    images: NDArray[np.uint8],
    *,
    arch: str,
    arch_args: Mapping[str, Any],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> NDArray[np.float64]:
    """Time a network's forward pass on the CPU, with what scales an image, one image at a time.

    Parameters
    ----------
    checkpoint : pathlib.Path
        As `load_network` takes it, with `arch` and `arch_args`.
    images : (n, h, w, channels) uint8
    mean, std : tuple of float
        Of pixels in [0, 1].

    Returns
    -------
    (n,) float64
        Seconds of each image, after a few that are not counted.
    """
    network = load_network(checkpoint, arch=arch, arch_args=arch_args).module
    preprocessing = ImagePreprocessing(mean, std, ImageLayout.NHWC)
    taken = np.empty(len(images))
    with torch.inference_mode():
        for i in (*range(min(_WARM_UP, len(images))), *range(len(images))):
            start = time.perf_counter()
            network(as_inputs(images[i : i + 1], preprocessing))
            taken[i] = time.perf_counter() - start
    return taken
