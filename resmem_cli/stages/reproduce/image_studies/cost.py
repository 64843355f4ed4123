"""What memory costs beside a deeper network: the paper's latencies, at one image a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.formats import EMBEDDINGS
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.residual_memory import ResidualMemory
from resmem_cli.results import Column, ResultTable, Unit
from resmem_cli.stages.reproduce import published_cifar as paper
from resmem_cli.stages.reproduce.image_memory import ImageMemory, MemorySettings
from resmem_cli.stages.reproduce.image_studies.base import ImageStudies, StudyPart, image_study

_IMAGES = 200


class _Cost(NamedTuple):
    name: str
    seconds: float
    n_bytes: int
    accuracy: float | None

    def told(self) -> str:
        return f"{self.name} ({1000 * self.seconds:.2f} ms, {100 * (self.accuracy or 0):.2f} %)"


@image_study("cost", order=7)
def cost(studies: ImageStudies) -> StudyPart:
    """Measure the usual network, its memory, and the deeper networks."""
    settings = studies.config.settings
    usual = studies.of(studies.run())
    result, tuned = usual.result(settings), usual.result(None)
    of_tuned = MemorySettings(tuned["k"], tuned["sigma"], tuned["temperature"])
    told = usual.files.json("network-cost.json", partial(_network_cost, usual, studies))
    memory, memory_tuned = (
        usual.files.json(f"cost-{one.name}.json", partial(_memory_cost, usual, one))
        for one in (settings, of_tuned)
    )
    name = f"ResNet-{studies.config.depths[0]}"
    seconds, all_bytes = told["seconds"], told["bytes"] + memory["bytes"]
    with_tuned = _Cost(
        f"{name} with memory, tuned", seconds + memory_tuned["seconds"], all_bytes, tuned["accuracy"]
    )
    costs = [
        _Cost(name, seconds, told["bytes"], result["base_accuracy"]),
        _Cost(f"its memory, k = {settings.k}", memory["seconds"], memory["bytes"], None),
        _Cost(f"{name} with memory", seconds + memory["seconds"], all_bytes, result["accuracy"]),
        with_tuned,
    ]
    deeper: list[_Cost] = []
    for depth in studies.config.depths[1:]:
        other = studies.of(studies.run(depth=depth))
        measured = other.files.json("network-cost.json", partial(_network_cost, other, studies))
        accuracy = other.result(settings)["base_accuracy"]
        deeper.append(_Cost(f"ResNet-{depth}", measured["seconds"], measured["bytes"], accuracy))
    # The paper's first three are of ResNet-8 and k = 53.
    known: list[float | None] = [*paper.MILLISECONDS] if studies.config.depths[0] == 8 else [None] * 3
    known += [None, *(paper.DEEPER_MILLISECONDS.get(cost.name) for cost in deeper)]
    rows = [
        (one.name, 1000 * one.seconds, one.n_bytes, one.accuracy, milliseconds)
        for one, milliseconds in zip((*costs, *deeper), known, strict=True)
    ]
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
                    *_at_equal_cost(with_tuned, deeper),
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


def _at_equal_cost(own: _Cost, deeper: list[_Cost]) -> list[str]:
    """Compare the network with memory with the deeper one whose time is nearest to its own."""
    if not deeper:
        return []
    nearest = min(deeper, key=lambda other: abs(other.seconds - own.seconds))
    better = "better" if (own.accuracy or 0) > (nearest.accuracy or 0) else "no better"
    return [f"At about equal time, {own.told()} is {better} than {nearest.told()}."]


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
    return {"seconds": float(np.median(seconds)), "bytes": memory.network.stat().st_size}


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
