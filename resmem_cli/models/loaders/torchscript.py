"""TorchScript archives (`torch.jit.save`): programs, which run when they are loaded and called."""

from __future__ import annotations

import warnings
from pathlib import Path

from resmem_cli.errors import DataError
from resmem_cli.models.extra import torch
from resmem_cli.models.loaders.base import Checkpoint, code_refused, loader
from resmem_cli.models.torchfile import TorchFileKind, reason, torch_file_kind


@loader
class TorchScriptArchive(Checkpoint):
    """A TorchScript archive, known by its members."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Look at the archive's listing."""
        return path.is_file() and torch_file_kind(path) is TorchFileKind.TORCHSCRIPT

    def read(self, *, trusted: bool) -> torch.nn.Module:
        """Load the program if it is trusted: a ``__setstate__`` in it runs while it is loaded."""
        if not trusted:
            raise code_refused(
                self.path, "is a TorchScript archive: a program, which can run code when it is loaded"
            )
        try:
            with warnings.catch_warnings():
                # torch deprecates TorchScript; people's archives do not go away for that.
                warnings.filterwarnings("ignore", r".torch\.jit\.load. is deprecated", DeprecationWarning)
                network: torch.nn.Module = torch.jit.load(  # type: ignore[no-untyped-call]
                    str(self.path), map_location="cpu"
                )
        except (RuntimeError, ValueError) as error:
            raise DataError(
                f"is not a readable TorchScript archive: {reason(error)}", file=self.path
            ) from error
        return network
