"""A model's exported arrays, found, checked against each other and ready to be read in blocks."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.base import RowSource
from resmem_cli.arrays.image_folder import ImageFolder
from resmem_cli.arrays.labelling import read_class_names, read_ids, read_labels
from resmem_cli.arrays.locate import OpenFiles, locate_arrays
from resmem_cli.arrays.rows import input_rows, logit_rows, matrix_rows, probability_rows
from resmem_cli.arrays.selection import EMBEDDING_ROLES, INPUT_ROLES, Located, Role
from resmem_cli.errors import DataError, UsageError
from resmem_cli.files import file_digest
from resmem_cli.types import ArraySelection, Closing


class LabelledArrays(Closing):
    """What embeddings and inputs have in common. Closes its files when left as a context.

    Attributes
    ----------
    n : int
        Rows.
    labels : numpy.ndarray or None
        ``(n,)`` int32.
    ids : numpy.ndarray or None
        ``(n,)`` int64, or UTF-8 bytes of fixed length.
    class_names : numpy.ndarray or None
        ``(C,)`` UTF-8 bytes of fixed length.
    sources : dict of str to str
        The file (without its folder) and key of every array read, by role.
    notices : tuple of str
        What the user should know, such as an array that could not be streamed.
    """

    n: int
    labels: NDArray[np.int32] | None
    ids: NDArray[Any] | None
    class_names: NDArray[np.bytes_] | None

    def __init__(self, files: OpenFiles, located: dict[str, Located], roles: tuple[Role, ...]) -> None:
        self._files = files
        self._located = located
        self._main = roles[0].name
        self.sources = {role.name: located[role.name].source for role in roles if role.name in located}
        notices = (array.file.notice(array.key) for array in located.values())
        self.notices = tuple(notice for notice in notices if notice)
        self._check_lengths()

    def _check_lengths(self) -> None:
        main = self._located[self._main]
        for name, array in self._located.items():
            # Class names have a row for each class. Arrays without an axis are refused when opened.
            if name == "class_names" or not array.info.shape or not main.info.shape:
                continue
            if array.info.shape[0] != main.info.shape[0]:
                raise DataError(
                    f"the {name} and the {self._main} have different lengths",
                    file=array.file.path,
                    field=array.key or None,
                    expected=f"{main.info.shape[0]} rows as in {main.source}",
                    found=f"{array.info.shape[0]} rows",
                    remedy="export both from the same examples",
                )

    def _read_labelling(self, n_classes: int | None) -> int | None:
        """Read labels, ids and class names; give the number of classes where it is known."""
        names, labels, ids = (self._located.get(role) for role in ("class_names", "labels", "ids"))
        self.class_names = read_class_names(names, n_classes=n_classes) if names else None
        if self.class_names is not None:
            n_classes = len(self.class_names)
        self.labels = read_labels(labels, n_classes=n_classes) if labels else None
        self.ids = read_ids(ids) if ids else None
        return n_classes

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read, the main one first."""
        return self._files.paths

    @cached_property
    def digests(self) -> tuple[tuple[str, str, str], ...]:
        """Role, file name and SHA-256 of every file, for the lineage; the files are read for it."""
        return tuple(("inputs", path.name, file_digest(path)) for path in self.files)

    def close(self) -> None:
        """Close the files; the row sources can't be read after that."""
        self._files.close()


class EmbeddingArrays(LabelledArrays):
    """A model's outputs on n examples; `open_embedding_arrays` builds it.

    Attributes
    ----------
    embeddings : RowSource
        ``(n, d)`` float32, or float16 where stored so; every block is checked finite.
    logits : RowSource or None
        ``(n, C)`` by the same rule; float32 logarithms where the file holds probabilities.
    d : int
        Length of an embedding.
    n_classes : int or None
        C, from the logits or else the class names; None where neither is there.
    """

    def __init__(self, files: OpenFiles, located: dict[str, Located]) -> None:
        super().__init__(files, located, EMBEDDING_ROLES)
        self.embeddings: RowSource = matrix_rows(located["embeddings"])
        self.logits: RowSource | None = None
        if "logits" in located:
            self.logits = logit_rows(located["logits"])
        elif "probabilities" in located:
            self.logits = probability_rows(located["probabilities"])
        self.n = self.embeddings.shape[0]
        self.n_classes = self._read_labelling(None if self.logits is None else self.logits.shape[1])

    @property
    def d(self) -> int:
        """Length of an embedding."""
        return self.embeddings.shape[1]


class InputArrays(LabelledArrays):
    """A network's inputs; `open_input_arrays` builds it.

    Attributes
    ----------
    inputs : RowSource
        ``(n, ...)`` in the type they are stored in; floats are checked finite.
    """

    def __init__(self, files: OpenFiles, located: dict[str, Located]) -> None:
        super().__init__(files, located, INPUT_ROLES)
        self.inputs: RowSource = input_rows(located["inputs"])
        self.n = self.inputs.shape[0]
        self._read_labelling(None)


def open_embedding_arrays(path: Path, selection: ArraySelection) -> EmbeddingArrays:
    """Open a model's exported arrays.

    Parameters
    ----------
    path : pathlib.Path
        A file of any registered kind.
    selection : ArraySelection
        Which arrays to take; without a choice, key names are recognised.

    Returns
    -------
    EmbeddingArrays
        To be closed by the caller, as a context.

    Raises
    ------
    MissingInputError, MissingExtraError
        If a file, or the package that reads it, is not there.
    DataError
        If a file is damaged, an array can't be told, or arrays do not belong together.
    UsageError
        If both logits and probabilities were chosen.
    """
    if selection.logits is not None and selection.probabilities is not None:
        raise UsageError(
            "--logits and --probabilities do not go together",
            expected="one of them",
            found=f"{selection.logits} and {selection.probabilities}",
            remedy="leave one out",
        )
    files = OpenFiles()
    try:
        return EmbeddingArrays(files, locate_arrays(files, path, selection, EMBEDDING_ROLES))
    except BaseException:
        files.close()
        raise


def open_input_arrays(
    path: Path, selection: ArraySelection, *, image_size: int | None = None, gray: bool = False
) -> InputArrays | ImageFolder:
    """Open what a network is to be run on: arrays, as `open_embedding_arrays`, or a folder of images.

    Parameters
    ----------
    path : pathlib.Path
        A file of any registered kind, or a folder of images in class folders.
    selection : ArraySelection
        Which arrays to take; of a folder, it can only leave labels, ids and class names out.
    image_size : int, optional
        Side in pixels that the images of a folder are brought to.
    gray : bool
        Whether the images of a folder become gray.

    Raises
    ------
    MissingInputError, MissingExtraError, DataError
        As `open_embedding_arrays` and `ImageFolder`.
    UsageError
        If options for a folder are given for a file, or the other way round.
    """
    if path.is_dir():
        return ImageFolder(path, selection, image_size=image_size, gray=gray)
    for flag, given in (("--image-size", image_size is not None), ("--gray", gray)):
        if given:
            raise UsageError(f"{flag} is for a folder of images", file=path, remedy="leave it out")
    files = OpenFiles()
    try:
        return InputArrays(files, locate_arrays(files, path, selection, INPUT_ROLES))
    except BaseException:
        files.close()
        raise
