"""Which memory rows turned answers right, and which turned them wrong."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError


@dataclass(frozen=True)
class InfluentialRow:
    """One memory row of an `Influence`.

    Attributes
    ----------
    row : int
        The memory row.
    n_corrected, n_broken : int
        Queries that memory corrected, or broke, where the row's contribution was positive.
    credit_corrected, credit_broken : float
        The row's credit over the corrected, and over the broken queries.
    """

    row: int
    n_corrected: int
    n_broken: int
    credit_corrected: float
    credit_broken: float


@dataclass(frozen=True)
class Influence:
    """What memory rows had to do with the changed answers.

    A row's credit is the sum of its contributions, those against the new answer being negative.

    Attributes
    ----------
    rows : (m,) int64
        Distinct memory rows.
    n_corrected, n_broken : (m,) int64
        Queries that memory corrected, or broke, where the row's contribution was positive.
    credit_corrected, credit_broken : (m,) float64
        The row's credit over the corrected, and over the broken queries.
    """

    rows: NDArray[np.int64]
    n_corrected: NDArray[np.int64]
    n_broken: NDArray[np.int64]
    credit_corrected: NDArray[np.float64]
    credit_broken: NDArray[np.float64]

    def most(self, kind: str, n: int) -> list[InfluentialRow]:
        """Pick the n rows of largest credit, the largest first; ties go to the lower row.

        Parameters
        ----------
        kind : str
            `corrected` or `broken`: which credit.
        n : int
            How many; they are fewer if fewer rows have a credit above 0.

        Raises
        ------
        UsageError
            If n is below 0, or there is no such kind.
        """
        if n < 0:
            raise UsageError("number of rows out of range", expected="at least 0", found=n)
        match kind:
            case "corrected":
                credit = self.credit_corrected
            case "broken":
                credit = self.credit_broken
            case _:
                raise UsageError("no such kind of change", expected="corrected or broken", found=kind)
        order = np.lexsort((self.rows, -credit))
        places = order[credit[order] > 0][:n]
        columns = (getattr(self, field.name)[places].tolist() for field in fields(self))
        return [InfluentialRow(*row) for row in zip(*columns, strict=True)]


def influence(rows: NDArray[Any], contributions: NDArray[Any], corrected: NDArray[np.bool_]) -> Influence:
    """Credit memory rows with the answers that memory changed.

    Parameters
    ----------
    rows : (e, k) integers
        Neighbours of the changed queries, each at most once a query.
    contributions : (e, k) floats
        Their contributions to the margin of the new answer over the base network's; see
        `prediction.Explanation`.
    corrected : (e,) bool
        Whether the query was corrected; the others were broken.

    Returns
    -------
    Influence
        Of every distinct row, by rising row; summed in float64 in the order of the queries.

    Raises
    ------
    DataError
        If the arrays do not fit together.
    """
    if rows.ndim != 2 or contributions.shape != rows.shape or corrected.shape != rows.shape[:1]:
        raise DataError(
            "neighbours and contributions do not fit together",
            expected="(e, k), (e, k) and (e,)",
            found=f"{rows.shape}, {contributions.shape} and {corrected.shape}",
        )
    distinct, place = np.unique(rows.ravel(), return_inverse=True)
    credits = contributions.ravel().astype(np.float64)
    of_corrected = np.repeat(corrected.astype(bool), rows.shape[1])

    def count(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(place[chosen & (credits > 0)], minlength=len(distinct))

    def total(chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        sums = np.bincount(place[chosen], weights=credits[chosen], minlength=len(distinct))
        return sums.astype(np.float64)  # bincount gives integers where there is nothing to count

    return Influence(
        rows=distinct.astype(np.int64),
        n_corrected=count(of_corrected),
        n_broken=count(~of_corrected),
        credit_corrected=total(of_corrected),
        credit_broken=total(~of_corrected),
    )
