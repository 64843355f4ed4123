"""Weights of a checkpoint: found inside their wrappings and fitted into a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def fit_weights(
    network: torch.nn.Module, weights: Mapping[str, Any], path: Path, *, strict: bool = True
) -> tuple[str, ...]:
    """Copy the weights into the network.

    The names are read in the way that makes most of them the network's own: as they are; without what
    wrappers of the network in training put before them (``module.``, ``_orig_mod.``, ``model.``, nested
    at will) or between them (``_orig_mod.``); or as those of one part of the network, such as a language
    model's body saved alone. A name that is missing because it shares its tensor with a present one
    (tied weights, stored once in safetensors) is not missing.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place.
    weights : mapping of str to tensor
        From `find_weights`.
    path : pathlib.Path
        The checkpoint, for messages.
    strict : bool
        Whether the network must take every weight and need no other. If not, what does not fit is left
        out, and what is missing stays as the network was made.

    Returns
    -------
    tuple of str
        What was left out or is missing, one line for each way of not fitting: how many, and the first few.

    Raises
    ------
    DataError
        If `strict` and anything does not fit, or if nothing fits at all: the first few are listed.
    """
    wanted = network.state_dict()
    named = _renamed(weights, wanted, [name for name, _ in network.named_children()])
    given = {**named, **_tied(wanted, named)}
    ignored = _ignored(network)
    misshapen = {name for name, tensor in wanted.items() if _has_other_shape(tensor, given.get(name))}
    kinds = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted and not ignored(name)],
        "of another shape": [
            f"{name} {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in wanted
            if name in misshapen
        ],
        "different where the network has one": _untied(wanted, given),
    }
    fitting = {name: given[name] for name in wanted if name in given and name not in misshapen}
    problems = [f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds.items() if names]
    if problems and (strict or not fitting):
        raise DataError(
            "its weights do not fit the network: " + "; ".join(problems),
            file=path,
            remedy="check --arch and its arguments"
            + (", or leave out what does not fit with --non-strict" if fitting else ""),
        )
    try:
        network.load_state_dict(fitting, strict=not problems)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"its weights do not fit the network: {reason(error)}", file=path) from error
    return tuple(f"weights {problem}" for problem in problems)


def _renamed(
    weights: Mapping[str, Any], wanted: Mapping[str, Any], parts: Sequence[str]
) -> Mapping[str, Any]:
    # Where two readings explain as much, the first counts: the user's own names are the ones to show.
    return max(_readings(weights, parts), key=lambda names: len(names.keys() & wanted.keys()))


def _readings(weights: Mapping[str, Any], parts: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    yield weights
    for part in parts:
        yield {f"{part}.{name}": value for name, value in weights.items()}
    stripped: Mapping[str, Any] | None = weights
    while stripped is not None:
        yield stripped
        if compiled := _renamed_by(stripped, lambda name: name.replace("_orig_mod.", "")):
            yield compiled
        stripped = next(filter(None, (_without_prefix(stripped, prefix) for prefix in _PREFIXES)), None)


def _without_prefix(weights: Mapping[str, Any], prefix: str) -> Mapping[str, Any] | None:
    return _renamed_by(weights, lambda name: name.removeprefix(prefix))


def _renamed_by(weights: Mapping[str, Any], rename: Callable[[str], str]) -> Mapping[str, Any] | None:
    """Rename the weights; None where that changes nothing or makes two names one."""
    renamed = {rename(name): value for name, value in weights.items()}
    return None if renamed.keys() == weights.keys() or len(renamed) < len(weights) else renamed


def _ignored(network: torch.nn.Module) -> Callable[[str], bool]:
    # transformers' networks name the buffers that older checkpoints hold and they no longer need.
    patterns = getattr(network, "_keys_to_ignore_on_load_unexpected", None) or ()
    return lambda name: any(re.search(pattern, name) for pattern in patterns)


def _tied(wanted: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights under the names that the checkpoint lacks for a tensor that it has under another."""
    present = {
        _place(tensor): name for name, tensor in wanted.items() if name in weights and _is_plain(tensor)
    }
    return {
        name: weights[present[_place(tensor)]]
        for name, tensor in wanted.items()
        if name not in weights and _is_plain(tensor) and _place(tensor) in present
    }


def _untied(wanted: Mapping[str, Any], weights: Mapping[str, Any]) -> list[str]:
    """Pairs of names that are one tensor of the network and two different ones of the checkpoint."""
    first: dict[tuple[object, ...], str] = {}
    found = []
    for name, tensor in wanted.items():
        if name in weights and _is_plain(tensor):
            other = first.setdefault(_place(tensor), name)
            if other != name and not _equal(weights[other], weights[name]):
                found.append(f"{other} and {name}")
    return found


def _equal(one: object, other: object) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return False
    return one.shape == other.shape and torch.equal(one, other)


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
