"""Operations and times of lists, by hand."""

from __future__ import annotations

import pytest

from resmem_cli.indexes.counts import (
    adding_operations,
    coding_seconds,
    rotating_operations,
    visited_lists,
)


def test_rows_are_rotated_to_find_their_lists_and_to_be_coded() -> None:
    assert rotating_operations(64, "ivf-pq") == 2 * 64**2
    assert rotating_operations(64, "ivf") == 0
    # Of very many dimensions no rotation is stored.
    assert rotating_operations(10_000, "ivf-rabitq") == 0
    assert adding_operations(10, 64, 100, kind="ivf") == 10 * 2 * 64 * 100
    assert adding_operations(10, 64, 100, kind="ivf-pq") == 10 * (2 * 64 * 100 + 4 * 64**2)


def test_coding_takes_as_long_as_its_kind_and_bits() -> None:
    each = {
        (kind, bits): coding_seconds(1_000, 100, kind, {"bits": bits})
        for kind, bits in (
            ("ivf-pq", 4),
            ("ivf-pq", 8),
            ("ivf-rabitq", 1),
            ("ivf-rabitq", 4),
            ("ivf-rabitq", 8),
        )
    }
    assert each["ivf-pq", 4] == coding_seconds(1_000, 100, "ivf-pq") == pytest.approx(1e5 * 60e-9)
    assert each["ivf-rabitq", 4] == coding_seconds(1_000, 100, "ivf-rabitq") == pytest.approx(1e5 * 110e-9)
    assert each["ivf-rabitq", 1] < each["ivf-pq", 8] < each["ivf-pq", 4] < each["ivf-rabitq", 8]
    assert coding_seconds(1_000, 100, "ivf") < each["ivf-rabitq", 1]
    assert coding_seconds(2_000, 200, "ivf-pq") == pytest.approx(4 * each["ivf-pq", 4])


def test_more_of_few_lists_are_visited() -> None:
    assert visited_lists(4) == 4
    assert visited_lists(16) == 8
    assert visited_lists(400) == 40
    assert visited_lists(1_000_000) == 20_000
