"""`resmem index --train-only`: what the shards of an index have in common, learnt once from all rows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.artifacts.shard_formats import TRAINED
from resmem_cli.artifacts.structure import DAMAGED
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError, UsageError, naming_file
from resmem_cli.indexes.base import index_kinds
from resmem_cli.indexes.inverted import InvertedIndex
from resmem_cli.indexes.list_shards import largest_value
from resmem_cli.memory_size import memory_budget
from resmem_cli.rows import ArrayInMemory, RandomRows
from resmem_cli.stages.index_config import IndexConfig, check_config, make_build, plan_build
from resmem_cli.stages.sources import EmbeddingSource, open_embeddings
from resmem_cli.stages.streaming import PickedFromBlocks
from resmem_cli.types import Metric, Progress, StageResult, no_progress


@dataclass(frozen=True)
class Trained:
    """What was learnt, and how.

    Attributes
    ----------
    path : pathlib.Path
    kind : type
        Of the index.
    datasets, parameters
        As `InvertedIndex.with_learnt` takes them.
    metric : Metric
    seed : int
    quality : mapping or None
        `recall` and `k` that a search is to be tuned to.
    embeddings_digest : str
        Of the memory.
    """

    path: Path
    kind: type[InvertedIndex]
    datasets: Mapping[str, RandomRows]
    parameters: Mapping[str, Any]
    metric: Metric
    seed: int
    quality: Mapping[str, Any] | None
    embeddings_digest: str

    def settle(self, config: IndexConfig) -> IndexConfig:
        """Take over what was given when it was learnt.

        Raises
        ------
        UsageError
            If something else is given now.
        """
        other_metric = config.metric not in (Metric.EUCLIDEAN, self.metric)
        if config.parameters or other_metric or config.kind not in (None, self.kind.kind):
            raise UsageError(
                f"--trained is of the kind {self.kind.kind} and {self.metric}, and its parameters are chosen",
                remedy="leave out --kind, --metric and what goes with them",
            )
        config = replace(
            config,
            kind=self.kind.kind,
            metric=self.metric,
            seed=self.seed,
            measure_quality=config.measure_quality and self.quality is not None,
        )
        if self.quality is not None:
            config = replace(config, recall=self.quality["recall"], k=self.quality["k"])
        return config

    def unfilled(self, vectors: RandomRows, source: EmbeddingSource) -> InvertedIndex:
        """Give the index of some or all rows, whose lists are still to be filled.

        Raises
        ------
        DataError
            If it was learnt from other embeddings.
        """
        if source.embeddings_digest != self.embeddings_digest:
            raise DataError(
                f"was learnt from other embeddings than {source.path}",
                file=self.path,
                field="embeddings_digest",
                expected=source.embeddings_digest[:12],
                found=self.embeddings_digest[:12],
                remedy="make it again with `resmem index --train-only`",
            )
        with naming_file(self.path):
            return self.kind.with_learnt(vectors, self.datasets, self.parameters)


def read_trained(path: Path | str) -> Trained:
    """Read what `train` wrote.

    Raises
    ------
    MissingInputError, DataError
        As `open_artifact`, or for what can't be.
    """
    with open_artifact(path, TRAINED) as file:
        told = file.parameters
        kinds = {name: kind for name, kind in index_kinds().items() if issubclass(kind, InvertedIndex)}
        quality = told["quality"]
        fits = (
            told["kind"] in kinds
            and told["metric"] in list(Metric)
            and isinstance(told["search"], dict)
            and isinstance(told["embeddings_digest"], str)
            and type(told["seed"]) is int
            and told["seed"] >= 0
        )
        if fits and quality is not None:
            fits = type(quality) is dict and type(quality.get("k")) is int and quality["k"] > 0
            fits = fits and 0 < file.number("quality", "recall") <= 1
        if not fits:
            raise DataError("values that can't be", file=path, field="parameters", remedy=DAMAGED)
        return Trained(
            path=Path(path),
            kind=kinds[told["kind"]],
            datasets={name: ArrayInMemory(file.read(name)) for name in file.names},
            parameters=told["search"],
            metric=Metric(told["metric"]),
            seed=told["seed"],
            quality=quality,
            embeddings_digest=told["embeddings_digest"],
        )


def train(
    embeddings: Path | str,
    *,
    output: Path | str,
    config: IndexConfig | None = None,
    clobber: bool = True,
    progress: Progress = no_progress,
) -> StageResult:
    """Learn the centres and codes of an index from all rows, for its shards to be built with.

    Parameters
    ----------
    embeddings : pathlib.Path or str
        An embeddings artifact or exported arrays: all rows.
    output : pathlib.Path or str
        The artifact to write.
    config : IndexConfig, optional
        As for `index`; of an ivf kind.
    clobber : bool
        Whether an existing output may be replaced.
    progress : Progress

    Raises
    ------
    UsageError
        If the kind learns nothing that shards could share.
    MissingInputError, DataError, OutputError
        As the message says; nothing is written then.
    """
    embeddings, output = Path(embeddings), Path(output)
    config = config or IndexConfig()
    check_config(config)
    if config.queries is not None:
        raise UsageError("--queries are not for an index in shards, whose recall is measured when merged")
    with ExitStack() as stack:
        stack.enter_context(memory_budget(config.memory))
        source = stack.enter_context(open_embeddings(embeddings, config.arrays))
        planned = plan_build(source, None, config)
        kind = index_kinds()[planned.kind]
        if not issubclass(kind, InvertedIndex):
            raise UsageError(
                f"an index of kind {kind.kind} learns nothing that its shards share",
                remedy="name an ivf kind with --kind, or build the shards without --trained"
                if kind.exact
                else "name an ivf kind with --kind",
            )
        writer = stack.enter_context(ArtifactWriter(output, TRAINED, reads=source.files, clobber=clobber))
        build = make_build(source, config, folder=output.absolute().parent, progress=progress)
        rows = PickedFromBlocks(source.embeddings, build.scratch)
        with naming_file(embeddings):
            learnt = kind.trained(rows, parameters=planned.parameters, build=build)
            if None in learnt.settings.values():
                # What depends on the range of all rows.
                learnt.fit_range(largest_value(learnt, build=build))
        writer.add_inputs(source.record("embeddings"))
        quality = build.quality
        writer.set_parameters(
            kind=kind.kind,
            metric=str(config.metric),
            search={"metric": str(config.metric), **learnt.settings},
            seed=config.seed,
            quality=None if quality is None else {"recall": quality.recall, "k": quality.k},
            embeddings_digest=source.embeddings_digest,
            n=source.n,
        )
        for name, values in learnt.learnt().items():
            writer.write(name, values.read(0, values.shape[0]))
    summary = {"kind": kind.kind, "rows": source.n, "dimensions": source.d, **learnt.settings}
    return StageResult("index", output, summary, source.notices)
