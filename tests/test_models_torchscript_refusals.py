"""What can't be read of a TorchScript file, and failures inside one."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from resmem_cli.errors import DataError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.capture import EmbeddingCapture  # noqa: E402
from resmem_cli.models.checkpoint import Network, load_network  # noqa: E402

nn = torch.nn
on_cpu = partial(EmbeddingCapture, device="cpu")
INPUTS = np.arange(12, dtype=np.float32).reshape(2, 6)


def run(
    capture: EmbeddingCapture, batch: NDArray[Any], *, first_row: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    found = capture.run(capture.prepare(batch), first_row=first_row)
    assert found.logits is not None
    assert found.top is None
    return found.embeddings, found.logits


def make_net() -> nn.Module:
    body = nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.ReLU())
    return nn.Sequential(OrderedDict(body=body, head=nn.Linear(8, 3)))


def from_file(net: nn.Module, folder: Path) -> Network:
    with warnings.catch_warnings():
        # Only for making the file: reading it must not warn.
        warnings.filterwarnings("ignore", r".torch\.jit\.\w+. is deprecated", DeprecationWarning)
        torch.jit.save(torch.jit.script(net), folder / "net.pt")
    return load_network(folder / "net.pt", arch=None, trust_checkpoint=True)


@pytest.mark.parametrize("layer", ["body", "body.1:input", "body.2", "", ":input"])
def test_only_linear_layers_can_be_named(tmp_path: Path, layer: str) -> None:
    network = from_file(make_net(), tmp_path)

    with pytest.raises(DataError, match="--layer: only Linear layers can be named in a TorchScript.*--arch"):
        on_cpu(network, layer=layer)


@pytest.mark.parametrize(("layer", "offered"), [("haed", "head"), ("zzz:input", "body, body.0, body.1")])
def test_an_unknown_layer_offers_the_nearest_names(tmp_path: Path, layer: str, offered: str) -> None:
    network = from_file(make_net(), tmp_path)

    with pytest.raises(DataError, match=rf"--layer: .*no such layer .*it has {offered}"):
        on_cpu(network, layer=layer)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.twin = nn.Linear(4, 5)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(x)[:, 0])


TOKENS = np.array([[0, 4], [3, 1]])


def test_a_head_tied_to_an_embedding_is_told_from_it(tmp_path: Path) -> None:
    net = Tied()
    network = from_file(net, tmp_path)
    capture = on_cpu(network)

    embeddings, _ = run(capture, TOKENS)

    assert capture.layer_name == "head:input"
    assert_array_equal(embeddings, net.embedding.weight.detach()[[0, 3]].numpy())
    with pytest.raises(DataError, match="only Linear layers can be named"):
        on_cpu(network, layer="embedding")


def test_linear_layers_of_one_weight_can_not_be_told_apart(tmp_path: Path) -> None:
    net = Tied()
    net.twin.weight = net.head.weight
    network = from_file(net, tmp_path)

    with pytest.raises(DataError, match=r"share one weight .*found twin, head"):
        on_cpu(network, layer="head")


def test_a_layer_that_is_not_called(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'twin': the network calls this layer 0 times"):
        run(on_cpu(from_file(Tied(), tmp_path), layer="twin"), TOKENS)


def test_a_network_without_linear_layers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"runs no linear layer.*--arch"):
        run(on_cpu(from_file(nn.LayerNorm(6), tmp_path)), INPUTS)


class Checking(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.size(0) != 7, "seven rows"
        return x


@pytest.mark.parametrize(
    ("net", "batch", "message"),
    [
        (make_net(), np.zeros((3, 5), np.float32), r"shape \(3, 5\): RuntimeError: mat1 and mat2 shapes"),
        (
            Tied(),
            np.array([[0, 5]]),
            r"outside the network's vocabulary \(expected integer ids in 0\.\.4, found 5",
        ),
        (
            make_net(),
            np.zeros((3, 6), np.int64),
            r"int64 inputs.*expected \(b, 6\) floats, as its first layer takes",
        ),
        (
            Tied(),
            np.zeros((3, 6), np.float32),
            r"float32 inputs.*expected integer ids in 0\.\.4, as its first",
        ),
        (
            Checking(),
            np.zeros((7, 6), np.float32),
            r"shape \(7, 6\): RuntimeError: AssertionError: seven rows",
        ),
    ],
)
def test_a_failure_inside_tells_its_own_reason(
    tmp_path: Path, net: nn.Module, batch: NDArray[Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        run(on_cpu(from_file(net, tmp_path)), batch)


def test_the_executors_setting_is_put_back(tmp_path: Path) -> None:
    before = torch._C._get_graph_executor_optimize()
    capture = on_cpu(from_file(make_net(), tmp_path))
    with pytest.raises(DataError):
        run(capture, np.zeros((3, 5), np.float32))

    assert torch._C._get_graph_executor_optimize() == before is True


def test_a_compiled_part_of_a_plain_network_can_not_be_read(tmp_path: Path) -> None:
    part = from_file(make_net(), tmp_path).module
    net = nn.Sequential(part, nn.Linear(3, 2)).eval()
    network = Network(net, digest="0" * 64, arch="test")

    with pytest.raises(DataError, match=r"'0\.head': is a TorchScript part of the network"):
        on_cpu(network, layer="0.head")
    assert_array_equal(run(on_cpu(network), INPUTS)[0], part(torch.from_numpy(INPUTS)).detach().numpy())
