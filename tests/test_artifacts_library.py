"""One process for all files, whatever else happens in this one."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_artifacts_formats import write_sample

from resmem_cli.artifacts import library
from resmem_cli.artifacts.formats import EMBEDDINGS
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.artifacts.structure import Hdf5File

VALUES = np.arange(4000, dtype=np.float32).reshape(1000, 4)


@pytest.fixture
def compressed(tmp_path: Path) -> Path:
    path = tmp_path / "compressed.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("z", data=VALUES, chunks=(100, 4), compression="gzip")
    return path


def test_an_interrupted_question_is_not_answered_to_the_next(
    compressed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hdf5File(compressed) as file:
        dataset = file.datasets()["z"]

        def interrupt(*arguments: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("os.readv", interrupt)
        with pytest.raises(KeyboardInterrupt):
            file.read_through(dataset, 0, 100)
        monkeypatch.undo()
        assert np.array_equal(file.read_through(dataset, 100, 200), VALUES[100:200])


def test_a_fork_has_a_process_and_a_lock_of_its_own(compressed: Path) -> None:
    with Hdf5File(compressed) as file:
        dataset = file.datasets()["z"]
        held = threading.Thread(target=_hold_the_lock, args=(entered := threading.Event(), 2.0))
        held.start()
        entered.wait()
        child = os.fork()
        if child == 0:
            same = np.array_equal(file.read_through(dataset, 0, 100), VALUES[:100])
            file.close()
            os._exit(0 if same else 1)
        assert os.waitpid(child, 0)[1] == 0
        held.join()
        assert np.array_equal(file.read_through(dataset, 100, 200), VALUES[100:200])


def _hold_the_lock(entered: threading.Event, seconds: float) -> None:
    with library._lock:
        entered.set()
        threading.Event().wait(seconds)


def test_files_are_read_in_processes_of_a_pool(tmp_path: Path) -> None:
    paths = [write_sample(tmp_path / f"{i}.h5", EMBEDDINGS) for i in range(4)]
    open_artifact(paths[0]).close()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_rows, paths) == [11] * 4


def _rows(path: Path) -> int:
    with open_artifact(path) as artifact:
        return len(artifact.read("embeddings"))


def test_a_reader_that_was_not_closed_leaves_no_descriptor(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.h5", EMBEDDINGS)
    open_artifact(path)
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        open_artifact(path)
    assert len(os.listdir("/dev/fd")) == before


def test_a_process_that_was_killed_is_replaced(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.h5", EMBEDDINGS)
    open_artifact(path).close()
    assert library._current is not None
    library._current.isolated.close()
    assert _rows(path) == 11
