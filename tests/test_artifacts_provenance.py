"""Digests: equal for equal content whichever way it came, different for anything else."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_artifacts_formats import each_format, sample_arrays, write_artifact

from resmem_cli.artifacts.formats import EMBEDDINGS, INDEX
from resmem_cli.artifacts.provenance import (
    block_rows,
    canonical_json,
    content_digest,
    digest_block,
    digest_rows,
    header_digest,
)
from resmem_cli.artifacts.reader import open_artifact, open_file
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.files import file_digest


def digest_of(fmt, arrays):
    digests = {}
    for path, values in arrays.items():
        spec = fmt.spec(path)
        step = block_rows(spec, values.dtype, values.shape)
        blocks = [values[start : start + step] for start in range(0, len(values), step)]
        digests[path] = digest_rows(spec, values.dtype, values.shape, blocks)
    return content_digest(digests)


@pytest.mark.parametrize(
    ("n", "d", "expected"),
    [
        (1, 64, 1),
        (4096, 64, 4096),  # 4,096 rows of 256 bytes are 1 MiB
        (4097, 64, 2049),  # two blocks of one size, not one of 4,096 and one of 1
        (5000, 64, 2500),
        (10, 1 << 20, 1),  # a row of 4 MiB is a block of its own
    ],
)
def test_a_block_in_order_is_at_most_one_mebibyte(n, d, expected):
    assert block_rows(EMBEDDINGS.spec("embeddings"), np.dtype("<f4"), (n, d)) == expected


@pytest.mark.parametrize(("n", "expected"), [(256, 256), (257, 129), (50_000, 256)])
def test_a_block_at_random_is_at_most_64_kibibytes(n, expected):
    assert block_rows(INDEX.spec("vectors"), np.dtype("<f4"), (n, 64)) == expected


def test_a_block_s_digest_is_that_of_its_bytes_in_c_order():
    rows = np.array([[1, 2], [3, 4], [5, 6]], "<i4")
    expected = hashlib.sha256(bytes.fromhex("".join(f"0{i}000000" for i in range(1, 7)))).digest()
    assert digest_block(rows) == expected
    assert digest_block(np.asfortranarray(rows)) == expected
    assert digest_block(np.repeat(rows, 2, axis=0)[::2]) == expected


def test_a_file_s_digest_is_its_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_digest(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@each_format
def test_arrays_and_the_artifact_made_of_them_have_one_digest(tmp_path, fmt):
    arrays = sample_arrays(fmt)
    with open_file(write_artifact(tmp_path / "a.h5", fmt, arrays)) as artifact:
        assert artifact.header.content_digest == digest_of(fmt, arrays)


@pytest.mark.parametrize("step", [1, 7, 15])
def test_the_digest_is_the_same_for_any_size_of_append(tmp_path, step):
    rows = np.random.default_rng(0).standard_normal((15, 40_000)).astype("<f4")
    assert block_rows(EMBEDDINGS.spec("embeddings"), rows.dtype, rows.shape) == 5
    with ArtifactWriter(tmp_path / "a.h5", EMBEDDINGS, parameters={"sources": {}}) as writer:
        writer.create("embeddings", rows.shape, rows.dtype)
        for start in range(0, len(rows), step):
            writer.append("embeddings", rows[start : start + step])
    with open_artifact(tmp_path / "a.h5") as artifact:
        assert artifact.header.content_digest == digest_of(EMBEDDINGS, {"embeddings": rows})


def test_the_digest_leaves_out_what_the_file_was_made_with(tmp_path):
    arrays = sample_arrays(EMBEDDINGS)
    for name, sources in (("a.h5", {}), ("b.h5", {"embeddings": "z.npy"})):
        write_artifact(tmp_path / name, EMBEDDINGS, arrays, parameters={"sources": sources})
    with open_artifact(tmp_path / "a.h5") as one, open_artifact(tmp_path / "b.h5") as other:
        assert one.header.content_digest == other.header.content_digest


@each_format
def test_the_digest_does_not_depend_on_the_order_of_datasets(fmt):
    arrays = sample_arrays(fmt)
    assert digest_of(fmt, dict(reversed(arrays.items()))) == digest_of(fmt, arrays)


@each_format
def test_the_digest_changes_with_one_bit_of_any_dataset(fmt):
    arrays = sample_arrays(fmt)
    digests = {digest_of(fmt, arrays)}
    for path, values in arrays.items():
        changed = bytearray(values.tobytes())
        changed[-1] ^= 1
        other = np.frombuffer(bytes(changed), values.dtype).reshape(values.shape)
        digests.add(digest_of(fmt, arrays | {path: other}))
    assert len(digests) == len(arrays) + 1


def test_the_digest_changes_with_type_shape_and_name():
    zeros = np.zeros((6, 4), "<f4")
    alike = [
        {"embeddings": zeros},
        {"embeddings": zeros.view("<i4")},
        {"embeddings": np.zeros((6, 8), "<f2")},
        {"embeddings": zeros.reshape(4, 6)},
        {"embeddings": zeros.reshape(6, 2, 2)},
        {"logits": zeros},
        {"embeddings": zeros, "logits": zeros},
    ]
    assert len({digest_of(EMBEDDINGS, arrays) for arrays in alike}) == len(alike)


def test_zero_and_minus_zero_have_different_digests():
    zeros = np.zeros((2, 2), "<f4")
    assert digest_of(EMBEDDINGS, {"embeddings": zeros}) != digest_of(EMBEDDINGS, {"embeddings": -zeros})


def test_the_header_s_digest_changes_with_every_attribute():
    header = {"format": b"resmem.index", "format_version": 1}
    others = [
        header | {"format_version": 2},
        header | {"format": b"resmem.indexx"},
        header | {"format_version": b"1"},
        {"format": b"resmem.index"},
        header | {"more": b""},
    ]
    assert len({header_digest(header), *map(header_digest, others)}) == 6
    assert header_digest(dict(reversed(header.items()))) == header_digest(header)


def test_canonical_json_is_sorted_and_has_no_spaces():
    assert canonical_json({"b": [1, 2.5, None, True], "a": "é"}) == '{"a":"é","b":[1,2.5,null,true]}'


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_canonical_json_refuses_what_json_has_not(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"sigma": number})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_canonical_json_gives_back_what_it_was_given(value):
    assert json.loads(canonical_json(value)) == value
