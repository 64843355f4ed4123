"""Texts to token ids by a tokenizer's JSON file; a long text is cut where the cut can't be seen."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, MissingExtraError
from resmem_cli.files import require_file

_OVERLAP = 1 << 14


class TextTokenizer:
    """What the package tokenizers saves as ``tokenizer.json``.

    It adds no special tokens, cuts nothing off and fills nothing up, whatever the file says.

    Raises
    ------
    MissingInputError
        If the file can't be read.
    MissingExtraError
        If the package tokenizers is not installed.
    DataError
        If the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        require_file(path)
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingExtraError(
                f"reading texts needs the package tokenizers ({error})",
                file=path,
                remedy="pip install 'resmem-cli[language]'",
            ) from error
        # After a later fork the package warns on stderr, unless its user has decided.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        self._path = path
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        # For any damage the package raises Exception itself.
        except Exception as error:
            raise DataError(
                "no tokenizer that can be read",
                file=path,
                expected="the JSON file that the package tokenizers saves",
                found=str(error) or type(error).__name__,
                remedy="save it again with tokenizer.save",
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Give the ids of each text ``(n,)``.

        Raises
        ------
        DataError
            If the tokenizer has no token for something in a text.
        """
        return [
            np.array(encoding.ids, dtype=np.uint32)
            for encoding in self._encodings(texts, self._tokenizer.encode_batch_fast)
        ]

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return int(self._tokenizer.get_vocab_size())

    def decode(self, ids: NDArray[np.integer[Any]]) -> str:
        """Write ids ``(n,)`` as text; bytes that are no characters, as at a cut, become U+FFFD."""
        return str(self._tokenizer.decode(ids.tolist(), skip_special_tokens=False))

    def encode_long(self, blocks: Iterable[str], *, overlap: int = _OVERLAP) -> Iterator[NDArray[np.uint32]]:
        """Give the ids of one text that comes in blocks, in parts, with the memory of two blocks.

        Each block is encoded with the end of the one before. What a tokenizer makes of a place depends on
        the text around it; where the middle half of the overlap became the same tokens from both sides,
        the parts are joined. Where it did not, the blocks are encoded as one.

        Parameters
        ----------
        blocks : iterable of str
            Consecutive parts of the text.
        overlap : int
            Characters that are encoded twice.
        """
        piece: _Piece | None = None
        joined_at = 0
        for block in blocks:
            if piece is None:
                piece = self._piece(block, 0)
                continue
            again = piece.text[-overlap:]
            begin = piece.begin + len(piece.text) - len(again)
            following = self._piece(again + block, begin)
            seam = _seam(piece, following, begin + len(again) // 4, begin + 3 * len(again) // 4)
            if seam is None:
                piece = self._piece(piece.text + block, piece.begin)
                continue
            yield piece.ids[(piece.starts >= joined_at) & (piece.starts < seam)]
            piece, joined_at = following, seam
        if piece is not None:
            yield piece.ids[piece.starts >= joined_at]

    def _piece(self, text: str, begin: int) -> _Piece:
        (encoding,) = self._encodings([text], self._tokenizer.encode_batch)
        places = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) + begin
        return _Piece(text, begin, np.array(encoding.ids, dtype=np.uint32), places[:, 0], places[:, 1])

    def _encodings(self, texts: Sequence[str], encode: Any) -> list[Any]:
        try:
            encodings: list[Any] = encode(texts, add_special_tokens=False)
        except Exception as error:
            raise DataError(
                "the tokenizer fails on a text",
                file=self._path,
                found=str(error) or type(error).__name__,
                remedy="use a tokenizer that has a token for everything, such as one of bytes",
            ) from error
        return encodings


@dataclass(frozen=True)
class _Piece:
    """Part of a text from character `begin` on, and where in the text its tokens are."""

    text: str
    begin: int
    ids: NDArray[np.uint32]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    def within(self, start: int, stop: int) -> NDArray[np.int64]:
        """Give (start, stop, id) of the tokens that begin in a range."""
        tokens = np.column_stack([self.starts, self.stops, self.ids.astype(np.int64)])
        inside: NDArray[np.int64] = tokens[(self.starts >= start) & (self.starts < stop)]
        return inside


def _seam(before: _Piece, after: _Piece, start: int, stop: int) -> int | None:
    """Find the first token from `start` on, if both pieces have the same tokens from there to `stop`."""
    first, second = before.within(start, stop), after.within(start, stop)
    return int(first[0, 0]) if len(first) and np.array_equal(first, second) else None
