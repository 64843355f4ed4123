"""Write many views of the same images, fixed crops and flips of each, for measurements of large memories.

    python tests/benchmarks/augmented_views.py images.npz -o views
    resmem embed resnet8.safetensors views/images.npy --labels views/labels.npy
        --arch cifar-resnet8 --mean ... --std ... -o train.h5

The images are an .npz with `x_train` (n, h, w, channels) uint8 and `y_train` (n,). A view shifts every image
by the same few pixels, the pixels that come into sight being reflections at the border, and mirrors all of
them left to right or none. The ten shifts of `SHIFTS`, down and to the right, each plain and then mirrored,
are 20 views: 50,000 images become 1,000,000. The rows go view by view, in the images' order, so row r is view
r // n of image r % n, and view 0 is the images themselves.

`images.npy` is written view by view through a memory map (3 GB for CIFAR-100), `labels.npy` beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHIFTS = ((0, 0), (-4, -4), (-4, 4), (4, -4), (4, 4), (-2, 0), (2, 0), (0, -2), (0, 2), (3, -1))
MAX_VIEWS = 2 * len(SHIFTS)


def view_of(images: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """Make one view of images ``(n, h, w, channels)``: shift ``number // 2``, mirrored if it is odd."""
    down, right = SHIFTS[number // 2]
    _, height, width, _ = images.shape
    rows = _reflected(np.arange(height) - down, height)
    columns = _reflected(np.arange(width) - right, width)
    if number % 2:
        columns = columns[::-1]
    return images[:, rows[:, np.newaxis], columns]


def write_views(images: NDArray[np.uint8], path: Path, n_views: int) -> None:
    """Write the first views, one after another, to an .npy file."""
    n_images = len(images)
    views = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.uint8, shape=(n_views * n_images, *images.shape[1:])
    )
    for number in range(n_views):
        views[number * n_images : (number + 1) * n_images] = view_of(images, number)
    views.flush()


def _reflected(pixels: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    # The border pixel itself is not repeated: -1 is 1, and `size` is size - 2.
    from_border = np.abs(pixels)
    inside: NDArray[np.intp] = np.minimum(from_border, 2 * (size - 1) - from_border)
    return inside


def main() -> None:
    """Write both files and print their size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="an .npz of images")
    parser.add_argument("--views", type=int, default=MAX_VIEWS, choices=range(1, MAX_VIEWS + 1), metavar="N")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    with np.load(given.data) as arrays:
        images, labels = arrays["x_train"], arrays["y_train"]
    write_views(images, given.output / "images.npy", given.views)
    np.save(given.output / "labels.npy", np.tile(labels, given.views))
    print(f"{given.views * len(images):,} images, {given.views} views of {len(images):,}")


if __name__ == "__main__":
    main()
