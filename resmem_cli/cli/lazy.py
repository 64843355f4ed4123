"""A group of commands, each of which is a module that only its own use imports."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperGroup

SETTINGS = {"help_option_names": ["-h", "--help"]}


def lazy_group(commands: Mapping[str, str]) -> type[TyperGroup]:
    """Make the class of a group.

    Parameters
    ----------
    commands : mapping of str to str
        The module in `resmem_cli.cli` of each command, in the order of the help: it has a function `run`,
        or a Typer `app` where the command is a group itself.
    """

    class Commands(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(commands)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if cmd_name not in commands:
                return None
            module = importlib.import_module(f"resmem_cli.cli.{commands[cmd_name]}")
            if hasattr(module, "app"):
                return typer.main.get_command(module.app)
            own = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
            own.command(cmd_name, context_settings=SETTINGS)(module.run)
            return typer.main.get_command(own)

    return Commands


def lazy_app(name: str, commands: Mapping[str, str], **settings: Any) -> typer.Typer:
    """Make a group's app; `commands` as for `lazy_group`, `settings` as for `typer.Typer`."""
    # Plain help: rich's panels would double the time of --help.
    return typer.Typer(
        name=name,
        cls=lazy_group(commands),
        invoke_without_command=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=SETTINGS,
        **settings,
    )


def show_help(context: typer.Context) -> None:
    """End a group that was called without a command: its help on stderr, the status of a wrong call."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)
