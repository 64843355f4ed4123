"""Rows of a dataset: any of them, in any order, are those that were written."""

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_artifacts_formats import each_format, sample_arrays, write_artifact, write_sample

from resmem_cli.artifacts.formats import EMBEDDINGS, INDEX, PREDICTIONS
from resmem_cli.artifacts.reader import open_artifact, open_file
from resmem_cli.artifacts.rows import MappedRows
from resmem_cli.artifacts.verifying import verify_blocks
from resmem_cli.errors import DataError

# Blocks of 5, 5 and 3 rows in order; of 4, 4, 4 and 1 at random.
N = 13
IN_ORDER = np.random.default_rng(1).standard_normal((N, 40_000)).astype("<f4")
AT_RANDOM = np.random.default_rng(2).standard_normal((N, 4_000)).astype("<f4")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    in_order = write_artifact(folder / "a.h5", EMBEDDINGS, {"embeddings": IN_ORDER})
    mean = AT_RANDOM.mean(axis=0, dtype="<f8")
    at_random = write_artifact(folder / "b.h5", INDEX, {"vectors": AT_RANDOM, "mean": mean})
    with open_artifact(in_order) as one, open_artifact(at_random) as other:
        yield one, other


ranges = st.lists(st.tuples(st.integers(0, N + 5), st.integers(0, N + 5)), min_size=1, max_size=4)


@given(ranges)
def test_any_ranges_read_in_order_are_those_of_the_array(artifacts, ranges):
    rows = artifacts[0].rows("embeddings")
    for start, stop in ranges:
        assert np.array_equal(rows.read(start, stop), IN_ORDER[start:stop])


@given(ranges)
def test_any_ranges_of_a_map_are_those_of_the_array(artifacts, ranges):
    rows = artifacts[1].rows("vectors")
    for start, stop in ranges:
        assert np.array_equal(rows.read(start, stop), AT_RANDOM[start:stop])


@given(st.lists(st.lists(st.integers(0, N - 1), max_size=5), min_size=1, max_size=3))
def test_any_rows_of_a_map_are_those_of_the_array(artifacts, queries):
    rows = artifacts[1].mapped("vectors")
    for query in queries:
        chosen = np.array(query, dtype=np.int64)
        assert np.array_equal(rows.at(chosen)[chosen], AT_RANDOM[chosen])


def test_rows_may_be_asked_for_as_a_table_of_neighbours(artifacts):
    neighbors = np.array([[12, 0, 0], [3, 4, 12]])
    values = artifacts[1].mapped("vectors").at(neighbors)[neighbors]
    assert values.shape == (2, 3, 4_000)
    assert np.array_equal(values, AT_RANDOM[neighbors])


def test_shape_and_type_are_known_before_reading(artifacts):
    rows, mapped = artifacts[0].rows("embeddings"), artifacts[1].rows("vectors")
    assert (rows.shape, rows.dtype) == (IN_ORDER.shape, np.dtype("<f4"))
    assert (mapped.shape, mapped.dtype) == (AT_RANDOM.shape, np.dtype("<f4"))
    assert isinstance(mapped, MappedRows)
    assert not isinstance(rows, MappedRows)


@each_format
def test_every_byte_is_verified(tmp_path, fmt):
    with open_file(write_sample(tmp_path / "a.h5", fmt)) as artifact:
        assert verify_blocks(artifact) == sum(values.nbytes for values in sample_arrays(fmt).values())
        assert artifact.shapes == {n: (v.shape, v.dtype) for n, v in sample_arrays(fmt).items()}


def test_a_map_cannot_be_written_through(artifacts):
    for values in (artifacts[1].rows("vectors").read(0, 3), artifacts[1].mapped("vectors").at(np.array([0]))):
        with pytest.raises(ValueError, match="read-only"):
            values[0, 0] = 1


def test_rows_read_earlier_stay_when_others_are_read(artifacts):
    rows = artifacts[0].rows("embeddings")
    first = rows.read(0, 2)
    rows.read(6, 8)
    assert np.array_equal(first, IN_ORDER[:2])


def test_a_map_outlives_the_file_and_its_artifact(tmp_path):
    path = write_sample(tmp_path / "a.h5", INDEX)
    with open_artifact(path) as artifact:
        rows = artifact.mapped("vectors")
    path.unlink()
    assert np.array_equal(rows.read(0, 11), sample_arrays(INDEX)["vectors"])


def damaged(path, name, row):
    """Change one value where it lies in the file, behind HDF5's back."""
    with h5py.File(path) as file:
        dataset = file[name]
        if dataset.chunks:
            chunk = dataset.id.get_chunk_info(row // dataset.chunks[0])
            offset = chunk.byte_offset + (row % dataset.chunks[0]) * dataset[0].nbytes
        else:
            offset = dataset.id.get_offset() + row * dataset[0].nbytes
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 1]))


def test_damage_in_order_is_told_only_where_it_lies(tmp_path):
    path = write_artifact(tmp_path / "a.h5", EMBEDDINGS, {"embeddings": IN_ORDER})
    damaged(path, "embeddings", 6)
    with open_artifact(path) as artifact:
        rows = artifact.rows("embeddings")
        assert np.array_equal(rows.read(0, 5), IN_ORDER[:5])
        assert np.array_equal(rows.read(10, 13), IN_ORDER[10:])
        for start, stop in ((5, 6), (9, 10), (0, 13), (4, 6)):
            with pytest.raises(DataError, match=r"a\.h5: embeddings: a digest does not hold"):
                rows.read(start, stop)
        assert np.array_equal(rows.read(0, 5), IN_ORDER[:5])


def test_damage_in_a_map_is_told_only_where_it_lies(tmp_path):
    mean = AT_RANDOM.mean(axis=0, dtype="<f8")
    path = write_artifact(tmp_path / "a.h5", INDEX, {"vectors": AT_RANDOM, "mean": mean})
    damaged(path, "vectors", 6)
    with open_artifact(path) as artifact:
        rows = artifact.mapped("vectors")
        chosen = np.array([0, 3, 9, 12])
        assert np.array_equal(rows.at(chosen)[chosen], AT_RANDOM[chosen])
        for _ in range(2):
            with pytest.raises(DataError, match=r"vectors: a digest does not hold for the rows from 4;"):
                rows.at(np.array([7]))
        with pytest.raises(DataError, match="vectors: a digest does not hold"):
            rows.read(0, 13)
        with pytest.raises(DataError, match="vectors: a digest does not hold"):
            verify_blocks(artifact)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_predictions_have_finite_numbers(tmp_path, value):
    arrays = sample_arrays(PREDICTIONS)
    arrays["neighbors/distances"][3, 2] = value
    path = write_artifact(tmp_path / "p.h5", PREDICTIONS, arrays)
    with (
        open_artifact(path) as artifact,
        pytest.raises(DataError, match="p.h5: neighbors/distances: values that can't be .*NaN or inf"),
    ):
        artifact.read("neighbors/distances")
