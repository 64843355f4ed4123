"""The kind `ivf-rabitq`: inverted lists of a few bits for each dimension (Gao and Long 2024)."""

from __future__ import annotations

from collections.abc import Mapping
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
from resmem_cli.indexes.rotated import Rotated, random_axes

ROTATED_DIMENSIONS = 1 << 12
"""Beyond, d² numbers are too many to store."""


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
        return random_axes(d, seed=seed) if d <= ROTATED_DIMENSIONS else None

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
