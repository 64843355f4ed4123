"""Files: whether they can be read, where links lead, and the digest of their bytes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from resmem_cli.errors import MissingInputError


def require_file(path: Path) -> None:
    """Refuse a path that is no readable file, before a library meets it.

    Raises
    ------
    MissingInputError
        If it is missing, a folder, something else than a file, or not readable.
    """
    try:
        # Looked at before it is opened: opening a named pipe would wait for its writer.
        if path.is_dir():
            raise MissingInputError("a folder, not a file", file=path)
        if not path.is_file():
            raise MissingInputError("no such file", file=path)
        path.open("rb").close()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise MissingInputError(f"can't be read: {reason}", file=path) from error


def followed(path: Path | str) -> Path:
    """Follow links as far as they lead; where they lead in a circle a link is left, which is no file."""
    # Path.resolve raises a RuntimeError for a circle until Python 3.12.
    return Path(os.path.realpath(path))


def read_stream(path: Path) -> bytes:
    """Read all of a file, or of a pipe such as the shell's ``<(command)``; raises as `require_file`."""
    if not path.is_fifo():
        require_file(path)
    return path.read_bytes()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks; raises as `require_file`."""
    require_file(path)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_room(path: Path, size: int) -> None:
    """Make sure that there is room for what is still to be written of a file, or raise `OSError`.

    HDF5 crashes where it has none for its metadata when a file is closed.
    """
    written = path.stat().st_size
    if written < size and hasattr(os, "posix_fallocate"):
        file = os.open(path, os.O_WRONLY)
        try:
            os.posix_fallocate(file, written, size - written)
            # Of what it has allocated itself HDF5 gives back what it did not need.
            os.ftruncate(file, written)
        finally:
            os.close(file)
