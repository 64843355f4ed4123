"""A folder of images in class folders, read as arrays of 8-bit pixels."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.folder import FolderDigest, encoded_names, list_folder
from resmem_cli.arrays.locate import NONE
from resmem_cli.errors import DataError, MissingExtraError, UsageError
from resmem_cli.files import file_digest
from resmem_cli.types import ArraySelection, Closing, row_blocks

if TYPE_CHECKING:
    from PIL import Image

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_DIGESTED_AT_ONCE = 1 << 10
# What Pillow raises for damaged files, beside the OSError it means to.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    AttributeError,
    NotImplementedError,
    struct.error,
)


class ImageFolder(Closing):
    """Images below ``ROOT/CLASS/``, in the order of their names. Left as a context, it ends its threads.

    Files and folders whose names begin with a dot are left out, as are links that lead out of the folder.

    Parameters
    ----------
    root : pathlib.Path
        The folder. Its own folders are the classes, sorted, also those without images.
    selection : ArraySelection
        May only decline labels, ids or class names.
    image_size : int, optional
        N: the shorter side becomes N pixels (bicubic, antialiased) and the N × N in the middle is taken,
        with the roundings of torchvision's Resize and CenterCrop. Without it all images have one size.
    gray : bool
        Whether images become gray instead of RGB.

    Attributes
    ----------
    n : int
        Images.
    inputs : RowSource
        ``(n, H, W, 3)`` uint8, or ``(n, H, W, 1)`` in gray.
    labels : numpy.ndarray or None
        ``(n,)`` int32: the class folder's place among the sorted ones.
    ids : numpy.ndarray or None
        ``(n,)`` bytes: the images' paths in the folder.
    class_names : numpy.ndarray or None
        ``(C,)`` bytes.
    files : tuple of pathlib.Path
        The folder.
    sources : dict of str to str
        The folder's name.
    notices : tuple of str
        What the user should know, such as images that lie in no class folder.

    Raises
    ------
    UsageError
        If arrays are chosen, or `image_size` is out of range.
    MissingExtraError
        If Pillow is not installed.
    MissingInputError
        If a folder can't be listed.
    DataError
        If there are no images in class folders, or the first one can't be read.
    """

    def __init__(
        self, root: Path, selection: ArraySelection, *, image_size: int | None = None, gray: bool = False
    ) -> None:
        _check_options(root, selection, image_size)
        listing = list_folder(root, lambda name: name.lower().endswith(_SUFFIXES))
        names = [name for name in listing.files if "/" in name]
        if not names:
            raise DataError(
                "no images in class folders",
                file=root,
                expected=f"files such as CLASS/NAME{_SUFFIXES[0]}, of {', '.join(_SUFFIXES)}",
                found=f"{len(listing.files)} images in no class folder" if listing.files else None,
                remedy="put the images of each class into a folder of its own",
            )
        with os.scandir(root) as entries:
            classes = sorted(
                entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            )
        self._root = root
        self._names = names
        self.n = len(names)
        self.files = (root,)
        self.sources = {"inputs": root.resolve().name}
        self.notices = (*listing.notices(root), *_notices(root, listing.files, names, classes))
        numbers = {name: number for number, name in enumerate(classes)}
        labels = np.fromiter((numbers[name.partition("/")[0]] for name in names), np.int32, self.n)
        self.labels: NDArray[np.int32] | None = None if selection.labels == NONE else labels
        self.ids: NDArray[Any] | None = None if selection.ids == NONE else encoded_names(root, names)
        self.class_names: NDArray[np.bytes_] | None = (
            None if selection.class_names == NONE else encoded_names(root, classes)
        )
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        try:
            self.inputs = ImageRows(root, names, self._pool, image_size=image_size, gray=gray)
        except BaseException:
            self.close()
            raise

    @cached_property
    def digests(self) -> tuple[tuple[str, str, str], ...]:
        """Role, folder name and SHA-256 for the lineage; every image is read for it.

        The digest is that of what ``sha256sum FILES…`` prints for the sorted images.
        """
        whole = FolderDigest()
        for block in row_blocks(self.n, _DIGESTED_AT_ONCE):
            names = self._names[block]
            for name, digest in zip(
                names, self._pool.map(file_digest, map(self._root.joinpath, names)), strict=True
            ):
                whole.add(name, digest)
        return (("inputs", self._root.resolve().name, whole.hexdigest()),)

    def close(self) -> None:
        """End the threads; images can't be read after that."""
        self._pool.shutdown(cancel_futures=True)


class ImageRows:
    """Images as rows of pixels, decoded in several threads."""

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        pool: ThreadPoolExecutor,
        *,
        image_size: int | None,
        gray: bool,
    ) -> None:
        self._root = root
        self._names = names
        self._pool = pool
        self._image_size = image_size
        self._gray = gray
        self._pillow = _import_pillow(root)
        first = self._pixels(names[0])
        self.shape: tuple[int, ...] = (len(names), *first.shape)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Decode images `start` to `stop`.

        Raises
        ------
        DataError
            If an image is damaged, too large, of more than 8 bits a channel, or of another size than the
            first.
        """
        block = np.empty((stop - start, *self.shape[1:]), dtype=np.uint8)
        for row, pixels in enumerate(self._pool.map(self._fitting, self._names[start:stop])):
            block[row] = pixels
        return block

    def _fitting(self, name: str) -> NDArray[np.uint8]:
        pixels = self._pixels(name)
        if pixels.shape != self.shape[1:]:
            raise DataError(
                "an image of another size than the first",
                file=self._root / name,
                expected=f"{self.shape[2]} × {self.shape[1]} pixels, as {self._names[0]}",
                found=f"{pixels.shape[1]} × {pixels.shape[0]}",
                remedy="bring all to one size with --image-size",
            )
        return pixels

    def _pixels(self, name: str) -> NDArray[np.uint8]:
        path = self._root / name
        image_module = self._pillow
        too_large = (image_module.DecompressionBombError, image_module.DecompressionBombWarning)
        try:
            with image_module.open(path, formats=_FORMATS) as image:
                if image.mode[0] in "IF":
                    raise DataError(
                        "an image of more than 8 bits a channel",
                        file=path,
                        expected="8-bit pixels",
                        found=f"Pillow's mode {image.mode}",
                        remedy="convert it, or save the images as an array of floats",
                    )
                pixels = np.asarray(self._converted(image))
        except too_large as error:
            raise DataError(
                "an image too large to be decoded",
                file=path,
                expected=f"at most {image_module.MAX_IMAGE_PIXELS} pixels",
                found=str(error),
                remedy="make it smaller",
            ) from error
        except _PILLOW_ERRORS as error:
            raise DataError(
                "an image that can't be read",
                file=path,
                expected=f"a whole file of {', '.join(_FORMATS)}",
                found=str(error).partition("\n")[0] or type(error).__name__,
                remedy="save it again, or remove it",
            ) from error
        return pixels[..., np.newaxis] if self._gray else pixels

    def _converted(self, image: Image.Image) -> Image.Image:
        from PIL import ImageOps

        ImageOps.exif_transpose(image, in_place=True)
        if image.mode == "P" and "transparency" in image.info:
            # Pillow warns of a palette's transparency if it is lost in one step.
            image = image.convert("RGBA")
        image = image.convert("L" if self._gray else "RGB")
        return image if self._image_size is None else _resized(image, self._image_size)


def _resized(image: Image.Image, size: int) -> Image.Image:
    """Bring the shorter side to `size` and take the middle, without computing what is cut off."""
    short = min(image.size)
    scaled = [int(size * side / short) for side in image.size]
    if scaled == [size, size] == list(image.size):
        return image
    # The box of the original that becomes the middle of the scaled image.
    begins = [round((side - size) / 2) for side in scaled]
    steps = [old / new for old, new in zip(image.size, scaled, strict=True)]
    left, top = (begin * step for begin, step in zip(begins, steps, strict=True))
    right, bottom = (
        min((begin + size) * step, old) for begin, step, old in zip(begins, steps, image.size, strict=True)
    )
    from PIL.Image import Resampling

    return image.resize((size, size), Resampling.BICUBIC, box=(left, top, right, bottom))


def _import_pillow(root: Path) -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(
            f"reading images needs Pillow ({error})", file=root, remedy="pip install 'resmem-cli[images]'"
        ) from error
    # Filters are the process's, so they are set once and not around reads in threads. What Pillow warns
    # of beside, such as odd notes of a camera, leaves the pixels whole or is followed by an error.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    return Image


def _check_options(root: Path, selection: ArraySelection, image_size: int | None) -> None:
    declined = ("labels", "ids", "class_names")
    for field in fields(selection):
        choice = getattr(selection, field.name)
        if choice is not None and not (field.name in declined and choice == NONE):
            raise UsageError(
                f"--{field.name.replace('_', '-')} is not for a folder of images",
                file=root,
                expected="at most 'none' for labels, ids and class names",
                found=choice,
                remedy="leave it out",
            )
    if image_size is not None and image_size < 1:
        raise UsageError("--image-size out of range", expected="at least 1 pixel", found=image_size)


def _notices(root: Path, files: list[str], names: list[str], classes: list[str]) -> list[str]:
    notices = []
    if len(files) > len(names):
        notices.append(f"{root.name}: {len(files) - len(names):,} images in no class folder were left out")
    filled = {name.partition("/")[0] for name in names}
    if empty := [name for name in classes if name not in filled]:
        notices.append(f"{root.name}: no images of {len(empty):,} classes: {', '.join(empty[:5])}")
    return notices
