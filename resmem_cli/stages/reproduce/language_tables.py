"""The tables of `reproduce language`: what memory did for each model, beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resmem_cli.artifacts.formats import PREDICTIONS
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.metrics import Gain, compare
from resmem_cli.results import Cell, Column, Estimate, ResultTable, Unit
from resmem_cli.stages.reproduce.language_config import PAPER_K, PAPER_SIGMA
from resmem_cli.stages.reproduce.language_memory import SETTINGS, Steps
from resmem_cli.stages.reproduce.language_training import TRAINING
from resmem_cli.stages.reproduce.published_language import (
    BASE,
    KNN_LM,
    LARGE,
    SMALL,
    TOKENS_IN_MEMORY,
)
from resmem_cli.stages.reproduce.report_cells import OUTCOMES, outcome_cells

PAPER_SETTINGS = f"k = {PAPER_K}, σ = {PAPER_SIGMA:g}"
WORDS = {"paper": PAPER_SETTINGS, "tuned": "tuned"}
"""How tables call each of `SETTINGS`."""

Reports = Mapping[str, Mapping[str, Any]]
"""What `analyze` tells of each of `SETTINGS`."""


def reports_of(steps: Steps) -> Reports:
    """Give what `analyze` told of a model's predictions."""
    return dict(zip(SETTINGS, steps.told("report.json")["runs"], strict=True))


def accuracy_table(models: Sequence[Steps]) -> ResultTable:
    """Set the models' accuracies with and without memory beside each other."""
    rows: list[tuple[Cell, ...]] = []
    for steps in models:
        told, training = reports_of(steps), steps.told(TRAINING)
        rows.append(
            (
                steps.size.name,
                training["weights"],
                steps.told("recall.json")["rows"],
                training["validation_loss"],
                told["paper"]["base_accuracy"],
                told["paper"]["accuracy"],
                told["tuned"]["accuracy"],
                _method(told["tuned"], "kNN-LM, tuned"),
                _method(told["tuned"], "kNN, tuned"),
            )
        )
    rows += [
        (f"paper: {row.name}", None, TOKENS_IN_MEMORY if row.accuracy else None, None, row.base_accuracy,
         row.accuracy, None, None, None)
        for row in (SMALL, BASE, LARGE)
    ]  # fmt: skip
    n = reports_of(models[0])["paper"]["n"]
    return ResultTable(
        "accuracy",
        "Accuracy of the next token, without and with memory",
        (
            Column("model", Unit.TEXT),
            Column("weights", Unit.COUNT),
            Column("memory", Unit.COUNT),
            Column("loss", Unit.DECIMAL),
            Column("base", Unit.SHARE),
            Column(f"ResMem {PAPER_SETTINGS}", Unit.SHARE),
            Column("ResMem tuned", Unit.SHARE),
            Column("kNN-LM tuned", Unit.SHARE),
            Column("kNN tuned", Unit.SHARE),
        ),
        tuple(rows),
        (
            f"Ours: {n:,} test tokens of source code; small transformers trained for minutes. The paper's: "
            "T5 decoders trained for 1,000,000 steps on C4, 1,639 million tokens in memory. What can be "
            "compared is the direction of the differences, not the accuracies.",
            "Of the paper, section 4.3 reports T5-small and T5-large where appendix E says that T5-small and "
            "T5-base were trained; T5-large is 44.8 and 45.6 there, 44.76 and 45.55 in table 3.",
            "loss: nats a token of the network alone on validation tokens, in windows that do not overlap.",
        ),
    )


def gain_table(models: Sequence[Steps]) -> ResultTable:
    """Tell what memory corrected and broke, with the paper's settings and with tuned ones."""
    rows: list[tuple[Cell, ...]] = []
    for steps in models:
        for settings, told in reports_of(steps).items():
            name = f"{steps.size.name}, {WORDS[settings]}"
            rows.append((name, told["k"], told["sigma"], told["strength"], *outcome_cells(told)))
    rows += [
        (f"paper: {row.name}", PAPER_K, PAPER_SIGMA, 1.0, row.base_accuracy, row.accuracy, row.gain, row.tpr,
         row.fpr, None)
        for row in (SMALL, LARGE)
    ]  # fmt: skip
    scales = ", ".join(f"{steps.size.name} {_distance_scale(steps):.3g}" for steps in models)
    chosen = "; ".join(f"{steps.size.name} {_gain_words(steps)}" for steps in models)
    return ResultTable(
        "gain",
        "What memory corrected (TPR) and broke (FPR), shares of all test tokens",
        (
            Column("model, settings", Unit.TEXT),
            Column("k", Unit.COUNT),
            Column("sigma"),
            Column("strength"),
            *OUTCOMES,
        ),
        tuple(rows),
        (
            f"{chosen}.",
            "Tuned on the validation tokens: k, σ and the strength of the memory (the paper's is 1). T is 1, "
            "as in the paper: of each token only the largest logits are stored.",
            f"Median distance of a memory row to its 53rd neighbour, to set σ against: {scales}.",
            "The paper's gain of T5-small is 2.93 in section 4.4 (TPR − FPR) and 2.86 from its accuracies, "
            "38.01 to 40.87.",
            "Intervals and p take test tokens as independent; neighbouring ones are not, so they are "
            "somewhat too narrow.",
        ),
    )


def reach_table(models: Sequence[Steps]) -> ResultTable:
    """Set each smaller model with memory against the next larger one without."""
    rows: list[tuple[Cell, ...]] = []
    notes = []
    for smaller, larger in zip(models, models[1:], strict=False):
        for settings in SETTINGS:
            gain = reach(smaller.folder.path / f"{settings}.h5", larger.folder.path / "paper.h5")
            what = f"{smaller.size.name} + memory, {WORDS[settings]}"
            rows.append(
                (what, gain.accuracy, f"{larger.size.name} alone", gain.base_accuracy,
                 Estimate(gain.gain, *gain.interval), gain.p_value)
            )  # fmt: skip
            notes.append(reach_words(what, f"{larger.size.name} alone", gain))
        told = reports_of(smaller)["tuned"]
        alone = reports_of(larger)["paper"]["base_accuracy"]
        gap = alone - told["base_accuracy"]
        if gap > 0 and told["interval"][0] > 0:
            notes.append(
                f"Memory makes up {100 * told['gain'] / gap:.0f} % of the {100 * gap:.2f} points between "
                f"{smaller.size.name} and {larger.size.name} (tuned)."
            )
    small = SMALL.accuracy or 0.0
    rows.append(
        (f"paper: {SMALL.name} + memory", small, f"{BASE.name} alone", BASE.base_accuracy,
         small - BASE.base_accuracy, None)
    )  # fmt: skip
    return ResultTable(
        "reach",
        "Does the smaller model with memory reach the larger one without?",
        (
            Column("smaller", Unit.TEXT),
            Column("accuracy", Unit.SHARE),
            Column("larger", Unit.TEXT),
            Column("its accuracy", Unit.SHARE),
            Column("difference [95 %]", Unit.GAIN),
            Column("p", Unit.PROBABILITY),
        ),
        tuple(rows),
        (*notes, "p is McNemar's exact test's, on the same test tokens."),
    )


def reach(smaller: Path, larger: Path) -> Gain:
    """Compare a model with memory with another model alone, on the same test tokens.

    Parameters
    ----------
    smaller, larger : pathlib.Path
        Their predictions artifacts.
    """
    with open_artifact(smaller, PREDICTIONS) as file:
        labels, predicted = file.read("labels"), file.read("predicted")
    with open_artifact(larger, PREDICTIONS) as file:
        alone = file.read("base_predicted")
    return compare(labels, alone, predicted)


def reach_words(smaller: str, larger: str, gain: Gain) -> str:
    """Say whether a smaller model with memory reaches a larger one, and how sure that is."""
    low, high = (100 * end for end in gain.interval)
    difference = f"{100 * gain.gain:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"
    if low > 0:
        return f"{smaller} passes {larger}: {difference}."
    if high < 0:
        return f"{smaller} does not reach {larger}: {difference}."
    return f"{smaller} and {larger} can't be told apart: {difference}."


def knn_lm_table(models: Sequence[Steps]) -> ResultTable:
    """Table 3: kNN-LM by the weight of the neighbours' vote, against ResMem on the same neighbours."""
    runs = [(steps, settings, told) for steps in models for settings, told in reports_of(steps).items()]
    rows: list[tuple[Cell, ...]] = []
    for weight, published in KNN_LM.items():
        name = {0.0: "base", 1.0: "kNN"}.get(weight, f"kNN-LM {weight:g}")
        cells = [told["knn_accuracy"] if weight == 1 else _method(told, name) for _, _, told in runs]
        rows.append((f"kNN-LM, weight {weight:g}", published, *cells))
    rows.append(("ResMem", LARGE.accuracy, *(told["accuracy"] for _, _, told in runs)))
    *votes, resmem = [[float(cell) for cell in row[1:] if isinstance(cell, float)] for row in rows]
    best = [max(column) for column in zip(*votes, strict=True)]
    rows.append(("ResMem − best kNN-LM", *(own - one for own, one in zip(resmem, best, strict=True))))
    return ResultTable(
        "knn_lm",
        "Table 3: kNN-LM by its weight, and ResMem",
        (
            Column("method", Unit.TEXT),
            Column(f"paper: {LARGE.name}", Unit.SHARE),
            *(Column(f"{steps.size.name}, {WORDS[settings]}", Unit.SHARE) for steps, settings, _ in runs),
        ),
        tuple(rows),
        (
            "The weight is that of the neighbours' vote: 0 is the network, 1 the neighbours alone (the "
            "paper's text calls it the weight of the network, but its accuracy at 0 is the network's).",
            "Tuned columns: k and σ tuned for ResMem. The best weight of a column is chosen on the test "
            "tokens themselves, in favour of kNN-LM; tuned on validation tokens it is in the first table.",
        ),
    )


def _method(told: Mapping[str, Any], name: str) -> float | None:
    return next((float(one["accuracy"]) for one in told["methods"] if one["name"] == name), None)


def _distance_scale(steps: Steps) -> float:
    with open_artifact(steps.folder.path / "index.h5") as file:
        return file.number("distance_scale", "median")


def _gain_words(steps: Steps) -> str:
    words = []
    for settings, told in reports_of(steps).items():
        low, high = told["interval"]
        verdict = "gains" if low > 0 else "loses" if high < 0 else "neither gains nor loses beyond chance"
        words.append(f"{verdict} with {WORDS[settings]} ({100 * told['gain']:+.2f} points)")
    return ", ".join(words)
