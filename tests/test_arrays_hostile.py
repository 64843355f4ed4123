"""Files made to harm: pickles that would run, sizes that lie, headers that break parsers."""

import io
import json
import struct
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_arrays_formats import WRITERS

from resmem_cli.arrays import open_arrays
from resmem_cli.errors import DataError


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def member(path, content, *, name="z.npy", method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, content)
    return path


def npy(header, payload=b"", version=b"\x01\x00"):
    text = header if isinstance(header, bytes) else header.encode()
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + payload


def header(shape, descr="'<f4'", order=False):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}\n"


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_pickled_array_is_refused_and_not_run(tmp_path, suffix):
    canary, path = tmp_path / "canary", tmp_path / f"a{suffix}"
    objects = np.empty(1, dtype=object)
    objects[0] = Canary(canary)
    if suffix == ".npy":
        np.save(path, objects, allow_pickle=True)
    else:
        np.savez(path, z=objects)
    with open_arrays(path) as file:
        key = next(iter(file.arrays))
        assert file.arrays[key].dtype == "object"
        with pytest.raises(DataError, match=r"pickled Python objects.*\.astype"):
            file.open(key)
    assert not canary.exists()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_bare_pickle_is_refused_and_not_run(tmp_path, suffix):
    import pickle

    canary, path = tmp_path / "canary", tmp_path / f"a{suffix}"
    path.write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(DataError):
        open_arrays(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "bad",
    [
        npy(header("(3, -1)")),
        npy(header("(3, 2.0)")),
        npy(header("(2,)", "'<q9'")),
        npy(header("(2,)", "()")),
        npy(header("(2,)", "','")),
        npy(header("(2,)", "[('a', '<f4'), ('a', '<f4')]")),
        npy("{[]: 1}"),
        npy("((((" * 2000),
        npy("-" * 9000 + "1"),
        npy("{'descr': '<f4'}"),
        npy(b"\xff\xfe\x00"),
        npy(header("(2,)"), version=b"\x03\x00"),
        npy(header("(2,)"), version=b"\x09\x00"),
        b"\x93NUMPY\x01",
        b"\x93NUMPY\x01\x00\xff\xff{",
    ],
)
def test_headers_that_make_no_sense(tmp_path, bad):
    (tmp_path / "a.npy").write_bytes(bad)
    with pytest.raises(DataError, match=r"a\.npy: damaged"):
        open_arrays(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"a\.npz: z: damaged"):
        open_arrays(member(tmp_path / "a.npz", bad))


@pytest.mark.parametrize(
    ("text", "payload", "problem"),
    [
        (
            header("(2, 2)"),
            15,
            r"truncated \(expected 16 bytes for shape \(2, 2\) of float32, found 15 bytes",
        ),
        (header("(2, 2)"), 17, "longer than its header says"),
        (header("(10**15,)".replace("10**15", str(10**15))), 16, "truncated"),
        (header(f"({10**15}, 2)", order=True), 16, "truncated"),
        (header(f"({2**63}, {2**63})"), 16, "truncated"),
        (header(f"({10**15}, 0)"), 0, "an empty array"),
        (header("()"), 4, "an array without rows"),
        (header(f"({10**15},)", "'<U0'"), 0, "type that is not accepted"),
        (header("(2,)", "'<c8'"), 16, "type that is not accepted"),
        (header("(2,)", "'<M8[s]'"), 16, "type that is not accepted"),
        (header("(2,)", "[('a', '<f4')]"), 8, "type that is not accepted"),
        (header("(2,)", "'<f16'"), 32, "type that is not accepted"),
        (header("(" + "1, " * 40 + ")"), 4, "too many axes"),
    ],
)
def test_declared_arrays_that_are_not_there_or_not_accepted(tmp_path, text, payload, problem):
    content = npy(text, bytes(payload))
    (tmp_path / "a.npy").write_bytes(content)
    with open_arrays(tmp_path / "a.npy") as file, pytest.raises(DataError, match=problem):
        file.open("")
    with open_arrays(member(tmp_path / "a.npz", content)) as file, pytest.raises(DataError, match=problem):
        file.open("z")


def test_headers_written_by_python_2_are_read_without_a_warning(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(header("(2L,)"), bytes(8)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_arrays(tmp_path / "a.npy") as file:
            assert file.open("").read(0, 2).tolist() == [0, 0]


@given(text=st.text(max_size=60) | st.builds(header, st.text(max_size=20), st.text(max_size=20)))
@example("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "(" * 300)
def test_any_header_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("header", numbered=True) / "a.npy"
    path.write_bytes(npy(text.encode("utf-8", "surrogatepass"), bytes(8)))
    with suppress(DataError), open_arrays(path) as file:
        file.open("")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".safetensors", ".parquet", ".h5"])
def test_any_flipped_byte_is_refused_or_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](path, {"z": np.arange(12, dtype=np.float32).reshape(4, 3)})
    content = path.read_bytes()
    generator = np.random.default_rng(5)
    for position in generator.choice(len(content), size=min(150, len(content)), replace=False):
        flipped = bytearray(content)
        flipped[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(flipped)
        with suppress(DataError), open_arrays(path) as file:
            for key in file.arrays:
                rows = file.open(key)
                rows.read(0, min(rows.shape[0], 4))


def test_a_changed_value_fails_the_checksum_of_its_member(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, z=np.arange(6000, dtype=np.float32))
    content = path.read_bytes()
    path.write_bytes(content.replace(np.float32(4000).tobytes(), np.float32(7).tobytes(), 1))
    with open_arrays(path) as file:
        rows = file.open("z")
        rows.read(0, 2)
        with pytest.raises(DataError, match=r"a\.npz: z: damaged.*CRC"):
            rows.read(2, 6000)


def test_a_member_larger_than_deflate_allows_is_refused_unread(tmp_path):
    path = member(tmp_path / "a.npz", npy(header("(2,)"), bytes(8)), method=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = struct.pack("<I", 2**31)
    path.write_bytes(content)
    with pytest.raises(DataError, match="a member of impossible size.*2147483648"):
        open_arrays(path)


def test_a_bomb_is_refused_by_its_header(tmp_path):
    content = npy(header(f"({10**12},)"), bytes(50_000_000))
    path = member(tmp_path / "a.npz", content, method=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with open_arrays(path) as file, pytest.raises(DataError, match="truncated"):
        file.open("z")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_is_refused(tmp_path, method):
    path = member(tmp_path / "a.npz", npy(header("(2,)"), bytes(8)), method=method)
    with pytest.raises(DataError, match="neither stored nor deflated"):
        open_arrays(path)


def test_two_members_of_one_name_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("z.npy", npy(header("(2,)"), bytes(8)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("z.npy", npy(header("(2,)"), bytes(8)))
    with pytest.raises(DataError, match="z: two members of the same name"):
        open_arrays(path)


def test_members_that_are_no_arrays_are_passed_over(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, z=np.ones(2))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "not an array")
    with open_arrays(path) as file:
        assert list(file.arrays) == ["z"]


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1000, 1000], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 10**15]},
        {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]},
        {"dtype": "F33", "shape": [4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4]},
        [],
    ],
)
def test_safetensors_headers_that_lie(tmp_path, entry):
    text = json.dumps({"z": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    with pytest.raises(DataError, match=r"a\.safetensors: damaged"):
        open_arrays(path)


def test_an_external_link_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["embeddings"] = h5py.ExternalLink("/etc/passwd", "/x")
    with pytest.raises(DataError):
        open_arrays(tmp_path / "a.h5")


def test_damaged_values_of_a_dataset_are_refused_when_read(tmp_path):
    path = tmp_path / "a.h5"
    values = np.arange(1000, dtype=np.float32)
    with h5py.File(path, "w") as file:
        file.create_dataset("z", data=values, chunks=(100,), fletcher32=True)
    content = path.read_bytes()
    path.write_bytes(content.replace(np.float32(555).tobytes(), np.float32(7).tobytes(), 1))
    with open_arrays(path) as file:
        rows = file.open("z")
        assert rows.read(0, 100).tolist() == list(range(100))
        with pytest.raises(DataError, match=r"a\.h5: z: damaged HDF5 file: .*filter"):
            rows.read(500, 600)


def test_concatenated_arrays_are_not_read_as_the_first(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.ones(2))
    np.save(stream, np.zeros(2))
    (tmp_path / "a.npy").write_bytes(stream.getvalue())
    with open_arrays(tmp_path / "a.npy") as file, pytest.raises(DataError, match="longer"):
        file.open("")
