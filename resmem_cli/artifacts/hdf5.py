"""HDF5 files from strangers: what is refused before anything is read through the library.

What is here runs where the library is: in the process of its own that answers (see `answers`).
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from pathlib import Path

import h5py
from h5py import h5a, h5d, h5l, h5o, h5t, h5z

from resmem_cli.errors import BusyError, DataError, MissingInputError
from resmem_cli.files import require_file

# Artifacts use only the checksum; other people's files may also be compressed with what HDF5 ships.
CHECKSUM_FILTERS = frozenset({h5z.FILTER_FLETCHER32})
SHIPPED_FILTERS = CHECKSUM_FILTERS | {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_LZF}

# What h5py raises on damaged structures, and on types that numpy has not; its kinds are not documented.
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError)

_MAX_OBJECTS = 10_000
_MAX_DEPTH = 8
_MAX_ATTRIBUTES = 64
_MAX_ATTRIBUTE_BYTES = 1 << 24
# HDF5 unpacks a compressed chunk whole for any row of it, and holds it twice.
_MAX_CHUNK_BYTES = 1 << 28
# deflate cannot expand its input more than 1,032 times.
_MAX_EXPANSION = 1_100


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, without locking it: files are only ever replaced, never edited.

    Raises
    ------
    MissingInputError
        If the file is not there or may not be read.
    DataError
        If it is not HDF5, or is truncated or damaged.
    BusyError
        If this process has it open in another way.
    """
    require_file(path)
    try:
        return _open(path)
    except OSError as error:
        raise _opening_error(path, error) from error


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        # Of a link the default driver wants the real name, and one of /dev/fd has none once the file is
        # replaced. The other driver says less of what is wrong with a file.
        if "real path" not in str(error):
            raise
        return h5py.File(path, "r", driver="stdio", locking=False)


def _opening_error(path: Path, error: OSError) -> Exception:
    reason = str(error)
    if error.errno in (errno.EACCES, errno.EPERM):
        return MissingInputError("not readable", file=path, remedy="check its permissions")
    if error.errno in (errno.EAGAIN, errno.EBUSY):
        return BusyError("locked by another program", file=path, remedy="try again later")
    if "h5clear" in reason:
        return DataError(
            "marked as open for writing: a program writes it, or was stopped",
            file=path,
            remedy="wait for it, or create it again",
        )
    # The process of its own has closed what belongs to the other one.
    if error.errno == errno.EBADF or "values don't match" in reason or "already open" in reason:
        # HDF5 shares one open file among all who open it in a process, if all ask for the same.
        return BusyError("open in this process", file=path, remedy="close it first")
    if "truncated" in reason:
        return DataError("the file is truncated", file=path, remedy="copy or create it again")
    if "signature not found" in reason:
        return DataError("not an HDF5 file", file=path, expected="an HDF5 file", found=_first_bytes(path))
    return DataError(f"damaged HDF5 file: {reason}", file=path, remedy="copy or create it again")


def _first_bytes(path: Path) -> str:
    with path.open("rb") as stream:
        head = stream.read(12)
    return f"a file that starts with {head!r}" if head else "an empty file"


def readable_datasets(
    file: h5py.File, *, filters: frozenset[int] = SHIPPED_FILTERS
) -> dict[str, h5py.Dataset]:
    """Find every dataset of numbers or fixed-length strings, refusing anything that reaches outside.

    Parameters
    ----------
    file : h5py.File
        An open file.
    filters : frozenset of int
        The HDF5 filter codes that may be used.

    Returns
    -------
    dict of str to h5py.Dataset
        By path (`group/name`), in alphabetical order. Datasets of other types are left out.

    Raises
    ------
    DataError
        For a soft or external link, external storage, a virtual dataset, an unknown filter, a shape
        that its storage cannot hold, a cycle, or too many objects.
    """
    datasets = {}
    for name, dataset in _walk(file):
        if is_plain_type(dataset):
            check_storage(dataset, name, filters=filters)
            datasets[name] = dataset
    return datasets


def _walk(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    path = file.filename
    pending: list[tuple[str, h5py.Group, int]] = [("", file, 0)]
    seen = {_address(file)}
    while pending:
        prefix, group, depth = pending.pop()
        for name in _link_names(path, group):
            full = f"{prefix}{name}"
            kind = group.id.links.get_info(name.encode()).type
            if kind != h5l.TYPE_HARD:
                link = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "an external link"}.get(
                    kind, "a user-defined link"
                )
                raise DataError("links are refused", file=path, field=full, found=link)
            try:
                item = group[name]
            except HDF5_ERRORS as error:
                raise DataError(f"damaged object: {error}", file=path, field=full) from error
            address = _address(item)
            if address in seen or depth >= _MAX_DEPTH or len(seen) >= _MAX_OBJECTS:
                raise DataError(
                    "too many objects, too deep, or one linked twice",
                    file=path,
                    field=full,
                    expected="a tree",
                )
            seen.add(address)
            if isinstance(item, h5py.Group):
                pending.append((f"{full}/", item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                yield full, item


def _link_names(path: str, group: h5py.Group) -> list[str]:
    if len(group) > _MAX_OBJECTS:
        raise DataError("too many objects", file=path, expected=f"at most {_MAX_OBJECTS:,}", found=len(group))
    try:
        names = list(group)
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        raise DataError(f"damaged group: {error}", file=path) from error
    for name in names:
        # h5py hands these on as bytes.
        if not isinstance(name, str):
            raise DataError("a name that is not UTF-8", file=path, found=name)
    return sorted(names)


def _address(item: h5py.HLObject) -> tuple[int, int]:
    info = h5o.get_info(item.id)
    return info.fileno, info.addr


def is_plain_type(dataset: h5py.Dataset) -> bool:
    """Whether the values are integers, floats or fixed-length strings, so that reading runs no code."""
    kind = dataset.id.get_type()
    match kind.get_class():
        case h5t.INTEGER | h5t.FLOAT:
            return True
        case h5t.STRING:
            return not kind.is_variable_str()
    return False


def check_storage(dataset: h5py.Dataset, name: str, *, filters: frozenset[int]) -> None:
    """Refuse a dataset whose values would come from elsewhere or could not be in this file.

    Raises
    ------
    DataError
        For external storage, a virtual dataset, a filter not in `filters`, a shape larger than what is
        stored, or compressed chunks that memory may not hold.
    """
    path = dataset.file.filename
    creation = dataset.id.get_create_plist()
    if creation.get_external_count():
        raise DataError("values stored in other files are refused", file=path, field=name)
    if creation.get_layout() == h5d.VIRTUAL:
        raise DataError("virtual datasets are refused", file=path, field=name)
    codes = {creation.get_filter(i)[0] for i in range(creation.get_nfilters())}
    if not codes <= filters:
        raise DataError(
            "unknown or unwanted filter",
            file=path,
            field=name,
            expected=f"filters among {sorted(filters)}",
            found=sorted(codes - filters),
            remedy="store the data without compression",
        )
    if dataset.shape is None:
        raise DataError("an empty dataspace", file=path, field=name)
    # A chunk is stored and held in memory whole, however little of it lies within the shape.
    chunks = dataset.chunks or (1,) * len(dataset.shape)
    padded = (math.ceil(length / chunk) * chunk for length, chunk in zip(dataset.shape, chunks, strict=True))
    declared = math.prod(padded) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    expansion = 1 if codes <= CHECKSUM_FILTERS else _MAX_EXPANSION
    if declared > stored * expansion or stored > Path(path).stat().st_size:
        raise DataError(
            "the declared shape does not fit what is stored",
            file=path,
            field=name,
            expected=f"{declared:,} bytes for shape {dataset.shape}",
            found=f"{stored:,} bytes",
            remedy="copy or create the file again",
        )
    held = math.prod(chunks) * dataset.dtype.itemsize
    if not codes <= CHECKSUM_FILTERS and held > _MAX_CHUNK_BYTES:
        raise DataError(
            "compressed chunks too large to unpack",
            file=path,
            field=name,
            expected=f"at most {_MAX_CHUNK_BYTES:,} bytes",
            found=f"{held:,}",
            remedy="store the data in smaller chunks, or without compression",
        )


def plain_attributes(file: h5py.File) -> dict[str, bytes | int]:
    """Read the root attributes that are fixed-length strings or integers; refuse any other kind.

    A variable-length attribute is not opened: a hostile one can make HDF5 spin.

    Raises
    ------
    DataError
        For an attribute of another type, a large one, or too many of them.
    """
    path = file.filename
    count = h5a.get_num_attrs(file.id)
    if count > _MAX_ATTRIBUTES:
        raise DataError("too many attributes", file=path, expected=f"at most {_MAX_ATTRIBUTES}", found=count)
    values: dict[str, bytes | int] = {}
    for index in range(count):
        try:
            attribute = h5a.open(file.id, index=index)
            kind = attribute.get_type()
            plain = attribute.shape == () and (
                kind.get_class() == h5t.INTEGER
                or (kind.get_class() == h5t.STRING and not kind.is_variable_str())
            )
            name = attribute.name.decode("utf-8", errors="replace")
            if not plain:
                raise DataError(
                    "attribute of a refused type",
                    file=path,
                    field=name,
                    expected="an integer or a fixed-length string",
                )
            size = attribute.get_storage_size()
            if size > _MAX_ATTRIBUTE_BYTES:
                raise DataError(
                    "attribute too large",
                    file=path,
                    field=name,
                    expected=f"at most {_MAX_ATTRIBUTE_BYTES:,} bytes",
                    found=f"{size:,}",
                )
            value = file.attrs[name]
        except HDF5_ERRORS as error:
            raise DataError(f"damaged attribute: {error}", file=path) from error
        values[name] = bytes(value) if isinstance(value, bytes) else int(value)
    return values
