"""The commands with ``--scheduler``: their shards as tasks, put together where the command was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resmem_cli.artifacts.formats import INDEX, PREDICTIONS
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.artifacts.shard_formats import TRAINED
from resmem_cli.cluster.engine import Watch
from resmem_cli.cluster.planned import predicted_from, searched_by, size_of
from resmem_cli.cluster.scheduling import Run, Scheduling, by_rows, no_watch, running
from resmem_cli.cluster.tasks import Task
from resmem_cli.errors import UsageError
from resmem_cli.indexes.exact import ExactIndex
from resmem_cli.indexes.plan import chosen_kind
from resmem_cli.scaling.sizes import MemorySize
from resmem_cli.scaling.task_times import SEARCH
from resmem_cli.shards import Shard
from resmem_cli.stages.embedding.config import EmbedConfig
from resmem_cli.stages.index_config import IndexConfig
from resmem_cli.stages.predict_config import DEFAULT_K, PredictConfig, tuning_choice
from resmem_cli.stages.residualize import ResidualizeConfig
from resmem_cli.stages.search import SearchStageConfig
from resmem_cli.stages.sources import open_embeddings
from resmem_cli.stages.trained import train
from resmem_cli.stages.tune import tune as tune_here
from resmem_cli.stages.tune_config import TuneConfig
from resmem_cli.types import Progress, StageResult, no_progress


def embed(
    checkpoint: Path | str,
    inputs: Path | str,
    *,
    output: Path | str,
    scheduling: Scheduling,
    config: EmbedConfig | None = None,
    clobber: bool = True,
    watch: Watch = no_watch,
    progress: Progress = no_progress,
) -> StageResult:
    """Embed in shards; parameters and errors are those of `stages.embed`, and of `Scheduling`."""
    config = config or EmbedConfig()
    if config.resume:
        raise UsageError("--resume is for one process", remedy="shards that are done are found without it")
    read = {"checkpoint": Path(checkpoint), "inputs": Path(inputs)}
    with running("embed", output, read, config, scheduling, watch, clobber=clobber) as run:
        paths = [str(path.absolute()) for path in read.values()]
        tasks = by_rows(
            run, "embed:embed", paths, {}, config, run.count(1 << 30), step="embed", size=MemorySize(1, 1, 1)
        )
        run.do(tasks)
        return run.finish(tasks, clobber=clobber, progress=progress)


def residualize(
    embeddings: Path | str,
    *,
    output: Path | str,
    scheduling: Scheduling,
    config: ResidualizeConfig | None = None,
    tuning: Path | str | None = None,
    clobber: bool = True,
    watch: Watch = no_watch,
    progress: Progress = no_progress,
) -> StageResult:
    """Compute residuals in shards; parameters and errors are those of `stages.residualize`."""
    config = config or ResidualizeConfig()
    embeddings = Path(embeddings)
    read = {"embeddings": embeddings, "tuning": None if tuning is None else Path(tuning)}
    with open_embeddings(embeddings, config.arrays) as source:
        source.require_logits(), source.require_labels()
        n, size = source.n, size_of(source)
    with running("residualize", output, read, config, scheduling, watch, clobber=clobber) as run:
        options = {"tuning": None if tuning is None else str(Path(tuning).absolute())}
        paths = [str(embeddings.absolute())]
        count = run.count(n)
        tasks = by_rows(
            run, "residualize:residualize", paths, options, config, count, step="residualize", size=size
        )
        run.do(tasks)
        return run.finish(tasks, clobber=clobber, progress=progress)


def index(
    embeddings: Path | str,
    *,
    output: Path | str,
    scheduling: Scheduling,
    config: IndexConfig | None = None,
    clobber: bool = True,
    watch: Watch = no_watch,
    progress: Progress = no_progress,
) -> StageResult:
    """Build an index in shards; parameters and errors are those of `stages.index`.

    What the shards of an ivf kind share is learnt here first.
    """
    config = config or IndexConfig()
    if config.queries is not None:
        raise UsageError("--queries are not for an index in shards", remedy="leave out --scheduler")
    embeddings = Path(embeddings)
    trained = None if config.trained is None else Path(config.trained)
    with open_embeddings(embeddings, config.arrays) as source:
        n, size = source.n, size_of(source)
    read = {"embeddings": embeddings, "trained": trained}
    with running("index", output, read, config, scheduling, watch, clobber=clobber) as run:
        kind = config.kind or chosen_kind(n, size.dimensions, config.memory)
        measured: MemorySize | None = replace(size, kind=kind)
        if trained is None and kind != ExactIndex.kind:
            trained = run.folder.file("trained.h5")
            if not run.folder.is_done(trained):
                with run.timing("index-learn", replace(size, kind=kind, parameters=config.parameters)):
                    train(embeddings, output=trained, config=config, progress=progress)
        if trained is not None:
            with open_artifact(trained, TRAINED) as file:
                measured = searched_by(size, file)
            config = replace(config, kind=None, parameters={}, trained=str(trained.absolute()))
        paths, count = [str(embeddings.absolute())], run.count(n)
        tasks = by_rows(run, "index:index", paths, {}, config, count, step="index-add", size=measured)
        run.do(tasks)
        return run.finish(tasks, memory=config.memory, clobber=clobber, progress=progress)


def predict(
    queries: Path | str,
    *,
    index: Path | str,
    residuals: Path | str,
    output: Path | str,
    scheduling: Scheduling,
    config: PredictConfig | None = None,
    clobber: bool = True,
    watch: Watch = no_watch,
    progress: Progress = no_progress,
) -> StageResult:
    """Predict ranges of the queries; parameters and errors are those of `stages.predict`.

    An index in shards is searched shard by shard first, each by whoever is free.
    """
    config = config or PredictConfig()
    queries, index, residuals = Path(queries), Path(index), Path(residuals)
    read = {
        "queries": queries,
        "index": index,
        "residuals": residuals,
        "tuning": None if config.tuning is None else Path(config.tuning),
        "found": config.found,
    }
    with open_embeddings(queries, config.arrays) as source, open_artifact(index, INDEX) as file:
        n, n_memory = source.n, file.dimensions["n"]
        k = _neighbors_wanted(config)
        shard_rows = [shard.dimensions["n"] for shard in file.shards]
        size = None
        # With neighbours found before, or all methods, it is not what a plan calls by its name.
        if scheduling.task_times is not None and not config.found and not config.compare:
            size = predicted_from(source, file, residuals, k=k)
    options = {"index": str(index.absolute()), "residuals": str(residuals.absolute())}
    if config.tuning is not None:
        config = replace(config, tuning=str(Path(config.tuning).absolute()))
    with running("predict", output, read, config, scheduling, watch, clobber=clobber) as run:
        count = run.count(n)
        paths = [str(queries.absolute())]
        tasks = by_rows(run, "predict:predict", paths, options, config, count, step="predict", size=size)
        if shard_rows and not config.found and not config.compare:
            sizes = [None if size is None else replace(size, rows=rows) for rows in shard_rows]
            searches = _searches(run, paths, options["index"], config, count, k=k, sizes=sizes)
            missing = {task.output for task in tasks if not run.folder.is_done(Path(task.output))}
            run.do(
                [
                    one
                    for task, ones in zip(tasks, searches, strict=True)
                    if task.output in missing
                    for one in ones
                ]
            )
            tasks = [
                replace(_with_config(task, found=tuple(Path(one.output) for one in ones)), size=None)
                for task, ones in zip(tasks, searches, strict=True)
            ]
        run.do(tasks)
        result = run.finish(tasks, memory=config.memory, clobber=clobber, progress=progress)
    told = {"queries": n, "memory": n_memory, **_accuracies(Path(output))}
    return replace(result, summary={**told, **result.summary})


def tune(
    queries: Path | str | None,
    *,
    index: Path | str,
    train: Path | str,
    output: Path | str,
    scheduling: Scheduling,
    config: TuneConfig | None = None,
    clobber: bool = True,
    watch: Watch = no_watch,
    progress: Progress = no_progress,
) -> StageResult:
    """Search in shards, and try the settings here; parameters and errors are those of `stages.tune`."""
    config = config or TuneConfig()
    if scheduling.manifest:
        raise UsageError("--manifest is for what is made in shards", remedy="leave it out")
    given = None if queries is None else Path(queries)
    read = {"queries": given, "index": Path(index), "train": Path(train)}
    on = Path(train) if config.leave_one_out or given is None else given
    arrays = config.train_arrays if on == Path(train) else config.arrays
    with open_embeddings(on, arrays) as source:
        n = source.n
    n = min(n, config.sample) if config.leave_one_out else max(1, round((config.fraction or 1) * n))
    options = {"index": str(Path(index).absolute()), "train": str(Path(train).absolute())}
    with running("tune", output, read, config, scheduling, watch, clobber=clobber) as run:
        paths = [None if given is None else str(given.absolute())]
        tasks = by_rows(run, "tune:tune", paths, options, config, run.count(n))
        run.do(tasks)
        result = tune_here(
            given,
            index=index,
            train=train,
            output=output,
            config=replace(config, found=tuple(Path(task.output) for task in tasks)),
            clobber=clobber,
            progress=progress,
        )
        told = run.close(result.summary, len(tasks))
        return StageResult("tune", result.output, told.summary, result.notices)


def _searches(
    run: Run,
    paths: Sequence[str],
    index: str,
    config: PredictConfig,
    count: int,
    *,
    k: int,
    sizes: Sequence[MemorySize | None],
) -> list[list[Task]]:
    """Make for each range of queries a task of each shard of the memory, whose sizes are given."""
    n_shards = len(sizes)
    return [
        [
            Task(
                name=f"search of shard {memory} of {n_shards} for range {number} of {count}",
                function="resmem_cli.stages.search:search",
                arguments=tuple(paths),
                options={
                    "index": index,
                    "config": SearchStageConfig(
                        k=k,
                        shard=Shard(number, count),
                        memory_shard=Shard(memory, n_shards),
                        search=config.search,
                        memory=config.memory,
                        arrays=config.arrays,
                    ),
                },
                output=str(run.folder.file(f"found-{number:05}-{memory:05}.h5").absolute()),
                step=SEARCH,
                size=size,
            )
            for memory, size in enumerate(sizes, start=1)
        ]
        for number in range(1, count + 1)
    ]


def _neighbors_wanted(config: PredictConfig) -> int:
    tuning = tuning_choice(config)
    return config.k if config.k is not None else tuning.best.k if tuning is not None else DEFAULT_K


def _accuracies(predictions: Path) -> dict[str, float]:
    """Give the shares of right answers, and the gain, where labels are known."""
    with open_artifact(predictions, PREDICTIONS) as file:
        labels = file.read_optional("labels")
        if labels is None:
            return {}
        columns = {
            "base_accuracy": "base_predicted", "knn_accuracy": "knn_predicted", "accuracy": "predicted"
        }  # fmt: skip
        right = {name: int((file.read(column) == labels).sum()) for name, column in columns.items()}
    shares = {name: count / len(labels) for name, count in right.items()}
    return {**shares, "gain": (right["accuracy"] - right["base_accuracy"]) / len(labels)}


def _with_config(task: Task, **changes: Any) -> Task:
    return replace(task, options={**task.options, "config": replace(task.options["config"], **changes)})
