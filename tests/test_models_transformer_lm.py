"""The decoder-only transformer language model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from resmem_cli.errors import UsageError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.architectures.base import make_network  # noqa: E402
from resmem_cli.models.checkpoint import load_network  # noqa: E402

SMALL = {"vocab_size": 11, "context": 8, "width": 12, "depth": 2, "heads": 3}


def make_small(**arguments: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    network = make_network("transformer-lm", arch_args=SMALL | arguments).eval()
    with torch.no_grad():
        # The first weights are so small that every logit is near zero: too easy to agree with.
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    return network


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, 11, shape, generator=torch.Generator().manual_seed(1))


def test_logits_follow_the_formula_written_out() -> None:
    network = make_small(depth=1, heads=2).double()
    ids = tokens(1, 5)
    weights = network.state_dict()

    def layer_norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
        return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    x = weights["tokens.weight"][ids[0]] + weights["positions.weight"][:5]
    packed = linear(layer_norm(x, "blocks.0.attn_norm"), "blocks.0.attn.query_key_value")
    heads = []
    for head in (slice(0, 6), slice(6, 12)):
        query, key, value = (part[:, head] for part in packed.split(12, dim=1))
        scores = query @ key.T / math.sqrt(6)
        scores[torch.ones(5, 5).triu(1).bool()] = -math.inf
        heads.append(scores.softmax(dim=1) @ value)
    x = x + linear(torch.cat(heads, dim=1), "blocks.0.attn.project")
    inner = linear(layer_norm(x, "blocks.0.mlp_norm"), "blocks.0.mlp.expand")
    gelu = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
    x = x + linear(gelu, "blocks.0.mlp.project")
    expected = layer_norm(x, "norm") @ weights["tokens.weight"].T

    torch.testing.assert_close(network(ids)[0], expected, rtol=1e-10, atol=1e-10)


def test_a_token_changes_nothing_before_it() -> None:
    network, ids = make_small(), tokens(2, 8)
    changed = ids.clone()
    changed[:, 5] = (ids[:, 5] + 1) % 11

    before, after = network(ids), network(changed)

    torch.testing.assert_close(after[:, :5], before[:, :5], rtol=0, atol=1e-6)
    assert (after[:, 5:] - before[:, 5:]).abs().amax(dim=2).min() > 1e-3


@pytest.mark.parametrize("length", [1, 3, 7])
def test_padding_on_the_right_changes_nothing_before_it(length: int) -> None:
    network, ids = make_small(), tokens(2, 8)
    ids[:, length:] = 0

    torch.testing.assert_close(network(ids)[:, :length], network(ids[:, :length]), rtol=0, atol=1e-5)


def test_a_position_matters() -> None:
    logits = make_small()(torch.full((1, 4), 7))

    assert (logits[0, 1:] - logits[0, :-1]).abs().amax(dim=1).min() > 1e-3


def test_a_window_longer_than_the_context_is_refused_with_both_numbers() -> None:
    network = make_small()

    assert network(tokens(1, 8)).shape == (1, 8, 11)
    with pytest.raises(ValueError, match=r"window of 9 tokens .* context of 8"):
        network(tokens(1, 9))


def test_input_of_the_last_mlp_is_the_representation_after_its_layer_norm() -> None:
    network = make_network("transformer-lm", arch_args=SMALL).eval()
    seen: list[torch.Tensor] = []
    network.get_submodule("blocks.1.mlp_norm").register_forward_hook(lambda _, args, out: seen.append(out))
    network.get_submodule("blocks.1.mlp").register_forward_pre_hook(lambda _, args: seen.append(args[0]))

    network(tokens(2, 8))

    normed, entering = seen
    assert torch.equal(normed, entering)
    torch.testing.assert_close(entering.mean(dim=2), torch.zeros(2, 8), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_counted_by_hand(tied: bool) -> None:
    network = make_network("transformer-lm", arch_args=SMALL | {"tied": tied})

    width, blocks = 12, 2
    block = (3 + 1 + 4 + 4) * width**2 + (3 + 1 + 4 + 1 + 4) * width
    embeddings = (11 + 8 + (0 if tied else 11)) * width
    assert sum(p.numel() for p in network.parameters()) == embeddings + blocks * block + 2 * width


def test_a_tied_head_is_a_linear_layer_on_the_token_embeddings() -> None:
    network = make_network("transformer-lm", arch_args=SMALL)

    assert isinstance(network.head, torch.nn.Linear)
    assert network.head.weight is network.tokens.weight


@pytest.mark.parametrize("tied", [True, False])
def test_saved_weights_load_by_name_with_tied_ones_stored_once(tmp_path: Path, tied: bool) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="needs the torch extra")
    network = make_small(tied=tied)
    safetensors.save_model(network, str(tmp_path / "lm.safetensors"))

    loaded = load_network(
        tmp_path / "lm.safetensors", arch="transformer-lm", arch_args=SMALL | {"tied": tied}
    )

    assert torch.equal(loaded.module(tokens(2, 8)), network(tokens(2, 8)))


def test_dropout_acts_in_training_only() -> None:
    network, ids = make_small(dropout=0.5), tokens(2, 8)

    assert torch.equal(network(ids), network(ids))
    network.train()
    assert not torch.equal(network(ids), network(ids))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"vocab_size": 0}, ("vocab_size", "at least 1", "0")),
        ({"context": 0}, ("context", "0")),
        ({"depth": -1}, ("depth", "-1")),
        ({"heads": 5}, ("width", "multiple of 5", "12")),
        ({"dropout": 1.0}, ("dropout", "[0, 1)", "1.0")),
        ({"mlp_ratio": 0}, ("mlp_ratio", "0")),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as refusal:
        make_network("transformer-lm", arch_args=SMALL | arguments)

    assert all(word in str(refusal.value) for word in words)
