"""The texts of `reproduce language` as token ids: a tokenizer, and the parts of the corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.byte_pairs import train_byte_pairs
from resmem_cli.arrays.corpus import Corpus
from resmem_cli.arrays.tokenizing import TextTokenizer
from resmem_cli.artifacts.temporary import new_file
from resmem_cli.errors import DataError
from resmem_cli.residuals import class_dtype
from resmem_cli.stages.reproduce.language_config import LanguageStudyConfig
from resmem_cli.stages.reproduce.run_folder import RunFolder

TOKENIZER = "tokenizer.json"
PARTS = ("train", "memory", "validation", "test")
_BATCH_CHARACTERS = 1 << 22


@dataclass(frozen=True)
class TokenDocuments:
    """Documents of token ids, one after another.

    Attributes
    ----------
    tokens : (n,) integers
    offsets : (D + 1,) int64
        Document i is ``tokens[offsets[i] : offsets[i + 1]]``.
    names : (D,) bytes
        The file of each.
    """

    tokens: NDArray[np.integer[Any]]
    offsets: NDArray[np.int64]
    names: NDArray[np.bytes_]

    @property
    def n_targets(self) -> int:
        """Tokens that have a next one."""
        return int(np.maximum(np.diff(self.offsets) - 1, 0).sum())

    def at(self, position: int) -> int:
        """Give the number of the document that a token is in."""
        return int(np.searchsorted(self.offsets, position, side="right")) - 1

    def write(self, path: Path) -> None:
        """Write the arrays, whole or not at all."""
        with new_file(path) as stream:
            np.savez(stream, tokens=self.tokens, offsets=self.offsets, names=self.names)

    @classmethod
    def read(cls, path: Path) -> TokenDocuments:
        """Read what `write` wrote; raises `DataError` if it is damaged."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(arrays["tokens"], arrays["offsets"], arrays["names"])
        except (ValueError, KeyError, OSError, EOFError) as error:
            raise DataError(
                "token ids that can't be read", file=path, remedy="remove it, to have it made again"
            ) from error


def token_files(folder: RunFolder, corpus: Corpus, config: LanguageStudyConfig) -> dict[str, Path]:
    """Make the tokenizer, and a file of token ids for each part.

    `train` holds all training texts, `memory` as many of their tokens as the memory is to hold: texts in the
    random order of the split, the last one cut. `validation` and `test` hold pieces of their texts.

    Returns
    -------
    dict of str to pathlib.Path
        By the names of `PARTS`.

    Raises
    ------
    MissingExtraError
        If the package tokenizers is not installed.
    DataError
        If a part has no token with a next one.
    """
    split = folder.json("split.json", lambda: corpus.split(config.held_out, seed=config.seed))
    tokenizer_path = folder.make(
        TOKENIZER,
        lambda path: _write(
            path, train_byte_pairs(corpus.texts(split["train"]), vocabulary=config.vocabulary)
        ),
    )
    files = {part: folder.path / f"{part}_tokens.npz" for part in PARTS}
    if not all(path.exists() for path in files.values()):
        tokenizer = TextTokenizer(tokenizer_path)
        folder.make(files["train"].name, lambda path: _encode(corpus, split["train"], tokenizer).write(path))
        folder.make(
            files["memory"].name,
            lambda path: first_tokens(TokenDocuments.read(files["train"]), config.memory_tokens).write(path),
        )

        def draw(part: str, wanted: int, path: Path) -> None:
            documents = _encode(corpus, split[part], tokenizer)
            pieces(documents, wanted, length=config.excerpt, seed=config.seed).write(path)

        for part, wanted in (("validation", config.validation_tokens), ("test", config.test_tokens)):
            folder.make(files[part].name, partial(draw, part, wanted))
    return files


def first_tokens(documents: TokenDocuments, wanted: int) -> TokenDocuments:
    """Take documents from the first on, until so many of their tokens have a next one; the last is cut."""
    until = np.cumsum(np.maximum(np.diff(documents.offsets) - 1, 0))
    if until[-1] <= wanted:
        return documents
    last = int(np.searchsorted(until, wanted))
    offsets = documents.offsets[: last + 2].copy()
    offsets[-1] -= until[last] - wanted
    return TokenDocuments(documents.tokens[: offsets[-1]], offsets, documents.names[: last + 1])


def pieces(documents: TokenDocuments, wanted: int, *, length: int, seed: int) -> TokenDocuments:
    """Cut documents into pieces, and draw pieces until so many tokens have a next one; the last is cut.

    Parameters
    ----------
    documents : TokenDocuments
    wanted : int
    length : int
        Tokens of a piece; what is left at a document's end makes a shorter one.
    seed : int
        Of the draw. Every token is as likely as any other to be drawn.
    """
    cuts = [
        (start, min(start + length, end), i)
        for i, (begin, end) in enumerate(zip(documents.offsets, documents.offsets[1:], strict=False))
        for start in range(int(begin), int(end), length)
    ]
    taken, n_targets = [], 0
    for number in np.random.default_rng(seed).permutation(len(cuts)):
        start, stop, i = cuts[number]
        stop = min(stop, start + wanted - n_targets + 1)
        if stop - start > 1:
            taken.append((start, stop, i))
            n_targets += stop - start - 1
        if n_targets >= wanted:
            break
    taken.sort()
    lengths = np.array([stop - start for start, stop, _ in taken], np.int64)
    return TokenDocuments(
        np.concatenate([documents.tokens[start:stop] for start, stop, _ in taken]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        documents.names[[i for _, _, i in taken]],
    )


def _encode(corpus: Corpus, names: list[str], tokenizer: TextTokenizer) -> TokenDocuments:
    dtype = class_dtype(tokenizer.vocabulary)
    documents = [
        ids.astype(dtype) for texts in _batches(corpus.texts(names)) for ids in tokenizer.encode(texts)
    ]
    lengths = [len(ids) for ids in documents]
    if max(lengths) < 2:
        raise DataError("no text of two tokens", file=corpus.folder, expected="texts that are longer")
    return TokenDocuments(
        np.concatenate(documents),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array([name.encode(errors="replace") for name in names]),
    )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    n_characters = 0
    for text in texts:
        batch.append(text)
        n_characters += len(text)
        if n_characters >= _BATCH_CHARACTERS:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch


def _write(path: Path, content: bytes) -> None:
    with new_file(path) as stream:
        stream.write(content)
