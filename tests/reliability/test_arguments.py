"""Random arguments: every command ends as the command line promises, whatever it is asked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from reliability.processes import Ended, ForkServer
from reliability.tally import Tally, seeds
from reliability.workload import COMMANDS, Workload
from resmem_cli.cli.main import app

STATUSES = (0, 2, 3, 65, 66, 69, 71, 74, 75)
RARE = ("embed", "cifar", "imagenet", "language")  # import torch, which takes seconds
_RARE_SHARE = 0.02

# What makes an honest run long is small here, or absurd; figures take matplotlib a second.
_ABSURD = "9999999999999"
SLOW = {
    "theory": {
        "--repetitions": ("1", "2"),
        "--dimensions": ("1", "2,3", _ABSURD),
        "--rows": ("1", "2,9", "1:9:3", _ABSURD),
        "--test-points": ("1", "20", _ABSURD),
        "--figures": ("",),
    },
    "plan": {
        "--repetitions": ("1", "5"),
        "--workers": ("1", "2,8"),
        "--task-minutes": ("1", "30"),
        "--hours-to-failure": ("10", "240", "inf"),
        "--figures": ("",),
    },
    "tune": {
        "-k": ("5", "1,2", "1:9:3"),
        "--sigma": ("1", "0.1:2:4", "0.1:2:3log"),
        "-T": ("1", "1,2"),
        "--strength": ("1", "0.5,1"),
    },
    "analyze": {"--figures": ("",)},
}
PLANNED = ("cifar100", "imagenet", "1.6g", "--simulate", "")

# fmt: off
WHOLE = (
    "0", "1", "2", "5", "7", "30", "120", "121", "-1", "-9223372036854775809", "2147483647", "4294967296",
    "9223372036854775807", "9223372036854775808", "1e3", "2.5", "0x10", "٣", "nan", "x", "", " 4 ", "1_0",
)
NUMBERS = (
    "0", "1", "0.5", "0.95", "-1", "1e-300", "5e-324", "1e300", "1e400", "nan", "inf", "-inf", "-0.0", "1,5",
    "x", "", "٣.٥", "1_0",
)
TEXTS = (
    "", "a", "1", "1,2", "1:3:2", "0.1:2:3log", ",", ":", "1:2", "3:1:4", "1:2:999999999", "-1", "nan", "inf",
    "none", "train", "test", "val", "balanced", "ä ö ☃", "a" * 5000, "../x", "\x1b[31m", "%s%n", "{}", "0/0",
    "arrays.npz:train_labels", "train_logits", "in/arrays.npz:test_labels", "in/train.h5", "*", "simplex",
    "clip", "temperature", "scores", "torch", "Flat", "IVF8,SQ8", "IVF4,PQ2x4", "HNSW8", "PQ9999999", "3/2",
    "IVF99999999,Flat", "exact", "hnsw", "ivf", "cpu", "cuda", "20M", "1G", "500K", "0", "1e9G", "1/2",
    "predictions", "neighbors", "in.train_digits:make_network", "os:system",
)
INPUTS = (
    "", ".", "..", "/", "in", "in/missing.h5", "missing/in.h5", "/dev/null", "/dev/zero", "pipe", "-", "~",
    "in/ü ☃.npy", "empty", "locked", "loop", "a" * 300, "text.csv", "in/arrays.npz/", "in/train.h5\n",
)
OUTPUTS = (
    "out.h5", "out.h5", "out.npz", "out.csv", "out.parquet", "out.json", "new folder/out.h5", "in", ".", "",
    "/dev/null", "/dev/full", "/proc/out.h5", "old.h5", "ü ☃.h5", "a" * 300, "pipe", "loop", "out", "-",
    "out.h5/out.h5", "/", "locked folder/out.h5", "in/train.h5", "link.h5",
)
# fmt: on


def _all_commands() -> dict[str, tuple[tuple[str, ...], Any]]:
    """Give each command's words and what click knows of it, from the program itself."""
    found: dict[str, tuple[tuple[str, ...], Any]] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        names = command.list_commands(None) if hasattr(command, "list_commands") else ()
        for name in names:
            walk(command.get_command(None, name), (*words, name))
        if not names:
            found[words[-1]] = words, command

    walk(typer.main.get_command(app), ())
    return found


ALL = _all_commands()


def test_every_command_is_asked() -> None:
    workload = {command.arguments[0] for command in COMMANDS.values()}
    assert workload | {"info", "verify", "plan", *RARE} == set(ALL)


@pytest.fixture(scope="module")
def files(small: Workload) -> tuple[str, ...]:
    """Name all inputs, of every kind."""
    return tuple(sorted(f"in/{path.name}" for path in small.inputs.iterdir() if path.is_file()))


@seeds(quick=200, long=5000, together=50)
def test_random_arguments(
    seeds: range, small: Workload, files: tuple[str, ...], server: ForkServer, tally: Tally, tmp_path: Path
) -> None:
    """Hold each end to a documented status, one line of error, nothing left and no input changed.

    Seen to fail: where a temporary was not removed ("index in/train.h5 --kind exact … --factory a: left
    ['.253530805410951c.resmem-tmp']"), and before an output that is a link to itself was refused ("status 1
    … RuntimeError: Symlink loop").
    """

    def check(seed: int) -> str:
        folder = tmp_path / str(seed)
        before = _prepare(folder, small)
        words = draw_arguments(np.random.default_rng(seed), files)
        ended = server.run(*words, cwd=folder)
        where = " ".join(word if len(word) < 80 else f"{word[:20]}…({len(word)})" for word in words)
        try:
            _assert_contract(ended, words)
            _assert_files(folder, before, words)
        except AssertionError as error:
            raise AssertionError(f"resmem {where!r}: {error}") from error
        shutil.rmtree(folder, onerror=_unlock)
        return f"status {ended.status}"

    tally.each("arguments", seeds, check)


def draw_arguments(generator: np.random.Generator, files: Sequence[str]) -> list[str]:
    """Draw a command line: the words of one that works with some of them changed, or any at all."""
    rare = generator.random() < _RARE_SHARE
    names = [name for name in ALL if (name in RARE) is rare]
    name = str(generator.choice(names))
    prefix, command = ALL[name]
    choose = _chooser(generator, files, name)
    usual = [given for given in COMMANDS.values() if given.arguments[0] == name]
    words: list[str] = []
    # Left to itself `theory` measures for minutes.
    whole = name == "theory"
    if usual and (whole or generator.random() < 0.8):
        words = list(usual[generator.integers(len(usual))].arguments[1:])
    elif name in ("info", "verify"):
        words = [str(generator.choice(files))]
    elif name == "plan":
        words = [str(generator.choice(PLANNED))]
    elif name in RARE and generator.random() < 0.5:
        words = [choose(param) for param in command.params if param.param_type_name == "argument"]
    else:
        for param in command.params:
            if param.required or (param.param_type_name == "argument" and generator.random() < 0.5):
                words += _given(param, choose)
    options = [param for param in command.params if param.param_type_name == "option"]
    for _ in range(int(generator.choice([0, 1, 1, 2, 2, 3, 5, 9]))):
        param = options[generator.integers(len(options))]
        words += _given(param, choose, generator)
        if generator.random() < 0.05:
            words += _given(param, choose, generator)
    if words and not whole and generator.random() < 0.15:
        del words[generator.integers(len(words))]
    if words and not whole and generator.random() < 0.15:
        words[generator.integers(len(words))] = choose(None)
    if generator.random() < 0.05:
        words.insert(
            int(generator.integers(len(words) + 1)),
            str(generator.choice(["--", "-", "--nonsense", "-Z", "--help"])),
        )
    if generator.random() < 0.2:
        words.append("--json")
    return [*prefix, *words]


def _given(
    param: Any, choose: Callable[[Any], str], generator: np.random.Generator | None = None
) -> list[str]:
    if param.param_type_name == "argument":
        return [choose(param)]
    flags = [*param.opts, *param.secondary_opts]
    flag = flags[0] if generator is None else str(generator.choice(flags))
    if param.is_flag:
        return [flag]
    value = choose(param)
    return (
        [f"{flag}={value}"]
        if flag.startswith("--") and generator is not None and generator.random() < 0.3
        else [flag, value]
    )


def _chooser(generator: np.random.Generator, files: Sequence[str], command: str) -> Callable[[Any], str]:
    """Make what chooses a value for a parameter, one that it may have or not."""

    # A list of rows may come from a pipe, whose writer is waited for.
    usual_inputs = [name for name in INPUTS if command != "update" or name != "pipe"]

    def choose(param: Any) -> str:
        if param is None:
            return str(generator.choice([*WHOLE, *NUMBERS, *TEXTS, *usual_inputs]))
        slow = SLOW.get(command, {})
        for flag in param.opts:
            if flag in slow:
                return str(generator.choice([*slow[flag], "", "x", "0", "-1", "nan"]))
        kind = type(param.type).__name__
        if generator.random() < 0.05:
            return choose(None)
        if hasattr(param.type, "choices"):
            return str(generator.choice([*map(str, param.type.choices), "", "nonsense", "MEAN"]))
        if "Path" in kind:
            writes = any(word in param.name for word in ("output", "folder", "figures", "html", "markdown"))
            if writes:
                return str(generator.choice(OUTPUTS))
            return str(generator.choice(files if generator.random() < 0.6 else usual_inputs))
        if "Int" in kind:
            return str(generator.choice(WHOLE))
        if "Float" in kind:
            return str(generator.choice(NUMBERS))
        return str(generator.choice(TEXTS))

    return choose


def _prepare(folder: Path, small: Workload) -> dict[str, str]:
    """Make a folder with copies of the inputs and odd files; give the inputs' digests."""
    shutil.copytree(small.inputs, folder / "in")
    os.mkfifo(folder / "pipe")
    for name in ("empty", "old.h5", "locked"):
        (folder / name).write_bytes(b"" if name == "empty" else b"as it was")
    (folder / "locked").chmod(0)
    (folder / "locked folder").mkdir(mode=0o500)
    (folder / "loop").symlink_to("loop")
    (folder / "link.h5").symlink_to("old.h5")
    (folder / "text.csv").write_text("class,group\nä,1\n")
    return _digests(folder)


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "in").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def _unlock(function: Callable[..., Any], path: str, error: Any) -> None:
    Path(path).parent.chmod(0o700)
    function(path)


def _assert_contract(ended: Ended, words: Sequence[str]) -> None:
    assert ended.status in STATUSES, str(ended)
    lines = ended.stderr.splitlines()
    assert "Traceback" not in ended.stderr, str(ended)
    assert all(line.startswith("resmem: ") for line in lines), str(ended)
    errors = [line for line in lines if line.startswith("resmem: error: ")]
    assert len(errors) == (ended.status != 0), str(ended)
    if ended.status not in (0, 3):
        assert not ended.stdout, str(ended)
    if ended.status == 0 and _asks_for_json(words):
        try:
            json.loads(ended.stdout)
        except ValueError:
            raise AssertionError(f"no JSON: {ended}") from None


def _asks_for_json(words: Sequence[str]) -> bool:
    """Tell whether `--json` is an option there, and no other's value."""
    if "--json" not in words or {"--help", "--"} & set(words):
        return False
    _, command = next(given for given in ALL.values() if tuple(words[: len(given[0])]) == given[0])
    before = words[words.index("--json") - 1]
    return not any(
        before in param.opts and not param.is_flag for param in command.params if param.opts[0][0] == "-"
    )


def _assert_files(folder: Path, before: dict[str, str], words: Sequence[str]) -> None:
    left = [path.name for path in folder.rglob("*") if ".resmem-" in path.name]
    assert not left, f"left {left}"
    # An input may be named as an output too, or its folder.
    after = _digests(folder)
    changed = [name for name, digest in before.items() if after.get(name) != digest]
    named = [os.path.normpath(word) for word in _outputs(words) if word]
    allowed = [name for name in changed if any(f"{name}/".startswith(f"{word}/") for word in named)]
    assert changed == allowed, f"changed {changed}"


def _outputs(words: Sequence[str]) -> list[str]:
    """Give the words that follow an option of an output."""
    found = []
    for word, after in zip(words, [*words[1:], ""], strict=True):
        flag, _, value = word.partition("=")
        if "output" in flag or flag in ("-o", "--html", "--markdown", "--figures"):
            found.append(value or after)
    return found
