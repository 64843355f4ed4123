"""`resmem run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resmem_cli.cli import console, options
from resmem_cli.cli.analyze import show_runs


def run(
    train: Annotated[
        Path,
        options.input_argument("TRAIN", "The memory's embeddings, logits and labels."),
    ],
    test: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TEST]",
            help="The queries', with labels; by default the split test of TRAIN.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    folder: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Where all is written; resmem if not given.",
            show_default=False,
            readable=False,
        ),
    ] = Path("resmem"),
    train_split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Split of TRAIN; train where TEST is the same file.")
    ] = None,
    test_split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Split of TEST; test where it is the same file.")
    ] = None,
    sample: Annotated[
        int, typer.Option(metavar="N", help="Rows of the memory to tune on, each left out in turn.")
    ] = 10_000,
    groups: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Superclass of each class, as for analyze.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make again what is up to date.")] = False,
    memory: options.Memory = options.DEFAULT_MEMORY,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Do it all: index, tune, residualize, predict, analyze.

    Each step is an artifact in the folder, and skipped if it was made from the same inputs by the same
    command. Settings are tuned on the memory by leave-one-out, so the test rows are only reported on. Prints
    the report, then the rules of a Makefile that would do the same.
    """
    from resmem_cli.stages.run import RunConfig
    from resmem_cli.stages.run import run as run_pipeline

    result = run_pipeline(
        train,
        test,
        folder=folder,
        config=RunConfig(
            train_split=train_split,
            test_split=test_split,
            sample=sample,
            groups=groups,
            memory=options.stay_within(memory),
            memory_text=None if memory == options.DEFAULT_MEMORY else memory,
            force=force,
        ),
        announce=None if quiet else console.notice,
        progress=console.progress_bars(quiet=quiet),
    )
    for text in result.notices:
        console.notice(text, quiet=quiet)
    if json:
        console.emit_json(result)
        return
    show_runs(result.summary["report"], compare=True)
    console.emit(f"\n# the same as a Makefile:\n{result.summary['makefile']}")
