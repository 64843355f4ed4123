"""What memory did to queries of one kind: of a class, a distance, a confidence, a frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.columns import check_columns, check_range
from resmem_cli.errors import DataError, UsageError

# Numbers with more decimals, or as large, are told with an exponent where that is shorter.
_MOST_DECIMALS = 7
_LARGEST_FIXED = 1e15


@dataclass(frozen=True)
class Group:
    """What memory did to the n queries of one group.

    Attributes
    ----------
    name : str
        The group.
    n : int
        Its queries.
    base_accuracy, accuracy : float
        Without and with memory.
    gain : float
        `accuracy − base_accuracy = tpr − fpr`.
    tpr, fpr : float
        Shares of the group's queries that memory turned right, and wrong.
    """

    name: str
    n: int
    base_accuracy: float
    accuracy: float
    gain: float
    tpr: float
    fpr: float


def by_group(
    groups: NDArray[Any],
    names: Sequence[str],
    labels: NDArray[Any],
    base_predicted: NDArray[Any],
    predicted: NDArray[Any],
) -> list[Group]:
    """Compare with and without memory in each group of queries.

    Parameters
    ----------
    groups : (n,) integers
        Each query's group, a place in `names`.
    names : sequence of str
        The groups' names.
    labels, base_predicted, predicted : (n,) integers
        True classes, and the answers without and with memory.

    Returns
    -------
    list of Group
        In the order of `names`, groups without queries left out.

    Raises
    ------
    DataError
        If the columns are not of one length, or a group has no name.
    """
    check_columns(groups=groups, labels=labels, base_predicted=base_predicted, predicted=predicted)
    check_range(groups, len(names), "groups")
    groups = groups.astype(np.int64)  # bincount takes no uint64
    right, base_right = predicted == labels, base_predicted == labels

    def count(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(groups[chosen], minlength=len(names))

    n = np.bincount(groups, minlength=len(names))
    corrected, broken = count(right & ~base_right), count(base_right & ~right)
    kept = np.flatnonzero(n)
    counts = (n, count(base_right), count(right), corrected - broken, corrected, broken)
    return [
        Group(str(names[group]), size, *(part / size for part in parts))
        for group, size, *parts in zip(kept.tolist(), *(c[kept].tolist() for c in counts), strict=True)
    ]


def by_class(
    labels: NDArray[Any],
    base_predicted: NDArray[Any],
    predicted: NDArray[Any],
    class_names: Sequence[str] | None = None,
) -> list[Group]:
    """Compare with and without memory in each true class, as `by_group` does.

    Classes without names are told by their numbers.
    """
    if class_names is None:
        class_names = [str(label) for label in range(int(labels.max()) + 1 if len(labels) else 0)]
    return by_group(labels, class_names, labels, base_predicted, predicted)


def by_quantile(
    values: NDArray[Any],
    labels: NDArray[Any],
    base_predicted: NDArray[Any],
    predicted: NDArray[Any],
    *,
    n_groups: int = 10,
    unit: str = "",
) -> list[Group]:
    """Compare with and without memory in groups of rising values and as equal size as can be.

    Parameters
    ----------
    values : (n,) numbers
        Finite, such as the distance to the nearest neighbour. Equal ones stay together, in the group
        where the middle of their ranks belongs; so groups may be unequal, and fewer.
    labels, base_predicted, predicted : (n,) integers
        True classes, and the answers without and with memory.
    n_groups : int
        At most so many groups.
    unit : str
        To follow the numbers in the names, which are like "0.31 to 0.58".

    Raises
    ------
    DataError
        If the columns are not of one length, or a value is not finite.
    UsageError
        If there are to be no groups.
    """
    check_columns(values=values, labels=labels, base_predicted=base_predicted, predicted=predicted)
    if not np.isfinite(values).all():
        raise DataError("values that are not finite", field="values", expected="finite numbers")
    groups, ranges = _cut(values, n_groups)
    names = [f"{name} {unit}".rstrip() for name in _range_names(ranges)]
    return by_group(groups, names, labels, base_predicted, predicted)


def by_frequency(
    labels: NDArray[Any],
    base_predicted: NDArray[Any],
    predicted: NDArray[Any],
    memory_counts: NDArray[Any],
    n_groups: int = 5,
) -> list[Group]:
    """Compare with and without memory in groups of classes, from the rare to the frequent.

    Parameters
    ----------
    labels, base_predicted, predicted : (n,) integers
        True classes in [0, C), and the answers without and with memory.
    memory_counts : (C,) integers
        How many memory rows each class has. Classes of one count stay together.
    n_groups : int
        At most so many groups, of as equally many queries as can be.

    Returns
    -------
    list of Group
        With names like "12 to 40 rows".

    Raises
    ------
    DataError, UsageError
        As `by_quantile`, or for labels that are no classes.
    """
    check_range(labels, len(memory_counts), "labels")
    groups, ranges = _cut(memory_counts[labels], n_groups)
    names = []
    for low, high in ranges:
        count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        names.append(f"{count} row{'' if high == 1 else 's'}")
    return by_group(groups, names, labels, base_predicted, predicted)


def _cut(values: NDArray[Any], n_groups: int) -> tuple[NDArray[np.int64], list[tuple[Any, Any]]]:
    """Put each value into a group; the groups' smallest and largest values follow, in rising order."""
    if n_groups < 1:
        raise UsageError("number of groups out of range", expected="at least 1", found=n_groups)
    distinct, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    # Twice the middle of the ranks that a value takes, so that all stay integers.
    middles = 2 * np.cumsum(counts) - counts
    wanted = middles * n_groups // (2 * max(1, len(values)))
    first = np.flatnonzero(np.diff(wanted, prepend=-1))
    last = np.flatnonzero(np.diff(wanted, append=n_groups))
    group = np.cumsum(np.diff(wanted, prepend=-1) > 0) - 1
    return group[place], list(zip(distinct[first].tolist(), distinct[last].tolist(), strict=True))


def _range_names(ranges: list[tuple[float, float]]) -> list[str]:
    """Name disjoint ranges, no two alike: to a tenth of their width, single values to four digits."""
    names: list[str] = []
    for low, high in ranges:
        if low < high:
            name = _range_name(low, high)
        else:
            told = (f"{low:.{digits}g}" for digits in range(4, 18))
            name = next((text for text in told if text not in names), repr(low))
        names.append(name)
    return names


def _range_name(low: float, high: float) -> str:
    decimals = max(0, math.ceil(1 - math.log10(high - low)))
    largest = max(abs(low), abs(high))
    if decimals <= _MOST_DECIMALS and largest < _LARGEST_FIXED:
        return f"{low:,.{decimals}f} to {high:,.{decimals}f}"
    digits = min(17, decimals + math.floor(math.log10(largest)) + 1)
    return f"{low:.{digits}g} to {high:.{digits}g}"
