"""Folders of images: classes, order, pixels, sizes, and every kind of file that is refused."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from resmem_cli.arrays import ImageFolder, open_input_arrays
from resmem_cli.errors import DataError, UsageError
from resmem_cli.types import ArraySelection

Image = pytest.importorskip("PIL.Image", reason="needs the images extra")

RED, GREEN = (255, 0, 0), (0, 255, 0)


def pixels(seed: int, height: int = 6, width: int = 5) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(folder: Path, images: dict[str, NDArray[np.uint8]]) -> Path:
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return folder


@pytest.fixture
def images_of():
    """Open folders, closing them after the test."""
    opened: list[ImageFolder] = []

    def open_folder(folder: Path, **options) -> ImageFolder:
        images = {name: options.pop(name) for name in ("image_size", "gray") if name in options}
        source = open_input_arrays(folder, ArraySelection(**options), **images)
        assert isinstance(source, ImageFolder)
        opened.append(source)
        return source

    yield open_folder
    for source in opened:
        source.close()


def test_classes_and_order_by_hand(tmp_path, images_of):
    images = {
        "dog/b.png": pixels(0),
        "dog/a/z.bmp": pixels(1),
        "ant/c.ppm": pixels(2),
        "Zoo/x.PNG": pixels(3),
    }
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    source = images_of(write(tmp_path, images))
    names = ["Zoo/x.PNG", "ant/c.ppm", "dog/a/z.bmp", "dog/b.png"]
    assert source.n == 4
    assert source.inputs.shape == (4, 6, 5, 3)
    assert source.inputs.dtype == np.uint8
    assert_array_equal(source.inputs.read(0, 4), np.stack([images[name] for name in names]))
    assert source.class_names.tolist() == [b"Zoo", b"ant", b"dog"]
    assert source.labels.tolist() == [0, 1, 2, 2]
    assert source.labels.dtype == np.int32
    assert source.ids.tolist() == [name.encode() for name in names]
    assert (source.files, source.sources, source.notices) == ((tmp_path,), {"inputs": tmp_path.name}, ())


def test_blocks_equal_the_whole_in_any_order(tmp_path, images_of):
    rows = images_of(write(tmp_path, {f"c/{number:02}.png": pixels(number) for number in range(11)})).inputs
    whole = rows.read(0, 11)
    for size in (7, 1, 11):
        blocks = [rows.read(start, min(start + size, 11)) for start in range(0, 11, size)]
        assert_array_equal(np.concatenate(blocks), whole)
    assert rows.read(3, 3).shape == (0, 6, 5, 3)


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif", "tiff"])
def test_formats_without_loss_give_the_pixels(tmp_path, images_of, suffix):
    source = images_of(write(tmp_path, {f"c/a.{suffix}": pixels(0)}))
    assert_array_equal(source.inputs.read(0, 1)[0], pixels(0))


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp", "gif"])
def test_formats_with_loss_give_what_pillow_gives(tmp_path, images_of, suffix):
    source = images_of(write(tmp_path, {f"c/a.{suffix}": np.full((6, 5, 3), 200, np.uint8)}))
    with Image.open(tmp_path / f"c/a.{suffix}") as image:
        assert_array_equal(source.inputs.read(0, 1)[0], np.asarray(image.convert("RGB")))
    assert abs(int(source.inputs.read(0, 1).mean()) - 200) <= 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_8_bit_mode_becomes_rgb_or_gray(tmp_path, images_of, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    (tmp_path / "c").mkdir()
    Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode).save(tmp_path / f"c/a.{suffix}")
    assert_array_equal(images_of(tmp_path).inputs.read(0, 1), np.full((1, 4, 4, 3), 255))
    assert_array_equal(images_of(tmp_path, gray=True).inputs.read(0, 1), np.full((1, 4, 4, 1), 255))


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path, images_of):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putdata([0, 1])
    (tmp_path / "c").mkdir()
    image.save(tmp_path / "c/a.png", transparency=bytes([10, 255]))
    assert images_of(tmp_path).inputs.read(0, 1).tolist() == [[[list(RED), list(GREEN)]]]


def test_the_orientation_that_a_camera_notes_is_applied(tmp_path, images_of):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned right by a quarter
    (tmp_path / "c").mkdir()
    Image.fromarray(pixels(0)).save(tmp_path / "c/a.png", exif=exif)
    assert_array_equal(images_of(tmp_path).inputs.read(0, 1)[0], np.rot90(pixels(0), -1))


@pytest.mark.parametrize(("height", "width"), [(40, 61), (61, 40), (33, 33), (16, 90), (10, 13), (16, 16)])
@pytest.mark.parametrize("size", [16, 7])
def test_resized_equals_pillows_resize_and_a_crop(tmp_path, images_of, height, width, size):
    source = images_of(write(tmp_path, {"c/a.png": pixels(0, height, width)}), image_size=size)
    short = min(height, width)
    scaled = Image.fromarray(pixels(0, height, width)).resize(
        (int(size * width / short), int(size * height / short)), Image.Resampling.BICUBIC
    )
    left, top = round((scaled.width - size) / 2), round((scaled.height - size) / 2)
    expected = np.asarray(scaled.crop((left, top, left + size, top + size)))
    found = source.inputs.read(0, 1)[0]
    assert source.inputs.shape == (1, size, size, 3)
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_an_image_of_the_size_is_left_as_it_is(tmp_path, images_of):
    source = images_of(write(tmp_path, {"c/a.png": pixels(0, 8, 8)}), image_size=8)
    assert_array_equal(source.inputs.read(0, 1)[0], pixels(0, 8, 8))


def test_a_very_long_image_is_not_scaled_up_whole(tmp_path, images_of):
    source = images_of(write(tmp_path, {"c/a.png": pixels(0, 1, 50_000)}), image_size=64)
    assert source.inputs.read(0, 1).shape == (1, 64, 64, 3)


def test_images_of_several_sizes_become_one(tmp_path, images_of):
    folder = write(tmp_path, {"c/a.png": pixels(0, 30, 20), "c/b.png": pixels(1, 20, 30)})
    assert images_of(folder, image_size=12).inputs.read(0, 2).shape == (2, 12, 12, 3)
    with pytest.raises(
        DataError,
        match=r"b\.png: an image of another size .*20 × 30 pixels, as c/a\.png, found 30 × 20.*--image",
    ):
        images_of(folder).inputs.read(0, 2)


def test_what_is_left_out_is_said(tmp_path, images_of):
    folder = write(
        tmp_path, {"a/a.png": pixels(0), "top.png": pixels(1), ".b/b.png": pixels(2), "a/.h.png": pixels(3)}
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    source = images_of(folder)
    assert source.ids.tolist() == [b"a/a.png"]
    assert source.class_names.tolist() == [b"a", b"empty"]
    name = tmp_path.name
    assert source.notices == (
        f"{name}: 1 link was left out: links to folders or to files elsewhere are not followed",
        f"{name}: 1 images in no class folder were left out",
        f"{name}: no images of 1 classes: empty",
    )


def test_labels_ids_and_class_names_can_be_declined(tmp_path, images_of):
    source = images_of(write(tmp_path, {"a/a.png": pixels(0)}), labels="none", ids="none", class_names="none")
    assert (source.labels, source.ids, source.class_names) == (None, None, None)


def test_the_digest_is_that_of_what_sha256sum_prints(tmp_path, images_of):
    folder = write(
        tmp_path / "f", {f"c/{number:04}.png": pixels(0) for number in range(1100)} | {"ü/a.png": pixels(1)}
    )
    source = images_of(folder)
    names = [name.decode() for name in source.ids]
    lines = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True).stdout
    assert source.digests == (("inputs", "f", hashlib.sha256(lines).hexdigest()),)
    (folder / "c/0007.png").write_bytes((folder / "ü/a.png").read_bytes())
    assert images_of(folder).digests != source.digests


class TestRefusals:
    @pytest.mark.parametrize("keep", [0, 10, 60, -200])
    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif", "ppm"])
    def test_a_file_cut_short_is_named_where_it_is_read(self, tmp_path, images_of, suffix, keep):
        size = 40
        folder = write(tmp_path, {f"c/{name}.{suffix}": pixels(0, size, size) for name in "ab"})
        path = folder / f"c/b.{suffix}"
        path.write_bytes(path.read_bytes()[:keep])
        rows = images_of(folder).inputs
        assert rows.read(0, 1).shape == (1, size, size, 3)
        with pytest.raises(DataError, match=rf"b\.{suffix}: an image that can't be read"):
            rows.read(0, 2)

    def test_the_first_bad_image_of_a_block_is_named(self, tmp_path, images_of):
        folder = write(tmp_path, {f"c/{name}.png": pixels(0) for name in "abcdefgh"})
        for name in "cfh":
            (folder / f"c/{name}.png").write_bytes(b"no image")
        for _ in range(5):
            with pytest.raises(DataError, match=r"c\.png"):
                images_of(folder).inputs.read(0, 8)

    def test_random_damage_is_a_data_error_or_an_image(self, tmp_path, images_of):
        generator = np.random.default_rng(0)
        folder = write(tmp_path, {"c/a.png": pixels(0)})
        rows = images_of(folder).inputs
        for suffix in ("png", "jpg", "webp", "gif", "tif", "bmp"):
            write(tmp_path / "x", {f"a.{suffix}": pixels(1)})
            content = (tmp_path / f"x/a.{suffix}").read_bytes()
            for _ in range(60):
                damaged = bytearray(content)
                for position in generator.integers(0, len(damaged), 4):
                    damaged[position] = generator.integers(0, 256)
                (folder / "c/a.png").write_bytes(damaged)
                with contextlib.suppress(DataError):
                    assert rows.read(0, 1).shape == (1, 6, 5, 3)

    def test_formats_that_are_not_listed_are_not_opened(self, tmp_path, images_of):
        folder = write(tmp_path, {"c/a.png": pixels(0)})
        Image.fromarray(pixels(0)).save(folder / "c/b.png", format="SGI")
        (folder / "c/c.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
        source = images_of(folder)
        assert source.ids.tolist() == [b"c/a.png", b"c/b.png"]
        with pytest.raises(DataError, match=r"b\.png: an image that can't be read"):
            source.inputs.read(0, 2)

    @pytest.mark.parametrize("limit", [29, 14])
    def test_an_image_beyond_pillows_limit(self, tmp_path, images_of, monkeypatch, limit):
        folder = write(tmp_path, {"c/a.png": pixels(0, 2, 2), "c/b.png": pixels(0)})
        source = images_of(folder)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=rf"b\.png: an image too large .*at most {limit} pixels"):
            source.inputs.read(0, 2)

    @pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
    def test_more_than_8_bits_a_channel(self, tmp_path, images_of, dtype):
        folder = write(tmp_path, {"c/a.tif": np.ones((4, 4), dtype)})
        with pytest.raises(DataError, match=r"a\.tif: an image of more than 8 bits a channel .*mode [IF]"):
            images_of(folder)

    @pytest.mark.parametrize("files", [[], ["a.png"], ["c/a.txt"], ["a.png", ".c/a.png"]])
    def test_no_images_in_class_folders(self, tmp_path, images_of, files):
        for name in files:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match=r"no images in class folders .*CLASS/NAME\.png"):
            images_of(tmp_path)

    @pytest.mark.parametrize(
        ("field", "choice"),
        [("inputs", "x"), ("inputs", "none"), ("labels", "y"), ("split", "train"), ("offsets", "o")],
    )
    def test_arrays_can_not_be_chosen(self, tmp_path, images_of, field, choice):
        with pytest.raises(UsageError, match=f"--{field} is not for a folder of images .*found {choice}"):
            images_of(write(tmp_path, {"c/a.png": pixels(0)}), **{field: choice})

    def test_a_size_of_nothing(self, tmp_path, images_of):
        with pytest.raises(UsageError, match="--image-size out of range .*found 0"):
            images_of(write(tmp_path, {"c/a.png": pixels(0)}), image_size=0)

    @pytest.mark.parametrize(
        ("option", "flag"), [({"image_size": 8}, "--image-size"), ({"gray": True}, "--gray")]
    )
    def test_options_of_folders_are_not_for_files(self, tmp_path, option, flag):
        np.save(tmp_path / "x.npy", np.ones((2, 3)))
        with pytest.raises(UsageError, match=rf"x\.npy: {flag} is for a folder of images"):
            open_input_arrays(tmp_path / "x.npy", ArraySelection(), **option)

    def test_an_image_that_is_gone(self, tmp_path, images_of):
        folder = write(tmp_path, {"c/a.png": pixels(0), "c/b.png": pixels(0)})
        source = images_of(folder)
        (folder / "c/b.png").unlink()
        with pytest.raises(DataError, match=r"b\.png: an image that can't be read .*No such file"):
            source.inputs.read(0, 2)


def test_without_the_package_the_extra_is_named(tmp_path):
    write(tmp_path, {"c/a.png": pixels(0)})
    script = (
        "import sys; sys.modules['PIL'] = None\n"
        "from pathlib import Path\n"
        "from resmem_cli.arrays import open_input_arrays\n"
        "from resmem_cli.errors import MissingExtraError\n"
        "from resmem_cli.types import ArraySelection\n"
        "try: open_input_arrays(Path(sys.argv[1]), ArraySelection())\n"
        "except MissingExtraError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "pip install 'resmem-cli[images]'" in done.stdout, done.stderr


def test_after_an_error_no_file_and_no_thread_stays(tmp_path):
    import threading

    write(tmp_path, {"c/a.png": pixels(0)})
    (tmp_path / "c/a.png").write_bytes((tmp_path / "c/a.png").read_bytes()[:70])
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    with pytest.raises(DataError):
        open_input_arrays(tmp_path, ArraySelection())
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
