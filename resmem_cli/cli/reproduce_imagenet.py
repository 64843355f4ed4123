"""`resmem reproduce imagenet`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resmem_cli.cli import console, options
from resmem_cli.cli.study import Figures, Folder, Markdown, show_study
from resmem_cli.errors import UsageError
from resmem_cli.types import StorageType

_SIZE = "With --synthetic: "
_DRAWN = {"rows": 1_281_167, "dimensions": 1280, "classes": 1000, "queries": 500, "seed": 0}


def run(
    output: Folder,
    arrays: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]",
            help="Exported arrays, whose files are named after the models: a0.35.npz (both splits); "
            "a0.35_train.npz and a0.35_test.npz; a0.35_train_embeddings.npy and so on, one file an array; "
            "or the same without the model's name in a subfolder a0.35.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TRAIN[,TEST]",
            help="A model's files, such as a0.35=train.h5,val.h5, instead of FOLDER; may be repeated.",
            show_default=False,
        ),
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", help="Neighbours, for models that are not in table 2.")
    ] = None,
    sigma: Annotated[float | None, typer.Option(help="Unit of distance, for the same.")] = None,
    temperature: Annotated[float | None, typer.Option("-T", "--temperature", help="T, for the same.")] = None,
    top: Annotated[
        int | None,
        typer.Option(metavar="M", help="Keep the M largest entries of each residual; the paper keeps all."),
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Set tuned settings beside the paper's too (leave-one-out).")
    ] = False,
    sample: Annotated[int, typer.Option(metavar="N", help="Rows of the memory to tune on.")] = 10_000,
    discard: Annotated[
        bool, typer.Option("--discard", help="Remove a model's index and residuals when it is done.")
    ] = False,
    synthetic: Annotated[
        bool,
        typer.Option(
            "--synthetic",
            help="Instead of a network's arrays draw some of ImageNet's size, and measure what each command "
            "takes.",
        ),
    ] = False,
    rows: Annotated[int, typer.Option(metavar="N", help=f"{_SIZE}rows of the memory.")] = _DRAWN["rows"],
    dimensions: Annotated[int, typer.Option(metavar="D", help=f"{_SIZE}of an embedding.")] = _DRAWN[
        "dimensions"
    ],
    classes: Annotated[int, typer.Option(metavar="C", help=f"{_SIZE}classes.")] = _DRAWN["classes"],
    queries: Annotated[int, typer.Option(metavar="N", help=f"{_SIZE}queries to predict.")] = _DRAWN[
        "queries"
    ],
    seed: Annotated[int, typer.Option(metavar="N", help=f"{_SIZE}of what is drawn.")] = _DRAWN["seed"],
    storage: Annotated[
        StorageType, typer.Option(help=f"{_SIZE}type of embeddings and logits.")
    ] = StorageType.FLOAT16,
    memory: options.Memory = options.DEFAULT_MEMORY,
    markdown: Markdown = None,
    figures: Figures = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run table 2 (MobileNet-V2 on ImageNet) on exported embeddings and logits.

    Each model is indexed, residualized, predicted and analyzed with the paper's k, sigma and T, and its row
    is printed beside the paper's. DIR keeps every artifact: the same command again goes on where it was
    stopped. A width without files is left out.
    """
    from resmem_cli.stages.study import StudyFiles

    files = StudyFiles(output / "imagenet.h5", markdown=markdown, figures=figures)
    announce = None if quiet else console.notice
    progress = console.progress_bars(quiet=quiet)
    limit = options.stay_within(memory)
    drawn = {"rows": rows, "dimensions": dimensions, "classes": classes, "queries": queries, "seed": seed}
    if synthetic:
        given = {"FOLDER": arrays, "--model": model, "-k": k, "--sigma": sigma, "--temperature": temperature}
        others = {"--tune": tune, "--discard": discard, "--figures": figures}
        _refuse({**given, **others}, "not with --synthetic, which draws the arrays and takes a1.0's settings")
        from resmem_cli.stages.reproduce.imagenet_size import ImagenetSizeConfig, imagenet_size

        size = ImagenetSizeConfig(
            **drawn,
            storage=storage,
            top=top,
            memory=limit,
            memory_text=None if memory == options.DEFAULT_MEMORY else memory,
        )
        result = imagenet_size(output, config=size, files=files, announce=announce, progress=progress)
    else:
        from resmem_cli.stages.reproduce.imagenet import ImagenetConfig, reproduce_imagenet
        from resmem_cli.stages.reproduce.imagenet_files import model_of

        changed = {f"--{name}": drawn[name] != _DRAWN[name] for name in _DRAWN}
        _refuse({**changed, "--storage": storage != StorageType.FLOAT16}, "for --synthetic only")
        if (arrays is None) == (not model):
            raise UsageError(
                "a folder and models" if model else "no arrays",
                expected="FOLDER, or --model once or more",
                remedy="leave one out" if model else "name them, or draw some with --synthetic",
            )
        models = [model_of(text) for text in model or ()] if arrays is None else arrays
        config = ImagenetConfig(
            k=k,
            sigma=sigma,
            temperature=temperature,
            top=top,
            tune=tune,
            sample=sample,
            discard=discard,
            memory=limit,
        )
        result = reproduce_imagenet(
            models, folder=output, config=config, files=files, announce=announce, progress=progress
        )
    show_study(result, as_json=json, quiet=quiet)


def _refuse(given: dict[str, object], problem: str) -> None:
    names = [name for name, value in given.items() if value]
    if names:
        raise UsageError(problem, found=", ".join(names), remedy="leave it out")
