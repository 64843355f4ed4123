"""The `resmem` command: its subcommands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from resmem_cli.cli import analyze, embed, import_, index, info, predict, residualize, verify
from resmem_cli.cli.failures import run_and_exit
from resmem_cli.version import __version__

# Plain help: rich's panels would double the time of --help.
app = typer.Typer(
    name="resmem",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


app.command("import")(import_.run)
app.command("embed")(embed.run)
app.command("residualize")(residualize.run)
app.command("index")(index.run)
app.command("predict")(predict.run)
app.command("analyze")(analyze.run)
app.command("info")(info.run)
app.command("verify")(verify.run)


def main() -> None:
    """Run the command line and end the process."""
    run_and_exit(lambda: app(prog_name="resmem", standalone_mode=False))
