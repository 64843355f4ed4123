"""Options of commands that can do a part of their rows, or all parts on a scheduler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from resmem_cli.cli.options import adding
from resmem_cli.errors import UsageError
from resmem_cli.shards import Shard, parse_shard

ShardText = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Only the I-th of N equal ranges of rows; resmem merge puts them together.",
        show_default=False,
    ),
]
_SCHEDULING: dict[str, Any] = {
    "scheduler": Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="tcp://HOST:PORT|file:FILE|local:N",
            help="Do it in shards, on the workers of a Dask scheduler, or on N processes of this machine.",
            show_default=False,
        ),
    ],
    "shards": Annotated[
        int | None,
        typer.Option(
            "--shards",
            metavar="N",
            help="With --scheduler: in how many; by default 4 for each worker, and at least 8.",
            show_default=False,
        ),
    ],
    "manifest": Annotated[
        bool,
        typer.Option(
            "--manifest", help="With --scheduler: leave the shards, and write a small file that names them."
        ),
    ],
    "worker_timeout": Annotated[
        float | None,
        typer.Option(
            "--worker-timeout",
            metavar="S",
            help="With --scheduler: seconds to wait for a worker; 60 if not given.",
            show_default=False,
        ),
    ],
    "retries": Annotated[
        int | None,
        typer.Option(
            "--retries",
            metavar="N",
            help="With --scheduler: how often a shard that fails is given out again; 2 if not given.",
            show_default=False,
        ),
    ],
    "task_times": Annotated[
        Path | None,
        typer.Option(
            "--task-times",
            metavar="FILE",
            help="With --scheduler: add to this file what each shard took, for `plan --task-times`.",
            show_default=False,
            readable=False,
        ),
    ],
}


@dataclass(frozen=True)
class Pieces:
    """What is said of shards: one of them, or all on a scheduler, or neither.

    Attributes
    ----------
    shard : Shard or None
        The one to do.
    scheduling : mapping or None
        The fields of `cluster.scheduling.Scheduling`.
    """

    shard: Shard | None
    scheduling: Mapping[str, Any] | None


def in_shards(*, mergeable: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command `--shard`, `--scheduler` and what goes with it, and pass it all as `pieces`.

    Parameters
    ----------
    mergeable : bool
        Whether shards are put together, so that a manifest of them can be made.
    """

    def choose(given: dict[str, Any]) -> Pieces:
        shard = read_shard(given.pop("shard"))
        scheduler = given["scheduler"]
        if scheduler is None:
            flags = [
                f"--{name.replace('_', '-')}" for name, value in given.items() if value not in (None, False)
            ]
            if flags:
                raise UsageError(f"{flags[0]} is for --scheduler", remedy="give both, or neither")
            return Pieces(shard, None)
        if shard is not None:
            raise UsageError("--shard and --scheduler", remedy="give one of them")
        return Pieces(None, {name: value for name, value in given.items() if value is not None})

    added = {"shard": ShardText, **_SCHEDULING}
    if not mergeable:
        del added["manifest"], added["task_times"]
    return adding("pieces", added, choose, {"manifest": False})


def read_shard(text: str | None) -> Shard | None:
    """Read `--shard` or the like; raises `UsageError`."""
    return None if text is None else parse_shard(text)
