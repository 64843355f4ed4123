"""What can be chosen of `embed`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resmem_cli.errors import UsageError
from resmem_cli.shards import Shard
from resmem_cli.types import ArraySelection, ComputeType, ImageLayout, Pooling, StorageType


@dataclass(frozen=True)
class ImageConfig:
    """How images are given to the network.

    Attributes
    ----------
    mean, std : tuple of float
        Of pixels in [0, 1], one value or one a channel; empty if the inputs are no uint8 images.
    layout : ImageLayout or None
        Where the channels of an array are; None to tell by its shape.
    size : int or None
        For a folder of images: the shorter side is resized to this and the centre cut out.
    gray : bool
        For a folder of images: one channel instead of three.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: ImageLayout | None = None
    size: int | None = None
    gray: bool = False


@dataclass(frozen=True)
class LanguageConfig:
    """How documents become windows (Yang et al. 2023, appendix E).

    Attributes
    ----------
    window : int
        Tokens the network sees at once.
    stride : int or None
        Tokens from one window's start to the next's; each token has window − stride tokens of context
        where its document has them. None for three quarters of the window.
    pad_id : int or None
        What fills up the rows of a (documents, length) array.
    tokenizer : pathlib.Path or None
        A `tokenizers` JSON file, for inputs that are text.
    glob : str
        Which files of a folder are text.
    """

    window: int = 256
    stride: int | None = None
    pad_id: int | None = None
    tokenizer: Path | None = None
    glob: str = "**/*.txt"

    @property
    def step(self) -> int:
        """The stride, chosen or not."""
        return max(1, self.window * 3 // 4) if self.stride is None else self.stride


@dataclass(frozen=True)
class EmbedConfig:
    """How to embed.

    Attributes
    ----------
    arch : str or None
        What makes the untrained network: a built-in name, ``package.module:factory``, ``timm:NAME`` or
        ``transformers:FOLDER``; not needed for a checkpoint that is a whole network.
    arch_args : mapping or None
        Its keyword arguments.
    strict : bool
        Whether every weight must fit.
    trust_checkpoint : bool
        Whether a checkpoint that can run code may be loaded.
    layer, logits_layer : str or None
        A module's name, or ``name:input``; None for the input of the last linear layer (in language, of
        the last MLP), and for the network's output.
    pool : Pooling or None
        How the positions of one example become one vector.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    dtype : ComputeType
        What the network computes in.
    storage : StorageType
        What embeddings and logits are stored in.
    top : int or None
        Keep only so many of each row's logits, the largest, with what the rest of a softmax needs.
    batch_rows : int or None
        Rows at a time, or windows; None for 256 rows or 16 windows.
    arrays : ArraySelection
        Which arrays of the input file.
    images : ImageConfig
        For images.
    language : LanguageConfig or None
        For token ids and text. A built-in or Hugging Face language model needs none.
    shard : (int, int) or None
        ``(i, N)``: only the i-th, from 1, of N equal ranges of rows.
    resume : bool
        Go on where an interrupted run stopped, and keep what this one has done if it is interrupted.
    """

    arch: str | None = None
    arch_args: Mapping[str, Any] | None = None
    strict: bool = True
    trust_checkpoint: bool = False
    layer: str | None = None
    logits_layer: str | None = None
    pool: Pooling | None = None
    device: str = "auto"
    dtype: ComputeType = ComputeType.FLOAT32
    storage: StorageType = StorageType.FLOAT32
    top: int | None = None
    batch_rows: int | None = None
    arrays: ArraySelection = field(default_factory=ArraySelection)
    images: ImageConfig = field(default_factory=ImageConfig)
    language: LanguageConfig | None = None
    shard: tuple[int, int] | None = None
    resume: bool = False


def check_config(config: EmbedConfig) -> None:
    """Raise `UsageError` for numbers out of range, before anything is loaded."""
    for flag, value in (
        ("--batch-size", config.batch_rows),
        ("--top", config.top),
        ("--image-size", config.images.size),
    ):
        if value is not None and value < 1:
            raise UsageError(f"{flag} out of range", expected="at least 1", found=value)
    if config.shard is not None:
        Shard(*config.shard).check()
