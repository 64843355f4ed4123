"""`resmem reproduce imagenet --synthetic`: the pipeline on synthetic arrays of ImageNet's true size."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resmem_cli.artifacts.formats import EMBEDDINGS, INDEX
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import UsageError
from resmem_cli.memory_size import DEFAULT_MEMORY, memory_budget, memory_text
from resmem_cli.results import Column, ResultTable, Unit
from resmem_cli.stages.reproduce.processes import Cost, Measured, run_resmem
from resmem_cli.stages.reproduce.projection import Projection
from resmem_cli.stages.reproduce.published_imagenet import (
    IMAGENET,
    IMAGENET_CLASSES,
    IMAGENET_DIMENSIONS,
    IMAGENET_QUERIES,
    IMAGENET_ROWS,
)
from resmem_cli.stages.reproduce.report_cells import OUTCOMES, SETTINGS, outcome_cells, settings_cells
from resmem_cli.stages.reproduce.run_folder import RunFolder
from resmem_cli.stages.reproduce.synthetic import BASE_ACCURACY, SyntheticNetwork
from resmem_cli.stages.stored_index import load_index
from resmem_cli.stages.streaming import query_rows
from resmem_cli.stages.study import StudyFiles, write_study
from resmem_cli.threads import n_threads
from resmem_cli.types import Progress, StageResult, StorageType, no_progress, row_blocks

STUDY = "imagenet"
_MODEL = "a1.0"  # whose k and T are used; sigma is in the unit of the arrays' own distances
_FEWER = 5
_WRITTEN_ROWS = 4096


@dataclass(frozen=True)
class ImagenetSizeConfig:
    """What to draw, and what to run on it.

    Attributes
    ----------
    rows, dimensions, classes : int
        Of the memory; ImageNet's by default.
    queries : int
        Predicted, after a fifth of them, so that what does not depend on their number is known.
    seed : int
    storage : StorageType
        Of embeddings and logits.
    top : int or None
        Keep only this many entries of each residual.
    memory : int
        Bytes of anonymous memory to stay within.
    memory_text : str or None
        The same as the user wrote it, for the commands; None for the default.
    """

    rows: int = IMAGENET_ROWS
    dimensions: int = IMAGENET_DIMENSIONS
    classes: int = IMAGENET_CLASSES
    queries: int = 500
    seed: int = 0
    storage: StorageType = StorageType.FLOAT16
    top: int | None = None
    memory: int = DEFAULT_MEMORY
    memory_text: str | None = None

    def check(self) -> None:
        """Raise `UsageError` for numbers out of range."""
        least = {"rows": 2, "dimensions": 2, "classes": 2, "queries": _FEWER, "seed": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise UsageError(
                    f"--{name} out of range", expected=f"at least {smallest}", found=getattr(self, name)
                )
        if self.top is not None and not 1 <= self.top <= self.classes:
            raise UsageError("--top out of range", expected=f"1 to {self.classes:,}", found=self.top)


def imagenet_size(
    folder: Path | str,
    *,
    config: ImagenetSizeConfig | None = None,
    files: StudyFiles | None = None,
    announce: Callable[[str], None] | None = None,
    progress: Progress = no_progress,
) -> StageResult:
    """Draw synthetic arrays of ImageNet's size and run the commands on them, measuring each.

    Every command is a process of its own. What was finished before in the same folder is not repeated.

    Parameters
    ----------
    folder : pathlib.Path or str
        Where everything is written: the arrays, all artifacts, and `imagenet.h5`.
    config : ImagenetSizeConfig, optional
    files : StudyFiles, optional
        Where the tables are written, if not only in the folder.
    announce : callable, optional
        Is told each step as it begins.
    progress : Progress

    Returns
    -------
    StageResult
        `summary["tables"]` holds the tables.

    Raises
    ------
    UsageError, DataError, OutputError, ResourceError
        As the message says; what earlier steps made stays.
    """
    config = config or ImagenetSizeConfig()
    config.check()
    folder = Path(folder)
    files = files or StudyFiles(folder / "imagenet.h5")
    settings = {name: value for name, value in asdict(config).items() if name != "memory_text"}
    run = RunFolder(folder, {"study": "imagenet, synthetic", **settings})
    files.check()
    steps = _Steps(run, config, announce, progress).all()
    tables = [
        _costs_table(config, steps),
        _search_table(config, steps),
        _accuracy_table(config, steps),
    ]
    parameters = {"synthetic": True, **settings}
    summary = {"folder": str(folder)}
    return write_study(STUDY, tables, files, parameters=parameters, summary=summary)


class _Steps:
    """The steps of the run; each leaves its artifact and, as JSON, what it told and took."""

    def __init__(
        self,
        run: RunFolder,
        config: ImagenetSizeConfig,
        announce: Callable[[str], None] | None,
        progress: Progress,
    ) -> None:
        self._run, self._config, self._progress = run, config, progress
        self._announce = announce or (lambda text: None)
        self._memory = () if config.memory_text is None else ("--memory", config.memory_text)

    def all(self) -> dict[str, dict[str, Any]]:
        """Do what has not been done."""
        config, path = self._config, self._run.path
        model = IMAGENET[_MODEL]
        few = config.queries // _FEWER
        done = {"arrays": self._run.json("arrays.json", self._draw)}

        def step(name: str, *command: str | Path, output: str | None = None) -> None:
            written = () if output is None else ("-o", path / output)
            words = [*map(str, (*command, *written))]

            def compute() -> dict[str, Any]:
                self._announce(shlex.join(["resmem", *words]))
                result, cost = run_resmem(*words)
                size = 0 if output is None else (path / output).stat().st_size
                return {"result": result, "cost": asdict(cost), "bytes": size}

            done[name] = self._run.json(f"{name}.json", compute)

        top = () if config.top is None else ("--top", str(config.top))
        train, memory = path / "train.h5", self._memory
        temperature = f"{model.temperature:g}"
        step("residualize", "residualize", train, "-T", temperature, *top, output="residuals.h5")
        step("index", "index", train, *memory, "--seed", str(config.seed), output="index.h5")
        done["block"] = self._run.json("block.json", self._block)
        made = ("--index", path / "index.h5", "--residuals", path / "residuals.h5", "-k", str(model.k))
        # Twice: the first time the files come from the disk.
        step("cold", "predict", path / f"test{few}.h5", *made, *memory, output="first.h5")
        step("first", "predict", path / f"test{few}.h5", *made, *memory, output="first.h5")
        test = path / f"test{config.queries}.h5"
        step("predict", "predict", test, *made, *memory, output="predictions.h5")
        smaller = ("--block-rows", str(done["block"]["smaller"]))
        step("again", "predict", test, *made, *memory, *smaller, output="again.h5")
        step("analyze", "analyze", path / "predictions.h5", output="report.h5")
        return done

    def _block(self) -> dict[str, int]:
        """Count the queries that `predict` searches together."""
        config = self._config
        with memory_budget(config.memory), open_artifact(self._run.path / "index.h5", INDEX) as file:
            n_queries = query_rows(load_index(file), n_classes=config.classes, k=IMAGENET[_MODEL].k)
        return {"queries": n_queries, "smaller": max(1, min(n_queries, config.queries) // 2)}

    def _draw(self) -> dict[str, Any]:
        config = self._config
        self._announce(f"drawing {config.rows:,} rows of {config.dimensions:,} dimensions")
        with Measured() as measured:
            network = SyntheticNetwork(dimensions=config.dimensions, classes=config.classes, seed=config.seed)
            written = [
                _write_rows(network, split, n, self._run.path / name, config, self._progress)
                for split, n, name in (
                    ("train", config.rows, "train.h5"),
                    ("test", config.queries // _FEWER, f"test{config.queries // _FEWER}.h5"),
                    ("test", config.queries, f"test{config.queries}.h5"),
                )
            ]
        return {"cost": asdict(measured.cost), "bytes": sum(written)}


def _write_rows(
    network: SyntheticNetwork, split: str, n: int, path: Path, config: ImagenetSizeConfig, progress: Progress
) -> int:
    """Write rows as an embeddings artifact; give its size."""
    dtype = np.dtype(str(config.storage))
    sources = dict.fromkeys(("embeddings", "logits", "labels"), "synthetic")
    drawn_by = {"seed": config.seed, "split": split}
    parameters = {"sources": sources, "encoder": None, "synthetic": drawn_by}
    with ArtifactWriter(path, EMBEDDINGS, parameters=parameters) as writer:
        writer.create("embeddings", (n, config.dimensions), dtype)
        writer.create("logits", (n, config.classes), dtype)
        labels = np.empty(n, np.int32)
        for block in progress(row_blocks(n, _WRITTEN_ROWS), f"drawing {split}"):
            rows = network.read(split, block.start, block.stop)
            writer.append("embeddings", rows.embeddings.astype(dtype))
            writer.append("logits", rows.logits.astype(dtype))
            labels[block] = rows.labels
        writer.write("labels", labels)
    return path.stat().st_size


def _costs_table(config: ImagenetSizeConfig, steps: dict[str, dict[str, Any]]) -> ResultTable:
    few = config.queries // _FEWER
    names = {
        "arrays": "drawing the arrays",
        "residualize": "residualize",
        "index": "index",
        "cold": f"predict, {few:,} queries, for the first time",
        "first": f"predict, {few:,} queries",
        "predict": f"predict, {config.queries:,} queries",
        "again": f"the same, {steps['block']['smaller']:,} at a time",
        "analyze": "analyze",
    }
    costs = {name: Cost(**steps[name]["cost"]) for name in names}
    rows = [
        (shown, one.seconds, one.cpu_seconds, one.anonymous, one.resident, steps[name]["bytes"])
        for (name, shown), one in zip(names.items(), costs.values(), strict=True)
    ]
    peaks = [cost.anonymous for cost in costs.values() if cost.anonymous is not None]
    total = (
        "all of it, one after the other",
        sum(cost.seconds for cost in costs.values()),
        sum(cost.cpu_seconds for cost in costs.values()),
        max(peaks) if peaks else None,
        None,
        sum(steps[name]["bytes"] for name in names),
    )
    columns = (
        Column("step", Unit.TEXT),
        Column("seconds", Unit.DECIMAL),
        Column("CPU seconds", Unit.DECIMAL),
        Column("peak anonymous", Unit.BYTES),
        Column("peak resident", Unit.BYTES),
        Column("files", Unit.BYTES),
    )
    title = (
        f"Synthetic arrays of {config.rows:,} rows, {config.dimensions:,} dimensions and "
        f"{config.classes:,} classes in {config.storage}, seed {config.seed}: what each step takes"
    )
    notes = (
        f"Each command is a process of its own; index and predict are told to stay within "
        f"{memory_text(config.memory)}. Resident memory includes pages of mapped files, which the system "
        "takes back when it needs them. CPU seconds "
        "are of all cores together; with far fewer than seconds the machine was busy otherwise.",
    )
    return ResultTable("cost", title, columns, (*rows, total), notes)


def _search_table(config: ImagenetSizeConfig, steps: dict[str, dict[str, Any]]) -> ResultTable:
    index, predicted = steps["index"]["result"], steps["predict"]["result"]
    block, smaller = steps["block"]["queries"], steps["block"]["smaller"]
    few, some = config.queries // _FEWER, config.queries

    def projection_of(time: str) -> Projection:
        took = [steps[name]["cost"][time] for name in ("first", "predict", "again")]
        return Projection(few, some, block, smaller, *took)

    def project(time: str) -> list[float]:
        projection = projection_of(time)
        # What other work on the machine does to a few seconds can make queries seem to take none.
        at_least = projection_of("cpu_seconds").seconds(IMAGENET_QUERIES) / n_threads()
        queries = max(projection.seconds(IMAGENET_QUERIES), at_least)
        build = sum(steps[name]["cost"][time] for name in ("residualize", "index"))
        parts = (projection.start_seconds, projection.block_seconds, projection.query_seconds)
        return [*parts, queries, build + queries]

    names = (
        "once: the start, the checks of the memory",
        f"each block of {block:,} queries, before the first of them",
        "each query",
        f"{IMAGENET_QUERIES:,} queries",
        f"residualize, index and {IMAGENET_QUERIES:,} queries",
    )
    rows = tuple(zip(names, project("seconds"), project("cpu_seconds"), strict=True))
    chosen = ", ".join(f"{name} {value}" for name, value in index["search"].items())
    tried = ""
    if (sample := index.get("sample")) and sample.get("axes"):
        tried = (
            f" Of a sample, {sample['axes']} axes and {sample['candidates']:,} candidates would prove "
            f"{sample['proved']:.1%} with {sample['work']:.0%} of the work of comparing all columns."
        )
    answered = predicted["answered_by"]
    shares = "; ".join(f"{step}: {count / config.queries:.1%}" for step, count in answered.items() if count)
    proof = "every answer is proved" if index["kind"] == "exact" else "approximate"
    notes = (
        f"Projected from the times of {few:,} queries, of {some:,}, and of these again in smaller blocks; "
        f"the seconds of {IMAGENET_QUERIES:,} queries are at least their CPU seconds on all cores, "
        f"{n_threads()}.",
        f"The index that `index` chose: {index['kind']}{f' ({chosen})' if chosen else ''}, {proof}. "
        f"Queries answered by {shares}.{tried}",
    )
    columns = (
        Column("part", Unit.TEXT),
        Column("seconds", Unit.DECIMAL),
        Column("CPU seconds", Unit.DECIMAL),
    )
    return ResultTable("projection", "What predicting takes, projected", columns, rows, notes)


def _accuracy_table(config: ImagenetSizeConfig, steps: dict[str, dict[str, Any]]) -> ResultTable:
    [told] = steps["analyze"]["result"]["runs"]
    title = (
        f"{config.queries:,} synthetic queries: no figures of ImageNet, and not to be set beside the paper's"
    )
    notes = (
        f"k and T are those of the paper's {_MODEL}; sigma is the tool's default for these distances.",
        f"The head is made to be right about {BASE_ACCURACY:.0%} of the time, or less in few dimensions. The "
        "embeddings tell the classes apart far better than it does, and than real ones do, hence the gain.",
    )
    columns = (Column("queries", Unit.COUNT), *SETTINGS, *OUTCOMES)
    row = (told["n"], *settings_cells(told), *outcome_cells(told))
    return ResultTable("synthetic", title, columns, (row,), notes)
