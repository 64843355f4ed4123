"""CIFAR as its authors distribute it for Python, whose pickles are read without running what they name."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.errors import DataError, MissingInputError
from resmem_cli.files import require_file

HOLDS = {
    "cifar-100-python": ("train", "test", "meta"),
    "cifar-10-batches-py": (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
}
"""The files of each folder."""

_SIDE, _CHANNELS = 32, 3
# All that the pickles need: the parts of an array of numbers, and bytes as Python 2's text is written.
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
}
_RECONSTRUCT = (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"))


@dataclass(frozen=True)
class CifarFolder:
    """CIFAR-10 or CIFAR-100.

    Attributes
    ----------
    train_images, test_images : (n, 32, 32, 3) uint8
    train_labels, test_labels : (n,) int32
    class_names : tuple of str
    groups : (C,) int32 or None
        The superclass of each class of CIFAR-100.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int32]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int32]
    class_names: tuple[str, ...]
    groups: NDArray[np.int32] | None


def read_cifar_folder(folder: Path) -> CifarFolder:
    """Read one of the two folders.

    Only arrays of numbers, text and Python's plain containers are read; a pickle that names anything else
    is refused before that is looked up.

    Raises
    ------
    MissingInputError
        If a file is missing.
    DataError
        If a file is damaged, or holds what CIFAR does not.
    """
    hundred = (folder / "meta").is_file()
    names = HOLDS["cifar-100-python" if hundred else "cifar-10-batches-py"]
    *train_files, test_file, meta_file = names
    key = "fine_labels" if hundred else "labels"
    trains = [_read_batch(folder / name, key) for name in train_files]
    test = _read_batch(folder / test_file, key)
    meta = _unpickle(folder / meta_file)
    class_names = _names(folder / meta_file, meta, "fine_label_names" if hundred else "label_names")
    labels = np.concatenate([one[1] for one in trains])
    groups = _groups(folder / "train", trains[0][1], len(class_names)) if hundred else None
    return CifarFolder(
        np.concatenate([one[0] for one in trains]), labels, test[0], test[1], class_names, groups
    )


def _read_batch(path: Path, key: str) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    batch = _unpickle(path)
    pixels = batch.get("data")
    size = _SIDE * _SIDE * _CHANNELS
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.ndim != 2
        or pixels.shape[1] != size
    ):
        raise DataError("no images", file=path, field="data", expected=f"uint8 of shape (n, {size})")
    labels = _label_column(path, batch, key, len(pixels))
    images = pixels.reshape(-1, _CHANNELS, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels


def _label_column(path: Path, batch: dict[str, Any], key: str, n: int) -> NDArray[np.int32]:
    values = batch.get(key)
    if (
        not isinstance(values, list)
        or len(values) != n
        or not all(type(value) is int and 0 <= value < 1 << 31 for value in values)
    ):
        raise DataError("no labels", file=path, field=key, expected=f"a list of {n:,} classes")
    return np.array(values, np.int32)


def _groups(path: Path, labels: NDArray[np.int32], n_classes: int) -> NDArray[np.int32]:
    coarse = _label_column(path, _unpickle(path), "coarse_labels", len(labels))
    if labels.max() >= n_classes:
        raise DataError(
            "a label is no class", file=path, expected=f"0 to {n_classes - 1}", found=int(labels.max())
        )
    groups = np.full(n_classes, -1, np.int32)
    groups[labels] = coarse
    if (groups < 0).any() or (groups[labels] != coarse).any():
        raise DataError("classes without one superclass each", file=path, field="coarse_labels")
    return groups


def _names(path: Path, meta: dict[str, Any], key: str) -> tuple[str, ...]:
    names = meta.get(key)
    if not isinstance(names, list) or not names or not all(isinstance(name, str | bytes) for name in names):
        raise DataError("no class names", file=path, field=key, expected="a list of names")
    return tuple(
        name.decode("utf-8", errors="replace") if isinstance(name, bytes) else name for name in names
    )


def _unpickle(path: Path) -> dict[str, Any]:
    require_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingInputError(f"can't be read: {error.strerror}", file=path) from error
    try:
        found = _Restricted(io.BytesIO(content), encoding="bytes").load()
    except DataError as error:
        raise error.in_file(path) from error
    except Exception as error:
        # A damaged pickle can raise nearly anything.
        raise DataError(
            "damaged, or no pickle", file=path, expected="a file of CIFAR's Python version", found=str(error)
        ) from error
    if not isinstance(found, dict):
        raise DataError("not as expected", file=path, expected="a dict", found=type(found).__name__)
    return {
        key.decode("utf-8", errors="replace") if isinstance(key, bytes) else str(key): value
        for key, value in found.items()
    }


class _Restricted(pickle.Unpickler):
    """Knows the few names that CIFAR's files need."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _RECONSTRUCT:
            return _empty_array
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise DataError(
            "a pickle that could run code when read",
            expected="arrays of numbers, text, lists and dicts",
            found=f"{module}.{name}",
            remedy="take the files from CIFAR's own page",
        )


def _empty_array(kind: Any, shape: Any, dtype: Any) -> NDArray[Any]:
    # What numpy's own does for ndarray; the pickle then sets the array's state.
    return np.empty(0, np.int8)
