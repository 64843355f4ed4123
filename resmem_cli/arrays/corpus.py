"""A folder of texts to learn a language from: which files, and their parts for training and testing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resmem_cli.arrays.folder import FolderDigest, list_folder
from resmem_cli.arrays.texts import matches_glob
from resmem_cli.errors import DataError, MissingInputError

_LEAST_TEXTS = 3  # one to learn from, one to choose on, one to test with
_TOLD = 3


@dataclass(frozen=True)
class Corpus:
    """The texts of a folder.

    Attributes
    ----------
    folder : pathlib.Path
    names : tuple of str
        Relative POSIX paths, sorted.
    digest : str
        Of all names and contents.
    notices : tuple of str
        What was left out, and why.
    """

    folder: Path
    names: tuple[str, ...]
    digest: str
    notices: tuple[str, ...] = ()

    def split(self, held_out: float, *, seed: int) -> dict[str, list[str]]:
        """Deal the texts out at random.

        Parameters
        ----------
        held_out : float
            The share of them, at least one, that each of `validation` and `test` gets.
        seed : int

        Returns
        -------
        dict of str to list of str
            The names of `train`, `validation` and `test`, in random order.
        """
        order = [self.names[i] for i in np.random.default_rng(seed).permutation(len(self.names))]
        n_held = min(max(1, round(held_out * len(order))), (len(order) - 1) // 2)
        return {
            "train": order[2 * n_held :],
            "validation": order[:n_held],
            "test": order[n_held : 2 * n_held],
        }

    def texts(self, names: Sequence[str]) -> Iterator[str]:
        """Read texts, without the mark of UTF-8 that some begin with.

        Raises
        ------
        MissingInputError, DataError
            If one can't be read, or is not UTF-8, any more.
        """
        for name in names:
            content = _read(self.folder / name)
            try:
                yield content.decode("utf-8").removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                raise DataError("a text that is not UTF-8 any more", file=self.folder / name) from error


def find_corpus(folder: Path, *, glob: str, exclude: Sequence[str] = ()) -> Corpus:
    """Find the texts of a folder.

    Files that are empty or not UTF-8 are left out, the latter with a notice; hidden files, and links that
    lead out of the folder, as everywhere.

    Parameters
    ----------
    folder : pathlib.Path
    glob : str
        Which files, by their path in the folder: ``*`` and ``?`` stay inside one name, ``**`` is any number
        of folders.
    exclude : sequence of str
        Names of files and folders to leave out, wherever they are.

    Raises
    ------
    MissingInputError
        If it is no folder that can be read.
    DataError
        If there are no three texts in it.
    """
    if not folder.is_dir():
        raise MissingInputError("not a folder" if folder.exists() else "no such folder", file=folder)
    pattern, left_out = glob.split("/"), set(exclude)

    def wanted(name: str) -> bool:
        parts = name.split("/")
        return not left_out & set(parts) and matches_glob(parts, pattern)

    listing = list_folder(folder, wanted)
    names, strange, digest = [], [], FolderDigest()
    for name in listing.files:
        content = _read(folder / name)
        try:
            if not content.decode("utf-8").strip():
                continue
        except UnicodeDecodeError:
            strange.append(name)
            continue
        names.append(name)
        digest.add(name, hashlib.sha256(content).hexdigest())
    if len(names) < _LEAST_TEXTS:
        raise DataError(
            "too few texts",
            file=folder,
            expected=f"at least {_LEAST_TEXTS} files in UTF-8 that match {glob}",
            found=len(names),
            remedy="choose others with --glob, such as '**/*.txt'",
        )
    notices = list(listing.notices(folder))
    if strange:
        more = f" and {len(strange) - _TOLD:,} more" if len(strange) > _TOLD else ""
        notices.append(f"{folder}: left out, for they are not UTF-8: {', '.join(strange[:_TOLD])}{more}")
    return Corpus(folder, tuple(names), digest.hexdigest(), tuple(notices))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MissingInputError(f"can't be read: {error.strerror}", file=path) from error
