"""A temporary file beside its target, which replaces it whole or leaves nothing."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from resmem_cli.errors import OutputError, UsageError
from resmem_cli.files import followed

_SUFFIX = ".resmem-tmp"
PART_SUFFIX = ".resmem-part"
"""Of the folders of `resumable`."""

# What this process has begun and not finished, and what removes it. A signal can come between any two steps,
# before the object that would clean up exists.
_unfinished: dict[Path, Callable[[Path], None]] = {}

# A file where the same is told to a process that outlives a crash of this one.
_ledger: int | None = None


class TemporaryFile:
    """A locked temporary in the folder of `target`.

    The lock says that its writer lives, so that `sweep` removes only what a killed process left.

    Raises
    ------
    OutputError
        If the folder does not exist or can't be written, or `target` exists and `clobber` is false.
    """

    def __init__(self, target: Path, *, clobber: bool = True) -> None:
        self.target = resolve_target(target, clobber=clobber)
        self.clobber = clobber
        sweep(self.target.parent)
        self.path, self._descriptor = _create(self.target)

    def sync(self) -> None:
        """Have what was written outlive a power failure; raises `OutputError`."""
        sync_file(self._descriptor, self.target)

    def commit(self) -> None:
        """Put the file, which was synced, in the target's place, durably.

        Raises
        ------
        OutputError
            If the target exists by now and may not be replaced, or the file system refuses.
        """
        try:
            put_in_place(self.path, self.target, clobber=self.clobber)
        except OutputError:
            self.discard()
            raise
        os.close(self._descriptor)
        finished(self.path)

    def give_up(self, error: BaseException) -> None:
        """Remove the file because of an error, whatever it is."""
        self.discard()

    def discard(self) -> None:
        """Remove the file; do nothing if it is gone."""
        _unlink(self.path)
        finished(self.path)
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


def begin(path: Path, remove: Callable[[Path], None]) -> None:
    """Have `path` removed by `discard_unfinished` until `finished` is told of it."""
    _unfinished[path] = remove
    _note(b"+", path)


def finished(path: Path) -> None:
    """Leave `path` alone from now on."""
    _unfinished.pop(path, None)
    _note(b"-", path)


def keep_ledger(descriptor: int) -> None:
    """Write down in a file, for `discard_of_crashed`, what is begun and finished from now on."""
    global _ledger
    _ledger = descriptor


def _note(sign: bytes, path: Path) -> None:
    if _ledger is not None:
        os.write(_ledger, sign + os.fsencode(path.absolute()) + b"\0")


def discard_of_crashed(ledger: bytes) -> None:
    """Remove what a process had begun and not finished, by its ledger, when a crash has ended it."""
    unfinished: set[Path] = set()
    for entry in ledger.split(b"\0")[:-1]:
        change = unfinished.add if entry[:1] == b"+" else unfinished.discard
        change(Path(os.fsdecode(entry[1:])))
    for path in unfinished:
        if path.name.endswith(_SUFFIX):
            _unlink(path)
        elif path.name.endswith(PART_SUFFIX):
            shutil.rmtree(path, ignore_errors=True)


def discard_unfinished() -> None:
    """Remove what this process has begun and is to leave no trace, before it ends by a signal.

    Work that was asked to be resumable is not among it.
    """
    for path, remove in list(_unfinished.items()):
        remove(path)
        finished(path)


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def sync_file(descriptor: int, target: Path) -> None:
    """Have the content of an open file, which is to become `target`, outlive a power failure.

    Raises
    ------
    OutputError
        If it can't be written.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise output_error(target, error) from error


def put_in_place(path: Path, target: Path, *, clobber: bool) -> None:
    """Give a finished file, which was synced, the name of its target, durably.

    Raises
    ------
    OutputError
        If the target exists by now and may not be replaced, or the file system refuses.
    """
    try:
        if clobber:
            os.replace(path, target)
        else:
            os.link(path, target)
            path.unlink()
        _sync_folder(target.parent)
    except FileExistsError as error:
        raise _exists_error(target) from error
    except OSError as error:
        raise output_error(target, error) from error


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


def make_folder(folder: Path) -> None:
    """Make a folder for outputs, if it is not there.

    Raises
    ------
    OutputError
        If it can't be made.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError("not a folder", file=folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error


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


def resolve_target(target: Path, *, clobber: bool) -> Path:
    """Check that `target` can become a file, and follow it where it is a link.

    Raises
    ------
    OutputError
        If the folder does not exist, the target is no regular file, or it exists and `clobber` is false.
    """
    try:
        _check_target(target, clobber=clobber)
        # A link as output stays a link: what it points to is replaced.
        return followed(target)
    except OSError as error:
        raise output_error(target, error) from error


def _check_target(target: Path, *, clobber: bool) -> None:
    if target.is_dir():
        raise OutputError("the output is a folder", file=target, remedy="name a file")
    if target.exists() and not target.is_file():
        # A rename would put a file in the place of /dev/null or of a pipe.
        raise OutputError("the output is not a regular file", file=target, remedy="name a file")
    if followed(target).is_symlink():
        raise OutputError("the output is a link that leads in a circle", file=target, remedy="name a file")
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
        begin(path, _unlink)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            finished(path)
            continue
        except OSError as error:
            finished(path)
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
        finished(path)
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def new_file(target: Path, *, reads: Iterable[Path] = (), clobber: bool = True) -> Iterator[BinaryIO]:
    """Open what becomes a file that is no artifact: whole when the context is left, or not at all.

    Parameters
    ----------
    target : pathlib.Path
    reads : iterable of pathlib.Path
        Inputs, of which `target` must be none.
    clobber : bool
        Whether an existing file may be replaced.

    Raises
    ------
    UsageError
        If the target is one of the inputs.
    OutputError
        If it can't be written.
    """
    refuse_input(target, reads)
    temporary = TemporaryFile(target, clobber=clobber)
    try:
        with temporary.path.open("r+b") as stream:
            yield stream
        temporary.sync()
        temporary.commit()
    except OSError as error:
        temporary.discard()
        raise output_error(target, error) from error
    except BaseException as error:
        temporary.give_up(error)
        raise


@contextlib.contextmanager
def new_files(
    contents: Mapping[Path, bytes], *, reads: Iterable[Path] = (), clobber: bool = True
) -> Iterator[None]:
    """Write several files, which get their names one after another when the context is left, or none does.

    All are whole and synced before the context begins, so that only a renaming can fail after it. What is
    written in the context is in its place before them; parameters and errors are those of `new_file`.
    """
    waiting: list[TemporaryFile] = []
    try:
        for path, content in contents.items():
            refuse_input(path, reads)
            waiting.append(TemporaryFile(path, clobber=clobber))
            try:
                waiting[-1].path.write_bytes(content)
            except OSError as error:
                raise output_error(path, error) from error
            waiting[-1].sync()
        yield
        while waiting:
            waiting.pop(0).commit()
    except BaseException:
        for temporary in waiting:
            temporary.discard()
        raise
