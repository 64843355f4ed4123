"""Embeddings and logits of a network's forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError
from resmem_cli.models.checkpoint import Network
from resmem_cli.models.default_layers import find_head, find_last_mlp, logits_layer, logits_of
from resmem_cli.models.devices import choose_device, make_deterministic, move_network, telling_batch_memory
from resmem_cli.models.extra import torch
from resmem_cli.models.hooks import HookReader
from resmem_cli.models.inputs import ImagePreprocessing, as_inputs
from resmem_cli.models.layers import LayerReader, Site, named_site, tensor_of
from resmem_cli.models.listing import LayerInfo, layer_infos
from resmem_cli.models.pooling import pooled
from resmem_cli.models.results import (
    Activations,
    float_rows,
    kept_logits,
    one_row_a_token,
    one_row_each,
    tokens_at,
)
from resmem_cli.models.torchscript import ScriptReader
from resmem_cli.models.vocabulary import check_ids, vocabulary_size
from resmem_cli.types import ComputeType, Pooling

__all__ = ["Activations", "EmbeddingCapture", "LayerInfo"]

_FEW_ROWS = 4
"""Rows that the default layer is looked for with: every linear layer's output is held then."""


class EmbeddingCapture:
    """Runs batches through a network and reads one layer's activations beside the logits.

    Parameters
    ----------
    network : Network
        From `load_network`; its module is moved to the device and the type.
    layer : str, optional
        ``name`` for a layer's output or ``name:input`` for its input, where the name is the one
        `torch.nn.Module.named_modules` gives; of several calls in one pass the last counts. Without it,
        `resmem_cli.models.default_layers` says which, found on the first batch. In a TorchScript network
        only linear layers can be named (see `ScriptReader`).
    logits_layer : str, optional
        Likewise, where the logits are read; without it they are the network's output: a tensor, the first
        of a tuple, or what a mapping or an object holds as ``logits``.
    pool : Pooling, optional
        How tokens or spatial axes of the embedding become one vector; see `pooled`.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; see `choose_device`. On CUDA torch is set to
        compute deterministically, for the whole process.
    dtype : ComputeType
        What weights and float inputs are cast to.
    tokens : bool
        Whether every token of the inputs is one example, as in a language model (`run_tokens`).

    Raises
    ------
    UsageError
        If there is no such device, or `pool` is given with `tokens`.
    DataError
        If the network has no such layer, or it can't be read.
    ResourceError
        If the network does not fit the device's memory.
    """

    def __init__(
        self,
        network: Network,
        *,
        layer: str | None = None,
        logits_layer: str | None = None,
        pool: Pooling | None = None,
        device: str = "auto",
        dtype: ComputeType = ComputeType.FLOAT32,
        tokens: bool = False,
    ) -> None:
        if tokens and pool is not None:
            raise UsageError("tokens have one embedding each, and are not pooled", field="--pool", found=pool)
        self._device = choose_device(device)
        make_deterministic(self._device)
        self._dtype: torch.dtype = getattr(torch, dtype.value)
        self._module = move_network(network.module, self._device, self._dtype)
        self._reader = _reader(self._module)
        self._site = None if layer is None else named_site(self._reader, layer, "--layer")
        self._logits_site = (
            None if logits_layer is None else named_site(self._reader, logits_layer, "--logits-layer")
        )
        self._pool = pool
        self._tokens = tokens
        self._n_ids: int | None = None
        self._ids_looked_for = False
        self._takes_channels_last: bool | None = None

    @property
    def layer_name(self) -> str | None:
        """The layer that is read, such as ``head:input``; None before the first batch finds it."""
        return None if self._site is None else str(self._site)

    @property
    def device_name(self) -> str:
        """The device that the network runs on: ``cpu``, ``cuda:0`` or ``mps``."""
        return str(self._device)

    def prepare(self, batch: NDArray[Any], preprocessing: ImagePreprocessing | None = None) -> torch.Tensor:
        """Make a batch of saved inputs into a tensor on the host; another thread may do it.

        Parameters
        ----------
        batch : (b, ...)
            Floats, integer ids, or images of uint8.
        preprocessing : ImagePreprocessing, optional
            What images are scaled with.

        Raises
        ------
        DataError, UsageError
            As `as_inputs`.
        ResourceError
            If memory runs out.
        """
        with telling_batch_memory(torch.device("cpu"), batch.shape):
            inputs = as_inputs(batch, preprocessing)
            # Cast here, or the copy to the device would be cast on the way, and waited for.
            inputs = inputs.to(self._dtype) if inputs.is_floating_point() else inputs
            return inputs.pin_memory() if self._device.type == "cuda" else inputs

    def locate(self, inputs: torch.Tensor) -> None:
        """Find the default layer with one batch, if it is to be found and was not yet.

        Parameters
        ----------
        inputs : (b, ...)
            From `prepare`; a few rows are enough.

        Raises
        ------
        DataError, ResourceError
            As `run`, and if the network has no such layer.
        """
        with self._running(inputs) as moved:
            self._located(moved)

    def run(
        self,
        inputs: torch.Tensor,
        *,
        first_row: int = 0,
        top: int | None = None,
        labels: NDArray[Any] | None = None,
    ) -> Activations:
        """Run one batch whose rows are the examples.

        Parameters
        ----------
        inputs : (b, ...)
            From `prepare`.
        first_row : int
            The row of the whole array that the batch begins at, for messages.
        top : int, optional
            Keep so many of each row's logits, the largest, in place of all.
        labels : (b,) integers, optional
            The classes, checked against the network's; with `top` their logits are kept too.

        Returns
        -------
        Activations
            Of b rows.

        Raises
        ------
        DataError
            If the inputs are of a type or shape the network does not take, the embedding is not one
            vector a row and not pooled, the network gives no logits, or a row of either is not finite.
        UsageError
            If the pooling does not fit the embedding, or `top` is larger than the classes.
        ResourceError
            If memory runs out.
        """
        n_rows = len(inputs)
        with self._running(inputs) as moved:
            site = self._located(moved)
            embedding, logits = self._read(moved, site)
            what = f"embedding at layer '{site}'"
            vectors = pooled(embedding, self._pool, n_rows=n_rows, what=what)
            scores = one_row_each(logits, n_rows)
            embeddings = float_rows(vectors, first_row=first_row, what=what)
            kept = kept_logits(
                scores.__getitem__,
                labels,
                n_rows=n_rows,
                n_classes=scores.shape[1],
                top=top,
                first_row=first_row,
            )
        return Activations(embeddings, *kept)

    def run_tokens(
        self,
        inputs: torch.Tensor,
        keep: NDArray[np.bool_],
        *,
        targets: NDArray[Any],
        top: int | None,
        first_row: int = 0,
    ) -> Activations:
        """Run one batch of windows whose tokens are the examples.

        Parameters
        ----------
        inputs : (b, L) integers
            Token ids, from `prepare`.
        keep : (b, L) bool
            The r tokens wanted; rows come in row-major order of it.
        targets : (r,) integers
            The token after each, checked against the vocabulary and, with `top`, its logit kept.
        top : int or None
            Keep so many of each row's logits, the largest, in place of all.
        first_row : int
            The row of the whole artifact that the first token is, for messages.

        Returns
        -------
        Activations
            Of r rows.

        Raises
        ------
        DataError
            As `run`, and if a target is no class of the network.
        UsageError
            If `top` is larger than the vocabulary.
        ResourceError
            If memory runs out.
        """
        with self._running(inputs) as moved:
            site = self._located(moved)
            embedding, logits = self._read(moved, site)
            what = f"embedding at layer '{site}'"
            vectors = one_row_a_token(embedding, keep.shape, what)
            scores = one_row_a_token(logits, keep.shape, "logits")
            wanted = torch.from_numpy(np.flatnonzero(keep)).to(self._device)
            embeddings = float_rows(tokens_at(vectors, wanted), first_row=first_row, what=what)
            kept = kept_logits(
                lambda rows: tokens_at(scores, wanted[rows]),
                targets,
                n_rows=len(wanted),
                n_classes=scores.shape[-1],
                top=top,
                first_row=first_row,
            )
        return Activations(embeddings, *kept)

    def layers(self, inputs: torch.Tensor) -> list[LayerInfo]:
        """List the layers that one batch calls, in the order of their first calls.

        Parameters
        ----------
        inputs : (b, ...)
            From `prepare`; a few rows are enough.

        Raises
        ------
        DataError, ResourceError
            If the network fails on the inputs.
        """
        with self._running(inputs) as moved:
            calls = self._reader.calls(moved.clone())
            default = self._default_layer(moved)
            logits = self._logits_site.layer if self._logits_site else logits_layer(self._reader, moved)
        return layer_infos(calls, default=default, logits=logits)

    @contextmanager
    def _running(self, inputs: torch.Tensor) -> Iterator[torch.Tensor]:
        """Move a batch to the device, and let the network run."""
        with torch.inference_mode(), telling_batch_memory(self._device, inputs.shape):
            is_float = inputs.is_floating_point()
            if not is_float:
                self._check_ids(inputs)
            moved = inputs.to(self._device, self._dtype if is_float else inputs.dtype, non_blocking=True)
            yield moved if moved.is_contiguous() else self._in_memory_order(moved)

    def _in_memory_order(self, images: torch.Tensor) -> torch.Tensor:
        """Leave images as they lie in memory, channels last, if the network takes them so."""
        if self._takes_channels_last is None:
            try:
                self._reader.read(images[:_FEW_ROWS].clone(), [])
                self._takes_channels_last = True
            except DataError:
                # A `view` of what a convolution gave, for one, wants the usual order.
                self._takes_channels_last = False
        return images if self._takes_channels_last else images.contiguous()

    def _check_ids(self, inputs: torch.Tensor) -> None:
        if not self._ids_looked_for:
            zeros = torch.zeros((1, *inputs.shape[1:]), dtype=inputs.dtype, device=self._device)
            self._n_ids = vocabulary_size(self._reader, zeros)
            self._ids_looked_for = True
        if self._n_ids is not None:
            check_ids(inputs, self._n_ids)

    def _located(self, inputs: torch.Tensor) -> Site:
        if self._site is None:
            if len(inputs) > _FEW_ROWS:
                # A network made for one batch size fails on fewer rows.
                with suppress(DataError):
                    self._site = self._default(inputs[:_FEW_ROWS])
            self._site = self._site or self._default(inputs)
        return self._site

    def _default(self, inputs: torch.Tensor) -> Site:
        if self._tokens:
            return find_last_mlp(self._reader, inputs)
        return find_head(self._reader, inputs, logits_site=self._logits_site).site

    def _default_layer(self, inputs: torch.Tensor) -> str | None:
        try:
            return self._default(inputs).layer
        except DataError:
            # The list is what a user needs then.
            return None

    def _read(self, inputs: torch.Tensor, site: Site) -> tuple[torch.Tensor, torch.Tensor]:
        sites = [site] if self._logits_site is None else [site, self._logits_site]
        (kept, *others), output = self._reader.read(inputs, sites)
        embedding = tensor_of(kept, inputs, "--layer")
        if not others:
            return embedding, logits_of(output)
        logits = tensor_of(others[0], inputs, "--logits-layer")
        return embedding, logits_of(logits)


def _reader(module: torch.nn.Module) -> LayerReader:
    return ScriptReader(module) if isinstance(module, torch.jit.ScriptModule) else HookReader(module)
