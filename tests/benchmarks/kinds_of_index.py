"""What each kind of index costs and finds, and ScaNN at the same recall in the same run.

    python tests/benchmarks/kinds_of_index.py [ARRAYS.npz | MEMORY.h5 QUERIES.h5] [--kinds ivf hnsw]

For each kind: time, peak anonymous and peak resident memory of the `resmem index` process, size of its file,
recall of the true neighbours by an exact search, milliseconds for 1,000 queries through the loaded index at
the effort it was tuned to on a sample of the same file of queries, and the accuracy that `resmem predict`
reports. ScaNN (a tree with codes of two dimensions each and re-ranking) is built in a process of its own; its
leaves to search and rows to re-rank are chosen on its whole curve, so that its recall is at least that of the
kind, and both are timed in turn with as many threads. Without arrays, random ones of a million rows are made:
then nothing is said of accuracy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from example_arrays import Source, add_arguments, given_sources
from measuring import (
    NOT_INSTALLED,
    Run,
    file_mebibytes,
    in_turn,
    installed,
    mebibytes,
    peer,
    print_setting,
    print_table,
    ratio_of_pairs,
    resmem,
    run,
    seconds_of,
)
from numpy.typing import NDArray

from resmem_cli import ExactIndex, open_artifact
from resmem_cli.artifacts.formats import INDEX
from resmem_cli.stages.stored_index import load_index
from resmem_cli.threads import n_threads

KINDS: dict[str, tuple[str, ...]] = {
    "exact": ("--kind", "exact"),
    "ivf": ("--kind", "ivf", "--storage", "float32"),
    "ivf-float16": ("--kind", "ivf", "--storage", "float16"),
    "ivf-rabitq": ("--kind", "ivf-rabitq"),
    "ivf-pq": ("--kind", "ivf-pq"),
    "ivf-pq-8": ("--kind", "ivf-pq", "--bits", "8"),
    "hnsw": ("--kind", "hnsw"),
    "factory": ("--factory", "IVF1024,SQ8"),
}
"""Options of `resmem index` by the names of this script; `--recall` and `-k` are added."""

SCANN, OURS = "ScaNN", "resmem"
_SCANN_LEAVES = sorted({round(1.4**i) for i in range(19)})
_SCANN_REORDER = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
_SCANN_TRIED = 5
"""How many of the fastest settings of a recall are timed again, in turn with the kind."""


@dataclass(frozen=True)
class ScannSetting:
    """One point of ScaNN's curve.

    Attributes
    ----------
    leaves, reorder : int
        Leaves to search, and rows to compare by true distances.
    recall, seconds : float
        What it gave.
    """

    leaves: int
    reorder: int
    recall: float
    seconds: float


class Scann:
    """A built ScaNN index, loaded."""

    def __init__(self, folder: Path, queries: NDArray[np.float32], k: int) -> None:
        self._index = peer("scann").scann_ops_pybind.load_searcher(str(folder))
        self._queries = queries
        self._k = k
        self._search = self._index.search_batched
        if n_threads() > 1:
            self._index.set_num_threads(n_threads())
            self._search = self._index.search_batched_parallel

    def rows(self, leaves: int, reorder: int) -> NDArray[np.int64]:
        """Search all queries."""
        found, _ = self._search(
            self._queries,
            final_num_neighbors=self._k,
            pre_reorder_num_neighbors=reorder,
            leaves_to_search=leaves,
        )
        rows: NDArray[np.int64] = found.astype(np.int64)
        return rows

    def curve(self, true_rows: NDArray[np.int64]) -> list[ScannSetting]:
        """Measure every setting once."""
        self.rows(_SCANN_LEAVES[0], self._k)
        points = []
        for leaves in _SCANN_LEAVES:
            for factor in _SCANN_REORDER:
                reorder = round(factor * self._k)
                start = time.perf_counter()
                rows = self.rows(leaves, reorder)
                seconds = time.perf_counter() - start
                points.append(ScannSetting(leaves, reorder, recall_of(rows, true_rows), seconds))
        return points


def recall_of(rows: NDArray[np.int64], true_rows: NDArray[np.int64]) -> float:
    """Give the share of the true neighbours that were found."""
    found = [len(np.intersect1d(a, b)) for a, b in zip(rows, true_rows, strict=True)]
    return float(np.sum(found)) / true_rows.size


def build_scann(folder: Path, memory: NDArray[np.float32], k: int) -> Run:
    """Build it in a process of its own; the arrays' file is left beside."""
    np.save(folder / "memory.npy", memory)
    (folder / "settings.json").write_text(json.dumps({"k": k, "sigma": 1.0, "temperature": 1.0}))
    return run([sys.executable, Path(__file__).with_name("peer_predictions.py"), SCANN, folder, "--prepare"])


def at_equal_recall(
    search: Callable[[], object], recall: float, scann: Scann | None, curve: list[ScannSetting], rounds: int
) -> tuple[list[float], list[float] | None, ScannSetting | None]:
    """Time a kind's search in turn with ScaNN's fastest settings of at least the same recall.

    Returns
    -------
    ours, theirs, setting
        Seconds of each round, and the setting of the fastest; None where no setting reaches the recall.
    """
    reached = sorted((one for one in curve if one.recall >= recall), key=lambda one: one.seconds)
    works = {OURS: partial(seconds_of, search)}
    if scann is not None:
        for i, one in enumerate(reached[:_SCANN_TRIED]):
            works[str(i)] = partial(seconds_of, partial(scann.rows, one.leaves, one.reorder))
    seconds = in_turn(works, rounds)
    ours = seconds.pop(OURS)
    if not seconds:
        return ours, None, None
    best = min(seconds, key=lambda i: statistics.median(seconds[i]))
    return ours, seconds[best], reached[int(best)]


def per_thousand(seconds: list[float], n_queries: int) -> str:
    """Write the milliseconds that 1,000 queries take."""
    return f"{statistics.median(seconds) / n_queries * 1e6:,.1f}"


def main() -> None:
    """Measure one kind after the other and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_arguments(parser, n=1_000_000)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="KIND")
    parser.add_argument("--recall", default="0.95", help="what the kinds are tuned to")
    parser.add_argument("--n-queries", type=int, default=2_000, help="queries of the timed searches")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-k", type=int, default=53)
    parser.add_argument("--folder", type=Path, help="where the large files go, removed at the end")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name, ExitStack() as stack:
        folder = Path(name)
        memory, queries = given_sources(given, folder)
        vectors, asked = memory.embeddings(), queries.embeddings(given.n_queries)
        print_setting(
            memory=f"{memory.path}: {vectors.shape[0]:,} x {vectors.shape[1]}",
            queries=f"{queries.path}: {len(asked):,} timed",
            k=given.k,
            threads=n_threads(),
        )
        true_rows = ExactIndex.build(vectors).search(asked, given.k).rows
        scann, curve, table = None, list[ScannSetting](), list[list[str]]()
        if installed("scann"):
            built = build_scann(folder, vectors, given.k)
            table.append([SCANN, *build_cells(built, file_mebibytes(folder / "scann"))])
            scann = Scann(folder / "scann", asked, given.k)
            curve = scann.curve(true_rows)
        else:
            table.append([SCANN, NOT_INSTALLED])
        del vectors
        residuals = folder / "residuals.h5"
        resmem("residualize", *memory.arguments, "-o", residuals)
        for kind in given.kinds:
            path = folder / f"{kind}.h5"
            tuned = tuning(kind, queries, given)
            built = resmem("index", *memory.arguments, *KINDS[kind], "-o", path, *tuned)
            index = load_index(stack.enter_context(open_artifact(path, INDEX)))
            rows = index.search(asked, given.k).rows
            recall = recall_of(rows, true_rows)
            cells = [kind, *build_cells(built, file_mebibytes(path)), f"{recall:.4f}"]
            search = partial(index.search, asked, given.k)
            ours, theirs, setting = at_equal_recall(search, recall, scann, curve, given.rounds)
            cells += [per_thousand(ours, len(asked)), accuracy(path, residuals, queries, given.k)]
            if theirs is not None and setting is not None:
                cells += [
                    f"{setting.recall:.4f} ({setting.leaves}, {setting.reorder})",
                    per_thousand(theirs, len(asked)),
                    f"{ratio_of_pairs(ours, theirs):.3f}",
                ]
            table.append(cells)
            print(f"{kind}: {index.parameters()}: {', '.join(cells[1:])}", flush=True)
    print()
    columns = ["kind", "build", "anonymous", "resident", "file", f"recall@{given.k}", "ms/1,000", "accuracy"]
    columns += ["ScaNN's recall (leaves, reorder)", "ms/1,000", "ours / ScaNN's"]
    print_table(columns, table)


def tuning(kind: str, queries: Source, given: argparse.Namespace) -> list[str]:
    """Give the options that say how good an approximate kind is to be, on a sample of the queries."""
    if kind == "exact":
        return []
    split = ["--queries-split", queries.split] if queries.split else []
    return ["--recall", given.recall, "-k", str(given.k), "--queries", str(queries.path), *split]


def build_cells(built: Run, size: float) -> list[str]:
    """Write what a build took."""
    return [f"{built.seconds:.1f} s", mebibytes(built.anonymous), mebibytes(built.resident), mebibytes(size)]


def accuracy(index: Path, residuals: Path, queries: Source, k: int) -> str:
    """Predict all queries; give the share of right classes."""
    output = index.with_suffix(".predictions.h5")
    done: dict[str, Any] = resmem(
        "predict", *queries.arguments, "--index", index, "--residuals", residuals, "-k", str(k), "-o", output
    ).summary
    output.unlink()
    return f"{done['accuracy']:.4f}" if "accuracy" in done else ""


if __name__ == "__main__":
    main()
