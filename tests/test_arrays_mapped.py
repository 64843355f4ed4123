"""Mapped arrays: what is read does not stay in the process's memory, and is read right again."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from resmem_cli.arrays.base import open_arrays
from resmem_cli.arrays.mapped import MappedFile, MappedRows
from resmem_cli.errors import DataError

N, D = 16_384, 256
PEAK = """
import sys
from pathlib import Path
from resmem_cli.arrays.base import open_arrays
with open_arrays(Path(sys.argv[1])) as file:
    rows = file.open(next(iter(file.arrays)))
    total = sum(float(rows.read(start, start + 512).sum()) for start in range(0, rows.shape[0], 512))
assert total == rows.shape[0] * rows.shape[1]
# Unlike ru_maxrss, which a child takes over from the process that started it.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def write_npy(path: Path, n: int) -> Path:
    np.save(path.with_suffix(".npy"), np.ones((n, D), np.float32))
    return path.with_suffix(".npy")


def write_fortran(path: Path, n: int) -> Path:
    np.save(path.with_suffix(".npy"), np.ones((n, D), np.float32, order="F"))
    return path.with_suffix(".npy")


def write_safetensors(path: Path, n: int) -> Path:
    save_file({"x": np.ones((n, D), np.float32)}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def write_bfloat16(path: Path, n: int) -> Path:
    save_torch_file({"x": torch.ones((2 * n, D), dtype=torch.bfloat16)}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def write_torch(path: Path, n: int) -> Path:
    torch.save({"x": torch.ones((n, D))}, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
@pytest.mark.parametrize("write", [write_npy, write_fortran, write_safetensors, write_bfloat16, write_torch])
def test_eight_times_the_rows_take_no_more_memory(tmp_path: Path, write) -> None:
    peaks = []
    for n in (N, 8 * N):
        path = write(tmp_path / f"x{n}", n)
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout))
        path.unlink()
    assert peaks[1] < 1.1 * peaks[0], f"{peaks} KiB"


def mapped(path: Path, array: NDArray[np.int32], offset: int) -> MappedRows:
    path.write_bytes(bytes(offset) + array.tobytes())
    with path.open("rb") as stream:
        file = MappedFile(stream)
    return MappedRows(file.array(offset, array.shape, array.dtype), file)


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), max_size=6),
    st.sampled_from([0, 1, 7, 128, mmap.PAGESIZE, mmap.PAGESIZE + 3]),
)
def test_released_pages_are_read_again(tmp_path_factory, ranges, offset: int) -> None:
    array = np.arange(9000, dtype=np.int32).reshape(3000, 3)
    rows = mapped(tmp_path_factory.mktemp("m") / "x", array, offset)
    for start, stop in [*ranges, (0, 3000), (0, 3000)]:
        stop = max(start, stop)
        assert np.array_equal(rows.read(start, stop), array[start:stop])


def test_without_the_system_call_reading_works_all_the_same(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delattr(mmap, "MADV_DONTNEED")
    rows = mapped(tmp_path / "x", np.arange(6, dtype=np.int32).reshape(3, 2), 0)
    assert rows.read(1, 3).tolist() == [[2, 3], [4, 5]]


def test_a_file_may_be_closed_while_its_rows_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 2)))
    with open_arrays(tmp_path / "x.npy") as file:
        rows = file.open("")
    assert rows.read(0, 3).tolist() == [[1, 1]] * 3


@pytest.mark.parametrize("shape", [(7, 3), (7, 2, 3), (7, 2, 1, 3), (1, 5), (7,), (7, 1)])
@pytest.mark.parametrize("dtype", ["<f4", ">i2", "S3"])
def test_fortran_order_gives_the_same_rows(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    np.save(tmp_path / "x.npy", np.asfortranarray(array))
    with open_arrays(tmp_path / "x.npy") as file:
        rows = file.open("")
        for start, stop in [(0, shape[0]), (shape[0] - 1, shape[0]), (0, 1), (0, 0)]:
            block = rows.read(start, stop)
            assert np.array_equal(block, array[start:stop])
            assert block.dtype == np.dtype(dtype).newbyteorder("=")
            assert block.flags.c_contiguous


def test_fortran_order_cut_short_after_it_was_opened_is_told(tmp_path: Path) -> None:
    path = write_fortran(tmp_path / "x", 100)
    with open_arrays(path) as file:
        rows = file.open("")
        path.write_bytes(path.read_bytes()[:-8])
        assert rows.read(0, 98).shape == (98, D)
        with pytest.raises(DataError, match=r"x\.npy: damaged.*found the file ends before its array does"):
            rows.read(0, 99)


def test_tensors_of_torch_are_found_in_their_file(tmp_path: Path) -> None:
    path = tmp_path / "odd name (1)\u00fc.pt"
    whole = torch.arange(4000.0).reshape(1000, 4)
    tensors = {"a": torch.ones(3, 2), "part": whole[10:], "turned": whole.T, "bf16": whole.bfloat16()}
    torch.save(tensors, path)
    with open_arrays(path) as file:
        rows = {key: file.open(key) for key in tensors}
        assert {key: isinstance(source, MappedRows) for key, source in rows.items()} == {
            "a": True,
            "part": True,
            "turned": False,
            "bf16": False,
        }
        for key, tensor in tensors.items():
            assert np.array_equal(rows[key].read(1, 3), tensor[1:3].float().numpy())


def test_tensors_of_an_old_file_are_read_from_memory(tmp_path: Path) -> None:
    torch.save(torch.ones(3, 2), tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    with open_arrays(tmp_path / "x.pt") as file:
        assert not isinstance(file.open(""), MappedRows)
        assert file.open("").read(0, 3).tolist() == [[1, 1]] * 3
