"""`resmem reproduce cifar`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resmem_cli.cli import console, options, study

# Epochs, seeds, depths, shares.
_BUDGET = (15, 3, "8,14,20", "0.1,0.4,1")
_FULL_BUDGET = (256, 5, "8,14,20,32,44,56", "0.1:1:10")


def run(
    data: Annotated[
        Path,
        options.input_argument(
            "DATA",
            "cifar-100-python, exported arrays with splits train and test, or folders of class folders.",
        ),
    ],
    folder: study.Folder,
    studies: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,…",
            help="Of seeds, epochs, subsets, depths, sensitivity, changes, cost, corruption, distillation, "
            "joint; all but joint if not given.",
            show_default=False,
        ),
    ] = None,
    joint: Annotated[bool, typer.Option("--joint", help="Also train network and memory together.")] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="The paper's budget: 256 epochs, 5 seeds, all six depths, ten shares of the data.",
        ),
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Of every run; the schedule is scaled. [default: 15]", show_default=False
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(metavar="N", help="Runs of the shallowest network. [default: 3]", show_default=False),
    ] = None,
    depths: Annotated[
        str | None,
        typer.Option(
            metavar="N,…",
            help="Networks; the shallowest is that of the other studies. [default: 8,14,20]",
            show_default=False,
        ),
    ] = None,
    fractions: Annotated[
        str | None,
        typer.Option(
            metavar="X,…", help="Shares of the training images. [default: 0.1,0.4,1]", show_default=False
        ),
    ] = None,
    held_out: Annotated[
        int, typer.Option(metavar="N", help="Training images kept from training, to tune on.")
    ] = 5000,
    k: Annotated[int, typer.Option("-k", metavar="K", help="Neighbours, where nothing is tuned.")] = 53,
    sigma: Annotated[float, typer.Option(metavar="S", help="Unit of distance, likewise.")] = 0.7,
    temperature: Annotated[
        float, typer.Option("-T", "--temperature", metavar="T", help="Temperature, likewise.")
    ] = 1.4,
    shifted_rows: Annotated[
        int, typer.Option(metavar="N", help="Corrupted, labelled images to add to the memory.")
    ] = 1000,
    groups: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Superclass of each class, as for analyze; cifar-100-python has them.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    memory: options.Memory = options.DEFAULT_MEMORY,
    markdown: study.Markdown = None,
    figures: study.Figures = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train networks on CIFAR-100, give them a memory, and set the paper's results beside theirs.

    Table 1, figures 2 to 5, section 4.4, appendix F and the latencies; then corrupted images and
    distillation. Every network is a run in FOLDER/runs that is trained once; after a stop, the same command
    goes on with it. The default budget takes about an hour on two cores.
    """
    from resmem_cli.stages.reproduce.cifar import CifarConfig, reproduce_cifar
    from resmem_cli.stages.reproduce.image_memory import MemorySettings
    from resmem_cli.stages.reproduce.image_studies.base import ImageStudyConfig
    from resmem_cli.tuning.grid import parse_values

    usual_epochs, usual_seeds, usual_depths, usual_fractions = _FULL_BUDGET if full else _BUDGET
    config = ImageStudyConfig(
        epochs=usual_epochs if epochs is None else epochs,
        seeds=usual_seeds if seeds is None else seeds,
        depths=parse_values(depths or usual_depths, "--depths", whole=True),
        fractions=parse_values(fractions or usual_fractions, "--fractions"),
        settings=MemorySettings(k, sigma, temperature),
        shifted_rows=shifted_rows,
        memory=options.stay_within(memory),
        device=device,
    )
    result = reproduce_cifar(
        data,
        folder=folder,
        config=CifarConfig(
            studies=tuple(name.strip() for name in studies.split(",")) if studies else (),
            also=("joint",) if joint else (),
            study=config,
            held_out=held_out,
            groups=groups,
            markdown=markdown,
            figures=figures,
        ),
        announce=lambda text: console.notice(text, quiet=quiet),
        progress=console.progress_bars(quiet=quiet),
    )
    study.show_study(result, as_json=json, quiet=quiet)
