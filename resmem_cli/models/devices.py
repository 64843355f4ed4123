"""The device a network runs on: choosing it, its settings, and running out of its memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from resmem_cli.errors import ResourceError, UsageError
from resmem_cli.models.extra import torch
from resmem_cli.models.torchfile import ALLOCATION_FAILED

_CHOICES = "auto, cpu, cuda, cuda:N or mps"
# CUDA's and MPS's allocators, cuBLAS and cuDNN.
_OUT_OF_MEMORY = (ALLOCATION_FAILED, "out of memory", "_ALLOC_FAILED")


def choose_device(name: str) -> torch.device:
    """Find the device that a name means.

    Parameters
    ----------
    name : str
        ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; ``auto`` is the first there is of CUDA, MPS and the CPU.

    Raises
    ------
    UsageError
        If it is no such name, or this machine has no such device.
    """
    there = _devices()
    if name == "auto":
        return torch.device(there[0])
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise UsageError("not a device", field="--device", expected=_CHOICES, found=name)
    asked = f"cuda:{torch.cuda.current_device()}" if name == "cuda" and "cuda:0" in there else name
    if asked not in there:
        raise UsageError(
            "this machine, or this build of torch, has no such device",
            field="--device",
            expected=" or ".join(there),
            found=name,
        )
    return torch.device(asked)


def make_deterministic(device: torch.device) -> None:
    """Have CUDA give the same bits on every run, and float32 results of float32 precision.

    The settings are torch's, for the whole process. On other devices nothing is changed: they compute so.
    """
    if device.type != "cuda":
        return
    # cuBLAS reads it once, before its first product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Or every new tensor is filled first.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that some device's memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)


@contextmanager
def telling_batch_memory(device: torch.device, shape: Sequence[int]) -> Iterator[None]:
    """Turn a lack of memory for a batch of this shape into a `ResourceError` with the batch size to try."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        _empty_cache(device)
        n_rows = shape[0]
        raise ResourceError(
            f"not enough memory on {device} for a batch of shape {tuple(shape)}",
            remedy=f"try --batch-size {n_rows // 2}" if n_rows > 1 else _smaller(device),
        ) from error


def move_network(module: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """Move a network's weights to a device and its floats to a type, in place.

    Tables that a Hugging Face network computes for itself, as for rotary positions, keep their precision:
    they are no weights, and the network casts what it makes of them.

    Raises
    ------
    ResourceError
        If it does not fit the device's memory.
    """
    kept = _own_tables(module)
    try:
        module.to(device, dtype)
        for owner, name, table in kept:
            setattr(owner, name, table.to(device))
        return module
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        _empty_cache(device)
        raise ResourceError(
            f"not enough memory on {device} for the network", remedy=_smaller(device)
        ) from error


def _own_tables(module: torch.nn.Module) -> list[tuple[torch.nn.Module, str, torch.Tensor]]:
    return [
        (owner, name, table)
        for owner in module.modules()
        if type(owner).__module__.startswith("transformers.")
        for name, table in owner.named_buffers(recurse=False)
        if name in owner._non_persistent_buffers_set and table.is_floating_point()
    ]


def _devices() -> list[str]:
    """List what there is, best first."""
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return found + ["mps"] * torch.backends.mps.is_available() + ["cpu"]


def _smaller(device: torch.device) -> str:
    other = "a machine with more memory" if device.type == "cpu" else "--device cpu"
    return f"try --dtype bfloat16, {other}, or smaller inputs or windows"


def _empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
