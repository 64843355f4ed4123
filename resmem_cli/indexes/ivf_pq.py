"""The kind `ivf-pq`: inverted lists of one byte for each few columns (Jégou, Douze and Schmid 2011)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import UsageError
from resmem_cli.indexes.base import index_kind
from resmem_cli.indexes.clustering import CODE_WORDS, default_lists, learnt_code_words
from resmem_cli.indexes.inverted import InvertedIndex
from resmem_cli.indexes.parameters import chosen_parameters

_COLUMNS = 4  # of one byte, where the user does not say
_TABLE_BYTES = 1 << 28


def default_subquantizers(d: int) -> int:
    """Choose into how many parts d columns are cut: of at most 4 columns each."""
    return next(parts for parts in _divisors(d) if parts * _COLUMNS >= d)


def _divisors(d: int) -> list[int]:
    return [parts for parts in range(1, d + 1) if d % parts == 0]


@index_kind("ivf-pq")
class IVFPQIndex(InvertedIndex):
    """Rows minus the centre of their list, cut in parts, each part as the number of its nearest code word.

    The parameter `subquantizers`, which divides d, is the number of parts, each of 8 bits.
    """

    parameter_names = ("lists", "subquantizers")
    default_rerank = 4

    @classmethod
    def chosen_settings(cls, given: Mapping[str, Any] | None, *, n: int, d: int) -> dict[str, Any]:
        """Take `subquantizers`, and what every kind has."""
        divisors = _divisors(d)
        known = {"lists": (default_lists(n), 1, n), "subquantizers": (default_subquantizers(d), 1, d)}
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
        """`(subquantizers, 256, d / subquantizers)`."""
        parts = self.settings["subquantizers"]
        return parts, CODE_WORDS, self.space.dimension // parts

    def learn(self, residuals: NDArray[np.float32], *, seed: int) -> None:
        """Learn the code words."""
        self.codebook = learnt_code_words(residuals, self.settings["subquantizers"], seed=seed)

    def empty_engine(self, quantizer: Any) -> Any:
        """Make faiss's index with the code words."""
        lists, parts = self.settings["lists"], self.settings["subquantizers"]
        engine = faiss.IndexIVFPQ(quantizer, quantizer.d, lists, parts, 8)
        engine.own_fields = False
        if self.codebook is not None:
            faiss.copy_array_to_vector(self.codebook.ravel(), engine.pq.centroids)
        # A table of the products of centres and code words spares most of a list's preparation.
        fits = 4 * lists * parts * CODE_WORDS <= _TABLE_BYTES
        if quantizer.ntotal == lists and fits:
            engine.precompute_table()
        else:
            engine.use_precomputed_table = -1
        return engine
