from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Finished, Pipeline, Resmem
from numpy.typing import NDArray
from test_artifacts_formats import sample_arrays, write_artifact, write_sample

from resmem_cli import open_artifact
from resmem_cli.artifacts.formats import EMBEDDINGS, FORMATS, INDEX, PREDICTIONS, TUNING
from resmem_cli.artifacts.shard_formats import MANIFEST
from resmem_cli.errors import DataError
from resmem_cli.stages.export import export

SUFFIXES = (".npz", ".csv", ".parquet")
Table = dict[str, list[Any]]
Read = Callable[[Path], Table]


def read_csv(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def read_parquet(path: Path) -> Table:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the arrow extra")
    table = parquet.read_table(path)
    assert len(set(table.column_names)) == len(table.column_names)
    return {name: table[name].to_pylist() for name in table.column_names}


READERS = {".csv": read_csv, ".parquet": read_parquet}
each_table = pytest.mark.parametrize("suffix", READERS)


def same(column: list[Any], values: NDArray[Any]) -> bool:
    """Whether a column is an array to the bit, in the array's own type."""
    if values.dtype.kind == "S":
        return column == [value.decode() for value in values.tolist()]
    return np.array(column).astype(values.dtype).tobytes() == values.tobytes()


@each_table
def test_predictions_are_one_row_a_query(
    suffix: str, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    output = tmp_path / f"predictions{suffix}"
    assert resmem("export", pipeline.predictions, "-o", output).status == 0
    table = READERS[suffix](output)
    assert list(table)[:9] == [
        "query", "label", "label_name", "base_predicted", "base_predicted_name", "predicted",
        "predicted_name", "knn_predicted", "knn_predicted_name",
    ]  # fmt: skip
    with open_artifact(pipeline.predictions) as artifact:
        assert same(table["query"], np.arange(artifact.dimensions["q"]))
        assert same(table["label"], artifact.read("labels"))
        names = artifact.read("class_names")
        for name in ("predicted", "base_predicted", "knn_predicted"):
            assert same(table[name], artifact.read(name))
            assert same(table[f"{name}_name"], names[artifact.read(name)])


@each_table
def test_neighbours_are_a_long_table(suffix: str, tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    output = tmp_path / f"near{suffix}"
    assert resmem("export", pipeline.predictions, "--what", "neighbors", "-o", output).status == 0
    table = READERS[suffix](output)
    assert list(table)[:6] == ["query", "rank", "row", "distance", "weight", "label"]
    with open_artifact(pipeline.predictions) as artifact:
        q, k = artifact.dimensions["q"], artifact.dimensions["k"]
        for column, dataset in (("row", "rows"), ("distance", "distances"), ("weight", "weights")):
            assert same(table[column], artifact.read(f"neighbors/{dataset}").ravel())
    assert [int(value) for value in table["query"]] == [query for query in range(q) for _ in range(k)]
    assert [int(value) for value in table["rank"]] == [*range(k)] * q


@each_table
def test_scores_are_headed_by_the_classes(
    suffix: str, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    output = tmp_path / f"scores{suffix}"
    assert resmem("export", pipeline.predictions, "--what", "scores", "-o", output).status == 0
    table = READERS[suffix](output)
    assert list(table) == ["query", "ant", "bee", "cat", "dog", "eel"]
    with open_artifact(pipeline.predictions) as artifact:
        for name, values in zip(list(table)[1:], artifact.read("scores").T, strict=True):
            assert same(table[name], values)


@pytest.mark.parametrize(
    "names", [None, [b"a", b"a", b"b", b"c"], [b"query", b"a", b"b", b"c"], [b"", b"a", b"b", b"c"]]
)
def test_classes_without_names_of_their_own_are_numbered(names: list[bytes] | None, tmp_path: Path) -> None:
    arrays = sample_arrays(PREDICTIONS)
    del arrays["class_names"]
    if names is not None:
        arrays["class_names"] = np.array(names)
    path = write_artifact(tmp_path / "p.h5", PREDICTIONS, arrays)
    export(path, output=tmp_path / "scores.csv", what="scores")
    assert list(read_csv(tmp_path / "scores.csv")) == ["query", "class_0", "class_1", "class_2", "class_3"]


@pytest.mark.parametrize("label", [-1, 4])
def test_a_class_that_there_is_not_is_refused(tmp_path: Path, label: int) -> None:
    arrays = sample_arrays(PREDICTIONS) | {"labels": np.array([label, *[3] * 8], np.int32)}
    path = write_artifact(tmp_path / "p.h5", PREDICTIONS, arrays)
    with pytest.raises(DataError, match=r"p\.h5: labels: values that can't be \(expected 0 to 3, found"):
        export(path, output=tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


def test_ids_follow_the_row_number_and_are_text(tmp_path: Path) -> None:
    ids = np.array([b"a,b", 'q"é\n'.encode(), b"\xff", b" x", b"", b"5", b"6", b"7", b"8"])
    arrays = sample_arrays(PREDICTIONS) | {"ids": ids}
    path = write_artifact(tmp_path / "p.h5", PREDICTIONS, arrays)
    for suffix, read in READERS.items():
        export(path, output=tmp_path / f"p{suffix}")
        table = read(tmp_path / f"p{suffix}")
        assert list(table)[:3] == ["query", "id", "label"]
        assert table["id"] == ["a,b", 'q"é\n', "\\xff", " x", "", "5", "6", "7", "8"]


def test_a_table_tells_of_its_group_only_in_other_tables(tmp_path: Path) -> None:
    arrays = sample_arrays(PREDICTIONS, alternative=1)
    path = write_artifact(tmp_path / "p.h5", PREDICTIONS, arrays)
    export(path, output=tmp_path / "p.csv")
    table = read_csv(tmp_path / "p.csv")
    assert same(table["truncation_bound"], arrays["truncation/bound"])
    assert same(table["truncation_proved"], arrays["truncation/proved"])


def test_a_report_shows_its_runs_and_with_what_its_changed_examples(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    assert resmem("export", pipeline.report, "-o", tmp_path / "report.csv").status == 0
    runs = read_csv(tmp_path / "report.csv")
    assert list(runs)[:4] == ["run", "name", "method", "n_queries"]
    assert runs["name"] == ["predictions.h5"]
    assert resmem("export", pipeline.report, "--what", "changed", "-o", tmp_path / "c.csv").status == 0
    changed = read_csv(tmp_path / "c.csv")
    with open_artifact(pipeline.report) as artifact:
        for dataset, names in (
            ("gain_interval", ("gain_low", "gain_high")),
            ("accuracies", ("base_accuracy", "knn_accuracy", "accuracy")),
        ):
            for i, name in enumerate(names):
                assert same(runs[name], artifact.read(f"runs/{dataset}")[:, i])
        assert same(changed["query"], artifact.read("changed/queries"))
    near = resmem("export", pipeline.report, "--what", "changed/neighbors", "-o", tmp_path / "n.csv")
    assert near.status == 0
    assert list(read_csv(tmp_path / "n.csv"))[:3] == ["example", "rank", "row"]


def test_a_report_s_document_is_json(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    assert resmem("export", pipeline.report, "-o", tmp_path / "report.json").status == 0
    document = json.loads((tmp_path / "report.json").read_text())
    [told] = resmem("analyze", pipeline.predictions, "--json").result["runs"]
    assert document["runs"][0]["accuracy"] == told["accuracy"]
    assert document["runs"][0]["where"] == told["where"]
    for path, what in ((pipeline.report, "runs"), (pipeline.predictions, None)):
        options = [] if what is None else ["--what", what]
        assert resmem("export", path, *options, "-o", tmp_path / "no.json").status == 2
        assert not (tmp_path / "no.json").exists()


def test_compared_methods_have_their_names(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    memory = ["--index", pipeline.index, "--residuals", pipeline.residuals, "--compare"]
    assert resmem("predict", pipeline.test, *memory, "-o", tmp_path / "p.h5").status == 0
    assert resmem("export", tmp_path / "p.h5", "--what", "compared", "-o", tmp_path / "c.csv").status == 0
    table = read_csv(tmp_path / "c.csv")
    with open_artifact(tmp_path / "p.h5") as artifact:
        names = [method["name"] for method in artifact.parameters["compared"]]
        predicted = artifact.read("compared/predicted")
    assert list(table)[:3] == ["query", "method", "method_name"]
    assert table["method_name"] == names * 80
    assert same(table["predicted"], predicted.reshape(-1))


def test_a_tuning_shows_its_grid(tmp_path: Path) -> None:
    arrays = sample_arrays(TUNING)
    export(write_artifact(tmp_path / "t.h5", TUNING, arrays), output=tmp_path / "grid.csv")
    table = read_csv(tmp_path / "grid.csv")
    expected = {name.removeprefix("grid/"): values for name, values in arrays.items() if "grid/" in name}
    assert list(table) == ["row", *expected]
    assert all(same(table[name], values) for name, values in expected.items())


@pytest.mark.parametrize("name", ["train", "residuals", "index", "predictions", "report"])
def test_npz_holds_all_of_an_artifact_to_the_bit(
    name: str, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    path, output = getattr(pipeline, name), tmp_path / "all.npz"
    assert resmem("export", path, "-o", output).status == 0
    with open_artifact(path) as artifact, np.load(output, allow_pickle=False) as archive:
        assert archive.files == [*artifact.shapes, "parameters"]
        for dataset in artifact.shapes:
            values = artifact.read(dataset)
            assert (archive[dataset].dtype, archive[dataset].shape) == (values.dtype, values.shape)
            assert archive[dataset].tobytes() == values.tobytes()
        assert json.loads(archive["parameters"].item()) == artifact.parameters


def test_npz_of_one_table_holds_its_datasets(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    assert resmem("export", pipeline.predictions, "--what", "scores", "-o", tmp_path / "s.npz").status == 0
    with open_artifact(pipeline.predictions) as artifact, np.load(tmp_path / "s.npz") as archive:
        assert archive.files == ["scores", "class_names", "parameters"]
        assert np.array_equal(archive["scores"], artifact.read("scores"))


# A manifest is exported as what it stands for: see test_cli_merge.
@pytest.mark.parametrize(
    "fmt", [fmt for fmt in FORMATS.values() if fmt is not MANIFEST], ids=lambda fmt: fmt.name
)
def test_every_table_of_every_format_holds_every_value(fmt: Any, tmp_path: Path) -> None:
    arrays = sample_arrays(fmt, alternative=-1)
    path = write_artifact(tmp_path / "a.h5", fmt, arrays)
    cells = 0
    first = export(path, output=tmp_path / "main.csv").summary
    for what in [first["table"], *(first["other_tables"] or [])]:
        for suffix, read in READERS.items():
            summary = export(path, output=tmp_path / f"t{suffix}", what=what).summary
            table = read(tmp_path / f"t{suffix}")
            assert summary["table"] == what
            assert summary["columns"] == len(table)
            assert {len(column) for column in table.values()} == {summary["rows"]}
        long = "rank" in table or "method" in list(table)[1:2]
        shown = [name for name in table if not name.endswith("_name") or what == "class_names"]
        cells += (len(shown) - (2 if long else 1)) * summary["rows"]
    assert cells == sum(values.size for values in arrays.values())


def test_the_main_table_of_an_index_without_ids_is_its_vectors(tmp_path: Path) -> None:
    arrays = sample_arrays(INDEX, optional=False)
    summary = export(write_artifact(tmp_path / "i.h5", INDEX, arrays), output=tmp_path / "i.csv").summary
    assert summary["table"] == "vectors"
    assert list(read_csv(tmp_path / "i.csv")) == ["row", "vector_0", "vector_1", "vector_2"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("what", ["queries", "neighbors", "scores"])
def test_block_size_and_repetition_change_no_byte(suffix: str, what: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the arrow extra")
    path = write_sample(tmp_path / "p.h5", PREDICTIONS)
    contents = set()
    for block_rows in (None, None, 1, 2, 4, 100):
        export(path, output=tmp_path / f"out{suffix}", what=what, block_rows=block_rows)
        contents.add((tmp_path / f"out{suffix}").read_bytes())
    assert len(contents) == 1


# --- what is shown


def test_it_shows_the_file_the_table_and_its_size(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    output = tmp_path / "scores.csv"
    done = resmem("export", pipeline.predictions, "--what", "scores", "-o", output)
    assert done.stderr == ""
    shown = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[:4])
    assert shown == {"output": str(output), "table": "scores", "rows": "80", "columns": "6"}
    assert '"queries"' in done.stdout.splitlines()[4]
    assert '"neighbors"' in done.stdout.splitlines()[4]


def test_json_has_the_promised_keys(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    for suffix, table, rows, quiet in ((".csv", "queries", 80, []), (".npz", "all", None, ["--quiet"])):
        output = tmp_path / f"out{suffix}"
        done = resmem("export", pipeline.predictions, "-o", output, "--json", *quiet)
        assert done.stderr == ""
        assert (done.json["command"], done.json["output"]) == ("export", str(output))
        assert list(done.result) == ["table", "rows", "columns", "arrays", "other_tables"]
        assert (done.result["table"], done.result["rows"]) == (table, rows)


# --- refusals: nothing is left, and an old file is as it was


def assert_refused(done: Finished, status: int, *words: str) -> None:
    assert done.status == status, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("name", ["out.xlsx", "out", "out.h5", ".csv"])
def test_an_unknown_suffix_names_those_that_are_known(
    name: str, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    done = resmem("export", pipeline.predictions, "-o", tmp_path / name)
    assert_refused(done, 2, name, ".npz, .csv or .parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_suffix_may_be_in_capitals(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    assert resmem("export", pipeline.predictions, "-o", tmp_path / "A.CSV").status == 0
    assert "query" in read_csv(tmp_path / "A.CSV")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_unknown_table_lists_the_valid_ones(
    suffix: str, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    done = resmem("export", pipeline.predictions, "--what", "magic", "-o", tmp_path / f"x{suffix}")
    assert_refused(done, 2, "--what", "found magic", "queries", "scores", "neighbors", "class_names")
    assert ("class_names, all, found" in done.stderr) == (suffix == ".npz")
    assert "top_scores" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_all_is_no_table(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    done = resmem("export", pipeline.predictions, "--what", "all", "-o", tmp_path / "x.csv")
    assert_refused(done, 2, "only .npz holds all tables")
    assert resmem("export", pipeline.predictions, "--what", "all", "-o", tmp_path / "x.npz").status == 0


def test_bad_block_rows_are_refused(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    done = resmem("export", pipeline.predictions, "-o", tmp_path / "x.csv", "--block-rows", "0")
    assert_refused(done, 2, "--block-rows", "at least 1")


def test_missing_and_foreign_inputs_are_refused(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    assert_refused(
        resmem("export", tmp_path / "no.h5", "-o", tmp_path / "x.csv"), 66, "no.h5", "no such file"
    )
    assert_refused(resmem("export", pipeline.arrays, "-o", tmp_path / "x.csv"), 65, "not an HDF5 file")
    assert_refused(resmem("export", pipeline.predictions), 2, "Missing option", "resmem export --help")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_the_input_is_refused(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    path = Path(shutil.copy(pipeline.predictions, tmp_path / "p.csv"))
    assert_refused(resmem("export", path, "-o", path), 2, "also an input")
    assert path.read_bytes() == pipeline.predictions.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_clobber_keeps_an_old_file(
    suffix: str, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    output = tmp_path / f"old{suffix}"
    output.write_text("precious")
    assert_refused(resmem("export", pipeline.report, "-o", output, "--no-clobber"), 74, "--no-clobber")
    assert output.read_text() == "precious"


def damaged(path: Path, dataset: str) -> Path:
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        stored = file[dataset]
        place = stored.id.get_chunk_info(stored.id.get_num_chunks() - 1).byte_offset
    content[place + 8] ^= 1
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_input_leaves_the_old_file_and_nothing_else(
    suffix: str, tmp_path: Path, resmem: Resmem
) -> None:
    pytest.importorskip("pyarrow", reason="needs the arrow extra")
    rng = np.random.default_rng(0)
    # Several blocks: the damage is met when some of them are written.
    arrays = {"embeddings": rng.normal(size=(6_000, 100)).astype(np.float32)}
    path = damaged(write_artifact(tmp_path / "e.h5", EMBEDDINGS, arrays), "embeddings")
    output = tmp_path / "out" / f"old{suffix}"
    output.parent.mkdir()
    output.write_text("precious")
    done = resmem("export", path, "--what", "embeddings", "-o", output, "--block-rows", 500)
    assert_refused(done, 65, "e.h5", "embeddings", "does not hold")
    assert list(output.parent.iterdir()) == [output]
    assert output.read_text() == "precious"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_ends_in_74_and_leaves_nothing(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the arrow extra")
    rng = np.random.default_rng(0)
    arrays = {"embeddings": rng.normal(size=(6_000, 100)).astype(np.float32)}
    path = write_artifact(tmp_path / "e.h5", EMBEDDINGS, arrays)
    (tmp_path / "out").mkdir()
    command = (
        f"ulimit -f 1000; exec {sys.executable} -W error -m resmem_cli "
        f"export {path} --what embeddings -o out/x{suffix}"
    )
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert_refused(Finished(done.returncode, done.stdout, done.stderr), 74, f"x{suffix}", "can't be written")
    assert list((tmp_path / "out").iterdir()) == []


def test_parquet_without_pyarrow_ends_in_69(
    tmp_path: Path, pipeline: Pipeline, resmem_process: Resmem
) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('not here')\n")
    output = tmp_path / "out" / "x.parquet"
    output.parent.mkdir()
    done = resmem_process("export", pipeline.report, "-o", output, env={"PYTHONPATH": str(tmp_path)})
    assert_refused(done, 69, "x.parquet", "resmem-cli[arrow]")
    assert list(output.parent.iterdir()) == []
