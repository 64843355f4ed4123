"""Centres of inverted lists, learnt from a sample, and the lists nearest to a row: the same in any batch."""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.indexes.base import Build
from resmem_cli.indexes.proof import Rounding, nearest_candidates, scan
from resmem_cli.indexes.searched import FaissSearch, StoredRows
from resmem_cli.indexes.space import Space, squared_norms
from resmem_cli.rows import ArrayInMemory, RandomRows
from resmem_cli.types import Progress, no_progress, row_blocks

MOST_LISTS = 1 << 16
"""Up to so many, finding the nearest centres by comparing with all of them is best."""

CODE_WORDS = 256
"""The most of each part of a row: its number is up to one byte."""

_LEAST_ROWS = 32  # of a list, on average
_ITERATIONS = 10
_CENTRE_ROWS = 64  # of the sample, for each centre
_WORD_ROWS, _LEAST_WORD_ROWS = 256, 1 << 14  # of the sample, for each code word, and for all of them
_LEAST_SAMPLE = 1 << 14
_SAMPLE_SHARE = 8  # the sample takes one part in so many of the memory
_BLOCK_ROWS, _BLOCK_ELEMENTS = 1 << 12, 1 << 20
_READ_ELEMENTS = 1 << 18  # of the rows that are drawn, brought into their space in float64
_LARGEST = np.finfo(np.float32).max
_EXTRA_CENTRES = 4  # fetched besides those wanted; more can seldom tie by rounding


def default_lists(n: int, *, per_root: float = 4) -> int:
    """Choose how many lists n rows are put in.

    Parameters
    ----------
    n : int
        Rows.
    per_root : float
        How many for each unit of √n: fewer for codes that are compared faster than lists are prepared.

    Returns
    -------
    int
        A power of 2, such that lists have at least 32 rows on average.
    """
    most = max(1, n // _LEAST_ROWS)
    wanted = max(0, round(np.log2(per_root * n**0.5)))
    return int(min(2**wanted, 1 << (most.bit_length() - 1), MOST_LISTS))


def drawn_sample(
    vectors: RandomRows, space: Space, n_lists: int, *, left_out: NDArray[np.int64], build: Build
) -> NDArray[np.float32]:
    """Draw rows from all over the memory to learn from: one of each of many stretches of about one length.

    Parameters
    ----------
    vectors : (n, d)
        The memory.
    space : Space
        Where the rows are searched.
    n_lists : int
        How many centres are to be learnt, each from 64 rows, as far as an eighth of the memory goes.
    left_out : (h,) int64
        Rows not to be among them.
    build : Build
        With seed and memory.

    Returns
    -------
    (m, space.dimension) float32
        As they are searched, in the order of the rows.
    """
    n = vectors.shape[0]
    allowed = max(n_lists, CODE_WORDS, build.memory // _SAMPLE_SHARE // (4 * space.dimension))
    count = max(1, min(n, allowed, max(_LEAST_SAMPLE, _CENTRE_ROWS * n_lists)))
    edges = np.arange(count + 1) * n // count
    rows = np.random.default_rng(build.seed).integers(edges[:-1], edges[1:])
    rows = rows[~np.isin(rows, left_out)]
    sample = np.empty((len(rows), space.dimension), np.float32)
    blocks = row_blocks(len(rows), max(1, _READ_ELEMENTS // space.dimension))
    for block in build.progress(blocks, "sampling rows"):
        some = rows[block]
        sample[block] = space.searched(vectors.at(some)[some])
    return sample


def sample_blocks(sample: NDArray[np.float32]) -> Sequence[slice]:
    """Cut (m, d) rows into blocks of up to 2²⁰ numbers: always the same, so that their sums are."""
    return row_blocks(len(sample), max(1, min(_BLOCK_ROWS, _BLOCK_ELEMENTS // sample.shape[1])))


def squares_within(
    sample: NDArray[np.float32], lists: NDArray[np.int64], centres: NDArray[np.float32]
) -> tuple[float, float]:
    """Sum the squares of (m, d) rows minus the centres of their lists, and those of the rows: in float64."""
    within = whole = 0.0
    for block in sample_blocks(sample):
        rows = sample[block].astype(np.float64)
        whole += float(np.square(rows).sum())
        rows -= centres[lists[block]]
        within += float(np.square(rows).sum())
    return within, whole


def learnt_centres(
    sample: NDArray[np.float32], count: int, *, seed: int, progress: Progress = no_progress
) -> NDArray[np.float32]:
    """Find centres by k-means.

    faiss's own k-means gives other bits with another number of threads, as its matrix products do.

    Parameters
    ----------
    sample : (m, d) float32
        At least `count` rows. Scaled in place by a power of 2, so that no square overflows, and back.
    count : int
        How many centres.
    seed : int
        Of the rows that are centres at first.
    progress : Progress
        Shows how far the sample has come.

    Returns
    -------
    (l, d) float32
        Finite, near ones together; as many as wanted but for those that no row was nearest to.
    """
    exponent = _scale_down(sample)
    first = np.random.default_rng(seed).choice(len(sample), size=count, replace=False)
    centres = np.unique(sample[first], axis=0)
    blocks = sample_blocks(sample)
    for part in progress(row_blocks(_ITERATIONS * len(blocks), 1), "learning centres"):
        block = blocks[part.start % len(blocks)]
        if block.start == 0:
            nearest = Centres(centres)
            sums, sizes = np.zeros(centres.shape), np.zeros(len(centres), np.int64)
        lists = nearest.assign(sample[block])
        order = np.argsort(lists, kind="stable")
        some, starts, counts = np.unique(lists[order], return_index=True, return_counts=True)
        sums[some] += np.add.reduceat(sample[block][order], starts, axis=0, dtype=np.float64)
        sizes[some] += counts
        if block.stop == len(sample):
            filled = sizes > 0
            centres = (sums[filled] / sizes[filled, None]).astype(np.float32)
    np.ldexp(sample, exponent, out=sample)
    return _scaled_up(centres[_near_together(centres)], exponent)


def _near_together(centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """Order centres so that near ones mostly follow each other: by halving along long directions.

    Queries in the order of their nearest lists then find most of what they visit in the processor's cache.
    """
    parts = [np.arange(len(centres))]
    while max(map(len, parts)) > 2:
        halves: list[NDArray[np.int64]] = []
        for part in parts:
            points = centres[part] - centres[part].mean(axis=0)
            farthest = points[np.argmax(np.square(points).sum(axis=1))]
            # Two steps of the power method; sums, for the bits of matrix products depend on the threads.
            for _ in range(2):
                along = (points * farthest).sum(axis=1)
                farthest = (points * along[:, None]).sum(axis=0)
                farthest /= max(1e-30, np.abs(farthest).max())
            order = part[np.argsort((points * farthest).sum(axis=1), kind="stable")]
            halves += np.array_split(order, 2) if len(part) > 2 else [part]
        parts = halves
    return np.concatenate(parts)


def learnt_code_words(
    residuals: NDArray[np.float32], parts: int, *, bits: int, seed: int
) -> NDArray[np.float32]:
    """Find the code words of each part of the columns by k-means.

    Parameters
    ----------
    residuals : (m, d) float32
        At least 1 row; scaled in place.
    parts : int
        Divides d.
    bits : int
        Of the number of a word, up to 8.
    seed : int
        Of the first words.

    Returns
    -------
    (parts, 2 ** bits, d / parts) float32
    """
    exponent = _scale_down(residuals)
    n_words = 1 << bits
    if len(residuals) < n_words:
        residuals = np.resize(residuals, (n_words, residuals.shape[1]))
    quantizer = faiss.ProductQuantizer(residuals.shape[1], parts, bits)
    quantizer.cp.seed = seed % (1 << 31)
    quantizer.cp.niter = _ITERATIONS
    quantizer.cp.min_points_per_centroid = 1
    quantizer.cp.max_points_per_centroid = max(_WORD_ROWS, _LEAST_WORD_ROWS // n_words)
    before = faiss.cvar.distance_compute_blas_threshold
    # Matrix products, whose bits depend on the threads, are not used by either: up to 16 columns faiss has
    # something faster.
    faiss.cvar.distance_compute_blas_threshold = 1 if quantizer.dsub <= 16 else (1 << 31) - 1
    try:
        quantizer.train(residuals)
    finally:
        faiss.cvar.distance_compute_blas_threshold = before
    words = faiss.vector_to_array(quantizer.centroids).reshape(parts, n_words, -1)
    return _scaled_up(words, exponent)


def _scale_down(rows: NDArray[np.float32]) -> int:
    """Divide rows, in place, by the power of 2 that makes their largest value about 1."""
    np.clip(rows, -_LARGEST, _LARGEST, out=rows)
    exponent = int(np.frexp(max(rows.max(), -rows.min()))[1])
    np.ldexp(rows, -exponent, out=rows)
    return exponent


def _scaled_up(rows: NDArray[np.float32], exponent: int) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.clip(np.ldexp(rows, exponent), -_LARGEST, _LARGEST)


class Centres:
    """Centres of lists, and which of them are nearest: by (distance, list), as float64 has it.

    Parameters
    ----------
    centres : (l, d) float32
        Finite.
    """

    def __init__(self, centres: NDArray[np.float32]) -> None:
        self.rows = centres
        norms = np.sqrt(squared_norms(centres))
        self._rounding = Rounding(columns=centres.shape[1], distortion=0, largest_norm=float(norms.max()))

    def nearest(self, rows: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the lists nearest to each row.

        Parameters
        ----------
        rows : (m, d) float32
            Values beyond float32's range count as its largest.
        count : int
            At most l.

        Returns
        -------
        lists, squares : (m, count) int64 and float32
            And the squared distances of their centres.
        """
        if not len(rows):
            return np.empty((0, count), np.int64), np.empty((0, count), np.float32)
        rows = np.clip(rows, -_LARGEST, _LARGEST)
        width = min(len(self.rows), count + (1 if count == 1 else _EXTRA_CENTRES))
        rough, candidates = FaissSearch().nearest(rows, StoredRows(ArrayInMemory(self.rows)), width)
        lists, distances = nearest_candidates(rows, candidates, count, vectors=self.rows)
        # A search leaves out centres whose squares overflow.
        proved = candidates.min(axis=1) >= 0
        if width < len(self.rows):
            reach = np.where(proved, distances[:, -1], 0)
            proved &= rough[:, -1] > self._rounding.limit(np.sqrt(squared_norms(rows)), reach)
        left = np.flatnonzero(~proved)
        lists[left], distances[left] = scan(rows[left], count, vectors=self.rows)
        with np.errstate(over="ignore"):
            return lists, np.square(distances).astype(np.float32)

    def assign(self, rows: NDArray[np.float32]) -> NDArray[np.int64]:
        """Find the one list nearest to each row: (m,) int64."""
        return self.nearest(rows, 1)[0][:, 0]
