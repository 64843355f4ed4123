"""Whose exported arrays are in which files: `reproduce imagenet`'s folder, and its `--model`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from resmem_cli.arrays.base import open_arrays, readers
from resmem_cli.arrays.selection import EMBEDDING_ROLES, KeyTable
from resmem_cli.artifacts.reader import is_artifact
from resmem_cli.errors import DataError, MissingInputError, UsageError
from resmem_cli.files import require_file
from resmem_cli.stages.reproduce.published_imagenet import IMAGENET
from resmem_cli.types import ArraySelection

LAYOUT = "a0.35.npz, a0.35_train.npz with a0.35_test.npz, or a0.35_train_embeddings.npy and so on"
"""How files may be named, for messages."""

# ImageNet's validation images are what the paper tests on.
_SPLITS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
_ROLES = {key: role.name for role in EMBEDDING_ROLES for key in role.keys}
_NAME = re.compile(r"(?:mobilenet[-_]?v2[-_])?a?(\d+\.\d+)", re.IGNORECASE)
_PARTS = ("logits", "probabilities", "labels", "ids", "class_names")


@dataclass(frozen=True)
class Source:
    """Embeddings, logits and labels of some examples.

    Attributes
    ----------
    path : pathlib.Path
        The file of the embeddings, or of all.
    arrays : ArraySelection
        Where the others are.
    """

    path: Path
    arrays: ArraySelection = field(default_factory=ArraySelection)


@dataclass(frozen=True)
class Model:
    """A network's exported arrays.

    Attributes
    ----------
    name : str
        As in table 2, such as `a0.35`, or another.
    train, test : Source
    """

    name: str
    train: Source
    test: Source


def model_name(text: str) -> str:
    """Give a width its name in table 2: `0.50`, `a0.5` and `MobileNet-V2-a0.5` are `a0.5`; others stay.

    Raises
    ------
    UsageError
        If it can't be a folder's name.
    """
    if match := _NAME.fullmatch(text):
        return _width_name(match)
    if not text or text.startswith(".") or "/" in text or "\0" in text:
        raise UsageError("no name for a model", expected="one such as a0.35", found=repr(text))
    return text


def model_of(text: str) -> Model:
    """Read `NAME=TRAIN[,TEST]`; without TEST the splits `train` and `test` of one file.

    Raises
    ------
    UsageError
        If it is not of that form.
    MissingInputError
        If there is no such file.
    """
    name, _, paths = text.partition("=")
    files = paths.split(",")
    if not name or len(files) > 2 or not all(files):
        raise UsageError("not a model", field="--model", expected="NAME=TRAIN[,TEST]", found=repr(text))
    for file in files:
        require_file(Path(file))
    if len(files) == 1:
        return Model(model_name(name), *_both(Path(files[0])))
    return Model(model_name(name), *(Source(Path(file)) for file in files))


def models_in(folder: Path) -> list[Model]:
    """Find the models whose files a folder holds, by their names.

    All of a model's names begin with the model's, or are in a subfolder called like it. What follows says
    what a file holds: nothing where both splits are in it, `train` or `test`, or these with an array's name,
    one file an array. Arrays of a split that all models share need no model's name.

    Parameters
    ----------
    folder : pathlib.Path

    Returns
    -------
    list of Model
        Those of table 2 first, in its order.

    Raises
    ------
    MissingInputError
        If there is no such folder, or no model in it, or a part of one is missing.
    DataError
        If two files could be meant.
    """
    if not folder.is_dir():
        problem = "not a folder" if folder.exists() else "no such folder"
        raise MissingInputError(problem, file=folder, remedy="name a folder, or give --model")
    found: dict[str, _Files] = {}
    shared = _Files(folder, "")
    for name, rest, path in _entries(folder):
        part = _part(rest)
        if part is not None:
            (shared if name is None else found.setdefault(name, _Files(folder, name))).add(part, path)
    if not found:
        raise MissingInputError("no model's files in the folder", file=folder, expected=LAYOUT)
    order = [*IMAGENET, *sorted(set(found) - set(IMAGENET))]
    return [found[name].model(shared) for name in order if name in found]


_Part = tuple[str | None, str | None]
"""Split and role; None where a file holds all of them."""


@dataclass
class _Files:
    """The files of one model, or those that models share, by what they hold."""

    folder: Path
    name: str
    by_part: dict[_Part, Path] = field(default_factory=dict)

    def add(self, part: _Part, path: Path) -> None:
        if part in self.by_part:
            raise DataError(
                "two files could be meant",
                file=self.folder,
                field=self.name or None,
                found=f"{self.by_part[part].name}, {path.name}",
                remedy="rename one, or name the files with --model",
            )
        self.by_part[part] = path

    def model(self, shared: _Files) -> Model:
        """Put the files together; those that models share too, where a part has no file of its own."""
        if (None, None) in self.by_part and len(self.by_part) == 1:
            return Model(self.name, *_both(self.by_part[None, None]))
        return Model(self.name, self._source(("train",), shared), self._source(("test", "val"), shared))

    def _source(self, splits: Sequence[str], shared: _Files) -> Source:
        for split in splits:
            if whole := self.by_part.get((split, None)):
                return Source(whole)
            if embeddings := self.by_part.get((split, "embeddings")):
                chosen = {
                    role: str(path)
                    for role in _PARTS
                    if (path := self._find(split, role) or shared._find(split, role)) is not None
                }
                return Source(embeddings, ArraySelection(**chosen))
        raise MissingInputError(
            f"no file of the embeddings of {splits[0]}",
            file=self.folder,
            field=self.name,
            expected=LAYOUT,
            found=", ".join(sorted(path.name for path in self.by_part.values())),
        )

    def _find(self, split: str, role: str) -> Path | None:
        return self.by_part.get((split, role)) or self.by_part.get((None, role))


def _entries(folder: Path) -> Iterator[tuple[str | None, str, Path]]:
    """Give each file of arrays with the model its name begins with, and what follows without the suffix."""
    for path in sorted(folder.iterdir()):
        match = _NAME.match(path.name)
        if path.is_dir():
            if match and match.end() == len(path.name):
                inner = [file for file in sorted(path.iterdir()) if _is_arrays(file)]
                for file in inner:
                    rest = "" if len(inner) == 1 and _part(file.stem) is None else file.stem
                    yield _width_name(match), rest, file
        elif _is_arrays(path):
            rest = path.name[match.end() :] if match else f"_{path.name}"
            yield _width_name(match) if match else None, rest.removesuffix(path.suffix)[1:], path


def _is_arrays(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix.lower() in readers()


def _part(text: str) -> _Part | None:
    """Take `train_logits`, `logits.train`, `train`, `logits` or nothing apart; None if it is no such name."""
    words = text.lower()
    if not words or words in _SPLITS:
        return _SPLITS.get(words), None
    if words in _ROLES:
        return None, _ROLES[words]
    splits, roles = ("|".join(sorted(names, key=len, reverse=True)) for names in (_SPLITS, _ROLES))
    for split, role in ((1, 2), (2, 1)):
        pattern = f"({splits})[_.-]({roles})" if split == 1 else f"({roles})[_.-]({splits})"
        if match := re.fullmatch(pattern, words):
            return _SPLITS[match[split]], _ROLES[match[role]]
    return None


def _width_name(match: re.Match[str]) -> str:
    width = float(match[1])
    return next((name for name in IMAGENET if float(name[1:]) == width), f"a{width:g}")


def _both(path: Path) -> tuple[Source, Source]:
    """Give both splits of a file."""
    if is_artifact(path):
        raise DataError(
            "an embeddings artifact holds one split",
            file=path,
            expected="training and test rows",
            remedy="name two files: a0.35_train.h5 and a0.35_test.h5, or --model NAME=TRAIN,TEST",
        )
    with open_arrays(path) as arrays:
        splits = KeyTable(arrays, EMBEDDING_ROLES, None).splits()
    test = "val" if "val" in splits and "test" not in splits else "test"
    return Source(path, ArraySelection(split="train")), Source(path, ArraySelection(split=test))
