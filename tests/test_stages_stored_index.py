"""Indexes as their artifacts hold them: of every kind, of an older version, and of no sense."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Pipeline, Resmem, classifier_arrays
from test_stages_stored_memory import forge

from resmem_cli import open_artifact
from resmem_cli.artifacts.formats import INDEX, RESIDUALS
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError
from resmem_cli.indexes.base import index_kinds
from resmem_cli.stages.stored_index import load_index, write_index


@pytest.mark.parametrize("kind", sorted(index_kinds()))
def test_a_stored_index_answers_as_it_did(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = classifier_arrays()
    parameters = {"factory": "IVF8,SQ8"} if kind == "factory" else {}
    index = index_kinds()[kind].build(arrays["train_embeddings"], parameters=parameters)
    expected = index.search(arrays["test_embeddings"], 10)
    for name, block_bytes in (("whole", 1 << 26), ("blocks", 1000)):
        monkeypatch.setattr("resmem_cli.stages.streaming.BLOCK_BYTES", block_bytes)
        given = {"distance_scale": 1, "embeddings_digest": ""}
        with ArtifactWriter(tmp_path / f"{name}.h5", INDEX, parameters=given) as writer:
            write_index(writer, index)
    assert (tmp_path / "whole.h5").read_bytes() == (tmp_path / "blocks.h5").read_bytes()
    with open_artifact(tmp_path / "whole.h5") as artifact:
        loaded = load_index(artifact)
        found = loaded.search(arrays["test_embeddings"], 10)
        assert loaded.parameters() == index.parameters()
    assert np.array_equal(found.rows, expected.rows)
    assert np.array_equal(found.distances, expected.distances)


def test_files_of_version_1_are_read(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    old = {"index": tmp_path / "i.h5", "residuals": tmp_path / "r.h5"}
    for fmt, names in ((INDEX, ("vectors", "mean")), (RESIDUALS, ("residuals", "labels", "class_names"))):
        kind = fmt.name.removeprefix("resmem.")
        with open_artifact(getattr(pipeline, kind)) as own:
            parameters = {key: value for key, value in own.parameters.items() if key != "search"}
            with ArtifactWriter(old[kind], replace(fmt, version=1), parameters=parameters) as writer:
                for name in names:
                    writer.write(name, own.read(name))
        with open_artifact(old[kind]) as artifact:
            assert artifact.header.version == 1
    files = ["--index", old["index"], "--residuals", old["residuals"]]
    assert resmem("predict", pipeline.test, *files, "-k", 20, "-o", tmp_path / "p.h5").status == 0
    with open_artifact(tmp_path / "p.h5") as found, open_artifact(pipeline.predictions) as expected:
        assert found.header.content_digest == expected.header.content_digest
    (tmp_path / "ids.txt").write_text("7\n")
    for kind, path in old.items():
        done = resmem("update", f"--{kind}", path, "--remove", tmp_path / "ids.txt")
        assert done.status == 0, done.stderr
        assert ("no ids" in done.stderr) == (kind == "residuals")
    files = ["--index", tmp_path / "i.updated.h5", "--residuals", tmp_path / "r.updated.h5"]
    assert resmem("predict", pipeline.test, *files, "-o", tmp_path / "p.h5").status == 0


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"kind": "magic"}, ["kind", "exact", "magic"]),
        ({"search": {"metric": "taxicab"}}, ["metric", "cosine", "taxicab"]),
        ({"search": None}, ["search", "mapping"]),
        ({"search": ["euclidean"]}, ["search", "mapping"]),
    ],
)
def test_indexes_of_no_sense_are_refused(
    parameters: dict[str, Any], words: list[str], tmp_path: Path, pipeline: Pipeline
) -> None:
    forge(pipeline.index, tmp_path / "forged.h5", parameters=parameters)
    with open_artifact(tmp_path / "forged.h5") as artifact:
        with pytest.raises(DataError) as refused:
            load_index(artifact)
        for word in ("forged.h5", *words):
            assert word in str(refused.value)
