"""Every rule of a format, broken one at a time."""

from pathlib import Path

import numpy as np
import pytest
from test_artifacts_formats import LENGTHS, each_format, sample_arrays

from resmem_cli.artifacts.formats import EMBEDDINGS, INDEX, RESIDUALS
from resmem_cli.artifacts.schema import check_schema
from resmem_cli.errors import DataError

FILE = Path("some.h5")


def refusal(fmt, arrays):
    with pytest.raises(DataError) as caught:
        check_schema(FILE, fmt, arrays)
    assert caught.value.file == "some.h5"
    return caught.value


@each_format
def test_the_lengths_of_all_axes_are_given(fmt):
    dims = {dim for spec in fmt.datasets for dim in spec.dims}
    arrays = sample_arrays(fmt, alternative=len(fmt.one_of) - 1 if fmt.one_of else 0)
    used = {dim for path in arrays for dim in fmt.spec(path).dims}
    assert check_schema(FILE, fmt, arrays) == {dim: LENGTHS[dim] for dim in dims & used}


def test_optional_datasets_may_be_left_out():
    assert check_schema(FILE, EMBEDDINGS, {"embeddings": np.zeros((3, 2), "<f2")}) == {"n": 3, "d": 2}


@each_format
def test_an_unknown_dataset_is_refused(fmt):
    error = refusal(fmt, sample_arrays(fmt) | {"neighbours": np.zeros(3)})
    assert str(error) == f"some.h5: neighbours: not a dataset of {fmt.name}"


@each_format
def test_each_required_dataset_is_missed(fmt):
    for spec in fmt.datasets:
        if spec.required:
            arrays = sample_arrays(fmt)
            del arrays[spec.path]
            assert str(refusal(fmt, arrays)) == f"some.h5: {spec.path}: missing from this {fmt.name}"


@each_format
def test_each_dataset_of_another_type_is_refused(fmt):
    for path, values in sample_arrays(fmt).items():
        error = refusal(fmt, sample_arrays(fmt) | {path: np.zeros(values.shape, "<c8")})
        assert error.field == path
        assert error.problem == "wrong type"
        assert error.expected == " or ".join(fmt.spec(path).dtypes)
        assert error.found == "<c8"


@pytest.mark.parametrize("dtype", [">f4", "<f8", "<i4", "|b1", "|S4"])
def test_only_little_endian_floats_are_embeddings(dtype):
    error = refusal(EMBEDDINGS, {"embeddings": np.zeros((3, 2), dtype)})
    assert str(error) == f"some.h5: embeddings: wrong type (expected <f2 or <f4, found {dtype})"


def test_names_of_any_length_are_one_type():
    for names in ([b"a"], [b"a" * 300]):
        arrays = {"embeddings": np.zeros((1, 2), "<f4"), "ids": np.array(names)}
        assert check_schema(FILE, EMBEDDINGS, arrays)["n"] == 1


@each_format
def test_each_dataset_with_another_number_of_axes_is_refused(fmt):
    for path, values in sample_arrays(fmt).items():
        error = refusal(fmt, sample_arrays(fmt) | {path: values[..., None]})
        assert error.field == path
        assert error.problem == "wrong number of axes"
        assert error.expected == f"({', '.join(fmt.spec(path).dims)})"
        assert error.found == (*values.shape, 1)


def test_a_scalar_is_not_a_column():
    error = refusal(INDEX, sample_arrays(INDEX) | {"mean": np.float64(1)})
    assert error.expected == "(d)"
    assert error.found == ()


def test_datasets_that_disagree_on_a_length_are_both_named():
    arrays = {"embeddings": np.zeros((1000, 2), "<f4"), "labels": np.zeros(1001, "<i4")}
    assert str(refusal(EMBEDDINGS, arrays)) == (
        "some.h5: labels: datasets disagree (expected n = 1,000 as in embeddings, found 1,001)"
    )


@each_format
def test_each_axis_shared_by_datasets_has_one_length(fmt):
    arrays = sample_arrays(fmt)
    for path, values in arrays.items():
        for axis, dim in enumerate(fmt.spec(path).dims):
            if sum(dim in fmt.spec(other).dims for other in arrays) > 1:
                shape = list(values.shape)
                shape[axis] += 1
                error = refusal(fmt, arrays | {path: np.zeros(shape, values.dtype)})
                assert error.problem == "datasets disagree"
                assert str(error.expected).startswith(f"{dim} = ")
                assert {error.field, str(error.expected).split(" as in ")[1]} & {path}


def test_no_alternative_is_not_enough():
    error = refusal(RESIDUALS, {"labels": np.zeros(3, "<i4")})
    assert str(error) == (
        "some.h5: not a whole resmem.residuals "
        "(expected residuals or else top/classes with top/values, found none)"
    )


def test_half_an_alternative_is_not_enough():
    error = refusal(RESIDUALS, {"labels": np.zeros(3, "<i4"), "top/values": np.zeros((3, 2), "<u2")})
    assert error.found == "top/values"


def test_two_alternatives_are_too_many():
    arrays = sample_arrays(RESIDUALS, alternative=0) | sample_arrays(RESIDUALS, alternative=1)
    error = refusal(RESIDUALS, arrays)
    assert error.expected == "residuals or else top/classes with top/values"
    assert error.found == "residuals, top/classes, top/values"


def test_of_many_alternatives_the_likeliest_is_named():
    arrays = sample_arrays(INDEX, alternative=1)
    del arrays["reduced"]
    arrays["curve/recall"] = np.zeros(3)
    error = refusal(INDEX, arrays)
    assert error.found == "axes, curve/recall"
    assert error.expected in ("none", "axes with reduced")
