"""More tables of `reproduce language`: recall, bytes, speed, and corrected tokens in their context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.results import Cell, Column, ResultTable, Unit
from resmem_cli.stages.reproduce.language_examples import Example
from resmem_cli.stages.reproduce.language_memory import Steps
from resmem_cli.stages.reproduce.language_training import NETWORK, TRAINING

_CONTINUED = (
    "Fewer tokens embedded than the memory holds: the step was stopped and continued, and only what was left "
    "then is timed.",
)
_STEPS = {
    "memory.h5": "embed the memory",
    "residuals.h5": "residualize",
    "index.h5": "index, its recall measured",
    "tuning.h5": "tune",
    "paper.h5": "predict, k = 50, compared",
    "tuned.h5": "predict, tuned, compared",
}


def recall_table(models: Sequence[Steps]) -> ResultTable:
    """Tell how many of the true neighbours the index finds for test tokens."""
    rows: list[tuple[Cell, ...]] = []
    for steps in models:
        told = steps.told("recall.json")
        effort = told["effort"] or {}
        rows.append(
            (
                steps.size.name,
                told["kind"],
                told["rows"],
                told["dimensions"],
                told["parameters"].get("lists"),
                effort.get("probe"),
                effort.get("rerank"),
                told["target"],
                told["recall"]["paper"],
                told["k"]["tuned"],
                told["recall"]["tuned"],
                told["queries"],
            )
        )
    rows.append(("paper: T5", "ScaNN", 1_639_000_000, *[None] * 9))
    return ResultTable(
        "recall",
        "Recall of the index, against exact search for test tokens",
        (
            Column("model", Unit.TEXT),
            Column("kind", Unit.TEXT),
            Column("rows", Unit.COUNT),
            Column("d", Unit.COUNT),
            Column("lists", Unit.COUNT),
            Column("visited", Unit.COUNT),
            Column("rerank", Unit.COUNT),
            Column("tuned to", Unit.SHARE),
            Column("recall at 50", Unit.SHARE),
            Column("tuned k", Unit.COUNT),
            Column("recall at it", Unit.SHARE),
            Column("test tokens", Unit.COUNT),
        ),
        tuple(rows),
        (
            *(
                ["How hard the index searches was chosen on validation tokens, at 50 neighbours."]
                if any(row[7] is not None for row in rows)
                else []
            ),
            "The paper does not tell the recall of its search.",
        ),
    )


def bytes_table(models: Sequence[Steps]) -> ResultTable:
    """Tell what is stored, in all and for each token of the memory."""
    rows: list[tuple[Cell, ...]] = []
    for steps in models:
        n = steps.told("recall.json")["rows"]
        sizes = [steps.bytes_of(name) for name in (NETWORK, "index.h5", "residuals.h5", "memory.h5")]
        rows.append((steps.size.name, n, *sizes, round(sizes[1] / n), round(sizes[2] / n)))
    return ResultTable(
        "bytes",
        "Bytes stored",
        (
            Column("model", Unit.TEXT),
            Column("tokens", Unit.COUNT),
            Column("network", Unit.BYTES),
            Column("index", Unit.BYTES),
            Column("residuals", Unit.BYTES),
            Column("embeddings", Unit.BYTES),
            Column("index B/token", Unit.COUNT),
            Column("residuals B/token", Unit.COUNT),
        ),
        tuple(rows),
        (
            "A prediction needs the network, the index and the residuals; the embeddings, with their 128 "
            "largest logits, are what the others are made from. The index keeps the embeddings beside its "
            "codes, for true distances. At 512 bytes a token, the residuals of the paper's 1,639 million "
            "tokens take 839 GB; the paper tells no sizes.",
        ),
    )


def speed_table(models: Sequence[Steps]) -> ResultTable:
    """Tell the tokens a second of each step, as measured when it was made."""
    rows: list[tuple[Cell, ...]] = []
    for steps in models:
        training: dict[str, Any] = steps.told(TRAINING)
        report = steps.told("report.json")["runs"][0]
        n = steps.told("recall.json")["rows"]
        with open_artifact(steps.folder.path / "tuning.h5") as file:
            n_validation = int(file.number("n_queries"))
        counts = {
            "memory.h5": n,
            "residuals.h5": n,
            "index.h5": n,
            "tuning.h5": n_validation,
            "paper.h5": report["n"],
            "tuned.h5": report["n"],
        }
        rows.append(_speed(steps, "train", training["tokens"], training["seconds"]))
        rows += [_speed(steps, words, *steps.time_of(name, counts[name])) for name, words in _STEPS.items()]
    return ResultTable(
        "speed",
        "Time of each step, when it was made",
        (
            Column("model, step", Unit.TEXT),
            Column("tokens", Unit.COUNT),
            Column("seconds"),
            Column("tokens/s", Unit.COUNT),
        ),
        tuple(rows),
        (
            "On this machine, with whatever else ran on it. Predictions include kNN, kNN-LM at five weights "
            "and the metrics of all; tuning the whole grid. The paper tells no times for language.",
            *_CONTINUED * any(steps.time_of("memory.h5", 0)[0] < 0 for steps in models),
        ),
    )


def examples_table(examples: Sequence[Example], model: str) -> ResultTable:
    """Show corrected tokens in their context."""
    rows: list[tuple[Cell, ...]] = [
        (
            str(number),
            one.context,
            one.base_predicted,
            one.predicted,
            one.memory_context,
            one.memory_token,
            one.memory_file,
            one.weight,
        )
        for number, one in enumerate(examples, 1)
    ]
    return ResultTable(
        "examples",
        f"Figure 3: tokens that memory corrected, {model}, tuned",
        (
            Column("", Unit.TEXT),
            Column("test text", Unit.TEXT),
            Column("network", Unit.TEXT),
            Column("ResMem, true", Unit.TEXT),
            Column("training text that did most", Unit.TEXT),
            Column("its token", Unit.TEXT),
            Column("file", Unit.TEXT),
            Column("weight", Unit.DECIMAL),
        ),
        tuple(rows),
        (
            "Drawn at random from all corrected tokens; the paper shows chosen ones, in which the network's "
            "token is close in meaning. ↵ is a line break, ␣ a space; weight is the share of the memory's "
            "answer that the training token had.",
        ),
    )


def _speed(steps: Steps, what: str, n: int, seconds: float | None) -> tuple[Cell, ...]:
    return f"{steps.size.name}, {what}", n, seconds, None if not seconds else n / seconds
