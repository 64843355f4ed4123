"""Embeddings and logits of TorchScript files, beside those of the plain network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.types import ComputeType

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.capture import EmbeddingCapture  # noqa: E402
from resmem_cli.models.checkpoint import Network, load_network  # noqa: E402

nn = torch.nn
on_cpu = partial(EmbeddingCapture, device="cpu")
functional = torch.nn.functional
INPUTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


def run(
    capture: EmbeddingCapture, batch: NDArray[Any], *, first_row: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    found = capture.run(capture.prepare(batch), first_row=first_row)
    assert found.logits is not None
    assert found.top is None
    return found.embeddings, found.logits


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.GELU(), nn.ReLU(inplace=True)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def trained(net: nn.Module) -> nn.Module:
    """Move the running statistics of a batch norm from where they start."""
    torch.manual_seed(2)
    with torch.no_grad():
        net.train()(INPUTS * 3 + 1)
    return net.eval()


def script(net: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.script(net)


def trace(net: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.trace(net, INPUTS[:2], check_trace=False, strict=False)


def from_file(
    net: nn.Module, folder: Path, *, make: Callable[[nn.Module], torch.jit.ScriptModule] = script
) -> Network:
    with warnings.catch_warnings():
        # Only for making the file: reading it must not warn.
        warnings.filterwarnings("ignore", r".torch\.jit\.\w+. is deprecated", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.jit.save(make(net), folder / "net.pt")
    return load_network(folder / "net.pt", arch=None, trust_checkpoint=True)


@pytest.mark.parametrize("make", [script, trace])
def test_every_batch_equals_the_plain_network_to_the_bit(
    tmp_path: Path, make: Callable[[nn.Module], torch.jit.ScriptModule]
) -> None:
    net = trained(Net())
    capture = on_cpu(from_file(net, tmp_path, make=make))
    assert capture.layer_name is None

    for rows in (INPUTS[:16], INPUTS[16:32], INPUTS[:16], INPUTS[32:], INPUTS[:16]):
        embeddings, logits = run(capture, rows.numpy())
        assert capture.layer_name == "head:input"
        with torch.inference_mode():
            assert_array_equal(embeddings, net.body(rows).numpy())
            assert_array_equal(logits, net(rows).numpy())


def test_a_network_scripted_in_training_runs_without_dropout(tmp_path: Path) -> None:
    net = trained(Net())
    embeddings, logits = run(on_cpu(from_file(net.train(), tmp_path)), INPUTS.numpy())

    net.eval()
    with torch.inference_mode():
        assert_array_equal(embeddings, net.body(INPUTS).numpy())
        assert_array_equal(logits, net(INPUTS).numpy())


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(6)])
def test_a_network_traced_in_training_is_refused(tmp_path: Path, layer: nn.Module) -> None:
    network = from_file(nn.Sequential(layer, nn.Linear(6, 3)).train(), tmp_path, make=trace)

    with pytest.raises(DataError, match=r"in training only.*found aten\..*eval\(\) before torch\.jit\.trace"):
        run(on_cpu(network), INPUTS.numpy())


def test_batch_norm_without_running_statistics_is_no_sign_of_training(tmp_path: Path) -> None:
    net = nn.Sequential(nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3)).eval()

    run(on_cpu(from_file(net, tmp_path, make=trace)), INPUTS.numpy())


class Output(NamedTuple):
    loss: torch.Tensor
    logits: torch.Tensor


class Pair(Net):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.body(x)
        return self.head(hidden), hidden


class Mapped(Net):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": x.sum(), "logits": self.head(self.body(x))}


class Named(Net):
    def forward(self, x: torch.Tensor) -> Output:
        return Output(x.sum(), self.head(self.body(x)))


class Branching(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = x
        if x.dim() > 1:
            for _ in range(2):
                logits = self.head(self.body(x))
        return logits


class Forked(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.body(x)
        if torch.jit.is_scripting():
            logits = torch.jit.wait(torch.jit.fork(self.head, hidden))
        else:
            logits = self.head(hidden)
        return logits


class LaterLayer(Net):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.head(self.body(x))
        return logits, self.body[0](x)


class CalledAgain(Net):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.head(self.body(x))
        return logits, self.head(self.body(x) + 1)


class LogSoftmax(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.log_softmax(self.head(self.body(x)), dim=1)


@pytest.mark.parametrize(
    "make_net", [Pair, Mapped, Named, Branching, Forked, LaterLayer, CalledAgain, LogSoftmax]
)
def test_the_head_is_found_behind_many_forms_of_network(
    tmp_path: Path, make_net: Callable[[], nn.Module]
) -> None:
    net = trained(make_net())
    capture = on_cpu(from_file(net, tmp_path))

    for _ in range(3):
        embeddings, logits = run(capture, INPUTS.numpy())
        with torch.inference_mode():
            expected = net.head(net.body(INPUTS))
            assert_array_equal(embeddings, net.body(INPUTS).numpy())
        assert capture.layer_name == "head:input"
        if make_net is LogSoftmax:
            expected = expected.log_softmax(dim=1)
        assert_array_equal(logits, expected.numpy())


class AddMm(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.head.bias, self.body(x), self.head.weight.t())


class MatMul(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.matmul(self.body(x), self.head.weight.t()) + self.head.bias


class MmInPlace(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = torch.mm(self.body(x), self.head.weight.t())
        logits += self.head.bias
        return logits


class WithoutBias(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.mm(self.body(x), self.head.weight.t())


@pytest.mark.parametrize("make_net", [AddMm, MatMul, MmInPlace, WithoutBias])
@pytest.mark.parametrize("make", [script, trace])
def test_linear_layers_as_older_versions_recorded_them(
    tmp_path: Path, make_net: Callable[[], nn.Module], make: Callable[[nn.Module], torch.jit.ScriptModule]
) -> None:
    net = trained(make_net())
    network = from_file(net, tmp_path, make=make)
    capture = on_cpu(network)

    embeddings, logits = run(capture, INPUTS.numpy())

    assert capture.layer_name == "head:input"
    with torch.inference_mode():
        assert_array_equal(embeddings, net.body(INPUTS).numpy())
        assert_array_equal(logits, net(INPUTS).numpy())
    assert_array_equal(run(on_cpu(network, layer="head"), INPUTS.numpy())[0], logits)


@pytest.mark.parametrize("make", [script, trace])
@pytest.mark.parametrize("layer", ["head", "head:input", "body.0", "body.0:input"])
def test_a_named_linear_layers_input_and_output(
    tmp_path: Path, layer: str, make: Callable[[nn.Module], torch.jit.ScriptModule]
) -> None:
    net = trained(Net())
    with torch.inference_mode():
        expected = {
            "head": net(INPUTS),
            "head:input": net.body(INPUTS),
            "body.0": net.body[0](INPUTS),
            "body.0:input": INPUTS,
        }[layer]
    capture = on_cpu(from_file(net, tmp_path, make=make), layer=layer)
    assert capture.layer_name == layer

    embeddings, logits = run(capture, INPUTS.numpy())

    assert_array_equal(embeddings, expected.numpy())
    with torch.inference_mode():
        assert_array_equal(logits, net(INPUTS).numpy())


class ScaledInPlace(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)).mul_(0.5)


def test_a_layers_output_is_read_before_work_in_place(tmp_path: Path) -> None:
    net = trained(ScaledInPlace())
    network = from_file(net, tmp_path)

    embeddings, logits = run(on_cpu(network, layer="head"), INPUTS.numpy())

    with torch.inference_mode():
        assert_array_equal(embeddings, net.head(net.body(INPUTS)).numpy())
    assert_array_equal(logits, embeddings / 2)
    found = on_cpu(network)
    run(found, INPUTS.numpy())
    assert found.layer_name == "head:input"


def test_a_network_that_is_one_linear_layer(tmp_path: Path) -> None:
    capture = on_cpu(from_file(nn.Linear(6, 3), tmp_path))

    assert_array_equal(run(capture, INPUTS.numpy())[0], INPUTS.numpy())
    assert capture.layer_name == ":input"


@pytest.mark.parametrize("optimize", ["freeze", "optimize_for_inference"])
def test_linear_layers_of_a_frozen_network_are_numbered(tmp_path: Path, optimize: str) -> None:
    net = trained(Net())
    network = from_file(net, tmp_path, make=lambda net: getattr(torch.jit, optimize)(torch.jit.script(net)))
    capture = on_cpu(network)

    embeddings, logits = run(capture, INPUTS.numpy())

    assert capture.layer_name == "linear[1]:input"
    with torch.inference_mode():
        # Freezing folds the batch norm into the layer before it.
        np.testing.assert_allclose(embeddings, net.body(INPUTS).numpy(), atol=1e-5)
        np.testing.assert_allclose(logits, net(INPUTS).numpy(), atol=1e-5)
    assert_array_equal(run(on_cpu(network, layer="linear[1]"), INPUTS.numpy())[0], logits)
    with pytest.raises(DataError, match=r"'linear\[2\]': the network calls this layer 0 times"):
        run(on_cpu(network, layer="linear[2]"), INPUTS.numpy())


@pytest.mark.parametrize("make", [script, trace])
def test_half_precision_stays_near_float32(
    tmp_path: Path, make: Callable[[nn.Module], torch.jit.ScriptModule]
) -> None:
    net = trained(Net())
    network = from_file(net, tmp_path, make=make)
    exact = run(on_cpu(network), INPUTS.numpy())
    half = run(on_cpu(network, dtype=ComputeType.BFLOAT16), INPUTS.numpy())

    for found, expected in zip(half, exact, strict=True):
        np.testing.assert_allclose(found, expected, atol=0.1)
        assert not np.array_equal(found, expected)


@pytest.mark.parametrize("logits_layer", ["head", "body.0"])
def test_logits_of_a_named_linear_layer(tmp_path: Path, logits_layer: str) -> None:
    net = trained(Net())
    embeddings, logits = run(
        on_cpu(from_file(net, tmp_path), layer="head:input", logits_layer=logits_layer), INPUTS.numpy()
    )

    with torch.inference_mode():
        assert_array_equal(embeddings, net.body(INPUTS).numpy())
        expected = net(INPUTS) if logits_layer == "head" else net.body[0](INPUTS)
        assert_array_equal(logits, expected.numpy())


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mlp, self.head = nn.Embedding(5, 4), nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.mlp(self.embed(ids)))


def test_tokens_of_a_language_model_by_a_named_layer(tmp_path: Path) -> None:
    net = Language().eval()
    network = from_file(net, tmp_path)
    ids, keep = np.array([[0, 4, 2], [3, 1, 1]]), np.array([[0, 1, 1], [1, 0, 0]], np.bool_)
    capture = on_cpu(network, layer="mlp.0:input", tokens=True)
    found = capture.run_tokens(capture.prepare(ids), keep, targets=np.array([0, 1, 2]), top=None)

    with torch.inference_mode():
        assert_array_equal(found.embeddings, net.embed.weight[torch.from_numpy(ids[keep])].numpy())
        assert_array_equal(found.logits, net(torch.from_numpy(ids)).numpy()[keep])
    with pytest.raises(DataError, match=r"give --layer NAME:input; the last layers called are head, mlp.0"):
        on_cpu(network, tokens=True).locate(capture.prepare(ids))
