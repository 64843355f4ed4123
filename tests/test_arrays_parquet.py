"""What only a table can hold: lists of any length, nulls, row groups, types numpy does not have."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from resmem_cli.arrays import ArrayInfo, open_arrays
from resmem_cli.errors import DataError


@pytest.fixture
def table(tmp_path):
    def write(columns, **options):
        parquet.write_table(pa.table(columns), tmp_path / "t.parquet", **options)
        return open_arrays(tmp_path / "t.parquet")

    return write


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2)]
)
def test_every_kind_of_list_is_a_matrix(table, kind):
    with table({"z": pa.array([[1, 2], [3, 4], [5, 6]], kind)}) as file:
        assert file.arrays["z"] == ArrayInfo((3, 2), "float32")
        assert file.open("z").read(0, 3).tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("row_group_size", [1, 4, 100])
def test_rows_are_the_same_for_any_row_groups(table, row_group_size):
    array = np.arange(20.0).reshape(10, 2)
    with table({"z": list(array), "y": np.arange(10)}, row_group_size=row_group_size) as file:
        for start, stop in [(0, 10), (9, 10), (2, 5), (5, 9), (0, 1)]:
            assert file.open("z").read(start, stop).tolist() == array[start:stop].tolist()
        rows = file.open("y")
        assert [int(rows.read(row, row + 1)[0]) for row in (9, 1, 2, 8, 0)] == [9, 1, 2, 8, 0]


def test_many_batches_in_one_row_group(table):
    array = np.arange(200_000)
    with table({"y": array}, row_group_size=1_000_000) as file:
        rows = file.open("y")
        assert np.array_equal(rows.read(100_000, 200_000), array[100_000:])
        assert np.array_equal(rows.read(3, 199_999), array[3:199_999])


def test_ragged_lists_name_column_and_row(table):
    with (
        table({"z": [[1.0, 2.0], [3.0, 4.0], [5.0]]}) as file,
        pytest.raises(DataError, match=r"z: lists of different lengths at row 2 \(expected 2, found 1\)"),
    ):
        file.open("z").read(0, 3)


@pytest.mark.parametrize(
    ("column", "row"),
    [
        (pa.array([1, 2, None]), 2),
        (pa.array([[1.0, 2.0], None, [3.0, 4.0]]), 1),
        (pa.array([[1.0, 2.0], [3.0, None], [3.0, 4.0]]), 1),
        (pa.array([[1.0, 2.0], [3.0, 4.0], [3.0, None]], pa.list_(pa.float64(), 2)), 2),
        (pa.array([None, [1.0, 2.0]], pa.list_(pa.float64(), 2)), 0),
        (pa.array([None, [1.0, 2.0]]), 0),
        (pa.array(["a", None]), 1),
    ],
)
def test_nulls_name_column_and_row(table, column, row):
    with table({"z": column}) as file, pytest.raises(DataError, match=f"z: a null at row {row} "):
        file.open("z").read(0, len(column))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("string", ["a", "é", ""]),
        ("large_string", ["a", "é", ""]),
        ("binary", [b"a", "é".encode(), b""]),
        (pa.dictionary(pa.int8(), pa.string()), ["a", "é", ""]),
    ],
)
def test_text_becomes_bytes_of_the_longest_value(table, kind, values):
    with table({"ids": pa.array(values, kind)}) as file:
        rows = file.open("ids")
        assert rows.dtype == "S2"
        assert rows.read(0, 3).tolist() == [b"a", "é".encode(), b""]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([datetime.date(2024, 1, 1)]),
        pa.array([{"a": 1}]),
        pa.array([["a"]]),
        pa.array([[[1.0]]]),
        pa.array([None], pa.null()),
    ],
)
def test_other_types_are_listed_and_refused(table, column):
    with table({"z": column}) as file:
        assert file.arrays["z"].shape == (1,)
        with pytest.raises(DataError, match="z: a column of a type that is not accepted"):
            file.open("z")


def test_dots_in_names_do_not_mix_columns_up(table):
    with table({"train.x": [[1.0], [2.0]], "train": [3, 4], "test.x": [[5.0], [6.0]]}) as file:
        assert file.open("train.x").read(0, 2).tolist() == [[1], [2]]
        assert file.open("train").read(0, 2).tolist() == [3, 4]


def test_two_columns_of_one_name_are_refused(tmp_path):
    both = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["y", "y"])
    parquet.write_table(both, tmp_path / "t.parquet")
    with (
        open_arrays(tmp_path / "t.parquet") as file,
        pytest.raises(DataError, match="2 columns are named 'y'"),
    ):
        file.open("y").read(0, 1)


def test_booleans(table):
    with table({"y": [True, False]}) as file:
        assert file.open("y").read(0, 2).tolist() == [True, False]


def test_a_flipped_byte_is_caught_where_pages_carry_checksums(tmp_path):
    path = tmp_path / "t.parquet"
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    parquet.write_table(pa.table({"y": np.arange(1000)}), path, **options)
    content = bytearray(path.read_bytes())
    content[content.index((500).to_bytes(8, "little"))] ^= 1
    path.write_bytes(content)
    with open_arrays(path) as file, pytest.raises(DataError, match="y: damaged"):
        file.open("y").read(0, 1000)
