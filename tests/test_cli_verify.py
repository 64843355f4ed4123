from __future__ import annotations

from pathlib import Path

import h5py
from conftest import Pipeline, Resmem


def test_whole_files_are_ok(pipeline: Pipeline, resmem: Resmem) -> None:
    done = resmem("verify", *pipeline.artifacts, "--json")
    assert done.status == 0
    assert [entry["ok"] for entry in done.result["files"]] == [True] * len(pipeline.artifacts)


def test_a_damaged_file_is_told_from_the_whole_ones_and_ends_in_3(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    content = bytearray(pipeline.residuals.read_bytes())
    with h5py.File(pipeline.residuals) as file:
        offset = file["residuals"].id.get_offset()
    # Contiguous data has no checksum of HDF5's, and fletcher32 would miss this change anyway.
    word = content[offset : offset + 2]
    content[offset : offset + 2] = bytes([word[0] ^ 0xFF, word[1] ^ 0xFF])
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(content)
    done = resmem("verify", pipeline.train, damaged)
    assert done.status == 3
    assert f"{pipeline.train}: ok" in done.stdout
    assert f"{damaged}: DAMAGED" in done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert "residuals" in done.stderr


def test_a_missing_file_ends_in_66(tmp_path: Path, resmem: Resmem) -> None:
    assert resmem("verify", tmp_path / "nowhere.h5").status == 66
