"""Grids of settings, their points with what each gives, and the choice of the best."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import UsageError
from resmem_cli.residuals import check_temperature
from resmem_cli.weights import check_sigma, check_strength

_MOST_VALUES = 10_000
# The paper's σ is 0.18 of the scale on its embeddings: well inside.
_SIGMAS_OF_SCALE = (0.05, 1.0, 10)
_TEMPERATURES = (0.5, 4.0, 7)
_STRENGTHS = (0.25, 0.5, 0.75, 1.0)
_NEIGHBORS = (10, 20, 53, 100, 200)


class Objective(StrEnum):
    """What the best point of a grid is best in."""

    ACCURACY = "accuracy"
    TPR = "tpr"
    """Most corrected of the points whose FPR is below a bound (Yang et al. 2023, section 4.4)."""

    NLL = "nll"
    """Least negative log-likelihood of the scores, clipped and normalised."""


@dataclass(frozen=True)
class Grid:
    """Values of each setting; their product is tried.

    Attributes
    ----------
    k : tuple of int
        Neighbours, rising.
    sigma, temperature, strength : tuple of float
    """

    k: tuple[int, ...]
    sigma: tuple[float, ...]
    temperature: tuple[float, ...]
    strength: tuple[float, ...] = (1.0,)

    def __len__(self) -> int:
        return len(self.k) * len(self.sigma) * len(self.temperature) * len(self.strength)

    def check(self, *, n: int) -> None:
        """Refuse values out of range; n is the largest k there can be.

        Raises
        ------
        UsageError
            Naming the value.
        """
        for k in self.k:
            if not 1 <= k <= n:
                raise UsageError("k out of range", expected=f"1 to {n:,}", found=k)
        for sigma in self.sigma:
            check_sigma(sigma)
        for temperature in self.temperature:
            check_temperature(temperature)
        for strength in self.strength:
            check_strength(strength)


@dataclass(frozen=True)
class Points:
    """Settings that were tried, one an entry, and what each gives.

    Attributes
    ----------
    k, sigma, temperature, strength : (g,) arrays
    accuracy, tpr, fpr : (g,) float64
        Weighted shares of the queries.
    nll : (g,) float64 or None
    """

    k: NDArray[np.int32]
    sigma: NDArray[np.float64]
    temperature: NDArray[np.float64]
    strength: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    tpr: NDArray[np.float64]
    fpr: NDArray[np.float64]
    nll: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.k)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Give all columns there are by name."""
        return {name: values for name, values in vars(self).items() if values is not None}

    def at(self, i: int) -> dict[str, Any]:
        """Give one point."""
        return {name: values[i].item() for name, values in self.columns().items()}

    def followed_by(self, other: Points) -> Points:
        """Put the points of another grid behind these."""
        mine, theirs = self.columns(), other.columns()
        return Points(**{name: np.concatenate([values, theirs[name]]) for name, values in mine.items()})

    def best(self, objective: Objective, *, max_fpr: float) -> int:
        """Choose a point; of equal ones that with the lowest FPR, then the smallest k, then the first.

        Where no point keeps FPR below `max_fpr`, the one with the lowest FPR is taken.

        Raises
        ------
        UsageError
            For `Objective.NLL`, where `nll` is None.
        """
        match objective:
            case Objective.ACCURACY:
                loss = -self.accuracy
            case Objective.NLL:
                if self.nll is None:
                    raise UsageError("no NLL was computed at these points")
                loss = self.nll
            case Objective.TPR:
                within = self.fpr < max_fpr
                loss = np.where(within, -self.tpr, np.inf) if within.any() else self.fpr
        return int(np.lexsort((self.k, self.fpr, loss))[0])


def automatic_grid(*, n: int, scale: float, temperatures: bool = True) -> Grid:
    """Choose a grid from the memory's own distances.

    Parameters
    ----------
    n : int
        The largest k there can be.
    scale : float
        Median distance to the 53rd neighbour, as `index` measures it.
    temperatures : bool
        Whether more than T = 1 can be tried.
    """
    low, high, count = _SIGMAS_OF_SCALE
    return Grid(
        k=tuple(sorted({min(k, n) for k in _NEIGHBORS})),
        sigma=_logarithmic(_short(low * scale), _short(high * scale), count),
        temperature=_logarithmic(*_TEMPERATURES) if temperatures else (1.0,),
        strength=_STRENGTHS,
    )


def refined_grid(grid: Grid, best: dict[str, Any]) -> Grid:
    """Lay a finer grid around a point of a grid, from its lower to its upper neighbour in each setting."""
    sigma, temperature, k = (
        _around(getattr(grid, name), best[name]) for name in ("sigma", "temperature", "k")
    )
    strength = _around(grid.strength, best["strength"])
    return Grid(
        k=tuple(sorted({round(value) for value in _logarithmic(*k, 5)})),
        sigma=_logarithmic(*sigma, 7),
        temperature=_logarithmic(*temperature, 5),
        strength=_linear(*strength, 5),
    )


def parse_values(text: str, option: str, *, whole: bool = False) -> tuple[Any, ...]:
    """Read `10,53,200`, `0.1:2:20` (20 values from 0.1 to 2) or `0.1:2:20log` (in equal ratios).

    Returns
    -------
    tuple
        Rising, none twice; rounded to integers where `whole`.

    Raises
    ------
    UsageError
        Naming the option.
    """
    values: list[float] = []
    for part in text.split(","):
        try:
            some = _range(part.strip())
        except ValueError:
            raise UsageError(
                f"{option}: no list of numbers",
                expected="numbers and ranges such as 1,2,5 or 0.1:2:20 or 0.1:2:20log",
                found=text,
            ) from None
        if whole and ":" not in part and not some[0].is_integer():
            raise UsageError(f"{option}: not a whole number", found=text)
        values += [round(value) for value in some] if whole else some
    return tuple(sorted(set(values)))


def _range(text: str) -> tuple[float, ...]:
    match = re.fullmatch(r"([^:]+):([^:]+):(\d+)(log)?", text)
    if match is None:
        return (_number(text),)
    low, high, count = _number(match[1]), _number(match[2]), int(match[3])
    if not 1 <= count <= _MOST_VALUES or low > high or not math.isfinite(high - low):
        raise ValueError(text)
    if match[4] and low <= 0:
        raise ValueError(text)
    return _logarithmic(low, high, count) if match[4] else _linear(low, high, count)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _around(values: Sequence[float], value: float) -> tuple[float, float]:
    place = list(values).index(value)
    return values[max(0, place - 1)], values[min(len(values) - 1, place + 1)]


def _logarithmic(low: float, high: float, count: int) -> tuple[float, ...]:
    return _between(low, high, np.geomspace(low, high, count), digits=4) if low < high else (low,)


def _linear(low: float, high: float, count: int) -> tuple[float, ...]:
    # More digits: the values are to be at equal distances.
    return _between(low, high, np.linspace(low, high, count), digits=6) if low < high else (low,)


def _between(low: float, high: float, values: NDArray[np.float64], *, digits: int) -> tuple[float, ...]:
    # The ends stay as they are: they may be points of another grid, and are nowhere outside of it.
    inside = [min(max(_short(value, digits), low), high) for value in values[1:-1]]
    return tuple(dict.fromkeys([low, *inside, *([high] if len(values) > 1 else [])]))


def _short(value: float, digits: int = 4) -> float:
    # Few digits: what is printed of a point is the point.
    return float(f"{value:.{digits}g}")
