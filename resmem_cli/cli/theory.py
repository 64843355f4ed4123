"""`resmem theory`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resmem_cli.cli import console, options, study

_LIST = "LIST"


def run(
    *,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The file to write.", readable=False)
    ] = Path("theory.h5"),
    dimensions: Annotated[str, typer.Option(metavar=_LIST, help="Dimensions d of the covariates.")] = "2,3,5",
    norm_bounds: Annotated[
        str,
        typer.Option(metavar=_LIST, help="Bounds L on the norm of the fitted function; the target's is 1."),
    ] = "0.3,0.6,0.9",
    rows: Annotated[
        str | None,
        typer.Option(
            metavar=_LIST,
            help="Numbers n of training points, such as 100,1000 or 1:4096:13log; 1, 2, 4, ..., 16384 if not "
            "given.",
            show_default=False,
        ),
    ] = None,
    repetitions: Annotated[int, typer.Option(metavar="N", help="Draws of each (d, n).")] = 100,
    test_points: Annotated[int, typer.Option(metavar="M", help="Test points of each draw.")] = 1000,
    seed: Annotated[int, typer.Option(metavar="N", help="Of what is drawn.")] = 0,
    markdown: study.Markdown = None,
    figures: study.Figures = None,
    no_clobber: options.NoClobber = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure the linear regression of the paper's section 3 beside its theorem.

    Least squares over functions of norm at most L, the nearest neighbour alone, and the nearest neighbour
    on the residuals (ResMem): their test risks and the theorem's terms against the number of training
    points, where they cross, and how fast they fall.
    """
    from resmem_cli.stages.theory import TheoryConfig, theory
    from resmem_cli.tuning.grid import parse_values

    result = theory(
        output=output,
        config=TheoryConfig(
            dimensions=parse_values(dimensions, "--dimensions", whole=True),
            norm_bounds=parse_values(norm_bounds, "--norm-bounds"),
            rows=TheoryConfig.rows if rows is None else parse_values(rows, "--rows", whole=True),
            repetitions=repetitions,
            test_points=test_points,
            seed=seed,
        ),
        markdown=markdown,
        figures=figures,
        clobber=not no_clobber,
        progress=console.progress_bars(quiet=quiet),
    )
    study.show_study(result, as_json=json, quiet=quiet)
