"""Which array of a file plays which role: the user's choice, and the key names known without one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from resmem_cli.arrays.base import ArrayFile, ArrayInfo
from resmem_cli.errors import DataError
from resmem_cli.types import ArraySelection

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
# The keys of an array saved without a name: by np.save or torch.save, and by np.savez.
_UNNAMED = ("", "arr_0")
_MOST_KEYS_SHOWN = 20


@dataclass(frozen=True)
class Role:
    """A part that an array can play, and the lower-case keys that tell it.

    It is not looked for where the role `unless` was filled before.
    """

    name: str
    keys: tuple[str, ...]
    unless: str | None = None

    def choice(self, selection: ArraySelection) -> str | None:
        """Give what the user chose for this role."""
        chosen: str | None = getattr(selection, self.name)
        return chosen

    @property
    def flag(self) -> str:
        """The command-line option that chooses the array."""
        return f"--{self.name.replace('_', '-')}"


_LABELLING = (
    Role("labels", ("labels", "label", "y", "targets", "vals")),
    Role("ids", ("ids",)),
    Role("class_names", ("class_names", "classes")),
)
# The first role of each table is the main one: its array must be found.
EMBEDDING_ROLES = (
    Role("embeddings", ("embeddings", "embedding", "features", "feats", "x", "z", "keys")),
    Role("logits", ("logits", "outputs", "scores"), unless="probabilities"),
    Role("probabilities", ("probabilities", "probs", "softmax"), unless="logits"),
    *_LABELLING,
)
INPUT_ROLES = (
    Role("inputs", ("inputs", "input", "x", "images", "data", "features", "embeddings", "tokens")),
    *_LABELLING,
)
TOKEN_ROLES = (
    Role("inputs", ("tokens", "input_ids", "token_ids", "inputs", "input", "x")),
    Role("offsets", ("offsets", "doc_offsets", "document_offsets")),
)


@dataclass(frozen=True)
class Located:
    """One array: the open file it is in and its key there."""

    file: ArrayFile
    key: str

    @property
    def info(self) -> ArrayInfo:
        """Its shape and type."""
        return self.file.arrays[self.key]

    @property
    def address(self) -> str:
        """How the user may name it: its key, or the file if it has no key."""
        return self.key or str(self.file.path)

    @property
    def source(self) -> str:
        """The file's name without its folder, and the key: ``train.npz:logits``."""
        return f"{self.file.path.name}:{self.key}" if self.key else self.file.path.name


class KeyTable:
    """One file's keys, read as (split, role) pairs.

    Splits are told by groups (``train/embeddings``), prefixes (``train_embeddings``, also with ``.``
    or ``-``) and suffixes (``x_train``). A key that is only a split's name, as in the files of
    ann-benchmarks, is that split's main array.

    Parameters
    ----------
    file : ArrayFile
        The file.
    roles : tuple of Role
        The roles looked for, the main one first.
    chosen : str, optional
        The split the user chose.
    """

    def __init__(self, file: ArrayFile, roles: tuple[Role, ...], chosen: str | None) -> None:
        self.file = file
        self.main = roles[0]
        named = {
            **_SPLITS,
            **({chosen.lower(): _SPLITS.get(chosen.lower(), chosen.lower())} if chosen else {}),
        }
        self.chosen = named[chosen.lower()] if chosen else None
        self._splits = named
        self._parts = {key: self._split_key(key) for key in file.arrays}
        self._roles: dict[tuple[str | None, str], list[str]] = {}
        names = {name: role.name for role in roles for name in role.keys}
        for key, (split, rest) in self._parts.items():
            role = self.main.name if split and not rest else names.get(rest)
            if role is not None:
                self._roles.setdefault((split, role), []).append(key)
        only = next(iter(file.arrays)) if len(file.arrays) == 1 else None
        if only in _UNNAMED:
            self._roles[None, self.main.name] = [only]

    def _split_key(self, key: str) -> tuple[str | None, str]:
        """Take a key apart into its split and the rest, both lower-case."""
        lowered = key.lower()
        if lowered in self._splits:
            return self._splits[lowered], ""
        names = "|".join(re.escape(name) for name in sorted(self._splits, key=len, reverse=True))
        if found := re.fullmatch(rf"({names})[/_.-](.+)", lowered, re.DOTALL):
            return self._splits[found[1]], found[2]
        if found := re.fullmatch(rf"(.+)[/_.-]({names})", lowered, re.DOTALL):
            return self._splits[found[2]], found[1]
        return None, lowered

    def split_of(self, key: str) -> str | None:
        """Give the split that a key's name tells."""
        return self._parts[key][0]

    def splits(self) -> list[str]:
        """List the splits of which the file has arrays, in the file's order."""
        return list(dict.fromkeys(split for split, _ in self._roles if split is not None))

    def choose_split(self) -> str | None:
        """Decide which split to read: the chosen one, or the only one; None for arrays of no split.

        Raises
        ------
        DataError
            If the chosen split is absent, or there are several to choose from.
        """
        present = self.splits()
        if self.chosen is not None:
            if self.chosen not in present:
                raise DataError(
                    "no arrays of this split",
                    file=self.file.path,
                    field="--split",
                    expected=f"one of {', '.join(present)}" if present else "no --split, as no key names one",
                    found=self.chosen,
                    remedy="choose a split that is present" if present else "leave --split out",
                )
            return self.chosen
        if not present:
            return None
        unsplit = (None, self.main.name) in self._roles
        if len(present) == 1 and not (unsplit and (present[0], self.main.name) in self._roles):
            return present[0]
        raise DataError(
            "arrays of several splits" + (" and of none" if unsplit else ""),
            file=self.file.path,
            expected="one split",
            found=", ".join(present),
            remedy="choose with --split" + (f", or name the array with {self.main.flag}" if unsplit else ""),
        )

    def find(self, role: Role, split: str | None, *, claimed: frozenset[str] = frozenset()) -> str | None:
        """Find the key of a role in a split, or among the keys all splits share.

        Parameters
        ----------
        claimed : frozenset of str
            Keys the user gave another role.

        Raises
        ------
        DataError
            If two keys could be meant.
        """
        for part in dict.fromkeys((split, None)):
            keys = [key for key in self._roles.get((part, role.name), []) if key not in claimed]
            if len(keys) > 1:
                raise DataError(
                    f"several arrays could be the {role.name}",
                    file=self.file.path,
                    expected="one",
                    found=", ".join(keys),
                    remedy=f"choose with {role.flag} KEY",
                )
            if keys:
                return keys[0]
        return None

    def named(self, name: str) -> str | None:
        """Find the key the user named: in full, or without the split that was chosen."""
        if name in self._parts:
            return name
        wanted = [key for key, parts in self._parts.items() if parts == (self.chosen, name.lower())]
        return wanted[0] if self.chosen is not None and len(wanted) == 1 else None

    def missing(self, role: Role, choice: str) -> DataError:
        """Build the error for a role of which no key tells."""
        return DataError(
            f"no array is known as the {role.name}",
            file=self.file.path,
            expected=f"a key such as {', '.join(role.keys[:3])}",
            found=described(self.file) or "no arrays",
            remedy=f"name the array with {role.flag} {choice}",
        )


def described(file: ArrayFile) -> str:
    """List a file's keys with their shapes and types."""
    shown = [f"{key or '(unnamed)'} {info.shape} {info.dtype}" for key, info in file.arrays.items()]
    more = len(shown) - _MOST_KEYS_SHOWN
    return ", ".join(shown[:_MOST_KEYS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def is_file(text: str) -> bool:
    """Whether a path names a file; never fails, whatever the text."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False
