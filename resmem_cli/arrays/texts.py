"""Text files as documents of token ids."""

from __future__ import annotations

import codecs
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.folder import FolderDigest, FolderListing, encoded_names, list_folder
from resmem_cli.arrays.mapped import MappedFile, MappedRows
from resmem_cli.arrays.token_arrays import TokenArrays
from resmem_cli.arrays.tokenizing import TextTokenizer
from resmem_cli.artifacts.temporary import output_error
from resmem_cli.errors import DataError, MissingInputError
from resmem_cli.files import file_digest, require_file

# An encoding takes some 100 bytes a token until its ids are taken out of it.
_BATCH_BYTES = 1 << 18
_BATCH_TEXTS = 1 << 10


def open_texts(path: Path, *, tokenizer: Path, glob: str = "**/*.txt", spool: Path) -> TokenArrays:
    """Tokenise text files: each is a document, named by its path in the folder.

    No special tokens are added and nothing is cut off, whatever the tokenizer's file says. The ids go to
    an unnamed temporary file that is mapped, so that memory does not grow with the texts.

    Parameters
    ----------
    path : pathlib.Path
        A text file in UTF-8, or a folder of them; hidden files, hidden folders and links that lead out of
        the folder are left out.
    tokenizer : pathlib.Path
        What the package tokenizers saves as ``tokenizer.json``.
    glob : str
        Which files of a folder are texts, by their path in it: ``*`` and ``?`` stay inside one name,
        ``**`` is any number of folders.
    spool : pathlib.Path
        A folder for the temporary file.

    Returns
    -------
    TokenArrays
        Documents in the order of their names. The digest of a folder is that of what
        ``sha256sum FILES…`` prints, files sorted.

    Raises
    ------
    MissingExtraError
        If the package tokenizers is not installed.
    MissingInputError
        If `path` or `tokenizer` can't be read.
    DataError
        If the tokenizer is damaged, no file matches, a file is not UTF-8, or there are no tokens.
    OutputError
        If the temporary file can't be written.
    """
    encoder = TextTokenizer(tokenizer)
    listing = _list_texts(path, glob)
    names = encoded_names(path, listing.files)
    root = path if path.is_dir() else path.parent
    try:
        with _Spool(spool) as spooled:
            digests = _tokenise([root / name for name in listing.files], encoder, spooled)
            tokens = spooled.rows()
    except OSError as error:
        raise output_error(spool, error) from error
    if tokens is None:
        raise DataError("no tokens in the texts", file=path, expected="texts that are not empty")
    lengths = np.array(spooled.lengths, dtype=np.int64)
    digest = _folder_digest(listing.files, digests) if path.is_dir() else digests[0]
    name = path.resolve().name
    return TokenArrays(
        tokens,
        np.cumsum(lengths) - lengths,
        lengths,
        names=names,
        sources={"inputs": name, "tokenizer": tokenizer.name},
        files=(path, tokenizer),
        notices=listing.notices(path),
        digests=(("inputs", name, digest), ("tokenizer", tokenizer.name, file_digest(tokenizer))),
    )


class _Spool:
    """Token ids of documents, one behind the other in an unnamed file; what is mapped outlives it."""

    def __init__(self, folder: Path) -> None:
        self._stream = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed when left as a context
        self.lengths: list[int] = []

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *exception: Any) -> None:
        # After a failed write, closing fails once more.
        with suppress(OSError):
            self._stream.close()

    def add(self, parts: Iterable[NDArray[np.uint32]]) -> None:
        length = 0
        for ids in parts:
            self._stream.write(ids.tobytes())
            length += len(ids)
        self.lengths.append(length)

    def rows(self) -> MappedRows | None:
        """Map what was added; None if there is nothing."""
        n = sum(self.lengths)
        if n == 0:
            return None
        self._stream.flush()
        file = MappedFile(self._stream)
        return MappedRows(file.array(0, (n,), np.dtype(np.uint32)), file)


def _list_texts(path: Path, glob: str) -> FolderListing:
    if not path.is_dir():
        require_file(path)
        return FolderListing([path.name], 0)
    pattern = glob.split("/")
    listing = list_folder(path, lambda name: matches_glob(name.split("/"), pattern))
    if not listing.files:
        raise DataError(
            "no texts in the folder",
            file=path,
            expected=f"files that match {glob}",
            remedy="choose others with --glob, such as '**/*.md'",
        )
    return listing


def matches_glob(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Tell whether a path in a folder matches a pattern, both as their names between slashes."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(matches_glob(parts[skipped:], pattern[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and matches_glob(parts[1:], pattern[1:])


def _tokenise(texts: Iterable[Path], tokenizer: TextTokenizer, spool: _Spool) -> list[str]:
    """Add each text's ids to the spool; give the SHA-256 of each file's bytes."""
    digests: list[str] = []
    batch: list[str] = []
    n_bytes = 0

    def flush() -> None:
        nonlocal n_bytes
        for ids in tokenizer.encode(batch):
            spool.add([ids])
        batch.clear()
        n_bytes = 0

    for path in texts:
        with _Text(path) as text:
            if text.n_bytes <= _BATCH_BYTES:
                batch.append("".join(text.blocks()))
                n_bytes += text.n_bytes
            else:
                flush()
                spool.add(tokenizer.encode_long(text.blocks()))
            digests.append(text.digest())
        if n_bytes >= _BATCH_BYTES or len(batch) >= _BATCH_TEXTS:
            flush()
    flush()
    return digests


class _Text:
    """One text file, read once: its characters in blocks, and the digest of its bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._stream = path.open("rb")
            self.n_bytes = os.fstat(self._stream.fileno()).st_size
        except OSError as error:
            raise MissingInputError(f"can't be read: {error.strerror}", file=path) from error
        self._hash = hashlib.sha256()

    def __enter__(self) -> _Text:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stream.close()

    def blocks(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        position = 0
        while True:
            try:
                content = self._stream.read(_BATCH_BYTES)
            except OSError as error:
                raise MissingInputError(f"can't be read: {error.strerror}", file=self._path) from error
            self._hash.update(content)
            pending, _ = decoder.getstate()
            try:
                text = decoder.decode(content, final=not content)
            except UnicodeDecodeError as error:
                at = position - len(pending) + error.start
                raise DataError(
                    "a text that is not UTF-8",
                    file=self._path,
                    expected="UTF-8",
                    found=f"byte 0x{error.object[error.start]:02x} at position {at:,}",
                    remedy="convert it, such as with iconv, or leave it out with --glob",
                ) from error
            yield text.removeprefix("\ufeff") if position == 0 else text
            if not content:
                return
            position += len(content)

    def digest(self) -> str:
        """SHA-256 of the bytes, which the blocks have passed over."""
        return self._hash.hexdigest()


def _folder_digest(names: list[str], digests: list[str]) -> str:
    whole = FolderDigest()
    for name, digest in zip(names, digests, strict=True):
        whole.add(name, digest)
    return whole.hexdigest()
