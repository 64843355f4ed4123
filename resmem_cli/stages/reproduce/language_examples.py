"""Tokens that memory corrected, in their context, with the training token that did most (figure 3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resmem_cli.arrays.tokenizing import TextTokenizer
from resmem_cli.artifacts.formats import PREDICTIONS
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.metrics import changed_examples
from resmem_cli.stages.analyze import AnalyzeConfig, analyze
from resmem_cli.stages.reproduce.language_texts import TokenDocuments

_CONTEXT_TOKENS = 24
_CONTEXT_CHARACTERS = 44
_MARKS = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "␍"})


@dataclass(frozen=True)
class Example:
    """A test token that memory corrected.

    Attributes
    ----------
    context : str
        The text before it.
    base_predicted, predicted, label : str
        What the network said, what it says with memory, and what comes.
    memory_context : str
        The text before the training token that added most to the answer.
    memory_token : str
        That training token.
    memory_file : str
        Where it stands.
    weight : float
        Of that neighbour, of 1 in all.
    """

    context: str
    base_predicted: str
    predicted: str
    label: str
    memory_context: str
    memory_token: str
    memory_file: str
    weight: float

    def document(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return asdict(self)


def corrected_examples(
    predictions: Path,
    residuals: Path,
    tokens: Mapping[str, Path],
    tokenizer: TextTokenizer,
    *,
    count: int,
    seed: int,
) -> list[Example]:
    """Draw corrected test tokens at random.

    Parameters
    ----------
    predictions : pathlib.Path
        Of the test tokens.
    residuals : pathlib.Path
        Of the memory.
    tokens : mapping
        The token ids of `token_files`.
    tokenizer : TextTokenizer
    count : int
        How many at most.
    seed : int
    """
    with open_artifact(predictions, PREDICTIONS) as file:
        columns = [file.read(name) for name in ("labels", "base_predicted", "predicted")]
    corrected, _ = changed_examples(*columns)
    chosen = np.random.default_rng(seed).permutation(corrected)[:count]
    if not len(chosen):
        return []
    config = AnalyzeConfig(
        n_examples=0, explain=tuple(int(query) for query in sorted(chosen)), residuals=residuals
    )
    told = analyze([predictions], config=config).summary["runs"][0]["explained"]
    memory, test = (TokenDocuments.read(tokens[part]) for part in ("memory", "test"))

    def token(label: str) -> str:
        return _token(tokenizer.decode(np.array([int(label)])))

    examples = []
    for one in told:
        most = max(one["neighbors"], key=lambda near: near["contribution"] or 0.0)
        position = int(most["id"])
        examples.append(
            Example(
                context=_context(test, int(one["id"]), tokenizer),
                base_predicted=token(one["base_predicted"]),
                predicted=token(one["predicted"]),
                label=token(one["label"]),
                memory_context=_context(memory, position, tokenizer),
                memory_token=token(most["label"]),
                memory_file=memory.names[memory.at(position)].decode(errors="replace"),
                weight=most["weight"],
            )
        )
    return examples


def _context(documents: TokenDocuments, position: int, tokenizer: TextTokenizer) -> str:
    """Give the end of a document's text up to a token, which is its last; indentation as one space."""
    begin = max(int(documents.offsets[documents.at(position)]), position + 1 - _CONTEXT_TOKENS)
    text = re.sub(" +", " ", _printable(tokenizer.decode(documents.tokens[begin : position + 1])))
    return text if len(text) <= _CONTEXT_CHARACTERS else "…" + text[1 - _CONTEXT_CHARACTERS :]


def _token(text: str) -> str:
    """Show a token so that its spaces and line breaks can be seen."""
    return re.sub(" +", lambda found: "␣" if len(found[0]) == 1 else f"␣×{len(found[0])}", _printable(text))


def _printable(text: str) -> str:
    """Make one line of a text that has marks for its line breaks."""
    line = text.translate(_MARKS)
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
