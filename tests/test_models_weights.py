"""Weights found in their wrappings and fitted into a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from resmem_cli.errors import DataError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.weights import find_weights, fit_weights  # noqa: E402

HERE = Path("net.pt")


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))


def weights() -> dict[str, torch.Tensor]:
    return {
        "0.weight": torch.full((3, 2), 1.0),
        "0.bias": torch.full((3,), 2.0),
        "1.weight": torch.full((2, 3), 3.0),
        "1.bias": torch.full((2,), 4.0),
    }


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in weights().items()}


@pytest.mark.parametrize(
    "saved",
    [
        weights(),
        {"state_dict": weights(), "epoch": 3},
        {"model": weights(), "optimizer": {"state": {}}},
        {"model_state_dict": weights()},
        {"model": {"state_dict": prefixed("module.")}},
        {"state_dict": prefixed("model.")},
        prefixed("_orig_mod."),
        prefixed("_orig_mod.module."),
        prefixed("module._orig_mod.model."),
        {name.replace("0.", "0._orig_mod."): tensor for name, tensor in weights().items()},
        {name.replace("0.", "module.0._orig_mod."): tensor for name, tensor in prefixed("module.").items()},
    ],
    ids=lambda saved: next(iter(saved)),
)
def test_the_usual_wrappings_are_opened(saved: dict[str, object]) -> None:
    net = network()

    fit_weights(net, find_weights(saved, HERE), HERE)

    assert all(torch.equal(tensor, weights()[name]) for name, tensor in net.state_dict().items())


def test_a_prefix_that_is_the_networks_own_is_kept() -> None:
    net = torch.nn.ModuleDict({"model": torch.nn.Linear(1, 1)})

    fit_weights(net, {"model.weight": torch.ones(1, 1), "model.bias": torch.ones(1)}, HERE)

    assert net["model"].weight.item() == 1.0


def test_half_precision_weights_are_widened_into_the_network() -> None:
    net = network()

    fit_weights(net, {name: tensor.bfloat16() for name, tensor in weights().items()}, HERE)

    assert net[1].bias.dtype == torch.float32
    assert torch.equal(net[1].bias, torch.full((2,), 4.0))


def test_missing_unexpected_and_misshapen_weights_are_listed_together() -> None:
    given = weights()
    del given["0.bias"]
    given |= {f"extra{i}": torch.ones(1) for i in range(6)}
    given["1.weight"] = torch.ones(5, 3)

    with pytest.raises(DataError) as caught:
        fit_weights(network(), given, HERE)

    message = str(caught.value)
    assert "1 missing: 0.bias" in message
    assert "6 unexpected: extra0, extra1, extra2, extra3, ..." in message
    assert "1 of another shape: 1.weight (5, 3) instead of (2, 3)" in message
    assert "--arch" in message


def test_weights_of_another_network_are_listed_under_their_own_names() -> None:
    with pytest.raises(DataError, match=r"4 missing: .*1 unexpected: module\.conv\.weight"):
        fit_weights(network(), {"module.conv.weight": torch.ones(1)}, HERE)


def test_tied_weights_stored_once_are_enough() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(4, 2)
            self.head = torch.nn.Linear(2, 4, bias=False)
            self.head.weight = self.embed.weight

    net, table = Tied(), torch.arange(8.0).reshape(4, 2)

    fit_weights(net, {"head.weight": table}, HERE)

    assert torch.equal(net.embed.weight, table)
    with pytest.raises(DataError, match=r"2 missing: embed\.weight, head\.weight"):
        fit_weights(net, {"other": table}, HERE)


def test_extra_state_is_handed_on() -> None:
    class Counts(torch.nn.Linear):
        seen = 0

        def get_extra_state(self) -> int:
            return self.seen

        def set_extra_state(self, state: int) -> None:
            self.seen = state

    trained, net = Counts(1, 1), Counts(1, 1)
    trained.seen = 5

    fit_weights(net, find_weights(trained.state_dict(), HERE), HERE)

    assert net.seen == 5


def test_weights_a_module_can_not_take_are_a_data_error() -> None:
    class Picky(torch.nn.Linear):
        def set_extra_state(self, state: object) -> None:
            raise RuntimeError("cannot use this state")

        def get_extra_state(self) -> int:
            return 0

    with pytest.raises(DataError, match="do not fit the network.*cannot use this state"):
        fit_weights(Picky(1, 1), Picky(1, 1).state_dict(), HERE)


@pytest.mark.parametrize("saved", [{"epoch": 3}, [torch.ones(1)], torch.ones(1), {}, 5])
def test_a_file_without_weights_says_what_it_holds(saved: object) -> None:
    with pytest.raises(DataError, match=r"net\.pt: holds no weights .*found (epoch|list|Tensor|dict|int)"):
        find_weights(saved, HERE)


def test_a_mapping_that_holds_itself() -> None:
    loop: dict[str, object] = {}
    loop["model"] = loop

    with pytest.raises(DataError, match="holds no weights"):
        find_weights(loop, HERE)


def test_a_prefix_is_dropped_where_other_names_lack_it() -> None:
    given = {"state_dict": {**prefixed("model."), "loss.weight": torch.ones(1)}}

    with pytest.raises(DataError, match="do not fit the network: 1 unexpected: loss.weight; "):
        fit_weights(network(), find_weights(given, HERE), HERE)
    assert fit_weights(network(), find_weights(given, HERE), HERE, strict=False) == (
        "weights 1 unexpected: loss.weight",
    )


def test_dropping_a_prefix_never_makes_two_names_one() -> None:
    given = {**prefixed("module."), "0.weight": torch.ones(3, 2)}

    with pytest.raises(DataError, match=r"3 missing: .*4 unexpected: module\.0\.weight"):
        fit_weights(network(), given, HERE)


def test_the_weights_of_one_part_are_found_under_it() -> None:
    net = torch.nn.ModuleDict({"body": network(), "head": torch.nn.Linear(1, 1)})

    with pytest.raises(DataError, match=r"network: 2 missing: head\.weight, head\.bias; "):
        fit_weights(net, weights(), HERE)
    assert fit_weights(net, weights(), HERE, strict=False) == ("weights 2 missing: head.weight, head.bias",)
    assert torch.equal(net["body"][1].bias, weights()["1.bias"])


def test_two_weights_for_one_tensor_must_be_equal() -> None:
    net = network()
    net[1].bias = torch.nn.Parameter(torch.zeros(3))
    net[0].bias = net[1].bias
    net[1].weight = torch.nn.Parameter(torch.zeros(3, 3))
    given = {"0.weight": torch.ones(3, 2), "1.weight": torch.ones(3, 3), "0.bias": torch.ones(3)}

    fit_weights(net, {**given, "1.bias": torch.ones(3)}, HERE)
    with pytest.raises(DataError, match="1 different where the network has one: 0.bias and 1.bias"):
        fit_weights(net, {**given, "1.bias": torch.zeros(3)}, HERE)
