"""What it costs to store and read only the largest residuals of a large vocabulary, and to predict by them.

    python tests/benchmarks/top_residuals.py [MEMORY.h5 QUERIES.h5] [--top 128]

The artifacts hold the largest logits of each row (`resmem embed --top`). Prints bytes a row; the time of
`resmem residualize` beside `cp` of the file it wrote, `cp` and `sync`, and a plain h5py loop that computes
and writes the same two arrays; the time to gather the residuals of 50 random rows a query from the mapped
file once its pages are in memory, beside a plain memory map and h5py's own selection; and which share of the
predictions is proved to be those of whole residuals. Without artifacts, random ones of a million rows and
32,128 classes are written, whose probabilities fall as a power of their rank.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from measuring import (
    file_mebibytes,
    in_turn,
    print_runs,
    print_setting,
    print_table,
    ratio_of_pairs,
    resmem,
    run,
    seconds_of,
)
from numpy.typing import NDArray

from resmem_cli import open_artifact
from resmem_cli.artifacts.formats import EMBEDDINGS
from resmem_cli.artifacts.writer import ArtifactWriter

INDEX_OPTIONS = ("--kind", "exact")
RESIDUALIZE_OPTIONS = ("-T", "1")
ARRAYS = ("top/classes", "top/values")
OURS = "resmem residualize"
_BLOCK_ROWS = 1 << 14
_SLOW_QUERIES = 50


def write_random(path: Path, n: int, *, d: int, n_classes: int, top: int, seed: int) -> None:
    """Write an embeddings artifact with the largest logits of each row.

    A row's probabilities fall as a power of their rank, as words do; the label is drawn from them, by rank.
    """
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((200, d), np.float32)
    ranks = np.log(np.arange(1, n_classes + 1))
    with ArtifactWriter(path, EMBEDDINGS, parameters={"sources": {}, "n_classes": n_classes}) as writer:
        for name, shape, dtype in (
            ("embeddings", (n, d), np.float32),
            ("logits_top/classes", (n, top), np.uint16 if n_classes <= 1 << 16 else np.int32),
            ("logits_top/values", (n, top), np.float32),
            ("logsumexp", (n,), np.float64),
            ("label_logit", (n,), np.float32),
            ("labels", (n,), np.int32),
        ):
            writer.create(name, shape, dtype)
        for start in range(0, n, _BLOCK_ROWS):
            rows = min(_BLOCK_ROWS, n - start)
            clusters = generator.integers(0, len(centres), size=rows)
            noise = generator.standard_normal((rows, d), np.float32)
            # Sharp and flat rows, as easy and hard tokens give.
            exponents = np.round(generator.uniform(1.1, 2.5, size=rows), 1)
            chosen = np.minimum(generator.zipf(exponents), n_classes) - 1
            classes = _classes(generator, clusters, n_classes, top)
            within = chosen < top
            labels = generator.integers(0, n_classes, size=rows)
            labels[within] = classes[within, chosen[within]]
            # A label drawn from beyond the top can be one of it by chance.
            places = np.where(
                (classes == labels[:, None]).any(1), (classes == labels[:, None]).argmax(1), chosen
            )
            totals = {x: np.log(np.exp(-x * ranks).sum()) for x in np.unique(exponents)}
            writer.append("embeddings", centres[clusters] + noise)
            writer.append(
                "logits_top/classes", classes.astype(np.uint16 if n_classes <= 1 << 16 else np.int32)
            )
            writer.append("logits_top/values", (-exponents[:, None] * ranks[:top]).astype(np.float32))
            writer.append("logsumexp", np.array([totals[x] for x in exponents]))
            writer.append("label_logit", (-exponents * ranks[places]).astype(np.float32))
            writer.append("labels", labels.astype(np.int32))


def _classes(
    generator: np.random.Generator, clusters: NDArray[np.int64], n_classes: int, top: int
) -> NDArray[np.int64]:
    """Draw different classes for each row, mostly those of its cluster."""
    steps = generator.integers(1, 1 + max(1, n_classes // (2 * top)), size=(len(clusters), top))
    return (clusters[:, None] * 31 + np.cumsum(steps, axis=1)) % n_classes


def plain_loop(embeddings: Path, output: Path, top: int) -> None:
    """Compute and write the same arrays as `resmem residualize --top`, with h5py alone."""
    with h5py.File(embeddings) as given, h5py.File(output, "w") as written:
        n = len(given["labels"])
        classes = written.create_dataset(ARRAYS[0], (n, top), given["logits_top/classes"].dtype)
        values = written.create_dataset(ARRAYS[1], (n, top), np.uint16)
        written["labels"] = given["labels"][()]
        for start in range(0, n, _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            label = given["labels"][block][:, None]
            found = given["logits_top/classes"][block]
            order = np.argsort(found == label, axis=1, kind="stable")[:, : top - 1]
            kept = np.take_along_axis(given["logits_top/values"][block], order, axis=1)
            logits = np.concatenate([given["label_logit"][block][:, None], kept], axis=1)
            sizes = np.exp(logits - given["logsumexp"][block][:, None])
            sizes[:, 0] = 1 - sizes[:, 0]
            classes[block] = np.concatenate([label, np.take_along_axis(found, order, axis=1)], axis=1)
            values[block] = np.rint(sizes * 65535)


def gather_table(residuals: Path, *, k: int, n_queries: int, rounds: int) -> None:
    """Time three ways to gather the rows of many queries, one query after the other."""
    with open_artifact(residuals) as artifact, h5py.File(residuals, locking=False) as plain:
        mapped = [artifact.mapped(name) for name in ARRAYS]
        n = mapped[0].shape[0]
        rows = np.random.default_rng(0).integers(0, n, size=(n_queries, k))
        maps = [
            np.memmap(residuals, data.dtype, "r", data.id.get_offset(), data.shape)
            for data in (plain[name] for name in ARRAYS)
        ]

        def by_resmem(queries: NDArray[np.int64]) -> None:
            for some in queries:
                for one in mapped:
                    one.at(some)[some]

        def by_memmap(queries: NDArray[np.int64]) -> None:
            for some in queries:
                for one in maps:
                    one[some]

        def by_h5py(queries: NDArray[np.int64]) -> None:
            for some in queries:
                for name in ARRAYS:
                    plain[name][np.unique(some)]

        works: dict[str, tuple[Callable[[NDArray[np.int64]], None], int]] = {
            "resmem": (by_resmem, n_queries),
            "np.memmap": (by_memmap, n_queries),
            "h5py": (by_h5py, min(n_queries, _SLOW_QUERIES)),
        }
        seconds = in_turn(
            {name: partial(seconds_of, partial(work, rows[:some])) for name, (work, some) in works.items()},
            rounds,
        )
    each = {name: [one / works[name][1] for one in times] for name, times in seconds.items()}
    print_table(
        [f"gathering {k} rows", "ms a query", "resmem / it"],
        [
            [
                name,
                f"{1000 * statistics.median(times):.4f}",
                "" if name == "resmem" else f"{ratio_of_pairs(each['resmem'], times):.3f}",
            ]
            for name, times in each.items()
        ],
    )
    print()


def predict(memory: Path, queries: Path, residuals: Path, folder: Path, k: int) -> None:
    """Predict all queries and print the share that is proved."""
    index, output = folder / "index.h5", folder / "predictions.h5"
    resmem("index", memory, *INDEX_OPTIONS, "-o", index)
    of_memory = ("--index", index, "--residuals", residuals)
    done = resmem("predict", queries, *of_memory, "-k", str(k), "--top-scores", "5", "-o", output)
    with open_artifact(output) as predictions:
        proved: NDArray[Any] = predictions.read("truncation/proved")
        bounds: NDArray[Any] = predictions.read("truncation/bound")
    rows = [
        ["predicted", f"{len(proved):,} in {done.seconds:.1f} s"],
        ["proved", f"{proved.mean():.2%}"],
        ["bound, median", f"{np.median(bounds):.2e}"],
        ["bound, 99th percentile", f"{np.percentile(bounds, 99):.2e}"],
        *(
            [name, f"{done.summary[name]:.4f}"]
            for name in ("base_accuracy", "accuracy")
            if name in done.summary
        ),
    ]
    print_table(["predictions", ""], rows)


def main() -> None:
    """Write, read, predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("memory", type=Path, nargs="?", help="an artifact of `resmem embed --top`")
    parser.add_argument("queries", type=Path, nargs="?", help="another, of the queries")
    parser.add_argument("--random-rows", type=int, default=1_000_000)
    parser.add_argument("--random-queries", type=int, default=2_000)
    parser.add_argument("--classes", type=int, default=32_128, help="of the random artifacts")
    parser.add_argument("--top", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n-queries", type=int, default=1_000, help="queries to gather rows for")
    parser.add_argument("-k", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where the large files go, removed at the end")
    parser.add_argument("--plain-loop", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain_loop is not None:
        plain_loop(given.memory, given.plain_loop, given.top)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        memory, queries = given.memory, given.queries
        if memory is None:
            memory, queries = folder / "memory.h5", folder / "queries.h5"
            for seed, (path, n) in enumerate(((memory, given.random_rows), (queries, given.random_queries))):
                write_random(path, n, d=64, n_classes=given.classes, top=given.top, seed=seed + 1)
        residuals, copy = folder / "residuals.h5", folder / "copy.h5"
        command = ("residualize", memory, "--top", str(given.top), *RESIDUALIZE_OPTIONS, "-o", residuals)
        summary = resmem(*command).summary
        with open_artifact(residuals) as artifact:
            a_row = {name: np.prod(shape[1:], dtype=int) * dtype.itemsize for name, (shape, dtype)
                     in artifact.shapes.items() if name in ARRAYS}  # fmt: skip
        n, size = summary["rows"], file_mebibytes(residuals)
        print_setting(
            memory=f"{memory}: {n:,} rows, {summary['classes']:,} classes",
            residuals=f"{size:,.0f} MiB, {size * 2**20 / n:.1f} bytes a row",
            bytes_a_row=", ".join(f"{name} {wide}" for name, wide in a_row.items()),
        )
        loop = [sys.executable, __file__, memory, "--top", str(given.top), "--plain-loop", copy]
        runs = in_turn(
            {
                OURS: partial(resmem, *command),
                "cp": partial(run, ["cp", residuals, copy]),
                "cp, sync": partial(run, ["sh", "-c", 'cp "$0" "$1" && sync "$1"', residuals, copy]),
                "plain h5py loop": partial(run, loop),
            },
            given.rounds,
        )
        print_runs(runs, ours=OURS)
        compare(residuals, copy, runs_of_loop=len(runs["plain h5py loop"]))
        gather_table(residuals, k=given.k, n_queries=given.n_queries, rounds=given.rounds)
        if queries is not None:
            predict(memory, queries, residuals, folder, given.k)


def compare(residuals: Path, copy: Path, *, runs_of_loop: int) -> None:
    """Print whether the plain loop wrote the same arrays."""
    if not runs_of_loop:
        return
    with h5py.File(residuals) as ours, h5py.File(copy) as theirs:
        same = all(np.array_equal(ours[name][()], theirs[name][()]) for name in ARRAYS)
    print(f"the plain loop writes {'the same arrays' if same else 'OTHER ARRAYS'}\n")


if __name__ == "__main__":
    main()
