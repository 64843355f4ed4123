"""The residual networks of He et al. 2015 for 32 x 32 images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resmem_cli.errors import UsageError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.architectures.base import make_network  # noqa: E402
from resmem_cli.models.architectures.cifar_resnet import CifarResNet  # noqa: E402
from resmem_cli.models.checkpoint import load_network  # noqa: E402


def n_parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)], ids=lambda value: str(value)
)
def test_parameters_are_as_many_as_in_table_6_of_he_et_al(depth: int, millions: float) -> None:
    network = make_network(f"cifar-resnet{depth}", arch_args={"num_classes": 10})

    assert round(n_parameters(network) / 1e6, 2) == millions


def test_parameters_of_depth_8_counted_by_hand() -> None:
    convolutions = 9 * (3 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    norms = 2 * (3 * 16 + 2 * 32 + 2 * 64)
    head = 64 * 100 + 100

    assert n_parameters(make_network("cifar-resnet8")) == convolutions + norms + head == 81_140


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56])
def test_depth_counts_the_layers_with_weights(depth: int) -> None:
    network = make_network(f"cifar-resnet{depth}")

    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    assert sum(isinstance(module, kinds) for module in network.modules()) == depth


def test_embedding_is_the_64_numbers_that_enter_the_head() -> None:
    network = make_network("cifar-resnet8", arch_args={"num_classes": 7}).eval()
    seen: list[torch.Tensor] = []
    network.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))

    logits = network(torch.randn(2, 3, 32, 32))

    assert seen[0].shape == (2, 64)
    assert logits.shape == (2, 7)
    assert torch.equal(network.head(seen[0]), logits)


def test_stages_have_16_32_and_64_maps_and_halve_the_pixels() -> None:
    network = CifarResNet(14, in_channels=1)
    shapes = []
    for stage in network.stages:
        stage.register_forward_hook(lambda _, args, output: shapes.append(tuple(output.shape[1:])))

    network(torch.randn(2, 1, 32, 32))

    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_shortcut_a_takes_every_second_pixel_and_adds_empty_maps() -> None:
    shortcut = CifarResNet(8).stages.stage2[0].shortcut
    maps = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 16, 4, 4)

    padded = shortcut(maps)

    assert n_parameters(shortcut) == 0
    assert torch.equal(padded[0, 0], torch.tensor([[0.0, 2.0], [8.0, 10.0]]))
    assert torch.equal(padded[0, :16], padded[0, :1].expand(16, 2, 2))
    assert torch.equal(padded[0, 16:], torch.zeros(16, 2, 2))


def test_shortcut_b_is_a_projection_where_the_shape_changes_and_only_there() -> None:
    plain, projecting = CifarResNet(14), CifarResNet(14, shortcut="B")

    extra = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert n_parameters(projecting) - n_parameters(plain) == extra
    assert projecting(torch.randn(2, 3, 32, 32)).shape == (2, 100)


def test_a_block_whose_convolutions_are_zero_passes_what_is_positive() -> None:
    block = CifarResNet(8).stages.stage1[0].eval()
    with torch.no_grad():
        block.conv2.weight.zero_()
    maps = torch.randn(1, 16, 4, 4)

    assert torch.equal(block(maps), maps.clamp(min=0))


def test_convolutions_begin_with_the_variance_of_he_et_al() -> None:
    torch.manual_seed(0)
    weight = CifarResNet(8).stages.stage3[0].conv2.weight.detach()

    assert float(weight.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert float(weight.mean()) == pytest.approx(0, abs=2e-3)


def test_saved_weights_load_by_name(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="needs the torch extra")
    network = make_network("cifar-resnet8", arch_args={"num_classes": 5, "shortcut": "B"}).eval()
    safetensors.save_file(network.state_dict(), tmp_path / "net.safetensors")

    loaded = load_network(
        tmp_path / "net.safetensors", arch="cifar-resnet8", arch_args={"num_classes": 5, "shortcut": "B"}
    )

    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(loaded.module(images), network(images))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"depth": 10}, ("depth", "6n + 2", "10")),
        ({"depth": 2}, ("depth", "2")),
        ({"depth": 8, "num_classes": 0}, ("num_classes", "at least 1", "0")),
        ({"depth": 8, "in_channels": -3}, ("in_channels", "-3")),
        ({"depth": 8, "shortcut": "C"}, ("shortcut", "A or B", "C")),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as refusal:
        CifarResNet(**arguments)

    assert all(word in str(refusal.value) for word in words)
