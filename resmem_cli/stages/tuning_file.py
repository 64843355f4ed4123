"""The settings that a tuning artifact chose, for the commands that take `--tuning`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.provenance import InputRecord
from resmem_cli.artifacts.reader import Artifact, open_artifact
from resmem_cli.artifacts.result_formats import TUNING
from resmem_cli.artifacts.structure import DAMAGED
from resmem_cli.errors import DataError
from resmem_cli.gate import Gate
from resmem_cli.settings import Settings, Softening
from resmem_cli.stages.lineage import artifact_record
from resmem_cli.stages.sources import EmbeddingSource
from resmem_cli.types import ResidualSpace


@dataclass(frozen=True)
class TuningChoice:
    """What a tuning artifact chose, and on what.

    Attributes
    ----------
    path : pathlib.Path
    best : Settings
        Of ResMem.
    knn, knn_lm : Settings or None
        Of the baselines.
    base_temperature : float
    softening : Softening or None
        Of ResMem's scores.
    gate : Gate
    space : ResidualSpace
    top : int or None
    data : mapping
        Which rows of what it was tuned on: `kind`, `file`, `embeddings_digest`, `rows`, `of`.
    rows : (t,) int64 or None
        Rows tuned on, where not all were.
    embeddings_digest : str
        Of the memory.
    record : InputRecord
        For lineages.
    """

    path: Path
    best: Settings
    knn: Settings | None
    knn_lm: Settings | None
    base_temperature: float
    softening: Softening | None
    gate: Gate
    space: ResidualSpace
    top: int | None
    data: Mapping[str, Any]
    rows: NDArray[np.int64] | None
    embeddings_digest: str
    record: InputRecord

    def tuned_on(self, source: EmbeddingSource) -> NDArray[np.uint8] | None:
        """Mark the queries that the choice was made on; None if none of them was.

        Raises
        ------
        DataError
            If rows are named that the source has not.
        """
        if (
            self.data.get("kind") != "queries"
            or self.data.get("embeddings_digest") != source.embeddings_digest
        ):
            return None
        marks = np.ones(source.n, np.uint8)
        if self.rows is not None:
            if self.rows.min() < 0 or self.rows.max() >= source.n:
                raise DataError("rows that there are not", file=self.path, field="rows", remedy=DAMAGED)
            marks[:] = 0
            marks[self.rows] = 1
        return marks

    def check_memory(self, path: Path, embeddings_digest: str) -> None:
        """Refuse another memory than the one tuned on.

        Parameters
        ----------
        path : pathlib.Path
            Its index, or its embeddings.
        embeddings_digest : str
            Of its embeddings.

        Raises
        ------
        DataError
            Naming both files.
        """
        if embeddings_digest != self.embeddings_digest:
            raise DataError(
                f"tuned on another memory than {path}",
                file=self.path,
                expected=embeddings_digest[:12],
                found=self.embeddings_digest[:12],
                remedy="tune with this memory",
            )


def read_tuning(path: Path | str) -> TuningChoice:
    """Read a tuning artifact's choice.

    Raises
    ------
    MissingInputError, DataError
        As `open_artifact`, or for settings that can't be.
    """
    with open_artifact(path, TUNING) as file:
        parameters = file.parameters
        gate = parameters.get("gate")
        if not isinstance(gate, dict):
            raise _fault(file, "gate", gate)
        space = parameters["space"]
        if space not in list(ResidualSpace):
            raise _fault(file, "space", space)
        data = parameters["data"]
        if not isinstance(data, dict):
            raise _fault(file, "data", data)
        best = _settings(file, "best")
        if best is None:
            raise _fault(file, "best", parameters["best"])
        top = parameters.get("top")
        if top is not None and (type(top) is not int or top < 1):
            raise _fault(file, "top", top)
        return TuningChoice(
            path=file.path,
            best=best,
            knn=_settings(file, "knn"),
            knn_lm=_settings(file, "knn_lm"),
            base_temperature=file.number("base_temperature"),
            softening=_softening(file),
            gate=Gate(
                distance=_optional(file, "gate", "distance"),
                confidence=_optional(file, "gate", "confidence"),
                accuracy=file.number("gate", "accuracy"),
                plain_accuracy=float(parameters["best"].get("accuracy", 0)),
                share_open=file.number("gate", "share_open"),
            ),
            space=ResidualSpace(space),
            top=top,
            data=data,
            rows=file.read_optional("rows"),
            embeddings_digest=str(parameters.get("embeddings_digest")),
            record=artifact_record("tuning", file),
        )


def _settings(file: Artifact, name: str) -> Settings | None:
    if file.parameters.get(name) is None:
        return None
    k = file.number(name, "k")
    if type(k) is not int or k < 1:
        raise _fault(file, f"{name}.k", k)
    numbers = {part: file.number(name, part) for part in ("sigma", "temperature", "strength")}
    for part, value in numbers.items():
        if value < 0 or (value == 0 and part != "strength"):
            raise _fault(file, f"{name}.{part}", value)
    return Settings(k=k, **numbers)


def _softening(file: Artifact) -> Softening | None:
    if file.parameters.get("softening") is None:
        return None
    numbers = {part: file.number("softening", part) for part in ("temperature", "floor")}
    for part, value in numbers.items():
        if value <= 0:
            raise _fault(file, f"softening.{part}", value)
    return Softening(**numbers)


def _optional(file: Artifact, *keys: str) -> float | None:
    value: Any = file.parameters
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return None if value is None else file.number(*keys)


def _fault(file: Artifact, field: str, found: object) -> DataError:
    return DataError(
        "values that can't be", file=file.path, field=f"parameters.{field}", found=found, remedy=DAMAGED
    )
