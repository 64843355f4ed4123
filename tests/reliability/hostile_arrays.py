"""Hostile files of exported arrays other than HDF5, and faiss indexes that name files."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from reliability.forging import forge
from reliability.hostile_files import ANY_ARTIFACT, ARRAYS, CLASS_WEIGHTS, GROUPS, INDEX, Collection
from reliability.hostile_hdf5 import deflated_zeros

ARRAYS_FILES = Collection()
FAISS = Collection()
_READ = (ARRAYS[0], ARRAYS[3], ARRAYS[6], ARRAYS[8])  # one for each way that commands come to arrays


class Writes:
    """Unpickled, it writes to the canary."""

    def __init__(self, canary: Path) -> None:
        self._canary = str(canary)

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (Path(self._canary), "touched")


def unpickle_with_numpy(path: str) -> None:
    loaded = np.load(path, allow_pickle=True)
    if isinstance(loaded, np.lib.npyio.NpzFile):
        loaded["embeddings"]


def unpickle(path: str) -> None:
    pickle.loads(Path(path).read_bytes())


def _objects(canary: Path) -> Any:
    values = np.empty(30, dtype=object)
    values[:] = Writes(canary)
    return values


def _npy(header: str, payload: bytes = b"", *, version: int = 2) -> bytes:
    text = header.encode()
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + struct.pack("<I" if version == 2 else "<H", len(text))
        + text
        + payload
    )


def _header(shape: object, descr: str = "'<f4'", order: bool = False) -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


@ARRAYS_FILES("pickled.npy", *_READ, *CLASS_WEIGHTS, *GROUPS, opens_canary=unpickle_with_numpy)
def pickled_npy(path: Path, canary: Path, inputs: Path) -> None:
    np.save(path, _objects(canary), allow_pickle=True)


@ARRAYS_FILES("bare.npy", *_READ, *CLASS_WEIGHTS, opens_canary=unpickle_with_numpy)
def pickle_called_npy(path: Path, canary: Path, inputs: Path) -> None:
    path.write_bytes(pickle.dumps(Writes(canary)))


@ARRAYS_FILES("pickled.npz", *_READ, opens_canary=unpickle_with_numpy)
def pickled_member_of_npz(path: Path, canary: Path, inputs: Path) -> None:
    np.savez(path, embeddings=_objects(canary))


def _zip_bomb(path: Path, *, fortran: bool) -> None:
    """Write 3.75 GiB of zeros in 4 MB, of other rows than the labels, without compressing them all."""
    mebibytes, name = 3840, b"embeddings.npy"
    header = _npy(_header((mebibytes << 15, 8), order=fortran))
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH)
    content += deflated_zeros(mebibytes)[2:-4]
    size = len(header) + (mebibytes << 20)
    common = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0x21, 0, len(content), size, len(name), 0)
    local = b"PK\x03\x04" + common + name + content
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels.npy", _npy(_header((30,), "'<i4'"), bytes(120)))
    whole = path.read_bytes()
    place = whole.index(b"PK\x01\x02")
    labels = whole[place : whole.index(b"PK\x05\x06")]
    entry = b"PK\x01\x02" + b"\x14\x00" + common + struct.pack("<HHHII", 0, 0, 0, 0, place) + name
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 2, 2, len(labels + entry), place + len(local), 0)
    path.write_bytes(whole[:place] + local + labels + entry + end)


@ARRAYS_FILES("bomb.npz", *_READ)
def zip_bomb(path: Path, canary: Path, inputs: Path) -> None:
    _zip_bomb(path, fortran=False)


@ARRAYS_FILES("fortran.npz", *_READ)
def zip_bomb_that_has_to_be_held_whole(path: Path, canary: Path, inputs: Path) -> None:
    _zip_bomb(path, fortran=True)


@ARRAYS_FILES("paths.npz", ARRAYS[8], may=_READ[:-1])
def names_that_lead_out_of_an_npz(path: Path, canary: Path, inputs: Path) -> None:
    with np.load(inputs / "arrays.npz") as arrays:
        np.savez(path, **{name: arrays[f"test_{name}"] for name in ("embeddings", "logits", "labels")})
    with zipfile.ZipFile(path, "a") as archive:
        for name in (str(canary), f"../../{canary.name}.npy", "a\x00b.npy", "\x1b[31m.npy"):
            archive.writestr(name, _npy(_header((30,)), bytes(120)))


@ARRAYS_FILES("overlap.npz", *_READ)
def members_of_npz_that_overlap(path: Path, canary: Path, inputs: Path) -> None:
    """Each local header is quoted by the member before, so that the bytes of all are counted many times."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("embeddings.npy", _npy(_header((1 << 22, 8)), bytes(1 << 27)))
    one = content.getvalue()
    directory = one.index(b"PK\x01\x02")
    entry = bytearray(one[directory : one.index(b"PK\x05\x06")])
    entries = b""
    for number in range(2000):
        entry[46 : 46 + 10] = b"e%09d" % number
        entries += bytes(entry)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 2000, 2000, len(entries), directory, 0)
    path.write_bytes(one[:directory] + entries + end)


@ARRAYS_FILES("literal.npy", *_READ, *CLASS_WEIGHTS)
def header_of_npy_that_is_a_huge_literal(path: Path, canary: Path, inputs: Path) -> None:
    path.write_bytes(_npy(_header("(" + "1, " * 20_000_000 + ")")))


@ARRAYS_FILES("code.npy", *_READ, *CLASS_WEIGHTS)
def header_of_npy_that_is_code(path: Path, canary: Path, inputs: Path) -> None:
    path.write_bytes(_npy(_header(f"(open({str(canary)!r}, 'w').close(), 8)")))


@ARRAYS_FILES("deep.npy", *_READ, *CLASS_WEIGHTS)
def header_of_npy_that_is_deep(path: Path, canary: Path, inputs: Path) -> None:
    path.write_bytes(_npy(_header("(" * 9000)))


@ARRAYS_FILES("negative.npy", *_READ, *CLASS_WEIGHTS)
def negative_axes_in_fortran_order(path: Path, canary: Path, inputs: Path) -> None:
    path.write_bytes(_npy(_header((-30, -8), order=True), bytes(960)))


@ARRAYS_FILES("overflow.npy", *_READ, *CLASS_WEIGHTS)
def axes_whose_product_overflows(path: Path, canary: Path, inputs: Path) -> None:
    path.write_bytes(_npy(_header((2**62, 4)), bytes(960)))


@ARRAYS_FILES("wide.npy", *_READ, *CLASS_WEIGHTS)
def text_of_two_gigabytes_an_element(path: Path, canary: Path, inputs: Path) -> None:
    path.write_bytes(_npy(_header((30,), "'<U500000000'"), bytes(960)))


@ARRAYS_FILES("arrays.npy.gz", *_READ)
def gzipped_array(path: Path, canary: Path, inputs: Path) -> None:
    import gzip

    path.write_bytes(gzip.compress(_npy(_header((30, 8)), bytes(960))))


@ARRAYS_FILES("bomb.parquet", *_READ[1:], may=_READ[:1])
def parquet_bomb(path: Path, canary: Path, inputs: Path) -> None:
    """Gigabytes of rows in some kilobytes, of no labels."""
    import pyarrow as pa
    from pyarrow import parquet

    values = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(8 << 20, np.float32)), 8)
    table = pa.table({"embeddings": values})
    with parquet.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(4):
            writer.write_table(table, row_group_size=1 << 20)
    assert path.stat().st_size < 2 << 20


@ARRAYS_FILES("nested.parquet", *_READ)
def parquet_of_nested_types(path: Path, canary: Path, inputs: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    deep: Any = [1.0]
    for _ in range(40):
        deep = [deep]
    table = {"embeddings": pa.array([deep] * 30), "labels": pa.array([{"a": {"b": 1}}] * 30)}
    parquet.write_table(pa.table(table), path)


@ARRAYS_FILES("extension.parquet", *_READ)
def parquet_whose_metadata_is_pickled(path: Path, canary: Path, inputs: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type",
                b"ARROW:extension:metadata": pickle.dumps(Writes(canary))}  # fmt: skip
    field = pa.field("embeddings", pa.int8(), metadata=metadata)
    parquet.write_table(pa.table([pa.array([1] * 30, pa.int8())], schema=pa.schema([field])), path)


def _safetensors(path: Path, header: bytes, payload: bytes = b"", *, length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + payload)


def _entry(start: int, stop: int, shape: tuple[int, ...] = (30, 8)) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}


_CHECKPOINT = (
    "embed BAD in/digits_test.npz --arch in.train_digits:make_network -o out.h5",
    "embed BAD in/digits_test.npz -o out.h5",
)
for _name, _header_bytes, _length in (
    ("header longer than the file", b"{}", 2**40),
    ("header of 2**63 bytes", b"{}", 2**63),
    ("header of 100 megabytes", b'{"__metadata__": {"a": "' + b"x" * 100_000_000 + b'"}}', None),
    ("header that is deep", b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
    ("offsets beyond the end", json.dumps({"embeddings": _entry(0, 2**40)}).encode(), None),
    ("offsets that overflow", json.dumps({"embeddings": _entry(2**64 - 960, 0, (2**61, 8))}).encode(), None),
    ("tensors that overlap",
     json.dumps({"embeddings": _entry(0, 960), "logits": _entry(480, 960, (30, 4))}).encode(),
     None),
    ("a key given twice", b'{"embeddings": ' + json.dumps(_entry(0, 960)).encode() + b', "embeddings": '
     + json.dumps(_entry(0, 960, (240, 1))).encode() + b"}", None),
):  # fmt: skip

    def _make(
        path: Path, canary: Path, inputs: Path, header: bytes = _header_bytes, length: int | None = _length
    ) -> None:
        _safetensors(path, header, bytes(960), length=length)

    _make.__name__ = f"safetensors: {_name}"
    ARRAYS_FILES("tensors.safetensors", *_READ, *_CHECKPOINT, statuses=(65, 2))(_make)


# --- faiss


def read_with_faiss(path: str) -> None:
    """Take the bytes of a factory index to faiss as they are."""
    from resmem_cli.artifacts.reader import open_artifact

    with open_artifact(path) as artifact:
        faiss.deserialize_index(artifact.read("engine").copy())


def _engine(path: Path, inputs: Path, engine: bytes, **options: Any) -> None:
    def change(arrays: dict[str, Any]) -> None:
        arrays["engine"] = np.frombuffer(engine, np.uint8)

    forge(path, inputs / "index-factory.h5", arrays=change, **options)


def _on_disk(canary: Path, *, outside: str = "") -> bytes:
    """Write an index whose lists lie in the canary, perhaps with something around it."""
    own = canary.with_name("x" * len(canary.name))
    quantizer = faiss.IndexFlatL2(8)
    index = faiss.IndexIVFFlat(quantizer, 8, 2)
    rows = np.random.default_rng(0).normal(size=(120, 8)).astype(np.float32)
    index.train(rows)
    lists = faiss.OnDiskInvertedLists(2, index.code_size, str(own))
    index.replace_invlists(lists, False)
    whole: Any = index
    if outside == "transform":
        whole = faiss.IndexPreTransform(faiss.RandomRotationMatrix(8, 8), index)
        whole.train(rows)
    elif outside == "numbers":
        whole = faiss.IndexIDMap2(index)
    elif outside == "refinement":
        whole = faiss.IndexRefineFlat(index)
    if outside == "numbers":
        whole.add_with_ids(rows, np.arange(120))
    else:
        whole.add(rows)
    content = faiss.serialize_index(whole).tobytes()
    own.unlink()
    assert str(own).encode() in content
    return content.replace(str(own).encode(), str(canary).encode())


for _outside in ("", "transform", "numbers", "refinement"):

    def _make_engine(path: Path, canary: Path, inputs: Path, outside: str = _outside) -> None:
        _engine(path, inputs, _on_disk(canary, outside=outside))

    _make_engine.__name__ = f"faiss: lists in the canary, in {_outside or 'nothing'}"
    FAISS("engine.h5", *INDEX, may=ANY_ARTIFACT, opens_canary=read_with_faiss)(_make_engine)


@FAISS("engine.h5", *INDEX, may=ANY_ARTIFACT)
def faiss_vectors_of_petabytes(path: Path, canary: Path, inputs: Path) -> None:
    content = bytearray(faiss.serialize_index(faiss.IndexFlatL2(8)).tobytes())
    place = content.rindex((0).to_bytes(8, "little"))
    content[place : place + 8] = (2**50).to_bytes(8, "little")
    _engine(path, inputs, bytes(content))


@FAISS("engine.h5", *INDEX, may=ANY_ARTIFACT)
def faiss_index_of_other_rows(path: Path, canary: Path, inputs: Path) -> None:
    index = faiss.index_factory(8, "IVF8,SQ8")
    rows = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    index.train(rows)
    index.add(rows)
    _engine(path, inputs, faiss.serialize_index(index).tobytes())


@FAISS("engine.h5", *INDEX, may=ANY_ARTIFACT)
def faiss_indexes_a_thousand_deep(path: Path, canary: Path, inputs: Path) -> None:
    inner = faiss.serialize_index(faiss.IndexFlatL2(8)).tobytes()
    outer = faiss.serialize_index(faiss.IndexIDMap(faiss.IndexFlatL2(8))).tobytes()
    head = outer[: outer.index(inner)]
    _engine(path, inputs, head * 1000 + inner + outer[len(head) + len(inner) :] * 1000)


@FAISS("engine.h5", *INDEX, may=ANY_ARTIFACT)
def faiss_index_that_is_a_pickle(path: Path, canary: Path, inputs: Path) -> None:
    _engine(path, inputs, pickle.dumps(Writes(canary)))
