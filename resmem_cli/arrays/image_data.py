"""Labelled images of a training and a test set, as a study of networks needs them, from any usual layout."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.cifar_pickles import HOLDS, read_cifar_folder
from resmem_cli.arrays.embedding_arrays import open_input_arrays
from resmem_cli.errors import DataError
from resmem_cli.types import ArraySelection

Images = NDArray[np.uint8]
Labels = NDArray[np.int32]
_SPLITS = ("train", "test")


@dataclass(frozen=True)
class ImageData:
    """Images of a training and a test set, in memory.

    Attributes
    ----------
    train_images, test_images : (n, height, width, channels) uint8
    train_labels, test_labels : (n,) int32
    class_names : tuple of str or None
        Of the C classes.
    groups : (C,) int32 or None
        The superclass of each class, where the source tells them.
    n_classes : int
    notices : tuple of str
    """

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    class_names: tuple[str, ...] | None
    groups: NDArray[np.int32] | None
    n_classes: int
    notices: tuple[str, ...] = ()

    def digest(self) -> str:
        """SHA-256 of images and labels: the same from whatever layout they were read."""
        whole = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            whole.update(repr((array.shape, array.dtype.str)).encode())
            whole.update(np.ascontiguousarray(array).data)
        return whole.hexdigest()


def read_image_data(path: Path) -> ImageData:
    """Read images and labels.

    Parameters
    ----------
    path : pathlib.Path
        The folder ``cifar-100-python`` or ``cifar-10-batches-py`` as it is distributed, or one that holds
        it; a file of exported arrays with the splits `train` and `test`; or a folder with the folders
        ``train`` and ``test`` of class folders.

    Raises
    ------
    MissingInputError, MissingExtraError
        If a file, or the package that reads it, is not there.
    DataError
        If it is none of these, is damaged, or training and test set do not go together.
    """
    if path.is_dir():
        for folder in (path, *(path / name for name in HOLDS)):
            if any(all((folder / name).is_file() for name in names) for names in HOLDS.values()):
                return _checked(path, *_of_cifar(folder))
        if not all((path / split).is_dir() for split in _SPLITS):
            raise DataError(
                "no images of a training and a test set",
                file=path,
                expected=f"the files of {' or '.join(HOLDS)}, or the folders train and test",
                remedy="give such a folder, or a file of arrays",
            )
        train, test = (_read(path / split, None) for split in _SPLITS)
    else:
        train, test = (_read(path, split) for split in _SPLITS)
    if train.class_names != test.class_names:
        raise DataError(
            "training and test set have other classes",
            file=path,
            field="class names",
            expected=_listed(train.class_names),
            found=_listed(test.class_names),
        )
    return _checked(path, train, test, None)


@dataclass(frozen=True)
class _Split:
    images: Images
    labels: Labels
    class_names: tuple[str, ...] | None
    notices: tuple[str, ...] = ()


def _read(path: Path, split: str | None) -> _Split:
    with open_input_arrays(path, ArraySelection(split=split)) as opened:
        name = split or path.name
        if opened.labels is None:
            raise DataError(f"no labels of the {name} images", file=path)
        images = opened.inputs.read(0, opened.n)
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DataError(
                f"the {name} inputs are no images",
                file=path,
                expected="uint8 of shape (n, height, width, channels)",
                found=f"{images.dtype} of shape {images.shape}",
            )
        if images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
            images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        names = None
        if opened.class_names is not None:
            names = tuple(one.decode("utf-8", errors="replace") for one in opened.class_names)
        return _Split(images, opened.labels, names, tuple(opened.notices))


def _of_cifar(folder: Path) -> tuple[_Split, _Split, NDArray[np.int32] | None]:
    found = read_cifar_folder(folder)
    train = _Split(found.train_images, found.train_labels, found.class_names)
    return train, _Split(found.test_images, found.test_labels, found.class_names), found.groups


def _checked(path: Path, train: _Split, test: _Split, groups: NDArray[np.int32] | None) -> ImageData:
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            "training and test images are of other sizes",
            file=path,
            expected=f"{train.images.shape[1:]}",
            found=f"{test.images.shape[1:]}",
        )
    names = train.class_names
    n_classes = int(train.labels.max()) + 1 if names is None else len(names)
    for split, labels in zip(_SPLITS, (train.labels, test.labels), strict=True):
        if labels.min() < 0 or labels.max() >= n_classes:
            raise DataError(
                f"a {split} label is no class",
                file=path,
                expected=f"0 to {n_classes - 1}",
                found=int(labels.min()) if labels.min() < 0 else int(labels.max()),
            )
    missing = np.flatnonzero(np.bincount(train.labels, minlength=n_classes) == 0)
    if len(missing):
        raise DataError("no training images of a class", file=path, found=f"class {missing[0]}")
    notices = tuple(dict.fromkeys((*train.notices, *test.notices)))
    return ImageData(train.images, train.labels, test.images, test.labels, names, groups, n_classes, notices)


def _listed(names: tuple[str, ...] | None) -> str:
    return "none" if names is None else ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
