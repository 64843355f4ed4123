"""Which layer is read when none is named: the head's input, or in language the last block's MLP's input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from resmem_cli.errors import DataError
from resmem_cli.models.extra import torch
from resmem_cli.models.layers import LayerReader, Site, listed

MLP_NAMES = frozenset({"mlp", "feed_forward", "ffn", "ff", "fc1", "block_sparse_moe", "moe"})
"""The last part of an MLP's name in the usual transformers; ``fc1`` where it has no module of its own."""


@dataclass(frozen=True)
class Head:
    """The linear layer whose input is the embedding, and whether its output is the logits."""

    site: Site
    makes_logits: bool


def find_head(reader: LayerReader, inputs: torch.Tensor, *, logits_site: Site | None = None) -> Head:
    """Find the last linear layer that makes the logits, or else the last one called.

    Parameters
    ----------
    reader : LayerReader
        Of the network.
    inputs : (b, ...)
        One batch.
    logits_site : Site, optional
        Where the logits are, if not in the network's output.

    Raises
    ------
    DataError
        If the network fails, calls no linear layer or gives no logits.
    """
    calls = reader.linear_calls(inputs.clone())
    if logits_site is None:
        logits: torch.Tensor | None = logits_of(calls.output)
    else:
        logits = reader.read(inputs.clone(), [logits_site])[0][0].tensor
    order = range(len(calls.layers) - 1, -1, -1)
    makers = (i for i in order if logits is not None and _is_same(calls.outputs[i], logits))
    maker = next(makers, None)
    last = order[0] if maker is None else maker
    name = calls.layers[last]
    return Head(Site(name, of_input=True, call=calls.layers[:last].count(name)), maker is not None)


def find_last_mlp(reader: LayerReader, inputs: torch.Tensor) -> Site:
    """Find the input of the MLP called last, the last block's representation after its LayerNorm.

    It is the key of Yang et al. 2023 in language. An MLP is known by its name (`MLP_NAMES`); one inside
    another is a part of it.

    Raises
    ------
    DataError
        If the network fails, or has no layer of such a name.
    """
    names = [call.layer for call in reader.calls(inputs.clone())]
    mlps = {name for name in names if name.rpartition(".")[2] in MLP_NAMES}
    outer = [name for name in names if name in mlps and not any(name.startswith(f"{mlp}.") for mlp in mlps)]
    if not outer:
        raise DataError(
            "no layer's name tells the last block's MLP, whose input is the key of a token",
            expected=f"a name that ends in {', '.join(sorted(MLP_NAMES))}",
            remedy=f"give --layer NAME:input; the last layers called are "
            f"{listed(list(dict.fromkeys(name for name in reversed(names) if name)))}",
        )
    return Site(outer[-1], of_input=True)


def logits_layer(reader: LayerReader, inputs: torch.Tensor) -> str | None:
    """Tell which linear layer's output is the logits; None if there is none, or no logits."""
    try:
        head = find_head(reader, inputs)
    except DataError:
        return None
    return head.site.layer if head.makes_logits else None


def logits_of(output: object) -> torch.Tensor:
    """Take the logits out of what a network returned.

    Raises
    ------
    DataError
        If it is no float tensor, and holds none first in a tuple or as ``logits``.
    """
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif isinstance(output, torch.Tensor):
        found = output
    else:
        # A named tuple may hold the loss first.
        found = getattr(output, "logits", None)
        if found is None and isinstance(output, tuple) and output:
            found = output[0]
    if not isinstance(found, torch.Tensor) or not found.is_floating_point():
        raise DataError(
            "the network gives no logits",
            expected="a float tensor, first in a tuple, or under 'logits'",
            found=found.dtype if isinstance(found, torch.Tensor) else _described(output),
            remedy="name the layer that makes them: --logits-layer",
        )
    return found


def _described(output: object) -> str:
    kind = type(output).__name__
    return f"{kind} with {', '.join(map(str, output))}" if isinstance(output, Mapping) and output else kind


def _is_same(output: object, logits: torch.Tensor) -> bool:
    if not isinstance(output, torch.Tensor) or output.shape != logits.shape:
        return False
    # The logits may be the layer's output after work in place, or a copy of it in another precision.
    return output.data_ptr() == logits.data_ptr() or torch.equal(output.to(logits.dtype), logits)
