"""The memory as its artifacts hold it: an index to search, and residuals mapped from their file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.reader import Artifact
from resmem_cli.errors import DataError, naming_file
from resmem_cli.indexes.base import Index, index_kinds
from resmem_cli.memory import DenseMemory, TopMemory
from resmem_cli.residuals import TopResiduals


class StoredMemory:
    """Labels and residuals of an open residuals artifact.

    Residuals stay in the file; only blocks that hold a neighbour are read and checked.

    Attributes
    ----------
    temperature : float
        Of the residuals.
    n_classes : int
        `C`.
    labels : (n,) int32
        In [0, C).
    class_names : (C,) bytes or None
        UTF-8.

    Raises
    ------
    DataError
        If the file says of itself what can't be.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self.temperature = artifact.number("temperature")
        self.n_classes = int(artifact.number("n_classes"))
        if artifact.dimensions.get("C", self.n_classes) != self.n_classes:
            raise self._fault("n_classes", expected=artifact.dimensions["C"], found=self.n_classes)
        self.labels: NDArray[np.int32] = artifact.read("labels")
        if self.labels.min() < 0 or self.labels.max() >= self.n_classes:
            found = f"{self.labels.min()} to {self.labels.max()}"
            raise self._fault("labels", expected=f"0 to {self.n_classes - 1}", found=found)
        self.class_names: NDArray[np.bytes_] | None = artifact.read_optional("class_names")
        self._maps = [
            artifact.mapped(name) for name in artifact.shapes if name not in ("labels", "class_names")
        ]

    def mix(self, rows: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute eq. 7; see `DenseMemory.mix`.

        Raises
        ------
        DataError
            If a residual read is damaged or not finite.
        """
        if len(self._maps) == 1:
            mixed = DenseMemory(self._maps[0].at(rows)).mix(rows, weights)
        else:
            classes, values = (mapped.at(rows) for mapped in self._maps)
            with naming_file(self._artifact.path):
                mixed = TopMemory(TopResiduals(classes, values, self.n_classes)).mix(rows, weights)
        if not np.isfinite(mixed).all():
            raise self._fault("residuals", expected="finite residuals", found="NaN or infinity")
        return mixed

    def _fault(self, field: str, *, expected: object, found: object) -> DataError:
        return DataError(
            "values that can't be",
            file=self._artifact.path,
            field=field,
            expected=expected,
            found=found,
            remedy="make the file again with `resmem residualize`",
        )


def load_index(index_file: Artifact) -> Index:
    """Load the index of an open index artifact.

    Raises
    ------
    DataError
        If its kind is unknown.
    """
    kinds = index_kinds()
    kind = index_file.parameters["kind"]
    if kind not in kinds:
        raise DataError(
            "unknown kind of index",
            file=index_file.path,
            field="kind",
            expected=f"one of {', '.join(kinds)}",
            found=kind,
            remedy="upgrade resmem-cli",
        )
    names = [name for name in index_file.shapes if name != "ids"]
    with naming_file(index_file.path):
        return kinds[kind].from_datasets({name: index_file.read(name) for name in names})
