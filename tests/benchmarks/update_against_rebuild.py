"""Whether a memory that was updated answers as one built anew from the same rows, and how long both take.

    python tests/benchmarks/update_against_rebuild.py [ARRAYS.npz | MEMORY.h5 QUERIES.h5] [--kinds exact ivf]

The memory's n rows are put together twice: at once, and by `resmem update`, which adds the last fifth and a
few to an index and residuals of the others, and removes rows by their ids that the memory is not to hold: for
50,000 rows, 40,000 + 12,000 - 2,000. The rows to be removed are the last of the queries, which are then not
asked. For an exact kind every dataset of the predictions is compared bit by bit; for an approximate one the
recall of both against the exact neighbours. The files are searched for the bytes of removed rows. Times are
of whole processes, in turn: `update` beside `index` and `residualize`. Without arrays, random ones of
CIFAR100's size are made.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from example_arrays import Examples, Source, add_arguments, given_sources, save
from measuring import Run, in_turn, print_runs, print_setting, ratio_of_pairs, resmem
from numpy.typing import NDArray

from resmem_cli import compute_residuals, open_artifact

KINDS: dict[str, tuple[str, ...]] = {
    "exact": ("--kind", "exact"),
    "ivf": ("--kind", "ivf"),
    "ivf-rabitq": ("--kind", "ivf-rabitq"),
    "ivf-pq": ("--kind", "ivf-pq"),
    "hnsw": ("--kind", "hnsw"),
}
"""Options of `resmem index` by the names of this script."""

TEMPERATURE = 1.4
OURS = "resmem update"
_SOUGHT = 20
"""Removed rows to look for in the new files."""


class Memories:
    """The arrays of both ways to the same memory, and the commands that go them."""

    def __init__(self, folder: Path, memory: Examples, queries: Examples, *, removed: int, k: int) -> None:
        self._folder = folder
        self._k = str(k)
        n = len(memory)
        self.added = n // 5 + removed
        first = n - self.added
        ids = np.arange(n, dtype=np.int64)
        forgotten = queries.at(slice(len(queries) - removed, None))
        self._forgotten = forgotten
        forgotten_ids = n + np.arange(removed, dtype=np.int64)
        # The rows to forget lie among the others.
        order = np.random.default_rng(0).permutation(first + removed)
        kept = np.sort(np.flatnonzero(order < first))
        before = joined(memory.at(slice(first)), forgotten, kept)
        before_ids = np.empty(first + removed, np.int64)
        before_ids[kept] = ids[:first]
        before_ids[np.setdiff1d(np.arange(first + removed), kept)] = forgotten_ids
        self.counts = f"{first + removed:,} + {self.added:,} - {removed:,}"
        save(self._file("before"), ids=before_ids, all=before)
        save(self._file("added"), ids=ids[first:], all=memory.at(slice(first, None)))
        save(self._file("whole"), ids=ids, all=memory)
        save(self._file("queries"), all=queries.at(slice(len(queries) - removed)))
        self._removed = folder / "removed.txt"
        self._removed.write_text("".join(f"{one}\n" for one in forgotten_ids))

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.npz"

    def file(self, memory: str, role: str) -> Path:
        """Name an artifact."""
        return self._folder / f"{memory}.{role}.h5"

    def index(self, memory: str, kind: str) -> Run:
        """Build the index of some rows."""
        return resmem("index", self._file(memory), *KINDS[kind], "-o", self.file(memory, "index"))

    def residualize(self, memory: str) -> Run:
        """Make the residuals of some rows."""
        return resmem(
            "residualize", self._file(memory), "-T", str(TEMPERATURE), "-o", self.file(memory, "residuals")
        )

    def update(self) -> Run:
        """Add and remove."""
        return resmem(
            "update",
            *("--index", self.file("before", "index"), "--residuals", self.file("before", "residuals")),
            *("--add", self._file("added"), "--remove", self._removed),
            *("--index-output", self.file("updated", "index")),
            *("--residuals-output", self.file("updated", "residuals")),
        )

    def predict(self, memory: str) -> None:
        """Predict the queries."""
        of_memory = ("--index", self.file(memory, "index"), "--residuals", self.file(memory, "residuals"))
        output = self.file(memory, "predictions")
        resmem("predict", self._file("queries"), *of_memory, "-k", self._k, "-o", output)

    def differing(self) -> list[str]:
        """Name the datasets of both predictions that are not equal to the bit."""
        with (
            open_artifact(self.file("whole", "predictions")) as whole,
            open_artifact(self.file("updated", "predictions")) as updated,
        ):
            if list(whole.shapes) != list(updated.shapes):
                return [f"{list(whole.shapes)} and {list(updated.shapes)}"]
            return [
                name for name in whole.shapes if whole.read(name).tobytes() != updated.read(name).tobytes()
            ]

    def left_over(self) -> str:
        """Count the removed rows whose embedding or residual is in the new file, among the first of them."""
        some = self._forgotten.at(slice(_SOUGHT))
        sought = {
            "index": some.embeddings,
            "residuals": compute_residuals(some.logits, some.labels, temperature=TEMPERATURE),
        }
        told = []
        for role, rows in sought.items():
            before, after = (self.file(memory, role).read_bytes() for memory in ("before", "updated"))
            there = [sum(row.tobytes() in content for row in rows) for content in (before, after)]
            told.append(f"{role} {there[0]} of {len(rows)} before, {there[1]} after")
        return "; ".join(told)

    def rows(self, memory: str) -> NDArray[np.int64]:
        """Read the neighbours of the predictions."""
        with open_artifact(self.file(memory, "predictions")) as predictions:
            found: NDArray[np.int64] = predictions.read("neighbors/rows")
        return found


def joined(some: Examples, others: Examples, places: NDArray[np.int64]) -> Examples:
    """Mix two sets of rows: `some` go to these places in order, `others` between."""
    rows = np.empty(len(some) + len(others), np.int64)
    rows[places] = np.arange(len(some))
    rows[np.setdiff1d(np.arange(len(rows)), places)] = len(some) + np.arange(len(others))
    return Examples(
        np.concatenate([some.embeddings, others.embeddings])[rows],
        np.concatenate([some.logits, others.logits])[rows],
        np.concatenate([some.labels, others.labels])[rows],
    )


def recall(rows: NDArray[np.int64], true_rows: NDArray[np.int64]) -> float:
    """Give the share of the true neighbours found."""
    return float(np.mean([np.isin(true, found).mean() for true, found in zip(true_rows, rows, strict=True)]))


def main() -> None:
    """Go both ways for each kind, compare, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--kinds", nargs="+", default=["exact", "ivf"], choices=list(KINDS), metavar="KIND")
    parser.add_argument("--removed", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-k", type=int, default=53)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources: tuple[Source, Source] = given_sources(given, folder)
        memories = Memories(folder, sources[0].read(), sources[1].read(), removed=given.removed, k=given.k)
        print_setting(memory=sources[0].path, rows=memories.counts, k=given.k)
        for memory in ("before", "whole"):
            memories.residualize(memory)
        memories.index("whole", "exact")
        memories.predict("whole")
        true_rows = memories.rows("whole")
        for kind in given.kinds:
            memories.index("before", kind)
            works: dict[str, Callable[[], Run]] = {
                OURS: memories.update,
                "resmem index": partial(memories.index, "whole", kind),
                "resmem residualize": partial(memories.residualize, "whole"),
            }
            runs = in_turn(works, given.rounds)
            for memory in ("whole", "updated"):
                memories.predict(memory)
            print(kind)
            print_runs(runs, ours=OURS)
            updating, *anew = ([one.seconds for one in of_one] for of_one in runs.values())
            ratio = ratio_of_pairs(updating, [sum(both) for both in zip(*anew, strict=True)])
            print(f"{OURS} / both together: {ratio:.3f}")
            differing = memories.differing()
            print(f"predictions: {', '.join(differing) + ' differ' if differing else 'equal to the bit'}")
            shares = [recall(memories.rows(memory), true_rows) for memory in ("whole", "updated")]
            print(f"recall: {shares[0]:.4f} built at once, {shares[1]:.4f} updated")
            print(f"removed rows in the files: {memories.left_over()}\n", flush=True)


if __name__ == "__main__":
    main()
