"""A tokenizer of byte pairs, learnt from texts."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from resmem_cli.errors import MissingExtraError, UsageError

LEAST_VOCABULARY = 256
"""All bytes are among the tokens, so that every text can be written with them."""


def train_byte_pairs(texts: Iterable[str], *, vocabulary: int) -> bytes:
    """Learn a byte-level BPE tokenizer (Sennrich et al. 2016, on bytes).

    Parameters
    ----------
    texts : iterable of str
    vocabulary : int
        Tokens to end with; fewer where the texts have no more pairs.

    Returns
    -------
    bytes
        The JSON document that `TextTokenizer` reads, the same for the same texts.

    Raises
    ------
    UsageError
        If the bytes do not fit the vocabulary.
    MissingExtraError
        If the package tokenizers is not installed.
    """
    if vocabulary < LEAST_VOCABULARY:
        raise UsageError("--vocab out of range", expected=f"at least {LEAST_VOCABULARY}", found=vocabulary)
    require_tokenizers()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return (str(tokenizer.to_str(pretty=True)) + "\n").encode()


def require_tokenizers() -> None:
    """Raise `MissingExtraError` if the package tokenizers is not installed."""
    try:
        importlib.import_module("tokenizers")
    except ImportError as error:
        raise MissingExtraError(
            f"learning from texts needs the package tokenizers ({error})",
            remedy="pip install 'resmem-cli[language]'",
        ) from error
