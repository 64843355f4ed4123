from __future__ import annotations

import pytest
from conftest import Pipeline, Resmem

from resmem_cli import open_artifact


def test_it_shows_the_tree_the_parameters_and_the_lineage(pipeline: Pipeline, resmem: Resmem) -> None:
    lines = resmem("info", pipeline.predictions).stdout.splitlines()
    assert any(line.split()[:3] == ["scores", "(80,", "5)"] for line in lines)
    assert "  k: 20" in lines
    with open_artifact(pipeline.index) as index:
        digest = index.header.content_digest
    assert f"  index: index.h5 (resmem.index, {digest})" in lines


@pytest.mark.parametrize("name", ["train", "residuals", "index", "predictions", "report"])
def test_every_format_has_json(name: str, pipeline: Pipeline, resmem: Resmem) -> None:
    result = resmem("info", getattr(pipeline, name), "--json").result
    assert list(result) == [
        "file", "format", "format_version", "generated_by", "bytes", "content_digest", "datasets",
        "parameters", "inputs",
    ]  # fmt: skip
    assert result["datasets"]


def test_no_folder_is_named_in_any_artifact(pipeline: Pipeline) -> None:
    folder = str(pipeline.train.parent).encode()
    assert [path for path in pipeline.artifacts if folder in path.read_bytes()] == []
