"""Documents of token ids: flat with offsets or one row each, the same from every format."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_arrays_formats import WRITERS

from resmem_cli.arrays.token_arrays import open_token_arrays
from resmem_cli.errors import DataError, UsageError
from resmem_cli.files import file_digest
from resmem_cli.types import ArraySelection

TOKENS = np.array([5, 6, 7, 8, 9, 10, 11])
ROWS = np.array([[5, 6, 7, 0], [8, 0, 9, 10], [0, 0, 0, 0], [11, 12, 0, 0]])


@pytest.fixture
def tokens_of(tmp_path):
    """Write arrays and open them, closing them after the test."""
    opened = []

    def write(arrays, *, pad_id=None, **choices):
        np.savez(tmp_path / "t.npz", **arrays)
        opened.append(open_token_arrays(tmp_path / "t.npz", ArraySelection(**choices), pad_id=pad_id))
        return opened[-1]

    yield write
    for tokens in opened:
        tokens.close()


@pytest.mark.parametrize("offsets", [[0, 3, 3, 7], [0, 3, 3]])
@pytest.mark.parametrize("key", ["offsets", "doc_offsets", "document_offsets"])
def test_flat_tokens_with_offsets_by_hand(tokens_of, offsets, key):
    tokens = tokens_of({"tokens": TOKENS, key: np.array(offsets)})
    assert tokens.starts.tolist() == [0, 3, 3]
    assert tokens.lengths.tolist() == [3, 0, 4]
    assert tokens.starts.dtype == tokens.lengths.dtype == np.int64
    assert tokens.n_tokens == 7
    assert tokens.names is None
    assert tokens.read(2, 5).tolist() == [7, 8, 9]
    assert tokens.sources == {"inputs": "t.npz:tokens", "offsets": f"t.npz:{key}"}


def test_rows_by_hand(tokens_of):
    tokens = tokens_of({"input_ids": ROWS}, pad_id=0)
    assert tokens.starts.tolist() == [0, 4, 8, 12]
    assert tokens.lengths.tolist() == [3, 4, 0, 2]
    assert tokens.n_tokens == 9
    assert tokens.read(2, 7).tolist() == [7, 0, 8, 0, 9]
    assert tokens.sources == {"inputs": "t.npz:input_ids"}


def test_rows_without_a_padding_id_are_documents_in_full(tokens_of):
    assert tokens_of({"input_ids": ROWS}).lengths.tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize("pad_id", [None, 0])
def test_negative_ids_behind_a_row_are_padding_too(tokens_of, pad_id):
    rows = np.array([[5, 6, -1, -100], [7, 8, 9, 10], [-1, -1, -1, -1]], np.int32)
    assert tokens_of({"tokens": rows}, pad_id=pad_id).lengths.tolist() == [2, 4, 0]


def test_rows_of_one_token_may_be_padding(tokens_of):
    tokens = tokens_of({"tokens": np.array([[4], [-1]])})
    assert tokens.lengths.tolist() == [1, 0]
    assert tokens.read(0, 2).tolist() == [4, -1]


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_documents(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](path, {"tokens": ROWS.astype(np.int32)})
    with open_token_arrays(path, ArraySelection(), pad_id=0) as tokens:
        assert tokens.lengths.tolist() == [3, 4, 0, 2]
        assert tokens.read(0, 16).tolist() == ROWS.reshape(-1).tolist()


@pytest.mark.parametrize("dtype", ["i1", "u1", "u2", ">i4", "i8", "u8"])
@pytest.mark.parametrize("shape", [(7,), (7, 1)])
def test_any_integer_type_becomes_int64(tokens_of, dtype, shape):
    tokens = tokens_of({"x": TOKENS.astype(dtype).reshape(shape)})
    assert tokens.read(0, 7).dtype == np.int64
    assert tokens.read(0, 7).tolist() == TOKENS.tolist()


def test_a_flat_array_without_offsets_is_one_document(tmp_path):
    np.save(tmp_path / "t.npy", TOKENS.astype(np.uint16))
    with open_token_arrays(tmp_path / "t.npy", ArraySelection()) as tokens:
        assert (tokens.starts.tolist(), tokens.lengths.tolist()) == ([0], [7])
        assert tokens.files == (tmp_path / "t.npy",)
        assert tokens.digests == (("inputs", "t.npy", file_digest(tmp_path / "t.npy")),)


def test_offsets_may_be_another_file(tmp_path):
    np.save(tmp_path / "t.npy", TOKENS)
    np.save(tmp_path / "o.npy", np.array([0, 2, 7]))
    selection = ArraySelection(offsets=str(tmp_path / "o.npy"))
    with open_token_arrays(tmp_path / "t.npy", selection) as tokens:
        assert tokens.lengths.tolist() == [2, 5]
        assert tokens.sources == {"inputs": "t.npy", "offsets": "o.npy"}
        assert [(role, name) for role, name, _ in tokens.digests] == [
            ("inputs", "t.npy"),
            ("inputs", "o.npy"),
        ]


def test_offsets_and_tokens_by_choice_and_by_split(tokens_of):
    arrays = {
        "train/tokens": TOKENS,
        "train/offsets": np.array([0, 7]),
        "test/tokens": TOKENS[:4],
        "test/offsets": np.array([0, 1, 4]),
        "where": np.array([0, 2, 4]),
    }
    assert tokens_of(arrays, split="test").lengths.tolist() == [1, 3]
    assert tokens_of(arrays, inputs="test/tokens", offsets="where").lengths.tolist() == [2, 2]
    assert tokens_of(arrays, split="train", offsets="none").lengths.tolist() == [7]
    with pytest.raises(DataError, match="several splits"):
        tokens_of(arrays)


@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), max_size=8), st.sampled_from([1, 5]))
def test_ranges_read_in_any_order_equal_slices(tmp_path_factory, ranges, width):
    path = tmp_path_factory.mktemp("t", numbered=True) / "t.npz"
    flat = np.arange(25)
    np.savez_compressed(path, tokens=flat if width == 1 else flat.reshape(-1, width))
    with open_token_arrays(path, ArraySelection()) as tokens:
        for start, stop in ranges:
            assert tokens.read(start, stop).tolist() == flat[start:stop].tolist()


def test_overlapping_ranges_of_a_long_array_are_right_across_buffers(tmp_path):
    flat = np.random.default_rng(0).integers(0, 60_000, 1_500_000).astype(np.uint16)
    np.savez_compressed(tmp_path / "t.npz", tokens=flat)
    with open_token_arrays(tmp_path / "t.npz", ArraySelection()) as tokens:
        for start in range(0, len(flat), 7919 * 12):
            stop = min(start + 100_000, len(flat))
            assert np.array_equal(tokens.read(start, stop), flat[start:stop])


def test_what_is_read_may_be_changed(tokens_of):
    tokens = tokens_of({"tokens": TOKENS})
    tokens.read(0, 3)[:] = 0
    assert tokens.read(0, 3).tolist() == [5, 6, 7]


class TestRefusals:
    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            ({"tokens": TOKENS / 2}, r"t\.npz: tokens: an array that can't be token ids .*float64"),
            ({"tokens": TOKENS > 5}, r"can't be token ids .*bool"),
            (
                {"tokens": TOKENS.reshape(7, 1, 1)},
                r"expected integers of 1 or 2 axes, found shape \(7, 1, 1\)",
            ),
            ({"a": TOKENS, "b": TOKENS}, r"no array is known as the inputs.*tokens, input_ids.*--inputs KEY"),
            ({"tokens": TOKENS, "input_ids": TOKENS}, "several arrays could be the inputs .*--inputs KEY"),
            ({"tokens": TOKENS, "offsets": np.array([0.0, 7.0])}, r"can't be offsets of documents .*float64"),
            ({"tokens": TOKENS, "offsets": np.array([[0, 7]])}, r"offsets of documents .*shape \(1, 2\)"),
            (
                {"tokens": TOKENS, "offsets": np.array([1, 7])},
                r"the first offset is not 0 .expected 0, found 1",
            ),
            (
                {"tokens": TOKENS, "offsets": np.array([0, 5, 4, 7], np.uint8)},
                r"offsets: offsets that fall at row 2 \(expected at least 5, found 4\)",
            ),
            (
                {"tokens": TOKENS, "offsets": np.array([0, 5, 8])},
                r"offsets beyond the tokens \(expected at most 7, found 8\)",
            ),
            (
                {"tokens": np.array([[1, 2, -1], [3, -1, 4]])},
                r"tokens: a token id at row 1, column 1 that is negative.*found -1",
            ),
        ],
    )
    def test_arrays_that_can_not_be_documents(self, tokens_of, arrays, words):
        with pytest.raises(DataError, match=words):
            tokens_of(arrays)

    def test_a_negative_id_in_a_flat_array_names_its_row_where_it_is_read(self, tokens_of):
        tokens = tokens_of({"tokens": np.array([1, 2, 3, -7, 5])})
        with pytest.raises(DataError, match=r"tokens: a token id at row 3 that is negative.*found -7"):
            tokens.read(2, 5)

    @pytest.mark.parametrize("role", ["labels", "ids", "class_names"])
    def test_labels_are_the_next_tokens(self, tokens_of, role):
        with pytest.raises(UsageError, match=f"--{role.replace('_', '-')} is not for token ids .found a"):
            tokens_of({"tokens": TOKENS, "a": TOKENS}, **{role: "a"})
        assert tokens_of({"tokens": TOKENS}, **{role: "none"}).n_tokens == 7

    def test_a_padding_id_is_for_rows(self, tokens_of):
        with pytest.raises(UsageError, match=r"--pad-id is for one row a document .*found shape \(7,\)"):
            tokens_of({"tokens": TOKENS}, pad_id=0)

    def test_offsets_are_for_flat_arrays(self, tokens_of):
        with pytest.raises(UsageError, match=r"--offsets is for a flat array .*found shape \(4, 4\)"):
            tokens_of({"tokens": ROWS, "o": TOKENS}, offsets="o")

    def test_offsets_beside_rows_that_nobody_chose_are_passed_over(self, tokens_of):
        tokens = tokens_of({"tokens": ROWS, "offsets": np.array([0, 3])})
        assert tokens.lengths.tolist() == [4, 4, 4, 4]
        assert tokens.sources == {"inputs": "t.npz:tokens"}


def test_after_an_error_no_file_stays_open(tmp_path):
    import os

    np.savez(tmp_path / "t.npz", tokens=TOKENS, offsets=np.array([1, 2]))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DataError):
        open_token_arrays(tmp_path / "t.npz", ArraySelection())
    assert len(os.listdir("/proc/self/fd")) == before
