"""`resmem embed` on token ids and text: a memory of language."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Resmem
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs the torch extra")

from safetensors.torch import load_file, save_file  # noqa: E402

from resmem_cli import open_artifact  # noqa: E402
from resmem_cli.models.architectures.base import make_network  # noqa: E402

VOCABULARY = 60
ARCH_ARGS = {"vocab_size": VOCABULARY, "context": 16, "width": 16, "depth": 2, "heads": 2}
MODEL = ["--arch", "transformer-lm", "--arch-args", json.dumps(ARCH_ARGS), "--window", 16, "--stride", 12]
LENGTHS = (1, 40, 2, 17, 0, 16, 100, 5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small language model and documents of tokens."""
    folder = tmp_path_factory.mktemp("language")
    torch.manual_seed(0)
    network = make_network("transformer-lm", arch_args=ARCH_ARGS)
    save_file(
        {name: value.clone() for name, value in network.state_dict().items()}, folder / "lm.safetensors"
    )
    generator = np.random.default_rng(0)
    np.savez(
        folder / "tokens.npz",
        tokens=generator.integers(0, VOCABULARY, size=sum(LENGTHS)).astype(np.uint16),
        offsets=np.concatenate([[0], np.cumsum(LENGTHS)]),
    )
    return folder


def by_hand(
    folder: Path, documents: list[list[int]]
) -> tuple[NDArray[np.float32], NDArray[np.float32], list[int]]:
    """Keys, logits and targets of every token that has a next one, each window alone."""
    network = make_network("transformer-lm", arch_args=ARCH_ARGS)
    network.load_state_dict(load_file(folder / "lm.safetensors"))
    network.eval()
    kept: list[torch.Tensor] = []
    mlp = network.get_submodule(f"blocks.{ARCH_ARGS['depth'] - 1}.mlp")
    mlp.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0].clone()))
    keys, logits, targets = [], [], []
    for document in documents:
        for position in range(len(document) - 1):
            # The first window in which the token has 4 tokens before it, or the document's first.
            start = 0
            while position - start >= 16:
                start += 12
            with torch.inference_mode():
                output = network(torch.tensor([document[start : start + 16]]))
            keys.append(kept[-1][0, position - start].numpy())
            logits.append(output[0, position - start].numpy())
            targets.append(document[position + 1])
    return np.array(keys), np.array(logits), targets


def arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    with open_artifact(path) as artifact:
        return {name: artifact.read(name) for name in artifact.shapes}


def documents(folder: Path) -> list[list[int]]:
    with np.load(folder / "tokens.npz") as stored:
        return [part.tolist() for part in np.split(stored["tokens"], stored["offsets"][1:-1])]


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_keys_and_targets_are_those_of_windows_by_hand(
    batch: int, made: Path, tmp_path: Path, resmem: Resmem
) -> None:
    done = resmem(
        "embed", made / "lm.safetensors", made / "tokens.npz", *MODEL, "--batch-size", batch,
        "-o", tmp_path / "out.h5", "--json",
    )  # fmt: skip
    assert done.status == 0, done.stderr
    keys, logits, targets = by_hand(made, documents(made))
    found = arrays(tmp_path / "out.h5")
    assert done.result["layer"] == "blocks.1.mlp:input"
    assert np.allclose(found["embeddings"], keys, atol=1e-5)
    assert np.allclose(found["logits"], logits, atol=1e-5)
    assert found["labels"].tolist() == targets
    # Each row's id is its token's place in the file, so any neighbour can be traced to its text.
    tokens = np.load(made / "tokens.npz")["tokens"]
    assert np.array_equal(tokens[found["ids"] + 1], found["labels"])
    assert found["documents/lengths"].tolist() == list(LENGTHS)


def test_rows_of_a_matrix_are_documents_filled_up_with_a_padding_id(
    made: Path, tmp_path: Path, resmem: Resmem
) -> None:
    parts = documents(made)
    matrix = np.full((len(parts), max(LENGTHS)), VOCABULARY + 7)
    for row, part in zip(matrix, parts, strict=True):
        row[: len(part)] = part
    np.save(tmp_path / "matrix.npy", matrix)
    base = ["embed", made / "lm.safetensors"]
    assert resmem(*base, made / "tokens.npz", *MODEL, "-o", tmp_path / "flat.h5").status == 0
    done = resmem(
        *base, tmp_path / "matrix.npy", *MODEL, "--pad-id", VOCABULARY + 7, "-o", tmp_path / "matrix.h5"
    )
    assert done.status == 0, done.stderr
    flat, padded = arrays(tmp_path / "flat.h5"), arrays(tmp_path / "matrix.h5")
    for name in ("embeddings", "logits", "labels"):
        assert np.array_equal(flat[name], padded[name])


def test_top_logits_give_the_top_residuals_of_the_dense_ones(
    made: Path, tmp_path: Path, resmem: Resmem
) -> None:
    base = ["embed", made / "lm.safetensors", made / "tokens.npz", *MODEL]
    assert resmem(*base, "-o", tmp_path / "dense.h5").status == 0
    assert resmem(*base, "--top", 10, "-o", tmp_path / "top.h5").status == 0
    for name in ("dense", "top"):
        done = resmem(
            "residualize", tmp_path / f"{name}.h5", "-T", 1, "--top", 10, "-o", tmp_path / f"{name}.r.h5"
        )
        assert done.status == 0, done.stderr
    dense, top = arrays(tmp_path / "dense.r.h5"), arrays(tmp_path / "top.r.h5")
    assert np.array_equal(dense["top/classes"], top["top/classes"])
    assert np.array_equal(dense["top/values"], top["top/values"])
    for options in (["--top", 10], ["--top", 10, "-T", 2]):
        done = resmem("residualize", tmp_path / "top.h5", *options, "-o", tmp_path / "no.h5")
        assert done.status == 2, done.stderr
        assert "-T 1" in done.stderr


def test_a_memory_of_language_predicts_what_it_has_seen(made: Path, tmp_path: Path, resmem: Resmem) -> None:
    base = ["embed", made / "lm.safetensors", made / "tokens.npz", *MODEL, "--top", 10]
    assert resmem(*base, "-o", tmp_path / "m.h5").status == 0
    assert resmem("residualize", tmp_path / "m.h5", "-T", 1, "--top", 10, "-o", tmp_path / "r.h5").status == 0
    assert resmem("index", tmp_path / "m.h5", "-o", tmp_path / "i.h5").status == 0
    done = resmem(
        "predict", tmp_path / "m.h5", "--index", tmp_path / "i.h5", "--residuals", tmp_path / "r.h5",
        "-k", 5, "--sigma", 0.001, "--top-scores", 5, "-o", tmp_path / "p.h5",
    )  # fmt: skip
    assert done.status == 0, done.stderr
    predictions = arrays(tmp_path / "p.h5")
    # With a small sigma the memory gives back every target; equal contexts have equal embeddings.
    assert (predictions["predicted"] == predictions["labels"]).mean() > 0.97


def test_texts_are_tokenised_and_named(made: Path, tmp_path: Path, resmem: Resmem) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="needs the language extra")
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    parts = documents(made)
    for i, part in enumerate(parts):
        folder = tmp_path / "texts" / f"{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.md").write_text(" ".join(f"w{token}" for token in part))
    (tmp_path / "texts" / "other.bin").write_bytes(b"\xff\xfe\x00")
    done = resmem(
        "embed", made / "lm.safetensors", tmp_path / "texts", *MODEL,
        "--tokenizer", tmp_path / "tokenizer.json", "--glob", "**/*.md", "-o", tmp_path / "out.h5", "--json",
    )  # fmt: skip
    assert done.status == 0, done.stderr
    found = arrays(tmp_path / "out.h5")
    order = [*range(0, len(parts), 2), *range(1, len(parts), 2)]
    keys, _, targets = by_hand(made, [parts[i] for i in order])
    assert np.allclose(found["embeddings"], keys, atol=1e-5)
    assert found["labels"].tolist() == targets
    names = [name.decode() for name in found["documents/names"]]
    assert names == [f"{i % 2}/{i}.md" for i in order]
    with open_artifact(tmp_path / "out.h5") as artifact:
        assert {record.role for record in artifact.header.inputs} == {"checkpoint", "tokenizer", "inputs"}


def test_shards_of_tokens_are_the_whole_to_the_bit(made: Path, tmp_path: Path, resmem: Resmem) -> None:
    base = ["embed", made / "lm.safetensors", made / "tokens.npz", *MODEL, "--batch-size", 3]
    assert resmem(*base, "-o", tmp_path / "whole.h5").status == 0
    parts = []
    for i in range(1, 5):
        assert resmem(*base, "--shard", f"{i}/4", "-o", tmp_path / f"{i}.h5").status == 0
        parts.append(arrays(tmp_path / f"{i}.h5"))
    whole = arrays(tmp_path / "whole.h5")
    for name in ("embeddings", "logits", "labels", "ids"):
        assert np.array_equal(np.concatenate([part[name] for part in parts]), whole[name])


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--stride", "17"], 2, "stride"),
        (["--window", "17"], 65, "16"),
        (["--pool", "mean"], 2, "--pool"),
        (["--top", "61"], 2, "60"),
        (["--tokenizer", "missing.json"], 66, "missing.json"),
        (["--offsets", "nowhere"], 65, "nowhere"),
    ],
)
def test_what_can_not_be_embedded_is_refused_in_one_line(
    options: list[str], status: int, words: str, made: Path, tmp_path: Path, resmem: Resmem
) -> None:
    pytest.importorskip("tokenizers", reason="needs the language extra")
    (tmp_path / "tokens.npz").write_bytes((made / "tokens.npz").read_bytes())
    done = resmem(
        "embed", made / "lm.safetensors", "tokens.npz", *MODEL, *options, "-o", "out.h5", cwd=tmp_path
    )
    assert done.status == status, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.npz"]


def test_ids_outside_the_vocabulary_are_refused(made: Path, tmp_path: Path, resmem: Resmem) -> None:
    np.save(tmp_path / "tokens.npy", np.array([1, 2, VOCABULARY, 3]))
    done = resmem(
        "embed", made / "lm.safetensors", tmp_path / "tokens.npy", *MODEL, "-o", tmp_path / "out.h5"
    )
    assert done.status == 65
    assert len(done.stderr.splitlines()) == 1
    assert str(VOCABULARY - 1) in done.stderr
