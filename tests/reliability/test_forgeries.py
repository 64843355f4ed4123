"""Artifacts by someone who knows how they are made: any value changed, and every digest made to hold.

What they say is then what there is, so that another answer is no failure; a crash, a hang or a traceback is.

Seen to fail: with values not held below what they count, a list of lists ended with "status 1", "ValueError:
'list' argument must have no negative elements".
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reliability.forging import Arrays, forge
from reliability.processes import ForkServer
from reliability.tally import Tally, seeds
from reliability.test_mutations import ARTIFACTS, readers
from reliability.workload import MANIFEST, Workload, written

_INTEGERS = (0, 1, -1, 2, 255, 2**15, 2**31 - 1, -(2**31), 2**31, 2**62, -(2**63), 2**63 - 1)
_NUMBERS = (0.0, -0.0, 1e-45, -1.0, 1e30, -1e30, 3.4e38, np.inf, -np.inf, np.nan)
_LEAVES = (None, True, -1, 0, 2**31, 2**63, 1e-320, -1e308, 1e308, "", "x", "../in/train.h5", [], {}, [[]],
           {"a": {"b": []}}, [1e308] * 3, "\x1b[2J")  # fmt: skip


def change_array(arrays: Arrays, generator: np.random.Generator) -> None:
    """Change some values of one dataset to what their type has at its ends, or to other ones of it."""
    name = str(generator.choice(sorted(arrays)))
    values = arrays[name].copy()
    flat = values.reshape(-1)
    places = generator.integers(flat.size, size=int(generator.choice([1, 1, 3, flat.size])))
    if flat.dtype.kind == "S":
        flat[places] = generator.choice([b"", b"\xff\xfe", b"\x1b[2J", flat[0]], size=len(places))
    elif flat.dtype == np.uint8:
        flat[places] = generator.integers(256, size=len(places))
    elif generator.random() < 0.2:
        generator.shuffle(flat)
    elif flat.dtype.kind == "f":
        with np.errstate(over="ignore"):
            flat[places] = generator.choice(_NUMBERS, size=len(places)).astype(flat.dtype)
    else:
        chosen = np.array(_INTEGERS, np.int64)[generator.integers(len(_INTEGERS), size=len(places))]
        flat[places] = chosen.astype(flat.dtype)
    arrays[name] = values


def change_parameter(parameters: dict[str, Any], generator: np.random.Generator) -> None:
    """Put something else in the place of one of the parameters, at any depth, or leave it out."""
    place: Any = parameters
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = keys[int(generator.integers(len(keys)))]
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or generator.random() < 0.1:
            break
        place = inner
    if generator.random() < 0.2:
        del place[key]
    else:
        place[key] = _LEAVES[int(generator.integers(len(_LEAVES)))]


class Forger:
    """Runs the readers of forged artifacts."""

    def __init__(self, server: ForkServer, workload: Workload, folder: Path) -> None:
        self._server, self._workload, self._folder = server, workload, folder

    def check(self, seed: int) -> str:
        generator = np.random.default_rng([3, seed])
        name = ARTIFACTS[seed % len(ARTIFACTS)]
        all_readers = readers(name)
        reader = all_readers[int(generator.integers(len(all_readers)))]
        place = self._folder / "place"
        shutil.rmtree(place, ignore_errors=True)
        self._workload.place(place)
        path = place / "in" / name
        path.unlink()
        if generator.random() < 0.5:
            change = {"arrays": lambda arrays: change_array(arrays, generator)}
        else:
            change = {"parameters": lambda parameters: change_parameter(parameters, generator)}
        forge(path, self._workload.inputs / name, **change)
        ended = self._server.run(*reader.arguments, cwd=place)
        assert sorted(one.name for one in place.iterdir() if one.name.startswith(".")) == []
        if ended.status == 0:
            return "taken as what it says"
        files = [f"in/{other}" for other in (*reader.reads, name)]
        assert any(file in ended.stderr for file in files), f"names none of {files}: {ended}"
        # A manifest can name a shard that is not there.
        missing = (66,) if name == MANIFEST else ()
        ended.assert_refused(3 if reader.name == "verify" else 65, *missing)
        assert written(place, reader) == {}
        return "refused"


@pytest.fixture(scope="module")
def forger(server: ForkServer, small: Workload, tmp_path_factory: pytest.TempPathFactory) -> Forger:
    return Forger(server, small, tmp_path_factory.mktemp("forged"))


@seeds(quick=60, long=2000, together=30)
def test_a_forged_artifact_is_refused_or_taken_as_what_it_says(
    seeds: range, forger: Forger, tally: Tally
) -> None:
    tally.each("forged", seeds, forger.check)
