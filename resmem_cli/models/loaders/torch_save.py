"""What `torch.save` wrote: state dicts, training checkpoints, whole pickled networks."""

from __future__ import annotations

from pathlib import Path

from resmem_cli.errors import DataError
from resmem_cli.models.architectures.factory import make_current_folder_importable
from resmem_cli.models.extra import torch
from resmem_cli.models.loaders.base import Checkpoint, code_refused, loader
from resmem_cli.models.torchfile import (
    PickleCodeError,
    TorchFileKind,
    read_torch_file,
    reason,
    torch_file_kind,
)


@loader
class TorchSaved(Checkpoint):
    """A file of `torch.save`; its older format has no mark of its own, so this takes the unrecognised."""

    fallback = True

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Look for a zip archive that is not another kind of torch's."""
        return path.is_file() and torch_file_kind(path) is TorchFileKind.ZIP

    def read(self, *, trusted: bool) -> object:
        """Read tensors and plain containers; with trust also anything else that was pickled."""
        try:
            return read_torch_file(self.path)
        except PickleCodeError as error:
            if not trusted:
                raise code_refused(
                    self.path,
                    "is more than tensors: it needs pickle code to load, which can run anything "
                    "on this machine",
                    found=error.found,
                ) from error
        return self._unpickle()

    def _unpickle(self) -> object:
        # A pickled network names its class, which mostly lives in a module beside it.
        make_current_folder_importable()
        try:
            return torch.load(str(self.path), map_location="cpu", weights_only=False)
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            raise DataError(
                f"can't be unpickled: {reason(error)}",
                file=self.path,
                remedy="run it where the modules it names can be imported",
            ) from error
