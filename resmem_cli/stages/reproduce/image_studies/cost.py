"""What memory costs beside a deeper network: the paper's latencies, at one image a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.formats import EMBEDDINGS
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.residual_memory import ResidualMemory
from resmem_cli.results import Cell, Column, ResultTable, Unit
from resmem_cli.stages.reproduce import published_cifar as paper
from resmem_cli.stages.reproduce.image_memory import ImageMemory, MemorySettings
from resmem_cli.stages.reproduce.image_studies.base import ImageStudies, StudyPart, image_study

_IMAGES = 200
_NOT_KNOWN: dict[str, Any] = {"network": None, "memory": None}


@image_study("cost", order=7)
def cost(studies: ImageStudies) -> StudyPart:
    """Measure the usual network, its memory, and the deeper networks."""
    settings = studies.config.settings
    usual = studies.of(studies.run())
    result, tuned = usual.result(settings), usual.result(None)
    of_tuned = MemorySettings(tuned["k"], tuned["sigma"], tuned["temperature"])
    told = usual.files.json("cost.json", partial(_network_cost, usual, studies))
    memory, memory_tuned = (
        usual.files.json(f"cost-{one.name}.json", partial(_memory_cost, usual, one))
        for one in (settings, of_tuned)
    )
    name = f"ResNet-{studies.config.depths[0]}"
    all_bytes = told["network_bytes"] + memory["bytes"]
    known: dict[str, Any] = dict(paper.MILLISECONDS) if studies.config.depths[0] == 8 else _NOT_KNOWN
    rows: list[tuple[Cell, ...]] = [
        _row(
            name,
            told["network_seconds"],
            told["network_bytes"],
            result["base_accuracy"],
            known["network"],
        ),
        _row(f"its memory, k = {settings.k}", memory["seconds"], memory["bytes"], None, known["memory"]),
        _row(
            f"{name} with memory",
            told["network_seconds"] + memory["seconds"],
            all_bytes,
            result["accuracy"],
            known["network"] and known["network"] + known["memory"],
        ),
        _row(
            f"{name} with memory, tuned",
            told["network_seconds"] + memory_tuned["seconds"],
            all_bytes,
            tuned["accuracy"],
            None,
        ),
    ]
    for depth in studies.config.depths[1:]:
        deeper = studies.of(studies.run(depth=depth))
        measured = deeper.files.json("network-cost.json", partial(_network_cost, deeper, studies))
        rows.append(
            _row(
                f"ResNet-{depth}",
                measured["network_seconds"],
                measured["network_bytes"],
                deeper.result(settings)["base_accuracy"],
                known.get(f"ResNet-{depth}"),
            )
        )
    return StudyPart(
        (
            ResultTable(
                "cost",
                "One image at a time on the CPU, and what is kept in memory",
                (
                    Column("", Unit.TEXT),
                    Column("ms an image"),
                    Column("bytes", Unit.BYTES),
                    Column("accuracy", Unit.SHARE),
                    Column("paper: ms"),
                ),
                tuple(rows),
                (
                    f"Medians of {min(_IMAGES, result['n']):,} images. The kNN step is the exact search "
                    "among "
                    f"{result['n_memory']:,} embeddings and the sum of k residuals, tuned {tuned['k']:,}; "
                    "the "
                    "paper's is among 50,000. The bytes of memory are those of float32 embeddings and "
                    "residuals; top "
                    "residuals take fewer. The paper says 15 MB for 50,000 embeddings of 64 numbers, which "
                    "are 12.8 MB as float32.",
                ),
            ),
        )
    )


def _row(
    name: str, seconds: float, n_bytes: int, accuracy: float | None, known: float | None
) -> tuple[Cell, ...]:
    milliseconds = 1000 * seconds
    return name, milliseconds, n_bytes, accuracy, known


def _network_cost(memory: ImageMemory, studies: ImageStudies) -> dict[str, Any]:
    from resmem_cli.models.latency import forward_seconds

    trained = memory.trained
    seconds = forward_seconds(
        memory.network,
        studies.parts.test().images[:_IMAGES],
        arch=trained.run.arch,
        arch_args=trained.arch_args,
        mean=trained.mean,
        std=trained.std,
    )
    return {"network_seconds": float(np.median(seconds)), "network_bytes": memory.network.stat().st_size}


def _memory_cost(memory: ImageMemory, settings: MemorySettings) -> dict[str, Any]:
    with open_artifact(memory.train, EMBEDDINGS) as file:
        embeddings, logits, labels = (file.read(name) for name in ("embeddings", "logits", "labels"))
    with open_artifact(memory.test, EMBEDDINGS) as file:
        queries, own = (np.asarray(file.read(name))[:_IMAGES] for name in ("embeddings", "logits"))
    fitted = ResidualMemory.fit(embeddings, logits, labels, temperature=settings.temperature)

    def answer(i: int) -> None:
        fitted.predict(queries[i : i + 1], own[i : i + 1], k=settings.k, sigma=settings.sigma)

    return {
        "seconds": float(np.median(_seconds(answer, len(queries)))),
        "bytes": embeddings.nbytes + fitted.residuals.nbytes,
    }


def _seconds(answer: Callable[[int], None], n: int) -> NDArray[np.float64]:
    taken = np.empty(n)
    answer(0)
    for i in range(n):
        start = time.perf_counter()
        answer(i)
        taken[i] = time.perf_counter() - start
    return taken
