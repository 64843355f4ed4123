"""Whether an index larger than the memory it may use is built and searched inside that.

    python tests/benchmarks/beyond_memory.py [ARRAYS.npz | MEMORY.h5 QUERIES.h5] [--budget 128M]

Runs `resmem index` and `resmem predict` with `--memory`, and prints the peak anonymous memory of both: what
is the process's own, unlike the pages of mapped files, which the system takes back when it needs them. The
peer is `resmem info`, which does next to nothing: that much the interpreter and its libraries need. Without
arrays, random ones of a million rows are made, whose index takes four times the default budget.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from example_arrays import add_arguments, given_sources
from measuring import RESMEM, Run, file_mebibytes, mebibytes, print_setting, print_table, resmem, run

from resmem_cli.memory_size import parse_memory

KINDS: dict[str, tuple[str, ...]] = {
    "exact": ("--kind", "exact"),
    "ivf": ("--kind", "ivf"),
    "ivf-rabitq": ("--kind", "ivf-rabitq"),
    "ivf-pq": ("--kind", "ivf-pq"),
    "hnsw": ("--kind", "hnsw"),
}
"""Options of `resmem index` by the names of this script; `--memory` is added."""


def cells(step: str, done: Run, budget: float) -> list[str]:
    """Write what a command took."""
    share = "" if done.anonymous is None else f"{done.anonymous / budget:.2f}"
    return [step, f"{done.seconds:.1f} s", mebibytes(done.anonymous), share, mebibytes(done.resident)]


def main() -> None:
    """Build, search, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_arguments(parser, n=1_000_000)
    parser.add_argument("--budget", default="128M", metavar="SIZE", help="given to --memory")
    parser.add_argument("--kinds", nargs="+", default=["ivf"], choices=list(KINDS), metavar="KIND")
    parser.add_argument("-k", type=int, default=53)
    parser.add_argument("--folder", type=Path, help="where the large files go, removed at the end")
    given = parser.parse_args()
    budget = parse_memory(given.budget) / 2**20
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        memory, queries = given_sources(given, folder)
        print_setting(memory=memory.path, queries=queries.path, budget=given.budget, k=given.k)
        residuals, output = folder / "residuals.h5", folder / "predictions.h5"
        rows = [cells("residualize", resmem("residualize", *memory.arguments, "-o", residuals), budget)]
        rows.append(cells("info", run([*RESMEM, "info", residuals]), budget))
        for kind in given.kinds:
            path = folder / f"{kind}.h5"
            limit = ("--memory", given.budget)
            built = resmem("index", *memory.arguments, *KINDS[kind], *limit, "-o", path)
            size = file_mebibytes(path)
            told = [mebibytes(size), f"{size / budget:.1f}"]
            rows.append([*cells(f"index, {kind}", built, budget), *told])
            memories = ("--index", path, "--residuals", residuals)
            found = resmem("predict", *queries.arguments, *memories, "-k", str(given.k), *limit, "-o", output)
            rows.append([*cells(f"predict, {kind}", found, budget), *told])
            path.unlink()
    columns = ["", "time", "anonymous", "/ budget", "resident", "index file", "/ budget"]
    print_table(columns, rows)


if __name__ == "__main__":
    main()
