"""The `resmem` command: its subcommands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from resmem_cli.cli.lazy import lazy_app, show_help
from resmem_cli.version import __version__

# In the order of `resmem --help`; each has its module, which only its own use imports.
_COMMANDS = {
    "run": "run",
    "import": "import_",
    "embed": "embed",
    "residualize": "residualize",
    "index": "index",
    "tune": "tune",
    "search": "search",
    "predict": "predict",
    "merge": "merge",
    "update": "update",
    "analyze": "analyze",
    "export": "export",
    "reproduce": "reproduce",
    "theory": "theory",
    "plan": "plan",
    "info": "info",
    "verify": "verify",
}
app = lazy_app("resmem", _COMMANDS)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"resmem-cli {__version__}")
        raise typer.Exit


@app.callback()
def _resmem(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version.")
    ] = False,
) -> None:
    """Add an explicit memory to a trained model, from its saved arrays, without retraining.

    A pipeline: embed (or import), residualize and index the training rows, predict new ones, analyze.
    Each command reads and writes HDF5 files; `resmem COMMAND --help` tells all of one.
    """
    show_help(context)


def run() -> int | None:
    """Run the command line; give its exit status, None for 0, or raise what went wrong."""
    status: int | None = app(prog_name="resmem", standalone_mode=False)
    return status
