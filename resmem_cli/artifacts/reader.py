"""Reading an artifact: nothing is handed out whose digest was not checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.declaring import Format, Layout
from resmem_cli.artifacts.formats import FORMATS
from resmem_cli.artifacts.hdf5 import CHECKSUM_FILTERS
from resmem_cli.artifacts.provenance import (
    DIGEST_BYTES,
    DatasetDigest,
    InputRecord,
    block_rows,
    content_digest,
    header_digest,
    strict_json,
)
from resmem_cli.artifacts.rows import BlockRows, MappedRows
from resmem_cli.artifacts.schema import check_schema
from resmem_cli.artifacts.structure import DAMAGED, Hdf5File, StoredDataset
from resmem_cli.errors import DataError
from resmem_cli.types import Closing

DIGEST_GROUP = "digests"

_ATTRIBUTES: dict[str, type] = {
    "format": bytes,
    "format_version": int,
    "generated_by": bytes,
    "parameters": bytes,
    "inputs": bytes,
    "content_digest": bytes,
    "header_digest": bytes,
}

# Parameters that count something, and the axis that is as long, where there is one.
_COUNTS = {"n_classes": "C", "n_memory": "", "k": "k", "n_queries": ""}


@dataclass(frozen=True)
class Header:
    """What an artifact says of itself.

    Attributes
    ----------
    format : Format
        Its format.
    version : int
        The version of the format it was written in.
    generated_by : str
        Tool and version.
    parameters : mapping
        What its command was given and measured.
    inputs : tuple of InputRecord
        What it was made from.
    content_digest : str
        Digest of its datasets.
    """

    format: Format
    version: int
    generated_by: str
    parameters: Mapping[str, Any]
    inputs: tuple[InputRecord, ...]
    content_digest: str


class Artifact(Closing):
    """An open artifact whose structure, schema and header were checked. See `open_artifact`."""

    def __init__(self, path: Path, file: Hdf5File, header: Header, datasets: Mapping[str, StoredDataset],
                 digests: Mapping[str, DatasetDigest], dimensions: Mapping[str, int]) -> None:  # fmt: skip
        self.path = path
        self.header = header
        self.parameters = header.parameters
        self.dimensions = dimensions
        self._file = file
        self._datasets = datasets
        self.digests = digests

    def __contains__(self, name: str) -> bool:
        return name in self._datasets

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and type of each dataset, in the format's order."""
        return {
            spec.path: (self._datasets[spec.path].shape, self._datasets[spec.path].dtype)
            for spec in self.header.format.datasets
            if spec.path in self._datasets
        }

    def rows(self, name: str) -> BlockRows:
        """Open a dataset for reading in order, or at random if its layout is for that."""
        if self.header.format.spec(name).layout == Layout.RANDOM:
            return self.mapped(name)
        bound = self.header.format.spec(name).below
        below = None if bound is None else int(self.number(bound))
        finite = self.header.format.finite
        return BlockRows(self.path, self._datasets[name], self.digests[name], below=below, finite=finite)

    def mapped(self, name: str) -> MappedRows:
        """Map a contiguous dataset into memory."""
        return MappedRows(self.path, self._datasets[name], self.digests[name])

    def read(self, name: str) -> NDArray[Any]:
        """Read a whole dataset."""
        rows = self.rows(name)
        return rows.read(0, rows.shape[0])

    def read_optional(self, name: str) -> NDArray[Any] | None:
        """Read a whole dataset, or give None where the file has none of that name."""
        return self.read(name) if name in self else None

    def number(self, *keys: str) -> float:
        """Find a number among the parameters, by the keys that lead to it.

        Raises
        ------
        DataError
            If there is none, or not a finite one.
        """
        value: Any = self.parameters
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            field = ".".join(("parameters", *keys))
            raise DataError("not a number", file=self.path, field=field, found=value, remedy=DAMAGED)
        return value

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_artifact(path: Path | str, fmt: Format | None = None, *, trusted: bool = False) -> Artifact:
    """Open an artifact and check its structure, schema and header.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    fmt : Format, optional
        The format it must have; any known one if not given.
    trusted : bool
        Whether this process has just written it; see `Hdf5File`.

    Raises
    ------
    MissingInputError
        If there is no such file.
    DataError
        If it is no artifact, of another format, of a newer version, damaged, or reaches outside.
    """
    path = Path(path)
    file = Hdf5File(path, trusted=trusted)
    try:
        artifact = _checked(path, file, fmt)
        file.close_library()
    except BaseException:
        file.close()
        raise
    return artifact


def is_artifact(path: Path) -> bool:
    """Whether the file is HDF5 and says it is an artifact; nothing else in it is looked at.

    Raises
    ------
    MissingInputError
        If it is no readable file.
    DataError
        If it is too damaged to tell.
    """
    with Hdf5File(path) as file:
        # Either: with one of them damaged it is still no stranger's file, whose arrays could be anything.
        return file.has_any_attribute("content_digest", "header_digest")


def _checked(path: Path, file: Hdf5File, fmt: Format | None) -> Artifact:
    header = _header(path, file.attributes(), fmt)
    file.check_length()
    found = file.datasets(filters=CHECKSUM_FILTERS)
    for name, dataset in found.items():
        if not dataset.placed:
            raise DataError(
                "not stored as it was written", file=path, field=name, expected="whole rows, without filters"
            )
    prefix = f"{DIGEST_GROUP}/"
    datasets = {name: dataset for name, dataset in found.items() if not name.startswith(prefix)}
    stored = {
        name.removeprefix(prefix): dataset for name, dataset in found.items() if name.startswith(prefix)
    }
    dimensions = check_schema(path, header.format, datasets)
    if sorted(datasets) != sorted(stored):
        raise DataError("datasets and digests do not match", file=path, field=DIGEST_GROUP, remedy=DAMAGED)
    digests = {
        name: _stored_digest(path, header.format, name, dataset, stored[name])
        for name, dataset in datasets.items()
    }
    if content_digest(digests) != header.content_digest:
        raise DataError("the content digest does not hold", file=path, field=DIGEST_GROUP, remedy=DAMAGED)
    _check_counts(path, header, dimensions)
    return Artifact(path, file, header, datasets, digests, dimensions)


def _header(path: Path, attributes: Mapping[str, bytes | int], fmt: Format | None) -> Header:
    name = _text(attributes.get("format"))
    if name not in FORMATS or (fmt is not None and name != fmt.name):
        raise DataError(
            "not the right kind of artifact",
            file=path,
            field="format",
            expected=fmt.name if fmt else f"one of {', '.join(FORMATS)}",
            found=name or "an HDF5 file without a format",
        )
    declared, version = FORMATS[name], attributes.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= declared.version:
        raise DataError(
            f"a version of {name} this tool does not read",
            file=path,
            field="format_version",
            expected=f"at most {declared.version}",
            found=version,
            remedy="upgrade resmem-cli",
        )
    for key, kind in _ATTRIBUTES.items():
        if not isinstance(attributes.get(key), kind):
            raise DataError("missing attribute", file=path, field=key, remedy=DAMAGED)
    rest = {key: value for key, value in attributes.items() if key != "header_digest"}
    if header_digest(rest) != _text(attributes["header_digest"]):
        raise DataError("the header's digest does not hold", file=path, field="header_digest", remedy=DAMAGED)
    parameters = _json(path, "parameters", attributes)
    if not isinstance(parameters, dict):
        raise DataError("not a mapping", file=path, field="parameters", remedy=DAMAGED)
    missing = set(declared.parameters) - set(parameters)
    if missing:
        raise DataError(
            f"parameters without {sorted(missing)}", file=path, field="parameters", remedy=DAMAGED
        )
    return Header(
        format=declared,
        version=version,
        generated_by=_text(attributes["generated_by"]),
        parameters=parameters,
        inputs=_inputs(path, _json(path, "inputs", attributes)),
        content_digest=_text(attributes["content_digest"]),
    )


def _json(path: Path, field: str, attributes: Mapping[str, bytes | int]) -> object:
    try:
        return strict_json(_text(attributes[field]))
    except ValueError as error:
        raise DataError(f"damaged JSON: {error}", file=path, field=field, remedy=DAMAGED) from error


def _check_counts(path: Path, header: Header, dimensions: Mapping[str, int]) -> None:
    """Hold the parameters that count something against the datasets."""
    for name, axis in _COUNTS.items():
        if name not in header.format.parameters:
            continue
        count = header.parameters[name]
        length = dimensions.get(axis, count)
        if type(count) is not int or count < 1 or count != length:
            raise DataError(
                "not a count of what is there",
                file=path,
                field=f"parameters.{name}",
                expected="at least 1" if length is count else length,
                found=count,
                remedy=DAMAGED,
            )


def _inputs(path: Path, records: object) -> tuple[InputRecord, ...]:
    keys = {field.name for field in dataclasses.fields(InputRecord)}
    if not isinstance(records, list) or not all(
        isinstance(record, dict)
        and set(record) == keys
        and all(isinstance(value, str) for value in record.values())
        for record in records
    ):
        raise DataError("not a list of inputs", file=path, field="inputs", remedy=DAMAGED)
    return tuple(InputRecord(**record) for record in records)


def _text(value: object) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else ""


def _stored_digest(
    path: Path, fmt: Format, name: str, dataset: StoredDataset, stored: StoredDataset
) -> DatasetDigest:
    size = block_rows(fmt.spec(name), dataset.dtype, dataset.shape)
    expected = (math.ceil(dataset.shape[0] / size), DIGEST_BYTES)
    if stored.shape != expected or stored.dtype != np.uint8:
        raise DataError(
            "wrong shape of digests", file=path, field=stored.name, expected=expected, found=stored.shape
        )
    return DatasetDigest(
        dtype=dataset.dtype.str, shape=dataset.shape, block_rows=size, blocks=stored.read(0, expected[0])
    )


def verify_blocks(artifact: Artifact) -> int:
    """Read every dataset and check every block's digest; return the number of bytes read.

    Raises
    ------
    DataError
        Naming the first block that is not what was written.
    """
    n_bytes = 0
    for name in artifact.shapes:
        rows = artifact.rows(name)
        step = block_rows(artifact.header.format.spec(name), rows.dtype, rows.shape)
        for start in range(0, rows.shape[0], step):
            n_bytes += rows.read(start, start + step).nbytes
    return n_bytes
