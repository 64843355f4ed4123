"""Images of a training and a test set: every layout gives the same, and no pickle runs code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resmem_cli.arrays.image_data import ImageData, read_image_data
from resmem_cli.errors import DataError, MissingInputError

NAMES = ("apple", "maple", "poppy", "rose")
COARSE = (0, 1, 2, 2)


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8), np.arange(n, dtype=np.int32) % 4


def pickled(path: Path, content: dict[Any, Any], *, protocol: int = 2) -> None:
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def batch(pixels: np.ndarray, labels: np.ndarray) -> dict[Any, Any]:
    return {
        b"filenames": [b"a.png"] * len(labels),
        b"batch_label": b"testing batch 1 of 1",
        b"fine_labels": labels.tolist(),
        b"coarse_labels": [COARSE[label] for label in labels],
        b"data": pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1),
    }


def cifar_folder(folder: Path) -> Path:
    root = folder / "cifar-100-python"
    root.mkdir()
    for name, part in (("train", images(8, 0)), ("test", images(4, 1))):
        pickled(root / name, batch(*part))
    meta = {b"fine_label_names": [name.encode() for name in NAMES], b"coarse_label_names": [b"x", b"y", b"z"]}
    pickled(root / "meta", meta)
    return root


def arrays_file(folder: Path) -> Path:
    (x, y), (xt, yt) = images(8, 0), images(4, 1)
    path = folder / "images.npz"
    np.savez(path, x_train=x, y_train=y, x_test=xt, y_test=yt, classes=np.array(NAMES))
    return path


def class_folders(folder: Path) -> Path:
    image_module = pytest.importorskip("PIL.Image", reason="needs the images extra")
    root = folder / "folders"
    for split, (pixels, labels) in (("train", images(8, 0)), ("test", images(4, 1))):
        for name in NAMES:
            (root / split / name).mkdir(parents=True)
        for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            image_module.fromarray(image).save(root / split / NAMES[label] / f"{i}.png")
    return root


def test_a_cifar_folder_gives_images_labels_names_and_groups(tmp_path: Path) -> None:
    found = read_image_data(cifar_folder(tmp_path))
    pixels, labels = images(8, 0)
    assert np.array_equal(found.train_images, pixels)
    assert np.array_equal(found.train_labels, labels)
    assert np.array_equal(found.test_images, images(4, 1)[0])
    assert found.class_names == NAMES
    assert found.groups is not None
    assert found.groups.tolist() == list(COARSE)
    assert found.n_classes == 4
    assert read_image_data(tmp_path).digest() == found.digest()


def test_ten_classes_come_in_five_batches(tmp_path: Path) -> None:
    root = tmp_path / "cifar-10-batches-py"
    root.mkdir()
    for i in range(1, 6):
        pixels, labels = images(4, i)
        pickled(
            root / f"data_batch_{i}", {b"data": batch(pixels, labels)[b"data"], b"labels": labels.tolist()}
        )
    pixels, labels = images(4, 9)
    pickled(root / "test_batch", {b"data": batch(pixels, labels)[b"data"], b"labels": labels.tolist()})
    pickled(root / "batches.meta", {b"label_names": [name.encode() for name in NAMES]})
    found = read_image_data(root)
    assert found.train_images.shape == (20, 32, 32, 3)
    assert np.array_equal(found.train_images[4:8], images(4, 2)[0])
    assert found.groups is None


def test_arrays_have_the_digest_of_the_same_images_in_pickles(tmp_path: Path) -> None:
    of_pickles, of_arrays = read_image_data(cifar_folder(tmp_path)), read_image_data(arrays_file(tmp_path))
    assert of_pickles.digest() == of_arrays.digest()
    assert of_arrays.class_names == NAMES
    assert of_arrays.groups is None


def test_class_folders_give_the_images_in_their_own_order(tmp_path: Path) -> None:
    found = read_image_data(class_folders(tmp_path))
    order = np.argsort(images(8, 0)[1], kind="stable")
    assert np.array_equal(found.train_images, images(8, 0)[0][order])
    assert found.class_names == NAMES


class Sly:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must not be printed",))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_names_a_function_is_refused_unread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: int
) -> None:
    root = cifar_folder(tmp_path)
    pickled(root / "train", {b"data": Sly()}, protocol=protocol)
    with pytest.raises(DataError, match="could run code") as refused:
        read_image_data(root)
    assert "train" in str(refused.value)
    assert "print" in str(refused.value)
    assert "printed" not in capsys.readouterr().out


def without(folder: Path, name: str) -> Path:
    root = cifar_folder(folder)
    (root / name).unlink()
    return root


def truncated(folder: Path) -> Path:
    root = cifar_folder(folder)
    (root / "test").write_bytes((root / "test").read_bytes()[:100])
    return root


def changed(folder: Path, key: bytes, value: Any) -> Path:
    root = cifar_folder(folder)
    pickled(root / "train", batch(*images(8, 0)) | {key: value})
    return root


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: without(folder, "meta"), "no images of a training and a test set"),
        (truncated, "damaged"),
        (lambda folder: changed(folder, b"data", np.zeros((8, 10), np.uint8)), "no images"),
        (lambda folder: changed(folder, b"data", [1, 2, 3]), "no images"),
        (lambda folder: changed(folder, b"fine_labels", [0] * 7), "no labels"),
        (lambda folder: changed(folder, b"fine_labels", [0.5] * 8), "no labels"),
        (lambda folder: changed(folder, b"fine_labels", [0, 1, 2, 2] * 2), "superclass"),
        (lambda folder: changed(folder, b"fine_labels", [0, 1, 2, 4] * 2), "no class"),
        (lambda folder: changed(folder, b"coarse_labels", [0, 1, 2, 2, 1, 1, 2, 2]), "superclass"),
        (lambda folder: folder, "no images of a training and a test set"),
    ],
)
def test_what_is_no_image_data_is_refused(tmp_path: Path, make: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_image_data(make(tmp_path))


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"nowhere\.npz"):
        read_image_data(tmp_path / "nowhere.npz")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_train": np.array([0, 1, 2, 9] * 2)}, "no class"),
        ({"y_train": np.array([0, 1, 2, 2] * 2)}, "no training images of a class"),
        ({"x_test": np.zeros((4, 16, 16, 3), np.uint8)}, "other sizes"),
        ({"x_train": np.zeros((8, 12), np.float32)}, "no images"),
    ],
)
def test_arrays_that_do_not_go_together_are_refused(
    tmp_path: Path, changes: dict[str, np.ndarray], words: str
) -> None:
    (x, y), (xt, yt) = images(8, 0), images(4, 1)
    arrays = {"x_train": x, "y_train": y, "x_test": xt, "y_test": yt, "classes": np.array(NAMES)} | changes
    np.savez(tmp_path / "images.npz", **arrays)
    with pytest.raises(DataError, match=words):
        read_image_data(tmp_path / "images.npz")


def test_channels_that_come_first_are_moved_last(tmp_path: Path) -> None:
    (x, y), (xt, yt) = images(8, 0), images(4, 1)
    first = {"x_train": x.transpose(0, 3, 1, 2), "x_test": xt.transpose(0, 3, 1, 2)}
    np.savez(tmp_path / "images.npz", y_train=y, y_test=yt, classes=np.array(NAMES), **first)
    found: ImageData = read_image_data(tmp_path / "images.npz")
    assert np.array_equal(found.train_images, x)
