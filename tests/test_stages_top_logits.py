"""Embeddings with only the largest logits of each row: what they give, and what they can't."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import N_TEST, N_TRAIN, D, Resmem, classifier_arrays
from numpy.typing import NDArray
from test_residuals import top_logits

from resmem_cli import open_artifact
from resmem_cli.artifacts.formats import EMBEDDINGS
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError
from resmem_cli.residuals import TopLogits, logsumexp
from resmem_cli.stages.sources import open_embeddings
from resmem_cli.stages.top_logits import spread_logits

C = 40
M = 6
NAMES = np.array([f"class {c}".encode() for c in range(C)])
ENCODER = {"checkpoint_digest": "a" * 64, "arch": "a", "layer": "head:input", "pool": "mean"}


def many_logits(split: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Embeddings, logits of 40 classes with many ties, and labels, some not among the largest."""
    arrays = classifier_arrays()
    embeddings = arrays[f"{split}_embeddings"]
    generator = np.random.default_rng(len(embeddings))
    logits = (generator.normal(size=(len(embeddings), C)) * 3).round(1).astype(np.float32)
    return embeddings, logits, generator.integers(0, C, size=len(embeddings))


def write_embeddings(
    path: Path,
    split: str,
    *,
    top: int | None,
    labels: bool = True,
    parameters: dict[str, Any] | None = None,
    **other: NDArray[Any] | None,
) -> Path:
    """Write what `embed` does, with `--top` or without."""
    embeddings, logits, own = many_logits(split)
    arrays: dict[str, NDArray[Any] | None] = {"embeddings": embeddings}
    if top is None:
        arrays["logits"] = logits
    else:
        kept = top_logits(logits, own if labels else None, top)
        arrays |= {
            "logits_top/classes": kept.classes,
            "logits_top/values": kept.values,
            "logsumexp": kept.logsumexp,
            "label_logit": kept.label_logit,
        }
    if labels:
        arrays["labels"] = own.astype(np.int32)
    arrays |= {"class_names": NAMES} | other
    values = {"sources": {}, "encoder": ENCODER, "n_classes": C} | (parameters or {})
    with ArtifactWriter(path, EMBEDDINGS, parameters=values) as writer:
        for name, rows in arrays.items():
            if rows is not None:
                writer.write(name, rows)
    return path


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    return write_embeddings(tmp_path / "sparse.h5", "train", top=M)


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    return write_embeddings(tmp_path / "queries.h5", "test", top=M)


@pytest.fixture
def memory(tmp_path: Path, sparse: Path, resmem: Resmem) -> list[object]:
    """The options that name an index and residuals at T = 1."""
    residuals, index = tmp_path / "residuals.h5", tmp_path / "index.h5"
    assert resmem("residualize", sparse, "-T", "1", "--top", M, "-o", residuals).status == 0
    assert resmem("index", sparse, "-o", index).status == 0
    return ["--index", index, "--residuals", residuals, "-k", "20"]


# Residuals


@pytest.mark.parametrize("top", [1, 3, M])
@pytest.mark.parametrize("block_rows", [7, N_TRAIN])
def test_residuals_are_those_of_all_logits_to_the_bit(
    top: int, block_rows: int, tmp_path: Path, sparse: Path, resmem: Resmem
) -> None:
    dense = write_embeddings(tmp_path / "dense.h5", "train", top=None)
    options = ["-T", "1", "--top", top, "--block-rows", block_rows, "--json"]
    results = []
    for path in (dense, sparse):
        done = resmem("residualize", path, *options, "-o", tmp_path / f"of {path.name}")
        assert done.status == 0, done.stderr
        results.append(done.result)
    assert results[0] == results[1]
    with (
        open_artifact(tmp_path / "of dense.h5") as whole,
        open_artifact(tmp_path / "of sparse.h5") as kept,
    ):
        assert whole.shapes == kept.shapes
        assert kept.shapes["top/classes"] == ((N_TRAIN, top), np.dtype(np.uint16))
        assert whole.header.content_digest == kept.header.content_digest
        assert kept.parameters == whole.parameters


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], "temperature 1.4 and no --top"),
        (["-T", "0.5", "--top", "3"], "temperature 0.5 and --top 3"),
        (["-T", "1"], "temperature 1 and no --top"),
        (["-T", "1", "--top", M + 1], f"temperature 1 and --top {M + 1}"),
        (["-T", "1", "--top", "0"], "temperature 1 and --top 0"),
    ],
)
def test_residuals_that_can_t_be_computed_are_refused_with_all_that_is_needed(
    options: list[object], found: str, sparse: Path, resmem: Resmem
) -> None:
    done = resmem("residualize", sparse, *options, "-o", sparse.parent / "r.h5")
    assert done.status == 2
    assert "sparse.h5: has the largest logits of each row only, and the log-sum-exp" in done.stderr
    assert f"(expected temperature 1 and --top from 1 to {M}, found {found})" in done.stderr
    assert done.stderr.endswith(f"give -T 1 --top {M}, or embed without --top\n")
    assert len(done.stderr.splitlines()) == 1
    assert not (sparse.parent / "r.h5").exists()
    advised = ["-T", "1", "--top", M]
    assert resmem("residualize", sparse, *advised, "-o", sparse.parent / "r.h5").status == 0


def test_residuals_need_labels_and_their_logits(tmp_path: Path, resmem: Resmem) -> None:
    bare = write_embeddings(tmp_path / "bare.h5", "train", top=M, labels=False)
    done = resmem("residualize", bare, "-T", "1", "--top", M)
    assert (done.status, "bare.h5: has no labels" in done.stderr) == (65, True)
    half = write_embeddings(tmp_path / "half.h5", "train", top=M, label_logit=None)
    done = resmem("residualize", half, "-T", "1", "--top", M)
    assert done.status == 65
    assert "half.h5: label_logit: has labels, but not their logits; embed again" in done.stderr


# The made-up logits of queries


def test_three_rows_spread_by_hand() -> None:
    logits = TopLogits(
        classes=np.array([[2, 0], [3, 1], [1, 0]], np.uint16),
        values=np.log(np.array([[4, 2], [8, 8], [7, 1]])).astype(np.float32),
        logsumexp=np.log(np.array([8.0, 16, 8])),
        label_logit=np.zeros(3, np.float32),
        n_classes=4,
    )
    expected = [[1 / 4, 1 / 8, 1 / 2, 1 / 8], [5e-13, 1 / 2, 5e-13, 1 / 2], [1 / 8, 7 / 8, 5e-13, 5e-13]]
    spread = spread_logits(logits)
    assert spread.dtype == np.float32
    np.testing.assert_allclose(np.exp(spread), expected, atol=1e-7)
    assert (np.exp(spread) > 1e-13).all()


@pytest.mark.parametrize("n_kept", [1, 2, M, C])
@pytest.mark.parametrize("scale", [1e-6, 1, 1e3])
def test_the_argmax_is_that_of_all_logits(n_kept: int, scale: float) -> None:
    # At the small scale float32 log-probabilities of distinct logits are equal.
    _, logits, _ = many_logits("train")
    logits = logits * np.float32(scale)
    spread = spread_logits(top_logits(logits, None, n_kept))
    assert np.array_equal(spread.argmax(axis=1), logits.argmax(axis=1))
    assert np.isfinite(spread).all()
    assert np.exp(spread.astype(np.float64)).sum(axis=1).max() <= 1 + 1e-4


def test_no_class_left_out_is_more_probable_than_one_that_is_stored() -> None:
    logits = np.array([[0, -60, -70, -80]], np.float32)
    spread = spread_logits(top_logits(logits, None, 3))
    assert spread.tolist() == [[0, -60, -70, -70]]


def test_all_logits_stored_are_all_logits() -> None:
    _, logits, _ = many_logits("train")
    spread = spread_logits(top_logits(logits, None, C))
    np.testing.assert_allclose(spread, logits - logsumexp(logits)[:, None], atol=1e-5)


# Predictions


@pytest.mark.parametrize("block_rows", [7, N_TEST])
def test_queries_predict_as_with_all_logits_where_all_are_stored(
    block_rows: int, tmp_path: Path, memory: list[object], resmem: Resmem
) -> None:
    files = [write_embeddings(tmp_path / f"{top}.h5", "test", top=top) for top in (None, C)]
    for path in files:
        options = ["--block-rows", block_rows, "-o", tmp_path / f"of {path.name}"]
        assert resmem("predict", path, *memory, *options).status == 0
    with open_artifact(tmp_path / "of None.h5") as whole, open_artifact(tmp_path / f"of {C}.h5") as kept:
        assert np.abs(whole.read("scores") - kept.read("scores")).max() < 1e-6
        for name in ("predicted", "base_predicted", "knn_predicted"):
            assert np.array_equal(whole.read(name), kept.read(name))


def test_queries_of_the_largest_logits_predict_and_say_so(
    tmp_path: Path, queries: Path, memory: list[object], resmem: Resmem
) -> None:
    done = resmem("predict", queries, *memory, "-o", tmp_path / "p.h5", "--json")
    assert done.status == 0, done.stderr
    assert f"queries.h5: the {M} largest of {C} logits of each query are known" in done.stderr
    _, logits, labels = many_logits("test")
    assert done.result["base_accuracy"] == np.mean(logits.argmax(axis=1) == labels)
    with open_artifact(tmp_path / "p.h5") as artifact:
        assert np.array_equal(artifact.read("base_predicted"), logits.argmax(axis=1))
        assert np.abs(artifact.read("scores").sum(axis=1) - 1).max() < 0.2
        assert list(artifact.read("class_names")) == list(NAMES)


def test_what_is_known_of_the_labels_changes_no_prediction(
    tmp_path: Path, queries: Path, memory: list[object], resmem: Resmem
) -> None:
    unlabelled = write_embeddings(tmp_path / "unlabelled.h5", "test", top=M, labels=False)
    for path in (queries, unlabelled):
        assert resmem("predict", path, *memory, "-o", tmp_path / f"of {path.name}").status == 0
    with (
        open_artifact(tmp_path / "of queries.h5") as one,
        open_artifact(tmp_path / "of unlabelled.h5") as other,
    ):
        assert np.array_equal(one.read("scores"), other.read("scores"))


def test_queries_of_the_largest_logits_are_refused_with_residuals_of_another_temperature(
    tmp_path: Path, queries: Path, memory: list[object], resmem: Resmem
) -> None:
    dense = write_embeddings(tmp_path / "dense.h5", "train", top=None)
    assert resmem("residualize", dense, "-T", "1.4", "-o", tmp_path / "warm.h5").status == 0
    done = resmem(
        "predict", queries, "--index", memory[1], "--residuals", tmp_path / "warm.h5", "-o", tmp_path / "p.h5"
    )
    assert done.status == 65
    assert "queries.h5: has the largest logits of each query only" in done.stderr
    assert "(expected residuals of temperature 1, found 1.4 in " in done.stderr
    assert "-T 1, or embed the queries without --top" in done.stderr
    assert not (tmp_path / "p.h5").exists()


# The other commands


def test_info_verify_index_and_import_take_the_file(tmp_path: Path, sparse: Path, resmem: Resmem) -> None:
    shown = resmem("info", sparse, "--json")
    assert shown.result["format_version"] == 2
    assert shown.result["datasets"]["logits_top/classes"]["shape"] == [N_TRAIN, M]
    assert resmem("verify", sparse).status == 0
    assert resmem("import", sparse, "-o", tmp_path / "copy.h5").status == 0
    with open_artifact(sparse) as own, open_artifact(tmp_path / "copy.h5") as copy:
        assert copy.header.content_digest == own.header.content_digest
        assert copy.parameters["n_classes"] == C
    with open_embeddings(tmp_path / "copy.h5") as source:
        assert source.digest == own.header.content_digest
        assert (source.n, source.d, source.n_classes) == (N_TRAIN, D, C)


def test_documents_are_carried_and_shown(tmp_path: Path, resmem: Resmem) -> None:
    documents = {
        "documents/starts": np.array([0, 200]),
        "documents/lengths": np.array([200, 102]),
        "documents/names": np.array([b"a.py", b"b.py"]),
    }
    path = write_embeddings(tmp_path / "tokens.h5", "train", top=M, **documents)
    shown = resmem("info", path, "--json").result["datasets"]
    assert {name: shown[name]["shape"] for name in documents} == dict.fromkeys(documents, [2])
    assert resmem("verify", path).status == 0


def test_a_file_of_version_1_is_still_read(tmp_path: Path) -> None:
    embeddings, logits, labels = many_logits("train")
    first = replace(EMBEDDINGS, version=1)
    with ArtifactWriter(tmp_path / "v1.h5", first, parameters={"sources": {}}) as writer:
        for name, rows in (("embeddings", embeddings), ("logits", logits), ("labels", labels)):
            writer.write(name, rows.astype(np.int32) if name == "labels" else rows)
    with open_embeddings(tmp_path / "v1.h5") as source, open_artifact(tmp_path / "v1.h5") as artifact:
        assert artifact.header.version == 1
        assert source.top_logits is None
        assert np.array_equal(source.require_logits().read(0, N_TRAIN), logits)


# What can't be


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"n_classes": None}}, r"parameters\.n_classes: not a number"),
        ({"parameters": {"n_classes": True}}, r"parameters\.n_classes: not a number"),
        ({"parameters": {"n_classes": 5}, "class_names": None}, r"n_classes: .*expected at least 6, found 5"),
        ({"class_names": NAMES[:-1]}, r"class_names: not one name a class \(expected 40, found 39\)"),
    ],
)  # fmt: skip
def test_a_number_of_classes_that_can_t_be_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write_embeddings(tmp_path / "a.h5", "train", top=M, **change)
    with pytest.raises(DataError, match=message):
        open_embeddings(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("logits_top/classes", C, "expected 0 to 39"),
        ("logits_top/values", np.nan, "expected finite numbers"),
        ("logsumexp", np.inf, "expected finite numbers"),
        ("label_logit", -np.inf, "expected finite numbers"),
    ],
)
def test_values_that_can_t_be_are_refused(
    name: str, value: float, message: str, tmp_path: Path, sparse: Path, resmem: Resmem
) -> None:
    with open_artifact(sparse) as artifact:
        rows = np.array(artifact.read(name))
    rows.flat[50] = value
    damaged = write_embeddings(tmp_path / "damaged.h5", "train", top=M, **{name: rows})
    done = resmem("residualize", damaged, "-T", "1", "--top", M, "-o", tmp_path / "r.h5")
    assert done.status == 65
    assert f"damaged.h5: {name}: values that can't be ({message}" in done.stderr
    assert not (tmp_path / "r.h5").exists()


def test_whole_and_largest_logits_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"not a whole resmem\.embeddings \(expected logits or else logits_top"
    ):
        write_embeddings(tmp_path / "both.h5", "train", top=M, logits=many_logits("train")[1])
    with pytest.raises(DataError, match="found label_logit, logits"):
        write_embeddings(tmp_path / "both.h5", "train", top=None, label_logit=np.zeros(N_TRAIN, np.float32))
    assert not (tmp_path / "both.h5").exists()


# Whether queries and memory were made alike


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint_digest": "b" * 64}, "checkpoint digest as {index} (expected aaaaaaaaaaaa…, found b"),
        ({"layer": "x"}, "layer as {index} (expected head:input, found x); embed both with one --layer"),
        ({"pool": "max"}, "pool as {index} (expected mean, found max); embed both with one --pool"),
        ({"pool": None}, "pool as {index} (expected mean, found None)"),
    ],
)  # fmt: skip
def test_queries_embedded_otherwise_than_the_memory_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path, memory: list[object], resmem: Resmem
) -> None:
    other = write_embeddings(tmp_path / "o.h5", "test", top=M, parameters={"encoder": ENCODER | change})
    done = resmem("predict", other, *memory, "-o", tmp_path / "p.h5")
    assert done.status == 65
    assert f"o.h5: not the same {message.format(index=memory[1])}" in done.stderr


def test_of_two_preprocessings_what_differs_is_shown(tmp_path: Path, resmem: Resmem) -> None:
    files = []
    for split, mean in (("train", 0.5), ("test", 0.25)):
        encoder = ENCODER | {"preprocessing": {"mean": [mean], "std": [1.0], "layout": "nhwc"}}
        files.append(
            write_embeddings(tmp_path / f"{split}.h5", split, top=None, parameters={"encoder": encoder})
        )
    for command in ("index", "residualize"):
        assert resmem(command, files[0], "-o", tmp_path / f"{command}.h5").status == 0
    memory = ["--index", tmp_path / "index.h5", "--residuals", tmp_path / "residualize.h5"]
    assert resmem("predict", files[0], *memory, "-o", tmp_path / "p.h5").status == 0
    done = resmem("predict", files[1], *memory, "-o", tmp_path / "p.h5")
    assert done.status == 65
    assert "(expected mean [0.5], found mean [0.25])" in done.stderr
