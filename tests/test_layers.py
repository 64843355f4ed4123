"""The structure of the package: who may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import resmem_cli

PACKAGE = Path(resmem_cli.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Imports go from a higher layer to a lower one, or stay inside a package. Those of one height are apart.
HEIGHTS = {
    "cli": 8,
    "cluster": 7,
    "stages": 6,
    "plots": 5,
    "residual_memory": 5,
    "tuning": 5,
    "linear_regression": 4,
    "scaling": 4,
    "prediction": 4,
    "arrays": 4,
    "artifacts": 3,
    "indexes": 3,
    "models": 3,
    "memory": 3,
    "analysis": 3,
    "quality": 3,
    "calibration": 2,
    "gate": 2,
    "columns": 1,
    "settings": 0,
    "truncation": 2,
    "logit_space": 1,
    "residuals": 1,
    "memory_size": 1,
    "results": 2,
    "rows": 1,
    "shards": 1,
    "scratch": 1,
    "weights": 1,
    "metrics": 1,
    "files": 1,
    "isolation": 2,
    "lack_of_memory": 1,
    "registry": 0,
    "exponential": 0,
    "largest": 0,
    "threads": 0,
    "types": 0,
    "errors": 0,
    "version": 0,
}
# The package itself offers names of every layer; `python -m resmem_cli` is the command line.
OUTSIDE = {"__init__", "__main__"}

HEAVY = {"torch", "faiss", "h5py", "scipy", "matplotlib", "numpy", "rich", "pyarrow", "PIL", "tokenizers"}
OWNERS = {
    "typer": "cli",
    "rich": "cli",
    "h5py": "artifacts",
    "faiss": "indexes",
    "torch": "models",
    "distributed": "cluster",
    "pyarrow": "arrays",
    "PIL": "arrays",
    "tokenizers": "arrays",
    "transformers": "models",
    "timm": "models",
    "matplotlib": "plots",
}


def place(module: Path) -> str:
    return module.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            yield str(node.module)


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_imports_go_downwards_only(module: Path) -> None:
    own = place(module)
    if own in OUTSIDE:
        return
    for name in imports(module):
        if name.startswith("resmem_cli."):
            other = name.split(".")[1]
            assert other == own or HEIGHTS[other] < HEIGHTS[own], f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_each_heavy_library_is_used_in_one_layer(module: Path) -> None:
    for name in imports(module):
        library = name.split(".")[0]
        assert OWNERS.get(library, place(module)) == place(module), f"{module} imports {name}"


def test_every_module_has_a_place() -> None:
    assert {place(module) for module in MODULES} - OUTSIDE == set(HEIGHTS)


def test_no_module_is_two_ideas_long() -> None:
    assert {str(m): n for m in MODULES if (n := len(m.read_text().splitlines())) > 350} == {}


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["embed", "--help"], ["--version"]])
def test_help_loads_no_heavy_library(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from resmem_cli.cli.main import app\n"
        f"app({arguments!r}, standalone_mode=False)\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_no_numpy() -> None:
    script = "import sys, resmem_cli; assert 'numpy' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_public_names_exist_and_are_documented() -> None:
    for name in resmem_cli.__all__:
        public = getattr(resmem_cli, name)
        assert isinstance(public, str) or (public.__doc__ and len(public.__doc__) > 20), name
    assert set(resmem_cli.__all__) == set(dir(resmem_cli))
