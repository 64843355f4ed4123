"""Embeddings and logits read from a network's forward pass."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from resmem_cli.errors import DataError, ResourceError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.capture import EmbeddingCapture  # noqa: E402
from resmem_cli.models.checkpoint import Network  # noqa: E402

nn = torch.nn
BATCH = np.array([[2, 3], [1, -1], [-4, 0]], dtype=np.float32)
# relu(x0, 1 - x1), then the head's (z0 + z1 + 0.5, 2 z1).
HAND_EMBEDDINGS = [[2, 0], [1, 2], [0, 1]]
HAND_LOGITS = [[2.5, 0], [3.5, 4], [1.5, 2]]


def ready(module: nn.Module) -> Network:
    return Network(module.eval(), digest="0" * 64, arch="test")


def hand_network(*, inplace: bool = False) -> nn.Module:
    net = nn.Sequential(
        OrderedDict(first=nn.Linear(2, 2), relu=nn.ReLU(inplace=inplace), head=nn.Linear(2, 2))
    )
    values = {
        "first.weight": [[1.0, 0.0], [0.0, -1.0]],
        "first.bias": [0.0, 1.0],
        "head.weight": [[1.0, 1.0], [0.0, 2.0]],
        "head.bias": [0.5, 0.0],
    }
    net.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    return net


class Custom(nn.Module):
    """The hand network with a forward pass of the test's own."""

    def __init__(self, forward: Callable[[Any, torch.Tensor], object]) -> None:
        super().__init__()
        self.net = hand_network()
        self._forward = forward

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        return self.net.relu(self.net.first(x))

    def forward(self, x: torch.Tensor) -> object:
        return self._forward(self, x)


@pytest.mark.parametrize("inplace", [False, True])
def test_hand_worked_network(inplace: bool) -> None:
    capture = EmbeddingCapture(ready(hand_network(inplace=inplace)))
    assert capture.layer_name is None

    embeddings, logits = capture.run(BATCH)

    assert capture.layer_name == "head:input"
    assert embeddings.dtype == logits.dtype == np.float32
    assert_array_equal(embeddings, HAND_EMBEDDINGS)
    assert_array_equal(logits, HAND_LOGITS)


def test_embedding_is_the_plain_forwards_hidden_layer_to_the_bit() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Dropout(0.5))
    net = nn.Sequential(body, nn.Linear(32, 7)).eval()
    inputs = torch.randn(50, 20)

    embeddings, logits = EmbeddingCapture(ready(net)).run(inputs.numpy())

    with torch.inference_mode():
        assert_array_equal(embeddings, body(inputs).numpy())
        assert_array_equal(logits, net(inputs).numpy())


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("first", [[2, -2], [1, 2], [-4, 1]]),
        ("first:input", BATCH),
        ("relu", HAND_EMBEDDINGS),
        ("relu:input", [[2, -2], [1, 2], [-4, 1]]),
        ("head", HAND_LOGITS),
        ("", HAND_LOGITS),
        (":input", BATCH),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_a_named_layers_input_and_output(layer: str, expected: object, inplace: bool) -> None:
    capture = EmbeddingCapture(ready(hand_network(inplace=inplace)), layer=layer)
    assert capture.layer_name == layer

    embeddings, logits = capture.run(BATCH)

    assert_array_equal(embeddings, expected)
    assert_array_equal(logits, HAND_LOGITS)


Output = namedtuple("Output", ["loss", "logits"])


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.net.head(input=self.hidden(x)),
        lambda self, x: (self.net(x), "attention"),
        lambda self, x: {"loss": torch.zeros(()), "logits": self.net(x)},
        lambda self, x: Output(torch.zeros(()), self.net(x)),
        lambda self, x: self.net(x).double(),
        lambda self, x: (self.net(x), self.net.first(x))[0],
        lambda self, x: (self.net(x), self.net.head(x))[0],
    ],
    ids=["keyword", "tuple", "mapping", "attribute", "other precision", "later layer", "called again"],
)
def test_the_head_is_found_behind_many_forms_of_output(
    forward: Callable[[Any, torch.Tensor], object],
) -> None:
    capture = EmbeddingCapture(ready(Custom(forward)))

    for _ in range(2):
        embeddings, logits = capture.run(BATCH)
        assert capture.layer_name == "net.head:input"
        assert_array_equal(embeddings, HAND_EMBEDDINGS)
        assert_array_equal(logits, HAND_LOGITS)


def test_a_head_scaled_in_place_is_still_the_head() -> None:
    capture = EmbeddingCapture(ready(Custom(lambda self, x: (self.net(x).mul_(0.5), self.net.first(x))[0])))

    embeddings, logits = capture.run(BATCH)

    assert capture.layer_name == "net.head:input"
    assert_array_equal(embeddings, HAND_EMBEDDINGS)
    assert_array_equal(logits, np.array(HAND_LOGITS) / 2)


@pytest.mark.parametrize(
    ("forward", "layer"),
    [
        (lambda self, x: self.net(x).log_softmax(dim=1), "net.head:input"),
        (lambda self, x: self.net(x) * 0.5 + self.net.first(x), "net.first:input"),
    ],
)
def test_where_no_layer_makes_the_output_the_last_linear_called_counts(
    forward: Callable[[Any, torch.Tensor], object], layer: str
) -> None:
    capture = EmbeddingCapture(ready(Custom(forward)))

    embeddings, _ = capture.run(BATCH)

    assert capture.layer_name == layer
    assert_array_equal(embeddings, HAND_EMBEDDINGS if layer == "net.head:input" else BATCH)


def test_of_several_calls_of_a_named_layer_the_last_counts() -> None:
    capture = EmbeddingCapture(
        ready(Custom(lambda self, x: self.net(torch.relu(self.net.first(x))))), layer="net.first:input"
    )

    assert_array_equal(capture.run(BATCH)[0], np.maximum([[2, -2], [1, 2], [-4, 1]], 0))


def test_the_head_called_fewer_times_later_is_refused() -> None:
    def twice_when_many(self: Custom, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 1:
            self.net.head(x)
        return self.net(x)

    capture = EmbeddingCapture(ready(Custom(twice_when_many)))
    capture.run(BATCH)

    with pytest.raises(DataError, match=r"'net\.head': the network calls this layer 1 times.*at least 2"):
        capture.run(BATCH[:1])


def test_hooks_are_gone_after_each_batch() -> None:
    net = hand_network()
    EmbeddingCapture(ready(net)).run(BATCH)
    EmbeddingCapture(ready(net), layer="relu").run(BATCH)

    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("layer", "offered"), [("haed", "head"), ("firts:input", "first"), ("zzz", "first, relu, head")]
)
def test_an_unknown_layer_offers_the_nearest_names(layer: str, offered: str) -> None:
    with pytest.raises(DataError, match=rf"--layer: .*no such layer .*it has {offered}"):
        EmbeddingCapture(ready(hand_network()), layer=layer)


def test_a_network_without_linear_asks_for_a_layer() -> None:
    net = nn.Sequential(OrderedDict(norm=nn.LayerNorm(2), relu=nn.ReLU()))

    with pytest.raises(DataError, match="give --layer; it has norm, relu"):
        EmbeddingCapture(ready(net)).run(BATCH)


def test_a_layer_that_is_not_called() -> None:
    net = hand_network()
    net.first.add_module("spare", nn.Linear(1, 1))

    with pytest.raises(DataError, match=r"'first\.spare': the network calls this layer 0 times"):
        EmbeddingCapture(ready(net), layer="first.spare").run(BATCH)


def test_a_layer_without_tensors() -> None:
    class Words(nn.Module):
        def forward(self, x: torch.Tensor) -> str:
            return "none"

    net = Custom(lambda self, x: (self.words(x), self.net(x))[1])
    net.words = Words()

    with pytest.raises(DataError, match="'words': has no tensor there"):
        EmbeddingCapture(ready(net), layer="words").run(BATCH)


def test_more_than_a_vector_per_row_is_refused_with_the_shape() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 2))
    tokens = np.array([[0, 1, 2], [3, 4, 0]])

    with pytest.raises(DataError, match=r"layer '0': only one vector per row .*found \(2, 3, 4\)"):
        EmbeddingCapture(ready(net), layer="0").run(tokens)
    with pytest.raises(DataError, match=r"logits: only one vector per row .*found \(2, 3, 4\)"):
        EmbeddingCapture(ready(net[0]), layer=":input").run(tokens)


@pytest.mark.parametrize(
    ("forward", "found"),
    [
        (lambda self, x: self.net(x).argmax(dim=1), "torch.int64"),
        (lambda self, x: None, "NoneType"),
        (lambda self, x: {"scores": self.net(x)}, "dict"),
        (lambda self, x: (), "tuple"),
    ],
)
def test_an_output_that_is_no_logits(forward: Callable[[Any, torch.Tensor], object], found: str) -> None:
    with pytest.raises(DataError, match=rf"gives no logits .*found {found}"):
        EmbeddingCapture(ready(Custom(forward)), layer=":input").run(BATCH)


def test_a_wrong_shape_tells_the_shape_and_torchs_first_line() -> None:
    with pytest.raises(
        DataError, match=r"fails on torch.float32 inputs of shape \(3, 5\): .*mat1 and mat2 shapes"
    ):
        EmbeddingCapture(ready(hand_network())).run(np.zeros((3, 5), np.float32))


def test_a_token_outside_the_vocabulary() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 2))

    with pytest.raises(DataError, match=r"int64 inputs of shape \(1, 2\): IndexError"):
        EmbeddingCapture(ready(net)).run(np.array([[0, 5]]))


def test_running_out_of_memory_asks_for_smaller_batches() -> None:
    greedy = Custom(lambda self, x: self.net(torch.empty(1 << 48, 2)))

    with pytest.raises(ResourceError, match=r"not enough memory for a batch of shape \(3, 2\)"):
        EmbeddingCapture(ready(greedy)).run(BATCH)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_not_finite_names_its_row(value: float) -> None:
    batch = BATCH.copy()
    batch[1, 0] = value

    with pytest.raises(DataError, match="embedding at layer 'head:input': row 1001 is not finite"):
        EmbeddingCapture(ready(hand_network())).run(batch, first_row=1000)


def test_logits_that_are_not_finite_name_their_row() -> None:
    batch = BATCH * np.array([[1], [1], [0]])

    with pytest.raises(DataError, match="logits: row 2 is not finite"):
        EmbeddingCapture(ready(Custom(lambda self, x: self.net(x) / x[:, :1]))).run(batch)
