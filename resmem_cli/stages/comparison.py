"""The methods that ResMem is compared with in `predict --compare`, all from one search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
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

    @cached_property
    def _network(self) -> dict[float, NDArray[np.float32]]:
        return {}

    @cached_property
    def _votes(self) -> dict[tuple[int, float], NDArray[np.float32]]:
        return {}

    def network(self, temperature: float) -> NDArray[np.float32]:
        """Give the network's probabilities at a temperature, computed once for all methods."""
        if temperature not in self._network:
            self._network[temperature] = softmax(self.logits, temperature=temperature)
        return self._network[temperature]

    def votes(self, k: int, sigma: float) -> NDArray[np.float32]:
        """Give the neighbours' votes, computed once for all methods."""
        if (k, sigma) not in self._votes:
            weights = neighbor_weights(self.found.distances[:, :k], sigma=sigma)
            votes = neighbor_votes(self.neighbor_labels[:, :k], weights, n_classes=self.logits.shape[1])
            self._votes[k, sigma] = votes
        return self._votes[k, sigma]


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
        self._add(tuned, "knn", {"k": knn.k, "sigma": knn.sigma}, partial(_voted, settings=knn))
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
                partial(_network, temperature=temperature),
            )

    def _add_interpolated(self, name: str, settings: Settings) -> None:
        told = {"k": settings.k, "sigma": settings.sigma, "temperature": settings.temperature}
        self._add(
            name,
            "knn-lm",
            {**told, "weight": settings.strength},
            partial(_interpolated, settings=settings),
        )

    def _add_resmem(self, settings: Settings, space: ResidualSpace, tuning: TuningChoice | None) -> None:
        told = asdict(settings)
        softening = tuning.softening if tuning else None
        ways: dict[str, ProbabilityMethod | None]
        if space == ResidualSpace.LOGIT:
            ways = {"ResMem in logit space": None}  # whose scores are probabilities
        else:
            ways = {"ResMem, clip": ProbabilityMethod.CLIP, "ResMem, simplex": ProbabilityMethod.SIMPLEX}
            if softening is not None:
                ways["ResMem, temperature"] = ProbabilityMethod.TEMPERATURE
        for name, way in ways.items():
            own = told
            if way == ProbabilityMethod.TEMPERATURE and softening is not None:
                own = {**told, "softening": asdict(softening)}
            self._add(name, "resmem", own, partial(_corrected, way=way, softening=softening))
        if self.gate is not None:
            limits = {"gate_distance": self.gate.distance, "gate_confidence": self.gate.confidence}
            way = None if space == ResidualSpace.LOGIT else ProbabilityMethod.CLIP
            self._add("ResMem, gate", "resmem", told | limits, partial(_corrected, way=way, gated=True))


def _corrected(
    block: Block,
    *,
    way: ProbabilityMethod | None,
    softening: Softening | None = None,
    gated: bool = False,
) -> Outcomes:
    prediction = block.gated if gated and block.gated is not None else block.prediction
    scores = prediction.scores
    probabilities = scores if way is None else to_probabilities(scores, way, softening=softening)
    return outcomes(probabilities, block.labels, predicted=prediction.predicted, scores=scores)


def _network(block: Block, *, temperature: float) -> Outcomes:
    probabilities = block.network(temperature)
    predicted = block.prediction.base_predicted
    return outcomes(probabilities, block.labels, predicted=predicted, scores=block.logits)


def _voted(block: Block, *, settings: Settings) -> Outcomes:
    return outcomes(block.votes(settings.k, settings.sigma), block.labels)


def _interpolated(block: Block, *, settings: Settings) -> Outcomes:
    probabilities = interpolate(
        block.votes(settings.k, settings.sigma),
        block.network(settings.temperature),
        weight=settings.strength,
    )
    return outcomes(probabilities, block.labels)
