"""What a network that fails on its inputs is told as."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resmem_cli.errors import DataError, ResourceError
from resmem_cli.types import ComputeType

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.capture import EmbeddingCapture  # noqa: E402
from resmem_cli.models.checkpoint import Network  # noqa: E402

nn = torch.nn


def failure(net: nn.Module, batch: NDArray[Any], **options: Any) -> str:
    network = Network(net.eval(), digest="0" * 64, arch="test")
    capture = EmbeddingCapture(network, device="cpu", **options)
    with pytest.raises((DataError, ResourceError)) as caught:
        capture.run(capture.prepare(batch))
    return str(caught.value)


class First(nn.Module):
    """A layer behind another that is called before it, though it stands first among the modules."""

    def __init__(self, layer: nn.Module, *, tail: nn.Module | None = None) -> None:
        super().__init__()
        self.tail = tail or nn.Linear(4, 2)
        self.stem = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self.stem(x))


FLOATS = np.zeros((3, 5), np.float32)
IDS = np.zeros((3, 5), np.int64)


@pytest.mark.parametrize(
    ("layer", "batch", "expected"),
    [
        (nn.Linear(64, 4), FLOATS, "(b, 64) floats"),
        (nn.Linear(5, 4), IDS, "(b, 5) floats"),
        (nn.Conv1d(3, 4, 1), np.zeros((2, 5), np.float32), "(b, 3, length) floats"),
        (nn.Conv2d(3, 4, 1), np.zeros((2, 8, 8, 3), np.float32), "(b, 3, height, width) floats"),
        (nn.Conv2d(6, 4, 1, groups=2), FLOATS, "(b, 6, height, width) floats"),
        (nn.Conv3d(2, 4, 1), FLOATS, "(b, 2, depth, height, width) floats"),
        (nn.Embedding(1000, 4), FLOATS, "integer ids in 0..999"),
        (nn.BatchNorm1d(64), FLOATS, "(b, 64) floats"),
        (nn.BatchNorm2d(3), FLOATS, "(b, 3, height, width) floats"),
        (nn.LayerNorm((4, 8)), FLOATS, "(b, ..., 4, 8) floats"),
        (nn.LSTM(8, 4, batch_first=True), FLOATS, "(b, length, 8) floats"),
        (nn.GRU(8, 4), FLOATS, "(length, b, 8) floats"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_inputs_that_do_not_fit_tell_what_the_first_layer_takes(
    layer: nn.Module, batch: NDArray[Any], expected: str
) -> None:
    told = failure(First(layer), batch)

    assert f"fails on torch.{batch.dtype} inputs of shape {batch.shape}: " in told
    assert f"in layer 'stem' (expected {expected}, as its first layer 'stem' takes)" in told


def test_layers_without_parameters_are_not_the_first() -> None:
    net = nn.Sequential(OrderedDict(flatten=nn.Flatten(), norm=nn.LayerNorm(6), head=nn.Linear(6, 2)))

    assert "(expected (b, ..., 6) floats, as its first layer 'norm' takes)" in failure(net, FLOATS)


def test_a_later_layer_that_fails_is_named_too() -> None:
    told = failure(First(nn.Linear(5, 7)), FLOATS)

    assert "in layer 'tail', which takes (b, 4) floats (expected (b, 5) floats, as its first layer" in told


def test_a_first_layer_of_another_class_is_passed_over_in_silence() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    told = failure(First(Own()), FLOATS)

    assert "in layer 'stem'; check the shape and type of the saved inputs" in told
    assert "expected" not in told


@pytest.mark.parametrize("token", [-1, 5])
def test_an_id_outside_the_vocabulary_is_found_before_the_network_runs(token: int) -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 2))

    told = failure(net, np.array([[0, 4], [token, 1]]))

    assert told.startswith(
        f"an id outside the network's vocabulary (expected integer ids in 0..4, found {token})"
    )


def test_an_id_outside_a_later_batch() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 2)).eval()
    capture = EmbeddingCapture(Network(net, digest="0" * 64, arch="test"), device="cpu", layer="1")
    capture.run(capture.prepare(np.array([[0, 4]])))

    with pytest.raises(DataError, match="outside the network's vocabulary"):
        capture.run(capture.prepare(np.array([[7, 4]])))


def test_more_positions_than_the_network_has() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ids, self.places = nn.Embedding(50, 4), nn.Embedding(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.ids(x) + self.places(torch.arange(x.shape[1]))).mean(1)

    told = failure(First(Positions()), IDS)

    assert "in layer 'stem.places', which takes integer ids in 0..3" in told
    assert "(expected integer ids in 0..49, as its first layer 'stem.ids' takes)" in told


def test_a_failure_in_half_precision_offers_float32() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ torch.zeros(5, 4)

    told = failure(nn.Sequential(Fixed(), nn.Linear(4, 2)), FLOATS, dtype=ComputeType.FLOAT16)

    assert "or the network does not compute in float16: try --dtype float32" in told


class Greedy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x) + torch.empty(1 << 45, dtype=torch.float32)[:2]


@pytest.mark.parametrize(
    ("n_rows", "remedy"),
    [
        (256, "try --batch-size 128"),
        (3, "try --batch-size 1"),
        (1, "try --dtype bfloat16, a machine with more"),
    ],
)
def test_running_out_of_memory_tells_the_batch_size_to_try(n_rows: int, remedy: str) -> None:
    told = failure(Greedy(), np.zeros((n_rows, 5), np.float32))

    assert told.startswith(f"not enough memory on cpu for a batch of shape ({n_rows}, 5); {remedy}")


def test_pythons_own_lack_of_memory_is_told_the_same_way() -> None:
    class Hoarder(Greedy):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise MemoryError

    assert "not enough memory on cpu for a batch of shape (3, 5)" in failure(Hoarder(), FLOATS)
