"""Exported arrays and checkpoints whose bytes have changed: refused in one line, or read as what they say.

They carry no digests, so that a changed value is read as that value; what may not happen is a crash, a
hang, a traceback, or memory taken for what a header claims.

Seen to fail: with the errors of zip files and headers let through, 16 of the first 50 ended with "status 1",
such as "ValueError: Cannot parse header".
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from reliability.mutations import Hdf5Metadata, mutate
from reliability.processes import ForkServer
from reliability.tally import Tally, seeds
from reliability.workload import SAMPLE_DATA

torch = pytest.importorskip("torch", reason="needs the torch extra")
pyarrow = pytest.importorskip("pyarrow", reason="needs the arrow extra")

Arrays = dict[str, np.ndarray]


def arrays() -> Arrays:
    generator = np.random.default_rng(0)
    return {
        "embeddings": generator.normal(size=(40, 6)).astype(np.float32),
        "logits": generator.normal(size=(40, 3)).astype(np.float32),
        "labels": generator.integers(0, 3, size=40),
    }


def hdf5(path: Path, *, libver: str, **storage: object) -> None:
    with h5py.File(path, "w", libver=libver) as file:
        for name, array in arrays().items():
            file.create_dataset(f"train/{name}", data=array, **storage)


def parquet(path: Path) -> None:
    import pyarrow.parquet

    columns = {name: array.tolist() for name, array in arrays().items()}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def saved_tensors(path: Path) -> None:
    torch.save({name: torch.from_numpy(array) for name, array in arrays().items()}, path)


def safetensors(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file(arrays(), path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.npy": lambda path: np.save(path, arrays()["embeddings"]),
    "a.npz": lambda path: np.savez(path, **arrays()),
    "compressed.npz": lambda path: np.savez_compressed(path, **arrays()),
    "a.pt": saved_tensors,
    "a.safetensors": safetensors,
    "a.parquet": parquet,
    "old.h5": lambda path: hdf5(path, libver="earliest"),
    "old_chunks.h5": lambda path: hdf5(
        path, libver="earliest", chunks=True, compression="gzip", shuffle=True
    ),
    "old_lzf.h5": lambda path: hdf5(path, libver="earliest", chunks=True, compression="lzf"),
    "new.h5": lambda path: hdf5(path, libver="latest", chunks=True, fletcher32=True),
}
CHECKPOINT = "digits.safetensors"


class Places:
    """A folder for each file, and the commands that read it."""

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self._server, self.folder = server, folder
        self.sound = {}
        for name, write in WRITERS.items():
            write(folder / name)
            self.sound[name] = (folder / name).read_bytes()
        self.sound[CHECKPOINT] = (SAMPLE_DATA / CHECKPOINT).read_bytes()
        self.metadata = {
            name: Hdf5Metadata(content) for name, content in self.sound.items() if name == "new.h5"
        }
        for name in ("digits_test.npz", "train_digits.py"):
            shutil.copy(SAMPLE_DATA / name, folder)

    def check(self, name: str, content: bytes) -> str:
        """Give how reading a file of these bytes ended."""
        output = self.folder / "out.h5"
        output.unlink(missing_ok=True)
        (self.folder / name).write_bytes(content)
        arguments: tuple[object, ...] = ("import", name)
        if name == CHECKPOINT:
            arguments = ("embed", name, "digits_test.npz", "--arch", "train_digits:make_network")
        ended = self._server.run(*arguments, "-o", output.name, cwd=self.folder)
        if ended.status == 0:
            return "read"
        # A usage error where the file has not the array that is asked for by its name.
        ended.assert_refused(65, naming=name)
        assert not output.exists()
        return "refused"


@pytest.fixture(scope="module")
def places(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(server, tmp_path_factory.mktemp("arrays"))


@seeds(quick=60, long=1000, together=30)
def test_a_mutated_file_is_read_as_what_it_says_or_refused(
    seeds: range, places: Places, tally: Tally
) -> None:
    names = (*WRITERS, *WRITERS, CHECKPOINT)

    def check(seed: int) -> str:
        generator = np.random.default_rng([2, seed])
        name = names[seed % len(names)]
        if name in places.metadata and generator.random() < 0.5:
            return places.check(name, places.metadata[name].mutate(generator))
        return places.check(name, mutate(places.sound[name], generator))

    tally.each("arrays", seeds, check)
