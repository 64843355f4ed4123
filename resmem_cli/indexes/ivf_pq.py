"""The kind `ivf-pq`: inverted lists of a few bits for each few columns (Jégou, Douze and Schmid 2011)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import UsageError
from resmem_cli.indexes.base import index_kind
from resmem_cli.indexes.clustering import default_lists, learnt_code_words
from resmem_cli.indexes.inverted import InvertedIndex
from resmem_cli.indexes.parameters import chosen_parameters

DEFAULT_BITS = 4
"""Of the number of a code word."""

_COLUMNS = {4: 2, 8: 4}  # of one code word by its bits, where the user does not say
_LISTS_PER_ROOT = {4: 0.5, 8: 4.0}
_TABLE_BYTES = 1 << 28
_BY_LISTS = 13  # faiss's number of the search that takes list after list, its candidates in a reservoir
_CACHED_BYTES = 1 << 23  # of the tables of queries searched together


def default_subquantizers(d: int, bits: int) -> int:
    """Choose into how many parts d columns are cut: of at most 2 columns for 4 bits, and 4 for 8."""
    return next(parts for parts in _divisors(d) if parts * _COLUMNS[bits] >= d)


def default_pq_lists(n: int, bits: int) -> int:
    """Choose how many lists n rows are put in: few for 4 bits, whose scan is quick."""
    return default_lists(n, per_root=_LISTS_PER_ROOT[bits])


def _divisors(d: int) -> list[int]:
    return [parts for parts in range(1, d + 1) if d % parts == 0]


@index_kind("ivf-pq")
class IVFPQIndex(InvertedIndex):
    """Rows minus the centre of their list, cut in parts, each part as the number of its nearest code word.

    The parameter `subquantizers`, which divides d, is the number of parts, and `bits` those of each: 4, which
    faiss's FastScan compares 32 rows at a time (André, Kermarrec and Le Scouarnec 2015), or 8.
    """

    parameter_names = ("lists", "subquantizers", "bits")
    default_rerank = 4

    @classmethod
    def chosen_settings(cls, given: Mapping[str, Any] | None, *, n: int, d: int) -> dict[str, Any]:
        """Take `subquantizers`, `bits`, and what every kind has."""
        divisors = _divisors(d)
        bits = (given or {}).get("bits", DEFAULT_BITS)
        if isinstance(bits, bool) or bits not in _COLUMNS:
            raise UsageError(
                f"bits of {cls.kind} out of range", expected=" or ".join(map(str, _COLUMNS)), found=repr(bits)
            )
        known = {
            "lists": (default_pq_lists(n, bits), 1, n),
            "subquantizers": (default_subquantizers(d, bits), 1, d),
            "bits": (bits, min(_COLUMNS), max(_COLUMNS)),
        }
        chosen = chosen_parameters(given, known, kind=cls.kind)
        if chosen["subquantizers"] not in divisors:
            raise UsageError(
                f"subquantizers of ivf-pq does not divide the dimension {d:,}",
                expected=", ".join(map(str, divisors)),
                found=chosen["subquantizers"],
            )
        return dict(chosen)

    @property
    def codebook_shape(self) -> tuple[int, int, int]:
        """`(subquantizers, 2 ** bits, d / subquantizers)`."""
        parts = self.settings["subquantizers"]
        return parts, self._n_words, self.space.dimension // parts

    @property
    def interleaved(self) -> bool:
        """Whether codes lie as FastScan compares them: those of 4 bits."""
        return bool(self.settings["bits"] == 4)

    def learn(self, residuals: NDArray[np.float32], *, seed: int) -> None:
        """Learn the code words."""
        parts, bits = self.settings["subquantizers"], self.settings["bits"]
        self.codebook = learnt_code_words(residuals, parts, bits=bits, seed=seed)

    def queries_together(self, probe: int) -> int:
        """Count the queries whose tables of distances to code words, in each list, stay in the cache."""
        table_bytes = 5 * int(self.settings["subquantizers"]) * self._n_words
        if not self.interleaved:
            return super().queries_together(probe)
        return max(1, _CACHED_BYTES // (probe * table_bytes))

    def empty_engine(self, quantizer: Any) -> Any:
        """Make faiss's index with the code words."""
        lists, parts, bits = (self.settings[name] for name in ("lists", "subquantizers", "bits"))
        engine = (faiss.IndexIVFPQFastScan if self.interleaved else faiss.IndexIVFPQ)(
            quantizer, quantizer.d, lists, parts, bits
        )
        engine.own_fields = False
        if self.codebook is not None:
            faiss.copy_array_to_vector(self.codebook.ravel(), engine.pq.centroids)
        if self.interleaved:
            engine.by_residual, engine.implem = True, _BY_LISTS
        # A table of the products of centres and code words spares most of a list's preparation.
        fits = 4 * lists * parts * self._n_words <= _TABLE_BYTES
        if quantizer.ntotal == lists and fits:
            engine.precompute_table()
        else:
            engine.use_precomputed_table = -1
        return engine

    @property
    def _n_words(self) -> int:
        return 1 << int(self.settings["bits"])
