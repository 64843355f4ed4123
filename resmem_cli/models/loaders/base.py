"""What a reader of checkpoints offers, and the registry that finds the one for a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import TypeVar

from resmem_cli.errors import DataError
from resmem_cli.files import file_digest, require_file
from resmem_cli.registry import import_modules


class Checkpoint(ABC):
    """A checkpoint of one kind.

    Attributes
    ----------
    path : pathlib.Path
        The file or folder.
    arch : str or None
        The architecture that the checkpoint describes by itself, in the form `make_network` takes.
    fallback : bool
        Whether the reader takes what no other one recognises.
    """

    fallback = False
    arch: str | None = None

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Tell from its content whether a file (or folder) is of this kind, running nothing from it."""

    @abstractmethod
    def read(self, *, trusted: bool) -> object:
        """Read weights or a network, on the CPU.

        Parameters
        ----------
        trusted : bool
            Whether code that the checkpoint carries may run.

        Returns
        -------
        object
            A state dict or a network, bare or in the mappings that training scripts put around it.

        Raises
        ------
        DataError
            If it is damaged, or needs to run code and is not trusted.
        MissingInputError
            If a file of it can't be opened.
        MissingExtraError
            If reading it needs a package that is not installed.
        """

    def digest(self) -> str:
        """SHA-256 of what is read, in hexadecimal."""
        return file_digest(self.path)


_Reader = TypeVar("_Reader", bound=type[Checkpoint])
_READERS: list[type[Checkpoint]] = []


def loader(reader: _Reader) -> _Reader:
    """Register a reader of checkpoints."""
    _READERS.append(reader)
    return reader


@cache
def loaders() -> tuple[type[Checkpoint], ...]:
    """Every registered reader, the fallback last; importing the package's modules registers them."""
    import_modules(__name__.rpartition(".")[0])
    return tuple(sorted(_READERS, key=lambda reader: reader.fallback))


def open_checkpoint(path: Path) -> Checkpoint:
    """Find the reader of a checkpoint.

    Raises
    ------
    MissingInputError
        If there is no such file or folder, or it can't be opened.
    DataError
        If it is an archive whose listing is damaged.
    """
    if not path.is_dir():
        require_file(path)
    return next(reader(path) for reader in loaders() if reader.fallback or reader.recognises(path))


def code_refused(path: Path, problem: str, *, found: object = None) -> DataError:
    """Make the refusal of a checkpoint that can run code and was not trusted."""
    return DataError(
        problem,
        file=path,
        found=found,
        remedy="if you made it or trust who did, give --trust-checkpoint; "
        "else have its weights saved alone: torch.save(network.state_dict(), path), and give --arch",
    )
