"""Batches of saved inputs as the tensors a network takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError
from resmem_cli.models.extra import torch


def as_inputs(batch: NDArray[Any]) -> torch.Tensor:
    """Copy a batch into a tensor: floats as float32, integers (token ids) as int64.

    Parameters
    ----------
    batch : array of shape (b, ...)
        At least one row.

    Raises
    ------
    DataError
        If the batch has no rows, or is of uint8, bool or another type that does not say how the network
        saw its inputs in training.
    """
    if batch.ndim == 0 or batch.shape[0] == 0:
        raise DataError("inputs have no rows", found=f"shape {batch.shape}")
    if batch.dtype == np.uint8 or batch.dtype == np.bool_:
        raise DataError(
            "inputs of this type do not tell how the network was fed in training",
            expected="float32, or integer token ids wider than 8 bits",
            found=batch.dtype,
            remedy="save them as float32, scaled and normalised as in training",
        )
    if np.issubdtype(batch.dtype, np.floating):
        dtype: type[np.generic] = np.float32
    elif np.issubdtype(batch.dtype, np.integer):
        dtype = np.int64
    else:
        raise DataError("inputs are not numbers", expected="float32 or integer token ids", found=batch.dtype)
    # A copy, for a network may write into its input.
    return torch.from_numpy(np.array(batch, dtype=dtype, order="C"))
