"""Hostile checkpoints, folders, texts and lists."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

from reliability.hostile_arrays import Writes, unpickle
from reliability.hostile_files import ARRAYS, CHECKPOINT, GROUPS, INPUTS, REMOVE, TOKENIZER, Collection

FOLDERS = Collection()
_AS_ARRAYS = (ARRAYS[0], ARRAYS[8])


def load_with_torch(path: str) -> None:
    import torch

    torch.load(path, weights_only=False)


def load_with_torchscript(path: str) -> None:
    import torch

    torch.jit.load(path)


def load_with_torch_export(path: str) -> None:
    import torch

    torch.export.load(path)


@FOLDERS("code.pt", *CHECKPOINT, *_AS_ARRAYS, opens_canary=load_with_torch)
def checkpoint_with_code(path: Path, canary: Path, inputs: Path) -> None:
    import torch

    torch.save({"state_dict": {"weight": torch.ones(2, 2), "more": Writes(canary)}}, path)


@FOLDERS("legacy.pth", *CHECKPOINT, *_AS_ARRAYS, opens_canary=load_with_torch)
def checkpoint_of_the_older_format_with_code(path: Path, canary: Path, inputs: Path) -> None:
    import torch

    torch.save({"weight": Writes(canary)}, path, _use_new_zipfile_serialization=False)


@FOLDERS("bare.pt", *CHECKPOINT, *_AS_ARRAYS, opens_canary=unpickle)
def checkpoint_that_is_a_pickle(path: Path, canary: Path, inputs: Path) -> None:
    path.write_bytes(pickle.dumps(Writes(canary)))


@FOLDERS("tar.pt", *CHECKPOINT, *_AS_ARRAYS, opens_canary=load_with_torch)
def checkpoint_that_is_a_tar(path: Path, canary: Path, inputs: Path) -> None:
    """The oldest format of all: an archive of pickles."""
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(Writes(canary), 2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("more")
        link.type, link.linkname = tarfile.SYMTYPE, str(canary)
        archive.addfile(link)


@FOLDERS("script.pt", *CHECKPOINT, *_AS_ARRAYS, opens_canary=load_with_torchscript)
def torchscript_that_writes(path: Path, canary: Path, inputs: Path) -> None:
    import warnings

    import torch

    from reliability.torchscript_program import Program

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Program(str(canary))), path)


@FOLDERS("exported.pt2", *CHECKPOINT, opens_canary=load_with_torch_export)
def exported_program_with_a_pickle(path: Path, canary: Path, inputs: Path) -> None:
    import torch

    whole = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2).eval(), (torch.ones(2, 2),)), whole)
    with zipfile.ZipFile(whole) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    listing = next(name for name in members if name.endswith("model_weights_config.json"))
    config = json.loads(members[listing])
    config["config"]["weight"]["use_pickle"] = True
    members[listing] = json.dumps(config).encode()
    payload = io.BytesIO()
    torch.save(Writes(canary), payload)
    member = config["config"]["weight"]["path_name"]
    members[listing.replace("model_weights_config.json", member)] = payload.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _hugging_face(path: Path, config: dict[str, object]) -> None:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))


@FOLDERS("folder", CHECKPOINT[1])
def folder_whose_config_names_code(path: Path, canary: Path, inputs: Path) -> None:
    _hugging_face(path, {"model_type": "evil", "architectures": ["Evil"],
                         "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Evil"}})  # fmt: skip
    (path / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    shutil.copy(inputs / "digits.safetensors", path / "model.safetensors")


for _number, _place in enumerate(("{canary}", "../elsewhere/{name}", "sub/../../{name}", "..", "")):

    def _make(path: Path, canary: Path, inputs: Path, place: str = _place) -> None:
        _hugging_face(path, {"model_type": "gpt2"})
        file = place.format(canary=canary, name=canary.name)
        index = {"weight_map": {"weight": file}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))

    _make.__name__ = f"folder: an index of weights that leads out, {_number}"
    FOLDERS("folder", CHECKPOINT[1])(_make)


@FOLDERS("folder", CHECKPOINT[1])
def folder_with_a_config_of_hostile_depth(path: Path, canary: Path, inputs: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    shutil.copy(inputs / "digits.safetensors", path / "model.safetensors")


@FOLDERS("folder", CHECKPOINT[1], statuses=(65, 66))
def folder_of_pipes_and_loops(path: Path, canary: Path, inputs: Path) -> None:
    _hugging_face(path, {"model_type": "gpt2"})
    os.mkfifo(path / "model.safetensors")
    (path / "loop").symlink_to(path)


def _png(width: int, height: int) -> bytes:
    """Write a black picture, row by row compressed."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width // 8 + 1) * 64) for _ in range(height // 64)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@FOLDERS("images", *INPUTS)
def picture_of_a_billion_pixels(path: Path, canary: Path, inputs: Path) -> None:
    (path / "a").mkdir(parents=True)
    (path / "a" / "bomb.png").write_bytes(_png(32_768, 32_768))


@FOLDERS("images", *INPUTS, statuses=(65, 66))
def images_that_are_links_pipes_and_loops(path: Path, canary: Path, inputs: Path) -> None:
    (path / "a").mkdir(parents=True)
    (path / "a" / "canary.png").symlink_to(canary)
    (path / "a" / "loop.png").symlink_to("loop.png")
    (path / "b").symlink_to("..")
    os.mkfifo(path / "a" / "pipe.png")
    with contextlib.suppress(OSError):
        os.mknod(path / "a" / "zero.png", 0o20644, os.makedev(1, 5))


@FOLDERS("images", *INPUTS)
def images_of_another_kind_than_they_say(path: Path, canary: Path, inputs: Path) -> None:
    (path / "a").mkdir(parents=True)
    (path / "a" / "program.png").write_text(f"%!PS\n({canary}) (w) file closefile\nshowpage\n")


@FOLDERS("tokenizer.json", *TOKENIZER)
def tokenizer_of_hostile_depth(path: Path, canary: Path, inputs: Path) -> None:
    path.write_text('{"version": "1.0", "model": ' + "[" * 100_000 + "]" * 100_000 + "}")


@FOLDERS("tokenizer.json", *TOKENIZER)
def tokenizer_whose_words_are_in_a_file(path: Path, canary: Path, inputs: Path) -> None:
    model = {"type": "BPE", "vocab": str(canary), "merges": str(canary)}
    path.write_text(json.dumps({"version": "1.0", "model": model}))


@FOLDERS("tokenizer.json", *TOKENIZER)
def tokenizer_that_is_a_pickle(path: Path, canary: Path, inputs: Path) -> None:
    path.write_bytes(pickle.dumps(Writes(canary)))


@FOLDERS("pipe.npz", *ARRAYS[:4], *CHECKPOINT, *GROUPS, statuses=(65, 66))
def pipe_without_a_writer(path: Path, canary: Path, inputs: Path) -> None:
    os.mkfifo(path)


@FOLDERS("loop.h5", *ARRAYS[:4], *CHECKPOINT, *REMOVE, statuses=(66,))
def link_to_itself(path: Path, canary: Path, inputs: Path) -> None:
    path.symlink_to(path.name)


for _suffix, _content in (
    ("nul.csv", b"class,group\n0,a\x00b\n1,\x1b[31m\n2,a\n3,a\n4,a\x00\n"),
    ("long.csv", b"0," + b"9" * 50_000_000),
    ("digits.csv", b"9" * 20_000_000 + b",a\n"),
    ("deep.json", b"[" * 100_000 + b"]" * 100_000),
    ("twice.json", b'{"0": "a", "0": "b", "1": "a", "2": "a", "3": "a", "4": "a"}'),
    ("long.json", b'{"0": ' + b"9" * 5_000_000 + b"}"),
    ("lines.txt", b"0,a\n" * 2_000_000),
):

    def _make_list(path: Path, canary: Path, inputs: Path, content: bytes = _content) -> None:
        path.write_bytes(content)

    _make_list.__name__ = f"groups: {_suffix}"
    FOLDERS(_suffix, *(() if _suffix == "nul.csv" else GROUPS), may=GROUPS)(_make_list)

for _suffix, _content in (
    ("nul.txt", b"train-1\x00\n\x00\n"),
    ("long.txt", b"9" * 20_000_000),
    ("wide.txt", b"train-1\n" * 500_000 + b"x" * 5_000_000),
    ("escapes.txt", b"\x1b[31m\x1b]0;x\x07\n"),
):

    def _make_ids(path: Path, canary: Path, inputs: Path, content: bytes = _content) -> None:
        path.write_bytes(content)

    _make_ids.__name__ = f"ids: {_suffix}"
    FOLDERS(_suffix, *REMOVE)(_make_ids)


@FOLDERS("groups.npy", *GROUPS)
def groups_of_code_points_that_there_are_not(path: Path, canary: Path, inputs: Path) -> None:
    np.save(path, np.full(5, 0x7FFFFFFF, np.uint32).view("<U1"))
