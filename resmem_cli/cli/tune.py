"""`resmem tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resmem_cli.cli import console, options
from resmem_cli.cli.pieces import Pieces, in_shards
from resmem_cli.errors import UsageError
from resmem_cli.types import ArraySelection, ResidualSpace

_LIST = "LIST"


@in_shards(mergeable=False)
@options.choosing_arrays(*options.OUTPUT_ROLES)
def run(
    *,
    queries: Annotated[
        Path | None,
        typer.Argument(
            metavar="[QUERIES]",
            help="Validation embeddings with logits and labels: an artifact, or exported arrays.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    index: Annotated[Path, options.input_option("--index", "The memory's index.")],
    train: Annotated[
        Path,
        options.input_option("--train", "The embeddings the index was made from, with logits and labels."),
    ],
    train_split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which split of exported arrays --train means.")
    ] = None,
    output: options.Output = None,
    k: Annotated[
        str | None,
        typer.Option(
            "-k",
            metavar=_LIST,
            help="Neighbours to try: 10,53,200, or 20:500:10 for 10 values of that range.",
            show_default=False,
        ),
    ] = None,
    sigma: Annotated[
        str | None,
        typer.Option(
            metavar=_LIST,
            help="Sigmas to try, such as 0.1:2:20log: 20 values in equal ratios.",
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[
        str | None,
        typer.Option("-T", "--temperature", metavar=_LIST, help="Temperatures to try.", show_default=False),
    ] = None,
    strength: Annotated[
        str | None,
        typer.Option(
            metavar=_LIST, help="Strengths of the memory to try; 1 is the paper.", show_default=False
        ),
    ] = None,
    refine: Annotated[
        bool | None,
        typer.Option(
            "--refine/--no-refine",
            help="Lay a finer grid around the best point; by default where no values are given.",
            show_default=False,
        ),
    ] = None,
    objective: Annotated[
        str,
        typer.Option(
            metavar="accuracy|tpr|nll",
            help="Most right answers; most corrected with FPR below --max-fpr; or least NLL.",
        ),
    ] = "accuracy",
    max_fpr: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="With --objective tpr: FPR stays below; 0.05 if not given.", show_default=False
        ),
    ] = None,
    class_weights: Annotated[
        str | None,
        typer.Option(metavar="balanced|FILE", help="How much a query of each class counts: (C,) in a .npy."),
    ] = None,
    leave_one_out: Annotated[
        bool,
        typer.Option("--leave-one-out", help="Tune on the memory's own rows, each without itself."),
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="With --leave-one-out: so many rows of the memory; 10,000 if not given.",
            show_default=False,
        ),
    ] = None,
    fraction: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Tune on this share of the queries, drawn with --seed; report on the others."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of what is drawn.")] = 0,
    space: Annotated[
        ResidualSpace, typer.Option(help="In what memory corrects the network.")
    ] = ResidualSpace.PROBABILITY,
    top: Annotated[
        int | None, typer.Option(metavar="M", help="Residuals of M entries, as residualize --top M makes.")
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Tune kNN and kNN-LM on the same neighbours.")
    ] = True,
    found: options.Found = None,
    recall: options.Recall = None,
    memory: options.Memory = options.DEFAULT_MEMORY,
    selection: ArraySelection,
    pieces: Pieces,
    no_clobber: options.NoClobber = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Choose k, sigma, temperature and the memory's strength.

    One search with the largest k; then every combination is tried on its neighbours. The choice is made on
    validation queries, on a share of them (--fraction), or on the memory itself (--leave-one-out; queries
    given too then measure how much that promises too much). residualize, predict and analyze take the
    file as --tuning.
    """
    from resmem_cli.stages.searching import SearchConfig
    from resmem_cli.stages.tune import tune
    from resmem_cli.stages.tune_config import TuneConfig
    from resmem_cli.tuning.grid import Objective, parse_values

    if objective not in list(Objective):
        raise UsageError("--objective", expected=" or ".join(Objective), found=objective)

    def values(text: str | None, option: str) -> tuple[float, ...] | None:
        return None if text is None else parse_values(text, option)

    for option, value, wanted in (
        ("--max-fpr", max_fpr, objective == Objective.TPR),
        ("--sample", sample, leave_one_out),
    ):
        if value is not None and not wanted:
            other = "--objective tpr" if option == "--max-fpr" else "--leave-one-out"
            raise UsageError(f"{option} is for {other}", remedy="give both, or neither")
    source = queries if queries is not None else train
    split = selection.split if queries is not None else train_split
    part = pieces.shard
    if part is not None and found:
        raise UsageError("--shard and --found", remedy="give one of them")
    kind = "tuning" if part is None else "tuning-neighbors"
    result = console.in_pieces("tune", tune, pieces, quiet=quiet)(
        queries,
        index=index,
        train=train,
        output=options.output_path(output, kind, source, split=split, shard=part),
        config=TuneConfig(
            k=None if k is None else parse_values(k, "-k", whole=True),
            sigma=values(sigma, "--sigma"),
            temperature=values(temperature, "--temperature"),
            strength=values(strength, "--strength"),
            refine=refine,
            objective=Objective(objective),
            max_fpr=0.05 if max_fpr is None else max_fpr,
            class_weights=class_weights,
            leave_one_out=leave_one_out,
            sample=10_000 if sample is None else sample,
            fraction=fraction,
            seed=seed,
            space=space,
            top=top,
            baselines=baselines,
            search=SearchConfig(recall=recall),
            memory=options.stay_within(memory),
            shard=part,
            found=tuple(found or ()),
            arrays=selection,
            train_arrays=ArraySelection(split=train_split),
        ),
        clobber=not no_clobber,
        progress=console.progress_bars(quiet=quiet),
    )
    console.report(result, as_json=json, quiet=quiet)
