"""A memory with every artifact in every format and kind of index, and every command that writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reliability.processes import Ended, ForkServer
from reliability.watching import Watch
from resmem_cli.indexes.base import index_kinds

KINDS = tuple(sorted(index_kinds()))
SAMPLE_DATA = Path(__file__).parents[2] / "sample_data"

_KIND_OPTIONS = {
    "ivf": ("--lists", "8"),
    "ivf-pq": ("--lists", "8"),
    "ivf-rabitq": ("--lists", "8"),
    "factory": ("--factory", "IVF8,SQ8"),
}
_SHARDS = ("residuals-1-of-2.h5", "residuals-2-of-2.h5")
MANIFEST = "manifest.h5"
"""What names them; among the inputs, from where they are."""

_TUNING_GRID = ("-k", "5,20", "--sigma", "0.3,1", "-T", "1.4", "--leave-one-out", "--sample", "50")


@dataclass(frozen=True)
class Command:
    """A command that writes: its inputs are in the folder `in` of where it runs, its outputs beside that.

    Attributes
    ----------
    name : str
        What tells it from the others.
    arguments : tuple of str
        Its words.
    outputs : tuple of str
        The files (or the folder) it writes.
    reads : tuple of str
        The artifacts it reads, in `in`.
    """

    name: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    reads: tuple[str, ...] = ()


def _commands() -> tuple[Command, ...]:
    """Put all commands together, each after those that make what it reads."""
    commands = [
        Command("import", ("import", "in/arrays.npz", "--split", "train", "-o", "train.h5"), ("train.h5",)),
        Command("import test", ("import", "in/arrays.npz", "--split", "test", "-o", "test.h5"), ("test.h5",)),
        Command("residualize", ("residualize", "in/train.h5", "-T", "1.4", "-o", "residuals.h5"),
                ("residuals.h5",), ("train.h5",)),
        Command("residualize --top",
                ("residualize", "in/train.h5", "-T", "1.4", "--top", "3", "-o", "top.h5"),
                ("top.h5",), ("train.h5",)),
    ]  # fmt: skip
    for kind in KINDS:
        index, predictions = f"index-{kind}.h5", f"predictions-{kind}.h5"
        options = ("--kind", kind, *_KIND_OPTIONS.get(kind, ()))
        commands += [
            Command(f"index {kind}", ("index", "in/train.h5", *options, "-o", index),
                    (index,), ("train.h5",)),
            Command(
                f"predict {kind}",
                ("predict", "in/test.h5", "--index", f"in/{index}", "--residuals", "in/residuals.h5",
                 "-k", "20", "-o", predictions),
                (predictions,),
                ("test.h5", index, "residuals.h5"),
            ),
        ]  # fmt: skip
    exact = ("--index", "in/index-exact.h5")
    return (
        *commands,
        Command(
            "predict --compare",
            ("predict", "in/test.h5", *exact, "--residuals", "in/top.h5", "-k", "20", "--compare",
             "-o", "compared.h5"),
            ("compared.h5",),
            ("test.h5", "index-exact.h5", "top.h5"),
        ),
        *(
            Command(f"residualize --shard {number}/2",
                    ("residualize", "in/train.h5", "-T", "1.4", "--shard", f"{number}/2",
                     "-o", f"residuals-{number}-of-2.h5"),
                    (f"residuals-{number}-of-2.h5",), ("train.h5",))
            for number in (1, 2)
        ),
        Command("merge", ("merge", *(f"in/{shard}" for shard in _SHARDS), "-o", "merged.h5"),
                ("merged.h5",), _SHARDS),
        Command("merge --manifest",
                ("merge", *(f"in/{shard}" for shard in _SHARDS), "--manifest", "-o", MANIFEST),
                (MANIFEST,), _SHARDS),
        Command("search", ("search", "in/test.h5", *exact, "-k", "20", "-o", "found.h5"),
                ("found.h5",), ("test.h5", "index-exact.h5")),
        Command(
            "predict --found",
            ("predict", "in/test.h5", *exact, "--residuals", "in/residuals.h5", "-k", "20",
             "--found", "in/found.h5", "-o", "predictions-found.h5"),
            ("predictions-found.h5",),
            ("test.h5", "index-exact.h5", "residuals.h5", "found.h5"),
        ),
        Command("index --train-only",
                ("index", "in/train.h5", "--kind", "ivf-pq", "--lists", "8", "--train-only",
                 "-o", "trained.h5"),
                ("trained.h5",), ("train.h5",)),
        Command("index --trained",
                ("index", "in/train.h5", "--trained", "in/trained.h5", "--shard", "1/2",
                 "-o", "shard-of-index.h5"),
                ("shard-of-index.h5",), ("train.h5", "trained.h5")),
        Command("tune", ("tune", *exact, "--train", "in/train.h5", *_TUNING_GRID, "-o", "tuning.h5"),
                ("tuning.h5",), ("index-exact.h5", "train.h5")),
        Command(
            "predict --tuning",
            ("predict", "in/test.h5", *exact, "--residuals", "in/residuals.h5", "--tuning", "in/tuning.h5",
             "-o", "tuned.h5"),
            ("tuned.h5",),
            ("test.h5", "index-exact.h5", "residuals.h5", "tuning.h5"),
        ),
        Command(
            "update",
            ("update", *exact, "--residuals", "in/residuals.h5", "--add", "in/test.h5",
             "--index-output", "new-index.h5", "--residuals-output", "new-residuals.h5"),
            ("new-index.h5", "new-residuals.h5"),
            ("index-exact.h5", "residuals.h5", "test.h5"),
        ),
        Command(
            "analyze",
            ("analyze", "in/predictions-exact.h5", "in/predictions-ivf.h5", "--html", "report.html",
             "-o", "report.h5"),
            ("report.h5", "report.html"),
            ("predictions-exact.h5", "predictions-ivf.h5"),
        ),
        Command("export .npz", ("export", "in/predictions-exact.h5", "-o", "predictions.npz"),
                ("predictions.npz",), ("predictions-exact.h5",)),
        Command("export .csv", ("export", "in/predictions-exact.h5", "-o", "predictions.csv"),
                ("predictions.csv",), ("predictions-exact.h5",)),
        Command("export .parquet", ("export", "in/predictions-exact.h5", "-o", "predictions.parquet"),
                ("predictions.parquet",), ("predictions-exact.h5",)),
        Command("export .json", ("export", "in/report.h5", "-o", "report.json"), ("report.json",),
                ("report.h5",)),
        Command(
            "theory",
            ("theory", "--dimensions", "2", "--norm-bounds", "0.6", "--rows", "1,8,64", "--repetitions", "4",
             "--test-points", "50", "-o", "theory.h5", "--markdown", "theory.md"),
            ("theory.h5", "theory.md"),
        ),
        Command("run", ("run", "in/arrays.npz", "--sample", "100", "-o", "run"), ("run",)),
        Command(
            "embed",
            ("embed", "in/digits.safetensors", "in/digits_test.npz", "--arch", "in.train_digits:make_network",
             "-o", "digits.h5"),
            ("digits.h5",),
        ),
    )  # fmt: skip


COMMANDS = {command.name: command for command in _commands()}


def drawn_arrays(*, n_train: int, n_test: int, d: int, classes: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw embeddings in clusters, and logits that are right about seven times in ten."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(classes, d)) * 2
    arrays: dict[str, np.ndarray] = {"class_names": np.array([f"class {c}" for c in range(classes)])}
    for split, n in (("train", n_train), ("test", n_test)):
        labels = generator.integers(0, classes, size=n)
        arrays[f"{split}_embeddings"] = (centres[labels] + generator.normal(size=(n, d))).astype(np.float32)
        logits = generator.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
        arrays[f"{split}_logits"] = logits.astype(np.float32)
        arrays[f"{split}_labels"] = labels
        arrays[f"{split}_ids"] = np.array([f"{split}-{row}" for row in range(n)])
    return arrays


class Workload:
    """The inputs, and what every command wrote when nothing disturbed it. Tests leave it as it is.

    Attributes
    ----------
    inputs : pathlib.Path
        The folder of all inputs: arrays, a checkpoint, and every artifact.
    """

    def __init__(self, folder: Path, server: ForkServer, *, n_train: int, n_test: int, d: int, seed: int = 0):
        self.inputs = folder / "in"
        self.inputs.mkdir()
        self._server = server
        np.savez(
            self.inputs / "arrays.npz",
            **drawn_arrays(n_train=n_train, n_test=n_test, d=d, classes=5, seed=seed),
        )
        for name in ("digits.safetensors", "digits_test.npz", "train_digits.py"):
            shutil.copy(SAMPLE_DATA / name, self.inputs)
        self._undisturbed: dict[str, dict[str, bytes]] = {}
        self._seconds_of_writing: dict[str, float] = {}
        for command in COMMANDS.values():
            if command.name not in ("run", "embed"):
                self._make(command)
        # Beside its shards, as it is read.
        self._server.run("merge", *_SHARDS, "--manifest", "-o", MANIFEST, cwd=self.inputs).assert_done()

    def _make(self, command: Command) -> Ended:
        """Run a command with the inputs' folder as its own `in`, and keep what it wrote among the inputs."""
        link = self.inputs.parent / "in"
        assert link == self.inputs
        with Watch(self.inputs.parent) as watch:
            ended = self._server.run(*command.arguments, cwd=self.inputs.parent)
        ended.assert_done()
        self._seconds_of_writing[command.name] = watch.seconds
        self._undisturbed[command.name] = written(self.inputs.parent, command)
        for name in command.outputs:
            (self.inputs.parent / name).rename(self.inputs / name)
        return ended

    def undisturbed(self, command: Command) -> dict[str, bytes]:
        """Give what the command writes when nothing disturbs it, by name of file."""
        if command.name not in self._undisturbed:
            self._make(command)
        return self._undisturbed[command.name]

    def seconds_of_writing(self, command: Command) -> float:
        """Tell how long the command goes on, once it has begun to write, when nothing disturbs it."""
        self.undisturbed(command)
        return self._seconds_of_writing[command.name]

    def place(self, folder: Path, replace: Callable[[str], Path | None] = lambda name: None) -> Path:
        """Make a folder to run commands in: its `in` links to the inputs, or to what replaces some."""
        inputs = folder / "in"
        inputs.mkdir(parents=True)
        for path in self.inputs.iterdir():
            (inputs / path.name).symlink_to(replace(path.name) or path)
        return folder


def written(folder: Path, command: Command) -> dict[str, bytes]:
    """Read what a command has written, by name of file; what is not there is left out."""
    files = {}
    for name in command.outputs:
        path = folder / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                files[str(file.relative_to(folder))] = file.read_bytes()
    return files
