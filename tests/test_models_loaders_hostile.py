"""Checkpoints that run code when they are loaded: refused before they do, whatever they are called."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from resmem_cli.errors import DataError, UsageError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.checkpoint import load_network  # noqa: E402

nn = torch.nn
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


class Runs:
    """Pickles as a call that creates the canary."""

    def __init__(self, canary: Path, how: str) -> None:
        self.canary, self.how = str(canary), how

    def __reduce__(self) -> tuple[object, ...]:
        if self.how == "system":
            return os.system, (f"touch {self.canary}",)
        return exec, (f"open({self.canary!r}, 'w').close()",)


class Program(nn.Module):
    """Creates the canary while torch.jit.load restores it."""

    def __init__(self, canary: str) -> None:
        super().__init__()
        self.canary = canary

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.canary, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.canary = state[0]
        self.training = state[1]
        torch.save(torch.ones(1), state[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def weights(canary: Path, how: str = "system") -> dict[str, object]:
    return {"weight": torch.ones(2, 2), "bias": torch.ones(2), "more": Runs(canary, how)}


def script(path: Path, canary: Path) -> None:
    torch.jit.save(torch.jit.script(Program(str(canary))), path)


def bare_pickle(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps(Runs(canary, "exec")))


def old_format(path: Path, canary: Path) -> None:
    torch.save(weights(canary), path, _use_new_zipfile_serialization=False)


def wrapped(path: Path, canary: Path) -> None:
    torch.save({"state_dict": {"model": weights(canary, "exec")}}, path)


def exported(path: Path, canary: Path) -> None:
    """Write a torch.export archive one of whose weights is another pickle."""
    whole = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 2).eval(), (torch.ones(2, 2),)), whole)
    with zipfile.ZipFile(whole) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    listing = next(name for name in members if name.endswith("model_weights_config.json"))
    config = json.loads(members[listing])
    config["config"]["weight"]["use_pickle"] = True
    members[listing] = json.dumps(config).encode()
    payload = io.BytesIO()
    torch.save(Runs(canary, "exec"), payload)
    name = config["config"]["weight"]["path_name"]
    members[listing.replace("model_weights_config.json", name)] = payload.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    writer.__name__: writer for writer in (script, bare_pickle, old_format, wrapped, exported)
}


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest) -> Callable[[Path, Path], None]:
    return WRITERS[request.param]


@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".bin", ".safetensors"])
@pytest.mark.parametrize("arch", [None, "torch.nn:Linear"])
@pytest.mark.parametrize("strict", [True, False])
def test_is_refused_and_does_not_run(
    tmp_path: Path, write: Callable[[Path, Path], None], suffix: str, arch: str | None, strict: bool
) -> None:
    path, canary = tmp_path / f"net{suffix}", tmp_path / "canary"
    write(path, canary)
    says_why = "damaged, or not a safetensors" if suffix == ".safetensors" else "can run.*--trust-checkpoint"

    with pytest.raises(DataError, match=says_why):
        load_network(
            path, arch=arch, arch_args={"in_features": 2, "out_features": 2} if arch else None, strict=strict
        )

    assert not canary.exists()


def test_is_really_hostile(tmp_path: Path, write: Callable[[Path, Path], None]) -> None:
    path, canary = tmp_path / "net.pt", tmp_path / "canary"
    write(path, canary)
    assert not canary.exists()

    with contextlib.suppress(DataError, UsageError):
        load_network(path, arch=None, trust_checkpoint=True)

    assert canary.exists()


@pytest.mark.parametrize("trust", [True, False])
def test_the_suffix_of_safetensors_promises_that_nothing_runs(
    tmp_path: Path, write: Callable[[Path, Path], None], trust: bool
) -> None:
    path, canary = tmp_path / "net.safetensors", tmp_path / "canary"
    write(path, canary)

    with pytest.raises(DataError, match="not a safetensors file"):
        load_network(path, arch="torch.nn:Linear", trust_checkpoint=trust)

    assert not canary.exists()


@pytest.mark.parametrize("weights_file", ["pytorch_model.bin", "model.safetensors"])
def test_in_a_hugging_face_folder(
    tmp_path: Path, write: Callable[[Path, Path], None], weights_file: str
) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    write(tmp_path / weights_file, canary)

    with pytest.raises(DataError, match=rf"{weights_file}: is "):
        load_network(tmp_path, arch=None)

    assert not canary.exists()


def test_an_archive_of_two_kinds_is_taken_for_the_program(tmp_path: Path) -> None:
    path, canary = tmp_path / "net.pt", tmp_path / "canary"
    script(path, canary)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/archive_format", "pt2")

    with pytest.raises(DataError, match="TorchScript"):
        load_network(path, arch=None)

    assert not canary.exists()
