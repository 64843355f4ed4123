"""The kind `ivf-pq`: inverted lists of a few bits for each few columns (Jégou, Douze and Schmid 2011)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import UsageError
from resmem_cli.indexes.base import index_kind
from resmem_cli.indexes.clustering import default_lists, learnt_code_words, sample_blocks, squares_within
from resmem_cli.indexes.inverted import InvertedIndex
from resmem_cli.indexes.parameters import chosen_parameters
from resmem_cli.indexes.rotated import Rotated, random_axes

DEFAULT_BITS = 4
"""Of the number of a code word."""

_COLUMNS = {4: 1, 8: 4}  # of one code word by its bits, where the user does not say
_LISTS_PER_ROOT = {4: 2.0, 8: 4.0}

ROTATED_DIMENSIONS = 1 << 11
"""Beyond, d² numbers take more than they are worth."""

# Where the squares of rows minus their centres are a smaller share of the rows' own, that is coded.
_RESIDUAL_SHARE = 0.2
_TABLE_BYTES = 1 << 28
_BY_LISTS = 13  # faiss's number of the search that takes list after list, its candidates in a reservoir
_CACHED_BYTES = 1 << 23  # of the tables of queries searched together


def default_subquantizers(d: int, bits: int) -> int:
    """Choose into how many parts d columns are cut: of 1 column for 4 bits, and at most 4 for 8."""
    return next(parts for parts in _divisors(d) if parts * _COLUMNS[bits] >= d)


def default_pq_lists(n: int, bits: int) -> int:
    """Choose how many lists n rows are put in: few for 4 bits, whose scan is quick."""
    return default_lists(n, per_root=_LISTS_PER_ROOT[bits])


def _divisors(d: int) -> list[int]:
    return [parts for parts in range(1, d + 1) if d % parts == 0]


@index_kind("ivf-pq")
class IVFPQIndex(InvertedIndex):
    """Rows turned at random, cut in parts, each part as the number of its nearest code word.

    The parameter `subquantizers`, which divides d, is the number of parts, and `bits` those of each: 4, which
    faiss's FastScan compares 32 rows at a time (André, Kermarrec and Le Scouarnec 2015), or 8. With
    `residual` the centre of their list is taken off the rows first; by default where lists are so narrow
    that it pays: with it, distances to the code words are computed anew for each list that is visited.
    """

    parameter_names = ("lists", "subquantizers", "bits", "residual")
    default_rerank = 4
    reranks = (1, 2, 3, 4, 6, 8, 16)
    space_type = Rotated

    @classmethod
    def chosen_settings(cls, given: Mapping[str, Any] | None, *, n: int, d: int) -> dict[str, Any]:
        """Take `subquantizers`, `bits`, `residual`, and what every kind has."""
        given = dict(given or {})
        bits, residual = given.get("bits", DEFAULT_BITS), given.pop("residual", None)
        if isinstance(bits, bool) or bits not in _COLUMNS:
            raise UsageError(
                f"bits of {cls.kind} out of range", expected=" or ".join(map(str, _COLUMNS)), found=repr(bits)
            )
        if residual is not None and not isinstance(residual, bool):
            raise UsageError(
                f"residual of {cls.kind} out of range", expected="true or false", found=repr(residual)
            )
        known = {
            "lists": (default_pq_lists(n, bits), 1, n),
            "subquantizers": (default_subquantizers(d, bits), 1, d),
            "bits": (bits, min(_COLUMNS), max(_COLUMNS)),
        }
        chosen = chosen_parameters(given, known, kind=cls.kind)
        divisors = _divisors(d)
        if chosen["subquantizers"] not in divisors:
            raise UsageError(
                f"subquantizers of ivf-pq does not divide the dimension {d:,}",
                expected=", ".join(map(str, divisors)),
                found=chosen["subquantizers"],
            )
        return {**chosen, "residual": residual}

    @classmethod
    def axes(cls, d: int, *, seed: int) -> NDArray[np.float64] | None:
        """Rotate at random, unless there are very many dimensions."""
        return random_axes(d, seed=seed) if d <= ROTATED_DIMENSIONS else None

    @property
    def codebook_shape(self) -> tuple[int, int, int]:
        """`(subquantizers, 2 ** bits, d / subquantizers)`."""
        parts = self.settings["subquantizers"]
        return parts, self._n_words, self.space.dimension // parts

    @property
    def interleaved(self) -> bool:
        """Whether codes lie as FastScan compares them: those of 4 bits."""
        return bool(self.settings["bits"] == 4)

    def learn(self, sample: NDArray[np.float32], lists: NDArray[np.int64], *, seed: int) -> None:
        """Choose what is coded, and learn the code words."""
        if self.settings["residual"] is None:
            within, whole = squares_within(sample, lists, self.centres.rows)
            self.settings["residual"] = within < _RESIDUAL_SHARE * whole
        if self.settings["residual"]:
            for block in sample_blocks(sample):
                sample[block] -= self.centres.rows[lists[block]]
        parts, bits = self.settings["subquantizers"], self.settings["bits"]
        self.codebook = learnt_code_words(sample, parts, bits=bits, seed=seed)

    def queries_together(self, probe: int) -> int:
        """Count the queries whose tables of distances to code words stay in the cache."""
        if not self.interleaved:
            return super().queries_together(probe)
        tables = probe if self.settings["residual"] else 1
        table_bytes = 5 * int(self.settings["subquantizers"]) * self._n_words
        return max(1, _CACHED_BYTES // (tables * table_bytes))

    def empty_engine(self, quantizer: Any) -> Any:
        """Make faiss's index with the code words."""
        lists, parts, bits = (self.settings[name] for name in ("lists", "subquantizers", "bits"))
        engine = (faiss.IndexIVFPQFastScan if self.interleaved else faiss.IndexIVFPQ)(
            quantizer, quantizer.d, lists, parts, bits
        )
        engine.own_fields = False
        engine.by_residual = bool(self.settings["residual"])
        if self.codebook is not None:
            faiss.copy_array_to_vector(self.codebook.ravel(), engine.pq.centroids)
        if self.interleaved:
            engine.implem = _BY_LISTS
        # A table of the products of centres and code words spares most of a list's preparation.
        fits = 4 * lists * parts * self._n_words <= _TABLE_BYTES
        if quantizer.ntotal == lists and fits and engine.by_residual:
            engine.precompute_table()
        else:
            engine.use_precomputed_table = -1
        return engine

    @property
    def _n_words(self) -> int:
        return 1 << int(self.settings["bits"])
