"""Documents of token ids, read as one flat array by ranges: flat with offsets, or one row a document."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.base import RowSource
from resmem_cli.arrays.locate import NONE, OpenFiles, locate_arrays
from resmem_cli.arrays.selection import TOKEN_ROLES, Located
from resmem_cli.errors import DataError, UsageError
from resmem_cli.files import file_digest
from resmem_cli.types import ArraySelection, Closing, row_blocks

_BUFFER_BYTES = 1 << 22

Digests = tuple[tuple[str, str, str], ...]


class TokenArrays(Closing):
    """Documents of tokens. Closes its files when left as a context.

    Attributes
    ----------
    starts, lengths : numpy.ndarray
        ``(D,)`` int64: where each document begins in the flat array of tokens, and how long it is.
    names : numpy.ndarray or None
        ``(D,)`` UTF-8 bytes of fixed length.
    sources : dict of str to str
        The file (without its folder) and key of what is read, by role.
    notices : tuple of str
        What the user should know.
    files : tuple of pathlib.Path
        Every file or folder that is read.
    """

    def __init__(
        self,
        tokens: RowSource,
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        *,
        sources: dict[str, str],
        files: tuple[Path, ...],
        close: Callable[[], None] | None = None,
        located: Located | None = None,
        names: NDArray[np.bytes_] | None = None,
        notices: tuple[str, ...] = (),
        digests: Digests | None = None,
    ) -> None:
        self._flat = _FlatTokens(tokens, located)
        self.starts = starts
        self.lengths = lengths
        self.names = names
        self.sources = sources
        self.notices = notices
        self.files = files
        self._close = close
        self._digests = digests

    @property
    def n_tokens(self) -> int:
        """Tokens of all documents, without padding."""
        return int(self.lengths.sum())

    @cached_property
    def digests(self) -> Digests:
        """Role, file name and SHA-256 of everything read, for the lineage; array files are read for it."""
        if self._digests is not None:
            return self._digests
        return tuple(("inputs", path.name, file_digest(path)) for path in self.files)

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Read the tokens of a range of the flat array ``(stop - start,)``.

        Any order is allowed; ranges that overlap a little with the one before cost no reading twice.

        Raises
        ------
        DataError
            If the file is damaged, or an id in a flat array is negative.
        """
        return self._flat.read(start, stop)

    def close(self) -> None:
        """Close the files; tokens can't be read after that."""
        if self._close is not None:
            self._close()


class _FlatTokens:
    """Tokens of a flat array, or of a matrix taken row by row, from reads that only go forward.

    Windows overlap, and a format that streams would begin anew at every step back, so that what was
    read last is kept.
    """

    def __init__(self, tokens: RowSource, located: Located | None) -> None:
        self._tokens = tokens
        # In a matrix, negative ids are padding, and were looked at when it was opened.
        self._checked_in = located if len(tokens.shape) == 1 else None
        self._width = tokens.shape[1] if len(tokens.shape) == 2 else 1
        self._ahead = max(1, _BUFFER_BYTES // (8 * self._width))
        self._first = 0
        self._buffer: NDArray[np.int64] = np.empty(0, np.int64)

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        if stop <= start:
            return np.empty(0, np.int64)
        first, last = start // self._width, -(-stop // self._width)
        held = len(self._buffer) // self._width
        if not self._first <= first <= self._first + held:
            self._first, self._buffer, held = first, self._buffer[:0], 0
        if last > self._first + held:
            begin = self._first + held
            end = min(self._tokens.shape[0], max(last, begin + self._ahead))
            kept = self._buffer[(first - self._first) * self._width :]
            self._buffer = np.concatenate([kept, self._checked(begin, end)])
            self._first = first
        offset = self._first * self._width
        return self._buffer[start - offset : stop - offset].copy()

    def _checked(self, begin: int, end: int) -> NDArray[np.int64]:
        tokens = self._tokens.read(begin, end).astype(np.int64).reshape(-1)
        if self._checked_in is not None and (tokens < 0).any():
            position = int(np.argmax(tokens < 0))
            raise _negative(self._checked_in, f"at row {begin + position}", tokens[position])
        return tokens


def open_token_arrays(path: Path, selection: ArraySelection, *, pad_id: int | None = None) -> TokenArrays:
    """Open the token ids that a language model is to be run on.

    Parameters
    ----------
    path : pathlib.Path
        A file of any registered kind: integers ``(n,)`` with the documents' offsets, ``(D + 1,)`` from
        0 to n or ``(D,)`` without n, or as one document without offsets; or ``(D, L)``, one row a
        document.
    selection : ArraySelection
        Which arrays to take; without a choice, key names are recognised.
    pad_id : int, optional
        For ``(D, L)``: the id that fills a row up behind its document. Negative ids do in any case.

    Raises
    ------
    MissingInputError, MissingExtraError
        If a file, or the package that reads it, is not there.
    DataError
        If a file is damaged, an array can't be told, ids are no integers or negative inside a document,
        or offsets do not fit.
    UsageError
        If labels, ids or class names are chosen, or `pad_id` is given for a flat array.
    """
    for flag, choice in (
        ("--labels", selection.labels),
        ("--ids", selection.ids),
        ("--class-names", selection.class_names),
    ):
        if choice not in (None, NONE):
            raise UsageError(
                f"{flag} is not for token ids",
                found=choice,
                remedy="leave it out: a token's label is the next token, its id is its position",
            )
    files = OpenFiles()
    try:
        return _documents(files, locate_arrays(files, path, selection, TOKEN_ROLES), selection, pad_id)
    except BaseException:
        files.close()
        raise


def _documents(
    files: OpenFiles, located: dict[str, Located], selection: ArraySelection, pad_id: int | None
) -> TokenArrays:
    main = located["inputs"]
    tokens = _open_integers(main, (1, 2), "token ids")
    in_rows = len(tokens.shape) == 2
    for flag, choice, fits in (("--offsets", selection.offsets, not in_rows), ("--pad-id", pad_id, in_rows)):
        if choice not in (None, NONE) and not fits:
            raise UsageError(
                f"{flag} is for {'a flat array of tokens' if in_rows else 'one row a document'}",
                file=main.file.path,
                expected="token ids of one axis" if in_rows else "token ids of two axes",
                found=f"shape {tokens.shape}",
                remedy="leave it out",
            )
    if in_rows:
        located.pop("offsets", None)
        lengths = _row_lengths(main, tokens, pad_id)
        starts = np.arange(tokens.shape[0], dtype=np.int64) * tokens.shape[1]
    else:
        starts, lengths = _flat_documents(located.get("offsets"), tokens.shape[0])
    notices = (array.file.notice(array.key) for array in located.values())
    return TokenArrays(
        tokens,
        starts,
        lengths,
        sources={name: array.source for name, array in located.items()},
        files=files.paths,
        close=files.close,
        located=main,
        notices=tuple(notice for notice in notices if notice),
    )


def _open_integers(located: Located, axes: tuple[int, ...], what: str) -> RowSource:
    rows = located.file.open(located.key)
    if len(rows.shape) not in axes or rows.dtype.kind not in "iu":
        raise DataError(
            f"an array that can't be {what}",
            file=located.file.path,
            field=located.key or None,
            expected=f"integers of {' or '.join(map(str, axes))} axes",
            found=f"shape {rows.shape} of {rows.dtype}",
            remedy="name another array",
        )
    return rows


def _row_lengths(located: Located, tokens: RowSource, pad_id: int | None) -> NDArray[np.int64]:
    """Count each row's tokens before its padding, in one pass."""
    n, width = tokens.shape
    lengths = np.empty(n, dtype=np.int64)
    for rows in row_blocks(n, max(1, _BUFFER_BYTES // (8 * width))):
        block = tokens.read(rows.start, rows.stop).astype(np.int64)
        negative = block < 0
        padding = negative if pad_id is None else negative | (block == pad_id)
        trailing = np.argmin(padding[:, ::-1], axis=1)
        lengths[rows] = np.where(padding.all(axis=1), 0, width - trailing)
        inside = negative & (np.arange(width) < lengths[rows, np.newaxis])
        if inside.any():
            row, column = (int(index) for index in np.unravel_index(int(np.argmax(inside)), inside.shape))
            raise _negative(located, f"at row {rows.start + row}, column {column}", block[row, column])
    return lengths


def _flat_documents(offsets: Located | None, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if offsets is None:
        return np.zeros(1, np.int64), np.array([n], np.int64)
    rows = _open_integers(offsets, (1,), "offsets of documents")
    values = rows.read(0, rows.shape[0])
    falls = np.flatnonzero(values[1:] < values[:-1])
    if int(values[0]) != 0:
        raise _wrong_offsets(offsets, "the first offset is not 0", "0", values[0])
    if len(falls):
        row = int(falls[0]) + 1
        raise _wrong_offsets(
            offsets, f"offsets that fall at row {row}", f"at least {values[row - 1]}", values[row]
        )
    if int(values[-1]) > n:
        raise _wrong_offsets(offsets, "offsets beyond the tokens", f"at most {n}", values[-1])
    bounds = values.astype(np.int64)
    # Without a last offset of n, the last document runs to the end.
    if len(bounds) == 1 or bounds[-1] < n:
        bounds = np.append(bounds, n)
    return bounds[:-1], np.diff(bounds)


def _wrong_offsets(located: Located, problem: str, expected: str, found: Any) -> DataError:
    return DataError(
        problem,
        file=located.file.path,
        field=located.key or None,
        expected=expected,
        found=int(found),
        remedy="export where each document begins, in tokens, rising from 0",
    )


def _negative(located: Located, where: str, value: Any) -> DataError:
    return DataError(
        f"a token id {where} that is negative, or beyond int64",
        file=located.file.path,
        field=located.key or None,
        expected="ids from 0, and padding only behind a document of a row",
        found=int(value),
        remedy="export token ids from 0",
    )
