"""Token ids of documents, and the windows of them that a language model is trained and tested on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError

NO_TARGET = -100
"""The target of a padded position, which torch's cross-entropy leaves out by default."""


@dataclass(frozen=True)
class Documents:
    """Token ids of documents, one after another.

    Attributes
    ----------
    tokens : integer array of shape (n_tokens,)
    starts, lengths : integer arrays of shape (D,)
        Document i is ``tokens[starts[i] : starts[i] + lengths[i]]``.

    Raises
    ------
    DataError
        If they are of other types or shapes, a document leaves the tokens, or none has two tokens.
    """

    tokens: NDArray[np.integer[Any]]
    starts: NDArray[np.integer[Any]]
    lengths: NDArray[np.integer[Any]]

    def __post_init__(self) -> None:
        for field in ("tokens", "starts", "lengths"):
            array = getattr(self, field)
            if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
                raise DataError(
                    "not as expected",
                    field=field,
                    expected="integers of shape (n,)",
                    found=f"{array.dtype} of shape {array.shape}",
                )
        if len(self.starts) != len(self.lengths):
            raise DataError(
                "not as many as starts", field="lengths", expected=len(self.starts), found=len(self.lengths)
            )
        ends = self.starts.astype(np.int64) + self.lengths
        if (self.starts < 0).any() or (self.lengths < 0).any() or (ends > len(self.tokens)).any():
            raise DataError(
                "documents leave the tokens", field="starts", expected=f"within {len(self.tokens)} tokens"
            )
        if not (self.lengths > 1).any():
            raise DataError("no document has two tokens", field="lengths", remedy="there is nothing to learn")

    def draw(
        self, n_windows: int, window: int, generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw windows at random.

        A document is drawn in proportion to its tokens that have a next one; the window begins anywhere
        that leaves it full, or at the first token of a document too short for that.

        Returns
        -------
        documents : int64 array of shape (n_windows,)
        offsets : int64 array of shape (n_windows,)
            Where the windows begin in their documents.
        """
        pairs = self._n_pairs()
        until = np.cumsum(pairs)
        documents = np.searchsorted(until, generator.integers(until[-1], size=n_windows), side="right")
        last = np.maximum(pairs[documents] - window, 0)
        return documents, generator.integers(last, endpoint=True)

    def cut(self, window: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Cut every document into windows that do not overlap; returns what `draw` returns."""
        counts = -(-self._n_pairs() // window)
        documents = np.repeat(np.arange(len(counts)), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        return documents, (np.arange(len(documents)) - first) * window

    def windows(
        self, documents: NDArray[np.int64], offsets: NDArray[np.int64], window: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Read windows.

        Parameters
        ----------
        documents, offsets : int64 arrays of shape (b,)
            As `draw` or `cut` give them.
        window : int
            Tokens of a window.

        Returns
        -------
        ids : int64 array of shape (b, window)
            Padded on the right with id 0.
        targets : int64 array of shape (b, window)
            The next tokens; `NO_TARGET` where a window is padded.
        """
        positions = offsets[:, np.newaxis] + np.arange(window)
        has_next = positions < self._n_pairs()[documents][:, np.newaxis]
        flat = np.where(has_next, self.starts[documents][:, np.newaxis] + positions, 0)
        # Widened first: an unsigned type has no NO_TARGET.
        ids = np.where(has_next, self.tokens[flat].astype(np.int64), 0)
        targets = np.where(has_next, self.tokens[flat + has_next].astype(np.int64), NO_TARGET)
        return ids, targets

    def _n_pairs(self) -> NDArray[np.int64]:
        """Count each document's tokens that have a next one."""
        return np.maximum(self.lengths.astype(np.int64) - 1, 0)
