"""`resmem reproduce`: the paper's results beside ours, a command for each kind of data."""

from __future__ import annotations

import typer

from resmem_cli.cli.lazy import lazy_app, show_help

# In the order of the help; each has its module, which only its own use imports.
_COMMANDS = {
    "cifar": "reproduce_cifar",
    "language": "reproduce_language",
    "imagenet": "reproduce_imagenet",
}

app = lazy_app("reproduce", _COMMANDS, add_completion=False)


@app.callback()
def _reproduce(context: typer.Context) -> None:
    """Set the paper's results beside ours, from the data to the tables and figures.

    Networks are trained and memories are made by the tool's own stages. Every run is a folder whose files
    are its state: the same command goes on where it was stopped, and repeats nothing.
    """
    show_help(context)
