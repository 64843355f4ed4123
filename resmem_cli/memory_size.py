"""Sizes of memory as people write them, and the memory this process is to stay within."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from resmem_cli.errors import UsageError

DEFAULT_MEMORY = 8 << 30
"""Bytes of anonymous memory to stay within where the user says nothing else."""

LEAST_MEMORY = 16 << 20
"""Less is a slip of the pen, such as `8` for `8G`: the interpreter alone takes more."""

_UNITS = "KMGT"
_budget = DEFAULT_MEMORY


@contextmanager
def memory_budget(n_bytes: int) -> Iterator[None]:
    """Have what is done meanwhile stay within so many bytes: of the whole process, as memory is."""
    global _budget
    before, _budget = _budget, n_bytes
    try:
        yield
    finally:
        _budget = before


def part_of_memory(parts: int, *, most: int) -> int:
    """Give one of so many equal parts of the budget, in bytes, or `most` if that is less."""
    return max(1, min(most, _budget // parts))


def parse_memory(text: str) -> int:
    """Read a size such as `500M`, `8G`, `1.5 GiB` or `2000000`, in bytes.

    K, M, G and T are powers of 1,024, with or without `B` or `iB`, in either case.

    Raises
    ------
    UsageError
        If it is no such size, or not at least one byte.
    """
    match = re.fullmatch(rf"\s*(\d+(?:\.\d*)?)\s*(?:([{_UNITS}])I?)?B?\s*", text.upper(), re.ASCII)
    size = 0
    if match:
        number, unit = match.groups()
        size = int(min(float(number), 2.0**62) * 1024 ** (_UNITS.index(unit) + 1 if unit else 0))
    if not 1 <= size < 1 << 62:
        raise UsageError("no size of memory", expected="a size such as 500M or 8G", found=repr(text))
    return size


def memory_text(n_bytes: float) -> str:
    """Write a number of bytes with two or three digits, such as `1.5 GiB`."""
    size, unit = float(n_bytes), 0
    while size >= 1000 and unit < len(_UNITS):
        size, unit = size / 1024, unit + 1
    return f"{size:.{1 if size < 10 and unit else 0}f} {_UNITS[unit - 1] + 'i' if unit else ''}B"
