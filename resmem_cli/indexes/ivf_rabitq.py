"""The kind `ivf-rabitq`: inverted lists of a few bits for each dimension (Gao and Long 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.indexes.base import index_kind
from resmem_cli.indexes.clustering import default_lists
from resmem_cli.indexes.inverted import InvertedIndex
from resmem_cli.indexes.list_scanner import LARGEST_VALUE
from resmem_cli.indexes.parameters import chosen_parameters
from resmem_cli.indexes.space import Space

_ROTATED_DIMENSIONS = 1 << 12  # beyond, d² numbers are too many to store
_ROW_BITS = 24
_AXIS_BITS = 20


@dataclass(frozen=True)
class Rotated(Space):
    """A space with axes, whose products are exact, so that a row's bits do not depend on those beside it.

    Rows are rounded to 24 bits of their largest value, axes to multiples of 2⁻²⁰: then every partial sum
    of up to 2¹⁸ products is a whole number below 2⁵³ in units of its own, in whatever order they are added.
    """

    def searched(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Give (m, d) rows as they are searched: (m, `dimension`) float32."""
        if self.axes is None:
            return super().searched(rows)
        rows = self.centred(rows)
        exponents = np.frexp(np.abs(rows).max(axis=1, initial=0))[1][:, None]
        whole = np.rint(np.ldexp(rows, _ROW_BITS - exponents))
        with np.errstate(over="ignore"):
            found: NDArray[np.float32] = np.ldexp(whole @ self.axes, exponents - _ROW_BITS).astype(np.float32)
        return found


def random_axes(d: int, *, seed: int) -> NDArray[np.float64]:
    """Draw a rotation of d dimensions: (d, d), its values multiples of 2⁻²⁰."""
    drawn = np.random.default_rng(seed).standard_normal((d, d))
    axes: NDArray[np.float64] = np.rint(np.linalg.qr(drawn)[0] * (1 << _AXIS_BITS)) / (1 << _AXIS_BITS)
    return axes


@index_kind("ivf-rabitq")
class IVFRaBitQIndex(InvertedIndex):
    """Rows minus the centre of their list, rotated at random, as the signs and sizes of their coordinates.

    The parameter `bits`, 1 to 8, is the bits of a coordinate.
    """

    parameter_names = ("lists", "bits")
    default_rerank = 4
    space_type = Rotated

    @classmethod
    def chosen_settings(cls, given: Mapping[str, Any] | None, *, n: int, d: int) -> dict[str, Any]:
        """Take `bits`, and what every kind has."""
        known = {"lists": (default_lists(n), 1, n), "bits": (4, 1, 8)}
        return dict(chosen_parameters(given, known, kind=cls.kind))

    @classmethod
    def axes(cls, d: int, *, seed: int) -> NDArray[np.float64] | None:
        """Rotate at random, unless there are very many dimensions."""
        return random_axes(d, seed=seed) if d <= _ROTATED_DIMENSIONS else None

    def fit_range(self, largest: float) -> None:
        """Refuse values whose squares overflow, from which faiss would never come back."""
        if largest > LARGEST_VALUE:
            raise DataError(
                "rows too large for ivf-rabitq",
                expected=f"values up to {LARGEST_VALUE:.2g} after centring",
                found=f"{largest:.2g}",
                remedy="use the kind exact, or divide all rows by one number",
            )

    def empty_engine(self, quantizer: Any) -> Any:
        """Make faiss's index for these bits."""
        lists, bits = self.settings["lists"], self.settings["bits"]
        engine = faiss.IndexIVFRaBitQ(quantizer, quantizer.d, lists, faiss.METRIC_L2, True, bits)
        engine.own_fields = False
        return engine
