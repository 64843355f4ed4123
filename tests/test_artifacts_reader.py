"""Reading: what is handed out is what was written, or the file is refused."""

import os

import h5py
import numpy as np
import pytest
from test_artifacts_formats import (
    ALL_FORMATS,
    INPUT,
    each_format,
    read_everything,
    sample_arrays,
    write_artifact,
    write_sample,
)

from resmem_cli.artifacts.formats import EMBEDDINGS, INDEX, RESIDUALS
from resmem_cli.artifacts.provenance import canonical_json, header_digest
from resmem_cli.artifacts.reader import is_artifact, open_artifact
from resmem_cli.artifacts.shard_formats import MANIFEST
from resmem_cli.errors import DataError, MissingInputError

N_FLIPS, N_CUTS = 150, 40


def doctor(path, **attributes):
    """Change an artifact's attributes (None removes one) and make its header's digest hold again."""
    with h5py.File(path, "r+") as file:
        for name, value in attributes.items():
            file.attrs.pop(name, None)
            if value is not None:
                file.attrs[name] = np.bytes_(value) if isinstance(value, bytes) else value
        values = {
            name: bytes(value) if isinstance(value, bytes) else int(value)
            for name, value in file.attrs.items()
            if name != "header_digest"
        }
        file.attrs["header_digest"] = np.bytes_(header_digest(values).encode())
    return path


def refusal(path, fmt=None):
    with pytest.raises(DataError) as caught:
        open_artifact(path, fmt)
    assert caught.value.exit_code == 65
    return caught.value


# Damage


def holds_or_is_refused(path, original, content):
    """Whether damaged content is refused; where it is not, it must say what the original says."""
    path.write_bytes(content)
    try:
        assert read_everything(path) == original
    except DataError:
        return True
    return False


@each_format
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path, fmt):
    path = write_sample(tmp_path / "a.h5", fmt)
    original, content = read_everything(path), path.read_bytes()
    rng = np.random.default_rng(ALL_FORMATS.index(fmt))
    refused = 0
    for offset in np.linspace(0, len(content) - 1, N_FLIPS).astype(int):
        flipped = bytearray(content)
        flipped[offset] ^= 1 << int(rng.integers(8))
        refused += holds_or_is_refused(path, original, bytes(flipped))
    assert refused > N_FLIPS // 2


def test_a_flipped_bit_among_several_chunks_is_refused_or_changes_nothing(tmp_path):
    rows = np.ones((13, 40_000), "<f4")
    path = write_artifact(tmp_path / "a.h5", EMBEDDINGS, {"embeddings": rows})
    with h5py.File(path) as file:
        chunks = [file["embeddings"].id.get_chunk_info(i) for i in range(3)]
    original, content = read_everything(path), path.read_bytes()
    within = [range(chunk.byte_offset, chunk.byte_offset + chunk.size) for chunk in chunks]
    structure = [i for i in range(len(content)) if content[i] and not any(i in chunk for chunk in within)]
    rng = np.random.default_rng(3)
    offsets = [*rng.choice(structure, 60), *(int(rng.choice(chunk)) for chunk in within)]
    for offset in offsets:
        flipped = bytearray(content)
        flipped[offset] ^= 1 << int(rng.integers(8))
        holds_or_is_refused(path, original, bytes(flipped))
    assert holds_or_is_refused(path, original, bytes(flipped))  # the last one is in a chunk


@each_format
def test_a_damaged_stretch_is_refused_or_changes_nothing(tmp_path, fmt):
    path = write_sample(tmp_path / "a.h5", fmt)
    original, content = read_everything(path), path.read_bytes()
    rng = np.random.default_rng(ALL_FORMATS.index(fmt))
    for length in (2, 8, 64, 512):
        for filler in (bytes(length), b"\xff" * length, rng.bytes(length)):
            start = int(rng.integers(len(content) - length))
            holds_or_is_refused(
                path, original, b"".join([content[:start], filler, content[start + length :]])
            )


@each_format
def test_a_truncated_file_is_refused(tmp_path, fmt):
    path = write_sample(tmp_path / "a.h5", fmt)
    content = path.read_bytes()
    for length in np.linspace(0, len(content) - 1, N_CUTS).astype(int):
        path.write_bytes(content[:length])
        refusal(path)


def test_bytes_after_the_end_are_refused(tmp_path):
    path = write_sample(tmp_path / "a.h5", EMBEDDINGS)
    content = path.read_bytes()
    path.write_bytes(content + b"more")
    error = refusal(path)
    assert error.problem == "not as long as it was written"
    assert error.found == f"{len(content) + 4:,}"


def test_words_of_zeros_turned_into_ones_pass_hdf5_s_checksum_but_not_the_digest(tmp_path):
    # fletcher32 adds 16-bit words modulo 65,535, in which 0x0000 and 0xFFFF are the same.
    path = write_artifact(
        tmp_path / "a.h5",
        EMBEDDINGS,
        {"embeddings": np.ones((11, 2), "<f4"), "labels": np.arange(11, dtype="<i4")},
    )
    with h5py.File(path) as file:
        offset = file["labels"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    assert content[offset : offset + 2] == b"\0\0"
    content[offset : offset + 2] = b"\xff\xff"
    path.write_bytes(content)
    with h5py.File(path) as file:
        assert file["labels"][0] == 0xFFFF
    with (
        open_artifact(path) as artifact,
        pytest.raises(DataError, match="labels: a digest does not hold for the rows from 0"),
    ):
        artifact.read("labels")


@pytest.mark.parametrize("name", ["a.h5", "pickle.h5"])
def test_a_damaged_header_is_no_answer_to_whether_it_is_an_artifact(tmp_path, name):
    path = write_sample(tmp_path / name, EMBEDDINGS)
    content = bytearray(path.read_bytes())
    root = content.index(b"OHDR")
    content[root + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged HDF5 file"):
        is_artifact(path)


# Another kind of file


def test_an_artifact_is_recognised(tmp_path):
    assert is_artifact(write_sample(tmp_path / "no suffix", INDEX))


@pytest.mark.parametrize("content", [b"", b"index,label\n0,3\n", b"\x80\x04N."])
def test_a_file_that_is_not_hdf5_is_no_artifact(tmp_path, content):
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    assert not is_artifact(path)
    assert refusal(path).problem == "not an HDF5 file"


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(MissingInputError, match="no such file"):
        is_artifact(tmp_path / "a.h5")
    with pytest.raises(MissingInputError) as caught:
        open_artifact(tmp_path / "a.h5")
    assert caught.value.exit_code == 66


# A manifest is of the format that it stands for: see test_artifacts_sharded.
@pytest.mark.parametrize("fmt", [fmt for fmt in ALL_FORMATS if fmt is not MANIFEST], ids=lambda fmt: fmt.name)
def test_an_artifact_of_another_format_is_refused_naming_both(tmp_path, fmt):
    path = write_sample(tmp_path / "a.h5", fmt)
    for wanted in ALL_FORMATS:
        if wanted is fmt:
            open_artifact(path, wanted).close()
        else:
            assert str(refusal(path, wanted)) == (
                f"{path}: format: not the right kind of artifact (expected {wanted.name}, found {fmt.name})"
            )


def test_an_unknown_format_is_refused_naming_those_there_are(tmp_path):
    path = doctor(write_sample(tmp_path / "a.h5", INDEX), format=b"resmem.indices")
    error = refusal(path)
    assert error.found == "resmem.indices"
    assert all(fmt.name in error.expected for fmt in ALL_FORMATS)


@each_format
def test_a_newer_version_of_a_format_asks_for_a_newer_tool(tmp_path, fmt):
    path = doctor(write_sample(tmp_path / "a.h5", fmt), format_version=fmt.version + 1)
    assert str(refusal(path)) == (
        f"{path}: format_version: a version of {fmt.name} this tool does not read "
        f"(expected at most {fmt.version}, found {fmt.version + 1}); upgrade resmem-cli"
    )


@pytest.mark.parametrize("version", [0, -1, 2**62, b"1", None])
def test_a_version_that_is_none_is_refused(tmp_path, version):
    path = doctor(write_sample(tmp_path / "a.h5", INDEX), format_version=version)
    assert refusal(path).field == "format_version"


@pytest.mark.parametrize("name", ["generated_by", "parameters", "inputs", "content_digest"])
def test_each_attribute_is_missed(tmp_path, name):
    path = doctor(write_sample(tmp_path / "a.h5", INDEX), **{name: None})
    assert str(refusal(path)).startswith(f"{path}: {name}: missing attribute")


def test_a_changed_attribute_does_not_go_with_the_header_s_digest(tmp_path):
    path = write_sample(tmp_path / "a.h5", RESIDUALS)
    with h5py.File(path, "r+") as file:
        file.attrs["parameters"] = np.bytes_(b'{"n_classes":4,"temperature":2,"top":null}')
    assert refusal(path).problem == "the header's digest does not hold"
    with h5py.File(path, "r+") as file:
        del file.attrs["header_digest"]
    assert refusal(path).field == "header_digest"


def test_an_attribute_more_does_not_go_with_the_header_s_digest(tmp_path):
    path = write_sample(tmp_path / "a.h5", RESIDUALS)
    with h5py.File(path, "r+") as file:
        file.attrs["note"] = np.bytes_(b"mine")
    assert refusal(path).problem == "the header's digest does not hold"


@pytest.mark.parametrize(
    "text", [b"3", b"null", b'"sources"', b'["sources"]', b"{", b"NaN", b"\xff", b"[" * 9999]
)
def test_parameters_that_are_no_mapping_are_refused(tmp_path, text):
    refusal(doctor(write_sample(tmp_path / "a.h5", EMBEDDINGS), parameters=text))


@pytest.mark.parametrize("inputs", [
    3, {}, [3], ["role"], [{"role": "a"}],
    [{"role": "a", "file": "b", "format": "c", "digest": 4}],
    [{"role": "a", "file": "b", "format": "c", "digest": "d", "path": "e"}],
])  # fmt: skip
def test_inputs_that_are_no_lineage_are_refused(tmp_path, inputs):
    path = doctor(write_sample(tmp_path / "a.h5", EMBEDDINGS), inputs=canonical_json(inputs).encode())
    assert refusal(path).field == "inputs"


def test_the_lineage_is_what_was_written(tmp_path):
    with open_artifact(write_sample(tmp_path / "a.h5", EMBEDDINGS)) as artifact:
        assert artifact.header.inputs == (INPUT,)


# Datasets and digests that do not go together


def test_a_dataset_without_digests_and_digests_without_dataset_are_refused(tmp_path):
    for name in ("labels", "digests/labels"):
        path = write_sample(tmp_path / "a.h5", EMBEDDINGS)
        with h5py.File(path, "r+") as file:
            del file[name]
        assert refusal(path).problem == "datasets and digests do not match"


def test_a_dataset_more_is_refused(tmp_path):
    path = write_sample(tmp_path / "a.h5", EMBEDDINGS)
    with h5py.File(path, "r+") as file:
        file["mine"] = np.ones(3)
    assert str(refusal(path)) == f"{path}: mine: not a dataset of resmem.embeddings"


@pytest.mark.parametrize(
    "digests", [np.zeros((2, 32), "u1"), np.zeros((1, 32), "i1"), np.zeros((1, 16), "u1")]
)
def test_digests_of_another_shape_are_refused(tmp_path, digests):
    path = write_sample(tmp_path / "a.h5", EMBEDDINGS)
    with h5py.File(path, "r+") as file:
        del file["digests/labels"]
        file["digests/labels"] = digests
    assert refusal(path).problem == "wrong shape of digests"


def test_changed_digests_do_not_go_with_the_content_digest(tmp_path):
    path = write_sample(tmp_path / "a.h5", EMBEDDINGS)
    with h5py.File(path, "r+") as file:
        file["digests/labels"][0, 0] ^= 1
    assert refusal(path).problem == "the content digest does not hold"


def test_a_dataset_replaced_by_its_like_is_found_when_read(tmp_path):
    path = write_sample(tmp_path / "a.h5", EMBEDDINGS)
    with h5py.File(path, "r+") as file:
        file["labels"][3] += 1
    with open_artifact(path) as artifact:
        assert np.array_equal(artifact.read("embeddings"), sample_arrays(EMBEDDINGS)["embeddings"])
        with pytest.raises(DataError, match=r"a\.h5: labels: a digest does not hold for the rows from 0"):
            artifact.read("labels")


def test_what_should_be_mapped_but_is_chunked_is_refused(tmp_path):
    path = write_sample(tmp_path / "a.h5", INDEX)
    with h5py.File(path, "r+") as file:
        values = file["vectors"][:]
        del file["vectors"]
        file.create_dataset("vectors", data=values, chunks=(4, 3))
    with open_artifact(path) as artifact, pytest.raises(DataError, match="vectors: not contiguous"):
        artifact.rows("vectors")


def test_optional_datasets_are_asked_for(tmp_path):
    with open_artifact(
        write_artifact(tmp_path / "a.h5", EMBEDDINGS, {"embeddings": np.ones((2, 2), "<f4")})
    ) as a:
        assert "embeddings" in a
        assert "labels" not in a
        assert a.read_optional("labels") is None
        assert a.read_optional("embeddings").tolist() == [[1, 1], [1, 1]]
        with pytest.raises(KeyError):
            a.read("residuals")


@pytest.mark.parametrize("name", ["content_digest", "header_digest", "format", "format_version"])
def test_an_artifact_that_lacks_a_part_of_its_header_is_not_taken_for_arrays(tmp_path, name):
    path = write_sample(tmp_path / "a.h5", EMBEDDINGS)
    with h5py.File(path, "r+") as file:
        del file.attrs[name]
    assert is_artifact(path)
    refusal(path)


def test_a_file_that_is_replaced_while_it_is_opened_is_read_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    write_sample(path, EMBEDDINGS)
    opened = os.open

    def replaced_at_once(name, *arguments, **options):
        descriptor = opened(name, *arguments, **options)
        if name == path:
            path.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", replaced_at_once)
    with open_artifact(path) as artifact:
        assert artifact.read("embeddings").shape[0] > 0
