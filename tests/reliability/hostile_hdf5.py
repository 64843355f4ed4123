"""Hostile HDF5 files, as exported arrays and as artifacts."""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5f, h5g, h5p, h5s, h5t

from reliability.hostile_files import ANY_ARTIFACT, ARRAYS, EMBEDDINGS, INPUTS, Collection
from reliability.mutations import lookup3

HDF5 = Collection()
READ_AS_ARTIFACT = ANY_ARTIFACT[:3]
_MIB = 1 << 20


def read_with_h5py(path: str) -> None:
    """Read the embeddings as h5py does by default."""
    with h5py.File(path) as file:
        file["embeddings"][:3]


def sound(path: Path, inputs: Path, **options: Any) -> h5py.File:
    """Make a foreign file with everything that a command looks for, and give it open."""
    file = h5py.File(path, "w", **options)
    with np.load(inputs / "arrays.npz") as arrays:
        for name in ("embeddings", "logits", "labels"):
            file[name] = arrays[f"test_{name}"]
    return file


@HDF5("link.h5", *ARRAYS, *READ_AS_ARTIFACT, opens_canary=read_with_h5py)
def external_link(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs) as file:
        del file["embeddings"]
        file["embeddings"] = h5py.ExternalLink(str(canary), "/z")


@HDF5("group.h5", *ARRAYS)
def external_link_to_a_group_beside_what_is_read(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs) as file:
        file["more"] = h5py.ExternalLink(str(canary), "/")


@HDF5("raw.h5", *ARRAYS, *READ_AS_ARTIFACT, opens_canary=read_with_h5py)
def external_raw_storage(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs) as file:
        del file["embeddings"]
        file.create_dataset("embeddings", (30, 8), "<f4", external=[(str(canary), 0, 960)])


@HDF5("virtual.h5", *ARRAYS, *READ_AS_ARTIFACT, opens_canary=read_with_h5py)
def virtual_dataset(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs, libver="latest") as file:
        del file["embeddings"]
        layout = h5py.VirtualLayout((30, 8), "<f4")
        layout[:] = h5py.VirtualSource(str(canary), "z", (30, 8))
        file.create_virtual_dataset("embeddings", layout)


@HDF5("printf.h5", *ARRAYS)
def virtual_dataset_over_numbered_files(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs, libver="latest") as file:
        del file["embeddings"]
        source, target = h5s.create_simple((30, 8)), h5s.create_simple((30, 8), (h5s.UNLIMITED, 8))
        target.select_hyperslab((0, 0), (h5s.UNLIMITED, 1), (30, 8), (30, 8))
        creation = h5p.create(h5p.DATASET_CREATE)
        creation.set_virtual(target, os.fsencode(canary) + b"%b", b"z", source)
        h5d.create(file.id, b"embeddings", h5t.IEEE_F32LE, target, creation)


@HDF5("loop.h5", *ARRAYS)
def soft_links_in_a_circle(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs) as file:
        del file["embeddings"]
        file["embeddings"], file["other"] = h5py.SoftLink("/other"), h5py.SoftLink("/embeddings")


@HDF5("hard.h5", *ARRAYS)
def hard_links_in_a_circle(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs) as file:
        inner = file.create_group("a/b")
        inner["a"] = file["a"]


@HDF5("user.h5", *ARRAYS)
def user_defined_link(path: Path, canary: Path, inputs: Path) -> None:
    """Turn an external link's type, 64, into one that a program would register."""
    with sound(path, inputs, libver="latest") as file:
        file.create_group("group")["more"] = h5py.ExternalLink(str(canary), "/z")
    content = bytearray(path.read_bytes())
    name = content.index(b"more")
    header = content.rindex(b"OHDR", 0, name)
    stop = next(
        stop
        for stop in range(name, len(content) - 4)
        if lookup3(bytes(content[header:stop])) == int.from_bytes(content[stop : stop + 4], "little")
    )
    kind = content.rindex(b"\x40", header, name)
    content[kind] = 200
    content[stop : stop + 4] = lookup3(bytes(content[header:stop])).to_bytes(4, "little")
    path.write_bytes(content)
    with h5py.File(path) as file:
        group = file["group"]
        assert group.id.links.get_info(b"more").type == 200


def _terabytes(path: Path, inputs: Path, **options: Any) -> None:
    with sound(path, inputs) as file:
        del file["embeddings"]
        file.create_dataset("embeddings", (1 << 38, 8), "<f4", **options)


@HDF5("contiguous.h5", *ARRAYS)
def terabytes_contiguous(path: Path, canary: Path, inputs: Path) -> None:
    _terabytes(path, inputs)


@HDF5("chunked.h5", *ARRAYS)
def terabytes_in_chunks(path: Path, canary: Path, inputs: Path) -> None:
    _terabytes(path, inputs, chunks=(1 << 16, 8))


@HDF5("deflated.h5", *ARRAYS)
def terabytes_in_deflated_chunks(path: Path, canary: Path, inputs: Path) -> None:
    _terabytes(path, inputs, chunks=(1 << 16, 8), compression="gzip")


def deflated_zeros(mebibytes: int) -> bytes:
    """Give zeros as zlib compresses them, without compressing them all."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(_MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = (mebibytes * _MIB % 65521) << 16 | 1
    return b"\x78\xda" + piece * mebibytes + b"\x03\x00" + checksum.to_bytes(4, "big")


@HDF5("bomb.h5", *ARRAYS)
def compression_bomb_of_many_chunks(path: Path, canary: Path, inputs: Path) -> None:
    """16 GiB of zeros in 16 MB, of other rows than the labels."""
    with sound(path, inputs) as file:
        del file["embeddings"]
        rows = 1 << 19
        options = {"chunks": (rows, 8), "compression": "gzip"}
        dataset = file.create_dataset("embeddings", (rows * 1024, 8), "<f4", **options)
        content = deflated_zeros(16)
        for chunk in range(1024):
            dataset.id.write_direct_chunk((chunk * rows, 0), content)


@HDF5("chunk.h5", *ARRAYS)
def compression_bomb_of_one_chunk(path: Path, canary: Path, inputs: Path) -> None:
    """A chunk of 3.5 GiB, which HDF5 unpacks whole for any row of it."""
    with sound(path, inputs) as file:
        del file["embeddings"]
        rows = 7 << 24
        options = {"chunks": (rows, 8), "maxshape": (None, 8), "compression": "gzip"}
        dataset = file.create_dataset("embeddings", (30, 8), "<f4", **options)
        dataset.id.write_direct_chunk((0, 0), deflated_zeros(rows * 32 // _MIB))


@HDF5("huge.h5", *ANY_ARTIFACT, *EMBEDDINGS)
def attribute_of_20_megabytes(path: Path, canary: Path, inputs: Path) -> None:
    shutil.copy(inputs / "train.h5", path)
    with h5py.File(path, "r+", libver="latest") as file:
        file.attrs["more"] = np.bytes_(b"x" * 20_000_000)


@HDF5("attributes.h5", *ANY_ARTIFACT, *EMBEDDINGS)
def thousands_of_attributes(path: Path, canary: Path, inputs: Path) -> None:
    shutil.copy(inputs / "train.h5", path)
    with h5py.File(path, "r+", libver="latest") as file:
        for number in range(5000):
            file.attrs[f"a{number}"] = number


@HDF5("groups.h5", *ARRAYS)
def thousands_of_groups(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs, libver="latest") as file:
        for number in range(10_001):
            h5g.create(file.id, b"g%d" % number)


@HDF5("deep.h5", *ARRAYS)
def groups_a_thousand_deep(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs) as file:
        file.create_group("/".join(["g"] * 1000))


@HDF5("latin.h5", *ARRAYS)
def names_that_are_not_utf8(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs) as file:
        file.create_dataset(b"caf\xe9\xff", data=np.ones(3))


@HDF5("escapes.h5", *ARRAYS)
def names_that_steer_a_terminal(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs) as file:
        for name in ("\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "\u009b2J", "\u202egnp.exe", "a\rb\bc"):
            file[f"{name}/embeddings"] = file[f"{name}/logits"] = np.ones(3)
        file.move("embeddings", "\x1b[1m\n\x1b]8;;file:///\x07z")


@HDF5("userblock.h5", *READ_AS_ARTIFACT, INPUTS[0], may=ARRAYS[:-1])
def block_before_the_superblock(path: Path, canary: Path, inputs: Path) -> None:
    sound(path, inputs, userblock_size=1024).close()
    with path.open("r+b") as stream:
        stream.write(b"#!/bin/sh\ntouch canary\n")


@HDF5("old.h5", *READ_AS_ARTIFACT, INPUTS[0], may=ARRAYS[:-1])
def superblock_and_symbol_tables_of_1998(path: Path, canary: Path, inputs: Path) -> None:
    with sound(path, inputs, libver=("earliest", "v108")) as file:
        file.create_group("more/still more")
    assert path.read_bytes()[8] == 0


def _with_driver(path: Path, inputs: Path, driver: str, **options: Any) -> None:
    folder = path.with_name("members")
    folder.mkdir()
    sound(folder / options.pop("name"), inputs, driver=driver, libver="earliest", **options).close()
    shutil.copy(min(folder.iterdir()), path)
    shutil.rmtree(folder)


@HDF5("family.h5", *READ_AS_ARTIFACT, *ARRAYS)
def member_of_a_family(path: Path, canary: Path, inputs: Path) -> None:
    _with_driver(path, inputs, "family", name="member-%03d.h5", memb_size=2048)


@HDF5("split.h5", *READ_AS_ARTIFACT, *ARRAYS)
def metadata_of_a_split_file(path: Path, canary: Path, inputs: Path) -> None:
    _with_driver(path, inputs, "split", name="part", meta_ext=b"-m.h5", raw_ext=b"-r.h5")


@HDF5("artifact.h5", *ANY_ARTIFACT, *EMBEDDINGS, opens_canary=read_with_h5py)
def artifact_whose_values_lie_elsewhere(path: Path, canary: Path, inputs: Path) -> None:
    shutil.copy(inputs / "train.h5", path)
    with h5py.File(path, "r+") as file:
        shape = file["embeddings"].shape
        del file["embeddings"]
        file.create_dataset("embeddings", shape, "<f4", external=[(str(canary), 0, h5f.UNLIMITED)])


@HDF5("digests.h5", *ANY_ARTIFACT, *EMBEDDINGS)
def artifact_whose_digests_are_linked(path: Path, canary: Path, inputs: Path) -> None:
    shutil.copy(inputs / "train.h5", path)
    with h5py.File(path, "r+") as file:
        del file["digests"]
        file["digests"] = h5py.ExternalLink(str(canary), "/digests")
