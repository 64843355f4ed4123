"""The choice that `tune` makes: settings of every method, a gate, and a temperature of probabilities."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.calibration import fit_softening, fit_temperature
from resmem_cli.gate import Gate, select_gate
from resmem_cli.prediction import base_confidence, predict_from_neighbors
from resmem_cli.residuals import softmax
from resmem_cli.settings import Softening
from resmem_cli.tuning.grid import Grid, Objective, Points, refined_grid
from resmem_cli.tuning.methods import Tuner
from resmem_cli.types import ResidualSpace, row_blocks

_VOTE_WEIGHTS = tuple(round(0.1 * i, 1) for i in range(1, 10))
# Temperatures are fitted on so many scores, of so many queries at least.
_FITTED_ELEMENTS, _FITTED_QUERIES = 1 << 18, 2048
_BLOCK_ELEMENTS = 1 << 22
_SETTINGS = ("k", "sigma", "temperature", "strength")


@dataclass(frozen=True)
class Chosen:
    """Everything tuned on one set of queries.

    Attributes
    ----------
    grid : Grid
        The one laid first.
    points : Points
        Of ResMem, those of a finer grid last.
    best : dict
        The chosen point.
    base_accuracy : float
        Weighted as the points are.
    base_temperature : float
        That gives the network the least NLL.
    softening : Softening or None
        That gives ResMem the least NLL; None in logit space, whose scores are probabilities already.
    gate : Gate
        Where memory is to be used.
    knn, knn_lm : Points or None
        The baselines; of kNN-LM `strength` is the weight of the vote.
    knn_best, knn_lm_best : dict or None
    """

    grid: Grid
    points: Points
    best: dict[str, Any]
    base_accuracy: float
    base_temperature: float
    softening: Softening | None
    gate: Gate
    knn: Points | None = None
    knn_lm: Points | None = None
    knn_best: dict[str, Any] | None = None
    knn_lm_best: dict[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        """Give what the artifact's parameters tell."""
        gate = self.gate
        return {
            "best": self.best,
            "base_accuracy": self.base_accuracy,
            "base_temperature": self.base_temperature,
            "softening": None if self.softening is None else asdict(self.softening),
            "gate": {
                "distance": gate.distance,
                "confidence": gate.confidence,
                "accuracy": gate.accuracy,
                "share_open": gate.share_open,
            },
            "knn": self.knn_best,
            "knn_lm": self.knn_lm_best,
        }

    def summary(self) -> dict[str, Any]:
        """Give what the user is told."""
        told = {name: self.best[name] for name in (*_SETTINGS, "nll") if name in self.best}
        told |= {
            "base_accuracy": self.base_accuracy,
            "accuracy": self.best["accuracy"],
            "gain": self.best["accuracy"] - self.base_accuracy,
            "tpr": self.best["tpr"],
            "fpr": self.best["fpr"],
            "base_temperature": self.base_temperature,
            "softening": self.record()["softening"],
            "gate": self.record()["gate"],
        }
        for name, best in (("knn", self.knn_best), ("knn_lm", self.knn_lm_best)):
            if best is not None:
                told[name] = _of_baseline(name, best)
        return told

    def edges(self) -> list[str]:
        """Name the settings whose best value ends the first grid, where a wider one could go on."""
        grid, best, found = self.grid, self.best, []
        for name in ("k", "sigma", "temperature"):
            values = getattr(grid, name)
            ends = values[-1:] if name == "k" else (values[0], values[-1])
            if len(values) > 1 and best[name] in ends:
                found.append(name)
        return found


def choose_settings(
    tuner: Tuner, grid: Grid, *, objective: Objective, max_fpr: float, refine: bool, baselines: bool
) -> Chosen:
    """Try a grid, and a finer one around its best point, and everything that depends on the choice.

    Parameters
    ----------
    tuner : Tuner
    grid : Grid
    objective, max_fpr
        As `TuneConfig` has them.
    refine : bool
        Whether to lay the finer grid.
    baselines : bool
        Whether to tune kNN and kNN-LM too.
    """

    def best_of(points: Points) -> dict[str, Any]:
        return points.at(points.best(objective, max_fpr=max_fpr))

    points = tuner.resmem(grid)
    if refine:
        points = points.followed_by(tuner.resmem(refined_grid(grid, best_of(points))))
        points = points.followed_by(_through(tuner, grid, best_of(points)))
    best = best_of(points)
    knn = knn_lm = None
    if baselines:
        knn = tuner.knn(grid.k, grid.sigma)
        # Its temperature, which kNN-LM as published has not, is tried around its best point only.
        knn_lm = tuner.knn_lm(grid.k, grid.sigma, (1.0,), _VOTE_WEIGHTS)
        around = _next_to(Grid(grid.k, grid.sigma, (1.0,), _VOTE_WEIGHTS), best_of(knn_lm))
        knn_lm = knn_lm.followed_by(tuner.knn_lm(around.k, around.sigma, grid.temperature, around.strength))
        if refine:
            finer = refined_grid(Grid(grid.k, grid.sigma, (1.0,)), best_of(knn))
            knn = knn.followed_by(tuner.knn(finer.k, finer.sigma))
            temperatures = tuple(sorted({1.0, *grid.temperature}))
            around = Grid(grid.k, grid.sigma, temperatures, _VOTE_WEIGHTS)
            finer = refined_grid(around, best_of(knn_lm))
            knn_lm = knn_lm.followed_by(tuner.knn_lm(finer.k, finer.sigma, finer.temperature, finer.strength))
    outcome = _at_best(tuner, best)
    if tuner.space == ResidualSpace.LOGIT and objective != Objective.NLL:
        # It changes no answer there, so it is fitted, not tried.
        best = {**best, "temperature": outcome.logit_temperature}
        # The gate will see the network's confidence at this temperature.
        logits = tuner.searched.logits
        for block in row_blocks(len(logits), max(1, _BLOCK_ELEMENTS // logits.shape[1])):
            probabilities = softmax(logits[block], temperature=best["temperature"])
            outcome.confidence[block] = base_confidence(probabilities, logits[block].argmax(axis=1))
    base_right = tuner.base_right
    weights = tuner.query_weights
    return Chosen(
        grid=grid,
        points=points,
        best=best,
        base_accuracy=float(np.average(base_right, weights=weights)),
        base_temperature=outcome.base_temperature,
        softening=outcome.softening,
        gate=select_gate(outcome.nearest, outcome.confidence, outcome.right, base_right, weights=weights),
        knn=knn,
        knn_lm=knn_lm,
        knn_best=None if knn is None else best_of(knn),
        knn_lm_best=None if knn_lm is None else best_of(knn_lm),
    )


def _through(tuner: Tuner, grid: Grid, best: dict[str, Any]) -> Points:
    """Try all values of a grid along each setting through a point of a finer one."""
    temperature, strength = (best["temperature"],), (best["strength"],)
    k, sigma = (best["k"],), (best["sigma"],)
    points = tuner.resmem(
        Grid(_with(grid.k, *k), _with(grid.sigma, *sigma), temperature, _with(grid.strength, *strength))
    )
    temperatures = tuple(value for value in grid.temperature if value not in temperature)
    if temperatures:
        points = points.followed_by(tuner.resmem(Grid(k, sigma, temperatures, strength)))
    return points


def _with(values: tuple[Any, ...], one: Any) -> tuple[Any, ...]:
    return tuple(sorted({*values, one}))


def _next_to(grid: Grid, best: dict[str, Any]) -> Grid:
    """Give the values of a grid next to a point of it."""

    def near(name: str) -> Any:
        values = getattr(grid, name)
        place = values.index(best[name])
        return values[max(0, place - 1) : place + 2]

    return Grid(near("k"), near("sigma"), grid.temperature, near("strength"))


@dataclass(frozen=True)
class _AtBest:
    right: NDArray[np.bool_]
    nearest: NDArray[np.float64]
    confidence: NDArray[np.float32]
    base_temperature: float
    softening: Softening | None
    logit_temperature: float | None


def _at_best(tuner: Tuner, best: dict[str, Any]) -> _AtBest:
    """Predict the queries with the chosen settings."""
    found, k = tuner.searched, best["k"]
    n, n_classes = found.logits.shape
    _, memory = tuner.residuals(best["temperature"])
    count = min(n, max(_FITTED_QUERIES, _FITTED_ELEMENTS // n_classes))
    # At equal distances: queries may be sorted by class.
    chosen = np.arange(count) * n // count
    scores = np.empty((count, n_classes), np.float32)
    right, confidence = np.empty(n, bool), np.empty(n, np.float32)
    for block in row_blocks(n, max(1, _BLOCK_ELEMENTS // n_classes)):
        rows = found.rows[block, :k]
        prediction = predict_from_neighbors(
            found.logits[block],
            rows=rows,
            distances=found.distances[block, :k],
            neighbor_labels=tuner.memory_labels[rows],
            residuals=memory,
            sigma=best["sigma"],
            temperature=best["temperature"],
            strength=best["strength"],
            space=tuner.space,
        )
        right[block] = prediction.predicted == found.labels[block]
        confidence[block] = prediction.base_confidence
        some = slice(*np.searchsorted(chosen, (block.start, block.stop)))
        scores[some] = prediction.scores[chosen[some] - block.start]
    labels = found.labels[chosen]
    weights = None if tuner.query_weights is None else tuner.query_weights[chosen]
    softening, logit_temperature = None, None
    if tuner.space == ResidualSpace.LOGIT:
        # Logits again, but for a constant in each row.
        logits = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
        logit_temperature = best["temperature"] * fit_temperature(logits, labels, weights=weights)
    else:
        softening = fit_softening(scores, labels, weights=weights)
    return _AtBest(
        right=right,
        nearest=found.distances[:, 0],
        confidence=confidence,
        base_temperature=fit_temperature(found.logits[chosen], labels, weights=weights),
        softening=softening,
        logit_temperature=logit_temperature,
    )


def _of_baseline(name: str, best: dict[str, Any]) -> dict[str, Any]:
    told = {"k": best["k"], "sigma": best["sigma"]}
    if name == "knn_lm":
        told |= {"temperature": best["temperature"], "weight": best["strength"]}
    return {**told, "accuracy": best["accuracy"]}
