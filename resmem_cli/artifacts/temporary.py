"""A temporary file beside its target, which replaces it whole or leaves nothing."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from resmem_cli.errors import OutputError, UsageError

_SUFFIX = ".resmem-tmp"

# Every temporary this process has begun and not finished. A signal's exception can come between any two
# steps, before the object that would clean up exists.
_unfinished: set[Path] = set()


class TemporaryFile:
    """A locked temporary in the folder of `target`.

    The lock says that its writer lives, so that `sweep` removes only what a killed process left.

    Raises
    ------
    OutputError
        If the folder does not exist or can't be written, or `target` exists and `clobber` is false.
    """

    def __init__(self, target: Path, *, clobber: bool = True) -> None:
        try:
            _check_target(target, clobber=clobber)
            # A link as output stays a link: what it points to is replaced.
            self.target = target.resolve()
        except OSError as error:
            raise output_error(target, error) from error
        self.clobber = clobber
        sweep(self.target.parent)
        self.path, self._descriptor = _create(self.target)

    def commit(self) -> None:
        """Put the file in the target's place, durably.

        Raises
        ------
        OutputError
            If the target exists by now and may not be replaced, or the file system refuses.
        """
        try:
            os.fsync(self._descriptor)
            if self.clobber:
                os.replace(self.path, self.target)
            else:
                os.link(self.path, self.target)
                self.path.unlink()
            _sync_folder(self.target.parent)
        except FileExistsError as error:
            self.discard()
            raise _exists_error(self.target) from error
        except OSError as error:
            self.discard()
            raise output_error(self.target, error) from error
        os.close(self._descriptor)
        _unfinished.discard(self.path)

    def discard(self) -> None:
        """Remove the file; do nothing if it is gone."""
        _remove(self.path)
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


def discard_unfinished() -> None:
    """Remove every temporary of this process, before it ends by a signal."""
    for path in list(_unfinished):
        _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    _unfinished.discard(path)


def sweep(folder: Path) -> list[Path]:
    """Remove temporaries in `folder` whose writer no longer lives; return what was removed."""
    swept = []
    for path in folder.glob(f".*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                swept.append(path)
            finally:
                os.close(descriptor)
    return swept


def refuse_input(output: Path, inputs: Iterable[Path]) -> None:
    """Raise `UsageError` if the output is one of the inputs, which it would replace."""
    for path in inputs:
        with contextlib.suppress(OSError):
            if output.samefile(path):
                raise UsageError("the output is also an input", file=output, remedy="name another file")


def output_error(target: Path, error: OSError) -> OutputError:
    """Tell in one line why `target` can't be written."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    remedy = {
        errno.ENOSPC: "free some space or write elsewhere",
        errno.EDQUOT: "free some of your quota or write elsewhere",
        errno.EFBIG: "raise the file size limit (ulimit -f)",
        errno.EACCES: "check the folder's permissions",
        errno.EPERM: "check the folder's permissions",
        errno.EROFS: "write to another file system",
    }.get(error.errno or 0, "check the folder and the disk")
    return OutputError(f"can't be written: {reason}", file=target, remedy=remedy)


def _check_target(target: Path, *, clobber: bool) -> None:
    if target.is_dir():
        raise OutputError("the output is a folder", file=target, remedy="name a file with -o")
    if target.exists() and not target.is_file():
        # A rename would put a file in the place of /dev/null or of a pipe.
        raise OutputError("the output is not a regular file", file=target, remedy="name a file with -o")
    if not target.parent.is_dir():
        raise OutputError(
            "the output's folder does not exist", file=target, remedy=f"create it: mkdir -p {target.parent}"
        )
    if not clobber and target.exists():
        raise _exists_error(target)


def _exists_error(target: Path) -> OutputError:
    return OutputError("the output exists and --no-clobber was given", file=target)


def _create(target: Path) -> tuple[Path, int]:
    while True:
        path = target.parent / f".{secrets.token_hex(8)}{_SUFFIX}"
        _unfinished.add(path)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            _unfinished.discard(path)
            continue
        except OSError as error:
            _unfinished.discard(path)
            raise output_error(target, error) from error
        with contextlib.suppress(BlockingIOError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:
                # A file system without locks: `sweep` can't lock there either, so it removes nothing.
                return path, descriptor
            # Another process's sweep may have had the lock for a moment and removed the name.
            if path.exists():
                return path, descriptor
        _unfinished.discard(path)
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
