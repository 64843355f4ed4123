"""Windows over documents of tokens: every token that has a next one is a row, kept from one window."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError


@dataclass(frozen=True)
class WindowBatch:
    """Some consecutive windows, ready for a causal model.

    Attributes
    ----------
    inputs : numpy.ndarray
        ``(b, L)`` int64 token ids, filled up with 0 at the right, which no earlier token sees.
    keep : numpy.ndarray
        ``(b, L)`` bool: the r tokens whose rows come from these windows, in row order when read by rows.
    targets : numpy.ndarray
        ``(r,)`` int64: the next token of each.
    positions : numpy.ndarray
        ``(r,)`` int64: where each token is in the flat array of tokens.
    """

    inputs: NDArray[np.int64]
    keep: NDArray[np.bool_]
    targets: NDArray[np.int64]
    positions: NDArray[np.int64]


@dataclass(frozen=True)
class WindowPlan:
    """Which windows there are and which rows each gives; `plan_windows` makes it.

    Window j of a document begins at its token ``j · stride`` and takes `window` tokens. Token t is kept
    from window ``max(0, ⌊(t − (window − stride)) / stride⌋)``: window 0 gives its first `window` tokens,
    every later one the `stride` tokens behind its first ``window − stride``. So a token has at least
    ``window − stride`` tokens before it in its window, or all that its document has. A document's last
    token has no next one, so it is no row and is never fed.

    Windows and rows are numbered by (document, position); only a few numbers a document are held.

    Attributes
    ----------
    starts : numpy.ndarray
        ``(D,)`` int64: where each document begins in the flat array of tokens.
    first_window, first_row : numpy.ndarray
        ``(D + 1,)`` int64: a document's first window and first row; the last entries are the totals.
    window, stride : int
        Tokens of a window, and from one window's beginning to the next.
    """

    starts: NDArray[np.int64] = field(repr=False)
    first_window: NDArray[np.int64] = field(repr=False)
    first_row: NDArray[np.int64] = field(repr=False)
    window: int
    stride: int

    @property
    def n_windows(self) -> int:
        """Windows of all documents."""
        return int(self.first_window[-1])

    @property
    def n_rows(self) -> int:
        """Tokens that have a next token."""
        return int(self.first_row[-1])

    def row_slice(self, windows: slice) -> slice:
        """Give the rows that these consecutive windows give."""
        return slice(self._first_row_of(windows.start), self._first_row_of(windows.stop))

    def windows_of(self, rows: slice) -> slice:
        """Give the windows that these consecutive rows come from; they may give more rows on both sides."""
        if rows.start >= rows.stop:
            window = self._window_of(rows.start)
            return slice(window, window)
        return slice(self._window_of(rows.start), self._window_of(rows.stop - 1) + 1)

    def span(self, windows: slice) -> slice:
        """Give the range of flat positions that holds the windows' tokens and targets."""
        if windows.start >= windows.stop:
            return slice(0, 0)
        begins, lengths, _ = self._extent(np.array([windows.start, windows.stop - 1]))
        return slice(int(begins[0]), int(begins[1] + lengths[1]) + 1)

    def batch(self, windows: slice, tokens: NDArray[np.integer]) -> WindowBatch:
        """Cut windows out of the tokens of their span.

        Parameters
        ----------
        windows : slice
            At least one window.
        tokens : numpy.ndarray
            The flat array's tokens in ``span(windows)``.

        Raises
        ------
        DataError
            If `tokens` has another length than the span.
        """
        span = self.span(windows)
        if tokens.shape != (span.stop - span.start,):
            raise DataError(
                "not the tokens of these windows", expected=(span.stop - span.start,), found=tokens.shape
            )
        begins, lengths, skipped = self._extent(np.arange(windows.start, windows.stop))
        columns = np.arange(int(lengths.max()))
        real = columns < lengths[:, np.newaxis]
        # Where a window is shorter than the longest, the position of its own first token is as good as any.
        flat = (begins - span.start)[:, np.newaxis] + np.where(real, columns, 0)
        inputs = tokens[flat].astype(np.int64)
        inputs[~real] = 0
        keep = real & (columns >= skipped[:, np.newaxis])
        kept = flat[keep]
        return WindowBatch(inputs, keep, tokens[kept + 1].astype(np.int64), kept + span.start)

    def _extent(
        self, windows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Give each window's first flat position, its length, and how many of its tokens it does not keep."""
        documents = np.searchsorted(self.first_window, windows, side="right") - 1
        number = windows - self.first_window[documents]
        begins = number * self.stride
        rows = self.first_row[documents + 1] - self.first_row[documents]
        skipped = np.where(number == 0, 0, self.window - self.stride)
        return self.starts[documents] + begins, np.minimum(rows - begins, self.window), skipped

    def _first_row_of(self, window: int) -> int:
        if window >= self.n_windows:
            return self.n_rows
        document = int(np.searchsorted(self.first_window, window, side="right")) - 1
        number = window - int(self.first_window[document])
        kept_from = number * self.stride + self.window - self.stride if number else 0
        return int(self.first_row[document]) + kept_from

    def _window_of(self, row: int) -> int:
        if row >= self.n_rows:
            return self.n_windows
        document = int(np.searchsorted(self.first_row, row, side="right")) - 1
        token = row - int(self.first_row[document])
        number = max(0, (token - (self.window - self.stride)) // self.stride)
        return int(self.first_window[document]) + number


def plan_windows(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], *, window: int = 256, stride: int = 192
) -> WindowPlan:
    """Plan the windows of documents, as in appendix E of Yang et al. 2023.

    Parameters
    ----------
    starts, lengths : numpy.ndarray
        ``(D,)``: where each document begins in a flat array of tokens, and its tokens; rising, without
        overlap. Documents of fewer than two tokens have no rows.
    window, stride : int
        Tokens of a window, and from one window's beginning to the next: 1 ≤ stride ≤ window.

    Raises
    ------
    UsageError
        If `window` or `stride` is out of range.
    DataError
        If documents overlap or are not in order.
    """
    if window < 1:
        raise UsageError("--window out of range", expected="at least 1", found=window)
    if not 1 <= stride <= window:
        raise UsageError(
            "--stride out of range",
            expected=f"1 to {window}, the window",
            found=stride,
            remedy="a larger stride would leave tokens out",
        )
    starts, lengths = starts.astype(np.int64, copy=False), lengths.astype(np.int64, copy=False)
    if (lengths < 0).any() or (starts[:1] < 0).any() or (starts[:-1] + lengths[:-1] > starts[1:]).any():
        raise DataError("documents overlap or are not in order", expected="rising starts, lengths ≥ 0")
    rows = np.maximum(lengths - 1, 0)
    windows = np.where(rows > 0, 1 + np.maximum(0, (rows - 1 - (window - stride)) // stride), 0)
    return WindowPlan(starts, _cumulative(windows), _cumulative(rows), window, stride)


def _cumulative(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    totals = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=totals[1:])
    return totals
