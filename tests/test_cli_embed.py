from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Resmem

from resmem_cli import open_artifact

ROOT = Path(__file__).parent.parent

DEFINITION = """
import torch
from torch import nn

def make(width=4):
    print("made by", __name__)
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))
"""


UNKIND = """
import sys
import torch
import networks

def leaves():
    sys.exit(0)

class Widening(torch.nn.Sequential):
    def __init__(self):
        super().__init__(*networks.make())
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        logits = super().forward(x)
        return logits if self.calls < 3 else torch.cat([logits, logits], 1)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network's definition, its weights in three kinds of file, and inputs of 10 rows."""
    folder = tmp_path_factory.mktemp("networks")
    (folder / "networks.py").write_text(DEFINITION)
    script = (
        "import warnings, torch, networks\n"
        "from safetensors.torch import save_file\n"
        "network = networks.make().eval()\n"
        "save_file(network.state_dict(), 'w.safetensors')\n"
        "torch.save({'state_dict': network.state_dict()}, 'w.pt')\n"
        "with warnings.catch_warnings():\n"
        "    warnings.simplefilter('ignore')\n"
        "    torch.jit.script(network).save('script.pt')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
    generator = np.random.default_rng(0)
    np.savez(
        folder / "inputs.npz",
        x=generator.normal(size=(10, 3)).astype(np.float32),
        y=generator.integers(0, 2, size=10),
    )
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path, dirs_exist_ok=True))


def plain_forward(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    script = (
        "import numpy as np, torch, networks\n"
        "network = networks.make().eval()\n"
        "x = torch.from_numpy(np.load('inputs.npz')['x'])\n"
        "with torch.inference_mode():\n"
        "    hidden = network[1](network[0](x))\n"
        "    np.savez('plain.npz', hidden=hidden.numpy(), logits=network[2](hidden).numpy())\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
    with np.load(folder / "plain.npz") as plain:
        return plain["hidden"], plain["logits"]


@pytest.mark.parametrize(
    ("checkpoint", "options"),
    [
        ("w.safetensors", ["--arch", "networks:make"]),
        ("w.pt", ["--arch", "networks:make", "--arch-args", '{"width": 4}', "--batch-size", "3"]),
        ("script.pt", ["--trust-checkpoint"]),
    ],
)
def test_the_input_of_the_last_linear_layer_and_the_logits_are_kept(
    checkpoint: str, options: list[str], folder: Path, resmem_process: Resmem
) -> None:
    done = resmem_process("embed", checkpoint, "inputs.npz", *options, "-o", "out.h5", "--json", cwd=folder)
    assert done.status == 0, done.stderr
    # What the network's code prints is no part of the result.
    assert done.stderr == ("" if checkpoint == "script.pt" else "made by networks\n")
    assert done.result["layer"] == "2:input"
    hidden, logits = plain_forward(folder)
    with open_artifact(folder / "out.h5") as artifact:
        assert np.allclose(artifact.read("embeddings"), hidden, atol=1e-6)
        assert np.allclose(artifact.read("logits"), logits, atol=1e-6)
        assert np.array_equal(artifact.read("labels"), np.load(folder / "inputs.npz")["y"])
        assert artifact.parameters["encoder"]["layer"] == "2:input"


def test_another_layer_can_be_named(folder: Path, resmem_process: Resmem) -> None:
    options = ["--arch", "networks:make", "--layer", "0", "-o", "out.h5"]
    assert resmem_process("embed", "w.safetensors", "inputs.npz", *options, cwd=folder).status == 0
    hidden, _ = plain_forward(folder)
    with open_artifact(folder / "out.h5") as artifact:
        assert np.allclose(np.maximum(artifact.read("embeddings"), 0), hidden, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["w.safetensors", "inputs.npz"], 2, "--arch"),
        (["script.pt", "inputs.npz"], 65, "--trust-checkpoint"),
        (["w.safetensors", "inputs.npz", "--arch", "networks:make", "--layer", "9"], 65, "9"),
        (["w.safetensors", "inputs.npz", "--arch", "nowhere:make"], 2, "nowhere"),
        (["w.safetensors", "inputs.npz", "--arch", "networks:make", "--arch-args", "4"], 2, "JSON object"),
        (["w.safetensors", "wide.npz", "--arch", "networks:make"], 65, "wide.npz"),
        (["w.safetensors", "inputs.npz", "--arch", "networks:make", "--batch-size", "0"], 2, "--batch-size"),
        (["w.safetensors", "labels.npz", "--arch", "networks:make"], 65, "labels.npz"),
        (["w.safetensors", "inputs.npz", "--arch", "unkind:leaves"], 2, "SystemExit"),
        (["w.safetensors", "inputs.npz", "--arch", "unkind:Widening", "--batch-size", "4"], 65, "width"),
        (["missing.safetensors", "inputs.npz", "--arch", "networks:make"], 66, "missing.safetensors"),
    ],
)
def test_what_can_not_be_embedded_is_refused_in_one_line(
    arguments: list[str], status: int, words: str, folder: Path, resmem_process: Resmem
) -> None:
    (folder / "unkind.py").write_text(UNKIND)
    np.savez(folder / "wide.npz", x=np.ones((10, 7), np.float32))
    np.savez(folder / "labels.npz", x=np.ones((2, 3), np.float32), y=np.array([0, 2]))
    done = resmem_process("embed", *arguments, "-o", "out.h5", cwd=folder)
    assert done.status == status, done.stderr
    lines = [line for line in done.stderr.splitlines() if line != "made by networks"]
    assert len(lines) == 1
    assert words in lines[0]
    assert not list(folder.glob("*out.h5*"))


def test_queries_of_another_checkpoint_are_refused(tmp_path: Path, resmem_process: Resmem) -> None:
    for name in ("digits.safetensors", "digits_train.npz", "digits_test.npz", "train_digits.py"):
        shutil.copy(ROOT / "sample_data" / name, tmp_path)
    embed = ["--arch", "train_digits:make_network"]
    train = resmem_process(
        "embed", "digits.safetensors", "digits_train.npz", *embed, "-o", "train.h5", cwd=tmp_path
    )
    assert train.status == 0, train.stderr
    other = "import torch, train_digits; from safetensors.torch import save_file; "
    other += "save_file(train_digits.make_network().state_dict(), 'other.safetensors')"
    subprocess.run([sys.executable, "-c", other], cwd=tmp_path, check=True)
    resmem_process("embed", "other.safetensors", "digits_test.npz", *embed, "-o", "test.h5", cwd=tmp_path)
    resmem_process("residualize", "train.h5", "-o", "r.h5", cwd=tmp_path)
    resmem_process("index", "train.h5", "-o", "i.h5", cwd=tmp_path)
    done = resmem_process("predict", "test.h5", "--index", "i.h5", "--residuals", "r.h5", cwd=tmp_path)
    assert done.status == 65
    assert "checkpoint" in done.stderr


def test_activations_that_are_not_finite_name_inputs_and_weights(
    folder: Path, resmem_process: Resmem
) -> None:
    script = (
        "import torch; from safetensors.torch import load_file, save_file\n"
        "weights = load_file('w.safetensors'); weights['0.bias'][0] = float('nan')\n"
        "save_file(weights, 'nan.safetensors')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
    done = resmem_process(
        "embed", "nan.safetensors", "inputs.npz", "--arch", "networks:make", "-o", "e.h5", cwd=folder
    )
    assert done.status == 65
    assert "inputs.npz: embedding at layer '2:input': row 0 is not finite" in done.stderr
    assert "weights in nan.safetensors" in done.stderr
