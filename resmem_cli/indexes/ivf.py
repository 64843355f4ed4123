"""The kind `ivf`: inverted lists of the rows themselves, as float16 or float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError
from resmem_cli.indexes.base import Build, index_kind
from resmem_cli.indexes.clustering import squares_within
from resmem_cli.indexes.inverted import InvertedIndex
from resmem_cli.rows import RandomRows
from resmem_cli.types import StorageType

# Float16 has 11 bits from 2⁻¹⁴ to 65,504; a row and its centre, which is taken off, may be of opposite signs.
_LARGEST = float(np.finfo(np.float16).max) / 2
_SMALL = 2.0**-12


class _RangeError(DataError):
    """Rows that float16 does not hold."""


@index_kind("ivf")
class IVFIndex(InvertedIndex):
    """Rows minus the centre of their list as float16, or rows as float32.

    The parameter `storage` is ``float16``, or ``float32`` where that does not hold the rows' range.
    """

    parameter_names = ("lists", "storage")
    reranks = (1, 2, 4)

    @classmethod
    def chosen_settings(cls, given: Mapping[str, Any] | None, *, n: int, d: int) -> dict[str, Any]:
        """Take `storage`, None to choose it by the rows' range, and what every kind has."""
        given = dict(given or {})
        storage = given.pop("storage", None)
        if storage not in (None, *StorageType):
            raise UsageError("no such storage of ivf", expected=" or ".join(StorageType), found=repr(storage))
        unknown = sorted(set(given) - {"lists"})
        if unknown:
            raise UsageError("ivf has no such parameter", expected="lists or storage", found=unknown[0])
        return {**super().chosen_settings(given, n=n, d=d), "storage": storage}

    def learn(self, sample: NDArray[np.float32], lists: NDArray[np.int64], *, seed: int) -> None:
        """Choose float32 for rows so close to their centres that float16 would lose bits."""
        within, _ = squares_within(sample, lists, self.centres.rows)
        if self.settings["storage"] is None and within < _SMALL**2 * sample.size:
            self.settings["storage"] = StorageType.FLOAT32.value

    def fit_range(self, largest: float) -> None:
        """Choose the storage if it is not chosen yet."""
        if self.settings["storage"] is None:
            fits = largest <= _LARGEST
            self.settings["storage"] = (StorageType.FLOAT16 if fits else StorageType.FLOAT32).value
        if self.settings["storage"] == StorageType.FLOAT16 and largest > _LARGEST:
            raise _RangeError(
                "rows too large for float16",
                expected=f"values up to {_LARGEST:,.0f} after centring",
                found=f"{largest:g}",
                remedy="use storage float32",
            )

    def grown(self, vectors: RandomRows, *, build: Build) -> tuple[Self, tuple[str, ...]]:
        """Keep the codes there are, unless the added rows need float32; see `ApproximateIndex.grown`."""
        try:
            return super().grown(vectors, build=build)
        except _RangeError:
            parameters = self.build_parameters(vectors.shape[0])
            index = type(self).build(vectors, parameters=parameters, build=build)
            return index, ("the index was built anew: the added rows are too large for float16",)

    def build_parameters(self, n: int) -> dict[str, Any]:
        """Give the settings; float16 is chosen again only where it holds the rows' range."""
        wide = self.settings["storage"] == StorageType.FLOAT32
        return {**super().build_parameters(n), "storage": self.settings["storage"] if wide else None}

    def empty_engine(self, quantizer: Any) -> Any:
        """Make faiss's index for the storage chosen."""
        n_lists = self.settings["lists"]
        if self.settings["storage"] == StorageType.FLOAT32:
            engine = faiss.IndexIVFFlat(quantizer, quantizer.d, n_lists)
        else:
            engine = faiss.IndexIVFScalarQuantizer(
                quantizer, quantizer.d, n_lists, faiss.ScalarQuantizer.QT_fp16
            )
        engine.own_fields = False
        return engine
