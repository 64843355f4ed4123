"""What methods are run with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How one method sums neighbours.

    Attributes
    ----------
    k : int
        Neighbours of each query.
    sigma : float
        Unit of distance of the weights.
    temperature : float
        Of the network's softmax.
    strength : float
        Factor of the memory's share; of kNN-LM the weight of the vote.
    """

    k: int
    sigma: float
    temperature: float
    strength: float


@dataclass(frozen=True)
class Softening:
    """Makes scores probabilities `∝ max(s, floor)^(1 / temperature)`; see `calibration.fit_softening`.

    Attributes
    ----------
    temperature : float
        Above 0; below 1 sharpens.
    floor : float
        Above 0: the score of a class that memory and network rule out.
    """

    temperature: float
    floor: float
