from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from resmem_cli.arrays import table_files
from resmem_cli.arrays.npz_file import NpzWriter
from resmem_cli.arrays.table_files import TEXT, CsvWriter, Field, ParquetWriter, TableWriter

FLOATS = st.sampled_from([np.float16, np.float32, np.float64])


def written(kind: type[TableWriter], fields: list[Field], *blocks: list[NDArray[Any]]) -> bytes:
    stream = io.BytesIO()
    with kind(stream, fields) as writer:
        for block in blocks:
            writer.write(block)
    return stream.getvalue()


def test_csv_is_as_rfc_4180_has_it() -> None:
    fields = [Field(("n",), np.dtype("i8")), Field(("a,b", "c"), np.dtype("f4")), Field(("text",), TEXT)]
    block = [
        np.array([1, -2]),
        np.array([[0.1, 1], [np.nan, -np.inf]], np.float32),
        np.array(['é "x"', None], dtype=object),
    ]
    assert written(CsvWriter, fields, block).decode() == (
        'n,"a,b",c,text\r\n1,0.1,1.0,"é ""x"""\r\n-2,nan,-inf,\r\n'
    )


@given(st.data(), FLOATS)
def test_a_float_in_csv_gives_back_its_bits(data: st.DataObject, dtype: type[np.floating[Any]]) -> None:
    values = data.draw(arrays(dtype, st.integers(1, 5), elements={"allow_nan": False}))
    content = written(CsvWriter, [Field(("x",), np.dtype(dtype))], [values]).decode()
    header, *cells = content.splitlines()
    assert header == "x"
    assert np.array(cells).astype(dtype).tobytes() == values.tobytes()


def test_a_float32_in_csv_shows_no_digits_of_a_double() -> None:
    content = written(CsvWriter, [Field(("x",), np.dtype("f4"))], [np.array([0.3], np.float32)])
    assert content == b"x\r\n0.3\r\n"


# A row of one empty cell is quoted, and lone surrogates are no text that UTF-8 can write.
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_text_in_csv_comes_back(texts: list[str]) -> None:
    block: list[NDArray[Any]] = [np.array(texts, dtype=object)]
    content = written(CsvWriter, [Field(("x",), TEXT)], block).decode()
    assert [row for [row] in csv.reader(io.StringIO(content, newline=""))] == ["x", *texts]


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_blocks_do_not_show(lengths: list[int]) -> None:
    n = sum(lengths)
    columns = [np.arange(n), np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)]
    fields = [Field(("n",), np.dtype("i8")), Field(("x", "y"), np.dtype("f4"))]
    stops = np.cumsum(lengths)
    blocks = [
        [column[stop - length : stop] for column in columns]
        for stop, length in zip(stops, lengths, strict=True)
    ]
    for kind in (CsvWriter, ParquetWriter):
        assert written(kind, fields, *blocks) == written(kind, fields, columns)


def test_row_groups_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "_GROUP_VALUES", 40)
    values = np.arange(105)
    field = [Field(("n",), np.dtype("i8"))]
    whole = written(ParquetWriter, field, [values])
    for step in (1, 7, 40, 104):
        assert written(ParquetWriter, field, *([values[i : i + step]] for i in range(0, 105, step))) == whole
    file = pyarrow.parquet.ParquetFile(io.BytesIO(whole))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [40, 40, 25]
    assert file.read()["n"].to_numpy().tolist() == values.tolist()


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "i8", "f2", "f4", "f8"])
def test_parquet_keeps_types_and_bits(dtype: str) -> None:
    values = np.random.default_rng(1).integers(0, 200, size=9).astype(dtype)
    content = written(ParquetWriter, [Field(("x",), np.dtype(dtype))], [values])
    column = pyarrow.parquet.read_table(io.BytesIO(content))["x"].to_numpy()
    assert column.dtype == values.dtype
    assert np.array_equal(column, values)


def test_a_parquet_text_may_be_missing() -> None:
    content = written(ParquetWriter, [Field(("x",), TEXT)], [np.array(["é", None, ""], dtype=object)])
    assert pyarrow.parquet.read_table(io.BytesIO(content))["x"].to_pylist() == ["é", None, ""]


def test_npz_is_what_numpy_reads_without_pickles() -> None:
    values = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float16)
    stream = io.BytesIO()
    with NpzWriter(stream) as writer:
        writer.write("a/b", values.shape, values.dtype, (values[i : i + 2] for i in range(0, 7, 2)))
        writer.write("names", (2,), np.dtype("S3"), [np.array([b"ant", b"b"])])
        writer.write_text("text", '{"é": 1}')
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as archive:
        assert archive.files == ["a/b", "names", "text"]
        assert archive["a/b"].dtype == np.float16
        assert np.array_equal(archive["a/b"], values)
        assert archive["names"].tolist() == [b"ant", b"b"]
        assert archive["text"].item() == '{"é": 1}'
