"""Finding the array of every role: in the main file, in others, by name or by the user's choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from resmem_cli.arrays.base import ArrayFile, open_arrays, readers
from resmem_cli.arrays.selection import KeyTable, Located, Role, described, is_file
from resmem_cli.errors import DataError, MissingInputError
from resmem_cli.types import ArraySelection

NONE = "none"
"""The choice that leaves a role's array out, whatever it is called."""


class OpenFiles:
    """The files a selection reaches, each opened once and closed together."""

    def __init__(self) -> None:
        self._files: dict[Path, ArrayFile] = {}

    def open(self, path: Path) -> ArrayFile:
        """Open a file, or give it if it is open."""
        resolved = path.resolve()
        if resolved not in self._files:
            self._files[resolved] = open_arrays(path)
        return self._files[resolved]

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file opened so far."""
        return tuple(self._files)

    def close(self) -> None:
        """Close every file."""
        while self._files:
            self._files.popitem()[1].close()


def locate_arrays(
    files: OpenFiles, path: Path, selection: ArraySelection, roles: tuple[Role, ...]
) -> dict[str, Located]:
    """Find the array of every role.

    Parameters
    ----------
    files : OpenFiles
        Where files are opened; the caller closes them, also after an error.
    path : pathlib.Path
        The main file.
    selection : ArraySelection
        The user's choices, filled before anything is recognised by its name.
    roles : tuple of Role
        The roles to fill, the main one first.

    Returns
    -------
    dict of str to Located
        By role; the main role is always there, the others where an array was found.

    Raises
    ------
    MissingInputError
        If a file is not there.
    DataError
        If a key is unknown, several arrays could be meant, the split is absent or not chosen, or the
        main array can't be told.
    """
    main = roles[0]
    table = KeyTable(files.open(path), roles, selection.split)
    choices = {role: choice for role in roles if (choice := role.choice(selection)) is not None}
    declined = {role.name for role, choice in choices.items() if choice == NONE and role is not main}
    located = {
        role.name: _chosen(files, table, role, choice)
        for role, choice in choices.items()
        if role.name not in declined
    }
    claimed = frozenset(array.key for array in located.values() if array.file is table.file)
    chosen_main = located.get(main.name)
    if chosen_main is None or (chosen_main.file is not table.file and table.splits()):
        split = table.choose_split()
    elif chosen_main.file is table.file and table.chosen is None:
        split = table.split_of(chosen_main.key)
    else:
        split = table.chosen
    for role in roles:
        if role.name not in located and role.unless not in located and role.name not in declined:
            key = table.find(role, split, claimed=claimed)
            if key is not None:
                located[role.name] = Located(table.file, key)
    if main.name not in located:
        raise table.missing(main, "KEY")
    return located


def _chosen(files: OpenFiles, table: KeyTable, role: Role, choice: str) -> Located:
    """Find the array that the user's KEY, FILE or FILE:KEY names; a key goes before a file."""
    key = table.named(choice)
    if key is not None:
        return Located(table.file, key)
    if is_file(choice):
        return _in_file(files.open(Path(choice)), role, table.chosen)
    for name, wanted in _file_and_key(choice):
        if is_file(name):
            other = KeyTable(files.open(Path(name)), (role,), table.chosen)
            found = other.named(wanted)
            if found is None:
                raise _unknown_key(other.file, role, wanted)
            return Located(other.file, found)
    for name in (choice, *(name for name, _ in _file_and_key(choice))):
        if Path(name).suffix.lower() in readers():
            raise MissingInputError(
                "neither a key of the main file nor a file",
                file=name,
                field=role.flag,
                remedy="name a key, a file, or FILE:KEY",
            )
    raise _unknown_key(table.file, role, choice)


def _file_and_key(choice: str) -> Iterator[tuple[str, str]]:
    """Cut at every colon: both file names and keys may hold some."""
    for position, character in enumerate(choice):
        if character == ":":
            yield choice[:position], choice[position + 1 :]


def _in_file(file: ArrayFile, role: Role, split: str | None) -> Located:
    """Find a role's array in a file named without a key: its only array, or the one its key tells."""
    if len(file.arrays) == 1:
        return Located(file, next(iter(file.arrays)))
    table = KeyTable(file, (role,), split)
    absent = table.chosen is not None and table.chosen not in table.splits()
    # A file beside the main one may hold no splits at all; lengths are compared later.
    key = table.find(role, None) if absent else None
    if key is None and (table.splits() or not absent):
        key = table.find(role, table.choose_split())
    if key is None:
        raise table.missing(role, "FILE:KEY")
    return Located(file, key)


def _unknown_key(file: ArrayFile, role: Role, key: str) -> DataError:
    near = difflib.get_close_matches(key.lower(), [name.lower() for name in file.arrays], n=3)
    names = [name for name in file.arrays if name.lower() in near]
    return DataError(
        f"no array {key!r}",
        file=file.path,
        field=role.flag,
        expected=f"a key of the file, a file, or FILE:KEY; the file has {described(file)}",
        remedy=f"did you mean {' or '.join(names)}?" if names else "name one of its keys",
    )
