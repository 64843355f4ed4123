"""The parts of an image data set that runs are trained, tuned and tested on, each as array files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.image_data import ImageData
from resmem_cli.artifacts.temporary import make_folder, new_file
from resmem_cli.errors import UsageError
from resmem_cli.types import ArraySelection

HELD_OUT = "held-out"
TEST = "test"


@dataclass(frozen=True)
class Part:
    """Images with their labels and places in the data set, in memory and as files.

    Attributes
    ----------
    name : str
    folder : pathlib.Path
    images : (n, height, width, channels) uint8
    labels : (n,) int32
    ids : (n,) int64
        The images' places in the data set's training or test images.
    """

    name: str
    folder: Path
    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    ids: NDArray[np.int64]

    @property
    def path(self) -> Path:
        """The file of the images."""
        return self.folder / f"{self.name}_images.npy"

    @property
    def arrays(self) -> ArraySelection:
        """Where the stages find labels, ids and class names."""
        labels, ids = (str(self.folder / f"{self.name}_{kind}.npy") for kind in ("labels", "ids"))
        names = self.folder / "class_names.npy"
        return ArraySelection(labels=labels, ids=ids, class_names=str(names) if names.exists() else "none")

    def write(self) -> Part:
        """Write what is not there yet, each file whole or not at all."""
        for kind, values in (("images", self.images), ("labels", self.labels), ("ids", self.ids)):
            write_array(self.folder / f"{self.name}_{kind}.npy", values)
        return self


class ImageParts:
    """A data set, parted: test images, training images held out to tune on, and class-balanced subsets.

    Held-out images are drawn first and are in no subset; a smaller subset lies in every larger one.

    Parameters
    ----------
    data : ImageData
    folder : pathlib.Path
        Where their files go; made if need be.
    held_out : int
        Training images to hold out, as many of each class as can be.
    seed : int
        Of the draw.

    Raises
    ------
    UsageError
        If there are not so many images.
    """

    def __init__(self, data: ImageData, folder: Path, *, held_out: int, seed: int) -> None:
        per_class = np.bincount(data.train_labels, minlength=data.n_classes)
        share = held_out / len(data.train_labels)
        if held_out < data.n_classes or (np.round(share * per_class) >= per_class).any():
            raise UsageError(
                "--held-out out of range",
                expected=f"{data.n_classes:,} images or more, and fewer than there are of any class",
                found=f"{held_out:,}",
            )
        make_folder(folder)
        self.data = data
        self.folder = folder
        self._made: dict[str, Part] = {}
        self._orders = class_orders(data.train_labels, data.n_classes, seed=seed)
        self._n_held_out = [max(1, round(share * len(order))) for order in self._orders]
        if data.class_names is not None:
            write_array(folder / "class_names.npy", np.array(data.class_names))

    def test(self) -> Part:
        """Give the test images."""
        if TEST not in self._made:
            ids = np.arange(len(self.data.test_labels))
            part = Part(TEST, self.folder, self.data.test_images, self.data.test_labels, ids)
            self._made[TEST] = part.write()
        return self._made[TEST]

    def held_out(self) -> Part:
        """Give the images held out."""
        return self._part(HELD_OUT, lambda order, n: order[:n])

    def subset(self, fraction: float) -> Part:
        """Give a share of the images that are not held out, of each class at least one."""

        def choose(order: NDArray[np.int64], n: int) -> NDArray[np.int64]:
            left = order[n:]
            return left[: max(1, round(fraction * len(left)))]

        return self._part("train" if fraction == 1 else f"train-{100 * fraction:g}", choose)

    def _part(self, name: str, choose: Callable[[NDArray[np.int64], int], NDArray[np.int64]]) -> Part:
        """Draw and write, once, what is chosen of each class's order and the number held out of it."""
        if name not in self._made:
            orders = zip(self._orders, self._n_held_out, strict=True)
            rows = np.sort(np.concatenate([choose(order, n) for order, n in orders]))
            data = self.data
            part = Part(name, self.folder, data.train_images[rows], data.train_labels[rows], rows)
            self._made[name] = part.write()
        return self._made[name]


def class_orders(labels: NDArray[np.int32], n_classes: int, *, seed: int) -> list[NDArray[np.int64]]:
    """Put the rows of each class in a random order."""
    generator = np.random.default_rng([seed, n_classes])
    return [generator.permutation(np.flatnonzero(labels == number)) for number in range(n_classes)]


def write_array(path: Path, values: NDArray[Any]) -> None:
    """Write an .npy file whole, if it is not there."""
    if not path.exists():
        with new_file(path) as stream:
            np.lib.format.write_array(stream, np.ascontiguousarray(values), allow_pickle=False)
