"""`resmem reproduce language`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resmem_cli.cli import console, options
from resmem_cli.cli.study import Figures, Folder, Markdown, show_study


def run(
    output: Folder,
    texts: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]",
            help="Texts in UTF-8; by default the source of Python's standard library.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    glob: Annotated[str, typer.Option(metavar="PATTERN", help="Which files are texts.")] = "**/*.py",
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A file or folder to leave out, wherever it is; may be repeated. Default: site-packages.",
            show_default=False,
        ),
    ] = None,
    vocab: Annotated[int, typer.Option(metavar="N", help="Tokens of the tokenizer.")] = 4096,
    sizes: Annotated[
        str,
        typer.Option(metavar="LIST", help="The models, WIDTHxDEPTH each, the smallest first."),
    ] = "48x2,96x2",
    steps: Annotated[int, typer.Option(metavar="N", help="Of training, for each model.")] = 1200,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Windows of 256 tokens a step.")] = 8,
    learning_rate: Annotated[float, typer.Option(metavar="RATE", help="At its peak.")] = 2e-3,
    checkpoint_steps: Annotated[
        int, typer.Option(metavar="N", help="A run that is stopped repeats at most so many steps.")
    ] = 100,
    memory_tokens: Annotated[
        int, typer.Option(metavar="N", help="At most so many training tokens in memory.")
    ] = 2_200_000,
    validation_tokens: Annotated[int, typer.Option(metavar="N", help="To tune on.")] = 4000,
    most_k: Annotated[int, typer.Option(metavar="N", help="The most neighbours to try.")] = 1024,
    test_tokens: Annotated[int, typer.Option(metavar="N", help="To report on.")] = 20_000,
    held_out: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the files, for validation, and again for the test.")
    ] = 0.05,
    kind: Annotated[str, typer.Option(metavar="KIND", help="Of index, as for `index`.")] = "ivf-pq",
    recall: Annotated[
        float, typer.Option(metavar="R", help="What its search is tuned to, on validation tokens.")
    ] = 0.95,
    examples: Annotated[int, typer.Option(metavar="N", help="Corrected tokens to show.")] = 10,
    seed: Annotated[int, typer.Option(metavar="N", help="Of everything drawn.")] = 0,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="Of training and embedding: auto, cpu, cuda, cuda:N or mps.")
    ] = "auto",
    memory: options.Memory = options.DEFAULT_MEMORY,
    markdown: Markdown = None,
    figures: Figures = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train language models on texts, and give each a memory of its training tokens.

    A tokenizer and transformers of two sizes learn from the texts; then come windows of 256 tokens, the 128
    largest residuals of each token, and an approximate index, as in the paper. Tables tell accuracy with the
    paper's settings and with tuned ones, table 3, recall, bytes, speed, and corrected tokens. DIR keeps every
    step: the same command again goes on where it was stopped.
    """
    from resmem_cli.stages.reproduce.language import STUDY, reproduce_language
    from resmem_cli.stages.reproduce.language_config import LanguageStudyConfig, model_size
    from resmem_cli.stages.study import StudyFiles

    config = LanguageStudyConfig(
        glob=glob,
        exclude=tuple(exclude or LanguageStudyConfig.exclude),
        held_out=held_out,
        vocabulary=vocab,
        sizes=tuple(model_size(text) for text in sizes.split(",")),
        steps=steps,
        batch_size=batch_size,
        peak_learning_rate=learning_rate,
        checkpoint_steps=checkpoint_steps,
        memory_tokens=memory_tokens,
        validation_tokens=validation_tokens,
        test_tokens=test_tokens,
        most_k=most_k,
        kind=kind,
        recall=recall,
        examples=examples,
        seed=seed,
        device=device,
        memory=options.stay_within(memory),
    )
    result = reproduce_language(
        texts,
        folder=output,
        config=config,
        files=StudyFiles(output / STUDY, markdown=markdown, figures=figures),
        announce=None if quiet else console.notice,
        progress=console.progress_bars(quiet=quiet),
    )
    show_study(result, as_json=json, quiet=quiet)
