"""`resmem residualize`: what the network got wrong on each row of the memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.formats import RESIDUALS
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import UsageError
from resmem_cli.logit_space import ClassMeans, compute_logit_residuals
from resmem_cli.residuals import (
    TopResiduals,
    check_temperature,
    check_top,
    class_dtype,
    compute_residuals,
    compute_top_residuals,
    residuals_of_top_logits,
)
from resmem_cli.shards import shard_parameters, shard_rows
from resmem_cli.stages.sources import EmbeddingSource, open_embeddings
from resmem_cli.stages.streaming import rows_within
from resmem_cli.stages.top_logits import TopLogitRows
from resmem_cli.stages.tuning_file import read_tuning
from resmem_cli.types import ArraySelection, Progress, ResidualSpace, StageResult, no_progress, row_blocks


@dataclass(frozen=True)
class ResidualizeConfig:
    """How to compute residuals.

    Attributes
    ----------
    temperature : float
        `T` of the softmax; `predict` uses the same one.
    top : int or None
        Keep only this many entries of each residual, those of largest absolute value.
    space : ResidualSpace
        In what the memory is to correct the network; in logit space `temperature` is that of the softmax
        of the corrected logits, and all entries are kept.
    block_rows : int or None
        Rows at a time; None to fill the memory budget.
    shard : (int, int) or None
        ``(i, N)``: only the i-th, from 1, of N equal ranges of rows.
    arrays : ArraySelection
        Which arrays, where the input is exported arrays.
    """

    temperature: float = 1.4
    top: int | None = None
    space: ResidualSpace = ResidualSpace.PROBABILITY
    block_rows: int | None = None
    shard: tuple[int, int] | None = None
    arrays: ArraySelection = field(default_factory=ArraySelection)


def residualize(
    embeddings: Path | str,
    *,
    output: Path | str,
    config: ResidualizeConfig | None = None,
    tuning: Path | str | None = None,
    clobber: bool = True,
    progress: Progress = no_progress,
) -> StageResult:
    """Write the residuals `onehot(y) − softmax(f(x)/T)` of every row, or those in logit space.

    Parameters
    ----------
    embeddings : pathlib.Path or str
        An embeddings artifact or exported arrays, with logits and labels. Where it has only the largest
        logits of each row, `temperature` must be 1 and `top` at most their number.
    output : pathlib.Path or str
        The artifact to write.
    config : ResidualizeConfig, optional
        Temperature and storage.
    tuning : pathlib.Path or str, optional
        A tuning artifact, whose temperature, space and `top` replace those of `config`.
    clobber : bool
        Whether an existing output may be replaced.
    progress : Progress
        Shows how far the rows have come.

    Raises
    ------
    UsageError
        If the temperature or `top` is out of range, or there is `top` in logit space.
    MissingInputError, DataError, OutputError
        As the message says; nothing is written then.
    """
    embeddings, output = Path(embeddings), Path(output)
    config = config or ResidualizeConfig()
    choice = None if tuning is None else read_tuning(tuning)
    if choice is not None:
        config = replace(
            config, temperature=choice.best.temperature, space=choice.space, top=choice.top or config.top
        )
    check_temperature(config.temperature)
    if config.block_rows is not None and config.block_rows < 1:
        raise UsageError("--block-rows out of range", expected="at least 1", found=config.block_rows)
    if config.space == ResidualSpace.LOGIT and config.top is not None:
        raise UsageError("--top keeps entries that sum to 0", expected="--space probability")
    with open_embeddings(embeddings, config.arrays) as whole:
        whole.require_logits(), whole.require_labels()
        source = whole.part(shard_rows(whole.n, config.shard))
        n_classes = source.require_logits().shape[1]
        if source.top_logits and config.space == ResidualSpace.LOGIT:
            raise UsageError(
                "has the largest logits of each row only",
                file=source.path,
                expected="--space probability",
                remedy="embed without --top",
            )
        if source.top_logits:
            _check_top_logits(source, source.top_logits, config)
        elif config.top is not None:
            check_top(config.top, n_classes=n_classes)
        parameters = {
            "temperature": config.temperature,
            "top": config.top,
            "space": str(config.space),
            "n_classes": n_classes,
            "encoder": source.encoder,
            **shard_parameters(whole.n, config.shard),
        }
        with ArtifactWriter(
            output,
            RESIDUALS,
            parameters=parameters,
            reads=(*source.files, *(() if choice is None else (choice.path,))),
            clobber=clobber,
        ) as writer:
            writer.add_inputs(source.record("embeddings"), *(() if choice is None else (choice.record,)))
            if choice is not None:
                choice.check_memory(source.path, source.embeddings_digest)
            writer.set_parameters(embeddings_digest=source.embeddings_digest)
            declare_residuals(writer, source.n, n_classes, top=config.top)
            n_right = append_residuals(writer, source, config, progress, of=whole)
            writer.write("labels", source.require_labels())
            for name, values in (("ids", source.ids), ("class_names", source.class_names)):
                if values is not None:
                    writer.write(name, values)
    summary = {
        "rows": source.n,
        "classes": n_classes,
        "temperature": config.temperature,
        "top": config.top,
        "space": str(config.space),
        "base_accuracy": n_right / source.n,
    }
    return StageResult("residualize", output, summary, source.notices)


def declare_residuals(writer: ArtifactWriter, n: int, n_classes: int, *, top: int | None) -> None:
    """Declare the datasets of n residuals, whole or truncated."""
    if top is None:
        writer.create("residuals", (n, n_classes), np.float32)
    else:
        writer.create("top/classes", (n, top), class_dtype(n_classes))
        writer.create("top/values", (n, top), np.uint16)


def append_residuals(
    writer: ArtifactWriter,
    source: EmbeddingSource,
    config: ResidualizeConfig,
    progress: Progress,
    *,
    of: EmbeddingSource | None = None,
) -> int:
    """Write the residuals of all rows; count those whose largest logit is the label's.

    Where the source is a range of the rows of another, the means of the classes are those of that.
    """
    logits, labels = source.require_logits(), source.require_labels()
    n, n_classes = logits.shape
    width = source.top_logits.n_kept if source.top_logits else n_classes
    step = config.block_rows or rows_within((n, width), np.dtype(np.float32))
    n_right = 0
    means = _class_means(of or source, step, progress) if config.space == ResidualSpace.LOGIT else None
    for block in progress(row_blocks(n, step), "residuals"):
        own = labels[block]
        if source.top_logits and config.top is not None:
            stored = source.top_logits.read(block.start, block.stop)
            n_right += int((stored.classes[:, 0] == own).sum())
            _append_top(writer, residuals_of_top_logits(stored, own, top=config.top))
            continue
        rows = logits.read(block.start, block.stop)
        n_right += int((rows.argmax(axis=1) == own).sum())
        if means is not None:
            writer.append("residuals", compute_logit_residuals(rows, own, means))
        elif config.top is None:
            writer.append("residuals", compute_residuals(rows, own, temperature=config.temperature))
        else:
            _append_top(
                writer, compute_top_residuals(rows, own, top=config.top, temperature=config.temperature)
            )
    return n_right


def _class_means(source: EmbeddingSource, step: int, progress: Progress) -> NDArray[np.float64]:
    logits, labels = source.require_logits(), source.require_labels()
    means = ClassMeans(logits.shape[1])
    for block in progress(row_blocks(len(labels), step), "class means"):
        means.update(logits.read(block.start, block.stop), labels[block])
    return means.result()


def _append_top(writer: ArtifactWriter, top: TopResiduals) -> None:
    writer.append("top/classes", top.classes)
    writer.append("top/values", top.values)


def _check_top_logits(source: EmbeddingSource, logits: TopLogitRows, config: ResidualizeConfig) -> None:
    if config.temperature != 1 or config.top is None or not 1 <= config.top <= logits.n_kept:
        raise UsageError(
            "has the largest logits of each row only, and the log-sum-exp of all of them at T = 1",
            file=source.path,
            expected=f"temperature 1 and --top from 1 to {logits.n_kept:,}",
            found=f"temperature {config.temperature:g} and "
            + ("no --top" if config.top is None else f"--top {config.top}"),
            remedy=f"give -T 1 --top {logits.n_kept}, or embed without --top",
        )
    logits.require_label_logits()
