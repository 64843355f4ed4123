"""Rows read at random, and temporary arrays that are not the process's own memory."""

import os
import sys

import numpy as np
import pytest

from resmem_cli.errors import OutputError
from resmem_cli.rows import ArrayInMemory, as_rows
from resmem_cli.scratch import IN_MEMORY_BYTES, Scratch


def test_an_array_is_read_in_ranges_and_picked_without_a_copy():
    array = np.arange(12, dtype=np.float32).reshape(6, 2)
    rows = as_rows(array)
    assert (rows.shape, rows.dtype) == ((6, 2), np.dtype(np.float32))
    assert np.shares_memory(rows.read(1, 3), array)
    assert rows.at(np.array([5, 0]))[[5, 0]].tolist() == [[10, 11], [0, 1]]


def test_rows_stay_the_rows_they_are():
    rows = ArrayInMemory(np.zeros((2, 2)))
    assert as_rows(rows) is rows


@pytest.mark.parametrize("n_bytes", [8, IN_MEMORY_BYTES, IN_MEMORY_BYTES + 8])
def test_a_temporary_array_is_zeros_that_keep_what_is_written(tmp_path, n_bytes):
    array = Scratch(tmp_path).array((n_bytes // 8,), np.int64)
    assert not array.any()
    array[:] = np.arange(len(array))
    assert array[-1] == len(array) - 1
    assert os.listdir(tmp_path) == []


def test_without_a_folder_everything_is_in_memory():
    array = Scratch().array((3, 1 << 20), np.float32)
    assert array.base is None
    assert array.shape == (3, 1 << 20)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_array_is_no_anonymous_memory(tmp_path):
    def anonymous():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

    before = anonymous()
    array = Scratch(tmp_path).array((64 << 20,), np.uint8)
    array[:] = 1
    assert anonymous() - before < 16 << 10


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_a_full_disk_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(OutputError, match=r"no room for .* temporary bytes") as caught:
        Scratch(tmp_path).array((1 << 60,), np.uint8)
    assert str(tmp_path) in str(caught.value)
