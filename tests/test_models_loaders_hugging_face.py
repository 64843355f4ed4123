"""Folders in the Hugging Face layout, from their files to their logits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resmem_cli.errors import DataError, MissingInputError

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the transformers extra")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="needs the torch extra")

from resmem_cli.models.checkpoint import load_network  # noqa: E402

TOKENS = torch.arange(14).reshape(2, 7)


def gpt2() -> Any:
    sizes = {"vocab_size": 50, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    return seeded(lambda: transformers.GPT2LMHeadModel(config))


def llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        tie_word_embeddings=False,
    )
    return seeded(lambda: transformers.LlamaForCausalLM(config))


def gpt_neox() -> Any:
    """Make a model whose head is stored under another name than it has."""
    sizes = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.GPTNeoXConfig(**sizes, intermediate_size=8, max_position_embeddings=16)
    return seeded(lambda: transformers.GPTNeoXForCausalLM(config))


def mixtral() -> Any:
    """Make a model whose experts are stored apart and are one tensor of it."""
    sizes = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "intermediate_size": 8, "num_local_experts": 2}
    return seeded(lambda: transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes)))


def seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def logits(module: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return module(TOKENS)["logits"]


@pytest.mark.parametrize("make", [gpt2, llama, gpt_neox, mixtral])
@pytest.mark.parametrize("shard", ["1GB", "5KB"])
def test_a_saved_model_gives_its_logits_to_the_bit(
    tmp_path: Path, make: Callable[[], Any], shard: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model, folder = make(), tmp_path / "tiny"
    model.save_pretrained(folder, max_shard_size=shard)
    assert (folder / "model.safetensors.index.json").exists() == (shard == "5KB")
    capfd.readouterr()

    network = load_network(folder, arch=None)

    assert capfd.readouterr() == ("", "")
    assert network.arch == "transformers:tiny"
    assert not network.module.training
    assert not any(parameter.requires_grad for parameter in network.module.parameters())
    assert torch.equal(logits(network.module), logits(model))


def test_weights_in_half_precision_keep_their_values(tmp_path: Path) -> None:
    model = llama().bfloat16()
    model.save_pretrained(tmp_path)

    module = load_network(tmp_path, arch=None).module

    assert torch.equal(module.lm_head.weight, model.lm_head.weight.float())


def test_tied_weights_stored_once(tmp_path: Path) -> None:
    model = gpt2()
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in safetensors_torch.load_file(tmp_path / "model.safetensors")

    module = load_network(tmp_path, arch=None).module

    assert module.lm_head.weight.data_ptr() == module.transformer.wte.weight.data_ptr()
    assert torch.equal(module.lm_head.weight, model.lm_head.weight)


def test_the_body_saved_alone_and_the_buffers_of_old_checkpoints(tmp_path: Path) -> None:
    model = gpt2()
    model.transformer.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 16, 16) for layer in range(2)}
    safetensors_torch.save_file(safetensors_torch.load_file(path) | masks, path)

    network = load_network(tmp_path, arch=None)

    assert network.notices == ()
    assert torch.equal(logits(network.module), logits(model))


@pytest.mark.parametrize("sharded", [False, True])
def test_pickled_weights(tmp_path: Path, sharded: bool) -> None:
    model = gpt2()
    model.config.save_pretrained(tmp_path)
    state = model.state_dict()
    if sharded:
        names = sorted(state)
        places = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(names)}
        for file in set(places.values()):
            torch.save({name: state[name] for name in names if places[name] == file}, tmp_path / file)
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    else:
        torch.save(state, tmp_path / "pytorch_model.bin")

    assert torch.equal(logits(load_network(tmp_path, arch=None).module), logits(model))


def test_a_weights_file_with_the_folder_as_arch(tmp_path: Path) -> None:
    model, folder = gpt2(), tmp_path / "tiny"
    model.config.save_pretrained(folder)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "trained.ckpt")

    network = load_network(tmp_path / "trained.ckpt", arch=f"transformers:{folder}")

    assert network.arch == "transformers:tiny"
    assert torch.equal(logits(network.module), logits(model))


def test_the_digest_is_of_the_lines_of_sha256sum(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path)
    digests = {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("config.json", "model.safetensors")
    }
    lines = "".join(f"{digest}  {name}\n" for name, digest in digests.items())

    assert load_network(tmp_path, arch=None).digest == hashlib.sha256(lines.encode()).hexdigest()


def test_the_digest_changes_with_a_shard_but_not_with_other_files(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path, max_shard_size="5KB")
    before = load_network(tmp_path, arch=None).digest
    (tmp_path / "tokenizer.json").write_text("{}")
    assert load_network(tmp_path, arch=None).digest == before
    shard = next(tmp_path.glob("*-00002-of-*"))
    weights = safetensors_torch.load_file(shard)
    safetensors_torch.save_file({name: tensor + 1 for name, tensor in weights.items()}, shard)

    assert load_network(tmp_path, arch=None).digest != before


def test_nothing_is_made_up_for_weights_that_are_missing(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = safetensors_torch.load_file(path)
    del weights["lm_head.weight"]
    safetensors_torch.save_file(weights, path)

    with pytest.raises(DataError, match=r"1 missing: lm_head\.weight"):
        load_network(tmp_path, arch=None)
    assert load_network(tmp_path, arch=None, strict=False).notices == ("weights 1 missing: lm_head.weight",)


@pytest.mark.parametrize("strict", [True, False])
def test_what_does_not_fit_after_other_weights_were_renamed(tmp_path: Path, strict: bool) -> None:
    model = gpt_neox()
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = safetensors_torch.load_file(path)
    del weights["gpt_neox.final_layer_norm.bias"]
    weights |= {"gpt_neox.final_layer_norm.weight": torch.ones(3), "spare": torch.ones(1)}
    safetensors_torch.save_file(weights, path)
    problems = [
        "1 missing: gpt_neox.final_layer_norm.bias",
        "1 unexpected: spare",
        "1 of another shape: gpt_neox.final_layer_norm.weight (3,) instead of (8,)",
    ]

    if strict:
        with pytest.raises(DataError) as caught:
            load_network(tmp_path, arch=None)
        assert "; ".join(problems) in str(caught.value)
    else:
        network = load_network(tmp_path, arch=None, strict=False)
        assert network.notices == tuple(f"weights {problem}" for problem in problems)
        assert torch.equal(network.module.lm_head.weight, model.lm_head.weight)


class TestIndex:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "tiny"
        gpt2().save_pretrained(folder, max_shard_size="5KB")
        return folder

    def change(self, folder: Path, value: object) -> None:
        (folder / "model.safetensors.index.json").write_text(json.dumps(value))

    def places(self, folder: Path) -> dict[str, str]:
        return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]

    @pytest.mark.parametrize(
        "place", ["../other.safetensors", "{}/other.safetensors", "sub/x", "..", ".", ""]
    )
    def test_a_file_outside_the_folder_is_refused(self, folder: Path, place: str) -> None:
        (folder.parent / "other.safetensors").write_bytes(next(folder.glob("*-00001-of-*")).read_bytes())
        places = self.places(folder)
        name = next(iter(places))
        places[name] = place.format(folder.parent)
        self.change(folder, {"weight_map": places})

        with pytest.raises(DataError, match=rf"index\.json: {name}: .*outside the folder"):
            load_network(folder, arch=None)

    @pytest.mark.parametrize("value", [[], {}, {"weight_map": []}, {"weight_map": {"a": 3}}])
    def test_is_not_an_index(self, folder: Path, value: object) -> None:
        self.change(folder, value)

        with pytest.raises(DataError, match=r"index\.json: is not (an index|a JSON object)"):
            load_network(folder, arch=None)

    def test_of_no_weights(self, folder: Path) -> None:
        self.change(folder, {"weight_map": {}})

        with pytest.raises(DataError, match=r"index\.json: is not an index of weights"):
            load_network(folder, arch=None)

    def test_a_missing_shard(self, folder: Path) -> None:
        next(folder.glob("*-00002-of-*")).unlink()

        with pytest.raises(MissingInputError, match=r"00002-of-00002\.safetensors: no such file"):
            load_network(folder, arch=None)

    def test_a_weight_that_is_not_in_its_shard(self, folder: Path) -> None:
        places = self.places(folder)
        first, second = sorted(set(places.values()))
        name = next(name for name, file in places.items() if file == first)
        self.change(folder, {"weight_map": places | {name: second}})

        with pytest.raises(DataError, match=rf"{second}: {name}: has not all the weights"):
            load_network(folder, arch=None)

    def test_a_truncated_shard(self, folder: Path) -> None:
        shard = next(folder.glob("*-00002-of-*"))
        shard.write_bytes(shard.read_bytes()[:-4])

        with pytest.raises(DataError, match=rf"{shard.name}: is truncated"):
            load_network(folder, arch=None)


@pytest.mark.parametrize("needed", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file(tmp_path: Path, needed: str) -> None:
    gpt2().save_pretrained(tmp_path)
    (tmp_path / needed).unlink()

    with pytest.raises(MissingInputError, match=rf"the folder has no {needed}"):
        load_network(tmp_path, arch=None)
