"""Training runs and networks as bytes, to be written whole by the caller, and read without running code."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resmem_cli.errors import DataError
from resmem_cli.models.extra import torch


def state_bytes(state: Mapping[str, Any]) -> bytes:
    """Write the state of a run, tensors and plain values, as torch saves them."""
    stream = io.BytesIO()
    torch.save(dict(state), stream)
    return stream.getvalue()


def read_state(path: Path) -> dict[str, Any]:
    """Read what `state_bytes` gave; nothing but tensors and plain values is read.

    Raises
    ------
    DataError
        If the file is damaged or holds anything else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises what its parts do for a damaged file: pickle, zipfile, or its own code.
        raise DataError(
            "an unfinished training run that can't be read",
            file=path,
            found=str(error).partition("\n")[0],
            remedy="remove it, to train from the beginning",
        ) from error
    if not isinstance(state, dict):
        raise DataError("no training run", file=path, remedy="remove it, to train from the beginning")
    return state


def network_bytes(network: torch.nn.Module) -> bytes:
    """Write a network's weights as a safetensors file; tensors that share memory are written once each."""
    from safetensors.torch import save

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    seen: set[int] = set()
    for name, tensor in weights.items():
        # Tied weights are one tensor, which safetensors refuses to write twice.
        if tensor.data_ptr() in seen:
            weights[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    return bytes(save(weights))
