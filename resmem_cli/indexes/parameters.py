"""What kinds of index check of their parameters, and of the numbers in their files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError


def chosen_parameters(
    given: Mapping[str, Any] | None, known: Mapping[str, tuple[int, int, int]], *, kind: str
) -> dict[str, int]:
    """Fill in the whole-number parameters of a kind.

    Parameters
    ----------
    given : mapping or None
        What the user set, by name.
    known : mapping
        Default, least and greatest value of each.
    kind : str
        For the message.

    Raises
    ------
    UsageError
        If a name is unknown or a value out of range.
    """
    chosen = {name: default for name, (default, _, _) in known.items()}
    for name, value in (given or {}).items():
        if name not in known:
            raise UsageError(
                f"{kind} has no such parameter", expected=" or ".join(known) or "none", found=name
            )
        _, least, most = known[name]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise UsageError(
                f"{name} of {kind} out of range", expected=f"{least:,} to {most:,}", found=repr(value)
            )
        chosen[name] = value
    return chosen


def stored_parameters(
    stored: Mapping[str, Any], known: Mapping[str, tuple[int, int, int]], *, kind: str
) -> dict[str, int]:
    """Take the parameters that `chosen_parameters` gave out of those of a file.

    Raises
    ------
    DataError
        If one is missing or out of range.
    """
    try:
        return chosen_parameters({name: stored.get(name) for name in known}, known, kind=kind)
    except UsageError as error:
        raise DataError(
            error.problem,
            field="parameters",
            expected=error.expected,
            found=error.found,
            remedy="build the index again",
        ) from error


def checked_permutation(rows: NDArray[Any], n: int, *, field: str) -> NDArray[np.int64]:
    """Check that stored row numbers are each of n rows once.

    Raises
    ------
    DataError
        If they are not.
    """
    rows = rows.astype(np.int64)
    seen = np.zeros(n, bool)
    if rows.shape == (n,) and rows.min() >= 0 and rows.max() < n:
        seen[rows] = True
    if not seen.all():
        raise DataError(f"is not each of {n:,} rows once", field=field, remedy="build the index again")
    return rows
