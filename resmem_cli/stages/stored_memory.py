"""The memory's labels and residuals, mapped from their artifact."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.reader import Artifact
from resmem_cli.errors import DataError, naming_file
from resmem_cli.memory import DenseMemory, TopMemory
from resmem_cli.residuals import TopResiduals, class_dtype
from resmem_cli.stages.streaming import block_bytes
from resmem_cli.truncation import Truncation
from resmem_cli.types import ResidualSpace, row_blocks

RESIDUAL_ROWS = ("residuals", "top/classes", "top/values")
"""The datasets of the residuals format that residuals are stored in: the first, or the others."""

# Residuals of this size stay in the system's cache, where the order of the rows costs nothing.
_CACHED_BYTES = 1 << 28


class StoredMemory:
    """Labels and residuals of an open residuals artifact.

    Residuals stay in the file; only blocks that hold a neighbour are read and checked.

    Attributes
    ----------
    temperature : float
        Of the residuals.
    space : ResidualSpace
        In what they correct the network.
    n_classes : int
        `C`.
    labels : (n,) int32
        In [0, C).
    class_names : (C,) bytes or None
        UTF-8.
    truncated : bool
        Whether only the largest entries of each residual are stored.

    Raises
    ------
    DataError
        If the file says of itself what can't be.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self.temperature = artifact.number("temperature")
        if self.temperature <= 0:
            raise self._fault("temperature", expected="a number above 0", found=self.temperature)
        # Files of before version 3 do not say.
        space = artifact.parameters.get("space", ResidualSpace.PROBABILITY)
        if space not in list(ResidualSpace):
            raise self._fault("space", expected=" or ".join(ResidualSpace), found=space)
        self.space = ResidualSpace(space)
        self.n_classes = int(artifact.number("n_classes"))
        self.labels: NDArray[np.int32] = artifact.read("labels")
        self.class_names: NDArray[np.bytes_] | None = artifact.read_optional("class_names")
        self.truncated = "residuals" not in artifact
        if "top/classes" in artifact:
            stored, expected = artifact.shapes["top/classes"][1], class_dtype(self.n_classes)
            if stored != expected:
                raise self._fault("top/classes", expected=expected, found=stored)
        self._maps = [artifact.mapped(name) for name in RESIDUAL_ROWS if name in artifact]
        self._row_bytes = sum(rows.dtype.itemsize * rows.shape[1] for rows in self._maps)

    def correct(
        self, scores: NDArray[np.float32], rows: NDArray[np.int64], weights: NDArray[np.float32]
    ) -> Truncation | None:
        """Add eq. 7 to (n_queries, C) scores, in place; see `Residuals.correct`.

        Raises
        ------
        DataError
            If a residual read is damaged or not finite.
        """
        n_queries, k = rows.shape
        step = max(1, block_bytes() // (k * self._row_bytes))
        parts = [
            self._correct(scores[block], rows[block], weights[block]) for block in row_blocks(n_queries, step)
        ]
        truncations = [part for part in parts if part is not None]
        if not truncations:
            return None
        return Truncation(
            bound=np.concatenate([part.bound for part in truncations]),
            proved=np.concatenate([part.proved for part in truncations]),
        )

    def entries(self, rows: NDArray[np.int64], classes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Give one class's entry of each neighbour's residual; see `Residuals.entries`."""
        if self._artifact.shards:
            wanted, places = np.unique(rows, return_inverse=True)
            rows = places.reshape(rows.shape)
            stored = [mapped.at(wanted)[wanted] for mapped in self._maps]
        else:
            stored = [mapped.at(rows) for mapped in self._maps]
        if len(stored) == 2:
            top = TopResiduals(stored[0], stored[1], self.n_classes)
            return TopMemory(top).entries(rows, classes)
        return DenseMemory(stored[0]).entries(rows, classes)

    def _correct(
        self, scores: NDArray[np.float32], rows: NDArray[np.int64], weights: NDArray[np.float32]
    ) -> Truncation | None:
        if self._artifact.shards or len(self.labels) * self._row_bytes > _CACHED_BYTES:
            # Each page is touched once, in the order of the file, or of the shards.
            wanted, places = np.unique(rows, return_inverse=True)
            rows = places.reshape(rows.shape)  # numpy 1 gives them flat
            stored = [mapped.at(wanted)[wanted] for mapped in self._maps]
        else:
            stored = [mapped.at(rows) for mapped in self._maps]
        if len(stored) == 2:
            classes, values = stored
            with naming_file(self._artifact.path):
                return TopMemory(TopResiduals(classes, values, self.n_classes)).correct(scores, rows, weights)
        DenseMemory(stored[0]).correct(scores, rows, weights)
        if not np.isfinite(scores).all():
            raise self._fault("residuals", expected="finite residuals", found="NaN or infinity")
        return None

    def _fault(self, field: str, *, expected: object, found: object) -> DataError:
        return DataError(
            "values that can't be",
            file=self._artifact.path,
            field=field,
            expected=expected,
            found=found,
            remedy="make the file again with `resmem residualize`",
        )
