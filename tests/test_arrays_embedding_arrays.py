"""Arrays checked against each other: types, lengths, finiteness, labels, logits and probabilities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_arrays_formats import WRITERS

from resmem_cli.arrays import open_embedding_arrays, open_input_arrays
from resmem_cli.arrays.rows import _judged
from resmem_cli.errors import DataError, UsageError
from resmem_cli.types import ArraySelection

Z = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
LOGITS = np.array([[2, -1, 0], [0, 1, 0], [3, 0, 5]], np.float32)
PROBABILITIES = np.array([[0.5, 0.5, 0], [0.2, 0.3, 0.5], [0, 0, 1]])
Y = np.array([0, 1, 2])


@pytest.fixture
def embeddings_of(tmp_path):
    """Write arrays and open them, closing them after the test."""
    opened = []

    def write(arrays, *, opener=open_embedding_arrays, **choices):
        np.savez(tmp_path / "a.npz", **arrays)
        opened.append(opener(tmp_path / "a.npz", ArraySelection(**choices)))
        return opened[-1]

    yield write
    for arrays in opened:
        arrays.close()


@pytest.mark.parametrize("suffix", [suffix for suffix in WRITERS if suffix != ".npy"])
def test_every_format_gives_the_same(tmp_path, suffix):
    WRITERS[suffix](tmp_path / f"a{suffix}", {"z": Z, "logits": LOGITS, "y": Y, "ids": np.array([7, 8, 9])})
    with open_embedding_arrays(tmp_path / f"a{suffix}", ArraySelection()) as arrays:
        assert (arrays.n, arrays.d, arrays.n_classes) == (3, 2, 3)
        assert np.array_equal(arrays.embeddings.read(0, 3), Z)
        assert np.array_equal(arrays.logits.read(0, 3), LOGITS)
        assert arrays.labels.dtype == np.int32
        assert arrays.labels.tolist() == [0, 1, 2]
        assert arrays.ids.dtype == np.int64
        assert arrays.ids.tolist() == [7, 8, 9]
        assert arrays.sources == {
            role: f"a{suffix}:{key}"
            for role, key in {"embeddings": "z", "logits": "logits", "labels": "y", "ids": "ids"}.items()
        }


def test_embeddings_alone_are_enough(tmp_path):
    np.save(tmp_path / "z.npy", Z)
    with open_embedding_arrays(tmp_path / "z.npy", ArraySelection()) as arrays:
        assert (arrays.logits, arrays.labels, arrays.ids, arrays.class_names) == (None,) * 4
        assert arrays.n_classes is None
        assert arrays.sources == {"embeddings": "z.npy"}
        assert arrays.notices == ()


@pytest.mark.parametrize(
    ("stored", "given"),
    [("f2", "f2"), ("f4", "f4"), (">f4", "f4"), ("f8", "f4"), ("i1", "f4"), ("u8", "f4"), ("?", "f4")],
)
def test_float16_is_kept_and_all_else_becomes_float32(embeddings_of, stored, given):
    arrays = embeddings_of({"z": Z.astype(stored), "logits": LOGITS.astype(stored)})
    assert arrays.embeddings.dtype == np.dtype(given)
    assert arrays.logits.read(1, 2).dtype == np.dtype(given)
    assert np.array_equal(arrays.embeddings.read(0, 3), Z.astype(stored).astype(given))


def test_a_fortran_member_is_said(embeddings_of):
    arrays = embeddings_of({"z": np.asfortranarray(Z)})
    assert arrays.notices == ("a.npz:z is in Fortran order, so it was read whole, 0.0 MiB",)
    assert arrays.embeddings.read(1, 2).tolist() == [[3, 4]]


@pytest.mark.parametrize("shape", [(6,), (3, 2, 1)])
def test_embeddings_of_another_rank_are_refused(embeddings_of, shape):
    with pytest.raises(DataError, match=r"a\.npz: z: .*number of axes.*found shape \(.*reshape"):
        embeddings_of({"z": Z.reshape(shape)})


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_empty_embeddings_are_refused(embeddings_of, shape):
    with pytest.raises(DataError, match="an empty array"):
        embeddings_of({"z": np.empty(shape, np.float32)})


def test_text_is_no_embedding(embeddings_of):
    with pytest.raises(DataError, match="not numeric"):
        embeddings_of({"z": np.array([["a", "b"]])})


@pytest.mark.parametrize("role", ["logits", "y", "ids"])
def test_different_lengths_name_both(embeddings_of, role):
    with pytest.raises(DataError, match=rf"a\.npz: {role}: .*expected 3 rows as in a\.npz:z, found 4 rows"):
        embeddings_of({"z": Z, role: np.zeros((4, 2), np.float32) if role == "logits" else np.zeros(4, int)})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_a_value_that_is_not_finite_names_its_row(embeddings_of, bad, dtype):
    z = np.zeros((10, 4), dtype)
    z[7, 3] = bad
    rows = embeddings_of({"z": z}).embeddings
    assert rows.read(0, 7).shape == (7, 4)
    for start in (0, 3, 7):
        with pytest.raises(DataError, match=r"a\.npz: z: .*not finite at row 7 .*remove or repair"):
            rows.read(start, 10)


def test_a_logit_that_is_not_finite_names_its_row(embeddings_of):
    logits = LOGITS.copy()
    logits[1, 1] = np.nan
    with pytest.raises(DataError, match="logits: .*not finite at row 1 "):
        embeddings_of({"z": Z, "logits": logits})


def test_a_value_too_large_for_float32(embeddings_of):
    rows = embeddings_of({"z": np.array([[1.0, 2.0], [3.0, 1e39]])}).embeddings
    with pytest.raises(
        DataError, match=r"too large for float32 at row 1 .*3\.403e\+38, found 1e\+39.*rescale"
    ):
        rows.read(0, 2)


class TestLabels:
    @pytest.mark.parametrize("dtype", ["i1", "u1", "i2", ">u2", "i4", "u4", "i8", "u8", "?"])
    @pytest.mark.parametrize("shape", [(3,), (3, 1)])
    def test_any_integer_type(self, embeddings_of, dtype, shape):
        labels = embeddings_of({"z": Z, "y": np.array([1, 0, 1], dtype).reshape(shape)}).labels
        assert labels.dtype == np.int32
        assert labels.tolist() == [1, 0, 1]

    def test_floats_are_refused(self, embeddings_of):
        with pytest.raises(DataError, match=r"y: labels that are no integers.*float64.*astype\(np\.int64\)"):
            embeddings_of({"z": Z, "y": Y.astype(float)})

    def test_one_hot_labels_are_refused(self, embeddings_of):
        with pytest.raises(
            DataError, match=r"found \(3, 3\)\); if they are one-hot, export labels\.argmax\(1\)"
        ):
            embeddings_of({"z": Z, "y": np.eye(3, dtype=int)})

    @pytest.mark.parametrize("logits", [{}, {"logits": LOGITS}])
    def test_a_negative_label_is_refused_with_its_row(self, embeddings_of, logits):
        with pytest.raises(DataError, match="y: label -1 at row 2 names no class"):
            embeddings_of({"z": Z, "y": np.array([0, 0, -1]), **logits})

    def test_a_label_beyond_the_classes_is_refused(self, embeddings_of):
        with pytest.raises(DataError, match=r"y: label 3 at row 1 .*expected 0 to 2, found 3"):
            embeddings_of({"z": Z, "y": np.array([0, 3, 9]), "logits": LOGITS})

    def test_class_names_bound_the_labels_too(self, embeddings_of):
        with pytest.raises(DataError, match="label 2 at row 2"):
            embeddings_of({"z": Z, "y": Y, "classes": np.array(["a", "b"])})

    @pytest.mark.parametrize("value", [2**31, 2**63])
    def test_a_label_too_large_for_int32_does_not_wrap(self, embeddings_of, value):
        with pytest.raises(DataError, match=f"label {value} at row 1 "):
            embeddings_of({"z": Z, "y": np.array([0, value, 0], np.uint64)})


class TestIdsAndClassNames:
    @pytest.mark.parametrize(
        "ids", [np.array(["a", "é", "日本"]), np.array([b"a", "é".encode(), "日本".encode()])]
    )
    def test_text_becomes_utf8_bytes(self, embeddings_of, ids):
        found = embeddings_of({"z": Z, "ids": ids}).ids
        assert found.dtype == "S6"
        assert [value.decode() for value in found] == ["a", "é", "日本"]

    def test_integers_become_int64(self, embeddings_of):
        assert embeddings_of({"z": Z, "ids": np.array([1, 2, 255], np.uint8)}).ids.dtype == np.int64

    def test_an_id_too_large_is_refused(self, embeddings_of):
        with pytest.raises(DataError, match="an id too large for int64 at row 1 "):
            embeddings_of({"z": Z, "ids": np.array([0, 2**63, 0], np.uint64)})

    @pytest.mark.parametrize("ids", [np.zeros(3), np.zeros((3, 2), int)])
    def test_other_ids_are_refused(self, embeddings_of, ids):
        with pytest.raises(DataError, match="ids: ids of the wrong"):
            embeddings_of({"z": Z, "ids": ids})

    @pytest.mark.parametrize("ids", [np.array([b"a", b"\xff\xfe", b"c"]), np.array(["a", "\ud800", "c"])])
    def test_text_that_is_no_unicode_is_refused(self, embeddings_of, ids):
        with pytest.raises(DataError, match="ids: text that is no Unicode"):
            embeddings_of({"z": Z, "ids": ids})

    def test_code_points_that_do_not_exist_are_refused(self, embeddings_of):
        ids = np.array([1, 2**31, 3], np.uint32).view("U1")
        with pytest.raises(DataError, match="ids: text that is no Unicode"):
            embeddings_of({"z": Z, "ids": ids})

    def test_class_names_give_the_number_of_classes(self, embeddings_of):
        arrays = embeddings_of({"z": Z, "classes": np.array(["cat", "dog", "señor", "x"])})
        assert arrays.n_classes == 4
        assert arrays.class_names.dtype == "S6"

    def test_class_names_must_be_as_many_as_logits(self, embeddings_of):
        with pytest.raises(DataError, match=r"classes: .*expected 3, found 2"):
            embeddings_of({"z": Z, "logits": LOGITS, "classes": np.array(["a", "b"])})

    def test_class_numbers_are_no_names(self, embeddings_of):
        with pytest.raises(DataError, match="classes: class names that are no list of text"):
            embeddings_of({"z": Z, "classes": Y})


class TestProbabilities:
    def test_they_become_their_logarithms(self, embeddings_of):
        arrays = embeddings_of({"z": Z, "probs": PROBABILITIES})
        logits = arrays.logits.read(0, 3)
        assert logits.dtype == arrays.logits.dtype == np.float32
        assert logits[0].tolist() == pytest.approx([np.log(0.5), np.log(0.5), -744.44], abs=0.001)
        assert np.isfinite(logits).all()
        assert arrays.n_classes == 3
        assert arrays.sources["probabilities"] == "a.npz:probs"

    @given(hnp.arrays(np.float64, (4, 5), elements=st.floats(0, 1)))
    def test_softmax_of_the_logits_gives_them_back(self, tmp_path_factory, weights):
        path = tmp_path_factory.mktemp("p", numbered=True) / "a.npz"
        weights[:, 0] += 1
        probabilities = weights / weights.sum(axis=1, keepdims=True)
        np.savez(path, z=np.ones((4, 1)), probs=probabilities)
        with open_embedding_arrays(path, ArraySelection()) as arrays:
            powers = np.exp(arrays.logits.read(0, 4).astype(np.float64))
        assert powers / powers.sum(axis=1, keepdims=True) == pytest.approx(probabilities, abs=1e-6)

    def test_logits_win_over_probabilities(self, embeddings_of):
        arrays = embeddings_of({"z": Z, "logits": LOGITS, "probs": PROBABILITIES})
        assert np.array_equal(arrays.logits.read(0, 3), LOGITS)
        assert "probabilities" not in arrays.sources

    def test_chosen_probabilities_win_over_recognised_logits(self, embeddings_of):
        arrays = embeddings_of({"z": Z, "logits": LOGITS, "p": PROBABILITIES}, probabilities="p")
        assert arrays.logits.read(1, 2)[0, 2] == pytest.approx(np.log(0.5))

    def test_choosing_both_is_a_mistake(self, embeddings_of):
        with pytest.raises(UsageError, match="do not go together") as caught:
            embeddings_of({"z": Z, "a": LOGITS, "p": PROBABILITIES}, logits="a", probabilities="p")
        assert caught.value.exit_code == 2

    def test_logits_that_are_probabilities_name_the_flag_that_works(self, embeddings_of):
        arrays = {"z": Z, "scores": PROBABILITIES}
        with pytest.raises(
            DataError, match=r"scores: these logits are probabilities.*--probabilities scores"
        ):
            embeddings_of(arrays)
        assert embeddings_of(arrays, probabilities="scores").n_classes == 3

    def test_logits_of_one_class_are_not_judged(self, embeddings_of):
        assert embeddings_of({"z": Z, "logits": np.ones((3, 1))}).n_classes == 1

    @pytest.mark.parametrize("case", ["bfloat16", "one odd row"])
    def test_probabilities_are_told_from_logits_though_some_sums_are_off(self, embeddings_of, case):
        weights = np.random.default_rng(0).random((200, 50)).astype(np.float32)
        probabilities = weights / weights.sum(axis=1, keepdims=True)
        if case == "bfloat16":
            probabilities = (probabilities.view(np.uint32) & 0xFFFF0000).view(np.float32)
        else:
            probabilities[17] *= 2
        with pytest.raises(DataError, match="these logits are probabilities"):
            embeddings_of({"z": np.ones((200, 2)), "logits": probabilities})

    def test_probabilities_that_are_logits_name_the_row_and_flag(self, embeddings_of):
        with pytest.raises(DataError, match=r"probs: row 0 is no probability.*\[-1, 2\].*--logits probs"):
            embeddings_of({"z": Z, "probs": LOGITS})

    @pytest.mark.parametrize("bad", [[0.5, 0.52, 0], [1.5, -0.5, 0], [0.5, 0.4, 0.05], [2, 0, 0]])
    def test_a_row_that_is_no_distribution_is_found_where_it_is_read(self, embeddings_of, bad):
        probabilities = np.tile([0.2, 0.3, 0.5], (1500, 1))
        probabilities[1200] = bad
        arrays = embeddings_of({"z": np.ones((1500, 2)), "probs": probabilities})
        assert arrays.logits.read(1000, 1200).shape == (200, 3)
        with pytest.raises(DataError, match="row 1200 is no probability distribution"):
            arrays.logits.read(1100, 1500)


class TestInputs:
    def test_images_with_a_split(self, embeddings_of):
        images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
        keys = {
            "x_train": images,
            "y_train": [0, 1],
            "x_test": images + 1,
            "y_test": [1, 1],
            "classes": ["a", "b"],
        }
        arrays = embeddings_of(keys, opener=open_input_arrays, split="test")
        assert arrays.n == 2
        assert arrays.inputs.dtype == np.uint8
        assert np.array_equal(arrays.inputs.read(1, 2), images[1:] + 1)
        assert arrays.labels.tolist() == [1, 1]
        assert arrays.class_names.tolist() == [b"a", b"b"]
        assert arrays.sources["inputs"] == "a.npz:x_test"

    def test_floats_keep_their_type_and_are_checked_finite(self, embeddings_of):
        arrays = embeddings_of({"x": np.array([[1.0, 2.0], [np.nan, 3.0]])}, opener=open_input_arrays)
        assert arrays.inputs.read(0, 1).dtype == np.float64
        with pytest.raises(DataError, match="x: a value that is not finite at row 1 "):
            arrays.inputs.read(0, 2)

    def test_a_key_by_choice(self, embeddings_of):
        arrays = embeddings_of({"a": Z, "b": Z + 1}, opener=open_input_arrays, inputs="b")
        assert np.array_equal(arrays.inputs.read(0, 3), Z + 1)

    def test_vectors_are_refused(self, embeddings_of):
        with pytest.raises(DataError, match=r"tokens: .*expected two axes or more"):
            embeddings_of({"tokens": Y}, opener=open_input_arrays)

    def test_none_names_the_flag(self, embeddings_of):
        with pytest.raises(DataError, match="--inputs KEY"):
            embeddings_of({"a": Z, "b": Z}, opener=open_input_arrays)


def test_after_an_error_no_file_stays_open(tmp_path):
    import os

    np.savez(tmp_path / "a.npz", z=Z, labels=Y - 1)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DataError):
        open_embedding_arrays(tmp_path / "a.npz", ArraySelection())
    assert len(os.listdir("/proc/self/fd")) == before


def test_closing_closes_the_file(tmp_path):
    import os

    np.savez(tmp_path / "a.npz", z=Z)
    before = len(os.listdir("/proc/self/fd"))
    with open_embedding_arrays(tmp_path / "a.npz", ArraySelection()) as arrays:
        arrays.embeddings.read(0, 1)
    assert len(os.listdir("/proc/self/fd")) == before


def test_rows_of_many_classes_are_judged_by_few_of_them():
    assert [_judged(shape) for shape in ((5, 3), (10**6, 100), (10**6, 32_128), (9, 10**8))] == [
        5,
        1000,
        32,
        1,
    ]
