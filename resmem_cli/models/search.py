"""Candidates for an exact search by matrix products on any device that torch knows."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import ResourceError
from resmem_cli.models.devices import choose_device, is_out_of_memory
from resmem_cli.models.extra import torch
from resmem_cli.types import row_blocks

_KEPT_SHARE = 0.5  # of the device's free memory may hold the memory's rows from batch to batch
_BLOCK_BYTES = 1 << 28  # of rows moved to the device together
_SQUARES = 1 << 26  # computed together


class _Rows(Protocol):
    """(n, e) float32 rows, as `resmem_cli.indexes.searched.SearchedRows` offers them."""

    block_rows: int

    @property
    def shape(self) -> tuple[int, int]:
        """`(n, e)`."""

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Give rows `start` to `stop`, C-contiguous."""


@dataclass
class _OnDevice:
    """Blocks of one memory and their squared norms, by first row."""

    blocks: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


class TorchSearch:
    """Finds the rows whose squared distances come out smallest in float32: an engine of `ExactIndex`.

    What it finds is only a proposal: the index computes true distances, proves the answer, and scans
    where it can't, so answers are the same to the bit as with any other engine.

    Parameters
    ----------
    device : str
        As for `embed`: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises
    ------
    UsageError
        If this machine has no such device.
    """

    reads_all_columns = True

    def __init__(self, device: str = "auto") -> None:
        self._device = choose_device(device)
        self._kept: weakref.WeakKeyDictionary[_Rows, _OnDevice] = weakref.WeakKeyDictionary()

    def nearest(
        self, queries: NDArray[np.float32], memory: _Rows, count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find candidates; see `resmem_cli.indexes.searched.Engine`.

        Raises
        ------
        ResourceError
            If the device has too little memory for one block.
        """
        try:
            with torch.inference_mode(), _float32_products():
                return self._nearest(queries, memory, count)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._kept.clear()
            raise ResourceError(
                f"not enough memory on {self._device} to search", remedy="try --backend faiss"
            ) from error

    def _nearest(
        self, queries: NDArray[np.float32], memory: _Rows, count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        points = torch.from_numpy(np.ascontiguousarray(queries)).to(self._device)
        own = points.square().sum(dim=1, keepdim=True)
        squares = torch.empty((len(queries), 0), device=self._device)
        rows = torch.empty((len(queries), 0), dtype=torch.int64, device=self._device)
        for first, block, norms in self._blocks(memory):
            parts = [
                _nearest_in_block(points[part], own[part], block, norms, min(count, len(block)))
                for part in row_blocks(len(queries), max(1, _SQUARES // len(block)))
            ]
            if not parts:
                break
            squares = torch.cat([squares, torch.cat([part[0] for part in parts])], dim=1)
            rows = torch.cat([rows, torch.cat([part[1] for part in parts]) + first], dim=1)
            # NaN counts as the largest of all.
            squares, order = torch.topk(squares, min(count, squares.shape[1]), dim=1, largest=False)
            rows = rows.gather(1, order)
        rows[~torch.isfinite(squares)] = -1
        return squares.cpu().numpy(), rows.cpu().numpy()

    def _blocks(self, memory: _Rows) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Give the first row, rows and squared norms of each block of the memory."""
        n, e = memory.shape
        step = max(1, min(memory.block_rows, _BLOCK_BYTES // (4 * e)))
        kept = self._kept.get(memory)
        if kept is None and 4 * n * e <= _KEPT_SHARE * _free_bytes(self._device):
            kept = self._kept[memory] = _OnDevice()
        for part in row_blocks(n, step):
            held = kept.blocks.get(part.start) if kept else None
            if held is None:
                block = _tensor(memory.read(part.start, part.stop)).to(self._device)
                held = block, block.square().sum(dim=1)
                if kept is not None:
                    kept.blocks[part.start] = held
            yield part.start, *held


def _nearest_in_block(
    points: torch.Tensor, own: torch.Tensor, block: torch.Tensor, norms: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Expand the squares, ‖q‖² − 2q·z + ‖z‖², and keep the smallest."""
    squares = torch.addmm(norms, points, block.T, alpha=-2).add_(own)
    found = torch.topk(squares, count, dim=1, largest=False)
    return found.values, found.indices


def _tensor(rows: NDArray[np.float32]) -> torch.Tensor:
    """Take an array as a tensor, without a copy where torch may write to it."""
    return torch.from_numpy(rows if rows.flags.writeable else rows.copy())


def _free_bytes(device: torch.device) -> float:
    """Count what a device has left; of the CPU's own memory nothing is kept twice."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return float(free)
    return 0.0


@contextmanager
def _float32_products() -> Iterator[None]:
    """Keep torch from rounding products of float32 matrices to fewer bits: the proof counts on float32's."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
