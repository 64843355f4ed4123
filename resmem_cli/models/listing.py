"""The layers of a network as one batch calls them, for `--list-layers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resmem_cli.models.layers import LayerCall


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a network as one batch calls it.

    Attributes
    ----------
    name, kind : str
        Its name, to give as ``--layer``, and its class.
    shapes : tuple of tuple of int
        The different shapes of its outputs; none where it gives no tensor.
    calls : int
        How often it is called.
    is_default : bool
        Whether the embedding is its input, if no ``--layer`` is given.
    is_logits : bool
        Whether its output, or what ``--logits-layer`` names of it, is the logits.
    """

    name: str
    kind: str
    shapes: tuple[tuple[int, ...], ...]
    calls: int
    is_default: bool
    is_logits: bool


def layer_infos(calls: Sequence[LayerCall], *, default: str | None, logits: str | None) -> list[LayerInfo]:
    """Sum up the calls of one forward pass, in the order of each layer's first.

    Parameters
    ----------
    calls : sequence of LayerCall
        In the order in which they begin.
    default, logits : str or None
        The layers to mark.
    """
    by_layer: dict[str, list[LayerCall]] = {}
    for call in calls:
        by_layer.setdefault(call.layer, []).append(call)
    if len(by_layer) > 1:
        # The network as a whole, which is called nothing.
        by_layer.pop("", None)
    return [
        LayerInfo(
            name=name,
            kind=own[0].kind,
            shapes=tuple(dict.fromkeys(call.shape for call in own if call.shape is not None)),
            calls=len(own),
            is_default=name == default,
            is_logits=name == logits,
        )
        for name, own in by_layer.items()
    ]
