"""What the formats declare; and a small artifact of each, for the tests of the files beside this one."""

import math
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import resmem_cli
from resmem_cli.artifacts.declaring import STRING, Layout
from resmem_cli.artifacts.formats import EMBEDDINGS, FORMATS, PREDICTIONS, RESIDUALS, markdown_table
from resmem_cli.artifacts.provenance import InputRecord
from resmem_cli.artifacts.reader import DIGEST_GROUP, open_artifact, open_file
from resmem_cli.artifacts.verifying import verify_blocks
from resmem_cli.artifacts.writer import ArtifactWriter

ALL_FORMATS = list(FORMATS.values())
each_format = pytest.mark.parametrize("fmt", ALL_FORMATS, ids=lambda fmt: fmt.name.removeprefix("resmem."))

# The length of every axis; all differ within a format, so that two axes taken for each other show.
LENGTHS = {"n": 11, "d": 3, "C": 4, "m": 2, "q": 9, "k": 5, "r": 2, "a": 3, "b": 1, "e": 7, "h": 6, "D": 8}
LENGTHS |= {
    "w": 19,
    "t": 20,
    "x": 21,
    "y": 22,
    "z": 23,
    "l": 12,
    "p": 13,
    "c": 14,
    "s": 15,
    "g": 16,
    "f": 17,
    "v": 18,
}
INPUT = InputRecord(role="arrays", file="train.npz", format="arrays", digest="0" * 64)


def sample_arrays(fmt, *, alternative=0, optional=True):
    """Small valid arrays: all datasets of a format, of its alternatives one."""
    chosen = fmt.one_of[alternative] if fmt.one_of else ()
    left_out = {path for group in fmt.one_of for path in group} - set(chosen)
    rng = np.random.default_rng(8)
    return {
        spec.path: _values(rng, tuple(LENGTHS[dim] for dim in spec.dims), spec.dtypes[0])
        for spec in fmt.datasets
        if spec.path not in left_out and (optional or spec.required or spec.path in chosen)
    }


def _values(rng, shape, dtype):
    if dtype == STRING:
        return np.array([f"é{i}".encode() for i in range(math.prod(shape))]).reshape(shape)
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 4, shape).astype(dtype)


def sample_parameters(fmt):
    counts = {"n_classes": LENGTHS["C"], "k": LENGTHS["k"], "n_memory": 1000, "n_queries": 9}
    return {key: counts.get(key, f"a {key}") for key in fmt.parameters}


def write_artifact(path, fmt, arrays, **options):
    """Write arrays as an artifact, each in one piece."""
    options = {"inputs": [INPUT], "parameters": sample_parameters(fmt)} | options
    with ArtifactWriter(path, fmt, **options) as writer:
        for name, values in arrays.items():
            writer.write(name, values)
    return path


def write_sample(path, fmt, **options):
    return write_artifact(path, fmt, sample_arrays(fmt), **options)


def read_everything(path):
    """Open an artifact, check every block, and give all that it says."""
    with open_file(path) as artifact:
        verify_blocks(artifact)
        arrays = {name: artifact.read(name) for name in artifact.shapes}
        values = {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}
        return artifact.header, artifact.dimensions, values


def python(code, *arguments, **environment):
    """Start another interpreter that runs `code` and can import these tests."""
    folders = [Path(__file__).parent, Path(resmem_cli.__file__).parents[1]]
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_formats_are_found_by_the_name_written_in_the_file():
    assert {name: fmt.name for name, fmt in FORMATS.items()} == {name: name for name in FORMATS}
    assert set(FORMATS) == {
        f"resmem.{kind}"
        for kind in (
            "embeddings",
            "residuals",
            "index",
            "predictions",
            "tuning",
            "report",
            "study",
            "manifest",
            "neighbors",
            "trained",
        )
    }


@each_format
def test_versions_count_from_one(fmt):
    assert fmt.version >= 1
    assert fmt.doc


@each_format
def test_no_dataset_is_declared_twice_or_lies_inside_another(fmt):
    paths = sorted(spec.path for spec in fmt.datasets)
    for path, following in pairwise(paths):
        assert path != following
        assert not following.startswith(f"{path}/")


@each_format
def test_no_dataset_takes_the_place_of_the_digests(fmt):
    assert all(spec.path.split("/")[0] != DIGEST_GROUP for spec in fmt.datasets)


@each_format
def test_types_are_numbers_of_fixed_byte_order_or_fixed_strings(fmt):
    for spec in fmt.datasets:
        assert spec.dtypes
        for name in spec.dtypes:
            assert name == STRING or (np.dtype(name).str == name and np.dtype(name).kind in "fiu")


@each_format
def test_axes_have_names_and_differ_within_a_dataset(fmt):
    for spec in fmt.datasets:
        assert spec.dims
        assert len(set(spec.dims)) == len(spec.dims)
        assert all(dim in LENGTHS for dim in spec.dims)
        assert spec.doc


@each_format
def test_alternatives_are_declared_optional_and_differ(fmt):
    groups = [frozenset(group) for group in fmt.one_of]
    assert len(set(groups)) == len(groups)
    assert not any(fmt.spec(path).required for group in groups for path in group)


def test_each_format_has_the_version_it_had_when_it_last_changed():
    assert {fmt.name.removeprefix("resmem."): fmt.version for fmt in ALL_FORMATS} == {
        "embeddings": 2, "residuals": 3, "index": 2, "predictions": 3, "tuning": 1, "report": 2,
        "study": 1, "manifest": 1, "neighbors": 1, "trained": 1,
    }  # fmt: skip


def test_only_what_is_read_at_random_rows_is_mapped():
    mapped = {
        (fmt.name, spec.path) for fmt in ALL_FORMATS for spec in fmt.datasets if spec.layout is Layout.RANDOM
    }
    assert mapped == {
        ("resmem.residuals", "residuals"),
        ("resmem.residuals", "top/classes"),
        ("resmem.residuals", "top/values"),
        ("resmem.index", "vectors"),
        ("resmem.index", "reduced"),
        ("resmem.index", "lists/entries"),
        ("resmem.index", "graph/neighbors"),
    }


def test_a_declaration_is_found_by_its_path():
    assert RESIDUALS.spec("top/values").dtypes == ("<u2",)
    assert PREDICTIONS.spec("neighbors/rows").dims == ("q", "k")


def test_an_unknown_path_names_the_format():
    with pytest.raises(KeyError, match=r"resmem\.embeddings has no dataset residuals"):
        EMBEDDINGS.spec("residuals")


@each_format
def test_the_table_has_a_row_for_the_format_and_each_dataset(fmt):
    lines = markdown_table().splitlines()
    assert f"| **{fmt.name}** {fmt.version} | | | | {fmt.doc} |" in lines
    start = next(i for i, line in enumerate(lines) if fmt.name in line) + 1
    for line, spec in zip(lines[start : start + len(fmt.datasets)], fmt.datasets, strict=True):
        assert line.startswith(f"| | `{spec.path}` | ({spec.dims[0]},")
        assert spec.doc in line
        assert line.endswith("(optional) |") is not spec.required


def test_every_line_of_the_table_has_the_same_cells():
    table = markdown_table()
    assert table.endswith("|\n")
    assert {len(re.findall(r"\|", line)) for line in table.splitlines()} == {6}


@each_format
@pytest.mark.parametrize("optional", [True, False], ids=["whole", "required only"])
def test_every_alternative_can_be_written(tmp_path, fmt, optional):
    for alternative in range(max(1, len(fmt.one_of))):
        arrays = sample_arrays(fmt, alternative=alternative, optional=optional)
        path = write_artifact(tmp_path / f"{alternative}.h5", fmt, arrays)
        with open_artifact(path, fmt) as artifact:
            assert set(artifact.shapes) == set(arrays)
