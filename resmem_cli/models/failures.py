"""What a network's own failure on its inputs is told as: a wrong shape, type or id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from resmem_cli.errors import DataError
from resmem_cli.models.devices import is_out_of_memory
from resmem_cli.models.extra import torch
from resmem_cli.models.torchfile import reason

_AXES = ("length", "height, width", "depth, height, width")
_DEVICE_ASSERT = "device-side assert"


@dataclass(frozen=True)
class Diagnosis:
    """What a second look at a failed forward pass found.

    Attributes
    ----------
    expected : str or None
        What the first layer with parameters takes.
    where : str or None
        The layer that failed, with what it takes if that is another one.
    """

    expected: str | None = None
    where: str | None = None


def forward(
    network: Callable[[torch.Tensor], object],
    inputs: torch.Tensor,
    *,
    module: torch.nn.Module,
    diagnose: Callable[[], Diagnosis],
) -> object:
    """Run a network, turning whatever it raises into `DataError`, but for a lack of memory.

    Parameters
    ----------
    network : callable
        Runs the forward pass of `module`.
    inputs : (b, ...)
        Its one argument.
    diagnose : callable
        Finds out more, after a failure.

    Raises
    ------
    DataError
        If the network fails, with what its first layer takes.
    """
    try:
        return network(inputs)
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        # The user's own code: a wrong shape or an id outside the vocabulary can raise anything.
        raise _told(error, inputs, module, diagnose) from error


def _told(
    error: BaseException, inputs: torch.Tensor, module: torch.nn.Module, diagnose: Callable[[], Diagnosis]
) -> DataError:
    problem = f"the network fails on {inputs.dtype} inputs of shape {tuple(inputs.shape)}: {reason(error)}"
    if _DEVICE_ASSERT in str(error):
        # The device answers nothing more in this process.
        return DataError(
            problem,
            remedy="mostly an id outside a table, of the vocabulary or of the positions; "
            "--device cpu tells which",
        )
    found = diagnose()
    remedy = "check the shape and type of the saved inputs"
    half = _half_type(module)
    if half is not None:
        remedy += f"; or the network does not compute in {half}: try --dtype float32"
    return DataError(problem + (found.where or ""), expected=found.expected, remedy=remedy)


def _half_type(module: torch.nn.Module) -> str | None:
    types = {parameter.dtype for parameter in module.parameters()}
    half = next((dtype for dtype in (torch.float16, torch.bfloat16) if dtype in types), None)
    return None if half is None else str(half).removeprefix("torch.")


def diagnosis(first: tuple[str, str | None] | None, failed: tuple[str, str | None] | None) -> Diagnosis:
    """Put in words what was seen.

    Parameters
    ----------
    first, failed : (name, what it takes) or None
        The first layer with parameters that was called, and the innermost one that did not return.
    """
    expected = where = None
    if first is not None and first[1] is not None:
        expected = f"{first[1]}, as its first layer '{first[0]}' takes"
    if failed is not None and failed[0]:
        where = f", in layer '{failed[0]}'"
        if failed[1] is not None and failed != first:
            where += f", which takes {failed[1]}"
    return Diagnosis(expected, where)


def taken_by(layer: torch.nn.Module) -> str | None:
    """Tell what inputs a layer of a common class takes; None for others."""
    nn = torch.nn
    if isinstance(layer, nn.Linear):
        return linear_takes(layer.in_features)
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return convolution_takes(layer.in_channels, len(layer.kernel_size))
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        return embedding_takes(layer.num_embeddings)
    if isinstance(layer, nn.BatchNorm1d):
        return linear_takes(layer.num_features)
    if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d)):
        return convolution_takes(layer.num_features, 2 + isinstance(layer, nn.BatchNorm3d))
    if isinstance(layer, nn.LayerNorm):
        return f"(b, ..., {', '.join(map(str, layer.normalized_shape))}) floats"
    if isinstance(layer, nn.RNNBase):
        axes = "b, length" if layer.batch_first else "length, b"
        return f"({axes}, {layer.input_size}) floats"
    return None


def linear_takes(n: int) -> str:
    """Tell the inputs of a linear layer of `n` features."""
    return f"(b, {n}) floats"


def convolution_takes(n: int, n_axes: int) -> str:
    """Tell the inputs of a convolution of `n` channels over `n_axes` spatial axes, 1 to 3."""
    return f"(b, {n}, {_AXES[n_axes - 1]}) floats"


def embedding_takes(n: int) -> str:
    """Tell the inputs of a table of `n` rows."""
    return f"integer ids in 0..{n - 1}"
