"""An artifact's unfinished work, in a folder beside its target that outlives a killed process."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from resmem_cli.artifacts.journal import Journal, Record, Written, read_journal
from resmem_cli.artifacts.temporary import (
    PART_SUFFIX,
    begin,
    finished,
    output_error,
    put_in_place,
    resolve_target,
    sweep,
    sync_file,
)
from resmem_cli.errors import BusyError, OutputError, ResourceError
from resmem_cli.files import followed

_LOCK = "lock"
_ARTIFACT = "artifact.h5"
_JOURNAL = "journal.jsonl"

# The work of this process; the work it restores from; what is being removed. A folder's name changes
# atomically, so at any moment one of the first two holds all that was ever restored or written:
# the older one until all of it is in the newer one too.
_WORK, _OLD, _GONE = "work", "old", "gone"

# Errors after which the same command may go on where it stopped.
_MAY_PASS = (OutputError, ResourceError, MemoryError)

_LOCK_ATTEMPTS = 100


class ResumableFile:
    """A file to be written to `path`, which replaces `target` whole when it is committed.

    Parameters
    ----------
    target : pathlib.Path
        The file to create or replace.
    header : mapping
        JSON values that identify the work; only work of the same header is gone on with.
    clobber : bool
        Whether a file at `target` may be replaced.
    resume : bool
        Whether to go on with interrupted work, and to keep this one if it is interrupted.

    Attributes
    ----------
    path : pathlib.Path
        An empty file.
    journal : Journal
        For what is written to it.
    discarded : bool
        Whether interrupted work was found that is of no use, and removed.

    Raises
    ------
    BusyError
        If another writer of the same target lives.
    OutputError
        As `TemporaryFile`.
    """

    def __init__(self, target: Path, header: object, *, clobber: bool, resume: bool) -> None:
        self.target = resolve_target(target, clobber=clobber)
        self._clobber = clobber
        self._resume = resume
        sweep(self.target.parent)
        self._folder = _folder_of(self.target)
        try:
            self._lock = _lock(self._folder, self.target)
            if not resume:
                begin(self._folder, _clear)
            try:
                self._interrupted: Iterator[Record] | None = None
                self._settle(header)
                work = self._folder / _WORK
                work.mkdir()
                self.path = work / _ARTIFACT
                self.journal = Journal(work / _JOURNAL, header)
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except BaseException:
                if not resume:
                    _clear(self._folder)
                finished(self._folder)
                os.close(self._lock)
                raise
        except OSError as error:
            raise output_error(self.target, error) from error

    def _settle(self, header: object) -> None:
        """Leave of what was interrupted what can be restored, as the older of two generations."""
        work, old = self._folder / _WORK, self._folder / _OLD
        _remove(self._folder / _GONE)
        if old.exists():
            _remove(work)  # restoring from the older one was interrupted
        elif work.exists():
            work.rename(old)
        if self._resume:
            self._interrupted = read_journal(old / _JOURNAL, header)
        self.discarded = self._interrupted is None and old.exists()
        if self.discarded:
            self.forget_interrupted()

    def interrupted(self) -> Iterator[tuple[Record, bytes]]:
        """Give what the interrupted work has in its file, in the order in which it came there.

        Each record of its journal, a written block with its bytes, as long as they are what was written.
        When all of it is in the new file and journal, call `forget_interrupted`.
        """
        for record in self._interrupted or ():
            content = b""
            if isinstance(record, Written):
                content = _read(self._folder / _OLD / _ARTIFACT, record.offset, record.n_bytes)
                if hashlib.sha256(content).hexdigest() != record.sha256:
                    return
            yield record, content

    def forget_interrupted(self) -> None:
        """Remove the interrupted work, if there is any."""
        self._interrupted = None
        old, gone = self._folder / _OLD, self._folder / _GONE
        if old.exists():
            old.rename(gone)
            _remove(gone)

    def sync(self) -> None:
        """Have what was written outlive a power failure; raises `OutputError`."""
        sync_file(self._descriptor, self.target)

    def commit(self) -> None:
        """Put the file, which was synced, in the target's place, and remove all that was needed to resume.

        Raises
        ------
        OutputError
            If the target exists by now and may not be replaced, or the file system refuses.
        """
        try:
            put_in_place(self.path, self.target, clobber=self._clobber)
        except OutputError as error:
            self.give_up(error)
            raise
        self._end(keep=False)

    def give_up(self, error: BaseException) -> None:
        """End the work because of an error, keeping it if it is to be resumed and the error may pass."""
        # What is no `Exception` is an interrupt.
        may_pass = isinstance(error, _MAY_PASS) or not isinstance(error, Exception)
        self._end(keep=self._resume and may_pass)

    def _end(self, *, keep: bool) -> None:
        for close in (self.journal.close, lambda: os.close(self._descriptor)):
            with contextlib.suppress(OSError):
                close()
        if not keep:
            _clear(self._folder)
        finished(self._folder)
        os.close(self._lock)


def discard_interrupted(target: Path) -> bool:
    """Remove interrupted resumable work on `target` whose writer no longer lives; tell whether there was any.

    For writers that are not resumable, which would leave it lying there for good.
    """
    folder = _folder_of(followed(target))
    if not folder.is_dir():
        return False
    try:
        lock = _lock(folder, target)
    except (BusyError, OSError):
        return False
    _clear(folder)
    os.close(lock)
    return True


def _folder_of(target: Path) -> Path:
    # A digest, for the name itself may be as long as a name can be.
    return target.parent / f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}{PART_SUFFIX}"


def _lock(folder: Path, target: Path) -> int:
    """Make the folder if it is not there, and lock it."""
    path = folder / _LOCK
    for _ in range(_LOCK_ATTEMPTS):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            continue  # the folder's last owner has just removed it
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            break
        except OSError:
            return descriptor  # a file system without locks
        with contextlib.suppress(FileNotFoundError):
            # The last owner may have removed the name between the opening and the locking.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)
    raise BusyError("another process is writing it", file=target, remedy="wait for it or stop it")


def _clear(folder: Path) -> None:
    """Remove a folder that this process has locked, the lock last."""
    for name in (_WORK, _OLD, _GONE):
        _remove(folder / name)
    with contextlib.suppress(OSError):
        (folder / _LOCK).unlink()
        folder.rmdir()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path, offset: int, n_bytes: int) -> bytes:
    """Read bytes of a file, fewer if there are no more or they can't be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, n_bytes, offset)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
