from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import N_TRAIN, D, Pipeline, Resmem, classifier_arrays

from resmem_cli import ExactIndex, open_artifact
from resmem_cli.stages.stored_index import load_index


def test_the_distance_scale_is_the_median_distance_to_the_53rd_other_row(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    done = resmem("index", pipeline.train, "-o", tmp_path / "i.h5", "--json")
    assert done.status == 0
    embeddings = classifier_arrays()["train_embeddings"].astype(np.float64)
    distances = np.linalg.norm(embeddings[:, None] - embeddings[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    expected = np.median(np.sort(distances, axis=1)[:, 52])
    assert done.result["distance_scale"] == pytest.approx(expected, rel=1e-12)
    assert done.result["default_sigma"] == pytest.approx(0.18 * expected, rel=1e-12)
    with open_artifact(tmp_path / "i.h5") as artifact:
        assert artifact.dimensions == {"n": N_TRAIN, "d": D}
        assert artifact.parameters["distance_scale"] == {
            "median": pytest.approx(expected),
            "neighbor": 53,
            "sample": N_TRAIN,
            "seed": 0,
        }


def test_arrays_and_their_artifact_give_one_digest(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    assert resmem("index", pipeline.arrays, "--split", "train", "-o", tmp_path / "i.h5").status == 0
    with open_artifact(tmp_path / "i.h5") as direct, open_artifact(pipeline.index) as imported:
        assert direct.header.inputs[0].digest == imported.header.inputs[0].digest
        assert direct.parameters["embeddings_digest"] == imported.parameters["embeddings_digest"]
        assert direct.header.content_digest == imported.header.content_digest


def test_ids_go_along(tmp_path: Path, resmem: Resmem) -> None:
    np.savez(tmp_path / "a.npz", embeddings=np.arange(6.0).reshape(3, 2), ids=np.array(["x", "yy", "z"]))
    assert resmem("index", tmp_path / "a.npz", "-o", tmp_path / "i.h5").status == 0
    with open_artifact(tmp_path / "i.h5") as artifact:
        assert list(artifact.read("ids")) == [b"x", b"yy", b"z"]


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    (tmp_path / "train.h5").write_bytes(pipeline.train.read_bytes())
    done = resmem("index", "train.h5", "--kind", "hnsw", "--dry-run", cwd=tmp_path)
    assert done.status == 0
    shown = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert list(shown) == ["kind", "rows", "dimensions", "reason", "build", "disk", "search", "recall"]
    assert shown["kind"].strip() == "hnsw"
    assert shown["build"].strip().startswith("about ")
    done = resmem("index", "train.h5", "--dry-run", "--json", cwd=tmp_path)
    assert done.result["kind"] == "exact"
    assert done.result["disk_bytes"] > N_TRAIN * D
    assert [path.name for path in tmp_path.iterdir()] == ["train.h5"]


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        ("8", "too little memory to work in (expected at least 16 MiB, found 8)"),
        ("15.9M", "too little memory"),
        ("much", "no size of memory (expected a size such as 500M or 8G, found 'much')"),
        ("-1G", "no size of memory"),
    ],
)
def test_a_memory_no_process_fits_in_is_refused(
    memory: str, words: str, pipeline: Pipeline, resmem: Resmem
) -> None:
    done = resmem("index", pipeline.train, "--memory", memory, "-o", "never.h5")
    assert done.status == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_recall_told_is_that_at_as_many_neighbours_as_there_are(tmp_path: Path, resmem: Resmem) -> None:
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(40, 4)))
    done = resmem("index", tmp_path / "e.npy", "--kind", "ivf", "-o", tmp_path / "i.h5", "--json")
    assert done.result["recall_at"] == 39


def test_an_unknown_kind_names_the_known_ones(pipeline: Pipeline, resmem: Resmem) -> None:
    done = resmem("index", pipeline.train, "--kind", "magic")
    assert done.status == 2
    assert "exact" in done.stderr


@pytest.mark.parametrize("rows", [1, 2])
def test_a_memory_of_hardly_any_rows_can_be_used_with_a_sigma(
    rows: int, tmp_path: Path, resmem: Resmem
) -> None:
    arrays = {
        "embeddings": np.ones((rows, 2)),
        "logits": np.full((rows, 3), 2.0),
        "labels": np.zeros(rows, int),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    for command in ("index", "residualize"):
        assert resmem(command, "a.npz", "-o", f"{command}.h5", cwd=tmp_path).status == 0
    memory = ["--index", "index.h5", "--residuals", "residualize.h5", "-k", "1", "-o", "p.h5"]
    refused = resmem("predict", "a.npz", *memory, cwd=tmp_path)
    assert refused.status == 2
    assert "--sigma" in refused.stderr
    assert resmem("predict", "a.npz", *memory, "--sigma", "1", cwd=tmp_path).status == 0


def test_recall_is_measured_on_the_queries_of_a_file(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    lists = ["--kind", "ivf", "--storage", "float32", "-k", "7", "--json"]
    done = resmem("index", pipeline.train, *lists, "--queries", pipeline.test, "-o", tmp_path / "i.h5")
    assert done.status == 0
    with open_artifact(tmp_path / "i.h5") as artifact:
        assert [entry.role for entry in artifact.header.inputs] == ["embeddings", "queries"]
        assert artifact.parameters["quality"]["measured_on"] == "queries"
        n_lists = artifact.parameters["search"]["lists"]
    arrays = classifier_arrays()
    exact = ExactIndex.build(arrays["train_embeddings"]).search(arrays["test_embeddings"], 7).rows
    with open_artifact(tmp_path / "i.h5") as artifact:
        index = load_index(artifact)
        for point in done.result["curve"]:
            assert 1 <= point["nprobe"] <= n_lists
            index.choose_effort(probe=point["nprobe"], rerank=point["rerank"])
            found = index.search(arrays["test_embeddings"], 7).rows
            shares = [len(np.intersect1d(*pair)) / 7 for pair in zip(found, exact, strict=True)]
            # Where the lists visited hold fewer than 7 rows, a search goes on, and a measurement does not.
            assert point["recall"] <= np.mean(shares) + 1e-12
        assert point["recall"] == 1
    split = ["--queries", pipeline.arrays, "--queries-split", "test"]
    again = resmem("index", pipeline.train, *lists, *split, "-o", tmp_path / "again.h5")
    same = ("nprobe", "rerank", "recall", "compared")
    assert [[point[name] for name in same] for point in again.result["curve"]] == [
        [point[name] for name in same] for point in done.result["curve"]
    ]


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--queries", "narrow.npy"], 65, "narrow.npy: queries of another dimension than the memory"),
        (["--queries", "narrow.npy", "--dry-run"], 65, "narrow.npy: queries of another dimension"),
        (["--queries", "none.npy", "--dry-run"], 66, "none.npy"),
        (["--queries", "nan.npy"], 65, "nan.npy"),
        (["--queries", "none.npy"], 66, "none.npy"),
        (["--queries", "nan.npy", "--no-measure"], 2, "leave out --no-measure"),
        (["--queries-split", "test"], 2, "--queries-split is for --queries"),
    ],
)
def test_queries_that_can_not_be_measured_with(
    options: list[str], status: int, words: str, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    np.save(tmp_path / "narrow.npy", np.ones((3, D - 1), np.float32))
    np.save(tmp_path / "nan.npy", np.full((3, D), np.nan, np.float32))
    done = resmem("index", pipeline.train, "--kind", "ivf", *options, "-o", "i.h5", cwd=tmp_path)
    assert done.status == status
    assert words in done.stderr
    assert not (tmp_path / "i.h5").exists()


def test_an_exact_index_says_that_it_needs_no_queries(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    done = resmem("index", pipeline.train, "--queries", pipeline.test, "-o", tmp_path / "i.h5")
    assert done.status == 0
    assert "--queries are not used: exact finds all neighbours" in done.stderr


@pytest.mark.parametrize("dry", [["--dry-run"], []])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kind", "ivf", "--lists", "0"], "lists of ivf out of range (expected 1 to 300, found 0)"),
        (["--kind", "hnsw", "--links", "0"], "links of hnsw out of range"),
        (["--kind", "ivf-pq", "--subquantizers", "7"], "does not divide the dimension 8"),
        (["--kind", "ivf-rabitq", "--bits", "99"], "bits of ivf-rabitq out of range"),
        (["--kind", "ivf-pq", "--bits", "5"], "bits of ivf-pq out of range (expected 4 or 8, found 5)"),
        (["--axes", "99"], "axes out of range"),
        (["--factory", "nonsense"], "could not parse"),
        (["--kind", "factory"], "no factory string"),
        (["--lists", "3"], "--lists is not for an index of kind exact, which suits so many rows"),
        (["--kind", "ivf", "--factory", "IVF4,Flat"], "leave it out, or give --kind factory"),
        (["--kind", "hnsw", "--storage", "float16"], "leave it out, or give --kind ivf"),
    ],
)
def test_parameters_that_can_not_be_are_refused_before_anything_is_promised(
    options: list[str], words: str, dry: list[str], tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    done = resmem("index", pipeline.train, *options, *dry, "-o", tmp_path / "i.h5")
    assert done.status == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_the_table_of_the_curve_has_the_setting_that_was_chosen(tmp_path: Path, resmem: Resmem) -> None:
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(3000, 8)))
    options = ["--kind", "ivf", "--recall", "1"]
    done = resmem("index", tmp_path / "e.npy", *options, "-o", tmp_path / "i.h5")
    fields, table = done.stdout.split("nprobe ", 2)[-2:]
    rows = [line.split() for line in table.splitlines()[2:]]
    chosen = [
        fields.split()[0],
        dict(line.split("  ", 1) for line in fields.splitlines()[1:])["rerank"].strip(),
    ]
    assert chosen in [row[:2] for row in rows]


def test_rows_that_a_kind_can_not_code_are_told_with_their_file(tmp_path: Path, resmem: Resmem) -> None:
    rows = 1e20 * np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    np.save(tmp_path / "large.npy", rows)
    done = resmem("index", tmp_path / "large.npy", "--kind", "ivf-rabitq", "-o", tmp_path / "i.h5")
    assert done.status == 65
    assert "large.npy: rows too large for ivf-rabitq" in done.stderr
