"""How a format is declared: its datasets, their axes and types, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

FLOATS = ("<f2", "<f4")
STRING = "S"


class Layout(StrEnum):
    """How a dataset lies in its file."""

    SEQUENTIAL = "sequential"
    """Read in order: chunks of about 1 MiB, each with HDF5's fletcher32 checksum."""

    RANDOM = "random"
    """Read at random rows: contiguous and page-aligned, so that it can be memory-mapped."""


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of a format.

    Attributes
    ----------
    path : str
        Its place in the file.
    dims : tuple of str
        The names of its axes. A name stands for one length in the whole file.
    dtypes : tuple of str
        The types it may have, little-endian, as numpy writes them; ``S`` is any fixed-length string.
    doc : str
        What it holds.
    columns : tuple of str
        What each entry of the second axis is, where that does not depend on the file.
    below : str or None
        The parameter that every value is below, where values number something from 0.
    """

    path: str
    dims: tuple[str, ...]
    dtypes: tuple[str, ...]
    doc: str
    required: bool = True
    layout: Layout = Layout.SEQUENTIAL
    columns: tuple[str, ...] = ()
    below: str | None = None


@dataclass(frozen=True)
class Format:
    """One kind of artifact.

    Attributes
    ----------
    name : str
        The value of the file's attribute `format`.
    version : int
        The newest `format_version` this tool reads, and the one it writes.
    doc : str
        What such a file is.
    datasets : tuple of DatasetSpec
        Everything that may be in it.
    one_of : tuple of groups of paths
        Alternatives: of all datasets named here, a file holds those of exactly one group.
    parameters : tuple of str
        The keys that the attribute `parameters` must have.
    finite : bool
        Whether none of its numbers is NaN or infinite.
    """

    name: str
    version: int
    doc: str
    datasets: tuple[DatasetSpec, ...]
    one_of: tuple[tuple[str, ...], ...] = ()
    parameters: tuple[str, ...] = ()
    finite: bool = False

    def spec(self, path: str) -> DatasetSpec:
        """Find a dataset's declaration by its path.

        Raises
        ------
        KeyError
            If the format has none of that path.
        """
        for spec in self.datasets:
            if spec.path == path:
                return spec
        raise KeyError(f"{self.name} has no dataset {path}")


def dataset(
    path: str,
    dims: str,
    dtypes: tuple[str, ...],
    doc: str,
    *,
    optional: bool = False,
    random: bool = False,
    columns: str = "",
    below: str | None = None,
) -> DatasetSpec:
    """Declare a dataset; see `DatasetSpec`. `dims` and `columns` are names with blanks between."""
    return DatasetSpec(
        path=path,
        dims=tuple(dims.split()),
        dtypes=dtypes,
        doc=doc,
        required=not optional,
        layout=Layout.RANDOM if random else Layout.SEQUENTIAL,
        columns=tuple(columns.split()),
        below=below,
    )


def with_and_without(group: tuple[str, ...], *optional: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Give a group of datasets with every choice of the optional ones."""
    groups = [group]
    for more in optional:
        groups += [(*one, *more) for one in groups]
    return tuple(groups)
