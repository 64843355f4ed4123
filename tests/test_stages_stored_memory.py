"""Artifacts whose digests hold but whose content can't be: made by another program, or on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import N_TRAIN, C, Pipeline, Resmem
from numpy.typing import NDArray

from resmem_cli import open_artifact
from resmem_cli.artifacts.formats import INDEX, RESIDUALS
from resmem_cli.artifacts.writer import ArtifactWriter


def forge(
    source: Path, target: Path, *, parameters: dict[str, Any] | None = None, **datasets: NDArray[Any]
) -> None:
    """Copy an artifact with other values, whole and with valid digests."""
    with open_artifact(source) as artifact:
        header = artifact.header
        values = {name: artifact.read(name) for name in artifact.shapes} | datasets
    with ArtifactWriter(
        target, header.format, inputs=header.inputs, parameters={**header.parameters, **(parameters or {})}
    ) as writer:
        for spec in header.format.datasets:
            if spec.path in values:
                writer.write(spec.path, values[spec.path])


def changed(path: Path, name: str, value: Any) -> NDArray[Any]:
    with open_artifact(path) as artifact:
        values = np.array(artifact.read(name))
    values.flat[7] = value
    return values


def predict(resmem: Resmem, pipeline: Pipeline, folder: Path, **memory: Path) -> str:
    files = {"index": pipeline.index, "residuals": pipeline.residuals} | memory
    options = ["--index", files["index"], "--residuals", files["residuals"], "-o", folder / "p.h5"]
    done = resmem("predict", pipeline.test, *options)
    assert done.status == 65, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "p.h5").exists()
    return done.stderr


@pytest.mark.parametrize("label", [-1, C])
def test_labels_that_name_no_class_are_refused(
    label: int, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    forged = tmp_path / "forged.h5"
    forge(pipeline.residuals, forged, labels=changed(pipeline.residuals, "labels", label))
    assert "labels" in predict(resmem, pipeline, tmp_path, residuals=forged)


def test_residuals_that_are_not_finite_are_refused(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    forged = tmp_path / "forged.h5"
    with open_artifact(pipeline.residuals) as artifact:
        residuals = np.full_like(artifact.read("residuals"), np.nan)
    forge(pipeline.residuals, forged, residuals=residuals)
    assert "forged.h5: residuals" in predict(resmem, pipeline, tmp_path, residuals=forged)


def test_top_residuals_of_a_class_that_there_is_not_are_refused(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    top, forged = tmp_path / "top.h5", tmp_path / "forged.h5"
    assert resmem("residualize", pipeline.train, "--top", "2", "-o", top).status == 0
    with open_artifact(top) as artifact:
        classes = np.full_like(artifact.read("top/classes"), C)
    forge(top, forged, **{"top/classes": classes})
    assert "forged.h5: top residuals" in predict(resmem, pipeline, tmp_path, residuals=forged)


def test_top_classes_of_another_width_are_refused(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    top, forged = tmp_path / "top.h5", tmp_path / "forged.h5"
    assert resmem("residualize", pipeline.train, "--top", "2", "-o", top).status == 0
    with open_artifact(top) as artifact:
        classes = artifact.read("top/classes").astype(np.int32)
    forge(top, forged, **{"top/classes": classes})
    told = predict(resmem, pipeline, tmp_path, residuals=forged)
    assert "forged.h5: top/classes: values that can't be (expected uint16, found int32)" in told


@pytest.fixture
def odd_logits(tmp_path: Path, pipeline: Pipeline) -> Path:
    """Make embeddings of which one logit, in row 1, is NaN."""
    forge(pipeline.train, tmp_path / "odd.h5", logits=changed(pipeline.train, "logits", np.nan))
    return tmp_path / "odd.h5"


@pytest.mark.parametrize(
    "arguments",
    [
        ["residualize", "odd.h5", "-o", "out.h5"],
        ["residualize", "odd.h5", "--top", "3", "-o", "out.h5"],
        ["predict", "odd.h5", "--index", "index.h5", "--residuals", "residuals.h5", "-o", "out.h5"],
        ["predict", "odd.h5", "--index", "index.h5", "--residuals", "top.h5", "-o", "out.h5"],
        ["update", "--residuals", "residuals.h5", "--add", "odd.h5", "--residuals-output", "out.h5"],
    ],
    ids=["residualize", "top", "predict", "predict-top", "update"],
)
def test_logits_that_are_not_finite_are_refused_where_they_are(
    arguments: list[str], odd_logits: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    folder = odd_logits.parent
    (folder / "index.h5").symlink_to(pipeline.index)
    (folder / "residuals.h5").symlink_to(pipeline.residuals)
    assert resmem("residualize", pipeline.train, "--top", "3", "-o", folder / "top.h5").status == 0
    done = resmem(*arguments, cwd=folder)
    assert done.status == 65
    assert "odd.h5: logits: a value that is not finite at row 1 (" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "out.h5").exists()


@pytest.mark.parametrize("label", [-1, C])
@pytest.mark.parametrize("command", [["residualize"], ["residualize", "--block-rows", "3"], ["index"]])
def test_labels_of_embeddings_that_name_no_class_are_refused(
    command: list[str], label: int, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    forge(pipeline.train, tmp_path / "odd.h5", labels=changed(pipeline.train, "labels", label))
    done = resmem(*command, tmp_path / "odd.h5", "-o", tmp_path / "out.h5")
    assert done.status == 65
    expected = f"odd.h5: labels: label of row 7 out of range (expected 0 to {C - 1}, found {label})"
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    forged = tmp_path / "forged.h5"
    forge(pipeline.index, forged, vectors=changed(pipeline.index, "vectors", np.inf))
    assert "forged.h5: row 0" in predict(resmem, pipeline, tmp_path, index=forged)


@pytest.mark.parametrize("scale", ["wide", {"median": "wide"}, {"median": True}, None])
def test_a_distance_scale_that_is_no_number_is_refused(
    scale: Any, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    forged = tmp_path / "forged.h5"
    forge(pipeline.index, forged, parameters={"distance_scale": scale})
    assert "distance_scale.median" in predict(resmem, pipeline, tmp_path, index=forged)


@pytest.mark.parametrize("name", ["kind", "metric"])
def test_parameters_that_are_missing_are_refused(name: str, tmp_path: Path, pipeline: Pipeline) -> None:
    from resmem_cli.errors import DataError

    with open_artifact(pipeline.index) as artifact:
        parameters = {key: value for key, value in artifact.parameters.items() if key != name}
        vectors, mean = artifact.read("vectors"), artifact.read("mean")
    writer = ArtifactWriter(tmp_path / "i.h5", INDEX, parameters=parameters)
    writer.write("vectors", np.array(vectors))
    writer.write("mean", mean)
    with pytest.raises(DataError, match=name):
        writer.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_forging_without_a_change_gives_the_same_content(tmp_path: Path, pipeline: Pipeline) -> None:
    forge(pipeline.residuals, tmp_path / "copy.h5")
    with open_artifact(tmp_path / "copy.h5", RESIDUALS) as copy, open_artifact(pipeline.residuals) as own:
        assert copy.header == own.header


@pytest.mark.parametrize("top", [None, 3])
def test_rows_gathered_in_the_order_of_the_file_give_the_same_scores(
    top: int | None, tmp_path: Path, pipeline: Pipeline, resmem: Resmem, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, options = tmp_path / "r.h5", [] if top is None else ["--top", top]
    assert resmem("residualize", pipeline.train, *options, "-o", memory).status == 0
    predict = ["predict", pipeline.test, "--index", pipeline.index, "--residuals", memory, "-o"]
    assert resmem(*predict, tmp_path / "cached.h5").status == 0
    monkeypatch.setattr("resmem_cli.stages.stored_memory._CACHED_BYTES", 0)
    assert resmem(*predict, tmp_path / "sorted.h5").status == 0
    monkeypatch.setattr("resmem_cli.stages.streaming.BLOCK_BYTES", 3 * 53 * 20)
    assert resmem(*predict, tmp_path / "few.h5").status == 0
    results = {(tmp_path / f"{name}.h5").read_bytes() for name in ("cached", "sorted", "few")}
    assert len(results) == 1
    with open_artifact(tmp_path / "few.h5") as artifact:
        assert ("truncation/proved" in artifact) == (top is not None)


def test_ids_are_no_residuals(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    named = tmp_path / "named.h5"
    forge(pipeline.residuals, named, ids=np.arange(N_TRAIN))
    options = ["--index", pipeline.index, "--residuals", named, "-k", 20, "-o", tmp_path / "p.h5"]
    assert resmem("predict", pipeline.test, *options).status == 0
    with open_artifact(tmp_path / "p.h5") as own, open_artifact(pipeline.predictions) as other:
        assert np.array_equal(own.read("scores"), other.read("scores"))


def test_proved_predictions_are_those_of_whole_residuals(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    results = {}
    for top in (None, 1, 2, 4, C):
        memory, options = tmp_path / "r.h5", [] if top is None else ["--top", top]
        assert resmem("residualize", pipeline.train, *options, "-o", memory).status == 0
        predict = ["predict", pipeline.test, "--index", pipeline.index, "--residuals", memory, "-o"]
        assert resmem(*predict, tmp_path / "p.h5").status == 0
        with open_artifact(tmp_path / "p.h5") as artifact:
            results[top] = {name: artifact.read(name) for name in artifact.shapes}
    whole = results.pop(None)
    shares = []
    for found in results.values():
        proved = found["truncation/proved"].astype(bool)
        assert np.array_equal(found["predicted"][proved], whole["predicted"][proved])
        excess = found["scores"] - whole["scores"]
        assert (excess.max(axis=1) <= found["truncation/bound"] + 1 / 65535).all()
        shares.append(proved.mean())
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert not results[C]["truncation/bound"].any()
