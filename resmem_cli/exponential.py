"""exp and log with the same bits on every processor.

numpy takes those of the processor's widest instructions, or of the C library where it has none of its own,
and their last bits differ. Here they are sums and products, each rounded as IEEE 754 says, so that there is
only one result.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# ln 2 in two parts: products of the first with whole numbers up to 2¹¹ are exact.
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_PER_LN2 = 1 / math.log(2)
_LOWEST = -708.0  # exp of less is no normal float64
_EXPONENT_BIAS, _MANTISSA_BITS = 1023, 52
# The Taylor series at 0, as far as it goes on [-ln 2 / 2, ln 2 / 2]: to 2e-10 and to less than 2⁻⁵³.
_TERMS = {np.dtype(np.float32): 9, np.dtype(np.float64): 14}
_LOG_TERMS = 12


def exp(
    values: NDArray[np.float32] | NDArray[np.float64], *, out: NDArray[np.floating] | None = None
) -> None:
    """Compute exp in place, or into `out`.

    Parameters
    ----------
    values : array of float32 or float64
        At most 700. Computed in float64; below -708 it is 0, where float64 begins to lose digits.
    out : array of float32 or float64, optional
        Within 0.51 units in the last place for float32, within 3 for float64.
    """
    out = values if out is None else out
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        rest = values.astype(np.float64)
        lost = rest < _LOWEST
        np.maximum(rest, _LOWEST, out=rest)
        # x = k ln 2 + r with a whole number k.
        powers = rest * _PER_LN2
        np.rint(powers, out=powers)
        rest -= powers * _LN2_HIGH
        rest -= powers * _LN2_LOW
        exponents = powers.astype(np.int64)
        exponents += _EXPONENT_BIAS
        exponents <<= _MANTISSA_BITS
    series = powers
    first, *others = (1 / math.factorial(term) for term in reversed(range(_TERMS[out.dtype])))
    series[...] = first
    for coefficient in others:
        series *= rest
        series += coefficient
    series *= exponents.view(np.float64)
    series[lost] = 0
    out[...] = series


def log(values: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the natural logarithm in float64, within 3 units in the last place.

    Parameters
    ----------
    values : array of float32 or float64
        Above 0.
    """
    fractions, exponents = np.frexp(values.astype(np.float64))
    small = fractions < math.sqrt(0.5)
    fractions[small] *= 2
    powers = (exponents - small).astype(np.float64)
    # log m = 2 artanh((m - 1) / (m + 1))
    ratio = (fractions - 1) / (fractions + 1)
    squares = ratio * ratio
    series = np.full_like(ratio, 1 / (2 * _LOG_TERMS + 1))
    for term in reversed(range(_LOG_TERMS)):
        series *= squares
        series += 1 / (2 * term + 1)
    series *= 2 * ratio
    series += powers * _LN2_LOW
    logs: NDArray[np.float64] = series + powers * _LN2_HIGH
    return logs
