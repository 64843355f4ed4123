"""A folder whose files are the state of a run, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from resmem_cli.artifacts.temporary import make_folder, new_file
from resmem_cli.errors import DataError

_SETTINGS = "settings.json"


class MadeFiles:
    """A folder whose files are made once.

    Every file is written whole or not at all, so a file that is there needs not be made again.

    Parameters
    ----------
    path : pathlib.Path
        Made if need be.
    announce : callable, optional
        Is told what is made, as it begins.

    Raises
    ------
    OutputError
        If it can't be made.
    """

    def __init__(self, path: Path, announce: Callable[[str], None] | None = None) -> None:
        self.path = path
        self._announce = announce
        make_folder(path)

    def make(self, name: str, do: Callable[[Path], object]) -> Path:
        """Give the path of a file; if it is not there, `do` makes it, whole or not at all."""
        path = self.path / name
        if not path.exists():
            if self._announce is not None:
                self._announce(str(path))
            do(path)
        return path

    def json(self, name: str, compute: Callable[[], Any]) -> Any:
        """Give JSON values: those of a file, or computed and written.

        Raises
        ------
        DataError
            If the file is not JSON.
        """
        return read_json(self.make(name, lambda path: write_json(path, compute())))

    def has(self, name: str) -> bool:
        """Tell whether a file was made."""
        return (self.path / name).exists()


class RunFolder(MadeFiles):
    """One run's folder: what it was started with, and what has been made.

    `settings.json` tells the settings, so a file that is there was made by them.

    Parameters
    ----------
    path : pathlib.Path
        Made if need be.
    settings : mapping
        JSON values: all that the run's files depend on, the digests of its data among them.
    announce : callable, optional
        Is told what is made, as it begins.

    Raises
    ------
    DataError
        If the folder holds a run with other settings.
    OutputError
        If it can't be made.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], announce: Callable[[str], None] | None = None
    ) -> None:
        super().__init__(path, announce)
        self.settings = json.loads(json.dumps(settings))
        self._check_settings(path / _SETTINGS)

    def _check_settings(self, path: Path) -> None:
        if not path.exists():
            write_json(path, self.settings)
            return
        before = read_json(path)
        if before != self.settings:
            known = before if isinstance(before, dict) else {}
            differ = [
                name
                for name in sorted({*known, *self.settings})
                if known.get(name) != self.settings.get(name)
            ]
            raise DataError(
                "the folder holds a run with other settings",
                file=path,
                field=", ".join(differ),
                expected=", ".join(str(self.settings.get(name)) for name in differ),
                found=", ".join(str(known.get(name)) for name in differ),
                remedy="give -o another folder, or remove this one",
            )


def damaged(path: Path) -> DataError:
    """Make the error for a file of a run that does not hold what it should."""
    return DataError("not as expected", file=path, remedy="remove it, to have it made again")


def write_json(path: Path, values: Any) -> None:
    """Write JSON values to a file, whole or not at all."""
    with new_file(path) as stream:
        stream.write((json.dumps(values, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON values.

    Raises
    ------
    DataError
        If the file is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"not JSON: {error}", file=path, remedy="remove it, to have it made again") from error
