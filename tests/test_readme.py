"""The README is true: its commands run, its output is the output, its tables are the program's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import classifier_arrays
from reliability.tally import ROWS
from typer.main import get_command

from resmem_cli import errors
from resmem_cli.artifacts.formats import markdown_table
from resmem_cli.cli.main import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"(<!-- [^\n]+ -->\n)?```(\w*)\n(.*?)```", README, flags=re.DOTALL)


def blocks(language: str, comment: str = "") -> list[str]:
    return [text for mark, kind, text in BLOCKS if kind == language and comment in mark]


def run_shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    # `resmem` of the environment that runs the tests, whether or not it is activated.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euc", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def sample_arrays(tmp_path: Path) -> Path:
    arrays = classifier_arrays()
    np.savez(tmp_path / "arrays.npz", **arrays)
    for name, key in (("feats", "embeddings"), ("out", "logits"), ("y", "labels")):
        np.save(tmp_path / f"train_{name}.npy", arrays[f"train_{key}"])
    return tmp_path


def test_the_demo_prints_what_the_readme_shows(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "sample_data", tmp_path / "sample_data", ignore=shutil.ignore_patterns("build"))
    [demo] = [command for command in blocks("sh") if "sample_data" in command]
    done = run_shell(demo.split("&&")[-1], tmp_path)
    assert done.returncode == 0, done.stderr
    [shown] = blocks("", "output of the demo")
    output = [line.rstrip() for line in done.stdout.splitlines() if not line.startswith("make:")]
    expected = shown.splitlines()
    assert len(expected) > 15
    assert output[-len(expected) :] == expected


def test_the_tests_are_installed_as_ci_installs_them() -> None:
    [command] = [command for command in blocks("sh") if "pytest" in command]
    script = (ROOT / ".ci" / "run").read_text()
    install = re.search(r"pip install ('\.\[test\]')", command)
    assert install is not None
    assert f"pip install --quiet {install[1]}\n" in script
    assert script.rstrip().endswith(command.split("&&")[-1].strip())
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def unforeseen(stderr: str) -> list[str]:
    """Leave out the notices, such as what `index` is going to build; warnings of libraries are none."""
    lines = stderr.splitlines()
    return [line for line in lines if not line.startswith("resmem: ") or "error" in line.split(":")[1]]


@pytest.mark.parametrize("command", blocks("sh", "run in sample arrays"))
def test_shell_commands_run(command: str, sample_arrays: Path) -> None:
    done = run_shell(command, sample_arrays)
    assert done.returncode == 0, done.stderr
    assert unforeseen(done.stderr) == []


def test_the_plan_prints_what_the_readme_shows(tmp_path: Path) -> None:
    [command] = blocks("sh", "run in sample arrays: plan")
    [shown] = blocks("", "output of plan")
    done = run_shell(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.rstrip() for line in done.stdout.rstrip().splitlines()] == shown.splitlines()


@pytest.fixture
def sample_networks(tmp_path: Path) -> Path:
    """Write a small image classifier and a small language model, untrained, with what they are run on."""
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    tokenizers = pytest.importorskip("tokenizers", reason="needs the language extra")
    from safetensors.torch import save_file, save_model

    from resmem_cli.models.architectures.base import make_network

    torch.manual_seed(0)
    save_file(make_network("cifar-resnet8").state_dict(), tmp_path / "resnet8.safetensors")
    language_model = make_network("transformer-lm", arch_args={"vocab_size": 300, "width": 32})
    save_model(language_model, str(tmp_path / "lm.safetensors"))
    generator = np.random.default_rng(0)
    np.savez(
        tmp_path / "images.npz",
        x_train=generator.integers(0, 256, size=(20, 32, 32, 3), dtype=np.uint8),
        y_train=generator.integers(0, 100, size=20),
    )
    paragraphs = README.split("\n\n")
    for folder, texts in (("corpus", paragraphs[:20]), ("held_out", paragraphs[20:25])):
        (tmp_path / folder).mkdir()
        for number, text in enumerate(texts):
            (tmp_path / folder / f"{number}.txt").write_text(text)
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([README], vocab_size=300, show_progress=False)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize("command", blocks("sh", "run in sample networks"))
def test_embed_commands_run(command: str, sample_networks: Path) -> None:
    done = run_shell(command, sample_networks)
    assert done.returncode == 0, done.stderr
    assert unforeseen(done.stderr) == []


def test_python_examples_run_one_after_the_other(sample_arrays: Path) -> None:
    run_shell("resmem import arrays.npz --split train -o train.h5", sample_arrays)
    for example in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", example],
            cwd=sample_arrays,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_the_makefile_runs(tmp_path: Path) -> None:
    # Those of shards are run by test_cluster_examples.
    [makefile] = [text for mark, kind, text in BLOCKS if kind == "make" and not mark]
    (tmp_path / "Makefile").write_text(makefile)
    for source, target in (
        ("digits_train.npz", "train.npz"),
        ("digits_test.npz", "test.npz"),
        ("digits.safetensors", "network.safetensors"),
        ("train_digits.py", "my_models.py"),
    ):
        shutil.copy(ROOT / "sample_data" / source, tmp_path / target)
    done = run_shell("make check", tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_format_table_is_the_program_s() -> None:
    shown = re.search(r"<!-- formats: .*? -->\n\n(.*?)\n<!-- end of formats -->", README, flags=re.DOTALL)
    assert shown is not None
    assert shown[1] == markdown_table()


def test_every_exit_code_is_explained() -> None:
    [section] = re.findall(r"^## Exit codes\n(.*?)^## ", README, flags=re.DOTALL | re.MULTILINE)
    explained = {int(code) for code in re.findall(r"^\| (\d+) \|", section, flags=re.MULTILINE)}
    raised = {kind.exit_code for kind in vars(errors).values() if hasattr(kind, "exit_code")}
    assert explained == raised | {0, 1}


def test_every_command_is_listed() -> None:
    [section] = re.findall(r"^## Commands\n(.*?)^## ", README, flags=re.DOTALL | re.MULTILINE)
    listed = set(re.findall(r"^\| `(\w+)` \| [^|]* \| [^|]* \|$", section, flags=re.MULTILINE))
    assert listed == set(get_command(app).list_commands(None))  # type: ignore[attr-defined]


# Cases that the long part has to have.
LEAST = {
    "kills": 600,
    "signals": 300,
    "full disk": 100,
    "memory": 60,
    "mutations": 8_500,
    "crafted": 1_500,
    "replacement": 500,
    "determinism": 200,
    "properties": 5_000,
    "arguments": 5_000,
}


@pytest.mark.parametrize("part", ["quick", "long"])
def test_the_figures_of_reliability_are_those_of_a_run_without_failures(part: str) -> None:
    shown = re.search(
        rf"<!-- reliability programme: {part} -->\n(.*?)\n<!-- end -->", README, flags=re.DOTALL
    )
    assert shown is not None
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+) \| ([\d,]+) \|", shown[1], flags=re.MULTILINE)
    counts = {title: int(cases.replace(",", "")) for title, cases, _ in rows}
    assert [title for title, _, failed in rows if failed != "0"] == []
    titles = {row: title for row, title in ROWS.items() if part == "quick" or row in LEAST}
    assert set(titles.values()) <= set(counts)
    if part == "long":
        assert {row: n for row, n in LEAST.items() if counts[ROWS[row]] < n} == {}
