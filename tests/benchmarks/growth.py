"""How time and memory of the commands grow with the rows of the memory.

    python tests/benchmarks/growth.py [ARRAYS.npz | MEMORY.h5 QUERIES.h5] [--sizes 62500 250000 1000000]

Memories of several sizes are drawn from the same rows, and asked the same queries: `residualize`, `index` and
`predict` of an exact and of an approximate kind, each a whole process. The latter is tuned to the same
`--recall` on a sample of these queries at every size: held-out rows have ever nearer neighbours as more views
of the same images are among them.
Prints the medians, how much longer each step takes than at the size before (also without what a command that
does next to nothing takes, `resmem info`), the peak anonymous memory, and the recall measured. Without
arrays, random ones are made.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from example_arrays import Source, add_arguments, given_sources, save
from measuring import RESMEM, Run, in_turn, mebibytes, median_known, print_setting, print_table, resmem, run

from resmem_cli import open_artifact

EXACT = ("--kind", "exact")
APPROXIMATE = "--kind ivf-pq"


class Growth:
    """The files of every size, and the commands that make them."""

    def __init__(self, folder: Path, queries: Source, *, recall: str, k: int, approximate: str) -> None:
        self._folder = folder
        self._queries = queries
        self._recall = recall
        self._k = str(k)
        self._approximate = shlex.split(approximate)

    def file(self, n: int, role: str) -> Path:
        """Name a file of one size."""
        return self._folder / f"{n}.{role}.h5"

    def residualize(self, n: int) -> Run:
        """Make the residuals."""
        return resmem("residualize", self.file(n, "memory"), "-o", self.file(n, "residuals"))

    def index_exact(self, n: int) -> Run:
        """Build the exact index."""
        return resmem("index", self.file(n, "memory"), *EXACT, "-o", self.file(n, "exact"))

    def index_approximate(self, n: int) -> Run:
        """Build the approximate index."""
        split = ("--queries-split", self._queries.split) if self._queries.split else ()
        tuning = ("--recall", self._recall, "-k", self._k, "--queries", self._queries.path, *split)
        output = self.file(n, "approximate")
        return resmem("index", self.file(n, "memory"), *self._approximate, *tuning, "-o", output)

    def predict_exact(self, n: int) -> Run:
        """Predict all queries."""
        return self._predict(n, "exact")

    def predict_approximate(self, n: int) -> Run:
        """Predict all queries at the recall."""
        return self._predict(n, "approximate", "--recall", self._recall)

    def _predict(self, n: int, kind: str, *more: str) -> Run:
        output = self.file(n, f"{kind}.predictions")
        memory = ("--index", self.file(n, kind), "--residuals", self.file(n, "residuals"))
        return resmem("predict", *self._queries.arguments, *memory, "-k", self._k, *more, "-o", output)

    def recall(self, n: int) -> str:
        """Say which share of the exact neighbours the approximate predictions come from."""
        rows = []
        for kind in ("exact", "approximate"):
            with open_artifact(self.file(n, f"{kind}.predictions")) as predictions:
                rows.append(predictions.read("neighbors/rows"))
        shares = [np.isin(true, found).mean() for true, found in zip(*rows, strict=True)]
        return f"{np.mean(shares):.4f}"


def draw_memories(memory: Source, growth: Growth, sizes: list[int]) -> None:
    """Write an embeddings artifact of each size, of rows drawn without replacement."""
    remembered = memory.read()
    for n in sizes:
        rows = np.sort(np.random.default_rng(0).choice(len(remembered), size=n, replace=False))
        exported = growth.file(n, "memory").with_suffix(".npz")
        save(exported, all=remembered.at(rows))
        resmem("import", exported, "-o", growth.file(n, "memory"))
        exported.unlink()


def main() -> None:
    """Measure every step at every size, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_arguments(parser, n=800_000)
    parser.add_argument(
        "--sizes", type=int, nargs="+", help="rows; a sixteenth, a quarter and all if not given"
    )
    parser.add_argument("--recall", default="0.95", help="of the approximate kind")
    parser.add_argument("--approximate", default=APPROXIMATE, help="its options (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-k", type=int, default=53)
    parser.add_argument("--folder", type=Path, help="where the large files go, removed at the end")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        memory, queries = given_sources(given, folder)
        growth = Growth(folder, queries, recall=given.recall, k=given.k, approximate=given.approximate)
        n = len(memory.embeddings())
        sizes = given.sizes or [n // 16, n // 4, n]
        draw_memories(memory, growth, sizes)
        print_setting(memory=memory.path, queries=queries.path, k=given.k, approximate=given.approximate)
        nothing: list[str | Path] = [*RESMEM, "info", growth.file(sizes[0], "memory")]
        start = statistics.median(
            one.seconds for one in in_turn({"": lambda: run(nothing)}, given.rounds)[""]
        )
        print(f"resmem info: {start:.2f} s\n")
        rows = []
        for step in (
            growth.residualize,
            growth.index_exact,
            growth.predict_exact,
            growth.index_approximate,
            growth.predict_approximate,
        ):
            runs = in_turn({str(n): partial(step, n) for n in sizes}, given.rounds, warm_up=False)
            before = 0.0
            for n in sizes:
                seconds = statistics.median(one.seconds for one in runs[str(n)])
                cells = [step.__name__.replace("_", " "), f"{n:,}", f"{seconds:.2f} s"]
                cells += (
                    [f"{seconds / before:.2f}", f"{ratio_beyond(start, seconds, before)}"]
                    if before
                    else ["", ""]
                )
                cells.append(mebibytes(median_known(one.anonymous for one in runs[str(n)])))
                cells.append(growth.recall(n) if step == growth.predict_approximate else "")
                rows.append(cells)
                before = seconds
        print_table(["", "rows", "median", "x", "x beyond start", "anonymous", "recall"], rows)


def ratio_beyond(start: float, seconds: float, before: float) -> str:
    """Compare two times without the same start."""
    return f"{(seconds - start) / (before - start):.2f}" if before > start else ""


if __name__ == "__main__":
    main()
