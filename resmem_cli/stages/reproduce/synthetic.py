"""Embeddings and logits drawn to be like a network's on ImageNet, of any size, a block at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resmem_cli.residuals import softmax

BASE_ACCURACY = 0.70
"""Share of right answers that the head's errors are fitted to: about that of the paper's networks."""

CONFIDENCE = 0.60
"""Mean largest probability that the steepness of the logits is fitted to; label smoothing lowers it."""

_CHUNK = 1024  # rows drawn together, whatever is asked for
_AXES = 256
_BETWEEN = 0.18  # share of the variance that lies between classes
_NOISE = 0.1  # standard deviation in every dimension, beside 1 of what the axes give on average
_FLOOR, _CEILING = -0.5, 6.0  # mean before the activation, and where ReLU6 ends
_FITTED_ROWS = 2048
_BISECTIONS = 24
# Streams of the seed that are no split's.
_WORLD, _FITTED = 0, 1
_STREAMS = {"train": 2, "test": 3}


@dataclass(frozen=True)
class Rows:
    """What a network made of some examples.

    Attributes
    ----------
    embeddings : (n, d) float32
    logits : (n, C) float32
    labels : (n,) int32
    """

    embeddings: NDArray[np.float32]
    logits: NDArray[np.float32]
    labels: NDArray[np.int32]


class SyntheticNetwork:
    """Draws examples as a network might see them; the same seed gives the same rows, block by block.

    An example of class y lies at ``√ρ·c_y + √(1 − ρ)·w``: its class's centre, and its own deviation. Both are
    normal along 256 random directions in d dimensions, with a variance that falls as 1/j for centres and as
    1/j² for deviations, so that a few axes carry most of it. Noise is added, and ReLU6 makes it non-negative
    and sparse, as before the last layer of MobileNet-V2. The logits are a linear head on the embedding:
    ``g · (z·m_y − ‖m_y‖²/2)``, with m_y the embedding of class y's centre moved by a random error. The size
    of the errors is fitted so that `BASE_ACCURACY` of the answers are right, or as many as there are without
    errors where classes overlap more, as in few dimensions; g so that the mean largest probability is
    `CONFIDENCE`.

    Parameters
    ----------
    dimensions, classes : int
        d and C.
    seed : int
        Of everything.
    """

    def __init__(self, *, dimensions: int, classes: int, seed: int) -> None:
        self.d, self.n_classes, self.seed = dimensions, classes, seed
        generator = self._generator(_WORLD)
        axes = min(_AXES, dimensions)
        self._between, self._within = (
            generator.standard_normal((axes, dimensions), dtype=np.float32) * _falling(axes, power, share)
            for power, share in ((1, _BETWEEN), (2, 1 - _BETWEEN))
        )
        self._centres = generator.standard_normal((classes, axes), dtype=np.float32)
        means = self._activate(self._centres @ self._between)
        errors = generator.standard_normal(means.shape, dtype=np.float32) * means.std(axis=0)
        self._head = self._fit_head(means, errors)

    def read(self, split: str, start: int, stop: int) -> Rows:
        """Draw rows `start` to `stop` of the split `train` or `test`; the same ones for any blocks."""
        parts = []
        for chunk in range(start // _CHUNK, -(-stop // _CHUNK)):
            embeddings, labels = self._draw(_STREAMS[split], chunk)
            logits = self._head(embeddings)
            first = chunk * _CHUNK
            some = slice(max(start - first, 0), min(stop - first, _CHUNK))
            parts.append((embeddings[some], logits[some], labels[some]))
        return Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def _generator(self, stream: int, chunk: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, chunk])

    def _draw(self, stream: int, chunk: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        generator = self._generator(stream, chunk)
        labels = generator.integers(0, self.n_classes, size=_CHUNK).astype(np.int32)
        raw = self._centres[labels] @ self._between
        raw += generator.standard_normal((_CHUNK, len(self._within)), dtype=np.float32) @ self._within
        raw += np.float32(_NOISE) * generator.standard_normal(raw.shape, dtype=np.float32)
        return self._activate(raw), labels

    @staticmethod
    def _activate(raw: NDArray[np.float32]) -> NDArray[np.float32]:
        active: NDArray[np.float32] = np.clip(raw + np.float32(_FLOOR), 0, _CEILING)
        return active

    def _fit_head(self, means: NDArray[np.float32], errors: NDArray[np.float32]) -> _Head:
        """Find how large the head's errors are, then how steep it is, on rows of a stream of their own."""
        chunks = [self._draw(_FITTED, chunk) for chunk in range(_FITTED_ROWS // _CHUNK)]
        embeddings, labels = (np.concatenate(columns) for columns in zip(*chunks, strict=True))

        def accuracy(size: float) -> float:
            predicted = _Head.of(means + np.float32(size) * errors, 1.0)(embeddings).argmax(axis=1)
            return float((predicted == labels).mean())

        moved = means + np.float32(_where_falls(accuracy, BASE_ACCURACY)) * errors
        logits = _Head.of(moved, 1.0)(embeddings)
        logits -= logits.max(axis=1, keepdims=True)

        def doubt(temperature: float) -> float:
            return float(softmax(logits, temperature=max(temperature, 1e-6)).max(axis=1).mean())

        return _Head.of(moved, 1 / max(1e-6, _where_falls(doubt, CONFIDENCE)))


@dataclass(frozen=True)
class _Head:
    weights: NDArray[np.float32]
    offsets: NDArray[np.float32]

    @classmethod
    def of(cls, means: NDArray[np.float32], steepness: float) -> _Head:
        scale = np.float32(steepness)
        return cls(scale * means.T, -scale * np.square(means).sum(axis=1) / 2)

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        return embeddings @ self.weights + self.offsets


def _falling(axes: int, power: int, share: float) -> NDArray[np.float32]:
    """Give (axes, 1) standard deviations whose squares fall as 1/j^power and sum to `share`."""
    variances = 1.0 / np.arange(1, axes + 1) ** power
    deviations: NDArray[np.float32] = np.sqrt(share * variances / variances.sum()).astype(np.float32)
    return deviations[:, None]


def _where_falls(function: Callable[[float], float], value: float) -> float:
    """Find where a falling function passes a value, from 0 on; 0 if it begins below."""
    if function(0.0) <= value:
        return 0.0
    low, high = 0.0, 1.0
    while function(high) > value and high < 1e6:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > value else (low, middle)
    return high
