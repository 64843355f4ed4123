"""`torch.export` archives (.pt2): a network's graph, whose constants may be pickled."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resmem_cli.errors import DataError
from resmem_cli.models.extra import torch
from resmem_cli.models.loaders.base import Checkpoint, code_refused, loader
from resmem_cli.models.torchfile import TorchFileKind, reason, torch_file_kind


@loader
class ExportArchive(Checkpoint):
    """An archive of `torch.export.save`, known by its members."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Look at the archive's listing."""
        return path.is_file() and torch_file_kind(path) is TorchFileKind.EXPORT

    def read(self, *, trusted: bool) -> torch.nn.Module:
        """Load the graph if it is trusted, split again into the layers it was exported from.

        The network takes the shapes it was exported for: another batch size only if its
        ``dynamic_shapes`` said so, else torch raises a RuntimeError that tells both sizes.
        """
        if not trusted:
            raise code_refused(
                self.path,
                "is a torch.export archive: its tensors may be pickled, which can run code when it is loaded",
            )
        try:
            with _quiet():
                program = torch.export.load(str(self.path))
                network = torch.export.unflatten(program)
        except MemoryError:
            raise
        except Exception as error:
            # The reader of the graph raises what the bytes lead it to: KeyError, AssertionError, zip errors.
            raise DataError(
                f"is not a readable torch.export archive: {reason(error)}",
                file=self.path,
                remedy="save it again with torch.export.save in this version of torch",
            ) from error
        if training := _training_op(program.graph):
            raise DataError(
                "was exported in training mode: its forward pass is not that of evaluation",
                file=self.path,
                found=training,
                remedy="call network.eval() before torch.export.export",
            )
        _restore_linear_layers(network)
        return network


def _training_op(graph: torch.fx.Graph) -> str | None:
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        for position, argument in enumerate(node.target._schema.arguments):
            if argument.name in ("train", "training"):
                given = node.args[position : position + 1] or (node.kwargs.get(argument.name, False),)
                if given[0] is True:
                    return str(node.target)
    return None


def _restore_linear_layers(network: torch.nn.Module) -> None:
    """Make layers that are one linear map into `torch.nn.Linear` again, by which a head is recognised."""
    found = [(name, linear) for name, part in network.named_modules() if (linear := _as_linear(part))]
    for name, linear in found:
        parent, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, linear)


def _as_linear(part: torch.nn.Module) -> torch.nn.Linear | None:
    from torch.export.unflatten import InterpreterModule  # `torch.export.unflatten` itself is a function

    if not isinstance(part, InterpreterModule):
        return None
    inputs = [node for node in part.graph.nodes if node.op == "placeholder"]
    calls = [node for node in part.graph.nodes if node.op == "call_function"]
    if len(inputs) != 1 or len(calls) != 1 or calls[0].target is not torch.ops.aten.linear.default:
        return None
    result = next(node for node in part.graph.nodes if node.op == "output").args[0]
    takes, *weights = calls[0].args
    if takes is not inputs[0] or result is not calls[0] or any(node.op != "get_attr" for node in weights):
        return None
    weight, *bias = (part.get_parameter(node.target) for node in weights)
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bool(bias), device="meta")
    linear.weight = weight
    if bias:
        linear.bias = bias[0]
    return linear


@contextmanager
def _quiet() -> Iterator[None]:
    # torch logs a traceback before it raises, and warns of its own use of its own deprecated classes.
    log = logging.getLogger("torch.export")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
