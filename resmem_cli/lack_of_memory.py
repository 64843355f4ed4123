"""Which errors mean that memory ran out: libraries say it in many ways."""

from __future__ import annotations

import errno
import mmap
import re

from resmem_cli.errors import MissingExtraError, ResmemError

# In errors of kinds that can mean anything.
_NO_MEMORY = re.compile(
    "bad_alloc|can ?not allocate|can't allocate|memory allocation failed|out of memory|failed to map segment"
    "|cannot map zero-fill|can't start new thread|not enough memory",
    re.IGNORECASE,
)
_KINDS = (ImportError, OSError, RuntimeError, SystemError, ValueError, KeyError)

# Bytes that are hardly anything beside the tool's libraries.
_LITTLE = 64 << 20


def is_lack_of_memory(error: BaseException) -> bool:
    """Tell whether an error, or what one of the tool's own errors was made from, means that memory ran out.

    A file may ask for more than any machine has, and is damaged then; but where there is no room for a
    little either, that is none of the file's fault.
    """
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, ResmemError):
        reason = error.__cause__ or error.__context__
        if reason is None or not is_lack_of_memory(reason):
            return False
        # A package that is there, but for which there was no room, is not missing.
        return isinstance(error, MissingExtraError) or not is_there_room()
    if isinstance(error, OSError) and error.errno:
        return error.errno == errno.ENOMEM
    # h5py chooses the kind by where in HDF5 it happened.
    return isinstance(error, _KINDS) and _NO_MEMORY.search(str(error)) is not None


def is_there_room() -> bool:
    """Tell whether this process can have some memory more."""
    try:
        mmap.mmap(-1, _LITTLE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return False
    return True
