"""Embeddings and logits of a network's forward pass."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.models.checkpoint import Network
from resmem_cli.models.extra import torch
from resmem_cli.models.hooks import HookReader
from resmem_cli.models.inputs import as_inputs
from resmem_cli.models.layers import LayerReader, Site, listed
from resmem_cli.models.torchscript import ScriptReader


class EmbeddingCapture:
    """Runs batches through a network and reads one layer's activations beside the logits.

    Parameters
    ----------
    network : Network
        From `load_network`.
    layer : str, optional
        ``name`` for a layer's output or ``name:input`` for its input, where the name is the one
        `torch.nn.Module.named_modules` gives; of several calls in one pass the last counts. Without it,
        the input of the linear layer that makes the logits, found on the first batch: the last
        `torch.nn.Linear` whose output is the network's output, or else the last one called. In a
        TorchScript network only linear layers can be named (see `ScriptReader`).

    Raises
    ------
    DataError
        If the network has no such layer, or it can't be read.
    """

    def __init__(self, network: Network, *, layer: str | None = None) -> None:
        self._reader = _reader(network.module)
        self._site = None if layer is None else self._named_site(layer)

    @property
    def layer_name(self) -> str | None:
        """The layer that is read, such as ``head:input``; None before the first batch finds it."""
        return None if self._site is None else str(self._site)

    def run(
        self, batch: NDArray[Any], *, first_row: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run one batch.

        Parameters
        ----------
        batch : array of shape (b, ...)
            Floats, fed as float32, or integer token ids, fed as int64.
        first_row : int
            The row of the whole array that the batch begins at, for messages.

        Returns
        -------
        embeddings : float32 array of shape (b, d)
        logits : float32 array of shape (b, C)

        Raises
        ------
        DataError
            If the inputs are of a type or shape the network does not take, the embedding is not one
            vector a row, the network gives no logits, or a row of either is not finite.
        ResourceError
            If memory runs out.
        """
        inputs = as_inputs(batch)
        with torch.inference_mode():
            site = self._site or self._find_head(inputs)
            embeddings, logits = self._read(inputs, site)
            self._site = site
            return (
                _as_rows(embeddings, len(batch), first_row, f"embedding at layer '{site}'"),
                _as_rows(logits, len(batch), first_row, "logits"),
            )

    def _named_site(self, layer: str) -> Site:
        site = Site.parse(layer)
        if not self._reader.has(site.layer):
            names = [name for name in self._reader.names if name]
            near = difflib.get_close_matches(site.layer, names, n=4, cutoff=0.5)
            raise DataError(
                "the network has no such layer",
                field="--layer",
                found=site.layer,
                remedy=f"it has {listed(near or names)}",
            )
        self._reader.check(site)
        return site

    def _find_head(self, inputs: torch.Tensor) -> Site:
        calls = self._reader.linear_calls(inputs)
        logits = _logits(calls.output)
        order = range(len(calls.layers) - 1, -1, -1)
        last = next((i for i in order if _is_same(calls.outputs[i], logits)), order[0])
        head = calls.layers[last]
        return Site(head, of_input=True, call=calls.layers[:last].count(head))

    def _read(self, inputs: torch.Tensor, site: Site) -> tuple[torch.Tensor, torch.Tensor]:
        found = self._reader.activations(inputs, site)
        n_calls = len(found.kept)
        if not -n_calls <= site.call < n_calls:
            raise DataError(
                f"the network calls this layer {n_calls} times on inputs of shape {tuple(inputs.shape)}",
                field=f"layer '{site.layer}'",
                expected=f"at least {max(site.call + 1, 1)}",
            )
        embeddings = found.kept[site.call]
        if embeddings is None:
            raise DataError("has no tensor there", field=f"layer '{site}'", remedy="give another --layer")
        return embeddings, _logits(found.output)


def _reader(module: torch.nn.Module) -> LayerReader:
    return ScriptReader(module) if isinstance(module, torch.jit.ScriptModule) else HookReader(module)


def _logits(output: object) -> torch.Tensor:
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
            found=found.dtype if isinstance(found, torch.Tensor) else type(output).__name__,
        )
    return found


def _is_same(output: object, logits: torch.Tensor) -> bool:
    if not isinstance(output, torch.Tensor) or output.shape != logits.shape:
        return False
    # The logits may be the layer's output after work in place, or a copy of it in another precision.
    return output.data_ptr() == logits.data_ptr() or torch.equal(output.to(logits.dtype), logits)


def _as_rows(tensor: torch.Tensor, n_rows: int, first_row: int, what: str) -> NDArray[np.float32]:
    if tensor.ndim != 2 or tensor.shape[0] != n_rows:
        raise DataError(
            f"{what}: only one vector per row is supported now",
            expected=f"shape ({n_rows}, any)",
            found=tuple(tensor.shape),
            remedy="give a --layer after pooling" if what != "logits" else None,
        )
    rows: NDArray[np.float32] = tensor.to(torch.float32).contiguous().numpy()
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise DataError(f"{what}: row {first_row + int(finite.argmin())} is not finite")
    return rows
