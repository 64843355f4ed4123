"""Arrays exported with torch.save (.pt, .pth), as numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.models.extra import torch
from resmem_cli.models.torchfile import TorchFileKind, read_torch_file, torch_file_kind

_DEEPEST = 32


def load_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Open every dense tensor of a file that `torch.save` wrote.

    Parameters
    ----------
    path : pathlib.Path
        A tensor, or mappings, lists and tuples of tensors, nested at will.

    Returns
    -------
    dict of str to numpy.ndarray
        In the file's order. The key joins the names and positions that lead to the tensor with ``/``;
        a bare tensor has the key ``""``. The arrays share the tensors' memory, which for a zip-format
        file is mapped from disk; bfloat16 and the 8-bit floats, unknown to numpy, are widened to float32
        in memory. Values that are no dense tensor are left out.

    Raises
    ------
    MissingInputError
        If the file can't be opened.
    DataError
        If it is damaged, would run code when read, is a program instead of arrays, or holds no dense
        tensor.
    """
    kind = torch_file_kind(path)
    if kind in (TorchFileKind.TORCHSCRIPT, TorchFileKind.EXPORT):
        raise DataError(
            f"is a network written by {kind.writer}, not an array file",
            file=path,
            remedy="save the arrays with torch.save, or run the network with `resmem embed`",
        )
    arrays: dict[str, NDArray[Any]] = {}
    for key, tensor in _tensors(read_torch_file(path), (), path):
        if key in arrays:
            raise DataError("two tensors have the same name", file=path, field=key)
        arrays[key] = _as_numpy(tensor)
    if not arrays:
        raise DataError(
            "holds no dense tensor", file=path, remedy="save tensors: torch.save({'name': tensor}, path)"
        )
    return arrays


def _tensors(value: object, names: tuple[str, ...], path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    # A crafted list can hold itself.
    if len(names) > _DEEPEST:
        raise DataError(f"is nested more than {_DEEPEST} deep", file=path)
    if isinstance(value, torch.Tensor):
        if _is_dense(value):
            yield "/".join(names), value
    elif isinstance(value, Mapping):
        for name, child in value.items():
            yield from _tensors(child, (*names, str(name)), path)
    elif isinstance(value, list | tuple):
        for position, child in enumerate(value):
            yield from _tensors(child, (*names, str(position)), path)


def _is_dense(tensor: torch.Tensor) -> bool:
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_nested
    )


def _as_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.is_floating_point() and (tensor.dtype == torch.bfloat16 or tensor.itemsize == 1):
        tensor = tensor.to(torch.float32)
    array: NDArray[Any] = tensor.numpy()
    return array
