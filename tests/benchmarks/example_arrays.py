"""The arrays that a benchmark runs on: the files it is given, or random ones of the same size."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli import ArraySelection, open_embeddings

_BLOCK_ROWS = 1 << 14


@dataclass(frozen=True)
class Examples:
    """What a network made of some examples.

    Attributes
    ----------
    embeddings : (n, d) float32
    logits : (n, C) float32
    labels : (n,) int64
    """

    embeddings: NDArray[np.float32]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, rows: NDArray[np.int64] | slice) -> Examples:
        """Give some of them."""
        return Examples(self.embeddings[rows], self.logits[rows], self.labels[rows])


@dataclass(frozen=True)
class Source:
    """A file that `resmem` reads embeddings from, and which of its arrays."""

    path: Path
    split: str | None = None

    @property
    def arguments(self) -> list[str]:
        """How a command is given it."""
        return [str(self.path), *(("--split", self.split) if self.split else ())]

    def read(self, n_rows: int | None = None) -> Examples:
        """Read all of it, or the first rows."""
        with open_embeddings(self.path, ArraySelection(split=self.split)) as source:
            stop = min(n_rows or source.n, source.n)
            return Examples(
                np.ascontiguousarray(source.embeddings.read(0, stop), np.float32),
                np.ascontiguousarray(source.require_logits().read(0, stop), np.float32),
                source.require_labels()[:stop].astype(np.int64),
            )

    def embeddings(self, n_rows: int | None = None) -> NDArray[np.float32]:
        """Read the embeddings alone."""
        with open_embeddings(self.path, ArraySelection(split=self.split)) as source:
            rows = source.embeddings.read(0, min(n_rows or source.n, source.n))
            return np.array(rows, np.float32, order="C")


def add_arguments(parser: argparse.ArgumentParser, *, n: int = 50_000, d: int = 64) -> None:
    """Let the user give the arrays, or the size of random ones."""
    parser.add_argument(
        "memory",
        type=Path,
        nargs="?",
        help="an .npz with the splits train and test, or the memory's embeddings artifact; random without it",
    )
    parser.add_argument("queries", type=Path, nargs="?", help="the queries' embeddings artifact")
    parser.add_argument("--random-rows", type=int, default=n, help="rows of a random memory")
    parser.add_argument("--random-queries", type=int, default=10_000, help="random queries")
    parser.add_argument("--random-dimensions", type=int, default=d, help="dimensions of random embeddings")


def given_sources(given: argparse.Namespace, folder: Path) -> tuple[Source, Source]:
    """Give the memory and the queries, drawn into the folder where the user named no file."""
    if given.queries is not None:
        return Source(given.memory), Source(given.queries)
    path = given.memory
    if path is None:
        path = folder / "random.npz"
        drawn = draw(given.random_rows + given.random_queries, d=given.random_dimensions)
        save(
            path,
            train=drawn.at(slice(given.random_rows)),
            test=drawn.at(slice(given.random_rows, None)),
        )
    return Source(path, "train"), Source(path, "test")


def draw(n: int, *, d: int = 64, n_classes: int = 100, seed: int = 0) -> Examples:
    """Draw overlapping clusters, whose spread falls from axis to axis as in a network's embeddings.

    The logits know the label about half the time.
    """
    generator = np.random.default_rng(seed)
    scales = (np.arange(1, d + 1) ** -0.5).astype(np.float32)
    axes = np.linalg.qr(generator.standard_normal((d, d)))[0].astype(np.float32)
    centres = generator.standard_normal((n_classes, d), np.float32) * scales
    labels = generator.integers(0, n_classes, size=n)
    embeddings = np.empty((n, d), np.float32)
    logits = np.empty((n, n_classes), np.float32)
    for start in range(0, n, _BLOCK_ROWS):
        own = labels[start : start + _BLOCK_ROWS]
        spread = generator.standard_normal((len(own), d), np.float32) * scales
        embeddings[start : start + len(own)] = (
            np.float32(0.8) * centres[own] + np.float32(1.75) * spread
        ) @ axes
        noise = generator.standard_normal((len(own), n_classes), np.float32)
        noise[np.arange(len(own)), own] += np.float32(2.5)
        logits[start : start + len(own)] = noise
    return Examples(embeddings, logits, labels)


def save(path: Path, *, ids: NDArray[np.int64] | None = None, **splits: Examples) -> None:
    """Write examples as exported arrays, each split's under its name; one of no name if it is `all`."""
    arrays: dict[str, Any] = {}
    for name, examples in splits.items():
        prefix = "" if name == "all" else f"{name}_"
        arrays[f"{prefix}embeddings"] = examples.embeddings
        arrays[f"{prefix}logits"] = examples.logits
        arrays[f"{prefix}labels"] = examples.labels
    if ids is not None:
        arrays["ids"] = ids
    np.savez(path, **arrays)
