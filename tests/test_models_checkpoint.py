"""Networks loaded from checkpoints: weights with a factory, and files that can run code."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from resmem_cli.errors import DataError, MissingInputError, ResourceError, UsageError

torch = pytest.importorskip("torch", reason="needs the torch extra")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="needs the torch extra")

from resmem_cli.models.checkpoint import load_network  # noqa: E402

FACTORIES = """
import torch

CALLS = []
SIZE = 3
network = torch.nn.Linear(1, 1)

def make(width=3, bias=True):
    CALLS.append(width)
    first = torch.nn.Linear(2, width, bias=bias)
    return torch.nn.Sequential(first, torch.nn.Dropout(), torch.nn.Linear(width, 2))

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(2, 2)
    def forward(self, x):
        return self.head(x)
    @classmethod
    def small(cls):
        return cls()

def not_a_network():
    return 7

def broken():
    raise ValueError("no such preset\\nand more")
"""

_numbers = count()


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name a module of factories that lies in the current folder, importable from nowhere else."""
    name = f"resmem_test_factories_{next(_numbers)}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(tmp_path))])
    yield name
    sys.modules.pop(name, None)


def weights(width: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (width, 2), "0.bias": (width,), "2.weight": (2, width), "2.bias": (2,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def saved(path: Path, value: object, **options: object) -> Path:
    torch.save(value, path, **options)
    return path


class Touches:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.canary}",))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin", ".SafeTensors"])
def test_weights_with_a_factory(tmp_path: Path, factories: str, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    if suffix.lower() == ".safetensors":
        safetensors_torch.save_file(weights(), path)
    else:
        saved(path, weights())

    network = load_network(path, arch=f"{factories}:make")

    assert network.arch == f"{factories}:make"
    assert network.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not any(module.training for module in network.module.modules())
    state = network.module.state_dict()
    assert state.keys() == weights().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights().items())


def test_arguments_reach_the_factory(tmp_path: Path, factories: str) -> None:
    path = saved(tmp_path / "net.pt", weights(5))

    load_network(path, arch=f"{factories}:make", arch_args={"width": 5})

    assert sys.modules[factories].CALLS == [5]


@pytest.mark.parametrize("attribute", ["Net", "Net.small"])
def test_a_class_and_its_methods_are_factories(tmp_path: Path, factories: str, attribute: str) -> None:
    path = saved(tmp_path / "net.pt", {"head.weight": torch.eye(2), "head.bias": torch.zeros(2)})

    module = load_network(path, arch=f"{factories}:{attribute}").module

    assert torch.equal(module(torch.tensor([[1.0, 2.0]])), torch.tensor([[1.0, 2.0]]))


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("make", r"no such architecture .*found make.*package\.module:factory"),
        (":make", "not of the form"),
        ("{}:", "not of the form"),
        ("no_such_module_here:make", "No module named 'no_such_module_here'"),
        ("{}:absent", "has no attribute 'absent'"),
        ("{}:SIZE", "expected a factory of torch.nn.Module, found int"),
        ("{}:network", "expected a factory of torch.nn.Module, found Linear"),
        ("{}:not_a_network", "did not make a network .*found int"),
        ("{}:broken", r"broken\(\) failed: ValueError: no such preset$"),
    ],
)
def test_an_unusable_arch_says_why(tmp_path: Path, factories: str, arch: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_network(saved(tmp_path / "net.pt", weights()), arch=arch.format(factories))


def test_an_argument_the_factory_does_not_take(tmp_path: Path, factories: str) -> None:
    with pytest.raises(UsageError, match=r"make\(depth=2\) failed: TypeError: .*depth"):
        load_network(saved(tmp_path / "net.pt", weights()), arch=f"{factories}:make", arch_args={"depth": 2})


def test_a_module_with_a_syntax_error(tmp_path: Path, factories: str) -> None:
    (tmp_path / f"{factories}_bad.py").write_text("def make(:\n")

    with pytest.raises(UsageError, match="SyntaxError"):
        load_network(saved(tmp_path / "net.pt", weights()), arch=f"{factories}_bad:make")


def test_weights_without_arch_ask_for_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"net\.pt: holds weights only.*give --arch"):
        load_network(saved(tmp_path / "net.pt", weights()), arch=None)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such file"):
        load_network(tmp_path / "none.safetensors", arch="a:b")


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt", "net.bin"])
@pytest.mark.parametrize("kept", [0, 7, 200])
def test_a_damaged_file(tmp_path: Path, factories: str, name: str, kept: int) -> None:
    whole = tmp_path / "whole"
    if name.endswith(".safetensors"):
        safetensors_torch.save_file(weights(), whole)
    else:
        saved(whole, weights())
    path = tmp_path / name
    path.write_bytes(whole.read_bytes()[:kept])

    with pytest.raises(DataError, match="truncated"):
        load_network(path, arch=f"{factories}:make")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("arch", [None, "{}:make"])
def test_a_hostile_pickle_is_refused_before_its_code_runs(
    tmp_path: Path, factories: str, zipped: bool, arch: str | None
) -> None:
    canary = tmp_path / "canary"
    path = saved(
        tmp_path / "net.pt", {**weights(), "x": Touches(canary)}, _use_new_zipfile_serialization=zipped
    )

    with pytest.raises(DataError, match=r"needs pickle code.*can run anything.*--trust-checkpoint"):
        load_network(path, arch=arch and arch.format(factories))

    assert not canary.exists()


def test_safetensors_suffix_is_not_a_way_round(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "net.safetensors"
    path.write_bytes(pickle.dumps(Touches(canary)))

    with pytest.raises(DataError):
        load_network(path, arch="a:b", trust_checkpoint=True)

    assert not canary.exists()


def pickled_net(factories: str, path: Path, wrap: Callable[[object], object] = lambda net: net) -> Path:
    """Save a whole network of the factories' class, as a training script beside them would."""
    sys.path.insert(0, str(path.parent))
    try:
        net = __import__(factories).Net()
    finally:
        sys.path.pop(0)
    with torch.no_grad():
        net.head.weight.copy_(torch.eye(2))
        net.head.bias.zero_()
    saved(path, wrap(net.train()))
    del sys.modules[factories]
    return path


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: {"epoch": 3, "model": net}])
def test_a_pickled_network_loads_when_trusted(
    tmp_path: Path, factories: str, wrap: Callable[[object], object]
) -> None:
    path = pickled_net(factories, tmp_path / "net.pt", wrap)
    with pytest.raises(DataError, match=rf"found {factories}\.Net.*--trust-checkpoint"):
        load_network(path, arch=None)
    assert factories not in sys.modules, "the refused file must not have imported anything"

    network = load_network(path, arch=None, trust_checkpoint=True)

    assert network.arch == f"{factories}:Net"
    assert not network.module.training
    assert torch.equal(network.module(torch.ones(1, 2)), torch.ones(1, 2))


def test_arch_takes_only_the_weights_of_a_pickled_network(tmp_path: Path, factories: str) -> None:
    path = pickled_net(factories, tmp_path / "net.pt")

    network = load_network(path, arch=f"{factories}:Net.small", trust_checkpoint=True)

    assert network.arch == f"{factories}:Net.small"
    assert torch.equal(network.module(torch.ones(1, 2)), torch.ones(1, 2))


def test_a_trusted_pickle_whose_code_is_gone(tmp_path: Path, factories: str) -> None:
    path = pickled_net(factories, tmp_path / "net.pt")
    (tmp_path / f"{factories}.py").unlink()

    with pytest.raises(DataError, match=rf"can't be unpickled: ModuleNotFoundError.*{factories}"):
        load_network(path, arch=None, trust_checkpoint=True)


def test_arguments_without_arch_are_refused(tmp_path: Path, factories: str) -> None:
    path = pickled_net(factories, tmp_path / "net.pt")

    with pytest.raises(UsageError, match="need --arch"):
        load_network(path, arch=None, arch_args={"width": 3}, trust_checkpoint=True)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
class TestTorchScript:
    @pytest.fixture
    def script(self, tmp_path: Path) -> Path:
        module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout(), torch.nn.Linear(3, 2))
        module.load_state_dict(weights())
        torch.jit.save(torch.jit.script(module), tmp_path / "net.pt")
        return tmp_path / "net.pt"

    @pytest.mark.parametrize("arch", [None, "a:b"])
    def test_is_refused_untrusted(self, script: Path, arch: str | None) -> None:
        with pytest.raises(DataError, match=r"TorchScript.*can run code.*--trust-checkpoint"):
            load_network(script, arch=arch)

    def test_loads_when_trusted(self, script: Path) -> None:
        network = load_network(script, arch=None, trust_checkpoint=True)

        assert network.arch == "torchscript"
        assert not network.module.training
        assert network.module(torch.ones(4, 2)).shape == (4, 2)

    def test_gives_its_weights_to_arch(self, script: Path, factories: str) -> None:
        network = load_network(script, arch=f"{factories}:make", trust_checkpoint=True)

        assert isinstance(network.module, torch.nn.Sequential)
        assert torch.equal(network.module[2].weight, weights()["2.weight"])

    def test_damaged(self, tmp_path: Path, script: Path) -> None:
        path = tmp_path / "cut.pt"
        with zipfile.ZipFile(script) as whole, zipfile.ZipFile(path, "w") as cut:
            for member in whole.namelist():
                if not member.endswith("data.pkl"):
                    cut.writestr(member, whole.read(member))

        with pytest.raises(DataError, match="not a readable TorchScript archive"):
            load_network(path, arch=None, trust_checkpoint=True)


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ({"0.bias": None}, "weights 1 missing: 0.bias"),
        ({"extra": torch.ones(1)}, "weights 1 unexpected: extra"),
        ({"2.weight": torch.ones(4, 3)}, "weights 1 of another shape: 2.weight (4, 3) instead of (2, 3)"),
    ],
)
def test_what_does_not_fit_is_an_error_or_a_notice(
    tmp_path: Path, factories: str, left_out: dict[str, torch.Tensor | None], message: str
) -> None:
    given = {name: tensor for name, tensor in (weights() | left_out).items() if tensor is not None}
    path = saved(tmp_path / "net.pt", given)
    with pytest.raises(DataError, match=r"do not fit the network: 1 .*--arch.*--non-strict"):
        load_network(path, arch=f"{factories}:make")

    networks = [load_network(path, arch=f"{factories}:make", strict=False) for _ in range(2)]

    assert networks[0].notices == (message,)
    states = [network.module.state_dict() for network in networks]
    for name, tensor in weights().items():
        if name not in left_out:
            assert torch.equal(states[0][name], tensor)
        assert torch.equal(states[0][name], states[1][name]), "weights of no file are the same in every run"


def test_weights_of_which_none_fits_are_an_error_all_the_same(tmp_path: Path, factories: str) -> None:
    path = saved(tmp_path / "net.pt", {"conv.weight": torch.ones(1)})

    with pytest.raises(DataError, match="4 missing: .*1 unexpected: conv.weight; check --arch") as caught:
        load_network(path, arch=f"{factories}:make", strict=False)
    assert "--non-strict" not in str(caught.value)


def test_a_network_that_fits_has_no_notices_and_no_gradients(tmp_path: Path, factories: str) -> None:
    random = torch.get_rng_state()

    network = load_network(saved(tmp_path / "net.pt", weights()), arch=f"{factories}:make")

    assert network.notices == ()
    assert not any(parameter.requires_grad for parameter in network.module.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_network_too_large_for_memory(tmp_path: Path, factories: str) -> None:
    with pytest.raises(ResourceError, match="not enough memory"):
        load_network(
            saved(tmp_path / "net.pt", weights()), arch=f"{factories}:make", arch_args={"width": 1 << 48}
        )
