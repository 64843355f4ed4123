"""Weights of a checkpoint: found inside their wrappings and fitted, all of them, into a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resmem_cli.errors import DataError
from resmem_cli.models.extra import torch
from resmem_cli.models.torchfile import reason

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_LISTED = 4


def find_weights(saved: object, path: Path) -> dict[str, Any]:
    """Take the weights out of what a checkpoint holds.

    Parameters
    ----------
    saved : object
        A state dict, a network, or a mapping with one of them under ``state_dict``,
        ``model_state_dict`` or ``model``, at any depth.
    path : pathlib.Path
        The checkpoint, for messages.

    Returns
    -------
    dict of str to tensor
        The state dict; entries that are no tensors (a module's extra state) are kept.

    Raises
    ------
    DataError
        If no weights are found.
    """
    saved = unwrap(saved)
    if isinstance(saved, torch.nn.Module):
        saved = saved.state_dict()
    if not isinstance(saved, Mapping) or not any(isinstance(v, torch.Tensor) for v in saved.values()):
        keys = [str(key) for key in saved] if isinstance(saved, Mapping) else []
        raise DataError(
            "holds no weights",
            file=path,
            expected="a state dict, bare or under " + ", ".join(_WRAPPERS),
            found=_some(keys) if keys else type(saved).__name__,
            remedy="save it with torch.save(network.state_dict(), path)",
        )
    return {str(name): value for name, value in saved.items()}


def unwrap(saved: object) -> object:
    """Open the mappings that training scripts put around a state dict or a network."""
    for _ in range(8):  # a crafted mapping can hold itself
        if not isinstance(saved, Mapping):
            break
        inner = (saved[name] for name in _WRAPPERS if isinstance(saved.get(name), Mapping | torch.nn.Module))
        try:
            saved = next(inner)
        except StopIteration:
            break
    return saved


def fit_weights(network: torch.nn.Module, weights: Mapping[str, Any], path: Path) -> None:
    """Copy the weights into the network, which must take every one of them and need no other.

    A prefix that all names share and the network's own names do not (``module.``, ``_orig_mod.``,
    ``model.``, left by wrappers of the network in training) is dropped. A name that is missing because
    it shares its tensor with a present one (tied weights, stored once in safetensors) is not missing.

    Raises
    ------
    DataError
        If weights are missing, left over or of another shape: the first few of each are listed.
    """
    wanted = network.state_dict()
    weights = _without_prefixes(weights, wanted)
    weights |= _tied(wanted, weights)
    problems = []
    if missing := [name for name in wanted if name not in weights]:
        problems.append(f"{len(missing)} missing: {_some(missing)}")
    if unexpected := [name for name in weights if name not in wanted]:
        problems.append(f"{len(unexpected)} unexpected: {_some(unexpected)}")
    if misshapen := [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if _has_other_shape(tensor, weights.get(name))
    ]:
        problems.append(f"{len(misshapen)} of another shape: {_some(misshapen)}")
    if problems:
        raise DataError(
            "its weights do not fit the network: " + "; ".join(problems),
            file=path,
            remedy="check --arch and its arguments",
        )
    try:
        network.load_state_dict(weights)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"its weights do not fit the network: {reason(error)}", file=path) from error


def _without_prefixes(weights: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    stripped = dict(weights)
    while not stripped.keys() & wanted.keys():
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in stripped)), None)
        if prefix is None:
            # No prefix explains it: the user's own names are the ones to show.
            return dict(weights)
        stripped = {name.removeprefix(prefix): value for name, value in stripped.items()}
    return stripped


def _tied(wanted: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    present = {
        _place(tensor): name for name, tensor in wanted.items() if name in weights and _is_plain(tensor)
    }
    return {
        name: weights[present[_place(tensor)]]
        for name, tensor in wanted.items()
        if name not in weights and _is_plain(tensor) and _place(tensor) in present
    }


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)


def _is_plain(value: object) -> bool:
    # An uninitialised lazy parameter has no shape yet; an empty tensor's address says nothing.
    return isinstance(value, torch.Tensor) and not torch.nn.parameter.is_lazy(value) and value.numel() > 0


def _has_other_shape(tensor: object, weight: object) -> bool:
    if not isinstance(weight, torch.Tensor) or not isinstance(tensor, torch.Tensor):
        return False
    return not torch.nn.parameter.is_lazy(tensor) and tensor.shape != weight.shape


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_LISTED])
    return f"{shown}, ..." if len(names) > _LISTED else shown
