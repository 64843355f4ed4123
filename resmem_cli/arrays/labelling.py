"""What is known of each row beside its numbers: labels, ids, and the names of the classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.base import RowSource
from resmem_cli.arrays.selection import Located
from resmem_cli.errors import DataError
from resmem_cli.types import row_blocks

_BLOCK_ROWS = 1 << 20
_INT32_VALUES = 1 << 31
_LAST_CODE_POINT = 0x10FFFF


def read_labels(located: Located, *, n_classes: int | None) -> NDArray[np.int32]:
    """Read the labels ``(n,)`` or ``(n, 1)`` of any integer type, whole.

    Parameters
    ----------
    located : Located
        The array.
    n_classes : int, optional
        C; labels lie in [0, C). Without it they are only kept from being negative.

    Returns
    -------
    numpy.ndarray
        ``(n,)`` int32.

    Raises
    ------
    DataError
        If they are no integers, of another shape, or outside the classes.
    """
    rows = located.file.open(located.key)
    if len(rows.shape) != 1 and rows.shape[1:] != (1,):
        one_hot = len(rows.shape) == 2
        raise _error(
            located,
            "labels of the wrong shape",
            expected="(n,) or (n, 1)",
            found=rows.shape,
            remedy="if they are one-hot, export labels.argmax(1)" if one_hot else "export one label a row",
        )
    if rows.dtype.kind not in "biu":
        raise _error(
            located,
            "labels that are no integers",
            expected="class numbers from 0",
            found=f"dtype {rows.dtype}",
            remedy="export class numbers, such as labels.astype(np.int64)",
        )
    labels = np.empty(rows.shape[0], dtype=np.int32)
    for rows_read in row_blocks(len(labels), _BLOCK_ROWS):
        block = rows.read(rows_read.start, rows_read.stop).reshape(-1)
        _check_range(located, block, rows_read.start, n_classes)
        labels[rows_read] = block
    return labels


def _check_range(located: Located, block: NDArray[Any], start: int, n_classes: int | None) -> None:
    limit = _INT32_VALUES if n_classes is None else n_classes
    if int(block.min()) >= 0 and int(block.max()) < limit:
        return
    row = int(np.argmax((block < 0) | (block >= limit)))
    raise _error(
        located,
        f"label {int(block[row])} at row {start + row} names no class",
        expected=f"0 to {limit - 1}",
        found=int(block[row]),
        remedy="remove the rows without a class, or number the classes from 0",
    )


def read_ids(located: Located) -> NDArray[Any]:
    """Read the rows' ids ``(n,)``: int64, or UTF-8 bytes of fixed length.

    Raises
    ------
    DataError
        If they are neither integers nor text, of another shape, or can't be stored so.
    """
    rows = located.file.open(located.key)
    if len(rows.shape) != 1 and rows.shape[1:] != (1,):
        raise _error(
            located, "ids of the wrong shape", expected="(n,)", found=rows.shape, remedy="export one id a row"
        )
    if rows.dtype.kind in "SU":
        return _utf8(located, rows)
    if rows.dtype.kind not in "iu":
        raise _error(
            located,
            "ids of the wrong type",
            expected="integers or text",
            found=f"dtype {rows.dtype}",
            remedy="export integers, or text of a fixed length",
        )
    ids = rows.read(0, rows.shape[0]).reshape(-1)
    if int(ids.max()) > np.iinfo(np.int64).max:
        raise _error(
            located,
            f"an id too large for int64 at row {int(ids.argmax())}",
            expected=f"at most {np.iinfo(np.int64).max}",
            found=int(ids.max()),
            remedy="export the ids as text",
        )
    return ids.astype(np.int64)


def read_class_names(located: Located, *, n_classes: int | None) -> NDArray[np.bytes_]:
    """Read the class names ``(C,)`` as UTF-8 bytes of fixed length.

    Raises
    ------
    DataError
        If they are no text, or not as many as the classes.
    """
    rows = located.file.open(located.key)
    if len(rows.shape) != 1 or rows.dtype.kind not in "SU":
        raise _error(
            located,
            "class names that are no list of text",
            expected="shape (C,) of fixed-length text",
            found=f"shape {rows.shape} of {rows.dtype}",
            remedy="export np.array(names)",
        )
    if n_classes is not None and rows.shape[0] != n_classes:
        raise _error(
            located,
            "as many class names as classes are needed",
            expected=n_classes,
            found=rows.shape[0],
            remedy="export one name for each class, in the order of the logits",
        )
    return _utf8(located, rows)


def _utf8(located: Located, rows: RowSource) -> NDArray[np.bytes_]:
    text = rows.read(0, rows.shape[0]).reshape(-1)
    try:
        if text.dtype.kind == "U":
            # numpy meets code points beyond Unicode with a SystemError.
            if text.view(np.uint32).max(initial=0) > _LAST_CODE_POINT:
                raise ValueError("a code point beyond U+10FFFF")
            encoded: NDArray[np.bytes_] = np.char.encode(text, "utf-8")
            return encoded
        if text.view(np.uint8).max(initial=0) >= 128:
            np.char.decode(text, "utf-8")
    except ValueError as error:  # UnicodeError is one
        raise _error(
            located,
            "text that is no Unicode",
            expected="UTF-8",
            found=str(error),
            remedy="export it encoded as UTF-8",
        ) from error
    return text


def _error(located: Located, problem: str, *, expected: object, found: object, remedy: str) -> DataError:
    return DataError(
        problem,
        file=located.file.path,
        field=located.key or None,
        expected=expected,
        found=found,
        remedy=remedy,
    )
