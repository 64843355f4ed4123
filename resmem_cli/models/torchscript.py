"""Linear layers of a TorchScript network, read from the operations it runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from resmem_cli.errors import DataError
from resmem_cli.models.extra import torch
from resmem_cli.models.failures import (
    Diagnosis,
    convolution_takes,
    embedding_takes,
    forward,
    linear_takes,
)
from resmem_cli.models.layers import Kept, LayerCall, LinearCalls, Site

_ARCH = "give --arch package.module:factory: only the weights of the file are used then"
_UNNAMED = re.compile(r"linear\[\d+\]")

# A weight of shape (n_out, n_in), told by its memory: views and transposes of it are other objects.
_Weight = tuple[int, torch.Size]


class ScriptReader:
    """Reads the linear layers of a scripted or traced network, saved or not.

    A linear layer is an operation ``x @ weight.T + bias``, however it was recorded (``linear``, ``addmm``,
    ``matmul``, ``mm``), and has the name of the module whose ``weight`` it uses. One whose weight belongs
    to no module, as in a frozen network, is ``linear[i]``: the i-th of the forward pass, from 0.
    Layers inside a fused or quantized operation (the fast path of `torch.nn.TransformerEncoderLayer`) are
    not seen.
    """

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        self._module = module
        self._layers = [name for name, _ in module.named_modules()]
        self._linear = _linear_layers(module)

    @property
    def names(self) -> Sequence[str]:
        """Every module of the network."""
        return self._layers

    def has(self, layer: str) -> bool:
        """Whether there is such a module; of ``linear[i]`` only a forward pass can tell."""
        return layer in self._layers or bool(_UNNAMED.fullmatch(layer))

    def check(self, site: Site, option: str) -> None:
        """Raise `DataError` if the module is not a linear layer, or not to be told from another one."""
        if _UNNAMED.fullmatch(site.layer):
            return
        owners = next((names for names in self._linear.values() if site.layer in names), None)
        if owners is None:
            raise DataError(
                "only Linear layers can be named in a TorchScript file",
                field=option,
                found=site.layer,
                remedy=_ARCH,
            )
        if len(owners) > 1:
            raise DataError(
                "these layers share one weight and can't be told apart in a TorchScript file",
                field=option,
                found=", ".join(owners),
                remedy=_ARCH,
            )

    def linear_calls(self, inputs: torch.Tensor) -> LinearCalls:
        """Run the network once and see which linear layers it calls."""
        recorder = _Recorder(self._linear)
        output = self._run(inputs, recorder)
        if not recorder.layers:
            raise DataError(
                "the TorchScript network runs no linear layer, so its embedding can't be told", remedy=_ARCH
            )
        return LinearCalls(recorder.layers, recorder.outputs, output)

    def calls(self, inputs: torch.Tensor) -> list[LayerCall]:
        """Run the network once and see the linear layers it calls; others can't be told."""
        recorder = _Recorder(self._linear)
        self._run(inputs, recorder)
        return [
            LayerCall(layer, "Linear", tuple(output.shape))
            for layer, output in zip(recorder.layers, recorder.outputs, strict=True)
        ]

    def read(self, inputs: torch.Tensor, sites: Sequence[Site]) -> tuple[list[Kept], object]:
        """Run the network once and keep what passes the sites, beside the network's output."""
        kept = [Kept(site) for site in sites]
        return kept, self._run(inputs, _Recorder(self._linear, kept=kept))

    def _run(self, inputs: torch.Tensor, recorder: _Recorder) -> object:
        def run(inputs: torch.Tensor) -> object:
            try:
                return self._module(inputs)
            except Exception as error:
                raise recorder.failure or RuntimeError(_cause(error)) from error

        # The optimising executor rewrites the graph after it has seen the first batches.
        with torch.jit.optimized_execution(False), recorder:  # type: ignore[attr-defined]
            output = forward(run, inputs, module=self._module, diagnose=recorder.diagnose)
        if recorder.in_training:
            raise DataError(
                "the TorchScript network does what is done in training only, though it is in evaluation mode",
                found=recorder.in_training,
                remedy="save it again: call network.eval() before torch.jit.trace(network, inputs)",
            )
        return output


# TorchScript takes no hooks from Python, and its graph shows no values inside branches and loops. A
# dispatch mode sees every operation that its interpreter runs. It is private by its module's name only:
# torch's own operation counters and fake tensors are built on it.
class _Recorder(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the linear operations: all of them and their outputs, or copies of what passes some sites."""

    def __init__(
        self, linear: Mapping[_Weight, Sequence[str]], *, kept: Sequence[Kept] | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[str] = []
        self.outputs: list[torch.Tensor] = []
        self.failure: Exception | None = None
        self.in_training: str | None = None
        self._linear = linear
        self._kept = kept
        self._takes: str | None = None
        self._n_linear = 0
        self._unbiased: tuple[str, torch.Tensor] | None = None

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        operation = func.overloadpacket
        if self._takes is None:
            self._takes = _taken_by(operation, args)
        try:
            output = func(*args, **(kwargs or {}))
        except Exception as error:
            # The interpreter passes on that an operation failed, but not the message.
            self.failure = error
            raise
        if _is_of_training(operation, args):
            self.in_training = str(operation)
        unbiased, self._unbiased = self._unbiased, None
        operands = _operands(operation, args)
        if operands is not None:
            layer = self._name(operands[1])
            self._keep(layer, operands[0], output)
            if operation in (torch.ops.aten.matmul, torch.ops.aten.mm):
                self._unbiased = (layer, output)
        elif unbiased is not None and _adds_bias(operation, args, unbiased[1]):
            self._keep_biased(unbiased[0], output)
        return output

    def _name(self, weight: torch.Tensor) -> str:
        owners = self._linear.get(_weight(weight))
        self._n_linear += 1
        return owners[0] if owners else f"linear[{self._n_linear - 1}]"

    def diagnose(self) -> Diagnosis:
        """Tell what the first operation with weights takes."""
        return Diagnosis(None if self._takes is None else f"{self._takes}, as its first layer takes")

    def _keep(self, layer: str, inputs: torch.Tensor, output: torch.Tensor) -> None:
        if self._kept is None:
            self.layers.append(layer)
            self.outputs.append(output)
        for keeper in self._kept or ():
            if keeper.site.layer == layer:
                keeper.see(inputs if keeper.site.of_input else output)

    def _keep_biased(self, layer: str, output: torch.Tensor) -> None:
        if self._kept is None:
            self.outputs[-1] = output
        for keeper in self._kept or ():
            if keeper.site.layer == layer and not keeper.site.of_input:
                keeper.see_again(output)


def _linear_layers(module: torch.jit.ScriptModule) -> dict[_Weight, list[str]]:
    layers: dict[_Weight, list[str]] = {}
    for name, layer in module.named_modules():
        weight = getattr(layer, "weight", None)
        # An embedding's weight has two dimensions too, and may be tied to the head's.
        is_embedding = "Embedding" in getattr(layer, "original_name", "")
        if isinstance(weight, torch.Tensor) and weight.ndim == 2 and not is_embedding:
            layers.setdefault(_weight(weight), []).append(name)
    return layers


def _weight(tensor: torch.Tensor) -> _Weight:
    return (tensor.data_ptr(), tensor.shape)


def _operands(operation: object, args: tuple[Any, ...]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Take the input and the weight, of shape (n_out, n_in), out of a linear operation's arguments."""
    aten = torch.ops.aten
    if operation is aten.linear:
        return args[0], args[1]
    if operation is aten.addmm:
        return args[1], args[2].t()
    if operation in (aten.matmul, aten.mm) and args[1].ndim == 2:
        return args[0], args[1].t()
    return None


def _adds_bias(operation: object, args: tuple[Any, ...], product: torch.Tensor) -> bool:
    if operation not in (torch.ops.aten.add, torch.ops.aten.add_) or args[0] is not product:
        return False
    return isinstance(args[1], torch.Tensor) and args[1].ndim == 1


def _taken_by(operation: object, args: tuple[Any, ...]) -> str | None:
    """Tell what an operation with weights takes; None of others."""
    aten = torch.ops.aten
    operands = _operands(operation, args)
    if operands is not None:
        return linear_takes(operands[1].shape[1])
    if operation is aten.embedding:
        return embedding_takes(args[0].shape[0])
    if operation in (aten.conv1d, aten.conv2d, aten.conv3d):
        n_groups = args[6] if len(args) > 6 else 1
        return convolution_takes(args[1].shape[1] * n_groups, args[1].ndim - 2)
    if operation in (aten.convolution, aten._convolution):
        return convolution_takes(args[1].shape[1] * args[8], args[1].ndim - 2)
    return None


def _is_of_training(operation: object, args: tuple[Any, ...]) -> bool:
    aten = torch.ops.aten
    if operation in (aten.dropout, aten.dropout_, aten.feature_dropout, aten.alpha_dropout):
        _, probability, training = args
        return bool(training and probability > 0)
    if operation is aten.batch_norm:
        # Without running statistics the batch's own are used in evaluation too.
        running_mean, training = args[3], args[5]
        return bool(training and running_mean is not None)
    return False


def _cause(error: Exception) -> str:
    # Tracebacks of the serialized and the original code come first.
    return str(error).rpartition("\nRuntimeError: ")[2]
