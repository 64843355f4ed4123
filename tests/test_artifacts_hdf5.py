"""HDF5 files made to harm: what reaches outside, lies about its size, or is not plain is not read."""

import contextlib
import fcntl
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from h5py import h5a, h5d, h5g, h5p, h5s, h5t, h5z
from test_artifacts_formats import write_sample

from resmem_cli.artifacts.formats import EMBEDDINGS
from resmem_cli.artifacts.hdf5 import CHECKSUM_FILTERS, open_hdf5, plain_attributes, readable_datasets
from resmem_cli.artifacts.reader import is_artifact, open_artifact
from resmem_cli.errors import BusyError, DataError, MissingInputError

SECRET = b"the secret of another file, which nobody asked for"
LZ4 = 32_004  # registered, but not shipped with HDF5


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    path.write_bytes(SECRET)
    return path


def found(path, **options):
    with open_hdf5(path) as file:
        return sorted(readable_datasets(file, **options))


def made(tmp_path, make):
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w") as file:
        make(file)
    return path


def refusal(path):
    with pytest.raises(DataError) as caught:
        found(path)
    return caught.value


# What opens at all


def test_datasets_of_groups_are_found_by_their_paths(tmp_path):
    path = made(
        tmp_path, lambda file: file.update({"b/z": np.ones(3), "a": np.ones(2), "b/c/y": np.bytes_(b"x")})
    )
    assert found(path) == ["a", "b/c/y", "b/z"]


def test_a_missing_file_is_missing_and_a_folder_is_no_file(tmp_path):
    for path in (tmp_path / "absent.h5", tmp_path):
        with pytest.raises(MissingInputError, match="no such file|a folder") as caught:
            open_hdf5(path)
        assert caught.value.exit_code == 66


@pytest.mark.parametrize(("content", "told"), [
    (b"", "found an empty file"),
    (b"index,label\n0,3\n", r"found a file that starts with b'index,label\n'"),
    (b"\x93NUMPY\x01\x00v\x00 more", r"starts with b'\x93NUMPY"),
])  # fmt: skip
def test_a_file_of_another_kind_is_told_by_its_first_bytes(tmp_path, content, told):
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_hdf5(path)
    assert str(caught.value).startswith(f"{path}: not an HDF5 file (expected an HDF5 file, ")
    assert told in str(caught.value)
    assert caught.value.exit_code == 65


def test_a_truncated_file_is_told_to_be_one(tmp_path):
    path = made(tmp_path, lambda file: file.update({"a": np.ones(10_000)}))
    os.truncate(path, 50_000)
    with pytest.raises(DataError, match="the file is truncated; copy or create it again"):
        open_hdf5(path)


def test_a_file_that_another_program_has_locked_can_be_read(tmp_path):
    path = write_sample(tmp_path / "a.h5", EMBEDDINGS)
    with path.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with open_artifact(path) as artifact:
            assert artifact.read("embeddings").shape == (11, 3)


def test_a_file_that_this_program_has_open_is_read_or_told_to_be_open(tmp_path):
    # The library may have been taken along into the process of its own with the file open.
    path = write_sample(tmp_path / "a.h5", EMBEDDINGS)
    with h5py.File(path), contextlib.suppress(BusyError), open_artifact(path) as artifact:
        assert artifact.read("embeddings").shape == (11, 3)


def test_a_file_that_this_program_writes_is_not_read(tmp_path):
    path = write_sample(tmp_path / "a.h5", EMBEDDINGS)
    with (
        h5py.File(path, "r+"),
        pytest.raises((BusyError, DataError), match="open in this process|open for writing"),
    ):
        open_artifact(path)


# What reaches outside


def soft_link(file, canary):
    file["z"] = h5py.SoftLink("/a")


def dangling_link(file, canary):
    file["z"] = h5py.SoftLink("/nowhere")


def external_link(file, canary):
    file["z"] = h5py.ExternalLink(str(canary), "/z")


def external_storage(file, canary):
    file.create_dataset("z", (len(SECRET),), "u1", external=[(str(canary), 0, len(SECRET))])


def virtual_dataset(file, canary):
    layout = h5py.VirtualLayout((3,), "<f4")
    layout[:] = h5py.VirtualSource(str(canary), "z", (3,))
    file.create_virtual_dataset("z", layout)


REACHING = [
    (soft_link, "links are refused", "a soft link"),
    (dangling_link, "links are refused", "a soft link"),
    (external_link, "links are refused", "an external link"),
    (external_storage, "values stored in other files are refused", None),
    (virtual_dataset, "virtual datasets are refused", None),
]


@pytest.mark.parametrize("group", ["", "group/"])
@pytest.mark.parametrize(("reach", "problem", "kind"), REACHING)
def test_what_reaches_outside_is_refused_by_name(tmp_path, canary, reach, problem, kind, group):
    def make(file):
        file["a"] = np.ones(3)
        reach(file.create_group(group) if group else file, canary)

    error = refusal(made(tmp_path, make))
    assert (error.problem, error.found, error.field) == (problem, kind, f"{group}z")
    assert canary.read_bytes() == SECRET


@pytest.mark.parametrize(("reach", "problem", "kind"), REACHING)
def test_an_artifact_that_reaches_outside_is_refused(tmp_path, canary, reach, problem, kind):
    path = write_sample(tmp_path / "a.h5", EMBEDDINGS)
    with h5py.File(path, "r+") as file:
        reach(file, canary)
    with pytest.raises(DataError, match=problem):
        open_artifact(path)
    assert canary.read_bytes() == SECRET


# What is no tree


def own_ancestor(file):
    file["a/b/z"] = np.ones(3)
    file["a/b/loop"] = file["a"]


def own_root(file):
    file["loop"] = file["/"]


def linked_twice(file):
    file["a"] = np.ones(3)
    file["loop"] = file["a"]


@pytest.mark.parametrize("make", [own_ancestor, own_root, linked_twice])
def test_an_object_under_two_names_is_refused(tmp_path, make):
    error = refusal(made(tmp_path, make))
    assert "linked twice" in error.problem
    assert error.field.endswith("loop")


def test_groups_may_be_nested_eight_deep_and_no_deeper(tmp_path):
    assert found(made(tmp_path, lambda file: file.update({"a/b/c/d/e/f/g/z": 1 * np.ones(1)})))
    error = refusal(made(tmp_path, lambda file: file.update({"a/b/c/d/e/f/g/h/z": np.ones(1)})))
    assert "too deep" in error.problem
    error = refusal(made(tmp_path, lambda file: file.create_group("/".join("a" * 500))))
    assert "too deep" in error.problem


def test_more_objects_than_anyone_needs_are_refused(tmp_path):
    def in_one_group(file):
        for i in range(10_001):
            h5g.create(file.id, b"%d" % i)

    def in_two_groups(file):
        for name in (b"a", b"b"):
            group = h5g.create(file.id, name)
            for i in range(5_001):
                h5g.create(group, b"%d" % i)

    assert "too many objects" in refusal(made(tmp_path, in_one_group)).problem
    assert "too many objects" in refusal(made(tmp_path, in_two_groups)).problem


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    path = made(tmp_path, lambda file: file.create_dataset(b"caf\xe9", data=np.ones(3)))
    assert refusal(path).problem == "a name that is not UTF-8"


# What is not plain


def test_only_numbers_and_fixed_strings_are_found(tmp_path):
    def make(file):
        file["numbers"] = np.ones(2, "<i2")
        file["strings"] = np.array([b"a", b"bc"])
        file["texts"] = ["variable", "length"]
        file["ragged"] = h5py.Empty(h5py.vlen_dtype("i4"))
        file["pairs"] = np.ones(2, [("a", "<f4"), ("b", "<i4")])
        file["flags"] = np.ones(2, bool)
        file["complex"] = np.ones(2, "<c8")
        file["opaque"] = np.void(b"abc")
        file["type"] = np.dtype("<f4")
        file.create_dataset("references", (2,), h5py.ref_dtype)

    assert found(made(tmp_path, make)) == ["numbers", "strings"]


def test_an_artifact_with_variable_length_strings_in_a_dataset_s_place_lacks_the_dataset(tmp_path):
    path = write_sample(tmp_path / "a.h5", EMBEDDINGS)
    with h5py.File(path, "r+") as file:
        del file["ids"]
        file["ids"] = [f"{i}" for i in range(11)]
    with pytest.raises(DataError, match="datasets and digests do not match"):
        open_artifact(path)


@pytest.mark.parametrize("value", ["text", np.ones(3), 1.5, h5py.Empty("i4"), np.bool_(True)])
def test_an_attribute_that_is_not_plain_is_refused_unread(tmp_path, value):
    path = write_sample(tmp_path / "a.h5", EMBEDDINGS)
    with h5py.File(path, "r+") as file:
        file.attrs["more"] = value
    with pytest.raises(DataError) as caught:
        open_artifact(path)
    assert str(caught.value) == (
        f"{path}: more: attribute of a refused type (expected an integer or a fixed-length string)"
    )


def test_more_attributes_than_anyone_needs_are_refused(tmp_path):
    path = made(tmp_path, lambda file: file.attrs.update({f"a{i}": i for i in range(65)}))
    with (
        open_hdf5(path) as file,
        pytest.raises(DataError, match=r"too many attributes .*at most 64, found 65"),
    ):
        plain_attributes(file)


def test_plain_attributes_are_bytes_and_integers(tmp_path):
    path = made(tmp_path, lambda file: file.attrs.update({"name": np.bytes_("é".encode()), "n": np.uint8(3)}))
    with open_hdf5(path) as file:
        assert plain_attributes(file) == {"name": "é".encode(), "n": 3}


def three_byte_type():
    kind = h5t.STD_I32LE.copy()
    kind.set_size(3)
    return kind


def test_a_type_that_numpy_has_not_is_damage(tmp_path):
    path = write_sample(tmp_path / "a.h5", EMBEDDINGS)
    with h5py.File(path, "r+") as file:
        h5a.create(file.id, b"odd", three_byte_type(), h5s.create(h5s.SCALAR))
    with pytest.raises(DataError, match="damaged attribute"):
        open_artifact(path)
    path = write_sample(tmp_path / "b.h5", EMBEDDINGS)
    with h5py.File(path, "r+") as file:
        h5d.create(file.id, b"odd", three_byte_type(), h5s.create_simple((5,)))
    with pytest.raises(DataError, match="damaged HDF5 file"):
        open_artifact(path)


# What lies about its size, and filters


@pytest.mark.parametrize("options", [
    {},
    {"chunks": (1 << 20,)},
    {"chunks": (1 << 20,), "fletcher32": True},
    {"compression": "gzip"},
], ids=["contiguous", "chunked", "checksummed", "compressed"])  # fmt: skip
def test_a_declared_terabyte_that_was_never_written_is_refused(tmp_path, options):
    path = made(tmp_path, lambda file: file.create_dataset("z", (1 << 38,), "<f4", **options))
    assert path.stat().st_size < 10_000
    assert str(refusal(path)) == (
        f"{path}: z: the declared shape does not fit what is stored (expected 1,099,511,627,776 bytes "
        "for shape (274877906944,), found 0 bytes); copy or create the file again"
    )


def test_rows_that_were_never_written_are_not_read_as_zeros(tmp_path):
    def make(file):
        file.create_dataset("z", (50,), "<f4", chunks=(10,))[:40] = 1

    assert "found 160 bytes" in str(refusal(made(tmp_path, make)))


def test_a_chunk_larger_than_what_is_stored_of_it_is_refused(tmp_path):
    # Five values in a chunk that would take a gigabyte of memory.
    def make(file):
        options = {"chunks": (1 << 28,), "maxshape": (None,), "fletcher32": True}
        dataset = file.create_dataset("z", (5,), "<f4", **options)
        dataset.id.write_direct_chunk((0,), np.ones(5, "<f4").tobytes(), filter_mask=1)

    assert "expected 1,073,741,824 bytes" in str(refusal(made(tmp_path, make)))


def test_a_null_dataspace_is_refused(tmp_path):
    assert refusal(made(tmp_path, lambda file: file.update({"z": h5py.Empty("<f4")}))).field == "z"


def test_datasets_of_no_rows_are_found(tmp_path):
    def make(file):
        file.create_dataset("a", (0, 3), "<f4")
        file.create_dataset("b", (0, 3), "<f4", chunks=(10, 3), maxshape=(None, 3))

    assert found(made(tmp_path, make)) == ["a", "b"]


@pytest.mark.parametrize("options", [
    {"compression": "gzip"},
    {"compression": "gzip", "compression_opts": 9, "shuffle": True},
    {"compression": "lzf"},
    {"shuffle": True, "fletcher32": True},
], ids=lambda options: " ".join(options))  # fmt: skip
def test_what_hdf5_ships_is_read_from_strangers_but_not_from_artifacts(tmp_path, options):
    # Zeros, because nothing expands more.
    path = made(tmp_path, lambda file: file.create_dataset("z", data=np.zeros(1 << 20, "<f4"), **options))
    assert found(path) == ["z"]
    with pytest.raises(DataError, match="unknown or unwanted filter .*; store the data without compression"):
        found(path, filters=CHECKSUM_FILTERS)

    artifact = write_sample(tmp_path / "a.h5", EMBEDDINGS)
    with h5py.File(artifact, "r+") as file:
        values = file["embeddings"][:]
        del file["embeddings"]
        file.create_dataset("embeddings", data=values, **options)
    with pytest.raises(DataError, match="embeddings: unknown or unwanted filter"):
        open_artifact(artifact)


def unknown_filter(file):
    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_chunk((5,))
    creation.set_filter(LZ4, h5z.FLAG_OPTIONAL)
    h5d.create(file.id, b"z", h5t.IEEE_F32LE, h5s.create_simple((5,)), creation)


def packed_integers(file):
    file.create_dataset("z", data=np.arange(5), scaleoffset=0)


@pytest.mark.parametrize(("make", "code"), [(unknown_filter, LZ4), (packed_integers, 6)])
def test_other_filters_are_refused_by_their_codes(tmp_path, make, code):
    error = refusal(made(tmp_path, make))
    assert error.problem == "unknown or unwanted filter"
    assert error.found == [code]


def test_a_foreign_file_is_no_artifact(tmp_path):
    path = made(tmp_path, lambda file: file.update({"embeddings": np.ones((3, 2), "<f4")}))
    assert not is_artifact(path)
    with pytest.raises(DataError, match="found an HDF5 file without a format"):
        open_artifact(path)


def test_a_file_that_its_writer_did_not_close_is_told_to_be_one(tmp_path):
    path = tmp_path / "a.h5"
    write = "file = h5py.File(sys.argv[1], 'w', libver='latest'); file['a'] = 1; file.flush(); os._exit(0)"
    code = f"import h5py, os, sys; {write}"
    subprocess.run([sys.executable, "-c", code, path], check=True)
    with pytest.raises(DataError, match="marked as open for writing: a program writes it, or was stopped"):
        open_hdf5(path)
