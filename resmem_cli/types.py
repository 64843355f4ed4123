"""Types shared by every layer: choices, progress, and what a stage gives back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self


class Closing:
    """Something with a `close` that can be used as a context manager."""

    def close(self) -> None:
        """Release what it holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Method(StrEnum):
    """What the predicted class is the argmax of; all three share one search."""

    RESMEM = "resmem"
    BASE = "base"
    KNN = "knn"


class Metric(StrEnum):
    """How far apart two embeddings are."""

    EUCLIDEAN = "euclidean"
    """`‖x − y‖₂`, not squared."""

    COSINE = "cosine"
    """`1 − cos(x, y)`, computed as half the squared distance of the rows divided by their norms."""


class ResidualSpace(StrEnum):
    """In what the memory corrects the network."""

    PROBABILITY = "probability"
    """`onehot(y) − softmax(f/T)`, added to the network's probabilities: the paper."""

    LOGIT = "logit"
    """`mean logits of class y − f`, added to the network's logits."""


class ProbabilityMethod(StrEnum):
    """How scores become probabilities."""

    SIMPLEX = "simplex"
    """The nearest probabilities, in Euclidean distance."""

    CLIP = "clip"
    """What is negative becomes 0, and the rest is divided by its sum."""

    TEMPERATURE = "temperature"
    """What is below a floor becomes the floor, and the rest is raised to the power 1 / temperature."""


class ComputeType(StrEnum):
    """The type a network computes in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class StorageType(StrEnum):
    """The type numbers are stored in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


class Pooling(StrEnum):
    """How the positions of one example, pixels or tokens, become one vector."""

    MEAN = "mean"
    MAX = "max"
    CLS = "cls"
    LAST = "last"
    NONE = "none"


class ImageLayout(StrEnum):
    """Where the channels of an array of images are."""

    NHWC = "nhwc"
    NCHW = "nchw"


@dataclass(frozen=True)
class ArraySelection:
    """Which arrays of a file are meant.

    Parameters
    ----------
    split : str, optional
        ``train``, ``val`` or ``test``, or another name that the file's keys carry.
    embeddings, logits, probabilities, labels, ids, class_names, inputs, offsets : str, optional
        Each a key of the main file, another file, ``FILE:KEY``, or ``none`` to leave the array out;
        names in common use are recognised without. `inputs` is for `embed` only, `offsets` (where
        each document begins in a flat array of tokens) for its language models.
    """

    split: str | None = None
    embeddings: str | None = None
    logits: str | None = None
    probabilities: str | None = None
    labels: str | None = None
    ids: str | None = None
    class_names: str | None = None
    inputs: str | None = None
    offsets: str | None = None


class Progress(Protocol):
    """Hands on the row blocks it is given, showing how far they have come."""

    def __call__(self, blocks: Sequence[slice], description: str) -> Iterable[slice]:
        """Yield every block of `blocks` in order."""


def no_progress(blocks: Sequence[slice], description: str) -> Iterable[slice]:
    """Yield the blocks and show nothing: the default of every stage."""
    return blocks


def row_blocks(n_rows: int, block_rows: int) -> list[slice]:
    """Cut `n_rows` rows into consecutive slices of at most `block_rows` rows."""
    return [slice(start, min(start + block_rows, n_rows)) for start in range(0, n_rows, block_rows)]


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Attributes
    ----------
    command : str
        The command's name.
    output : pathlib.Path or None
        The file it wrote.
    summary : mapping of str to JSON values
        Its figures, in the order to show them.
    notices : tuple of str
        What the user should know but did not ask for.
    """

    command: str
    output: Path | None
    summary: Mapping[str, Any]
    notices: tuple[str, ...] = field(default=())
