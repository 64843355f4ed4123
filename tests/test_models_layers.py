"""The list of a network's layers, and layers of exported archives."""

from __future__ import annotations

import contextlib
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from resmem_cli.errors import DataError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.capture import EmbeddingCapture, LayerInfo  # noqa: E402
from resmem_cli.models.checkpoint import Network, load_network  # noqa: E402

nn = torch.nn
BATCH = np.arange(12, dtype=np.float32).reshape(2, 6)


def layers(network: Network | nn.Module, batch: NDArray[Any] = BATCH, **options: Any) -> list[LayerInfo]:
    if isinstance(network, nn.Module):
        network = Network(network.eval(), digest="0" * 64, arch="test")
    capture = EmbeddingCapture(network, device="cpu", **options)
    return capture.layers(capture.prepare(batch))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(2, 2)
        self.head = nn.Linear(8, 3)
        self.act = nn.ReLU()
        self.body = nn.Sequential(OrderedDict(first=nn.Linear(6, 8), norm=nn.LayerNorm(8)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.body(self.act(x))))


def test_layers_in_the_order_of_their_first_calls() -> None:
    assert layers(Net()) == [
        LayerInfo("act", "ReLU", ((2, 6), (2, 8)), 2, False, False),
        LayerInfo("body", "Sequential", ((2, 8),), 1, False, False),
        LayerInfo("body.first", "Linear", ((2, 8),), 1, False, False),
        LayerInfo("body.norm", "LayerNorm", ((2, 8),), 1, False, False),
        LayerInfo("head", "Linear", ((2, 3),), 1, True, True),
    ]


def test_named_logits_are_marked_and_the_default_stays() -> None:
    marked = layers(Net(), layer="act", logits_layer="body.first")

    assert [info.name for info in marked if info.is_logits] == ["body.first"]
    assert [info.name for info in marked if info.is_default] == ["body.first"]


def test_a_network_without_linear_layers_has_no_default() -> None:
    listed = layers(nn.Sequential(nn.LayerNorm(6), nn.ReLU()))

    assert [info.name for info in listed] == ["0", "1"]
    assert not any(info.is_default or info.is_logits for info in listed)


def test_a_network_that_is_one_layer_is_listed_without_a_name() -> None:
    assert layers(nn.Linear(6, 3)) == [LayerInfo("", "Linear", ((2, 3),), 1, True, True)]


def test_a_head_that_does_not_make_the_logits_is_only_the_default() -> None:
    class Scaled(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    [head] = [info for info in layers(Scaled()) if info.name == "head"]
    assert (head.is_default, head.is_logits) == (True, False)


def test_an_output_of_no_tensor_has_no_shape() -> None:
    class Words(nn.Module):
        def forward(self, x: torch.Tensor) -> str:
            return "none"

    class Talking(Net):
        def __init__(self) -> None:
            super().__init__()
            self.words = Words()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.words(x)
            return super().forward(x)

    assert layers(Talking())[0] == LayerInfo("words", "Words", (), 1, False, False)


def test_a_layer_whose_failure_the_network_survives_is_left_out() -> None:
    class Surviving(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with contextlib.suppress(RuntimeError):
                self.spare(x)
            return super().forward(x)

    assert layers(Surviving()) == layers(Net())


def test_inputs_that_do_not_fit_are_told() -> None:
    with pytest.raises(DataError, match=r"expected \(b, 6\) floats, as its first layer 'body.first' takes"):
        layers(Net(), BATCH[:, :4])


def test_of_torchscript_the_linear_layers_are_listed(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        # Only for making the file: reading it must not warn.
        warnings.filterwarnings("ignore", r".torch\.jit\.\w+. is deprecated", DeprecationWarning)
        torch.jit.save(torch.jit.script(Net().eval()), tmp_path / "net.pt")
    network = load_network(tmp_path / "net.pt", arch=None, trust_checkpoint=True)

    assert layers(network) == [
        LayerInfo("body.first", "Linear", ((2, 8),), 1, False, False),
        LayerInfo("head", "Linear", ((2, 3),), 1, True, True),
    ]


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Net, Network]:
    torch.manual_seed(0)
    net = Net().eval()
    rows = torch.export.Dim("rows")
    program = torch.export.export(net, (torch.zeros(4, 6),), dynamic_shapes=({0: rows},))
    torch.export.save(program, tmp_path / "net.pt2")
    return net, load_network(tmp_path / "net.pt2", arch=None, trust_checkpoint=True)


@pytest.mark.parametrize(
    ("layer", "named"),
    [(None, "head:input"), ("head:input", "head:input"), ("body", "body"), ("body.norm", "body.norm")],
)
def test_layers_of_an_export_are_read_as_those_of_its_network(
    exported: tuple[Net, Network], layer: str | None, named: str
) -> None:
    net, network = exported
    capture = EmbeddingCapture(network, device="cpu", layer=layer)
    found = capture.run(capture.prepare(BATCH))

    assert capture.layer_name == named
    with torch.inference_mode():
        inputs = torch.from_numpy(BATCH)
        body = net.body(net.act(inputs))
        expected = net.act(body) if named == "head:input" else body
        assert_array_equal(found.embeddings, expected.numpy())
        assert_array_equal(found.logits, net(inputs).numpy())


def test_layers_of_an_export_are_listed_with_the_classes_they_had(exported: tuple[Net, Network]) -> None:
    listed = {info.name: info for info in layers(exported[1])}

    assert listed["head"] == LayerInfo("head", "Linear", ((2, 3),), 1, True, True)
    assert listed["body.norm"].kind == "LayerNorm"


def test_inputs_an_export_does_not_take(exported: tuple[Net, Network]) -> None:
    with pytest.raises(DataError, match=r"fails on torch.float32 inputs of shape \(2, 4\): "):
        layers(exported[1], BATCH[:, :4])
