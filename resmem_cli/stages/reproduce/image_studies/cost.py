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
from resmem_cli.stages.reproduce.image_memory import ImageMemory
from resmem_cli.stages.reproduce.image_studies.base import ImageStudies, StudyPart, image_study

_IMAGES = 200
_NOT_KNOWN: dict[str, Any] = {"network": None, "memory": None}


@image_study("cost", order=7)
def cost(studies: ImageStudies) -> StudyPart:
    """Measure the usual network, its memory, and the deeper networks."""
    settings = studies.config.settings
    usual = studies.of(studies.run())
    told: dict[str, Any] = usual.files.json(f"cost-{settings.name}.json", lambda: _measure(usual, studies))
    result, tuned = usual.result(settings), usual.result(None)
    name = f"ResNet-{studies.config.depths[0]}"
    memory_bytes = told["index_bytes"] + told["residual_bytes"]
    all_bytes = told["network_bytes"] + memory_bytes
    both = told["network_seconds"] + told["memory_seconds"]
    known: dict[str, Any] = dict(paper.MILLISECONDS) if studies.config.depths[0] == 8 else _NOT_KNOWN
    rows: list[tuple[Cell, ...]] = [
        _row(
            name,
            told["network_seconds"],
            told["network_bytes"],
            result["base_accuracy"],
            known["network"],
        ),
        _row("its memory", told["memory_seconds"], memory_bytes, None, known["memory"]),
        _row(
            f"{name} with memory",
            both,
            all_bytes,
            result["accuracy"],
            known["network"] and known["network"] + known["memory"],
        ),
        _row(f"{name} with memory, tuned", both, all_bytes, tuned["accuracy"], None),
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
                    f"Medians of {_IMAGES} images. The kNN step is the exact search among "
                    f"{result['n_memory']:,} embeddings and the sum of {settings.k} residuals; the paper's "
                    "is among 50,000. The bytes of memory are those of float32 embeddings and residuals; top "
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


def _measure(memory: ImageMemory, studies: ImageStudies) -> dict[str, Any]:
    settings = studies.config.settings
    with open_artifact(memory.train, EMBEDDINGS) as file:
        embeddings, logits, labels = (file.read(name) for name in ("embeddings", "logits", "labels"))
    with open_artifact(memory.test, EMBEDDINGS) as file:
        queries, own = (np.asarray(file.read(name))[:_IMAGES] for name in ("embeddings", "logits"))
    fitted = ResidualMemory.fit(embeddings, logits, labels, temperature=settings.temperature)

    def answer(i: int) -> None:
        fitted.predict(queries[i : i + 1], own[i : i + 1], k=settings.k, sigma=settings.sigma)

    return {
        **_network_cost(memory, studies),
        "memory_seconds": float(np.median(_seconds(answer, len(queries)))),
        "index_bytes": embeddings.nbytes,
        "residual_bytes": fitted.residuals.nbytes,
    }


def _seconds(answer: Callable[[int], None], n: int) -> NDArray[np.float64]:
    taken = np.empty(n)
    answer(0)
    for i in range(n):
        start = time.perf_counter()
        answer(i)
        taken[i] = time.perf_counter() - start
    return taken
