"""Hostile HDF5 files: filters and types that no artifact has."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5p, h5s, h5t, h5z

from reliability.hostile_files import ANY_ARTIFACT, ARRAYS, EMBEDDINGS, INPUTS, Collection
from reliability.hostile_hdf5 import READ_AS_ARTIFACT, sound

HDF5_TYPES = Collection()


def _filtered(path: Path, inputs: Path, code: int, values: tuple[int, ...] = (), flag: int = 0) -> None:
    with sound(path, inputs) as file:
        del file["embeddings"]
        creation = h5p.create(h5p.DATASET_CREATE)
        creation.set_chunk((30, 8))
        creation.set_filter(code, flag, values)
        space = h5s.create_simple((30, 8))
        dataset = h5py.Dataset(h5d.create(file.id, b"embeddings", h5t.IEEE_F32LE, space, creation))
        dataset.id.write_direct_chunk((0, 0), bytes(960))


@HDF5_TYPES("plugin.h5", *ARRAYS)
def filter_of_a_plugin(path: Path, canary: Path, inputs: Path) -> None:
    _filtered(path, inputs, 32_004, flag=h5z.FLAG_OPTIONAL)


@HDF5_TYPES("szip.h5", *ARRAYS)
def filter_szip(path: Path, canary: Path, inputs: Path) -> None:
    _filtered(path, inputs, h5z.FILTER_SZIP, (0x8D, 16), flag=h5z.FLAG_OPTIONAL)


@HDF5_TYPES("nbit.h5", *ARRAYS)
def filter_nbit(path: Path, canary: Path, inputs: Path) -> None:
    _filtered(path, inputs, h5z.FILTER_NBIT)


@HDF5_TYPES("scaleoffset.h5", *ARRAYS)
def filter_scaleoffset(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs) as file:
        labels = file["labels"][:]
        del file["labels"]
        file.create_dataset("labels", data=labels, scaleoffset=0)


@HDF5_TYPES("shuffle.h5", INPUTS[0], may=ARRAYS[:-1])
def filter_shuffle_with_values_that_lie(path: Path, canary: Path, inputs: Path) -> None:
    _filtered(path, inputs, h5z.FILTER_SHUFFLE, (7,))


@HDF5_TYPES("attribute.h5", *READ_AS_ARTIFACT, may=ARRAYS)
def variable_length_attribute(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs) as file:
        for name in ("content_digest", "format_version", "more"):
            file.attrs[name] = "text"
        file["embeddings"].attrs["more"] = "text"


@HDF5_TYPES("parameters.h5", *ANY_ARTIFACT, *EMBEDDINGS)
def variable_length_attribute_of_an_artifact(path: Path, canary: Path, inputs: Path) -> None:
    shutil.copy(inputs / "train.h5", path)
    with h5py.File(path, "r+") as file:
        value = bytes(file.attrs["parameters"]).decode()
        del file.attrs["parameters"]
        file.attrs["parameters"] = value


def _instead_of_embeddings(path: Path, inputs: Path, values: Any, **options: Any) -> None:
    with sound(path, inputs) as file:
        del file["embeddings"]
        file.create_dataset("embeddings", data=values, **options)


@HDF5_TYPES("vlen.h5", *ARRAYS)
def variable_length_dataset(path: Path, canary: Path, inputs: Path) -> None:
    _instead_of_embeddings(path, inputs, ["text"] * 30)


@HDF5_TYPES("compound.h5", *ARRAYS)
def compound_dataset(path: Path, canary: Path, inputs: Path) -> None:
    _instead_of_embeddings(path, inputs, np.ones(30, [("a", "<f4"), ("b", "<i4")]))


@HDF5_TYPES("enum.h5", INPUTS[0], may=ARRAYS[:-1])
def enumerated_labels(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs) as file:
        del file["labels"]
        file.create_dataset("labels", (30,), h5py.enum_dtype({"a": 0, "b": 1 << 30}))


@HDF5_TYPES("opaque.h5", *ARRAYS)
def opaque_dataset(path: Path, canary: Path, inputs: Path) -> None:
    _instead_of_embeddings(path, inputs, np.zeros(30, "V8"))


@HDF5_TYPES("references.h5", *ARRAYS)
def object_references(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs) as file:
        reference = file["embeddings"].ref
        del file["embeddings"]
        file.create_dataset("embeddings", data=[reference] * 30, dtype=h5py.ref_dtype)


@HDF5_TYPES("regions.h5", *ARRAYS)
def region_references(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs) as file:
        region = file["logits"].regionref[:3]
        del file["embeddings"]
        file.create_dataset("embeddings", data=[region] * 30, dtype=h5py.regionref_dtype)


@HDF5_TYPES("type.h5", INPUTS[0], may=ARRAYS[:-1])
def committed_types(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs) as file:
        file["type"] = np.dtype("<f4")
        file.create_dataset("more", (30,), file["type"])


@HDF5_TYPES("typed.h5", may=(*ANY_ARTIFACT, *EMBEDDINGS))
def committed_type_of_an_attribute(path: Path, canary: Path, inputs: Path) -> None:
    shutil.copy(inputs / "train.h5", path)
    with h5py.File(path, "r+") as file:
        file["type"] = np.dtype("<i8")
        value = file.attrs["format_version"]
        del file.attrs["format_version"]
        space = h5s.create(h5s.SCALAR)
        h5a.create(file.id, b"format_version", file["type"].id, space).write(np.array(value, np.int64))
