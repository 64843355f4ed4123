"""Answers to questions about an HDF5 file, given where the library is: in a process of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from resmem_cli.artifacts.hdf5 import CHECKSUM_FILTERS, open_hdf5, plain_attributes, readable_datasets
from resmem_cli.errors import DataError, ResmemError


class Hdf5Answers:
    """Answers questions about one file; see `structure.Hdf5File`, which asks them.

    Raises
    ------
    MissingInputError, DataError, BusyError
        As `open_hdf5`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: h5py.File | None = None
        self._datasets: dict[str, h5py.Dataset] = {}

    def __call__(self, question: Mapping[str, Any]) -> tuple[Any, bytes]:
        """Answer one question.

        Raises
        ------
        DataError
            For whatever h5py raises: a damaged file can make it raise anything.
        """
        try:
            return self._answer(question)
        except (ResmemError, MemoryError):
            raise
        except Exception as error:
            raise DataError(
                f"damaged HDF5 file: {str(error) or type(error).__name__}",
                file=self._path,
                field=question.get("name"),
                remedy="copy or create it again",
            ) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _answer(self, question: Mapping[str, Any]) -> tuple[Any, bytes]:
        if question["ask"] == "has attribute" and not h5py.is_hdf5(self._path):
            return False, b""
        self._file = self._file or open_hdf5(self._path)
        match question["ask"]:
            case "has attribute":
                return any(name in self._file.attrs for name in question["names"]), b""
            case "attributes":
                attributes = plain_attributes(self._file)
                return {
                    name: value if isinstance(value, int) else value.hex()
                    for name, value in attributes.items()
                }, b""
            case "datasets":
                self._datasets = readable_datasets(self._file, filters=frozenset(question["filters"]))
                told = [_described(name, dataset) for name, dataset in self._datasets.items()]
                return [one for one, _ in told], b"".join(places for _, places in told)
            case "rows":
                # In a new process, after another file has harmed the one before.
                self._datasets = self._datasets or readable_datasets(self._file)
                rows = self._datasets[question["name"]][question["start"] : question["stop"]]
                return None, np.ascontiguousarray(rows).tobytes()
        raise ValueError(question)


def _described(name: str, dataset: h5py.Dataset) -> tuple[dict[str, Any], bytes]:
    """Describe a dataset, and list the places of its chunks if they are runs of rows as they are."""
    creation = dataset.id.get_create_plist()
    codes = {creation.get_filter(i)[0] for i in range(creation.get_nfilters())}
    places = b""
    chunks = dataset.chunks if codes <= CHECKSUM_FILTERS else None
    if chunks is not None and chunks[1:] == dataset.shape[1:] and 0 not in dataset.shape:
        at = np.full(math.ceil(dataset.shape[0] / chunks[0]), -1, np.int64)
        dataset.id.chunk_iter(
            lambda chunk: at.__setitem__(chunk.chunk_offset[0] // chunks[0], chunk.byte_offset)
        )
        places = at.tobytes()
    return {
        "name": name,
        "shape": dataset.shape,
        "dtype": dataset.dtype.str,
        "offset": None if codes else dataset.id.get_offset(),
        "chunk_rows": dataset.chunks[0] if places else None,
        "n_chunks": len(places) // 8,
    }, places
