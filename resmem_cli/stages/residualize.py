"""`resmem residualize`: what the network got wrong on each row of the memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resmem_cli.artifacts.formats import RESIDUALS
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import UsageError
from resmem_cli.residuals import (
    check_temperature,
    check_top,
    class_dtype,
    compute_residuals,
    compute_top_residuals,
)
from resmem_cli.stages.sources import open_embeddings
from resmem_cli.stages.streaming import rows_within
from resmem_cli.types import ArraySelection, Progress, StageResult, no_progress, row_blocks


@dataclass(frozen=True)
class ResidualizeConfig:
    """How to compute residuals.

    Attributes
    ----------
    temperature : float
        `T` of the softmax; `predict` uses the same one.
    top : int or None
        Keep only this many entries of each residual, those of largest absolute value.
    block_rows : int or None
        Rows at a time; None to fill the memory budget.
    arrays : ArraySelection
        Which arrays, where the input is exported arrays.
    """

    temperature: float = 1.4
    top: int | None = None
    block_rows: int | None = None
    arrays: ArraySelection = field(default_factory=ArraySelection)


def residualize(
    embeddings: Path | str,
    *,
    output: Path | str,
    config: ResidualizeConfig | None = None,
    clobber: bool = True,
    progress: Progress = no_progress,
) -> StageResult:
    """Write the residuals `onehot(y) − softmax(f(x)/T)` of every row.

    Parameters
    ----------
    embeddings : pathlib.Path or str
        An embeddings artifact or exported arrays, with logits and labels.
    output : pathlib.Path or str
        The artifact to write.
    config : ResidualizeConfig, optional
        Temperature and storage.
    clobber : bool
        Whether an existing output may be replaced.
    progress : Progress
        Shows how far the rows have come.

    Raises
    ------
    UsageError
        If the temperature or `top` is out of range.
    MissingInputError, DataError, OutputError
        As the message says; nothing is written then.
    """
    embeddings, output = Path(embeddings), Path(output)
    config = config or ResidualizeConfig()
    check_temperature(config.temperature)
    if config.block_rows is not None and config.block_rows < 1:
        raise UsageError("--block-rows out of range", expected="at least 1", found=config.block_rows)
    with open_embeddings(embeddings, config.arrays) as source:
        logits, labels = source.require_logits(), source.require_labels()
        n, n_classes = logits.shape
        if config.top is not None:
            check_top(config.top, n_classes=n_classes)
        parameters = {
            "temperature": config.temperature,
            "top": config.top,
            "n_classes": n_classes,
            "encoder": source.encoder,
        }
        n_right = 0
        with ArtifactWriter(
            output,
            RESIDUALS,
            parameters=parameters,
            reads=source.files,
            clobber=clobber,
        ) as writer:
            writer.add_inputs(source.record("embeddings"))
            writer.set_parameters(embeddings_digest=source.embeddings_digest)
            if config.top is None:
                writer.create("residuals", (n, n_classes), np.float32)
            else:
                writer.create("top/classes", (n, config.top), class_dtype(n_classes))
                writer.create("top/values", (n, config.top), np.uint16)
            step = config.block_rows or rows_within(logits.shape, np.dtype(np.float32))
            for block in progress(row_blocks(n, step), "residuals"):
                rows, own = logits.read(block.start, block.stop), labels[block]
                n_right += int((rows.argmax(axis=1) == own).sum())
                if config.top is None:
                    writer.append("residuals", compute_residuals(rows, own, temperature=config.temperature))
                else:
                    top = compute_top_residuals(rows, own, top=config.top, temperature=config.temperature)
                    writer.append("top/classes", top.classes)
                    writer.append("top/values", top.values)
            writer.write("labels", labels)
            if source.class_names is not None:
                writer.write("class_names", source.class_names)
    summary = {
        "rows": n,
        "classes": n_classes,
        "temperature": config.temperature,
        "top": config.top,
        "base_accuracy": n_right / n,
    }
    return StageResult("residualize", output, summary, source.notices)
