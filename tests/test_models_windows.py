"""Windows over documents: every token once, in order, with the context that was promised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError
from resmem_cli.models.windows import WindowPlan, plan_windows


def planned(lengths: list[int], window: int, stride: int, gap: int = 0) -> WindowPlan:
    """Plan documents that lie one behind the other, `gap` positions apart."""
    sizes = np.array(lengths, np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes + gap)[:-1]]) if lengths else sizes
    return plan_windows(starts, sizes, window=window, stride=stride)


def naive(lengths: list[int], window: int, stride: int, gap: int) -> list[tuple[int, int, int]]:
    """Give (flat position, flat position of its window's first token, rows' window number) of every row."""
    rows, start, window_number = [], 0, -1
    for length in lengths:
        last = None
        for token in range(length - 1):
            begin = 0
            while begin + stride + (window - stride) <= token:
                begin += stride
            if begin != last:
                window_number += 1
                last = begin
            rows.append((start + token, start + begin, window_number))
        start += length + gap
    return rows


def test_one_document_by_hand() -> None:
    plan = planned([8], window=4, stride=2)

    # Tokens 0 to 6 have a next one. Windows begin at 0, 2 and 4; the last is cut off before token 7.
    assert (plan.n_windows, plan.n_rows) == (3, 7)
    batch = plan.batch(slice(0, 3), np.arange(10, 18))
    assert_array_equal(batch.inputs, [[10, 11, 12, 13], [12, 13, 14, 15], [14, 15, 16, 0]])
    assert_array_equal(batch.keep, [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 0]])
    assert_array_equal(batch.targets, [11, 12, 13, 14, 15, 16, 17])
    assert_array_equal(batch.positions, [0, 1, 2, 3, 4, 5, 6])
    assert (plan.row_slice(slice(1, 2)), plan.row_slice(slice(0, 3))) == (slice(4, 6), slice(0, 7))
    assert (plan.windows_of(slice(3, 5)), plan.windows_of(slice(6, 7))) == (slice(0, 2), slice(2, 3))


def test_documents_of_zero_and_one_token_have_no_rows() -> None:
    plan = planned([0, 1, 3, 1, 0, 2], window=2, stride=2)

    assert (plan.n_windows, plan.n_rows) == (2, 3)
    tokens = np.array([9, 5, 6, 7, 9, 3, 4])
    assert plan.span(slice(0, 2)) == slice(1, 7)
    batch = plan.batch(slice(0, 2), tokens[1:])
    assert_array_equal(batch.inputs, [[5, 6], [3, 0]])
    assert_array_equal(batch.targets, [6, 7, 4])
    assert_array_equal(batch.positions, [1, 2, 5])


def test_the_papers_windows_give_64_tokens_of_context_to_all_but_the_first_64() -> None:
    plan = planned([2000], window=256, stride=192)

    context = []
    for number in range(plan.n_windows):
        batch = plan.batch(slice(number, number + 1), np.zeros(_width(plan, number), np.int64))
        context += np.flatnonzero(batch.keep[0]).tolist()
    assert context[:256] == list(range(256))
    assert len(context) == 1999
    assert min(context[64:]) == 64
    assert context[256] == 64


def _width(plan: WindowPlan, number: int) -> int:
    span = plan.span(slice(number, number + 1))
    return span.stop - span.start


def test_a_stride_of_the_whole_window_starts_every_window_afresh() -> None:
    batch = planned([6], window=2, stride=2).batch(slice(0, 3), np.arange(6))

    assert_array_equal(batch.inputs, [[0, 1], [2, 3], [4, 0]])
    assert_array_equal(batch.keep, [[1, 1], [1, 1], [1, 0]])


def test_types_are_int64_whatever_the_tokens_are() -> None:
    batch = planned([3], window=4, stride=4).batch(slice(0, 1), np.array([1, 65535, 2], np.uint16))

    assert {array.dtype.name for array in (batch.inputs, batch.targets, batch.positions)} == {"int64"}
    assert_array_equal(batch.targets, [65535, 2])


documents = st.lists(st.integers(0, 40), max_size=12)


@given(documents, st.integers(1, 12), st.integers(1, 12), st.integers(0, 3), st.integers(1, 7))
def test_every_token_once_in_order_with_its_context(
    lengths: list[int], window: int, stride: int, gap: int, per_batch: int
) -> None:
    stride = min(stride, window)
    plan = planned(lengths, window, stride, gap)
    expected = naive(lengths, window, stride, gap)
    flat: NDArray[np.int64] = np.arange(100, 100 + sum(lengths) + gap * len(lengths) + 1)
    document_of = np.repeat(np.arange(len(lengths)), np.array(lengths, int) + gap)

    rows = []
    for first in range(0, plan.n_windows, per_batch):
        windows = slice(first, min(first + per_batch, plan.n_windows))
        assert plan.row_slice(windows).start == len(rows)
        batch = plan.batch(windows, flat[plan.span(windows)])
        where = np.argwhere(batch.keep)
        assert batch.inputs.shape == batch.keep.shape
        assert batch.inputs.shape[1] <= window
        # The token itself, and the target behind it, by way of the values.
        assert_array_equal(batch.inputs[batch.keep] - 100, batch.positions)
        assert_array_equal(batch.targets - 100, batch.positions + 1)
        for (number, column), position in zip(where, batch.positions, strict=True):
            rows.append((position, position - column, first + number))
            assert_array_equal(
                batch.inputs[number, : column + 1] - 100, np.arange(position - column, position + 1)
            )
            in_document = position - document_of.searchsorted(document_of[position])
            assert column >= min(window - stride, in_document)
        assert plan.row_slice(windows).stop == len(rows)
    assert rows == expected
    assert plan.n_rows == len(expected)


@given(documents, st.integers(1, 9), st.integers(1, 9), st.data())
def test_rows_and_windows_lead_to_each_other(
    lengths: list[int], window: int, stride: int, data: st.DataObject
) -> None:
    plan = planned(lengths, window, min(stride, window))
    start = data.draw(st.integers(0, plan.n_rows))
    rows = slice(start, data.draw(st.integers(start, plan.n_rows)))

    windows = plan.windows_of(rows)
    of_row = [number for _, _, number in naive(lengths, window, min(stride, window), 0)]
    if rows.start < rows.stop:
        assert (windows.start, windows.stop) == (of_row[rows.start], of_row[rows.stop - 1] + 1)
    else:
        assert windows.start == windows.stop
    found = plan.row_slice(windows)
    assert rows.start == rows.stop or (found.start <= rows.start and rows.stop <= found.stop)


def test_ten_million_documents_of_160_tokens_need_no_table_of_tokens() -> None:
    lengths = np.full(10_000_000, 160, np.int64)
    plan = plan_windows(np.arange(10_000_000) * 160, lengths)

    assert (plan.n_rows, plan.n_windows) == (1_590_000_000, 10_000_000)
    assert plan.row_slice(slice(5_000_000, 5_000_002)) == slice(795_000_000, 795_000_318)
    assert plan.windows_of(slice(795_000_000, 795_000_160)) == slice(5_000_000, 5_000_002)
    assert plan.span(slice(9_999_999, 10_000_000)) == slice(1_599_999_840, 1_600_000_000)


def test_no_documents_have_no_windows() -> None:
    plan = planned([], window=4, stride=2)

    assert (plan.n_windows, plan.n_rows, plan.span(slice(0, 0))) == (0, 0, slice(0, 0))


@pytest.mark.parametrize(
    ("window", "stride", "words"),
    [
        (0, 1, r"--window out of range \(expected at least 1, found 0\)"),
        (4, 0, r"--stride out of range \(expected 1 to 4, the window, found 0\)"),
        (4, 5, r"--stride out of range .*found 5\); a larger stride would leave tokens out"),
    ],
)
def test_windows_that_would_miss_tokens_are_refused(window: int, stride: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        planned([8], window, stride)


@pytest.mark.parametrize(
    ("starts", "lengths"), [([0, 3], [4, 2]), ([5, 0], [2, 2]), ([-1, 3], [2, 2]), ([0], [-1])]
)
def test_documents_that_overlap_are_refused(starts: list[int], lengths: list[int]) -> None:
    with pytest.raises(DataError, match="overlap or are not in order"):
        plan_windows(np.array(starts), np.array(lengths))


def test_tokens_of_other_windows_are_refused() -> None:
    with pytest.raises(DataError, match=r"not the tokens of these windows \(expected \(8,\), found \(7,\)\)"):
        planned([8], window=4, stride=2).batch(slice(0, 3), np.arange(7))
