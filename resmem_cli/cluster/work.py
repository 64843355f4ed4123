"""The folder beside an output in which its shards are made, and found again when the command is run again."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.artifacts.temporary import make_folder, output_error, resolve_target
from resmem_cli.errors import BusyError, DataError, MissingInputError, ResmemError

_SUFFIX = ".shards-"
_RECORD = "work.json"


class WorkFolder:
    """Where the shards of one output are, for one piece of work.

    Attributes
    ----------
    path : pathlib.Path
        `OUTPUT.shards-…`, named by what is to be done: other options have another folder.
    """

    def __init__(self, output: Path, path: Path) -> None:
        self._output, self.path = output, path

    def shard_count(self, wanted: int | None, default: int) -> int:
        """Give the number of shards: as wanted, or as before, or by default; and remember it."""
        count = wanted or self._read().get("shards") or default
        (self.path / _RECORD).write_text(json.dumps({"shards": count}) + "\n")
        return int(count)

    def file(self, name: str) -> Path:
        """Give the path of a file in it."""
        return self.path / name

    def is_done(self, path: Path) -> bool:
        """Whether a shard is there and whole; one that is not is removed."""
        if not path.exists():
            return False
        try:
            open_artifact(path).close()
        except (DataError, MissingInputError):
            path.unlink(missing_ok=True)
            return False
        return True

    def remove(self) -> None:
        """Remove all of it: the output is there."""
        shutil.rmtree(self.path, ignore_errors=True)

    def remove_others(self) -> None:
        """Remove what other work on the same output has left."""
        for other in self._output.parent.glob(f"{self._output.name}{_SUFFIX}*"):
            if other.absolute() != self.path.absolute() and other.is_dir():
                shutil.rmtree(other, ignore_errors=True)

    def _read(self) -> Mapping[str, Any]:
        try:
            found = json.loads((self.path / _RECORD).read_text())
        except (OSError, ValueError):
            return {}
        count = found.get("shards") if isinstance(found, dict) else None
        return {"shards": count} if type(count) is int and count > 0 else {}


@contextmanager
def work_folder(
    output: Path, command: str, inputs: Mapping[str, Any], config: Any, *, clobber: bool
) -> Iterator[WorkFolder]:
    """Make or find the folder of some work, which no other process may be doing.

    Parameters
    ----------
    output : pathlib.Path
        What is to be made in the end.
    command : str
        By which.
    inputs : mapping of str to path or None
        The files it reads, by role.
    config : dataclass
        Its options.
    clobber : bool
        Whether an existing output may be replaced.

    Raises
    ------
    OutputError
        If the output, or the folder, can't be made.
    BusyError
        If another process does the same.
    """
    target = resolve_target(output, clobber=clobber)
    told = {"command": command, "inputs": {role: _identity(path) for role, path in inputs.items()}}
    options = json.dumps(dataclasses.asdict(config), sort_keys=True, default=str)
    digest = hashlib.sha256(json.dumps([told, options], sort_keys=True).encode()).hexdigest()
    path = target.with_name(f"{target.name}{_SUFFIX}{digest[:12]}")
    make_folder(path)
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise output_error(path, error) from error
    try:
        _hold(lock, output)
        try:
            yield WorkFolder(target, path)
        finally:
            if not any(path.glob("*.h5")):
                shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)


def _hold(lock: int, output: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BusyError("another process is making its shards", file=output) from error
    except OSError:
        return  # a file system without locks


def _identity(path: Any) -> Any:
    """Tell an input from others: an artifact by its content, a file by size and time of change."""
    if path is None:
        return None
    if isinstance(path, tuple | list):
        return [_identity(one) for one in path]
    try:
        with open_artifact(path) as artifact:
            return artifact.header.content_digest
    except ResmemError:
        pass
    try:
        found = Path(path).stat()
    except OSError:
        return str(path)
    return [str(Path(path).absolute()), found.st_size, found.st_mtime_ns]
