"""Embeddings and logits read from a network's forward pass."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError
from resmem_cli.types import ComputeType, ImageLayout, Pooling

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.capture import EmbeddingCapture  # noqa: E402
from resmem_cli.models.checkpoint import Network  # noqa: E402
from resmem_cli.models.inputs import ImagePreprocessing  # noqa: E402
from resmem_cli.models.layers import Kept, Site  # noqa: E402

nn = torch.nn
on_cpu = partial(EmbeddingCapture, device="cpu")
BATCH = np.array([[2, 3], [1, -1], [-4, 0]], dtype=np.float32)
# relu(x0, 1 - x1), then the head's (z0 + z1 + 0.5, 2 z1).
HAND_EMBEDDINGS = [[2, 0], [1, 2], [0, 1]]
HAND_LOGITS = [[2.5, 0], [3.5, 4], [1.5, 2]]


def run(
    capture: EmbeddingCapture, batch: NDArray[Any], *, first_row: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    found = capture.run(capture.prepare(batch), first_row=first_row)
    assert found.logits is not None
    assert found.top is None
    return found.embeddings, found.logits


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
    capture = on_cpu(ready(hand_network(inplace=inplace)))
    assert capture.layer_name is None

    embeddings, logits = run(capture, BATCH)

    assert capture.layer_name == "head:input"
    assert embeddings.dtype == logits.dtype == np.float32
    assert_array_equal(embeddings, HAND_EMBEDDINGS)
    assert_array_equal(logits, HAND_LOGITS)


def test_embedding_is_the_plain_forwards_hidden_layer_to_the_bit() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Dropout(0.5))
    net = nn.Sequential(body, nn.Linear(32, 7)).eval()
    inputs = torch.randn(50, 20)

    embeddings, logits = run(on_cpu(ready(net)), inputs.numpy())

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
    capture = on_cpu(ready(hand_network(inplace=inplace)), layer=layer)
    assert capture.layer_name == layer

    embeddings, logits = run(capture, BATCH)

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
    capture = on_cpu(ready(Custom(forward)))

    for _ in range(2):
        embeddings, logits = run(capture, BATCH)
        assert capture.layer_name == "net.head:input"
        assert_array_equal(embeddings, HAND_EMBEDDINGS)
        assert_array_equal(logits, HAND_LOGITS)


def test_a_head_scaled_in_place_is_still_the_head() -> None:
    capture = on_cpu(ready(Custom(lambda self, x: (self.net(x).mul_(0.5), self.net.first(x))[0])))

    embeddings, logits = run(capture, BATCH)

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
    capture = on_cpu(ready(Custom(forward)))

    embeddings, _ = run(capture, BATCH)

    assert capture.layer_name == layer
    assert_array_equal(embeddings, HAND_EMBEDDINGS if layer == "net.head:input" else BATCH)


def test_of_several_calls_of_a_named_layer_the_last_counts() -> None:
    capture = on_cpu(
        ready(Custom(lambda self, x: self.net(torch.relu(self.net.first(x))))), layer="net.first:input"
    )

    assert_array_equal(run(capture, BATCH)[0], np.maximum([[2, -2], [1, 2], [-4, 1]], 0))


def test_the_head_called_fewer_times_later_is_refused() -> None:
    def twice_when_many(self: Custom, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 1:
            self.net.head(x)
        return self.net(x)

    capture = on_cpu(ready(Custom(twice_when_many)))
    run(capture, BATCH)

    with pytest.raises(DataError, match=r"'net\.head': the network calls this layer 1 times.*at least 2"):
        run(capture, BATCH[:1])


def test_no_call_but_the_one_wanted_is_held() -> None:
    kept = Kept(Site("first", of_input=False, call=1))
    tensors = [torch.full((2,), float(i)) for i in range(3)]
    for tensor in tensors:
        kept.see(tensor)

    assert kept.calls == 3
    assert_array_equal(kept.tensor, [1, 1])
    assert kept.tensor.data_ptr() != tensors[1].data_ptr()


@pytest.mark.parametrize("layer", [None, "net.relu"])
def test_a_network_that_writes_into_its_inputs_sees_each_batch_once(layer: str | None) -> None:
    capture = on_cpu(ready(Custom(lambda self, x: self.net(x.mul_(-1)))), layer=layer)

    for _ in range(2):
        assert_array_equal(run(capture, -BATCH)[0], HAND_EMBEDDINGS)


def test_locating_takes_a_few_rows_and_is_not_needed() -> None:
    capture = on_cpu(ready(hand_network()))
    capture.locate(capture.prepare(BATCH[:1]))

    assert capture.layer_name == "head:input"
    assert_array_equal(run(capture, BATCH)[0], HAND_EMBEDDINGS)


def test_a_network_of_one_batch_size_is_located_with_the_whole_batch() -> None:
    def only_six(self: Custom, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.view(6, 2))

    batch = np.concatenate([BATCH, BATCH])
    embeddings, _ = run(on_cpu(ready(Custom(only_six))), batch)

    assert_array_equal(embeddings, HAND_EMBEDDINGS + HAND_EMBEDDINGS)


def test_the_layer_is_looked_for_with_few_rows() -> None:
    seen: list[int] = []

    def counting(self: Custom, x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return self.net(x)

    capture = on_cpu(ready(Custom(counting)))
    for _ in range(2):
        run(capture, np.repeat(BATCH, 5, axis=0))

    assert seen == [4, 15, 15]


@pytest.mark.parametrize(
    ("logits_layer", "expected"),
    [
        ("net.head", HAND_LOGITS),
        ("net.head:input", HAND_EMBEDDINGS),
        ("net.first", [[2, -2], [1, 2], [-4, 1]]),
    ],
)
def test_logits_of_a_named_layer(logits_layer: str, expected: object) -> None:
    network = ready(Custom(lambda self, x: {"scores": self.net(x)}))
    embeddings, logits = run(on_cpu(network, layer="net.relu", logits_layer=logits_layer), BATCH)

    assert_array_equal(embeddings, HAND_EMBEDDINGS)
    assert_array_equal(logits, expected)


def test_the_head_is_the_layer_that_makes_the_named_logits() -> None:
    network = ready(Custom(lambda self, x: (self.net(x).softmax(1), self.net.first(x))[0]))
    capture = on_cpu(network, logits_layer="net.head")

    embeddings, logits = run(capture, BATCH)

    assert capture.layer_name == "net.head:input"
    assert_array_equal(embeddings, HAND_EMBEDDINGS)
    assert_array_equal(logits, HAND_LOGITS)


def test_an_unknown_logits_layer_names_its_option() -> None:
    with pytest.raises(DataError, match=r"--logits-layer: .*no such layer \(found haed\); it has head"):
        on_cpu(ready(hand_network()), logits_layer="haed")


def test_a_mapping_without_logits_tells_its_keys() -> None:
    network = ready(Custom(lambda self, x: {"scores": self.net(x), "hidden": x}))

    with pytest.raises(DataError, match=r"found dict with scores, hidden\); .*--logits-layer"):
        run(on_cpu(network, layer="net.relu"), BATCH)


def test_logits_behind_spatial_axes_of_length_one() -> None:
    network = ready(Custom(lambda self, x: self.net(x)[:, :, None, None]))

    assert_array_equal(run(on_cpu(network, layer="net.relu"), BATCH)[1], HAND_LOGITS)


def test_a_spatial_map_is_pooled() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(x).mean((2, 3)))

    net = Net().eval()
    images = np.random.default_rng(0).normal(size=(5, 3, 6, 7)).astype(np.float32)

    embeddings, _ = run(on_cpu(ready(net), layer="conv", pool=Pooling.MEAN), images)
    default, _ = run(on_cpu(ready(net)), images)

    assert embeddings.shape == (5, 4)
    np.testing.assert_allclose(embeddings, default, rtol=1e-6)
    with pytest.raises(
        DataError, match=r"found \(5, 4, 4, 5\)\); choose how its positions are pooled, --pool"
    ):
        run(on_cpu(ready(net), layer="conv"), images)


def test_the_largest_logits_instead_of_all() -> None:
    capture = on_cpu(ready(hand_network()))
    found = capture.run(capture.prepare(BATCH), top=1, labels=np.array([1, 0, 0], np.uint8))

    assert_array_equal(found.embeddings, HAND_EMBEDDINGS)
    assert found.logits is None
    assert found.top is not None
    assert_array_equal(found.top.classes, [[0], [1], [1]])
    assert_array_equal(found.top.values, [[2.5], [4], [2]])
    assert_array_equal(found.top.label_logit, [0, 3.5, 1.5])
    np.testing.assert_allclose(found.top.logsumexp, np.logaddexp(*np.array(HAND_LOGITS).T), rtol=1e-15)
    assert capture.run(capture.prepare(BATCH), top=2).top.label_logit is None


def test_labels_and_top_beyond_the_classes() -> None:
    capture = on_cpu(ready(hand_network()))
    inputs = capture.prepare(BATCH)

    with pytest.raises(UsageError, match=r"--top: out of range \(expected 1 to 2 .*found 3\)"):
        capture.run(inputs, top=3)
    with pytest.raises(DataError, match=r"label of row 11 out of range \(expected 0 to 1 .*found 2\)"):
        capture.run(inputs, top=1, labels=np.array([0, 2, 1]), first_row=10)


@pytest.mark.parametrize("dtype", [ComputeType.FLOAT16, ComputeType.BFLOAT16])
@pytest.mark.parametrize("layer", [None, "0", "2"])
def test_half_precision_with_batch_norm_stays_near_float32(dtype: ComputeType, layer: str | None) -> None:
    def net() -> nn.Module:
        torch.manual_seed(3)
        body = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*body, nn.LayerNorm(8), nn.Linear(8, 5))

    images = np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32)
    options = {"layer": layer, "pool": Pooling.MEAN}
    exact = run(on_cpu(ready(net()), **options), images)
    half = run(on_cpu(ready(net()), dtype=dtype, **options), images)

    for found, expected in zip(half, exact, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=0.05)
        assert not np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("dtype", "remedy"), [(ComputeType.FLOAT16, "bfloat16 or float32"), (ComputeType.FLOAT32, None)]
)
def test_an_overflow_of_float16_asks_for_another_type(dtype: ComputeType, remedy: str | None) -> None:
    network = ready(Custom(lambda self, x: self.net(x * (40_000 if remedy else np.inf))))

    with pytest.raises(DataError, match="is not finite") as caught:
        run(on_cpu(network, dtype=dtype), BATCH)
    assert (caught.value.remedy or "").endswith(remedy or "")
    assert (caught.value.remedy is None) is (remedy is None)


def test_batches_of_any_size_give_the_same_rows() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    inputs = np.random.default_rng(2).normal(size=(23, 4, 6)).astype(np.float32)
    whole = run(on_cpu(ready(net), layer="2", pool=Pooling.MAX), inputs)

    for n_rows in (1, 7):
        capture = on_cpu(ready(net), layer="2", pool=Pooling.MAX)
        parts = [run(capture, inputs[i : i + n_rows]) for i in range(0, 23, n_rows)]
        for found, expected in zip(zip(*parts, strict=True), whole, strict=True):
            np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-6)


def test_batches_are_prepared_in_another_thread() -> None:
    capture = on_cpu(ready(hand_network()), dtype=ComputeType.BFLOAT16)
    with ThreadPoolExecutor(1) as pool:
        inputs = pool.submit(capture.prepare, BATCH).result()

    assert inputs.dtype == torch.bfloat16
    assert_array_equal(capture.run(inputs).embeddings, HAND_EMBEDDINGS)


def test_images_are_prepared_with_their_preprocessing() -> None:
    capture = on_cpu(ready(nn.Sequential(nn.Flatten(), nn.Linear(3, 2))))
    pixels = np.array([[[[0]], [[51]], [[255]]]], np.uint8)
    inputs = capture.prepare(pixels, ImagePreprocessing((0.0,), (0.5,), ImageLayout.NCHW))

    np.testing.assert_allclose(capture.run(inputs).embeddings, [[0, 0.4, 2]], rtol=1e-6)


def test_tokens_are_not_pooled() -> None:
    with pytest.raises(UsageError, match=r"--pool: tokens have one embedding each.*found mean"):
        on_cpu(ready(hand_network()), tokens=True, pool=Pooling.MEAN)


def test_hooks_are_gone_after_each_batch() -> None:
    net = hand_network()
    run(on_cpu(ready(net)), BATCH)
    run(on_cpu(ready(net), layer="relu"), BATCH)
    capture = on_cpu(ready(net))
    capture.layers(capture.prepare(BATCH))
    with pytest.raises(DataError):
        run(capture, BATCH[:, :1])

    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("layer", "offered"), [("haed", "head"), ("firts:input", "first"), ("zzz", "first, relu, head")]
)
def test_an_unknown_layer_offers_the_nearest_names(layer: str, offered: str) -> None:
    with pytest.raises(DataError, match=rf"--layer: .*no such layer .*it has {offered}"):
        on_cpu(ready(hand_network()), layer=layer)


def test_a_network_without_linear_asks_for_a_layer() -> None:
    net = nn.Sequential(OrderedDict(norm=nn.LayerNorm(2), relu=nn.ReLU()))

    with pytest.raises(DataError, match="give --layer; it has norm, relu"):
        run(on_cpu(ready(net)), BATCH)


def test_a_layer_that_is_not_called() -> None:
    net = hand_network()
    net.first.add_module("spare", nn.Linear(1, 1))

    with pytest.raises(DataError, match=r"'first\.spare': the network calls this layer 0 times"):
        run(on_cpu(ready(net), layer="first.spare"), BATCH)


def test_a_layer_without_tensors() -> None:
    class Words(nn.Module):
        def forward(self, x: torch.Tensor) -> str:
            return "none"

    net = Custom(lambda self, x: (self.words(x), self.net(x))[1])
    net.words = Words()

    with pytest.raises(DataError, match="'words': has no tensor there"):
        run(on_cpu(ready(net), layer="words"), BATCH)


def test_more_than_a_vector_per_row_is_refused_with_the_shape() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 2))
    tokens = np.array([[0, 1, 2], [3, 4, 0]])

    with pytest.raises(
        DataError, match=r"layer '0': more than one .*found \(2, 3, 4\).*--pool mean, max, cls, last, none"
    ):
        run(on_cpu(ready(net), layer="0"), tokens)
    with pytest.raises(DataError, match=r"logits: not one vector per row .*\(2, 3, 4\).*--logits-layer"):
        run(on_cpu(ready(net[0]), layer="", pool=Pooling.MEAN), tokens)


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
        run(on_cpu(ready(Custom(forward)), layer=":input"), BATCH)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_not_finite_names_its_row(value: float) -> None:
    batch = BATCH.copy()
    batch[1, 0] = value

    with pytest.raises(DataError, match="embedding at layer 'head:input': row 1001 is not finite"):
        run(on_cpu(ready(hand_network())), batch, first_row=1000)


def test_a_double_beyond_float32_is_not_finite() -> None:
    network = ready(Custom(lambda self, x: self.net(x).double() * 1e300))

    with pytest.raises(DataError, match="logits: row 0 is not finite"):
        run(on_cpu(network), BATCH)


def test_an_embedding_of_no_entries() -> None:
    network = ready(Custom(lambda self, x: (self.net(x), self.net.relu(x[:, :0]))[0]))

    with pytest.raises(DataError, match=r"embedding at layer 'net.relu': has no entries \(found \(3, 0\)\)"):
        run(on_cpu(network, layer="net.relu"), BATCH)


def test_logits_that_are_not_finite_name_their_row() -> None:
    batch = BATCH * np.array([[1], [1], [0]])

    with pytest.raises(DataError, match="logits: row 2 is not finite"):
        run(on_cpu(ready(Custom(lambda self, x: self.net(x) / x[:, :1]))), batch)


class Viewing(nn.Module):
    """Flattens what a convolution gave with `view`, which wants the usual order in memory."""

    def __init__(self, *, view: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4 * 36, 2)
        self._view = view
        self.seen: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.is_contiguous())
        x = self.convolution(x)
        return self.head(x.view(len(x), -1) if self._view else x.flatten(1))


@pytest.mark.parametrize("view", [False, True])
def test_images_are_fed_channels_last_to_networks_that_take_them_so(view: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8)
    network = Viewing(view=view)
    capture = EmbeddingCapture(ready(network))
    inputs = capture.prepare(images, ImagePreprocessing((0.5,), (0.5,)))
    assert not inputs.is_contiguous()
    found = capture.run(inputs)
    assert network.seen[-1] is view
    with torch.inference_mode():
        logits = network(inputs.contiguous())
    assert found.logits is not None
    assert np.allclose(found.logits, logits.numpy(), atol=1e-6)


def test_tables_of_hugging_face_networks_keep_their_precision() -> None:
    transformers = pytest.importorskip("transformers", reason="needs the transformers extra")
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    network = transformers.LlamaForCausalLM(config)
    EmbeddingCapture(ready(network), dtype=ComputeType.BFLOAT16, tokens=True)
    assert network.model.rotary_emb.inv_freq.dtype == torch.float32
    assert network.model.norm.weight.dtype == torch.bfloat16
