"""Reader of tensors saved by torch: a bare tensor, or a mapping of tensors, nested or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from resmem_cli.arrays.base import (
    ArrayFile,
    ArrayInfo,
    ArrayRows,
    RowSource,
    check_rows,
    damage_refused,
    reads,
)
from resmem_cli.arrays.mapped import MappedFile, MappedRows, place_in_file


@reads(".pt", ".pth")
class TorchTensors(ArrayFile):
    """The tensors of one file; a nested mapping's keys are joined by ``/``."""

    def __init__(self, path: Path) -> None:
        # Only a file of this kind pays for importing torch.
        from resmem_cli.models.tensors import load_tensors

        super().__init__(path)
        self._tensors = dict(load_tensors(path))

    @property
    def arrays(self) -> Mapping[str, ArrayInfo]:
        """The tensors; bfloat16 shows as the float32 it is widened to."""
        return {key: ArrayInfo(tensor.shape, tensor.dtype.name) for key, tensor in self._tensors.items()}

    def open(self, key: str) -> RowSource:
        """Give the rows of one tensor: from the file where torch has mapped it, else from memory."""
        tensor = self._tensors[key]
        check_rows(tensor.shape, tensor.dtype, file=self.path, key=key)
        offset = place_in_file(tensor, self.path)
        if offset is None:
            return ArrayRows(tensor)
        with (
            damage_refused("torch.save", self.path, key, OSError, ValueError),
            self.path.open("rb") as stream,
        ):
            mapped = MappedFile(stream)
        return MappedRows(mapped.array(offset, tensor.shape, tensor.dtype), mapped)

    def close(self) -> None:
        """Let go of the tensors."""
        self._tensors = {}
