"""exp and log that are the same on every processor."""

import os
import subprocess
import sys

import numpy as np
import pytest

from resmem_cli.exponential import exp, log


@pytest.mark.parametrize(("dtype", "units"), [(np.float32, 0.51), (np.float64, 3)])
def test_exp_is_right_to_the_last_bits(dtype, units):
    values = np.linspace(-100, 3, 100_001).astype(dtype)
    true = np.exp(values.astype(np.longdouble))
    exp(values)
    size = np.spacing(true.astype(dtype)).astype(np.longdouble)
    assert np.abs((values - true) / size).max() <= units


def test_exp_at_the_ends():
    values = np.array([0, -0.0, -708, -709, -np.inf, np.nan])
    exp(values)
    assert values[:2].tolist() == [1, 1]
    assert values[2] == pytest.approx(np.exp(-708))
    assert values[3:5].tolist() == [0, 0]
    assert np.isnan(values[5])


def test_log_is_right_to_the_last_bits():
    values = np.concatenate([np.geomspace(5e-324, 1e308, 10_001), np.linspace(0.4, 2, 10_001)])
    true = np.log(values.astype(np.longdouble))
    found = log(values)
    assert (np.abs(found - true) <= 3 * np.spacing(np.abs(true.astype(np.float64)))).all()
    assert log(np.ones(1)) == 0


@pytest.mark.parametrize("missing", ["X86_V4 AVX512_ICL AVX512_SPR", "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"])
def test_the_same_bits_without_the_widest_instructions(missing):
    code = (
        "import hashlib, numpy as np; from resmem_cli.exponential import exp, log\n"
        "values = np.random.default_rng(0).normal(size=(300, 100)) ** 2 + 1e-9\n"
        "digest = hashlib.sha256(log(values).tobytes())\n"
        "for dtype in (np.float32, np.float64):\n"
        "    below = (-9 * values).astype(dtype); exp(below); digest.update(below.tobytes())\n"
        "print(digest.hexdigest())"
    )
    told = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env={**os.environ, **env}, capture_output=True, text=True, check=True,
        ).stdout
        for env in ({}, {"NPY_DISABLE_CPU_FEATURES": missing})
    ]  # fmt: skip
    assert told[0] == told[1]
