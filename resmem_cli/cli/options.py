"""Options that several commands share, so that each has one name, one help text and one meaning."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from resmem_cli.cli.failures import keep_freed_memory
from resmem_cli.errors import MissingInputError, UsageError
from resmem_cli.types import ArraySelection


def input_argument(metavar: str, text: str) -> Any:
    """Declare a positional input; whether it can be read is for the library to say, with its status."""
    return typer.Argument(metavar=metavar, help=text, show_default=False, readable=False)


def input_option(flag: str, text: str) -> Any:
    """Declare an input that is named by a required option."""
    return typer.Option(flag, metavar="FILE", help=text, show_default=False, readable=False)


Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="The file to write; derived from the input if not given.",
        show_default=False,
        readable=False,
    ),
]
NoClobber = Annotated[bool, typer.Option("--no-clobber", help="Refuse to replace an existing output.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress and no notices on stderr.")]

Recall = Annotated[
    float | None,
    typer.Option(
        metavar="R",
        help="Approximate kinds: the cheapest search that was measured to reach this recall; by default the "
        "one the index was tuned to.",
        show_default=False,
    ),
]
Nprobe = Annotated[
    int | None, typer.Option(metavar="N", help="ivf kinds: lists to visit.", show_default=False)
]
EfSearch = Annotated[
    int | None, typer.Option(metavar="N", help="hnsw: length of the candidate queue.", show_default=False)
]
Rerank = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Approximate kinds: candidates compared by true distances, for each neighbour.",
        show_default=False,
    ),
]
Backend = Annotated[
    str, typer.Option(metavar="faiss|torch", help="What searches an exact index; the answer is the same.")
]
Device = Annotated[str, typer.Option(help="Where torch searches: auto, cuda, mps or cpu.")]
Tuning = Annotated[
    Path | None,
    typer.Option(
        "--tuning",
        metavar="FILE",
        help="A tuning artifact, for the settings that are not given.",
        show_default=False,
        readable=False,
    ),
]

Found = Annotated[
    list[Path] | None,
    typer.Option(
        "--found",
        metavar="FILE",
        help="What was searched for before, in place of a search; given once for each file.",
        show_default=False,
        readable=False,
    ),
]

DEFAULT_MEMORY = "8G"
Memory = Annotated[
    str,
    typer.Option("--memory", metavar="SIZE", help="Memory to stay within, such as 500M or 8G."),
]

Embeddings = Annotated[
    Path,
    input_argument("EMBEDDINGS", "An embeddings artifact, or exported arrays."),
]
Split = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Take the arrays of this split: train, val or test."),
]


_AMPLE = 1 << 30  # bytes of memory


def stay_within(memory: str) -> int:
    """Read `--memory`, in bytes, and have as little of it wasted as it is small.

    Raises
    ------
    UsageError
        If it is no size, or hardly any.
    """
    from resmem_cli.memory_size import LEAST_MEMORY, memory_text, parse_memory

    n_bytes = parse_memory(memory)
    if n_bytes < LEAST_MEMORY:
        raise UsageError(
            "too little memory to work in",
            expected=f"at least {memory_text(LEAST_MEMORY)}",
            found=memory,
        )
    # Page faults cost less than what lies unused where there is little.
    keep_freed_memory(min(1 << 30, n_bytes // (32 if n_bytes >= _AMPLE else 128)))
    return n_bytes


ARRAY_ROLES = {
    "inputs": "inputs",
    "offsets": "starts of the documents in a flat array of tokens",
    "embeddings": "embeddings",
    "logits": "logits",
    "probabilities": "probabilities, in place of logits,",
    "labels": "labels",
    "ids": "row ids",
    "class_names": "class names",
}
OUTPUT_ROLES = ("embeddings", "logits", "probabilities", "labels", "ids", "class_names")
INPUT_ROLES = ("inputs", "offsets", "labels", "ids", "class_names")


def choosing_arrays(*roles: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command `--split` and an option for each role, and pass it the choices as `selection`."""
    added = {"split": Split} | {f"{role}_key": _array_option(role) for role in roles}

    def choose(given: dict[str, Any]) -> ArraySelection:
        return ArraySelection(**{name.removesuffix("_key"): value for name, value in given.items()})

    return adding("selection", added, choose)


def adding(
    parameter: str,
    added: Mapping[str, Any],
    choose: Callable[[dict[str, Any]], Any],
    defaults: Mapping[str, Any] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options, and pass it what is made of them as one parameter.

    Typer reads options off a function's signature, so the command gets a new one, in which the parameter is
    replaced by them.
    """
    default = defaults or {}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            choices = {name: given.pop(name) for name in added}
            command(**given, **{parameter: choose(choices)})

        signature = inspect.signature(command, eval_str=True)
        parameters = dict(signature.parameters)
        del parameters[parameter]
        keyword = inspect.Parameter.KEYWORD_ONLY
        options = [
            inspect.Parameter(n, keyword, default=default.get(n), annotation=a) for n, a in added.items()
        ]
        own = [one.replace(kind=keyword) for one in parameters.values()]
        run.__signature__ = inspect.Signature(own + options)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in own + options}
        return run

    return decorate


def _array_option(role: str) -> Any:
    flag = f"--{role.replace('_', '-')}"
    text = f"Where the {ARRAY_ROLES[role]} are, if not under a usual name."
    return Annotated[str | None, typer.Option(flag, metavar="KEY|FILE[:KEY]|none", help=text)]


def output_path(
    output: Path | None,
    kind: str,
    source: Path,
    *,
    split: str | None = None,
    shard: tuple[int, int] | None = None,
) -> Path:
    """Choose the output: the one given, or `train.index.h5` beside `train.h5`.

    Parameters
    ----------
    output : pathlib.Path or None
        What the user gave.
    kind : str
        The part of the name that says what the file is.
    source : pathlib.Path
        The input that the name is derived from.
    split : str, optional
        Becomes part of a derived name.
    shard : (int, int), optional
        Becomes part of it too: `train.shard-2-of-8.index.h5`.

    Raises
    ------
    MissingInputError
        If the input has no name to derive one from.
    UsageError
        If the split can be no part of a name.
    """
    if output is None:
        stem = source.name.removesuffix(source.suffix).removesuffix(".embeddings")
        if not source.name:
            raise MissingInputError("not a file", file=source or ".")
        part = [] if shard is None else ["shard-{}-of-{}".format(*shard)]
        parts = [stem, *([split] if split else []), *part, kind, "h5"]
        try:
            output = source.with_name(".".join(parts))
        except ValueError as error:  # a split with a slash, which a key may have
            raise UsageError(
                "no name for the output can be made of the split",
                field="--output",
                found=split,
                remedy="name the file with -o",
            ) from error
    return output
