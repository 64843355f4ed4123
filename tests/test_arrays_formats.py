"""The contract of every reader: the same arrays from each format, whole or in blocks."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyarrow import parquet
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from resmem_cli.arrays import ArrayInfo, open_arrays, readers
from resmem_cli.errors import DataError, MissingExtraError, MissingInputError


def write_npy(path, arrays):
    (array,) = arrays.values()
    np.save(path, array)


def write_npz(path, arrays):
    np.savez(path, **arrays)


def write_torch(path, arrays):
    torch.save({key: torch.from_numpy(array.copy()) for key, array in arrays.items()}, path)


def write_safetensors(path, arrays):
    save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, path)


def write_parquet(path, arrays):
    columns = {
        key: pa.array(array) if array.ndim == 1 else pa.array(list(array)) for key, array in arrays.items()
    }
    parquet.write_table(pa.table(columns), path, row_group_size=3)


def write_hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array


WRITERS = {
    ".npy": write_npy,
    ".npz": write_npz,
    ".pt": write_torch,
    ".pth": write_torch,
    ".safetensors": write_safetensors,
    ".parquet": write_parquet,
    ".h5": write_hdf5,
    ".hdf5": write_hdf5,
}
every_format = pytest.mark.parametrize("suffix", WRITERS)
DTYPES = ["float16", "float32", "float64", "uint8", "int16", "int32", "int64"]


def written(tmp_path, suffix, array, key="embeddings"):
    path = tmp_path / f"file{suffix}"
    WRITERS[suffix](path, {key: array})
    return path, "" if suffix == ".npy" else key


def test_every_registered_suffix_is_under_the_contract():
    assert set(readers()) == set(WRITERS)


@every_format
def test_three_rows_by_hand(tmp_path, suffix):
    array = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)
    path, key = written(tmp_path, suffix, array)
    with open_arrays(path) as file:
        assert dict(file.arrays) == {key: ArrayInfo((3, 2), "float32")}
        rows = file.open(key)
        assert rows.shape == (3, 2)
        assert rows.dtype == np.float32
        assert rows.read(1, 3).tolist() == [[3, 4], [5, 6]]
        assert rows.read(0, 1).tolist() == [[1, 2]]
        assert rows.read(2, 2).shape == (0, 2)


@every_format
@pytest.mark.parametrize("dtype", DTYPES)
def test_streamed_equals_whole_for_every_type(tmp_path, suffix, dtype):
    array = np.arange(22).reshape(11, 2).astype(dtype)
    path, key = written(tmp_path, suffix, array)
    with open_arrays(path) as file:
        for block_rows in (1, 7, 11):
            rows = file.open(key)
            assert rows.dtype == np.dtype(dtype)
            blocks = [rows.read(start, min(start + block_rows, 11)) for start in range(0, 11, block_rows)]
            assert np.array_equal(np.concatenate(blocks), array)
            assert all(block.dtype == dtype and block.flags.c_contiguous for block in blocks)


@every_format
def test_any_order_of_reads_gives_the_same_rows(tmp_path, suffix):
    array = np.arange(11, dtype=np.int32)
    path, key = written(tmp_path, suffix, array, key="labels")
    with open_arrays(path) as file:
        rows = file.open(key)
        for start, stop in [(5, 7), (9, 11), (0, 2), (7, 8), (1, 10), (10, 11), (3, 3), (0, 11)]:
            assert rows.read(start, stop).tolist() == list(range(start, stop))


@every_format
def test_a_block_may_be_changed_without_changing_the_array(tmp_path, suffix):
    path, key = written(tmp_path, suffix, np.ones((4, 3), np.float32))
    with open_arrays(path) as file:
        rows = file.open(key)
        rows.read(0, 4)[:] = 0
        assert rows.read(0, 4).min() == 1


@pytest.mark.parametrize("suffix", [suffix for suffix in WRITERS if suffix != ".npy"])
def test_two_arrays_read_in_turns_do_not_disturb_each_other(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    WRITERS[suffix](path, {"a": np.arange(10.0), "b": np.arange(10, 20)})
    with open_arrays(path) as file:
        a, b = file.open("a"), file.open("b")
        for row in range(10):
            assert a.read(row, row + 1) == row
            assert b.read(row, row + 1) == row + 10


@every_format
def test_an_empty_array_is_refused(tmp_path, suffix):
    path, key = written(tmp_path, suffix, np.zeros((0, 4), np.float32))
    with pytest.raises(DataError), open_arrays(path) as file:
        file.open(key)


@every_format
def test_a_file_of_another_kind_is_refused(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(b"this is no array, whatever the suffix says" * 20)
    with pytest.raises(DataError, match=r"file\.") as caught:
        open_arrays(path)
    assert caught.value.file == str(path)


@every_format
def test_an_empty_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    path.touch()
    with pytest.raises(DataError):
        open_arrays(path)


@every_format
def test_a_file_cut_anywhere_is_refused_or_read_in_full(tmp_path, suffix):
    array = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    path, key = written(tmp_path, suffix, array)
    whole = path.read_bytes()
    for length in np.linspace(0, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:length])
        with suppress(DataError), open_arrays(path) as file:
            assert np.array_equal(file.open(key).read(0, 50), array)


def test_a_missing_file(tmp_path):
    with pytest.raises(MissingInputError, match="no such file"):
        open_arrays(tmp_path / "absent.npy")
    with pytest.raises(MissingInputError):
        open_arrays(tmp_path)
    with pytest.raises(MissingInputError):
        open_arrays(Path("x" * 5000 + ".npy"))


def test_an_unknown_suffix_lists_the_known_ones(tmp_path):
    path = tmp_path / "embeddings.csv"
    path.touch()
    with pytest.raises(DataError, match=r"\.h5, \.hdf5, \.npy, \.npz.*found \.csv"):
        open_arrays(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
def test_big_endian_is_read_as_native(tmp_path, suffix):
    array = np.array([[1.5, -2.0], [3.0, 4.0]], dtype=">f4")
    path, key = written(tmp_path, suffix, array)
    with open_arrays(path) as file:
        block = file.open(key).read(0, 2)
    assert block.dtype.isnative
    assert np.array_equal(block, array)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_fortran_order_is_read_as_c_order(tmp_path, suffix):
    array = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(4, 3))
    path, key = written(tmp_path, suffix, array)
    with open_arrays(path) as file:
        rows = file.open(key)
        assert rows.read(1, 3).tolist() == array[1:3].tolist()
        assert rows.read(0, 4).flags.c_contiguous
        notice = file.notice(key)
    if suffix == ".npz":
        assert notice == "file.npz:embeddings is in Fortran order, so it was read whole, 0.0 MiB"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_bfloat16_is_widened_to_float32(tmp_path, suffix):
    tensor = torch.randn(9, 4, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    path = tmp_path / f"file{suffix}"
    (torch.save if suffix == ".pt" else save_torch_file)({"z": tensor}, path)
    with open_arrays(path) as file:
        rows = file.open("z")
        assert rows.dtype == np.float32
        blocks = [rows.read(start, min(start + 2, 9)) for start in range(0, 9, 2)]
    assert np.array_equal(np.concatenate(blocks), tensor.to(torch.float32).numpy())


def test_bfloat16_of_safetensors_keeps_its_name(tmp_path):
    save_torch_file({"z": torch.ones(2, 2, dtype=torch.bfloat16)}, tmp_path / "a.safetensors")
    with open_arrays(tmp_path / "a.safetensors") as file:
        assert file.arrays["z"] == ArrayInfo((2, 2), "bfloat16")


def test_eight_bit_floats_of_safetensors_are_refused(tmp_path):
    save_torch_file({"z": torch.ones(2, 2).to(torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    with (
        open_arrays(tmp_path / "a.safetensors") as file,
        pytest.raises(DataError, match="F8_E4M3"),
    ):
        file.open("z")


def test_deflated_members_are_read_like_stored_ones(tmp_path):
    array = np.arange(300_000, dtype=np.int64).reshape(-1, 3)
    np.savez_compressed(tmp_path / "a.npz", z=array)
    with open_arrays(tmp_path / "a.npz") as file:
        rows = file.open("z")
        assert np.array_equal(np.concatenate([rows.read(0, 99_999), rows.read(99_999, 100_000)]), array)


def test_nested_groups_and_mappings_join_their_keys(tmp_path):
    array = np.ones((2, 2), np.float32)
    write_hdf5(tmp_path / "a.h5", {"train/embeddings": array, "test/embeddings": array})
    torch.save({"train": {"embeddings": torch.from_numpy(array)}}, tmp_path / "a.pt")
    torch.save(torch.from_numpy(array), tmp_path / "bare.pt")
    with open_arrays(tmp_path / "a.h5") as file:
        assert set(file.arrays) == {"train/embeddings", "test/embeddings"}
    with open_arrays(tmp_path / "a.pt") as file:
        assert list(file.arrays) == ["train/embeddings"]
    with open_arrays(tmp_path / "bare.pt") as file:
        assert file.open("").read(0, 2).tolist() == array.tolist()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet", ".h5"])
def test_text_of_fixed_length(tmp_path, suffix):
    array = np.array([b"a", "é".encode(), b"abc"])
    path, key = written(tmp_path, suffix, array, key="ids")
    with open_arrays(path) as file:
        rows = file.open(key)
        assert rows.dtype == "S3"
        assert rows.read(0, 3).tolist() == array.tolist()


@given(
    array=hnp.arrays(
        dtype=st.sampled_from(["<f4", ">f8", "<i2", ">u4", "|b1"]),
        shape=hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5),
    ),
    order=st.sampled_from("CF"),
    cuts=st.lists(st.integers(0, 5), max_size=4),
)
def test_numpy_files_in_any_blocks_equal_the_array(tmp_path_factory, array, order, cuts):
    folder = tmp_path_factory.mktemp("cuts", numbered=True)
    array = np.asarray(array, order=order)
    np.save(folder / "a.npy", array)
    np.savez(folder / "a.npz", a=array)
    bounds = [0, *sorted(min(cut, len(array)) for cut in cuts), len(array)]
    for name, key in (("a.npy", ""), ("a.npz", "a")):
        with open_arrays(folder / name) as file:
            rows = file.open(key)
            blocks = [rows.read(start, stop) for start, stop in zip(bounds, bounds[1:], strict=False)]
        assert np.array_equal(np.concatenate(blocks), array, equal_nan=array.dtype.kind == "f")


def test_importing_the_readers_loads_no_heavy_package():
    heavy = ["torch", "pyarrow", "safetensors", "h5py"]
    program = (
        f"import sys, resmem_cli.arrays as a; a.readers(); print([m for m in {heavy} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("suffix", "package", "extra"),
    [(".parquet", "pyarrow", "arrow"), (".safetensors", "safetensors", "torch")],
)
def test_an_absent_package_names_its_extra(tmp_path, monkeypatch, suffix, package, extra):
    path, _ = written(tmp_path, suffix, np.ones((2, 2), np.float32))
    monkeypatch.setitem(sys.modules, package, None)  # what import finds where it is not installed
    with pytest.raises(MissingExtraError, match=rf"pip install 'resmem-cli\[{extra}\]'"):
        open_arrays(path)
