"""Networks by name: the registry, and the sources that are optional packages."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resmem_cli.errors import DataError, MissingExtraError, MissingInputError, UsageError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.architectures import base  # noqa: E402
from resmem_cli.models.architectures.base import (  # noqa: E402
    architecture_label,
    architecture_names,
    make_network,
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"asks the network: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test register architectures of its own."""
    architecture_names()
    monkeypatch.setattr(base, "_NAMED", dict(base._NAMED))
    monkeypatch.setattr(base, "_SOURCES", dict(base._SOURCES))


@pytest.mark.usefixtures("registry")
def test_a_registered_name_makes_its_network_with_arguments() -> None:
    @base.architecture("test-linear")
    def make(*, width: int = 2) -> torch.nn.Module:
        return torch.nn.Linear(width, 1)

    assert "test-linear" in architecture_names()
    assert make_network("test-linear").in_features == 2
    assert make_network("test-linear", arch_args={"width": 5}).in_features == 5


@pytest.mark.usefixtures("registry")
def test_a_factory_of_several_names_is_told_which() -> None:
    @base.architecture("test-1", "test-2")
    def make(name: str) -> torch.nn.Module:
        return torch.nn.Linear(int(name[-1]), 1)

    assert [make_network(f"test-{width}").in_features for width in (1, 2)] == [1, 2]


@pytest.mark.usefixtures("registry")
def test_a_source_gets_what_follows_the_colon() -> None:
    seen: list[object] = []

    @base.architecture_source("test", form="test:THING", takes_folder=True)
    def make(rest: str, arch_args: Any) -> torch.nn.Module:
        seen.append((rest, arch_args))
        return torch.nn.Identity()

    make_network("test:a:b", arch_args={"x": 1})

    assert seen == [("a:b", {"x": 1})]
    with pytest.raises(UsageError, match="test:THING"):
        make_network("nothing")


def test_every_name_makes_a_network_that_can_be_named_wrongly() -> None:
    for name in architecture_names():
        with pytest.raises(UsageError, match=rf"--arch: {name}\(no_such=1\) failed: TypeError: .*no_such"):
            make_network(name, arch_args={"no_such": 1})


def test_an_unknown_name_is_offered_the_nearest_and_the_forms() -> None:
    with pytest.raises(UsageError) as caught:
        make_network("cifar-resnet9")

    assert "no such architecture (found cifar-resnet9); give cifar-resnet" in str(caught.value)
    assert "package.module:factory, timm:NAME, transformers:FOLDER" in str(caught.value)


@pytest.mark.parametrize(
    ("arch", "label"),
    [
        ("cifar-resnet8", "cifar-resnet8"),
        ("my.nets:make", "my.nets:make"),
        ("timm:resnet18", "timm:resnet18"),
        ("transformers:/home/someone/models/tiny/", "transformers:tiny"),
        ("transformers:tiny", "transformers:tiny"),
    ],
)
def test_a_label_holds_no_folder(arch: str, label: str) -> None:
    assert architecture_label(arch) == label


def test_the_label_of_the_current_folder_is_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert architecture_label("transformers:.") == f"transformers:{tmp_path.name}"


class TestTimm:
    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
        """Put a package named timm first on the import path."""

        def write(code: str) -> None:
            (tmp_path / "timm.py").write_text(code)
            monkeypatch.syspath_prepend(tmp_path)

        before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "timm"}
        for name in before:
            del sys.modules[name]
        yield write
        for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
            del sys.modules[name]
        sys.modules.update(before)

    @pytest.mark.parametrize(
        ("code", "why"),
        [
            ("raise ImportError('nothing here')", "ImportError: nothing here"),
            (
                "raise RuntimeError('operator torchvision::nms does not exist')",
                "RuntimeError: operator torchvision::nms does not exist",
            ),
        ],
    )
    def test_a_package_that_can_not_be_imported_says_why(
        self, package: Callable[[str], None], code: str, why: str
    ) -> None:
        package(code)

        with pytest.raises(
            MissingExtraError, match=rf"needs timm \({why}\); pip install 'resmem-cli\[timm\]'"
        ):
            make_network("timm:resnet18")

    @pytest.mark.parametrize("name", ["", "hf_hub:timm/resnet18", "hf-hub:a/b", "local-dir:/tmp", "a/b"])
    def test_hubs_and_folders_are_never_asked(self, name: str) -> None:
        with pytest.raises(UsageError, match="not the name of a network of timm's"):
            make_network(f"timm:{name}")

    @pytest.mark.parametrize(
        ("name", "value"),
        [("pretrained", True), ("checkpoint_path", "net.pt"), ("pretrained_cfg", {"url": "x"})],
    )
    def test_other_weights_are_refused(self, name: str, value: object) -> None:
        with pytest.raises(UsageError, match=rf"--arch-args: '{name}' would load other weights"):
            make_network("timm:resnet18", arch_args={name: value})

    @pytest.fixture
    def timm(self) -> Any:
        try:
            import timm
        except Exception as error:
            pytest.skip(f"needs the timm extra ({error})")
        return timm

    @pytest.mark.usefixtures("timm")
    def test_makes_its_networks(self) -> None:
        network = make_network("timm:resnet18", arch_args={"num_classes": 7, "pretrained": False})

        assert network.fc.out_features == 7

    @pytest.mark.usefixtures("timm")
    def test_an_unknown_network_is_offered_the_nearest(self) -> None:
        with pytest.raises(UsageError, match=r"timm has no such network \(found resnet19\); it has .*resnet"):
            make_network("timm:resnet19")

    @pytest.mark.usefixtures("timm")
    def test_an_argument_it_does_not_take(self) -> None:
        with pytest.raises(UsageError, match=r"timm:resnet18\(depth=2\) failed: TypeError"):
            make_network("timm:resnet18", arch_args={"depth": 2})


GPT2 = {"model_type": "gpt2", "vocab_size": 50, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}


class TestTransformers:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Callable[..., str]:
        pytest.importorskip("transformers", reason="needs the transformers extra")

        def write(**changes: object) -> str:
            (tmp_path / "config.json").write_text(json.dumps(GPT2 | changes))
            return f"transformers:{tmp_path}"

        return write

    def test_makes_the_network_of_a_config_in_silence(
        self, folder: Callable[..., str], capfd: pytest.CaptureFixture[str]
    ) -> None:
        network = make_network(folder(dtype="bfloat16", use_cache=True))

        assert type(network).__name__ == "GPT2LMHeadModel"
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        output = network.eval()(torch.tensor([[1, 2, 3]]))
        assert output["logits"].shape == (1, 3, 50)
        assert output.get("past_key_values") is None
        assert capfd.readouterr() == ("", "")

    def test_arguments_replace_values_of_the_config(self, folder: Callable[..., str]) -> None:
        arch = folder()

        assert len(make_network(arch, arch_args={"n_layer": 3}).transformer.h) == 3
        for name in ("no_such", "auto_map", "attn_implementation", "trust_remote_code"):
            with pytest.raises(UsageError, match=f"--arch-args: .*no such value.*found {name}"):
                make_network(arch, arch_args={name: "x"})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"auto_map": {"AutoConfig": "code.Config"}}, "auto_map: names code of its own"),
            ({"quantization_config": {"bits": 4}}, "quantization_config: describes quantised weights"),
            ({"model_type": "no-such"}, "model_type: .*no such model .*found no-such"),
            ({"model_type": None}, "model_type: does not say which model"),
            ({"model_type": "t5"}, "no causal language model: ValueError: Unrecognized"),
            ({"n_head": 3}, "no causal language model: ValueError: .*divisible"),
            ({"n_head": "many"}, "no causal language model: .*'n_head': ."),
        ],
    )
    def test_a_config_that_can_not_be_used(
        self, folder: Callable[..., str], changes: dict[str, object], message: str
    ) -> None:
        with pytest.raises(DataError, match=rf"config\.json: .*{message}"):
            make_network(folder(**changes))

    def test_code_beside_the_config_does_not_run(self, folder: Callable[..., str], tmp_path: Path) -> None:
        (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()")
        automap = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}

        for changes in ({"auto_map": automap}, {"auto_map": automap, "model_type": "custom"}):
            with pytest.raises(DataError, match="--arch package.module:factory"):
                make_network(folder(**changes))

        assert not (tmp_path / "canary").exists()

    @pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
    def test_compiled_code_of_a_repository_is_not_fetched(
        self, folder: Callable[..., str], name: str
    ) -> None:
        network = make_network(folder(**{name: "someone/kernels"}))

        assert network.config._attn_implementation in ("sdpa", "eager")

    @pytest.mark.parametrize("content", ["", "{", "[1]", "[" * 100_000])
    def test_a_damaged_config(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "config.json").write_text(content)

        with pytest.raises(DataError, match=r"config\.json: is not (valid JSON|a JSON object)"):
            make_network(f"transformers:{tmp_path}")

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(MissingInputError, match=r"config\.json: no such file"):
            make_network(f"transformers:{tmp_path / 'gpt2'}")
        with pytest.raises(UsageError, match="names no folder"):
            make_network("transformers:")

    def test_a_missing_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "config.json").write_text(json.dumps(GPT2))
        monkeypatch.setitem(sys.modules, "transformers", None)

        with pytest.raises(MissingExtraError, match=r"pip install 'resmem-cli\[transformers\]'"):
            make_network(f"transformers:{tmp_path}")
