"""Every point of a grid from one search: which queries each setting answers rightly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resmem_cli.calibration import FLOOR
from resmem_cli.indexes.one_thread import one_blas_thread
from resmem_cli.residuals import softmax
from resmem_cli.threads import for_each_block
from resmem_cli.tuning.tables import Table, Terms
from resmem_cli.types import Progress, no_progress, row_blocks
from resmem_cli.weights import neighbor_weights

_TERM_ELEMENTS = 1 << 22  # entries of neighbours' vectors held by one thread
_CHUNK_QUERIES = 1 << 12  # between two signs of progress
_UNIT = 2.0**-24
# Below the first only the nearest rows weigh anything, above the second all rows weigh alike; between them
# 1 / sigma is a float32.
_LEAST_SIGMA, _LARGEST_SIGMA = 1e-30, 8e37
_RECHECK_ELEMENTS = 1 << 24  # entries of scores, or of weights, decided together


@dataclass(frozen=True)
class Mix:
    """One way to add neighbours' sums to the network: `memory · Σ w̄_i v_i + network · p`.

    Attributes
    ----------
    memory, network : float
        Factors, at least 0.
    temperature : float or None
        `p = softmax(f/T)`; None for the logits themselves, p = f.
    """

    memory: float
    network: float
    temperature: float | None


@dataclass(frozen=True)
class Searched:
    """Queries with their neighbours, found once with the largest k.

    Attributes
    ----------
    rows, distances : (q, K) int64 and float64
        Nearest first, rows counting in the tables.
    logits : (q, C) float32
        The network's.
    labels : (q,) int64
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float64]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Swept:
    """What a sweep found.

    Attributes
    ----------
    right : (mixes, q, k's, sigmas) bool
        Whether the true class scores above all others.
    log_probability : (mixes, q, k's, sigmas) float32 or None
        Of the true class, from the scores clipped and normalised (of logits: from their softmax).
    """

    right: NDArray[np.bool_]
    log_probability: NDArray[np.float32] | None


Recheck = Callable[[Mix, NDArray[np.int64], NDArray[np.float32]], NDArray[np.bool_]]
"""Answers (mix, (e,) queries, (e, k) weights) with which are right, in `predict`'s own arithmetic."""


def sweep(
    searched: Searched,
    table: Table,
    mixes: Sequence[Mix],
    ks: Sequence[int],
    sigmas: Sequence[float],
    *,
    recheck: Recheck,
    likelihood: bool = False,
    softmax_temperature: float = 1.0,
    progress: Progress = no_progress,
) -> Swept:
    """Try every mix with every k and sigma.

    For a block of queries the weights of all sigmas multiply the neighbours' vectors in one product for
    each stretch between two k; sums grow from stretch to stretch. Whether a query is right does not change
    when scores are multiplied by Σ w, so nothing is normalised.

    A true class that leads, or falls behind, by less than rounding can mean is decided by `recheck`, so
    that every count is `predict`'s. A float32 sum of k terms is off by at most k·u of their sizes (see
    `indexes.proof.Rounding`); both sides make one, and 256 u is above what is lost elsewhere: in weights
    (2 u times the mean of their exponents, which is below log k + 1), softmax and additions.

    Log-probabilities are not rechecked. Those of sparse tables depend in their last bits on the queries of
    their block, which widen its columns; the blocks are the same whatever memory and threads there are.

    Parameters
    ----------
    searched : Searched
    table : Table
        The vectors to be summed.
    mixes, ks, sigmas : sequences
        Settings; k rising.
    recheck : Recheck
    likelihood : bool
        Whether to compute log-probabilities.
    softmax_temperature : float
        Of the softmax that makes logits probabilities.
    progress : Progress
    """
    shape = (len(mixes), len(searched), len(ks), len(sigmas))
    right = np.empty(shape, bool)
    log_probability = np.empty(shape, np.float32) if likelihood else None
    unsure: list[NDArray[np.int64]] = []
    inverse = -1 / np.clip(np.array(sigmas), _LEAST_SIGMA, _LARGEST_SIGMA).astype(np.float32)[:, None]
    inside = (np.arange(ks[-1])[:, None] < np.array(ks)).astype(np.float32)

    def work(block: slice) -> None:
        found = searched.distances[block, : ks[-1]]
        beyond = (found - found[:, :1]).astype(np.float32)
        with np.errstate(over="ignore", under="ignore"):
            weights = np.exp(beyond[:, None, :] * inverse)
        terms = table.terms(searched.rows[block, : ks[-1]], searched.labels[block])
        networks = {t: _Network.of(searched.logits[block], terms, t) for t in {m.temperature for m in mixes}}
        sums = np.zeros((len(found), len(sigmas), terms.values.shape[2]), np.float32)
        totals_of = np.ascontiguousarray(np.moveaxis(weights @ inside, 2, 0))
        stretch, score = np.empty_like(sums), np.empty_like(sums)
        folded = terms.columns is None and len(mixes) == 1 and mixes[0].memory == mixes[0].network == 1
        if folded:
            # Σ w (v + p) = Σ w v + p Σ w: the product of matrices adds the network.
            terms.values[...] += networks[mixes[0].temperature].scores[:, None]
            score = sums
        before = 0
        for i, k in enumerate(ks):
            np.matmul(weights[:, :, before:k], terms.values[:, before:k], out=stretch)
            sums += stretch
            totals = totals_of[i]
            before = k
            for m, mix in enumerate(mixes):
                network = networks[mix.temperature]
                if not folded:
                    _mix(sums, totals, network.scores, mix, score)
                if log_probability is not None:
                    log_probability[m, block, i] = _log_probability(
                        score, totals, terms.own, mix, network, softmax_temperature
                    )
                lead = _lead(score, terms.own)
                right[m, block, i] = lead > 0
                size = mix.memory * table.largest + mix.network * network.largest
                near = np.abs(lead) <= totals * np.float32((6 * k + 256) * _UNIT * size)
                if near.any():
                    q, s = np.nonzero(near)
                    same = np.ones(len(q), np.int64)
                    unsure.append(np.stack([m * same, i * same, s, q + block.start]))

    step = max(1, _TERM_ELEMENTS // (ks[-1] * min(table.n_classes, 1 << 12)))
    with one_blas_thread():
        for chunk in progress(row_blocks(len(searched), _CHUNK_QUERIES), "trying settings"):
            starts = range(chunk.start, chunk.stop, step)
            for_each_block(work, [slice(start, min(start + step, chunk.stop)) for start in starts])
    if unsure:
        _recheck(np.concatenate(unsure, axis=1), right, searched, mixes, ks, sigmas, recheck)
    return Swept(right, log_probability)


@dataclass(frozen=True)
class _Network:
    """The network's scores of some queries in the columns of their terms.

    `beyond` is the probability of the classes without a column, less that of the best of them.
    """

    scores: NDArray[np.float32]
    beyond: NDArray[np.float32]
    largest: float

    @classmethod
    def of(cls, logits: NDArray[np.float32], terms: Terms, temperature: float | None) -> _Network:
        whole = logits if temperature is None else softmax(logits, temperature=temperature)
        scores = terms.of(whole)
        beyond = np.zeros(len(scores), np.float32)
        if terms.columns is not None:
            beyond = whole.sum(axis=1) - np.where(np.isfinite(scores), scores, 0).sum(axis=1)
        return cls(scores, np.maximum(beyond, 0), float(np.abs(whole).max()))


def _mix(
    sums: NDArray[np.float32],
    totals: NDArray[np.float32],
    network: NDArray[np.float32],
    mix: Mix,
    score: NDArray[np.float32],
) -> None:
    """Compute Σ w times the score of every column."""
    if mix.network:
        np.multiply(totals[:, :, None] * np.float32(mix.network), network[:, None, :], out=score)
        if mix.memory == 1:
            score += sums
        elif mix.memory:
            score += sums * np.float32(mix.memory)
    else:
        np.multiply(sums, np.float32(mix.memory), out=score)


def _lead(score: NDArray[np.float32], own: NDArray[np.int64]) -> NDArray[np.float32]:
    """Give the lead of the own class over the best other."""
    queries = np.arange(len(own))
    mine = score[queries, :, own]
    score[queries, :, own] = -np.inf
    lead: NDArray[np.float32] = mine - score.max(axis=2)
    score[queries, :, own] = mine
    return lead


def _log_probability(
    score: NDArray[np.float32],
    totals: NDArray[np.float32],
    own: NDArray[np.int64],
    mix: Mix,
    network: _Network,
    temperature: float,
) -> NDArray[np.float32]:
    queries = np.arange(len(own))
    if mix.temperature is None:
        scaled = score / (totals[:, :, None] * np.float32(temperature))
        scaled -= scaled.max(axis=2, keepdims=True)
        logs = scaled[queries, :, own] - np.log(np.exp(scaled).sum(axis=2))
    else:
        mass = np.maximum(score, 0).sum(axis=2)
        mass += totals * (network.beyond * np.float32(mix.network))[:, None]
        with np.errstate(divide="ignore"):
            logs = np.log(np.maximum(score[queries, :, own], 0) / mass)
    floored: NDArray[np.float32] = np.maximum(logs, np.float32(np.log(FLOOR)))
    return floored


def _recheck(
    unsure: NDArray[np.int64],
    right: NDArray[np.bool_],
    searched: Searched,
    mixes: Sequence[Mix],
    ks: Sequence[int],
    sigmas: Sequence[float],
    recheck: Recheck,
) -> None:
    """Decide what was too close, many queries of one mix and k together."""
    order = np.lexsort(unsure[::-1])
    unsure = unsure[:, order]
    groups = unsure[0] * len(ks) + unsure[1]
    most = max(1, _RECHECK_ELEMENTS // max(ks[-1], searched.logits.shape[1]))
    for group in np.split(np.arange(len(groups)), np.flatnonzero(np.diff(groups)) + 1):
        m, i = unsure[:2, group[0]]
        for some in (group[part] for part in row_blocks(len(group), most)):
            s, queries = unsure[2:, some]
            distances = searched.distances[queries, : ks[i]]
            weights = np.empty(distances.shape, np.float32)
            for one in np.unique(s):
                weights[s == one] = neighbor_weights(distances[s == one], sigma=sigmas[one])
            right[m, queries, i, s] = recheck(mixes[m], queries, weights)
