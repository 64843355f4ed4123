"""Parts of an image data set, its corruptions, and folders that are a run's state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resmem_cli.arrays.image_data import ImageData
from resmem_cli.errors import DataError, UsageError
from resmem_cli.stages.reproduce import corruptions
from resmem_cli.stages.reproduce.corruptions import STRENGTHS, Corruption, corrupted
from resmem_cli.stages.reproduce.image_parts import ImageParts, Part
from resmem_cli.stages.reproduce.run_folder import MadeFiles, RunFolder

N, CLASSES = 120, 4


@pytest.fixture
def data() -> ImageData:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (N, 8, 8, 3)).astype(np.uint8)
    labels = generator.permutation(N).astype(np.int32) % CLASSES
    return ImageData(images, labels, images[:20], labels[:20], ("a", "b", "c", "d"), None, CLASSES)


def counts(part: Part) -> list[int]:
    return np.bincount(part.labels, minlength=CLASSES).tolist()


def test_subsets_are_balanced_nested_and_apart_from_what_is_held_out(data: ImageData, tmp_path: Path) -> None:
    parts = ImageParts(data, tmp_path / "data", held_out=20, seed=0)
    held_out, whole = parts.held_out(), parts.subset(1.0)
    half, tenth = parts.subset(0.5), parts.subset(0.1)
    assert counts(held_out) == [5] * 4
    assert counts(whole) == [25] * 4
    assert sorted([*held_out.ids, *whole.ids]) == list(range(N))
    assert [counts(half), counts(tenth)] == [[12] * 4, [2] * 4]
    assert set(tenth.ids) < set(half.ids) < set(whole.ids)
    assert np.array_equal(half.images, data.train_images[half.ids])
    assert np.array_equal(half.labels, data.train_labels[half.ids])
    other = ImageParts(data, tmp_path / "other", held_out=20, seed=1)
    assert not np.array_equal(other.held_out().ids, held_out.ids)


def test_the_files_of_a_part_hold_it(data: ImageData, tmp_path: Path) -> None:
    part = ImageParts(data, tmp_path / "data", held_out=20, seed=0).subset(0.5)
    assert np.array_equal(np.load(part.path), part.images)
    assert np.array_equal(np.load(str(part.arrays.labels)), part.labels)
    assert np.array_equal(np.load(str(part.arrays.ids)), part.ids)
    assert np.load(str(part.arrays.class_names)).tolist() == ["a", "b", "c", "d"]


@pytest.mark.parametrize("held_out", [0, 3, N, N + 1])
def test_too_few_or_too_many_images_to_hold_out_are_refused(
    data: ImageData, tmp_path: Path, held_out: int
) -> None:
    with pytest.raises(UsageError, match="--held-out out of range"):
        ImageParts(data, tmp_path / "data", held_out=held_out, seed=0)


# --- corruptions


def test_contrast_moves_values_towards_the_mean_of_their_channel() -> None:
    image = np.zeros((1, 1, 2, 1), np.uint8)
    image[0, 0, :, 0] = 55, 155
    # The mean is 105, the differences 50; 0.15 of them are left.
    assert corrupted(image, Corruption.CONTRAST, 5).ravel().tolist() == [98, 112]


def test_blur_keeps_what_is_even_and_spreads_a_point() -> None:
    even = np.full((2, 9, 9, 3), 77, np.uint8)
    assert np.array_equal(corrupted(even, Corruption.BLUR, 5), even)
    point = np.zeros((1, 9, 9, 1), np.uint8)
    point[0, 4, 4] = 255
    blurred = corrupted(point, Corruption.BLUR, 5)[0, :, :, 0]
    assert blurred[4, 4] < 60
    assert blurred[4, 3] == blurred[3, 4] == blurred[5, 4] > 20


def test_noise_has_the_strength_it_says_and_depends_on_the_place_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grey = np.full((60, 16, 16, 3), 128, np.uint8)
    noisy = corrupted(grey, Corruption.NOISE, 3, seed=5)
    assert (noisy.astype(float) - 128).std() == pytest.approx(0.08 * 255, rel=0.02)
    assert np.array_equal(corrupted(grey[:7], Corruption.NOISE, 3, seed=5), noisy[:7])
    assert not np.array_equal(corrupted(grey, Corruption.NOISE, 3, seed=6), noisy)
    for rows in (1, 7):
        monkeypatch.setattr(corruptions, "_BLOCK_ROWS", rows)
        assert np.array_equal(corrupted(grey, Corruption.NOISE, 3, seed=5), noisy)


@pytest.mark.parametrize("kind", list(Corruption))
def test_each_strength_changes_more_than_the_one_before(kind: Corruption) -> None:
    images = np.random.default_rng(1).integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
    changed = [
        np.abs(corrupted(images, kind, strength).astype(float) - images).mean()
        for strength in range(1, STRENGTHS + 1)
    ]
    assert changed == sorted(changed)
    assert changed[0] > 0


def test_what_can_not_be_corrupted_is_refused() -> None:
    with pytest.raises(UsageError, match="strength out of range"):
        corrupted(np.zeros((1, 2, 2, 1), np.uint8), Corruption.BLUR, 6)
    with pytest.raises(DataError, match="no images"):
        corrupted(np.zeros((1, 2, 2, 1)), Corruption.BLUR, 1)


# --- a run's folder


def test_a_file_is_made_once(tmp_path: Path) -> None:
    told: list[str] = []
    files = MadeFiles(tmp_path / "made", told.append)
    assert files.json("numbers.json", lambda: [1, 2]) == [1, 2]
    assert files.json("numbers.json", lambda: pytest.fail("made again")) == [1, 2]
    assert files.has("numbers.json")
    assert told == [str(tmp_path / "made" / "numbers.json")]


def test_a_folder_of_other_settings_is_refused_naming_them(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", {"seed": 0, "sizes": (1, 2)})
    RunFolder(tmp_path / "run", {"seed": 0, "sizes": [1, 2]})
    with pytest.raises(DataError, match="other settings") as refused:
        RunFolder(tmp_path / "run", {"seed": 1, "sizes": [1, 2]})
    assert "field 'seed'" in str(refused.value) or "seed" in str(refused.value)
    (tmp_path / "run" / "settings.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        RunFolder(tmp_path / "run", {"seed": 0})
