"""Files of two pipelines in one command: refused by a line that names both files.

The two pipelines have arrays of the same sizes and names with other values. Left out are mixtures that are
legitimate by design, which the last test shows to be done:

- queries of another pipeline, of the same dimension and classes: any rows may be asked about (`predict`,
  `tune`);
- rows of another pipeline added to a memory by `update`, for the same reason;
- predictions of several memories for `analyze`, which compares them, with a tuning of any of them: it leaves
  out the queries it was tuned on where they are the same.

Seen to fail: without the comparison of an index's and residuals' embeddings 36 of the 61 mixtures were not
refused ("status 0"), among them all of `predict` and `update`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from reliability.processes import ForkServer
from reliability.tally import Tally
from reliability.workload import KINDS, Workload

# Command lines whose places A, B, … are files that have to belong together; other files may be of either.
_POINT = "-k 5 --sigma 0.3 -T 1.4"
LINES = (
    *((f"predict in/test.h5 --index {{index-{kind}.h5}} --residuals {{residuals.h5}} -k 5 -o out.h5")
      for kind in KINDS),
    "predict in/test.h5 --index {index-exact.h5} --residuals {top.h5} -k 5 -o out.h5",
    "predict in/test.h5 --index {index-exact.h5} --residuals {residuals.h5} -k 5 --compare -o out.h5",
    "predict in/test.h5 --index {index-exact.h5} --residuals {residuals.h5} --tuning {tuning.h5} -o out.h5",
    "predict in/test.h5 --index {new-index.h5} --residuals {new-residuals.h5} -k 5 -o out.h5",
    f"tune --leave-one-out --index {{index-exact.h5}} --train {{train.h5}} {_POINT} -o out.h5",
    f"tune in/test.h5 --index {{index-exact.h5}} --train {{train.h5}} {_POINT} -o out.h5",
    f"tune in/test.h5 --index {{index-exact.h5}} --train {{arrays.npz}} --train-split train {_POINT} "
    "-o out.h5",
    *((f"update --index {{index-{kind}.h5}} --residuals {{residuals.h5}} --add in/test.h5 "
       "--index-output out.h5 --residuals-output out-residuals.h5") for kind in KINDS),
    "update --index {index-exact.h5} --residuals {top.h5} --remove ids.txt "
    "--index-output out.h5 --residuals-output out-residuals.h5",
    "residualize {train.h5} --tuning {tuning.h5} -o out.h5",
    "analyze {predictions-exact.h5} --residuals {residuals.h5} -o out.h5",
    "analyze {predictions-exact.h5} {predictions-ivf.h5} --residuals {residuals.h5} -o out.h5",
)  # fmt: skip
# Within one pipeline: files of the memory before and after an update.
UPDATED = (
    "predict in/test.h5 --index in/new-index.h5 --residuals in/residuals.h5 -k 5 -o out.h5",
    "predict in/test.h5 --index in/index-exact.h5 --residuals in/new-residuals.h5 -k 5 -o out.h5",
    "predict in/test.h5 --index in/new-index.h5 --residuals in/new-residuals.h5 --tuning in/tuning.h5 "
    "-o out.h5",
    f"tune --leave-one-out --index in/new-index.h5 --train in/train.h5 {_POINT} -o out.h5",
    "update --index in/new-index.h5 --residuals in/residuals.h5 --remove ids.txt "
    "--index-output out.h5 --residuals-output out-residuals.h5",
    "analyze in/predictions-exact.h5 --residuals in/new-residuals.h5 -o out.h5",
    "analyze in/predictions-exact.h5 --residuals in/top.h5 -o out.h5",
)
LEGITIMATE = (
    "predict other/test.h5 --index in/index-exact.h5 --residuals in/residuals.h5 -k 5 -o out.h5",
    f"tune other/test.h5 --index in/index-exact.h5 --train in/train.h5 {_POINT} -o out.h5",
    "update --index in/index-exact.h5 --residuals in/residuals.h5 --add other/test.h5 "
    "--index-output out.h5 --residuals-output out-residuals.h5",
    "analyze in/predictions-exact.h5 other/predictions-exact.h5 -o out.h5",
    "analyze in/predictions-exact.h5 --tuning other/tuning.h5 -o out.h5",
)


def mixtures(line: str) -> Iterator[str]:
    """Give the line with every choice of pipelines for its files that is not all of one."""
    parts = line.split("{")
    for choice in itertools.product(("in", "other"), repeat=len(parts) - 1):
        if len(set(choice)) > 1:
            pairs = zip(choice, parts[1:], strict=True)
            yield parts[0] + "".join(f"{folder}/{part.replace('}', '', 1)}" for folder, part in pairs)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, server: ForkServer, small: Workload) -> Path:
    """Make a folder with both pipelines."""
    folder = tmp_path_factory.mktemp("other")
    other = Workload(folder, server, n_train=120, n_test=30, d=8, seed=2)
    place = small.place(tmp_path_factory.mktemp("mixed") / "place")
    (place / "other").symlink_to(other.inputs)
    (place / "ids.txt").write_text("train-3\ntrain-7\n")
    return place


@pytest.mark.parametrize("line", [*LINES, *UPDATED])
def test_files_that_do_not_belong_together_are_refused(
    line: str, place: Path, server: ForkServer, tally: Tally
) -> None:
    before = sorted(place.iterdir())

    def check(mixture: str) -> str:
        ended = server.run(*mixture.split(), cwd=place)
        ended.assert_refused(65)
        told = [
            word for word in mixture.split() if word in ended.stderr and word.startswith(("in/", "other/"))
        ]
        assert len(told) >= 2, f"names {told}\n{ended}"
        assert sorted(place.iterdir()) == before
        return "refused"

    tally.each("lineage", list(mixtures(line)) if "{" in line else [line], check)


@pytest.mark.parametrize("line", LEGITIMATE)
def test_files_that_any_memory_takes_are_taken(
    line: str, place: Path, server: ForkServer, tally: Tally
) -> None:
    def check(line: str) -> str:
        server.run(*line.split(), cwd=place).assert_done()
        for path in place.glob("out*"):
            path.unlink()
        return "done, as any memory takes them"

    tally.each("lineage", [line], check)
