"""How many ids a network's vocabulary has, before ids are fed to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resmem_cli.errors import DataError
from resmem_cli.models.extra import torch
from resmem_cli.models.failures import embedding_takes
from resmem_cli.models.layers import LayerReader


def vocabulary_size(reader: LayerReader, zeros: torch.Tensor) -> int | None:
    """Run zeros through a network and see how long a table they are looked up in.

    An id outside a table ends a CUDA device's use in this process, and MPS reads anything: it has to be
    found before.

    Parameters
    ----------
    reader : LayerReader
        Of the network.
    zeros : (1, ...) int64
        A row like the inputs', on the network's device.

    Returns
    -------
    int or None
        The length of the shortest table that takes the inputs; None if none is seen.
    """
    tables = _Tables(zeros)
    try:
        with tables:
            reader.read(zeros, [])
    except DataError:
        # A network may want other ids, or more rows. The run on the inputs tells whether it fails there.
        return None
    return min(tables.sizes, default=None)


def check_ids(inputs: torch.Tensor, n_ids: int) -> None:
    """Raise `DataError` unless ids (b, ...) are in [0, n_ids)."""
    if inputs.numel() == 0:
        return
    least, largest = (int(value) for value in inputs.aminmax())
    if least < 0 or largest >= n_ids:
        raise DataError(
            "an id outside the network's vocabulary",
            expected=embedding_takes(n_ids),
            found=least if least < 0 else largest,
            remedy="take the tokenizer that the network was trained with",
        )


class _Tables(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the lengths of the tables that a tensor is looked up in."""

    def __init__(self, ids: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []
        self._ids = ids

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.overloadpacket is torch.ops.aten.embedding:
            table, ids = args[:2]
            # A view of the inputs, such as `ids.view(-1, length)`, is another object.
            if ids.data_ptr() == self._ids.data_ptr() and ids.numel() == self._ids.numel():
                self.sizes.append(table.shape[0])
        return func(*args, **(kwargs or {}))
