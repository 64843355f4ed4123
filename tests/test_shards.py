"""Equal ranges of rows, and rows that lie in several places, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resmem_cli.errors import UsageError
from resmem_cli.rows import ArrayInMemory, ConcatenatedRandomRows, ConcatenatedRows, RowRange
from resmem_cli.shards import RECORD, Shard, is_shard, parse_shard, shard_parameters, shard_rows


class TestShard:
    def test_three_of_ten_rows_by_hand(self) -> None:
        rows = [Shard(number, 3).rows(10) for number in (1, 2, 3)]
        assert rows == [slice(0, 3), slice(3, 6), slice(6, 10)]

    @given(st.integers(1, 400), st.data())
    def test_shards_follow_each_other_and_differ_by_a_row_at_most(self, n: int, data: st.DataObject) -> None:
        of = data.draw(st.integers(1, n))
        ranges = [Shard(number, of).rows(n) for number in range(1, of + 1)]
        assert [one.start for one in ranges] == [0, *(one.stop for one in ranges[:-1])]
        assert ranges[-1].stop == n
        sizes = {one.stop - one.start for one in ranges}
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1

    @pytest.mark.parametrize(("number", "of"), [(0, 3), (4, 3), (-1, 3), (1, 0), (1, -1)])
    def test_one_that_is_not_there_is_refused(self, number: int, of: int) -> None:
        with pytest.raises(UsageError, match="--shard out of range"):
            Shard(number, of).rows(10)

    def test_more_shards_than_rows_are_refused(self) -> None:
        assert Shard(4, 4).rows(4) == slice(3, 4)
        with pytest.raises(UsageError, match="more shards than the 4 rows"):
            Shard(1, 5).rows(4)

    def test_its_record_says_which_rows_it_holds(self) -> None:
        assert Shard(2, 3).record(10) == {"shard": 2, "of": 3, "first_row": 3, "n": 10}

    def test_without_one_all_rows_are_meant_and_nothing_is_recorded(self) -> None:
        assert shard_rows(10, None) == slice(0, 10)
        assert shard_parameters(10, None) == {}
        assert shard_rows(10, (3, 3)) == slice(6, 10)
        assert shard_parameters(10, (3, 3)) == {RECORD: Shard(3, 3).record(10)}

    def test_an_artifact_is_a_shard_if_it_says_so(self) -> None:
        assert is_shard({RECORD: Shard(1, 2).record(10)})
        assert not is_shard({})
        assert not is_shard({RECORD: None})


class TestParsing:
    @given(st.integers(1, 10**6), st.data())
    def test_what_is_written_is_read(self, of: int, data: st.DataObject) -> None:
        shard = Shard(data.draw(st.integers(1, of)), of)
        assert parse_shard(str(shard)) == shard

    @pytest.mark.parametrize(
        "text", ["", "1", "/", "1/", "/4", "a/b", "1/4/2", "-1/4", "1.5/4", " 1/4", "+1/4"]
    )
    def test_other_forms_are_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match="not of the form I/N"):
            parse_shard(text)

    @pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "0/0"])
    def test_shards_out_of_range_are_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match="out of range"):
            parse_shard(text)


sizes = st.lists(st.integers(0, 5), min_size=1, max_size=6)


def drawn(lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(sum(lengths))
    return [rng.normal(size=(n, 2)) for n in lengths]


class TestRowRange:
    @given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 15), st.integers(0, 15))
    def test_reads_as_a_slice_of_the_array(self, first: int, n: int, start: int, stop: int) -> None:
        array = np.arange(24 * 3).reshape(24, 3)
        rows = RowRange(ArrayInMemory(array), slice(first, first + n))
        assert rows.shape == (n, 3)
        assert rows.dtype == array.dtype
        assert np.array_equal(rows.read(start, stop), array[first : first + n][start:stop])


class TestConcatenatedRows:
    @given(sizes, st.integers(0, 32), st.integers(0, 32))
    def test_reads_as_the_arrays_one_behind_the_other(
        self, lengths: list[int], start: int, stop: int
    ) -> None:
        parts = drawn(lengths)
        rows = ConcatenatedRows([ArrayInMemory(part) for part in parts])
        whole = np.concatenate(parts)
        assert rows.shape == whole.shape
        assert rows.dtype == whole.dtype
        assert np.array_equal(rows.read(start, stop), whole[start:stop])

    def test_rows_of_one_part_are_not_copied(self) -> None:
        parts = drawn([3, 4])
        rows = ConcatenatedRows([ArrayInMemory(part) for part in parts])
        assert np.shares_memory(rows.read(3, 6), parts[1])

    def test_the_first_row_of_each_part_is_told(self) -> None:
        rows = ConcatenatedRows([ArrayInMemory(part) for part in drawn([3, 0, 4])])
        assert rows.starts.tolist() == [0, 3, 3, 7]


class Watched(ArrayInMemory):
    """Rows that remember which of them were asked for."""

    asked: tuple[int, ...] = ()

    def at(self, rows: np.ndarray) -> np.ndarray:
        self.asked = tuple(rows.tolist())
        return super().at(rows)


class TestPickedRows:
    @given(sizes.filter(any), st.data())
    def test_picks_what_an_index_of_the_array_picks(self, lengths: list[int], data: st.DataObject) -> None:
        parts = drawn(lengths)
        whole = np.concatenate(parts)
        shape = data.draw(st.sampled_from([(0,), (1,), (7,), (2, 3), (3, 0), (2, 2, 2)]))
        n = len(whole)
        flat = data.draw(
            st.lists(st.integers(-n, n - 1), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))
        )
        wanted = np.array(flat, np.int64).reshape(shape)
        picked = ConcatenatedRandomRows([ArrayInMemory(part) for part in parts]).at(wanted)
        assert picked.shape == whole.shape
        assert picked.dtype == whole.dtype
        assert picked.ndim == whole.ndim
        for found in (picked[wanted], picked.take(wanted, axis=0)):
            assert found.shape == whole[wanted].shape
            assert np.array_equal(found, whole[wanted])

    def test_a_part_is_asked_only_for_its_own_rows_each_once(self) -> None:
        parts = [Watched(part) for part in drawn([3, 4, 5])]
        wanted = np.array([[8, 0, 8], [2, -1, 0]])
        ConcatenatedRandomRows(parts).at(wanted)[wanted]
        assert [part.asked for part in parts] == [(0, 2), (), (1, 4)]

    @pytest.mark.parametrize("row", [7, -8, 1 << 40, -(1 << 40)])
    def test_a_row_that_is_not_there_is_refused(self, row: int) -> None:
        wanted = np.array([0, row])
        rows = ConcatenatedRandomRows([ArrayInMemory(part) for part in drawn([3, 4])])
        with pytest.raises(IndexError):
            rows.at(wanted)[wanted]
