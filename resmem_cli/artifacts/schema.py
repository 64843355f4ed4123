"""Whether a file holds what its format declares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from resmem_cli.artifacts.declaring import STRING, Format
from resmem_cli.errors import DataError

_FEW_ALTERNATIVES = 4  # more are not listed in a message, but the likeliest is


class Shaped(Protocol):
    """Anything with a shape and a numpy type, such as an HDF5 dataset."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""


def check_schema(path: Path, fmt: Format, datasets: Mapping[str, Shaped]) -> dict[str, int]:
    """Hold datasets against their format.

    Parameters
    ----------
    path : pathlib.Path
        The file, for the message.
    fmt : Format
        What they should be.
    datasets : mapping of path to dataset
        All of the file's, without its digests.

    Returns
    -------
    dict of str to int
        The length of every named axis, such as ``{"n": 50000, "d": 64}``.

    Raises
    ------
    DataError
        For a dataset that is missing or unknown, empty, of another type or number of axes, for an axis
        that has two lengths, and for alternatives of which none or several are there.
    """
    declared = {spec.path: spec for spec in fmt.datasets}
    for name in datasets:
        if name not in declared:
            raise DataError(f"not a dataset of {fmt.name}", file=path, field=name)
    for spec in fmt.datasets:
        if spec.required and spec.path not in datasets:
            raise DataError(f"missing from this {fmt.name}", file=path, field=spec.path)
    _check_alternatives(path, fmt, datasets)
    dimensions: dict[str, tuple[int, str]] = {}
    for name, dataset in datasets.items():
        spec = declared[name]
        if not _type_fits(dataset.dtype, spec.dtypes):
            raise DataError(
                "wrong type",
                file=path,
                field=name,
                expected=" or ".join(spec.dtypes),
                found=dataset.dtype.str,
            )
        if len(dataset.shape) != len(spec.dims):
            raise DataError(
                "wrong number of axes",
                file=path,
                field=name,
                expected=f"({', '.join(spec.dims)})",
                found=dataset.shape,
            )
        if 0 in dataset.shape:
            raise DataError("is empty", file=path, field=name, found=f"shape {dataset.shape}")
        for dim, length in zip(spec.dims, dataset.shape, strict=True):
            bound, binder = dimensions.setdefault(dim, (length, name))
            if bound != length:
                raise DataError(
                    "datasets disagree",
                    file=path,
                    field=name,
                    expected=f"{dim} = {bound:,} as in {binder}",
                    found=f"{length:,}",
                )
    return {dim: length for dim, (length, _) in dimensions.items()}


def _check_alternatives(path: Path, fmt: Format, datasets: Mapping[str, Shaped]) -> None:
    if not fmt.one_of:
        return
    present = {name for group in fmt.one_of for name in group if name in datasets}
    if present not in [set(group) for group in fmt.one_of]:
        groups = sorted(fmt.one_of, key=lambda group: len(present.symmetric_difference(group)))
        likely = fmt.one_of if len(groups) <= _FEW_ALTERNATIVES else groups[:1]
        raise DataError(
            f"not a whole {fmt.name}",
            file=path,
            expected=" or else ".join(" with ".join(group) or "none" for group in likely),
            found=", ".join(sorted(present)) or "none",
        )


def _type_fits(dtype: np.dtype[Any], allowed: tuple[str, ...]) -> bool:
    return dtype.str in allowed or (dtype.kind == "S" and STRING in allowed)
