"""Checkpoints of every kind: found from their content, and refused where they are damaged."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from resmem_cli.errors import DataError, MissingInputError

torch = pytest.importorskip("torch", reason="needs the torch extra")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="needs the torch extra")

from resmem_cli.models.checkpoint import load_network  # noqa: E402
from resmem_cli.models.loaders.base import loaders, open_checkpoint  # noqa: E402
from resmem_cli.models.weights import find_weights  # noqa: E402

nn = torch.nn
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout())
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def make_net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval()


def export(net: nn.Module, path: Path, *, dynamic: bool = True) -> None:
    shapes = ({0: torch.export.Dim("b")},) if dynamic else None
    archive = io.BytesIO()  # to a path torch adds its own suffix
    torch.export.save(torch.export.export(net, (torch.zeros(2, 4),), dynamic_shapes=shapes), archive)
    path.write_bytes(archive.getvalue())


WRITERS: dict[str, Callable[[Path], object]] = {
    "SafetensorsWeights": lambda path: safetensors_torch.save_file(make_net().state_dict(), path),
    "TorchSaved": lambda path: torch.save(make_net().state_dict(), path),
    "TorchScriptArchive": lambda path: torch.jit.save(torch.jit.script(make_net()), path),
    "ExportArchive": lambda path: export(make_net(), path),
}
NEED_TRUST = ("TorchScriptArchive", "ExportArchive")


def test_every_registered_reader_of_files_is_tested_here() -> None:
    assert {reader.__name__ for reader in loaders()} == {*WRITERS, "HuggingFaceFolder"}


@pytest.fixture(params=WRITERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ""])
def test_a_file_is_known_by_its_content(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    WRITERS[kind](path)

    checkpoint = open_checkpoint(path)

    assert type(checkpoint).__name__ == kind
    weights = find_weights(checkpoint.read(trusted=kind in NEED_TRUST), path)
    expected = make_net().state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_only_one_reader_recognises_a_file(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path / "net.ckpt")

    assert [reader.__name__ for reader in loaders() if reader.recognises(tmp_path / "net.ckpt")] == [kind]


@pytest.mark.parametrize("arch", [None, "no_such_module:f"])
def test_kinds_that_are_programs_need_trust(tmp_path: Path, arch: str | None) -> None:
    for kind in NEED_TRUST:
        WRITERS[kind](tmp_path / kind)

        with pytest.raises(DataError, match=r"can run code when it is loaded.*--trust-checkpoint.*--arch"):
            load_network(tmp_path / kind, arch=arch)


def test_a_missing_file_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such file"):
        load_network(tmp_path / "none.pt", arch=None)
    with pytest.raises(MissingInputError, match=r"folder has no config\.json.*model\.safetensors"):
        load_network(tmp_path, arch=None)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_a_data_error(tmp_path: Path, kind: str, share: float, trust: bool) -> None:
    WRITERS[kind](tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    path = tmp_path / "net.pt"
    path.write_bytes(content[: int(share * len(content))])

    with pytest.raises(DataError, match=r"net\.pt: "):
        load_network(path, arch=None, trust_checkpoint=trust)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".pt2"])
@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY\x01\x00", b"plain text\n" * 50, b"\x80\x02.", b"PK\x03\x04", bytes(100)]
)
def test_another_kind_of_file_is_a_data_error(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)

    with pytest.raises(DataError, match=rf"net{suffix}: is truncated, damaged, or not a"):
        load_network(path, arch=None)


def test_a_zip_archive_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        archive.writestr("notes/readme.txt", "nothing")

    with pytest.raises(DataError, match=r"not a file that torch\.save wrote"):
        load_network(tmp_path / "net.pt", arch=None)


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.pt")

    with pytest.raises(MissingInputError):
        load_network(tmp_path / "net.pt", arch=None)


class TestExport:
    def test_gives_the_networks_output_at_other_batch_sizes(self, tmp_path: Path) -> None:
        net, path = make_net(), tmp_path / "net.pt2"
        export(net, path)

        network = load_network(path, arch=None, trust_checkpoint=True)

        assert network.arch == "torch.export"
        assert not any(parameter.requires_grad for parameter in network.module.parameters())
        for rows in (1, 2, 7):
            inputs = torch.linspace(-1, 1, rows * 4).reshape(rows, 4)
            assert torch.equal(network.module(inputs), net(inputs))

    def test_keeps_the_names_of_layers_and_their_hooks(self, tmp_path: Path) -> None:
        net, path = make_net(), tmp_path / "net.pt2"
        export(net, path)
        module = load_network(path, arch=None, trust_checkpoint=True).module
        seen: dict[str, torch.Tensor] = {}

        for name in ("body", "body.1", "head"):
            module.get_submodule(name).register_forward_hook(
                lambda _, __, output, name=name: seen.update({name: output})
            )
        inputs = torch.ones(3, 4)
        module(inputs)

        assert isinstance(module.head, nn.Linear), "by its class the head is recognised"
        assert torch.equal(seen["body"], net.body(inputs))
        assert torch.equal(seen["body.1"], net.body[:2](inputs))
        assert torch.equal(seen["head"], net(inputs))

    def test_tied_linear_layers_stay_tied(self, tmp_path: Path) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = nn.Linear(4, 4, bias=False)
                self.again = nn.Linear(4, 4, bias=False)
                self.again.weight = self.first.weight

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.again(self.first(self.first(x)).relu())

        net, path = Tied().eval(), tmp_path / "net.pt2"
        export(net, path)

        module = load_network(path, arch=None, trust_checkpoint=True).module

        assert module.first.weight is module.again.weight
        assert torch.equal(module(torch.ones(3, 4)), net(torch.ones(3, 4)))

    def test_one_batch_size_fails_with_both_sizes_in_the_message(self, tmp_path: Path) -> None:
        export(make_net(), tmp_path / "net.pt2", dynamic=False)
        module = load_network(tmp_path / "net.pt2", arch=None, trust_checkpoint=True).module

        assert module(torch.ones(2, 4)).shape == (2, 3)
        with pytest.raises(RuntimeError, match=r"shape\[0\] to be equal to 2, but got 5.*dynamic_shapes"):
            module(torch.ones(5, 4))

    def test_a_network_exported_in_training_mode_is_refused(self, tmp_path: Path) -> None:
        export(make_net().train(), tmp_path / "net.pt2")

        with pytest.raises(DataError, match=r"in training mode.*found aten\..*call network\.eval\(\)"):
            load_network(tmp_path / "net.pt2", arch=None, trust_checkpoint=True)

    def test_an_archive_without_its_weights(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        export(make_net(), tmp_path / "whole.pt2")
        path = tmp_path / "net.pt2"
        with zipfile.ZipFile(tmp_path / "whole.pt2") as whole, zipfile.ZipFile(path, "w") as cut:
            for member in whole.namelist():
                if "data/weights/" not in member:
                    cut.writestr(member, whole.read(member))

        with pytest.raises(DataError, match=r"not a readable torch\.export archive: "):
            load_network(path, arch=None, trust_checkpoint=True)
        assert not [record for record in caplog.records if record.levelname == "WARNING"]
