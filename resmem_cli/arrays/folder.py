"""Folders of input files: which files count, in which order, and one digest for all of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, MissingInputError


@dataclass(frozen=True)
class FolderListing:
    """The files of a folder, and the links that were passed over.

    Attributes
    ----------
    files : list of str
        Relative POSIX paths, sorted.
    n_links : int
        Links to folders, and links that lead out of the folder or nowhere: none is followed.
    """

    files: list[str]
    n_links: int

    def notices(self, root: Path) -> tuple[str, ...]:
        """Say how many links were passed over."""
        if not self.n_links:
            return ()
        what = "1 link was" if self.n_links == 1 else f"{self.n_links:,} links were"
        return (f"{root.name}: {what} left out: links to folders or to files elsewhere are not followed",)


def list_folder(root: Path, wanted: Callable[[str], bool]) -> FolderListing:
    """List the files below a folder.

    Hidden files and folders, whose names begin with a dot, are left out, as are links to folders and
    links that lead out of `root`.

    Parameters
    ----------
    root : pathlib.Path
        The folder.
    wanted : callable
        Whether a file counts, by its relative POSIX path.

    Raises
    ------
    MissingInputError
        If a folder can't be listed.
    """
    files: list[str] = []
    n_links = 0
    inside = root.resolve()
    for folder, folders, names in os.walk(root, onerror=_unreadable):
        base = Path(folder).relative_to(root)
        linked = [name for name in folders if _shown(name) and os.path.islink(os.path.join(folder, name))]
        n_links += len(linked)
        folders[:] = [name for name in folders if _shown(name) and name not in linked]
        for name in names:
            relative = (base / name).as_posix()
            if not _shown(name) or not wanted(relative):
                continue
            path = root / relative
            if path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(inside)):
                n_links += 1
            elif path.is_file():
                files.append(relative)
    return FolderListing(sorted(files), n_links)


def encoded_names(root: Path, names: Iterable[str]) -> NDArray[np.bytes_]:
    """Give names as UTF-8 bytes of fixed length; raise `DataError` for one that is not UTF-8."""
    try:
        return np.array([name.encode() for name in names], dtype="S")
    except UnicodeEncodeError as error:
        raise DataError(
            "a file name that is not UTF-8",
            file=root,
            expected="UTF-8",
            found=os.fsencode(error.object),
            remedy="rename the file",
        ) from error


class FolderDigest:
    """SHA-256 over the files' digests and names: that of what ``sha256sum FILES…`` prints, files sorted."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, relative: str, digest: str) -> None:
        """Take in one file; in rising order of the names."""
        self._hash.update(f"{digest}  {relative}\n".encode())

    def hexdigest(self) -> str:
        """Give the digest of all files so far."""
        return self._hash.hexdigest()


def _shown(name: str) -> bool:
    return not name.startswith(".")


def _unreadable(error: OSError) -> None:
    raise MissingInputError(
        f"can't be listed: {error.strerror}", file=error.filename, remedy="check the folder's permissions"
    ) from error
