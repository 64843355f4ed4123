"""The methods that ResMem is compared with in `predict --compare`, all from one search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.calibration import to_probabilities
from resmem_cli.gate import Gate
from resmem_cli.indexes.base import Neighbors
from resmem_cli.memory import neighbor_votes
from resmem_cli.prediction import Prediction
from resmem_cli.quality import Outcomes, outcomes
from resmem_cli.residuals import softmax
from resmem_cli.settings import Settings, Softening
from resmem_cli.stages.tuning_file import TuningChoice
from resmem_cli.tuning.methods import interpolate
from resmem_cli.types import ProbabilityMethod, ResidualSpace
from resmem_cli.weights import neighbor_weights

VOTE_WEIGHTS = (0.2, 0.4, 0.5, 0.6, 0.8)
"""Weights of kNN-LM in the paper's table 3; 0 is the base network, 1 is kNN."""


@dataclass(frozen=True)
class Compared:
    """A method in the comparison.

    Attributes
    ----------
    name : str
        As tables show it.
    family : str
        ``base``, ``knn``, ``knn-lm`` or ``resmem``.
    settings : dict
        What it was run with.
    """

    name: str
    family: str
    settings: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Block:
    """What the methods are computed from, for a block of queries.

    Attributes
    ----------
    logits : (b, C) floats
    labels : (b,) int32
        Their true classes.
    found : Neighbors
        With the largest k of all methods.
    neighbor_labels : (b, K) int32
    prediction : Prediction
        Of ResMem, without a gate.
    gated : Prediction or None
        Of ResMem with the gate.
    """

    logits: NDArray[Any]
    labels: NDArray[np.int32]
    found: Neighbors
    neighbor_labels: NDArray[np.int32]
    prediction: Prediction
    gated: Prediction | None


_Made = Callable[[Block], Outcomes]


class Comparison:
    """Computes every method's outcomes.

    Parameters
    ----------
    settings : Settings
        Of ResMem.
    space : ResidualSpace
        Of its residuals.
    tuning : TuningChoice or None
        Settings tuned for the baselines; without, they share ResMem's.
    gate : Gate or None
        The one ResMem answers with; None for the tuned one.

    Attributes
    ----------
    methods : list of Compared
        In the order of the columns.
    k : int
        Neighbours to search for.
    gate : Gate or None
        That of the method with a gate; None if there is no such method.
    """

    def __init__(
        self, settings: Settings, *, space: ResidualSpace, tuning: TuningChoice | None, gate: Gate | None
    ) -> None:
        if gate is None and tuning and (tuning.gate.distance, tuning.gate.confidence) != (None, None):
            gate = tuning.gate
        self.gate = gate
        self.methods: list[Compared] = []
        self._made: list[_Made] = []
        self.k = settings.k
        self._add_base(tuning)
        knn = (tuning.knn if tuning else None) or settings
        tuned = "kNN, tuned" if tuning and tuning.knn else "kNN"
        self._add(tuned, "knn", {"k": knn.k, "sigma": knn.sigma}, lambda b: _votes(b, knn))
        for weight in VOTE_WEIGHTS:
            self._add_interpolated(f"kNN-LM {weight:g}", Settings(settings.k, settings.sigma, 1.0, weight))
        if tuning and tuning.knn_lm:
            self._add_interpolated("kNN-LM, tuned", tuning.knn_lm)
        self._add_resmem(settings, space, tuning)

    def outcomes(
        self,
        logits: NDArray[Any],
        labels: NDArray[np.int32],
        *,
        found: Neighbors,
        neighbor_labels: NDArray[np.int32],
        prediction: Prediction,
        gated: Prediction | None,
    ) -> list[Outcomes]:
        """Compute the columns of a block of queries; see `Block`."""
        block = Block(logits, labels, found, neighbor_labels, prediction, gated)
        return [made(block) for made in self._made]

    def _add(self, name: str, family: str, settings: dict[str, Any], made: _Made) -> None:
        self.methods.append(Compared(name, family, settings))
        self._made.append(made)
        self.k = max(self.k, settings.get("k", 1))

    def _add_base(self, tuning: TuningChoice | None) -> None:
        temperatures = {"base": 1.0}
        if tuning:
            temperatures["base, tuned temperature"] = tuning.base_temperature
        for name, temperature in temperatures.items():
            self._add(
                name,
                "base",
                {"temperature": temperature},
                lambda b, t=temperature: outcomes(  # type: ignore[misc]
                    softmax(b.logits, temperature=t), b.labels, predicted=b.prediction.base_predicted
                ),
            )

    def _add_interpolated(self, name: str, settings: Settings) -> None:
        told = {"k": settings.k, "sigma": settings.sigma, "temperature": settings.temperature}
        self._add(
            name,
            "knn-lm",
            {**told, "weight": settings.strength},
            lambda b: _interpolated(b, settings),
        )

    def _add_resmem(self, settings: Settings, space: ResidualSpace, tuning: TuningChoice | None) -> None:
        told = asdict(settings)
        if space == ResidualSpace.LOGIT:
            self._add("ResMem in logit space", "resmem", told, lambda b: _of(b.prediction, b, None))
        else:
            names = {"ResMem, clip": ProbabilityMethod.CLIP, "ResMem, simplex": ProbabilityMethod.SIMPLEX}
            for name, method in names.items():
                self._add(name, "resmem", told, lambda b, m=method: _of(b.prediction, b, m))  # type: ignore[misc]
            softening = tuning.softening if tuning else None
            if softening is not None:
                self._add(
                    "ResMem, temperature",
                    "resmem",
                    {**told, "softening": asdict(softening)},
                    lambda b: _of(b.prediction, b, ProbabilityMethod.TEMPERATURE, softening),
                )
        if self.gate is not None:
            limits = {"gate_distance": self.gate.distance, "gate_confidence": self.gate.confidence}
            clip = None if space == ResidualSpace.LOGIT else ProbabilityMethod.CLIP
            self._add(
                "ResMem, gate", "resmem", told | limits, lambda b: _of(b.gated or b.prediction, b, clip)
            )


def _of(
    prediction: Prediction, block: Block, method: ProbabilityMethod | None, softening: Softening | None = None
) -> Outcomes:
    scores = prediction.scores
    if method is not None:
        scores = to_probabilities(scores, method, softening=softening)
    return outcomes(scores, block.labels, predicted=prediction.predicted)


def _vote(block: Block, settings: Settings) -> NDArray[np.float32]:
    weights = neighbor_weights(block.found.distances[:, : settings.k], sigma=settings.sigma)
    return neighbor_votes(block.neighbor_labels[:, : settings.k], weights, n_classes=block.logits.shape[1])


def _votes(block: Block, settings: Settings) -> Outcomes:
    return outcomes(_vote(block, settings), block.labels)


def _interpolated(block: Block, settings: Settings) -> Outcomes:
    probabilities = interpolate(
        _vote(block, settings), block.logits, weight=settings.strength, temperature=settings.temperature
    )
    return outcomes(probabilities, block.labels)
