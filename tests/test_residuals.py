"""Residuals, dense and of the largest entries, against hand-worked rows and float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from resmem_cli.errors import DataError, UsageError
from resmem_cli.largest import largest_entries
from resmem_cli.residuals import (
    TopLogits,
    TopResiduals,
    class_dtype,
    compute_residuals,
    compute_top_residuals,
    logsumexp,
    residuals_of_top_logits,
    softmax,
)

# Three rows whose probabilities at T = 1 are quarters, eighths, and thirds.
LOGITS = np.log(np.array([[1, 1, 2], [6, 1, 1], [1, 1, 1]])).astype(np.float32)
LABELS = np.array([2, 1, 0])
RESIDUALS = np.array([[-1 / 4, -1 / 4, 1 / 2], [-3 / 4, 7 / 8, -1 / 8], [2 / 3, -1 / 3, -1 / 3]])
LARGEST = np.finfo(np.float32).max

finite_logits = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(2, 12)),
    elements=st.floats(-100, 100, width=32),
)


def softmax_in_float64(logits, temperature):
    scores = logits.astype(np.float64)
    scores = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    return scores / scores.sum(axis=1, keepdims=True)


def residuals_in_float64(logits, labels, temperature):
    return np.eye(logits.shape[1])[labels] - softmax_in_float64(logits, temperature)


def labels_for(logits, data):
    return data.draw(hnp.arrays(np.int64, len(logits), elements=st.integers(0, logits.shape[1] - 1)))


@pytest.mark.parametrize("temperature", [0.1, 1, 1.4, 20])
def test_three_rows_by_hand(temperature):
    residuals = compute_residuals(LOGITS * np.float32(temperature), LABELS, temperature=temperature)
    assert residuals.dtype == np.float32
    np.testing.assert_allclose(residuals, RESIDUALS, atol=2e-7)


def test_the_default_temperature_is_the_papers():
    assert np.array_equal(
        compute_residuals(LOGITS, LABELS), compute_residuals(LOGITS, LABELS, temperature=1.4)
    )


@pytest.mark.parametrize("temperature", [0.1, 1.4, 5])
@pytest.mark.parametrize("scale", [0.1, 3, 50])
def test_residuals_match_float64(temperature, scale):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=scale, size=(500, 37)).astype(np.float32)
    labels = rng.integers(37, size=500)
    expected = residuals_in_float64(logits, labels, temperature)
    np.testing.assert_allclose(
        compute_residuals(logits, labels, temperature=temperature),
        expected,
        atol=4e-6 * max(1, scale / temperature / 100),
    )


@settings(max_examples=60, deadline=None)
@given(finite_logits, st.floats(0.05, 20), st.data())
def test_a_residual_sums_to_0_and_its_label_alone_is_positive_and_largest(logits, temperature, data):
    labels = labels_for(logits, data)
    residuals = compute_residuals(logits, labels, temperature=temperature)
    own = np.eye(logits.shape[1], dtype=bool)[labels]
    assert np.abs(residuals.sum(axis=1, dtype=np.float64)).max() <= 1e-6
    assert (residuals[own] >= 0).all()
    assert (residuals[~own] <= 0).all()
    assert (residuals[own] >= np.abs(residuals).max(axis=1) - 1e-6).all()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i4"])
def test_logits_of_any_type_are_computed_in_float32(dtype):
    logits = np.array([[3, -1, 0], [0, 5, 0], [2, 2, 7]], dtype)
    residuals = compute_residuals(logits, LABELS)
    assert residuals.dtype == np.float32
    assert np.array_equal(residuals, compute_residuals(logits.astype(np.float32), LABELS))


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_labels_of_any_integer_type(dtype):
    expected = compute_residuals(LOGITS, LABELS)
    assert np.array_equal(compute_residuals(LOGITS, LABELS.astype(dtype)), expected)
    top = compute_top_residuals(LOGITS, LABELS.astype(dtype), top=1)
    assert top.classes[:, 0].tolist() == LABELS.tolist()


def test_the_logits_are_left_as_they_were():
    logits = LOGITS.copy()
    compute_residuals(logits, LABELS)
    compute_top_residuals(logits, LABELS, top=2)
    assert np.array_equal(logits, LOGITS)


class TestSoftmaxAtTheEnds:
    @pytest.mark.parametrize("temperature", [5e-324, 1e-50, 1e-10, 1, 1e10, 1e300])
    @pytest.mark.parametrize("scale", [0, 1e-30, 1, 1e30, LARGEST])
    def test_no_temperature_or_logit_overflows(self, temperature, scale):
        logits = np.array([[1, -1, 0], [1, 1, -1]], np.float32) * np.float32(scale)
        probabilities = softmax(logits, temperature=temperature)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
        assert (probabilities >= 0).all()

    def test_a_small_temperature_gives_the_largest_logits_all(self):
        assert softmax(np.array([[1, 3, 3], [0, 0, 1e-3]], np.float32), temperature=1e-60).tolist() == [
            [0, 0.5, 0.5],
            [0, 0, 1],
        ]

    def test_a_large_temperature_gives_every_class_the_same(self):
        assert softmax(np.array([[0, 1, 2, 3]], np.float32), temperature=1e60).tolist() == [[0.25] * 4]

    def test_logits_of_the_largest_and_smallest_float16(self):
        logits = np.array([[65504, -65504, 0]], np.float16)
        assert softmax(logits, temperature=1e-3).tolist() == [[1, 0, 0]]

    @settings(max_examples=60, deadline=None)
    @given(finite_logits, st.floats(1e-3, 1e3))
    def test_rows_are_probabilities(self, logits, temperature):
        probabilities = softmax(logits, temperature=temperature)
        np.testing.assert_allclose(probabilities, softmax_in_float64(logits, temperature), atol=2e-3)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from([1, 2, 10, 100, 9001]))
def test_a_row_has_the_same_bits_in_any_batch(data, n_classes):
    logits = np.random.default_rng(n_classes).normal(size=(12, n_classes)).astype(np.float32) * 5
    order = data.draw(st.permutations(range(12)))
    cut = data.draw(st.integers(0, 12))
    parts = [softmax(logits[order[:cut]]), softmax(logits[order[cut:]])]
    assert np.array_equal(np.concatenate(parts), softmax(logits)[order])


@pytest.mark.parametrize("n_classes", [2, 10, 100, 1000])
def test_a_row_has_the_same_bits_in_any_memory_layout(n_classes):
    logits = np.random.default_rng(0).normal(size=(200, n_classes)).astype(np.float32) * 5
    assert np.array_equal(softmax(np.asfortranarray(logits)), softmax(logits))


class TestTopResiduals:
    def test_three_rows_by_hand(self):
        top = compute_top_residuals(LOGITS, LABELS, top=2, temperature=1)
        assert top.classes.tolist() == [[2, 0], [1, 0], [0, 1]]
        np.testing.assert_allclose(
            top.values / 65535, [[1 / 2, 1 / 4], [7 / 8, 3 / 4], [2 / 3, 1 / 3]], atol=1e-5
        )
        np.testing.assert_allclose(top.signed_values()[0], [1 / 2, -1 / 4], atol=1e-5)
        np.testing.assert_allclose(
            top.to_dense(), [[-1 / 4, 0, 1 / 2], [-3 / 4, 7 / 8, 0], [2 / 3, -1 / 3, 0]], atol=1e-5
        )

    @settings(max_examples=60, deadline=None)
    @given(finite_logits, st.floats(0.05, 20), st.data())
    def test_all_entries_are_the_dense_residuals_within_quantisation(self, logits, temperature, data):
        labels = labels_for(logits, data)
        top = compute_top_residuals(logits, labels, top=logits.shape[1], temperature=temperature)
        dense = compute_residuals(logits, labels, temperature=temperature)
        assert np.abs(top.to_dense() - dense).max() <= 7.7e-6

    @settings(max_examples=60, deadline=None)
    @given(finite_logits, st.data())
    def test_the_largest_entries_are_kept_label_first_then_by_size(self, logits, data):
        labels = labels_for(logits, data)
        m = data.draw(st.integers(1, logits.shape[1]))
        top = compute_top_residuals(logits, labels, top=m)
        # The order of the logits is that of the residuals' sizes, where these differ at all.
        for row, label, classes in zip(logits.copy(), labels, top.classes, strict=True):
            row[label] = np.inf
            assert classes.tolist() == np.lexsort((np.arange(len(row)), -row))[:m].tolist()

    @pytest.mark.parametrize("m", [1, 2, 50, 999, 1000])
    @pytest.mark.parametrize("label", [0, 500, 999])
    def test_equally_probable_classes_go_to_the_lower_class(self, m, label):
        top = compute_top_residuals(np.zeros((3, 1000), np.float32), np.full(3, label), top=m)
        expected = [label] + [c for c in range(1000) if c != label]
        assert top.classes.tolist() == [expected[:m]] * 3

    def test_classes_of_probability_0_tie_too(self):
        logits = np.full((2, 300), -1e4, np.float32)
        logits[:, 250] = 0
        top = compute_top_residuals(logits, np.array([250, 7]), top=4)
        assert top.classes.tolist() == [[250, 0, 1, 2], [7, 250, 0, 1]]
        assert top.values.tolist() == [[0, 0, 0, 0], [65535, 65535, 0, 0]]

    def test_a_label_stands_first_though_its_residual_is_0(self):
        top = compute_top_residuals(np.array([[0, 60, 0]], np.float32), np.array([1]), top=2)
        assert top.classes.tolist() == [[1, 0]]

    @pytest.mark.parametrize(
        ("n_classes", "dtype"), [(2, np.uint16), (65_536, np.uint16), (65_537, np.int32), (70_000, np.int32)]
    )
    def test_class_ids_are_stored_as_narrow_as_their_number_allows(self, n_classes, dtype):
        logits = np.zeros((1, n_classes), np.float32)
        logits[0, -2] = 20
        top = compute_top_residuals(logits, np.array([n_classes - 1]), top=2)
        assert top.classes.dtype == dtype
        assert top.classes.tolist() == [[n_classes - 1, n_classes - 2]]
        dense = compute_residuals(logits, np.array([n_classes - 1]))
        assert np.abs(top.to_dense() - dense).max() <= 7.7e-6

    def test_a_residual_of_1_is_stored_exactly(self):
        top = TopResiduals(np.array([[1, 0]], np.uint16), np.array([[65535, 65535]], np.uint16), 2)
        assert top.to_dense().tolist() == [[-1, 1]]


def top_logits(logits, labels, n_kept):
    """What `embed --top` keeps, by a plain sort."""
    classes = np.argsort(-logits, axis=1, kind="stable")[:, :n_kept]
    return TopLogits(
        classes=classes.astype(class_dtype(logits.shape[1])),
        values=np.take_along_axis(logits, classes, axis=1),
        logsumexp=logsumexp(logits),
        label_logit=None if labels is None else logits[np.arange(len(labels)), labels],
        n_classes=logits.shape[1],
    )


class TestResidualsOfTopLogits:
    def test_three_rows_by_hand(self):
        # Quarters, eighths and thirds; of the second row the label is not among the two that are kept.
        logits = TopLogits(
            classes=np.array([[2, 0], [0, 1], [0, 1]], np.uint16),
            values=np.log(np.array([[2, 1], [6, 1], [1, 1]])).astype(np.float32),
            logsumexp=np.log(np.array([4.0, 8, 3])),
            label_logit=np.log(np.array([2, 1, 1])).astype(np.float32),
            n_classes=3,
        )
        top = residuals_of_top_logits(logits, np.array([2, 2, 0]), top=2)
        assert top.classes.tolist() == [[2, 0], [2, 0], [0, 1]]
        assert top.classes.dtype == np.uint16
        np.testing.assert_allclose(
            top.values / 65535, [[1 / 2, 1 / 4], [7 / 8, 3 / 4], [2 / 3, 1 / 3]], atol=1e-5
        )

    @settings(max_examples=100, deadline=None)
    @given(finite_logits, st.data())
    def test_they_are_those_of_all_logits_to_the_bit(self, logits, data):
        labels = labels_for(logits, data)
        n_kept = data.draw(st.integers(1, logits.shape[1]))
        m = data.draw(st.integers(1, n_kept))
        dense = compute_top_residuals(logits, labels, top=m, temperature=1)
        sparse = residuals_of_top_logits(top_logits(logits, labels, n_kept), labels, top=m)
        assert np.array_equal(sparse.classes, dense.classes)
        assert np.array_equal(sparse.values, dense.values)
        assert (sparse.classes.dtype, sparse.n_classes) == (dense.classes.dtype, dense.n_classes)

    @pytest.mark.parametrize("n_classes", [300, 70_000])
    def test_they_are_those_of_all_logits_where_there_are_many(self, n_classes):
        rng = np.random.default_rng(n_classes)
        logits = (rng.normal(size=(20, n_classes)) * 4).round(1).astype(np.float32)
        labels = rng.integers(n_classes, size=20)
        dense = compute_top_residuals(logits, labels, top=128, temperature=1)
        for n_kept in (128, 200):
            sparse = residuals_of_top_logits(top_logits(logits, labels, n_kept), labels, top=128)
            assert np.array_equal(sparse.classes, dense.classes)
            assert np.array_equal(sparse.values, dense.values)

    @pytest.mark.parametrize("top", [0, 3])
    def test_a_top_beyond_the_logits_kept_is_refused(self, top):
        logits = top_logits(LOGITS, LABELS, 2)
        with pytest.raises(UsageError, match=rf"expected 1 to 2 \(the logits kept\), found {top}\)"):
            residuals_of_top_logits(logits, LABELS, top=top)

    def test_labels_without_their_logits_are_refused(self):
        with pytest.raises(DataError, match="top logits without those of the labels"):
            residuals_of_top_logits(top_logits(LOGITS, None, 2), LABELS, top=2)

    @pytest.mark.parametrize("labels", [[0, 1, 3], [0, 1, -1], [0, 1]])
    def test_labels_that_do_not_fit_are_refused(self, labels):
        with pytest.raises(DataError, match="label"):
            residuals_of_top_logits(top_logits(LOGITS, LABELS, 2), np.array(labels), top=2)


def test_logsumexp_by_hand_and_of_large_logits():
    np.testing.assert_allclose(logsumexp(LOGITS), np.log([4, 8, 3]), rtol=1e-7)
    large = np.array([[LARGEST, LARGEST], [-LARGEST, -LARGEST]], np.float32)
    assert logsumexp(large).tolist() == [LARGEST, -LARGEST]


@pytest.mark.parametrize("temperature", [1e-60, 0.05, 1, 1.4, 1e60])
def test_top_values_are_within_half_a_unit_of_float64(temperature):
    logits = np.random.default_rng(1).normal(size=(200, 40)).astype(np.float32) * 5
    labels = np.arange(200) % 40
    logits[:, 7] = logits[:, 8]
    top = compute_top_residuals(logits, labels, top=40, temperature=temperature)
    expected = np.abs(residuals_in_float64(logits, labels, temperature))
    stored = np.take_along_axis(expected, top.classes.astype(np.int64), axis=1) * 65535
    assert np.abs(top.values - stored).max() <= 0.5 + 1e-9


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=st.sampled_from([0, 1, 2, 0.5])
    ),
    st.data(),
)
def test_largest_entries_are_those_of_a_stable_sort_however_many_tie(scores, data):
    m = data.draw(st.integers(0, scores.shape[1]))
    columns = np.arange(scores.shape[1])
    assert largest_entries(scores, m).tolist() == [np.lexsort((columns, -row))[:m].tolist() for row in scores]


@pytest.mark.parametrize("temperature", [0, -1, np.nan, np.inf])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    for compute in (
        lambda: softmax(LOGITS, temperature=temperature),
        lambda: compute_residuals(LOGITS, LABELS, temperature=temperature),
        lambda: compute_top_residuals(LOGITS, LABELS, top=2, temperature=temperature),
    ):
        with pytest.raises(UsageError, match="temperature out of range .expected a number above 0, found"):
            compute()


@pytest.mark.parametrize("top", [-1, 0, 4])
def test_a_top_beyond_the_classes_is_refused(top):
    with pytest.raises(UsageError, match=rf"top out of range .expected 1 to 3 .*, found {top}\)"):
        compute_top_residuals(LOGITS, LABELS, top=top)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3, -1], r"label of row 1 out of range \(expected 0 to 2, found 3\)"),
        ([0, 1, -1], r"label of row 2 out of range \(expected 0 to 2, found -1\)"),
        ([0, 1], r"labels do not fit the logits \(expected \(n, C\) and \(n,\), found \(3, 3\) and \(2,\)\)"),
        ([[0], [1], [2]], r"found \(3, 3\) and \(3, 1\)"),
        ([0.0, 1.0, 2.0], r"labels that are no integers \(.*found float64\)"),
        # A bool array would select columns instead of naming them.
        ([False, True, False], r"labels that are no integers \(.*found bool\)"),
    ],
)
def test_labels_that_do_not_fit_the_logits_are_refused(labels, message):
    for compute in (
        lambda: compute_residuals(LOGITS, np.array(labels)),
        lambda: compute_top_residuals(LOGITS, np.array(labels), top=2),
    ):
        with pytest.raises(DataError, match=message):
            compute()


def test_logits_of_another_rank_are_refused():
    with pytest.raises(DataError, match=r"found \(3,\) and \(3,\)"):
        compute_residuals(np.zeros(3, np.float32), LABELS)


def test_top_residuals_refuse_logits_of_another_rank():
    with pytest.raises(DataError, match=r"found \(3,\) and \(3,\)"):
        compute_top_residuals(np.zeros(3, np.float32), LABELS, top=1)


@pytest.mark.parametrize("size", [2.0**29, 2.0**31, 1e30])
def test_top_residuals_of_equal_logits_of_any_size(size):
    logits = np.full((1, 2), size, np.float32)
    stored = compute_top_residuals(logits, np.array([0]), top=2, temperature=1).values
    assert np.abs(stored - 32767.5).max() < 1


def test_differences_of_logits_that_overflow_are_taken_of_halves():
    logits = np.array([[3e38, -3e38, 2.9e38], [3e38, 2.9e38, 1], [5, 4, 3]], np.float32)
    for temperature in (1.0, 1e37, 1e38, 3e38):
        scaled = logits.astype(np.float64) / np.float32(temperature)
        wanted = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        wanted /= wanted.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(softmax(logits, temperature=temperature), wanted, atol=1e-6)
