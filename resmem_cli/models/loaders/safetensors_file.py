"""Weights in safetensors: a header in JSON and the tensors' bytes, nothing that could run."""

from __future__ import annotations

import os
from pathlib import Path

from resmem_cli.errors import DataError, MissingExtraError
from resmem_cli.models.extra import torch
from resmem_cli.models.loaders.base import Checkpoint, loader
from resmem_cli.models.torchfile import reason

_SUFFIX = ".safetensors"


@loader
class SafetensorsWeights(Checkpoint):
    """A safetensors file, known by its header, or by its suffix.

    The suffix is a promise that reading runs no code: a pickle of that name is refused, trusted or not.
    """

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Look for the length of a header that fits into the file, and the header's first character."""
        if path.is_dir():
            return False
        if path.suffix.lower() == _SUFFIX:
            return True
        with path.open("rb") as stream:
            head = stream.read(9)
        header = int.from_bytes(head[:8], "little")
        return head[8:] == b"{" and header + 8 <= os.path.getsize(path)

    def read(self, *, trusted: bool) -> dict[str, torch.Tensor]:
        """Map the tensors from the file."""
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError as error:
            raise MissingExtraError(
                "needs safetensors", file=self.path, remedy="pip install 'resmem-cli[torch]'"
            ) from error
        try:
            weights: dict[str, torch.Tensor] = load_file(self.path)
        except SafetensorError as error:
            raise DataError(
                f"is truncated, damaged, or not a safetensors file: {reason(error)}",
                file=self.path,
                remedy="copy or save it again",
            ) from error
        return weights
