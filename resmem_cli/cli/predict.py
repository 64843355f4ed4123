"""`resmem predict`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from resmem_cli.cli import console, options
from resmem_cli.cli.pieces import Pieces, in_shards
from resmem_cli.errors import UsageError
from resmem_cli.types import ArraySelection, Method, ProbabilityMethod


@in_shards()
@options.choosing_arrays(*options.OUTPUT_ROLES)
def run(
    *,
    queries: Annotated[
        Path,
        options.input_argument("QUERIES", "An embeddings artifact, or exported arrays, with logits."),
    ],
    index: Annotated[
        Path,
        options.input_option("--index", "The memory's index."),
    ],
    residuals: Annotated[
        Path,
        options.input_option("--residuals", "The memory's residuals."),
    ],
    output: options.Output = None,
    tuning: options.Tuning = None,
    k: Annotated[
        int | None,
        typer.Option(
            "-k", metavar="K", help="Neighbours of each query; 53 if not tuned.", show_default=False
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Unit of distance in the weights exp(-distance/S); "
            "by default the tuned one, or 0.18 x the index's distance scale.",
            show_default=False,
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            metavar="A",
            help="Factor of the memory's share: 1, the paper's, if not tuned; 0 is the network alone.",
            show_default=False,
        ),
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Use memory only where the gate of --tuning lets it.")
    ] = False,
    gate_distance: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Use memory only with a neighbour within this distance.", show_default=False
        ),
    ] = None,
    gate_confidence: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Use memory only where the network's largest probability is at most this.",
            show_default=False,
        ),
    ] = None,
    as_probabilities: Annotated[
        str | None,
        typer.Option(
            metavar="simplex|clip|temperature",
            help="Write the scores as probabilities too: their projection on the simplex; clipped and "
            "normalised; or raised to a floor, then to a power, both tuned. Also --probabilities with one of "
            "these names.",
            show_default=False,
        ),
    ] = None,
    probability_temperature: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            help="With the method temperature, if not tuned: the power is 1/T.",
            show_default=False,
        ),
    ] = None,
    probability_floor: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="With --probability-temperature: the floor; 0.001 if not given.",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Run the baselines on the same search, for analyze --compare."),
    ] = False,
    method: Annotated[
        Method, typer.Option(help="Whose answer to write; all three share one search.")
    ] = Method.RESMEM,
    top_scores: Annotated[
        int | None, typer.Option(metavar="M", help="Store only the M best scores of each query.")
    ] = None,
    block_rows: Annotated[
        int | None, typer.Option(metavar="N", help="Queries at a time; changes nothing in the result.")
    ] = None,
    found: options.Found = None,
    recall: options.Recall = None,
    nprobe: options.Nprobe = None,
    ef_search: options.EfSearch = None,
    rerank: options.Rerank = None,
    backend: options.Backend = "faiss",
    device: options.Device = "auto",
    memory: options.Memory = options.DEFAULT_MEMORY,
    selection: ArraySelection,
    pieces: Pieces,
    no_clobber: options.NoClobber = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Predict queries with network and memory.

    The network's softmax plus the weighted residuals of the nearest rows, at the temperature of the
    residuals. Every answer is kept with the memory rows it came from.
    """
    from resmem_cli.settings import Softening
    from resmem_cli.stages.predict import predict
    from resmem_cli.stages.predict_config import PredictConfig
    from resmem_cli.stages.searching import SearchConfig

    methods = list(ProbabilityMethod)
    if as_probabilities is None and selection.probabilities in methods:
        as_probabilities, selection = selection.probabilities, replace(selection, probabilities=None)
    if as_probabilities is not None and as_probabilities not in methods:
        raise UsageError("--as-probabilities", expected=" or ".join(methods), found=as_probabilities)
    softening = None
    if probability_temperature is not None:
        softening = Softening(
            probability_temperature, 0.001 if probability_floor is None else probability_floor
        )
    elif probability_floor is not None:
        raise UsageError(
            "--probability-floor is for --probability-temperature", remedy="give both, or neither"
        )
    part = pieces.shard
    result = console.in_pieces("predict", predict, pieces, quiet=quiet)(
        queries,
        index=index,
        residuals=residuals,
        output=options.output_path(output, "predictions", queries, split=selection.split, shard=part),
        config=PredictConfig(
            k=k,
            sigma=sigma,
            strength=strength,
            tuning=tuning,
            gate=gate,
            gate_distance=gate_distance,
            gate_confidence=gate_confidence,
            probabilities=None if as_probabilities is None else ProbabilityMethod(as_probabilities),
            softening=softening,
            compare=compare,
            method=method,
            top_scores=top_scores,
            block_rows=block_rows,
            shard=part,
            found=tuple(found or ()),
            search=SearchConfig(
                recall=recall,
                nprobe=nprobe,
                ef_search=ef_search,
                rerank=rerank,
                backend=backend,
                device=device,
            ),
            memory=options.stay_within(memory),
            arrays=selection,
        ),
        clobber=not no_clobber,
        progress=console.progress_bars(quiet=quiet),
    )
    console.report(result, as_json=json, quiet=quiet)
