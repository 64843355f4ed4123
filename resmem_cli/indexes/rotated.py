"""A space turned at random, in which every coordinate tells as much of a row as any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.indexes.one_thread import one_blas_thread
from resmem_cli.indexes.space import Space
from resmem_cli.threads import for_each_block
from resmem_cli.types import row_blocks

_ROW_BITS = 24
_AXIS_BITS = 20
_BLOCK_ELEMENTS = 1 << 16


@dataclass(frozen=True)
class Rotated(Space):
    """A space with axes, whose products are exact, so that a row's bits do not depend on those beside it.

    Rows are rounded to 24 bits of their largest value, axes to multiples of 2⁻²⁰: then every partial sum
    of up to 2¹⁸ products is a whole number below 2⁵³ in units of its own, in whatever order they are added.
    """

    def searched(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Give (m, d) rows as they are searched: (m, `dimension`) float32."""
        if self.axes is None:
            return super().searched(rows)
        axes = self.axes
        found = np.empty((len(rows), axes.shape[1]), np.float32)

        def turn(block: slice) -> None:
            centred = self.centred(rows[block])
            exponents = np.frexp(np.abs(centred).max(axis=1, initial=0))[1][:, None]
            whole = np.rint(np.ldexp(centred, _ROW_BITS - exponents))
            with np.errstate(over="ignore"):
                found[block] = np.ldexp(whole @ axes, exponents - _ROW_BITS)

        with one_blas_thread():
            for_each_block(turn, row_blocks(len(rows), max(1, _BLOCK_ELEMENTS // len(axes))))
        return found


def random_axes(d: int, *, seed: int) -> NDArray[np.float64]:
    """Draw a rotation of d dimensions: (d, d), its values multiples of 2⁻²⁰."""
    drawn = np.random.default_rng(seed).standard_normal((d, d))
    axes: NDArray[np.float64] = np.rint(np.linalg.qr(drawn)[0] * (1 << _AXIS_BITS)) / (1 << _AXIS_BITS)
    return axes
