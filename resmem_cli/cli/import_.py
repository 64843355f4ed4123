"""`resmem import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from resmem_cli.cli import console, options
from resmem_cli.types import ArraySelection


@options.choosing_arrays(*options.OUTPUT_ROLES)
def run(
    *,
    arrays: Annotated[
        Path,
        options.input_argument("ARRAYS", "A .npy, .npz, .pt, .pth, .safetensors, .parquet or .h5 file."),
    ],
    output: options.Output = None,
    selection: ArraySelection,
    no_clobber: options.NoClobber = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn exported arrays into an embeddings artifact.

    Other commands read exported arrays too; import them once if they are read often, or lie in several files.
    """
    from resmem_cli.stages.import_arrays import ImportConfig, import_arrays

    result = import_arrays(
        arrays,
        output=options.output_path(output, "embeddings", arrays, split=selection.split),
        config=ImportConfig(arrays=selection),
        clobber=not no_clobber,
        progress=console.progress_bars(quiet=quiet),
    )
    console.report(result, as_json=json, quiet=quiet)
