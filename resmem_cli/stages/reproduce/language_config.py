"""What `reproduce language` can be told, and the folder of texts it takes by default."""

from __future__ import annotations

import math
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resmem_cli.arrays.byte_pairs import LEAST_VOCABULARY
from resmem_cli.errors import UsageError
from resmem_cli.indexes.base import index_kinds
from resmem_cli.memory_size import DEFAULT_MEMORY

WINDOW, STRIDE, TOP = 256, 192, 128
"""The paper's windows, and the entries it keeps of each residual (appendix E)."""

PAPER_K, PAPER_SIGMA = 50, 1.0
"""The paper's settings; T = 1 (section 4.3)."""

_HEAD_WIDTH = 32
_LEAST_MEMORY = 100  # for the paper's k, and a few more


@dataclass(frozen=True)
class ModelSize:
    """Size of a transformer.

    Attributes
    ----------
    width : int
        Of a token's representation.
    depth : int
        Blocks.
    """

    width: int
    depth: int

    @property
    def name(self) -> str:
        """As it is written, such as ``192x3``."""
        return f"{self.width}x{self.depth}"

    def arch_args(self, vocabulary: int) -> dict[str, int]:
        """Give the arguments of `transformer-lm`: heads of about 32 dimensions that divide the width."""
        wanted = max(1, self.width // _HEAD_WIDTH)
        heads = next(heads for heads in range(wanted, 0, -1) if self.width % heads == 0)
        return {
            "vocab_size": vocabulary,
            "context": WINDOW,
            "width": self.width,
            "depth": self.depth,
            "heads": heads,
        }


def model_size(text: str) -> ModelSize:
    """Read a size such as ``192x3``; raises `UsageError` if it is none."""
    width, _, depth = text.strip().partition("x")
    if not (width.isdecimal() and depth.isdecimal() and int(width) and int(depth)):
        raise UsageError("no size of a model", field="--sizes", expected="WIDTHxDEPTH", found=text)
    return ModelSize(int(width), int(depth))


@dataclass(frozen=True)
class LanguageStudyConfig:
    """What to train on which texts, and how large the memory is.

    Attributes
    ----------
    glob : str
        Which files of the folder are texts.
    exclude : tuple of str
        Names of files and folders to leave out.
    held_out : float
        Share of the texts for validation, and again for the test.
    vocabulary : int
        Tokens of the byte-pair tokenizer.
    sizes : tuple of ModelSize
        Of the models, the smallest first.
    steps, batch_size, peak_learning_rate
        Of the training of each; a step is a batch of windows of 256 tokens.
    checkpoint_steps : int
        A run that is stopped repeats at most so many steps; changes no result.
    memory_tokens, validation_tokens, test_tokens : int
        At most so many tokens of each part are embedded.
    excerpt : int
        Tokens of the pieces that validation and test texts are cut into, of which some are drawn.
    kind : str
        Kind of index.
    recall : float
        What its search is tuned to, on the validation tokens.
    recall_tokens : int
        At most so many test tokens are searched exactly too.
    most_k : int
        The most neighbours to try in tuning.
    examples : int
        Corrected tokens to show.
    seed : int
    device : str
        Of training and embedding.
    memory : int
        Bytes of memory to stay within.
    """

    glob: str = "**/*.py"
    exclude: tuple[str, ...] = ("site-packages",)
    held_out: float = 0.05
    vocabulary: int = 4096
    sizes: tuple[ModelSize, ...] = (ModelSize(48, 2), ModelSize(96, 2))
    steps: int = 1200
    batch_size: int = 8
    peak_learning_rate: float = 2e-3
    checkpoint_steps: int = 100
    memory_tokens: int = 2_200_000
    validation_tokens: int = 4000
    test_tokens: int = 20_000
    excerpt: int = 512
    kind: str = "ivf-pq"
    recall: float = 0.95
    recall_tokens: int = 1000
    most_k: int = 1024
    examples: int = 10
    seed: int = 0
    device: str = "auto"
    memory: int = DEFAULT_MEMORY

    def check(self) -> None:
        """Raise `UsageError` for numbers out of range, before anything is made."""
        counts = {
            "--steps": self.steps,
            "--batch-size": self.batch_size,
            "--checkpoint-steps": self.checkpoint_steps,
            "--memory-tokens": self.memory_tokens,
            "--validation-tokens": self.validation_tokens,
            "--test-tokens": self.test_tokens,
            "--recall-tokens": self.recall_tokens,
            "--most-k": self.most_k,
        }
        for flag, count in counts.items():
            if count < 1:
                raise UsageError(f"{flag} out of range", expected="at least 1", found=count)
        if self.vocabulary < LEAST_VOCABULARY:
            raise UsageError(
                "--vocab out of range", expected=f"at least {LEAST_VOCABULARY}", found=self.vocabulary
            )
        if self.memory_tokens < _LEAST_MEMORY:
            raise UsageError(
                "--memory-tokens out of range", expected=f"at least {_LEAST_MEMORY}", found=self.memory_tokens
            )
        if not 0 < self.recall <= 1:
            raise UsageError("--recall out of range", expected="above 0, at most 1", found=self.recall)
        if self.kind not in index_kinds():
            kinds = ", ".join(index_kinds())
            raise UsageError("no such kind of index", field="--kind", expected=kinds, found=self.kind)
        if not 0 < self.held_out < 0.5:
            raise UsageError("--held-out out of range", expected="above 0, below 0.5", found=self.held_out)
        if not (math.isfinite(self.peak_learning_rate) and self.peak_learning_rate > 0):
            raise UsageError(
                "--learning-rate out of range", expected="above 0", found=self.peak_learning_rate
            )
        if self.excerpt < 2 or self.examples < 0 or self.seed < 0:
            raise UsageError("a number out of range", expected="at least 0, of an excerpt 2")
        names = [size.name for size in self.sizes]
        if len(names) < 2 or len(set(names)) < len(names):
            raise UsageError("--sizes", expected="two different ones or more", found=",".join(names))
        weights = [size.depth * size.width**2 for size in self.sizes]
        if weights != sorted(weights):
            raise UsageError("--sizes", expected="the smaller ones first", found=",".join(names))

    def settings(self, *, digest: str, device: str) -> dict[str, Any]:
        """Give all that a run's files depend on, as JSON values."""
        return {
            "study": "language",
            "texts": digest,
            "glob": self.glob,
            "exclude": list(self.exclude),
            "held_out": self.held_out,
            "vocabulary": self.vocabulary,
            "sizes": [size.name for size in self.sizes],
            "steps": self.steps,
            "batch_size": self.batch_size,
            "peak_learning_rate": self.peak_learning_rate,
            "memory_tokens": self.memory_tokens,
            "validation_tokens": self.validation_tokens,
            "test_tokens": self.test_tokens,
            "excerpt": self.excerpt,
            "kind": self.kind,
            "recall": self.recall,
            "recall_tokens": self.recall_tokens,
            "most_k": self.most_k,
            "seed": self.seed,
            "device": device,
        }


def python_source() -> Path:
    """Find the source of this Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))
