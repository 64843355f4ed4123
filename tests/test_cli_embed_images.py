"""`resmem embed` on images and feature rows."""

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

N = 23
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SCALED = ["--mean", "0.5,0.4,0.3", "--std", "0.2,0.25,0.3"]
RESNET = ["--arch", "cifar-resnet8", "--arch-args", '{"num_classes": 5}']


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small residual network's weights, and images of two splits."""
    folder = tmp_path_factory.mktemp("images")
    torch.manual_seed(0)
    save_file(
        make_network("cifar-resnet8", arch_args={"num_classes": 5}).state_dict(), folder / "w.safetensors"
    )
    generator = np.random.default_rng(0)
    arrays = {"classes": np.array(["ant", "bee", "cat", "dog", "eel"])}
    for split, n in (("train", N), ("test", 7)):
        arrays[f"x_{split}"] = generator.integers(0, 256, size=(n, 8, 8, 3), dtype=np.uint8)
        arrays[f"y_{split}"] = generator.integers(0, 5, size=n)
    np.savez(folder / "images.npz", **arrays)
    return folder


def plain(folder: Path, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embeddings and logits of a plain loop over the same network."""
    network = make_network("cifar-resnet8", arch_args={"num_classes": 5})
    network.load_state_dict(load_file(folder / "w.safetensors"))
    network.eval()
    heads = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
    kept: list[torch.Tensor] = []
    heads[-1].register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0].clone()))
    scaled = (
        torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - torch.tensor(MEAN).view(3, 1, 1)
    ) / (torch.tensor(STD).view(3, 1, 1))
    with torch.inference_mode():
        logits = network(scaled)
    return kept[0].numpy(), logits.numpy()


def arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    with open_artifact(path) as artifact:
        return {name: artifact.read(name) for name in artifact.shapes}


def test_embeddings_and_logits_are_those_of_a_plain_loop(made: Path, tmp_path: Path, resmem: Resmem) -> None:
    done = resmem(
        "embed", made / "w.safetensors", made / "images.npz", "--split", "train", *RESNET, *SCALED,
        "--batch-size", 5, "-o", tmp_path / "train.h5", "--json",
    )  # fmt: skip
    assert done.status == 0, done.stderr
    assert done.result["rows"] == N
    assert done.result["classes"] == 5
    found = arrays(tmp_path / "train.h5")
    with np.load(made / "images.npz") as images:
        embeddings, logits = plain(made, images["x_train"])
        assert np.allclose(found["embeddings"], embeddings, atol=1e-5)
        assert np.allclose(found["logits"], logits, atol=1e-5)
        assert np.array_equal(found["labels"], images["y_train"])
    assert [name.decode() for name in found["class_names"]] == ["ant", "bee", "cat", "dog", "eel"]
    with open_artifact(tmp_path / "train.h5") as artifact:
        encoder = artifact.parameters["encoder"]
        assert encoder["arch"] == "cifar-resnet8"
        assert encoder["preprocessing"]["mean"] == list(MEAN)
        assert [record.role for record in artifact.header.inputs] == ["checkpoint", "inputs"]


@pytest.mark.parametrize("shards", [2, 3, 23])
def test_shards_one_after_another_are_the_whole_to_the_bit(
    shards: int, made: Path, tmp_path: Path, resmem: Resmem
) -> None:
    base = ["embed", made / "w.safetensors", made / "images.npz", "--split", "train", *RESNET, *SCALED]
    base += ["--batch-size", 4]
    assert resmem(*base, "-o", tmp_path / "whole.h5").status == 0
    parts = []
    for i in range(1, shards + 1):
        done = resmem(*base, "--shard", f"{i}/{shards}", "-o", tmp_path / f"{i}.h5")
        assert done.status == 0, done.stderr
        parts.append(arrays(tmp_path / f"{i}.h5"))
    whole = arrays(tmp_path / "whole.h5")
    for name in ("embeddings", "logits", "labels"):
        assert np.array_equal(np.concatenate([part[name] for part in parts]), whole[name])
    lengths = [len(part["labels"]) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    with open_artifact(tmp_path / "2.h5") as artifact:
        first = lengths[0]
        assert artifact.parameters["shard"] == {"shard": 2, "of": shards, "first_row": first, "n": N}


def test_a_shard_has_a_name_of_its_own(made: Path, tmp_path: Path, resmem: Resmem) -> None:
    (tmp_path / "images.npz").write_bytes((made / "images.npz").read_bytes())
    options = ["--split", "test", *RESNET, *SCALED, "--shard", "2/3"]
    assert resmem("embed", made / "w.safetensors", tmp_path / "images.npz", *options).status == 0
    assert (tmp_path / "images.test.shard-2-of-3.embeddings.h5").exists()


def test_float16_is_stored_and_computed_if_asked(made: Path, tmp_path: Path, resmem: Resmem) -> None:
    base = ["embed", made / "w.safetensors", made / "images.npz", "--split", "test", *RESNET, *SCALED]
    assert resmem(*base, "-o", tmp_path / "full.h5").status == 0
    assert resmem(*base, "--storage", "float16", "-o", tmp_path / "stored.h5").status == 0
    assert resmem(*base, "--dtype", "bfloat16", "-o", tmp_path / "computed.h5").status == 0
    full, stored, computed = (arrays(tmp_path / f"{name}.h5") for name in ("full", "stored", "computed"))
    assert stored["embeddings"].dtype == stored["logits"].dtype == np.float16
    assert np.array_equal(stored["embeddings"], full["embeddings"].astype(np.float16))
    assert computed["embeddings"].dtype == np.float32
    assert not np.array_equal(computed["embeddings"], full["embeddings"])
    assert np.allclose(computed["embeddings"], full["embeddings"], atol=0.05)


def test_the_largest_logits_can_be_kept_alone(made: Path, tmp_path: Path, resmem: Resmem) -> None:
    base = ["embed", made / "w.safetensors", made / "images.npz", "--split", "train", *RESNET, *SCALED]
    assert resmem(*base, "-o", tmp_path / "full.h5").status == 0
    assert resmem(*base, "--top", 2, "-o", tmp_path / "top.h5").status == 0
    full, top = arrays(tmp_path / "full.h5"), arrays(tmp_path / "top.h5")
    assert "logits" not in top
    order = np.argsort(-full["logits"], axis=1)[:, :2]
    assert np.array_equal(top["logits_top/classes"], order)
    assert np.array_equal(top["logits_top/values"], np.take_along_axis(full["logits"], order, axis=1))
    assert np.allclose(top["logsumexp"], np.log(np.exp(full["logits"].astype(np.float64)).sum(1)), atol=1e-12)
    assert np.array_equal(top["label_logit"], full["logits"][np.arange(N), full["labels"]])


def test_layers_are_listed_with_their_shapes_and_the_default(
    made: Path, tmp_path: Path, resmem: Resmem
) -> None:
    base = ["embed", made / "w.safetensors", made / "images.npz", "--split", "train", *RESNET, *SCALED]
    done = resmem(*base, "--list-layers", cwd=tmp_path)
    assert done.status == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    marked = [line for line in done.stdout.splitlines() if "the embedding" in line]
    assert len(marked) == 1
    assert "Linear" in marked[0]
    as_json = resmem(*base, "--list-layers", "--json")
    layers = as_json.result["layers"]
    default = [layer for layer in layers if layer["role"] == "embedding"]
    assert default[0]["output_shapes"] == [[2, 5]]
    spatial = next(layer for layer in layers if len(layer["output_shapes"][0]) == 4)
    done = resmem(*base, "--layer", spatial["name"], "--pool", "mean", "-o", tmp_path / "pooled.h5", "--json")
    assert done.status == 0, done.stderr
    assert done.result["dimensions"] == spatial["output_shapes"][0][1]
    done = resmem(*base, "--layer", spatial["name"], "-o", tmp_path / "none.h5")
    assert done.status == 65
    assert "--pool" in done.stderr


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ([], 65, "--mean"),
        (["--mean", "0.5"], 2, "--std"),
        (["--mean", "a", "--std", "1"], 2, "--mean"),
        (["--mean", "127", "--std", "50"], 2, "255"),
        (["--mean", "0.5,0.5", "--std", "1,1"], 2, "one a channel"),
        ([*SCALED, "--shard", "0/2"], 2, "--shard"),
        ([*SCALED, "--shard", "3/2"], 2, "--shard"),
        ([*SCALED, "--shard", "1/99"], 2, "--shard"),
        ([*SCALED, "--shard", "half"], 2, "1/4"),
        ([*SCALED, "--top", "0"], 2, "--top"),
        ([*SCALED, "--top", "6"], 2, "6"),
        ([*SCALED, "--device", "cuda:7"], 2, "cpu"),
        ([*SCALED, "--layer", "nowhere"], 65, "nowhere"),
        ([*SCALED, "--arch", "cifar-resnet9"], 2, "cifar-resnet8"),
        ([*SCALED, "--arch", "cifar-resnet14"], 65, "missing"),
        ([*SCALED, "--labels", "none", "--class-names", "images.npz:y_test"], 65, "class names"),
    ],
)
def test_what_can_not_be_embedded_is_refused_in_one_line(
    options: list[str], status: int, words: str, made: Path, tmp_path: Path, resmem: Resmem
) -> None:
    (tmp_path / "images.npz").write_bytes((made / "images.npz").read_bytes())
    arch = [] if "--arch" in options else RESNET
    if "--arch" in options:
        options = [*options, "--arch-args", '{"num_classes": 5}']
    done = resmem(
        "embed", made / "w.safetensors", "images.npz", "--split", "test", *arch, *options, "-o", "out.h5",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.status == status, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["images.npz"]


def test_weights_that_do_not_fit_are_left_out_only_if_asked(
    made: Path, tmp_path: Path, resmem: Resmem
) -> None:
    base = ["embed", made / "w.safetensors", made / "images.npz", "--split", "test", "--labels", "none"]
    base += ["--class-names", "none", "--arch", "cifar-resnet8", *SCALED, "-o", tmp_path / "out.h5"]
    strict = resmem(*base, "--arch-args", '{"num_classes": 4}')
    assert strict.status == 65
    assert "--non-strict" in strict.stderr
    loose = resmem(*base, "--arch-args", '{"num_classes": 4}', "--non-strict", "--json")
    assert loose.status == 0, loose.stderr
    assert "instead of" in " ".join(loose.json["notices"])


@pytest.mark.parametrize(
    ("options", "what"),
    [(["--mean", "0.5", "--std", "0.5"], "preprocessing"), ([*SCALED, "--layer", "HEAD"], "layer")],
)
def test_queries_embedded_in_another_way_are_refused(
    options: list[str], what: str, made: Path, tmp_path: Path, resmem: Resmem
) -> None:
    base = ["embed", made / "w.safetensors", made / "images.npz", *RESNET]
    listed = resmem(*base, "--split", "test", *SCALED, "--list-layers", "--json").result["layers"]
    # The layer before the head's: its output is as wide as the embedding.
    before = listed[listed.index(next(x for x in listed if x["role"] == "embedding")) - 1]["name"]
    options = [before if option == "HEAD" else option for option in options]
    assert resmem(*base, "--split", "train", *SCALED, "-o", tmp_path / "train.h5").status == 0
    done = resmem(*base, "--split", "test", *options, "-o", tmp_path / "test.h5")
    assert done.status == 0, done.stderr
    resmem("residualize", tmp_path / "train.h5", "-o", tmp_path / "r.h5")
    resmem("index", tmp_path / "train.h5", "-o", tmp_path / "i.h5")
    done = resmem(
        "predict",
        tmp_path / "test.h5",
        "--index",
        tmp_path / "i.h5",
        "--residuals",
        tmp_path / "r.h5",
        "-k",
        5,
    )
    assert done.status == 65
    assert what in done.stderr


def test_a_folder_of_images_in_class_folders_is_embedded(made: Path, tmp_path: Path, resmem: Resmem) -> None:
    images = pytest.importorskip("PIL.Image", reason="needs the images extra")
    with np.load(made / "images.npz") as stored:
        pixels = stored["x_test"]
    for i, name in enumerate(("ant", "bee", "cat", "dog", "eel")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        images.fromarray(pixels[i]).save(tmp_path / "photos" / name / f"{i}.png")
    done = resmem(
        "embed",
        made / "w.safetensors",
        tmp_path / "photos",
        *RESNET,
        *SCALED,
        "-o",
        tmp_path / "out.h5",
        "--json",
    )
    assert done.status == 0, done.stderr
    found = arrays(tmp_path / "out.h5")
    embeddings, _ = plain(made, pixels[:5])
    assert np.allclose(found["embeddings"], embeddings, atol=1e-5)
    assert found["labels"].tolist() == [0, 1, 2, 3, 4]
    assert found["ids"].tolist() == [b"ant/0.png", b"bee/1.png", b"cat/2.png", b"dog/3.png", b"eel/4.png"]
    assert found["class_names"].tolist() == [b"ant", b"bee", b"cat", b"dog", b"eel"]
    assert json.loads(done.stdout)["result"]["rows"] == 5
