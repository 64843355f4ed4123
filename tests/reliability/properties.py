"""Property tests that count their examples, and the arrays they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from reliability.tally import Tally

QUICK, LONG = 5, 120
"""Examples of each property."""

UNIT = 2.0**-24
COVERED: dict[str, str] = {}
"""The functions that a property was written for, with its name; see `test_properties`."""

FLOATS = (np.float16, np.float32, np.float64)
INTEGERS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)


def holds(*functions: str, weight: int = 1, **given_as: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    """Make a test of a property: few examples in every run of the tests, many with ``pytest -m long``.

    Parameters
    ----------
    functions : str
        What it is a property of, each as ``module.function``, or ``module.Class.method``.
    weight : int
        How many times as many examples as others it gets.
    given_as : strategies
        Its arguments.
    """

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        COVERED.update(dict.fromkeys(functions, check.__name__))

        def test(examples: int, tally: Tally) -> None:
            ran = 0

            @settings(
                max_examples=examples * weight,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            )
            @given(**given_as)
            def run(**values: Any) -> None:
                nonlocal ran
                check(**values)
                ran += 1

            try:
                run()
            except BaseException:
                tally.count("properties", "failed")
                raise
            tally.count("properties", "as the formula says", ran)

        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        parts = [pytest.param(QUICK, id="quick"), pytest.param(LONG, id="long", marks=pytest.mark.long)]
        return pytest.mark.parametrize("examples", parts)(test)

    return decorate


def within(found: Any, wanted: Any, off: Any, what: str = "") -> None:
    """Hold numbers to be as near to the wanted ones as `off` says; nothing is near to NaN."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape, f"{what}: {found.shape}, not {wanted.shape}"
    with np.errstate(invalid="ignore"):
        near = (np.abs(found - wanted) <= off) | (found == wanted)
    assert near.all(), f"{what}: {found[~near][:5]}, in truth {wanted[~near][:5]}"


SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 7))
# Of any size that float32 has, of the usual size, and equal ones.
EXTREMES = (0.0, -0.0, 1.0, -1.0, 1e30, -1e30, 3e38, -3e38, 1e-45, -1e-45, 1e-38, 88.7, -103.9, 0.5)
ANY_SIZE = st.floats(width=32, allow_nan=False, allow_infinity=False)
USUAL = st.floats(-20, 20, width=32)
ELEMENTS = (ANY_SIZE, USUAL, st.sampled_from(EXTREMES), st.sampled_from((0.0, 1.0, 2.0)))
POSITIVE = st.one_of(
    st.floats(0.05, 20), st.sampled_from((1.0, 1e-300, 1e300, 5e-324, 1e-38, 1e38, 1.4)),
    st.floats(1e-30, 1e30),
)  # fmt: skip


@st.composite
def matrices(
    draw: Callable[..., Any], shapes: st.SearchStrategy[tuple[int, ...]] = SHAPES, usual: bool = False
) -> NDArray[Any]:
    """Draw floats of any width, in C order or not."""
    dtype = draw(st.sampled_from(FLOATS))
    elements = draw(st.sampled_from(ELEMENTS[1::2] if usual else ELEMENTS))
    if dtype is np.float16:
        elements = elements.map(lambda value: float(np.clip(value, -60000, 60000)))
    values = draw(arrays(np.float64, draw(shapes), elements=elements)).astype(dtype)
    return np.asfortranarray(values) if draw(st.booleans()) else values


def labels_for(draw: Callable[..., Any], n: int, n_classes: int) -> NDArray[Any]:
    """Draw labels of any integer type that holds them."""
    dtype = draw(st.sampled_from([d for d in INTEGERS if np.iinfo(d).max >= n_classes - 1]))
    return draw(arrays(np.int64, n, elements=st.integers(0, n_classes - 1))).astype(dtype)


@st.composite
def classified(
    draw: Callable[..., Any], usual: bool = False, shapes: st.SearchStrategy[tuple[int, ...]] = SHAPES
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Draw logits and labels."""
    logits = draw(matrices(shapes, usual=usual))
    return logits, labels_for(draw, *logits.shape)


@st.composite
def weight_rows(draw: Callable[..., Any], n: int, k: int) -> NDArray[np.float32]:
    """Draw normalised weights of k neighbours."""
    raw = draw(arrays(np.float64, (n, k), elements=st.floats(0, 1)))
    raw[:, 0] += 1e-3
    return (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)


def plain_softmax(logits: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """Compute softmax in float64, of temperatures that float32 has."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    with np.errstate(over="ignore", under="ignore"):
        powers = np.exp(shifted / np.clip(temperature, 1.1754943508222875e-38, 3.4028234663852886e38))
    return powers / powers.sum(axis=1, keepdims=True)


def softmax_error(logits: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """Bound what float32 makes of it; see `bound_truncation` for where the terms come from."""
    true = plain_softmax(logits, temperature)
    entropy = -np.log(np.maximum(true, 1e-300)) * true
    return (4 * entropy + true * (48 + 4 * math_log2(logits.shape[1]))) * UNIT + 1e-37


def math_log2(n: int) -> float:
    return float(np.log2(max(2, n)))
