"""One vector an example: the positions of an activation, pixels or tokens, pooled."""

from __future__ import annotations

from resmem_cli.errors import DataError, UsageError
from resmem_cli.models.extra import torch
from resmem_cli.types import Pooling

_CHOICES = ", ".join(Pooling)


def pooled(
    activations: torch.Tensor, pool: Pooling | None, *, n_rows: int, what: str = "embedding"
) -> torch.Tensor:
    """Make one vector a row of an activation.

    Parameters
    ----------
    activations : (b, d), (b, L, d), (b, C, H, W) or (b, C, D, H, W)
        Taken as it is if it is (b, d), also behind axes of length 1 such as in (b, C, 1, 1); else the
        L tokens or the spatial axes are pooled. Any shape of b rows with `Pooling.NONE`.
    pool : Pooling or None
        ``mean`` or ``max`` over the positions, ``cls`` the first token, ``last`` the last token, ``none``
        all positions in a row, (b, L·d) or (b, C·H·W).
    n_rows : int
        `b`.
    what : str
        The activation's name, for messages.

    Returns
    -------
    (b, d)
        On the activation's device. A mean is taken and given in float32, whatever the activation's type;
        the others copy entries and keep the type.

    Raises
    ------
    DataError
        If it has positions and `pool` is None, has another number of rows, or is of a shape that `pool`
        does not take.
    UsageError
        If ``cls`` or ``last`` is to be taken of a spatial map.
    """
    shape = tuple(activations.shape)
    if len(shape) < 2 or shape[0] != n_rows:
        raise DataError(
            f"{what}: not one entry per row",
            expected=f"shape ({n_rows}, any)",
            found=shape,
            remedy="give another --layer",
        )
    if all(length == 1 for length in shape[2:]):
        return activations.flatten(1)
    if pool is None:
        positions = "tokens" if len(shape) == 3 else "positions"
        raise DataError(
            f"{what}: more than one vector per row",
            expected=f"shape ({n_rows}, any)",
            found=shape,
            remedy=f"choose how its {positions} are pooled, --pool {_CHOICES}, or another --layer",
        )
    if pool is Pooling.NONE:
        return activations.flatten(1)
    if len(shape) not in (3, 4, 5):
        raise DataError(
            f"{what}: a shape that --pool {pool} does not take",
            expected="(b, L, d), (b, C, H, W) or (b, C, D, H, W)",
            found=shape,
            remedy="give --pool none or another --layer",
        )
    is_spatial = len(shape) > 3
    if pool in (Pooling.CLS, Pooling.LAST):
        if is_spatial:
            raise UsageError(
                f"{what}: {pool} is a token, and this is a spatial map",
                field="--pool",
                expected="mean, max or none",
                found=f"{pool} of shape {shape}",
            )
        return activations[:, 0 if pool is Pooling.CLS else -1]
    axes = tuple(range(2, len(shape))) if is_spatial else (1,)
    if pool is Pooling.MAX:
        return activations.amax(dim=axes)
    return activations.mean(dim=axes, dtype=torch.float32)
