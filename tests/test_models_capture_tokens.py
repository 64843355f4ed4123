"""One embedding a token: windows of ids through language models, and the largest of their logits."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError
from resmem_cli.largest import largest_entries

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.capture import EmbeddingCapture  # noqa: E402
from resmem_cli.models.checkpoint import Network  # noqa: E402
from resmem_cli.models.results import top_logits  # noqa: E402

nn = torch.nn
on_cpu = partial(EmbeddingCapture, device="cpu", tokens=True)
KEEP = np.array([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1]], np.bool_)
IDS = np.random.default_rng(0).integers(0, 11, (3, 4))
TARGETS = np.array([3, 0, 10, 7, 1, 2, 3, 4])


def ready(module: nn.Module) -> Network:
    return Network(module.eval(), digest="0" * 64, arch="test")


class Block(nn.Module):
    def __init__(self, *, flat: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.mlp = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 6))
        self._flat = flat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        key = self.norm(x)
        return x + self.mlp(key.flatten(0, 1) if self._flat else key).view(x.shape)


class Language(nn.Module):
    """Two blocks; `flat` hands the MLP and gives the logits one row a token, as OPT's layers do."""

    def __init__(self, *, flat: bool = False, n_classes: int = 11) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList(Block(flat=flat) for _ in range(2))
        self.head = nn.Linear(6, n_classes)
        self._flat = flat

    def keys(self, ids: torch.Tensor) -> torch.Tensor:
        return self.blocks[1].norm(self.blocks[0](self.embed(ids)))

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(self.blocks[1](self.blocks[0](self.embed(ids))))
        return {"logits": logits.flatten(0, 1) if self._flat else logits}


@pytest.mark.parametrize("flat", [False, True])
def test_rows_are_the_kept_tokens_in_row_major_order(flat: bool) -> None:
    net = Language(flat=flat).eval()
    capture = on_cpu(ready(net))

    found = capture.run_tokens(capture.prepare(IDS), KEEP, targets=TARGETS, top=None)

    assert capture.layer_name == "blocks.1.mlp:input"
    with torch.inference_mode():
        ids = torch.from_numpy(IDS)
        assert_array_equal(found.embeddings, net.keys(ids).numpy()[KEEP])
        assert_array_equal(found.logits, net(ids)["logits"].reshape(3, 4, 11).numpy()[KEEP])
    assert found.top is None


def test_the_largest_logits_are_those_of_the_dense_ones() -> None:
    capture = on_cpu(ready(Language()))
    inputs = capture.prepare(IDS)
    dense = capture.run_tokens(inputs, KEEP, targets=TARGETS, top=None)
    found = capture.run_tokens(inputs, KEEP, targets=TARGETS, top=4)

    assert found.logits is None
    assert_array_equal(found.embeddings, dense.embeddings)
    columns = largest_entries(dense.logits, 4)
    assert_array_equal(found.top.classes, columns)
    assert found.top.classes.dtype == np.uint16
    assert_array_equal(found.top.values, np.take_along_axis(dense.logits, columns, axis=1))
    assert_array_equal(found.top.label_logit, dense.logits[np.arange(8), TARGETS])
    wide = dense.logits.astype(np.float64)
    np.testing.assert_allclose(found.top.logsumexp, np.log(np.exp(wide).sum(1)), rtol=1e-14)
    assert found.top.n_classes == 11


def test_windows_of_any_number_give_the_same_rows() -> None:
    keep = np.random.default_rng(1).random((20, 4)) < 0.5
    ids = np.random.default_rng(2).integers(0, 11, (20, 4))
    targets = np.random.default_rng(3).integers(0, 11, keep.sum())

    def rows(step: int) -> list[NDArray[Any]]:
        capture = on_cpu(ready(Language()))
        parts, start = [], 0
        for i in range(0, 20, step):
            n_rows = int(keep[i : i + step].sum())
            found = capture.run_tokens(
                capture.prepare(ids[i : i + step]),
                keep[i : i + step],
                targets=targets[start : start + n_rows],
                top=3,
            )
            top = found.top
            parts.append((found.embeddings, top.classes, top.values, top.logsumexp, top.label_logit))
            start += n_rows
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    whole = rows(20)
    for step in (1, 7):
        for found, expected in zip(rows(step), whole, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("top", [None, 2])
def test_a_batch_without_wanted_tokens_gives_no_rows(top: int | None) -> None:
    capture = on_cpu(ready(Language()))

    found = capture.run_tokens(
        capture.prepare(IDS), np.zeros((3, 4), np.bool_), targets=np.zeros(0, np.int64), top=top
    )

    assert found.embeddings.shape == (0, 6)
    assert found.logits is None if top else found.logits.shape == (0, 11)


@pytest.mark.parametrize("top", [None, 2])
@pytest.mark.parametrize("target", [11, -1])
def test_a_target_outside_the_vocabulary(top: int | None, target: int) -> None:
    capture = on_cpu(ready(Language()))
    targets = TARGETS.copy()
    targets[2] = target

    with pytest.raises(DataError, match=rf"label of row 102 .*expected 0 to 10 .*found {target}\)"):
        capture.run_tokens(capture.prepare(IDS), KEEP, targets=targets, top=top, first_row=100)


def test_more_logits_than_there_are() -> None:
    capture = on_cpu(ready(Language()))

    with pytest.raises(UsageError, match=r"--top: out of range \(expected 1 to 11 .*found 12\)"):
        capture.run_tokens(capture.prepare(IDS), KEEP, targets=TARGETS, top=12)


def test_a_layer_or_logits_that_are_not_one_row_a_token() -> None:
    class Pooled(Language):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids)["logits"].mean(1)

    capture = on_cpu(ready(Pooled()))
    with pytest.raises(DataError, match=r"logits: not one vector per token .*\(3, 4, any\), found \(3, 11\)"):
        capture.run_tokens(capture.prepare(IDS), KEEP, targets=TARGETS, top=None)
    capture = on_cpu(ready(Pooled()), layer="")
    with pytest.raises(DataError, match=r"at layer '': not one vector per token .*give another --layer"):
        capture.run_tokens(capture.prepare(IDS), KEEP, targets=TARGETS, top=None)


def test_a_network_without_a_known_mlp_asks_for_a_layer() -> None:
    net = nn.Sequential(nn.Embedding(11, 6), nn.LayerNorm(6), nn.Linear(6, 11))
    capture = on_cpu(ready(net))

    with pytest.raises(DataError, match=r"mlp, moe\); give --layer NAME:input; .*called are 2, 1, 0"):
        capture.run_tokens(capture.prepare(IDS), KEEP, targets=TARGETS, top=None)
    named = on_cpu(ready(net), layer="2:input")
    assert named.run_tokens(named.prepare(IDS), KEEP, targets=TARGETS, top=None).embeddings.shape == (8, 6)


def test_an_mlp_inside_an_mlp_is_a_part_of_it() -> None:
    net = Language()
    net.blocks[1].mlp = nn.Sequential()
    net.blocks[1].mlp.add_module("fc1", nn.Linear(6, 8))
    net.blocks[1].mlp.add_module("ff", nn.Linear(8, 6))
    capture = on_cpu(ready(net))
    capture.locate(capture.prepare(IDS))

    assert capture.layer_name == "blocks.1.mlp:input"


@pytest.mark.parametrize("top", [None, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_of_a_token_that_are_not_finite(top: int | None, value: float) -> None:
    class Broken(Language):
        def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
            output = super().forward(ids)
            output["logits"][2, 0, 3] = value
            return output

    capture = on_cpu(ready(Broken()))
    with pytest.raises(DataError, match="logits: row 104 is not finite"):
        capture.run_tokens(capture.prepare(IDS), KEEP, targets=TARGETS, top=top, first_row=100)


@pytest.mark.parametrize("m", [1, 2, 5, 12, 13])
@pytest.mark.parametrize("chunk_bytes", [1, 8 * 13 * 7, 64 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_go_to_the_lower_class_as_in_numpy(m: int, chunk_bytes: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(m)
    # Few different values, and both zeros, so that most rows have ties at the cut.
    logits = rng.choice(np.array([-1.5, -0.0, 0.0, 0.25, 3], np.float32), (40, 13))
    logits[:3] = [[1] * 13, list(range(13)), list(range(13, 0, -1))]
    labels = rng.integers(0, 13, 40)

    found = top_logits(
        torch.from_numpy(logits).to(dtype).__getitem__,
        labels,
        n_rows=40,
        n_classes=13,
        top=m,
        first_row=0,
        chunk_bytes=chunk_bytes,
    )

    columns = largest_entries(logits, m)
    assert_array_equal(found.classes, columns)
    assert_array_equal(found.values, np.take_along_axis(logits, columns, axis=1))
    assert_array_equal(found.label_logit, logits[np.arange(40), labels])
    expected = np.logaddexp.reduce(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(found.logsumexp, expected, rtol=1e-14)
    assert found.classes.dtype == np.uint16
    assert found.values.dtype == found.label_logit.dtype == np.float32


def test_class_ids_beyond_16_bits_and_logits_beyond_exp() -> None:
    logits = torch.zeros(2, 70_000)
    logits[0, 69_999] = 1000
    logits[1] = -3e38

    found = top_logits(logits.__getitem__, None, n_rows=2, n_classes=70_000, top=2, first_row=0)

    assert found.classes.dtype == np.int32
    assert_array_equal(found.classes, [[69_999, 0], [0, 1]])
    assert found.label_logit is None
    np.testing.assert_allclose(found.logsumexp, [1000, np.float32(-3e38)], rtol=1e-12)


NO_SPECIAL_IDS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
TRANSFORMERS = {
    "GPT2": ({"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 8}, "transformer.h.1.mlp", "ln_2"),
    "Llama": (
        {
            "hidden_size": 8,
            "intermediate_size": 12,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
        },
        "model.layers.1.mlp",
        "post_attention_layernorm",
    ),
    "OPT": (
        {
            "hidden_size": 8,
            "ffn_dim": 12,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "word_embed_proj_dim": 8,
            "max_position_embeddings": 8,
        },
        "model.decoder.layers.1.fc1",
        "final_layer_norm",
    ),
    "GPTNeoX": (
        {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2},
        "gpt_neox.layers.1.mlp",
        "post_attention_layernorm",
    ),
}


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_the_key_of_transformers_is_what_leaves_the_last_blocks_norm(family: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers", reason="needs the transformers extra")
    sizes, mlp, norm = TRANSFORMERS[family]
    config = getattr(transformers, f"{family}Config")(vocab_size=11, **NO_SPECIAL_IDS, **sizes)
    torch.manual_seed(0)
    net = transformers.AutoModelForCausalLM.from_config(config).eval()
    capture = on_cpu(ready(net))
    inputs = capture.prepare(IDS)

    found = capture.run_tokens(inputs, KEEP, targets=TARGETS, top=None)

    assert capture.layer_name == f"{mlp}:input"
    kept: list[torch.Tensor] = []
    layer = net.get_submodule(f"{mlp.rpartition('.')[0]}.{norm}")
    with torch.inference_mode(), layer.register_forward_hook(lambda *call: kept.append(call[2].clone())):
        logits = net(torch.from_numpy(IDS)).logits
    assert_array_equal(found.embeddings, kept[-1].reshape(3, 4, 8).numpy()[KEEP])
    assert_array_equal(found.logits, logits.numpy()[KEEP])
    with pytest.raises(DataError, match=r"vocabulary \(expected integer ids in 0\.\.10, found 70"):
        capture.run_tokens(capture.prepare(IDS + 60 * (IDS.max() == IDS)), KEEP, targets=TARGETS, top=None)
    marked = {info.name for info in capture.layers(inputs) if info.is_default or info.is_logits}
    assert mlp in marked
    assert len(marked) == 2


def test_the_built_in_language_models_key() -> None:
    from resmem_cli.models.architectures.transformer_lm import TransformerLM

    torch.manual_seed(0)
    net = TransformerLM(vocab_size=11, width=8, depth=2, heads=2).eval()
    capture = on_cpu(ready(net))
    found = capture.run_tokens(capture.prepare(IDS), KEEP, targets=TARGETS, top=None)

    assert capture.layer_name == "blocks.1.mlp:input"
    kept: list[torch.Tensor] = []
    with (
        torch.inference_mode(),
        net.blocks[1].mlp_norm.register_forward_hook(lambda *call: kept.append(call[2])),
    ):
        net(torch.from_numpy(IDS))
    assert_array_equal(found.embeddings, kept[0].numpy()[KEEP])
