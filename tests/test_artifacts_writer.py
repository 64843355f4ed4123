"""What is written: all of it, the same bytes every time, or nothing."""

import os
import time

import h5py
import numpy as np
import pytest
from h5py import h5d
from test_artifacts_formats import (
    INPUT,
    LENGTHS,
    each_format,
    python,
    read_everything,
    sample_arrays,
    sample_parameters,
    write_artifact,
    write_sample,
)

from resmem_cli.artifacts.declaring import Layout
from resmem_cli.artifacts.formats import EMBEDDINGS, INDEX, PREDICTIONS, RESIDUALS
from resmem_cli.artifacts.provenance import InputRecord, block_rows
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError
from resmem_cli.version import __version__

RNG = np.random.default_rng(5)
# 15 rows in three blocks of 5, and 10 in three blocks of 4, 4 and 2.
IN_ORDER = RNG.standard_normal((15, 40_000)).astype("<f4")
AT_RANDOM = RNG.standard_normal((10, 4_000)).astype("<f4")


def write_index(path, vectors=AT_RANDOM, **options):
    mean = vectors.mean(axis=0, dtype="<f8")
    return write_artifact(path, INDEX, {"vectors": vectors, "mean": mean}, **options)


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


# What is written


@each_format
def test_what_was_written_is_read(tmp_path, fmt):
    arrays = sample_arrays(fmt)
    header, dimensions, values = read_everything(write_artifact(tmp_path / "a.h5", fmt, arrays))
    assert values == {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}
    assert dimensions == {dim: LENGTHS[dim] for dim in dimensions}
    assert (header.format, header.version) == (fmt, fmt.version)
    assert header.generated_by == f"resmem-cli {__version__}"
    assert header.parameters == sample_parameters(fmt)
    assert header.inputs == (INPUT,)
    assert contents(tmp_path) == ["a.h5"]


def test_parameters_known_only_while_writing_are_kept(tmp_path):
    with ArtifactWriter(tmp_path / "a.h5", EMBEDDINGS, parameters={"sources": {}}) as writer:
        writer.set_parameters(n=1, sources={"embeddings": "z"})
        writer.write("embeddings", np.ones((1, 2), "<f4"))
    header, _, _ = read_everything(tmp_path / "a.h5")
    assert header.parameters == {"sources": {"embeddings": "z"}, "n": 1}


def test_parameters_may_be_longer_than_an_attribute_of_old_hdf5(tmp_path):
    parameters = {"sources": "é" * 100_000}
    write_artifact(tmp_path / "a.h5", EMBEDDINGS, sample_arrays(EMBEDDINGS), parameters=parameters)
    header, _, _ = read_everything(tmp_path / "a.h5")
    assert header.parameters == parameters


def test_an_input_s_name_need_not_be_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.npz")
    record = InputRecord(role="arrays", file=name, format="arrays", digest="0")
    write_sample(tmp_path / "a.h5", EMBEDDINGS, inputs=[record])
    header, _, _ = read_everything(tmp_path / "a.h5")
    assert header.inputs[0].file == "caf?.npz"


# The same bytes


@pytest.fixture(scope="module")
def written_elsewhere(tmp_path_factory):
    """One artifact of each format, and two of several blocks, by a process unlike this one.

    Its clock shows another second, its memory is filled with other garbage.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    code = """
import sys, time
from pathlib import Path
from test_artifacts_formats import ALL_FORMATS, write_artifact, write_sample
from test_artifacts_writer import EMBEDDINGS, IN_ORDER, write_index
while int(time.time()) <= int(sys.argv[2]):
    time.sleep(0.02)
folder = Path(sys.argv[1])
for fmt in ALL_FORMATS:
    write_sample(folder / fmt.name, fmt)
write_artifact(folder / "in order", EMBEDDINGS, {"embeddings": IN_ORDER[:13]})
write_index(folder / "at random")
"""
    process = python(
        code,
        folder,
        int(time.time()),
        PYTHONHASHSEED="77",
        TZ="Pacific/Kiritimati",
        MALLOC_PERTURB_="90",
    )
    assert process.communicate(timeout=60)[1] == ""
    return folder


@each_format
def test_the_same_content_has_the_same_bytes(tmp_path, written_elsewhere, fmt):
    here = write_sample(tmp_path / "another name.h5", fmt).read_bytes()
    assert here == (written_elsewhere / fmt.name).read_bytes()
    assert here == write_sample(tmp_path / "another name.h5", fmt).read_bytes()


def test_the_padding_of_the_last_chunk_is_the_same_everywhere(tmp_path, written_elsewhere):
    rows = IN_ORDER[:13]
    assert block_rows(EMBEDDINGS.spec("embeddings"), rows.dtype, rows.shape) == 5
    here = write_artifact(tmp_path / "a.h5", EMBEDDINGS, {"embeddings": rows})
    assert here.read_bytes() == (written_elsewhere / "in order").read_bytes()


def test_the_gaps_of_an_aligned_file_are_the_same_everywhere(tmp_path, written_elsewhere):
    assert write_index(tmp_path / "a.h5").read_bytes() == (written_elsewhere / "at random").read_bytes()


@pytest.mark.parametrize("step", [1, 7, 15])
@pytest.mark.parametrize(("fmt", "name", "rows"), [
    (EMBEDDINGS, "embeddings", IN_ORDER), (INDEX, "vectors", AT_RANDOM),
], ids=["in order", "at random"])  # fmt: skip
def test_streamed_appends_give_the_bytes_of_one(tmp_path, fmt, name, rows, step):
    others = {"mean": rows.mean(axis=0, dtype="<f8")} if fmt is INDEX else {}
    whole = write_artifact(tmp_path / "whole.h5", fmt, {name: rows} | others)
    streamed = tmp_path / "streamed.h5"
    with ArtifactWriter(streamed, fmt, inputs=[INPUT], parameters=sample_parameters(fmt)) as writer:
        writer.create(name, rows.shape, rows.dtype)
        for start in range(0, len(rows), step):
            writer.append(name, rows[start : start + step])
        for other, values in others.items():
            writer.write(other, values)
    assert streamed.read_bytes() == whole.read_bytes()


def taking_turns(path, fmt, arrays, step, parameters=None):
    with ArtifactWriter(path, fmt, inputs=[INPUT], parameters=parameters or sample_parameters(fmt)) as writer:
        for name, values in arrays.items():
            writer.create(name, values.shape, values.dtype)
        n = max(len(values) for values in arrays.values())
        for start in range(0, n, step):
            for name, values in arrays.items():
                writer.append(name, values[start : start + step])
    return path


@pytest.mark.parametrize("step", [1, 7])
def test_datasets_at_random_have_the_same_bytes_however_their_appends_take_turns(tmp_path, step):
    # Blocks of different sizes: the one declared second is the first to be written at small steps.
    arrays = {
        "top/values": RNG.integers(0, 9, (11, 8_000)).astype("<u2"),
        "top/classes": RNG.integers(0, 9, (11, 8_000)).astype("<i4"),
        "labels": np.arange(11, dtype="<i4"),
    }
    whole = write_artifact(tmp_path / "whole.h5", RESIDUALS, arrays)
    streamed = taking_turns(tmp_path / "streamed.h5", RESIDUALS, arrays, step)
    assert streamed.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("step", [1, 7])
def test_datasets_in_order_have_the_same_digest_however_their_appends_take_turns(tmp_path, step):
    arrays = sample_arrays(PREDICTIONS) | {"neighbors/rows": RNG.integers(0, 9, (9, 40_000))}
    for name in ("distances", "weights", "labels"):
        values = RNG.integers(0, 3, (9, 40_000))
        arrays[f"neighbors/{name}"] = values.astype(arrays[f"neighbors/{name}"].dtype)
    parameters = sample_parameters(PREDICTIONS) | {"k": 40_000}
    whole = write_artifact(tmp_path / "whole.h5", PREDICTIONS, arrays, parameters=parameters)
    streamed = taking_turns(tmp_path / "streamed.h5", PREDICTIONS, arrays, step, parameters)
    assert read_everything(streamed) == read_everything(whole)


def test_rows_need_not_be_contiguous(tmp_path):
    rows = np.arange(24, dtype="<f4").reshape(4, 6)
    for name, values in (("a.h5", rows[::2, ::3]), ("b.h5", np.asfortranarray(rows[::2, ::3]))):
        write_artifact(tmp_path / name, EMBEDDINGS, {"embeddings": values})
    with open_artifact(tmp_path / "a.h5") as artifact:
        assert artifact.read("embeddings").tolist() == [[0, 3], [12, 15]]
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


# How it lies in the file


@each_format
def test_datasets_in_order_are_chunked_with_a_checksum_and_the_rest_contiguous(tmp_path, fmt):
    with h5py.File(write_sample(tmp_path / "a.h5", fmt)) as file:
        for path in sample_arrays(fmt):
            in_order = fmt.spec(path).layout is Layout.SEQUENTIAL
            assert (file[path].chunks is not None, file[path].fletcher32) == (in_order, in_order)
            assert file[path].compression is None
            assert not file[path].id.get_create_plist().get_obj_track_times()


def test_a_chunk_is_a_digest_block(tmp_path):
    with h5py.File(write_artifact(tmp_path / "a.h5", EMBEDDINGS, {"embeddings": IN_ORDER})) as file:
        assert file["embeddings"].chunks == (5, 40_000)
        assert file["digests/embeddings"].shape == (3, 32)


@pytest.mark.parametrize(("n_rows", "aligned"), [(16, True), (17, True), (4, None)])
def test_what_is_read_at_random_lies_on_a_page_boundary_from_64_kibibytes_on(tmp_path, n_rows, aligned):
    vectors = np.ones((n_rows, 1024), "<f4")
    assert (vectors.nbytes >= 1 << 16) is bool(aligned)
    with h5py.File(write_index(tmp_path / "a.h5", vectors)) as file:
        assert file["vectors"].id.get_create_plist().get_layout() == h5d.CONTIGUOUS
        offset = file["vectors"].id.get_offset()
        assert offset is not None
        if aligned:
            assert offset % 4096 == 0


# What is refused


def wrong_type(writer):
    writer.create("embeddings", (2, 3), "<f4")
    writer.append("embeddings", np.ones((2, 3), "<f8"))


def wrong_row_shape(writer):
    writer.create("embeddings", (2, 3), "<f4")
    writer.append("embeddings", np.ones((2, 4), "<f4"))


def too_few_rows(writer):
    writer.create("embeddings", (3, 3), "<f4")
    writer.append("embeddings", np.ones((2, 3), "<f4"))


def too_many_rows(writer):
    writer.create("embeddings", (3, 3), "<f4")
    writer.append("embeddings", np.ones((2, 3), "<f4"))
    writer.append("embeddings", np.ones((2, 3), "<f4"))


def no_rows(writer):
    writer.write("embeddings", np.ones((0, 3), "<f4"))


def infinite_parameter(writer):
    writer.write("embeddings", np.ones((2, 3), "<f4"))
    writer.set_parameters(sigma=float("inf"))


@pytest.mark.parametrize(("misuse", "message"), [
    (wrong_type, r"embeddings: rows of float64 \(2, 3\) do not fit float32 \(2, 3\)"),
    (wrong_row_shape, r"embeddings: rows of float32 \(2, 4\) do not fit float32 \(2, 3\)"),
    (too_few_rows, r"embeddings: 2 rows written of 3"),
    (too_many_rows, r"embeddings: 4 rows for 3"),
    (no_rows, r"embeddings: nothing to write, the shape is \(0, 3\)"),
    (infinite_parameter, r"not JSON compliant"),
])  # fmt: skip
def test_misuse_is_refused_and_leaves_nothing(tmp_path, misuse, message):
    with (
        pytest.raises(ValueError, match=message),
        ArtifactWriter(tmp_path / "a.h5", EMBEDDINGS, parameters={"sources": {}}) as writer,
    ):
        misuse(writer)
    assert contents(tmp_path) == []


def test_a_dataset_that_the_format_has_not_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(KeyError, match="no dataset residuals"):
        write_artifact(tmp_path / "a.h5", EMBEDDINGS, {"residuals": np.ones((1, 1), "<f4")})
    assert contents(tmp_path) == []


@pytest.mark.parametrize(("arrays", "parameters", "message"), [
    ({"labels": np.ones(2, "<i4")}, {"sources": 1}, "embeddings: missing from this resmem.embeddings"),
    ({"embeddings": np.ones((2, 3), ">f4")}, {"sources": 1},
     "embeddings: wrong type (expected <f2 or <f4, found >f4)"),
    ({"embeddings": np.ones((2, 3), "<f4"), "labels": np.ones(3, "<i4")}, {"sources": 1},
     "labels: datasets disagree (expected n = 2 as in embeddings, found 3)"),
    ({"embeddings": np.ones((2, 3), "<f4")}, {},
     "parameters: parameters without ['sources']; create it again or restore a copy"),
])  # fmt: skip
def test_what_the_format_forbids_is_refused_under_the_output_s_name(tmp_path, arrays, parameters, message):
    path = tmp_path / "a.h5"
    with pytest.raises(DataError) as caught:
        write_artifact(path, EMBEDDINGS, arrays, parameters=parameters)
    assert str(caught.value) == f"{path}: {message}"
    assert contents(tmp_path) == []
