"""What `analyze` tells beyond the gain: methods, places, groups, single queries, figures and a page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import N_TEST, Finished, Pipeline, Resmem, classifier_arrays
from numpy.typing import NDArray

from resmem_cli import open_artifact
from resmem_cli.metrics import compare as compare_answers
from resmem_cli.quality import Outcomes, summarize
from resmem_cli.residuals import softmax

CLASSES = ("ant", "bee", "cat", "dog", "eel")
GROUPS = {"ant": "insect", "bee": "insect", "cat": "mammal", "dog": "mammal", "eel": "fish"}
QUALITIES = ("accuracy", "top5_accuracy", "nll", "brier", "ece")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, pipeline: Pipeline) -> Path:
    """Predictions with the baselines."""
    from resmem_cli import PredictConfig, predict

    output = tmp_path_factory.mktemp("compared") / "compared.h5"
    predict(
        pipeline.test,
        index=pipeline.index,
        residuals=pipeline.residuals,
        output=output,
        config=PredictConfig(k=20, compare=True),
    )
    return output


def columns(path: Path, *names: str) -> tuple[NDArray[Any], ...]:
    with open_artifact(path) as file:
        return tuple(file.read(name) for name in names)


def answers(path: Path) -> tuple[NDArray[Any], ...]:
    return columns(path, "labels", "base_predicted", "predicted")


def assert_refused(done: Finished, status: int, *parts: object) -> None:
    assert done.status == status, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    for part in ("resmem: error: ", *parts):
        assert str(part) in line


def only_run(done: Finished) -> dict[str, Any]:
    assert done.status == 0, done.stderr
    [run] = done.result["runs"]
    told: dict[str, Any] = run
    return told


# --- methods


def test_every_method_is_told_with_its_qualities(compared: Path, resmem: Resmem) -> None:
    run = only_run(resmem("analyze", compared, "--compare", "--json"))
    with open_artifact(compared) as file:
        methods = file.parameters["compared"]
        parts = [
            file.read(f"compared/{name}")
            for name in ("predicted", "label_probability", "confidence", "squares", "label_rank")
        ]
    labels, base, predicted = answers(compared)
    assert [one["name"] for one in run["methods"]] == [one["name"] for one in methods]
    for i, told in enumerate(run["methods"]):
        outcomes = Outcomes(*(part[:, i] for part in parts))
        quality = summarize(outcomes, labels)
        assert {name: told[name] for name in QUALITIES} == {
            name: getattr(quality, name) for name in QUALITIES
        }
        gain = compare_answers(labels, base, outcomes.predicted)
        assert (told["gain"], told["p_value"]) == (gain.gain, gain.p_value)
        assert (
            told["p_value_against_resmem"] == compare_answers(labels, predicted, outcomes.predicted).p_value
        )
        low, high = told["bootstrap_interval"]
        assert low <= told["gain"] <= high
        assert sum(one["n"] for one in told["reliability"]) == N_TEST
    assert run["methods"][0]["gain"] == 0
    assert run["methods"][0]["p_value"] == 1


def test_the_table_of_methods_has_a_line_for_each(compared: Path, resmem: Resmem) -> None:
    shown = resmem("analyze", compared, "--compare").stdout
    run = only_run(resmem("analyze", compared, "--json"))
    for one in run["methods"]:
        line = next(line for line in shown.splitlines() if line.startswith(f"{one['name']}  "))
        assert f"{100 * one['accuracy']:.2f} %" in line
        assert f"{one['nll']:.4f}" in line
    assert "kNN-LM" not in resmem("analyze", compared).stdout


def test_files_without_baselines_are_refused_to_compare(
    tmp_path: Path, compared: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    done = resmem("analyze", compared, pipeline.predictions, "--compare", "-o", tmp_path / "r.h5")
    assert_refused(done, 65, pipeline.predictions, "no baselines", "predict with --compare")
    assert list(tmp_path.iterdir()) == []
    assert only_run(resmem("analyze", pipeline.predictions, "--json"))["methods"] == []


# --- where


def test_groups_of_queries_hold_every_query_once(pipeline: Pipeline, resmem: Resmem) -> None:
    run = only_run(resmem("analyze", pipeline.predictions, "--where", "--json"))
    labels, base, predicted = answers(pipeline.predictions)
    for groups in run["where"].values():
        assert sum(one["n"] for one in groups) == N_TEST
        gained = sum(one["gain"] * one["n"] for one in groups)
        assert gained / N_TEST == pytest.approx(run["gain"])
    assert [one["group"] for one in run["where"]["class"]] == list(CLASSES)
    for c, one in enumerate(run["where"]["class"]):
        own = labels == c
        assert one["n"] == own.sum()
        assert one["base_accuracy"] == np.mean(base[own] == c)
        assert one["accuracy"] == np.mean(predicted[own] == c)
        assert one["tpr"] == np.mean((base[own] != c) & (predicted[own] == c))
        assert one["fpr"] == np.mean((base[own] == c) & (predicted[own] != c))


def test_the_tables_of_places_are_shown_if_asked_for(pipeline: Pipeline, resmem: Resmem) -> None:
    titles = ("distance to the nearest row", "the network's confidence", "memory's rows of the class")
    shown = resmem("analyze", pipeline.predictions, "--where").stdout
    plain = resmem("analyze", pipeline.predictions).stdout
    assert all(title in shown and title not in plain for title in titles)


# --- groups of classes


def test_coarse_to_fine_is_counted_as_by_hand(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("class,group\n" + "".join(f"{name},{group}\n" for name, group in GROUPS.items()))
    done = resmem("analyze", pipeline.predictions, "--groups", table, "--json")
    found = only_run(done)["coarse"]
    labels, base, predicted = answers(pipeline.predictions)
    errors = corrected = errors_in_group = corrected_in_group = 0
    for own, before, after in zip(labels, base, predicted, strict=True):
        same = GROUPS[CLASSES[own]] == GROUPS[CLASSES[before]]
        if before != own:
            errors += 1
            errors_in_group += same
            if after == own:
                corrected += 1
                corrected_in_group += same
    assert 0 < corrected_in_group < corrected <= errors
    assert (found["groups"], found["n_corrected"], found["n_base_errors"]) == (3, corrected, errors)
    assert found["corrected_in_group"] == corrected_in_group / corrected
    assert found["errors_in_group"] == errors_in_group / errors
    assert found["difference"] == pytest.approx(corrected_in_group / corrected - errors_in_group / errors)
    shown = resmem("analyze", pipeline.predictions, "--groups", table).stdout
    assert "coarse to fine, 3 groups of classes:" in shown
    assert f"{100 * corrected_in_group / corrected:.2f} % of {corrected}" in shown


def test_groups_that_leave_a_class_out_are_refused(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("ant,insect\n")
    done = resmem("analyze", pipeline.predictions, "--groups", table)
    assert_refused(done, 65, table, "class 1 (bee) has no group")
    assert_refused(resmem("analyze", pipeline.predictions, "--groups", tmp_path / "no.csv"), 66, "no.csv")


# --- one query


@pytest.mark.parametrize("query", [0, 17, N_TEST - 1])
def test_an_explained_query_has_all_its_neighbours_and_they_add_up(
    query: int, pipeline: Pipeline, resmem: Resmem
) -> None:
    [told] = only_run(resmem("analyze", pipeline.predictions, "--explain", query, "--json"))["explained"]
    names = ("rows", "labels", "distances", "weights", "contributions")
    parts = [part[query] for part in columns(pipeline.predictions, *(f"neighbors/{name}" for name in names))]
    scores, runner_up = columns(pipeline.predictions, "scores", "runner_up")
    labels, base, predicted = (column[query] for column in answers(pipeline.predictions))
    assert told["query"] == query
    assert told["label"] == CLASSES[labels]
    assert (told["base_predicted"], told["predicted"]) == (CLASSES[base], CLASSES[predicted])
    order = np.argsort(-np.abs(parts[-1]), kind="stable")
    keys = ("row", "label", "distance", "weight", "contribution")
    for place, near in zip(order, told["neighbors"], strict=True):
        row = [part[place].item() for part in parts]
        row[1] = CLASSES[row[1]]
        assert [near[key] for key in keys] == row
    network = softmax(classifier_arrays()["test_logits"], temperature=1.4)[query].astype(np.float64)
    wide, other = scores[query].astype(np.float64), runner_up[query]
    assert told["margin"] == pytest.approx(wide[predicted] - wide[other], abs=1e-12)
    assert told["base_margin"] == pytest.approx(network[predicted] - network[other], abs=2e-6)
    added = sum(near["contribution"] for near in told["neighbors"])
    assert told["base_margin"] + added == pytest.approx(told["margin"], abs=1e-12)


def test_in_logit_space_leads_are_of_logits(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    residuals, predictions = tmp_path / "r.h5", tmp_path / "p.h5"
    assert resmem("residualize", pipeline.train, "--space", "logit", "-o", residuals).status == 0
    memory = ("--index", pipeline.index, "--residuals", residuals, "-k", "20")
    assert resmem("predict", pipeline.test, *memory, "-o", predictions).status == 0
    run = only_run(resmem("analyze", predictions, "--explain", "3", "--explain", "8", "--json"))
    logits = classifier_arrays()["test_logits"].astype(np.float64)
    predicted, runner_up, scores = columns(predictions, "predicted", "runner_up", "scores")
    for told in [*run["explained"], *run["corrected"], *run["broken"]]:
        query = told["query"]
        winner, other = predicted[query], runner_up[query]
        assert told["base_margin"] == pytest.approx(logits[query, winner] - logits[query, other], abs=2e-5)
        ratio = np.log(scores[query].astype(np.float64))
        assert told["margin"] == pytest.approx(1.4 * (ratio[winner] - ratio[other]), abs=1e-9)
        assert told["margin"] >= 0


def test_an_explanation_is_shown_with_a_line_for_each_neighbour(pipeline: Pipeline, resmem: Resmem) -> None:
    shown = resmem("analyze", pipeline.predictions, "--explain", "5", "--examples", "0").stdout
    section = shown[shown.index("query 5, class ") :].splitlines()
    assert section[1].startswith("  lead of ")
    assert len([line for line in section if line.startswith("    row ")]) == 20
    assert all(", adds " in line for line in section if line.startswith("    row "))


@pytest.mark.parametrize("query", [N_TEST, -1, 10**12])
def test_queries_that_there_are_not_are_refused(query: int, pipeline: Pipeline, resmem: Resmem) -> None:
    done = resmem("analyze", pipeline.predictions, f"--explain={query}")
    assert_refused(done, 65, pipeline.predictions, "no such query to explain", f"0 to {N_TEST - 1}")


# --- the rows that did most


def test_influential_rows_are_those_of_the_largest_sums(pipeline: Pipeline, resmem: Resmem) -> None:
    run = only_run(resmem("analyze", pipeline.predictions, "--influence", "--json"))
    labels, base, predicted = answers(pipeline.predictions)
    rows, contributions = columns(pipeline.predictions, "neighbors/rows", "neighbors/contributions")
    corrected = (base != labels) & (predicted == labels)
    broken = (base == labels) & (predicted != labels)
    kinds = {"corrected": corrected, "broken": broken}
    credits = {kind: np.zeros(300) for kind in kinds}
    helped = {kind: np.zeros(300, int) for kind in kinds}
    for kind, chosen in kinds.items():
        for query in np.flatnonzero(chosen):
            for row, added in zip(rows[query], contributions[query], strict=True):
                credits[kind][row] += added
                helped[kind][row] += added > 0
    train_labels = classifier_arrays()["train_labels"]
    for kind, credit in credits.items():
        told = run["influence"][kind]
        assert len(told) == min(10, (credit > 0).sum())
        assert [one["credit"] for one in told] == pytest.approx(np.sort(credit)[::-1][: len(told)].tolist())
        for one in told:
            assert one["credit"] == pytest.approx(credit[one["row"]])
            assert one["n_corrected"] == helped["corrected"][one["row"]]
            assert one["n_broken"] == helped["broken"][one["row"]]
            assert one["label"] == CLASSES[train_labels[one["row"]]]
            assert one["id"] is None
    assert run["influence"]["corrected"]


def test_influence_is_shown_if_asked_for(pipeline: Pipeline, resmem: Resmem) -> None:
    title = "rows that corrected most"
    assert title in resmem("analyze", pipeline.predictions, "--influence").stdout
    assert title not in resmem("analyze", pipeline.predictions).stdout


# --- ids of the memory's rows


def named_memory(folder: Path, resmem: Resmem) -> tuple[Path, Path]:
    """Predictions with a memory whose rows have names, and its residuals."""
    arrays = classifier_arrays()
    for split, n in (("train", 300), ("test", N_TEST)):
        ids = np.array([f"{split}-{row:03d}" for row in range(n)])
        parts = {name: arrays[f"{split}_{name}"] for name in ("embeddings", "logits", "labels")}
        np.savez(folder / f"{split}.npz", **parts, ids=ids)
    for command in ("index", "residualize"):
        assert resmem(command, folder / "train.npz", "-o", folder / f"{command}.h5").status == 0
    memory = ("--index", folder / "index.h5", "--residuals", folder / "residualize.h5", "-k", "20")
    assert resmem("predict", folder / "test.npz", *memory, "-o", folder / "p.h5").status == 0
    return folder / "p.h5", folder / "residualize.h5"


def test_residuals_name_the_rows_of_the_memory(tmp_path: Path, resmem: Resmem) -> None:
    predictions, residuals = named_memory(tmp_path, resmem)
    options = (predictions, "--explain", "4", "--residuals", residuals)
    run = only_run(resmem("analyze", *options, "--json"))
    assert run["explained"][0]["id"] == "test-004"
    told = [*run["explained"], *run["corrected"], *run["broken"]]
    rows = [near for example in told for near in example["neighbors"]]
    rows += [row for kind in run["influence"].values() for row in kind]
    assert rows
    assert all(row["id"] == f"train-{row['row']:03d}" for row in rows)
    assert f"row {rows[0]['row']} ({rows[0]['id']})" in resmem("analyze", *options).stdout
    nameless = only_run(resmem("analyze", predictions, "--json"))
    assert {near["id"] for one in nameless["corrected"] for near in one["neighbors"]} == {None}


def test_other_residuals_than_those_predicted_with_are_refused(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    other = tmp_path / "r.h5"
    assert resmem("residualize", pipeline.train, "-T", "1", "-o", other).status == 0
    done = resmem("analyze", pipeline.predictions, "--residuals", other)
    assert_refused(done, 65, other, f"not the residuals that {pipeline.predictions} was predicted with")
    assert_refused(resmem("analyze", pipeline.predictions, "--residuals", pipeline.index), 65, pipeline.index)


# --- tuned queries


def test_queries_tuned_on_are_left_out(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> None:
    [rows] = columns(pipeline.tuning, "rows")
    labels, base, predicted = answers(pipeline.predictions)
    kept = np.setdiff1d(np.arange(N_TEST), rows)
    assert 0 < len(kept) < N_TEST
    done = resmem("analyze", pipeline.predictions, "--tuning", pipeline.tuning, "--json")
    run = only_run(done)
    gain = compare_answers(labels[kept], base[kept], predicted[kept])
    assert (run["n"], run["accuracy"], run["n_corrected"]) == (len(kept), gain.accuracy, gain.n_corrected)
    queries = [one["query"] for kind in ("corrected", "broken") for one in run[kind]]
    assert queries
    assert not set(queries) & set(rows.tolist())
    [notice] = done.json["notices"]
    assert f"{len(rows)} of {N_TEST} queries, on which settings were tuned, are left out" in notice
    # Predicted with the tuning, the file says so itself.
    marked = tmp_path / "p.h5"
    memory = ("--index", pipeline.index, "--residuals", pipeline.residuals, "--tuning", pipeline.tuning)
    assert resmem("predict", pipeline.test, *memory, "-o", marked).status == 0
    assert only_run(resmem("analyze", marked, "--json"))["n"] == len(kept)


def test_a_tuned_query_can_still_be_explained(pipeline: Pipeline, resmem: Resmem) -> None:
    [rows] = columns(pipeline.tuning, "rows")
    options = ("--tuning", pipeline.tuning, "--explain", rows[0], "--json")
    [told] = only_run(resmem("analyze", pipeline.predictions, *options))["explained"]
    assert told["query"] == rows[0]


def test_where_all_queries_were_tuned_on_it_says_so(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    grid = ("-k", "5,20", "--sigma", "0.3,1", "-T", "1.4", "--no-refine")
    tuning = tmp_path / "t.h5"
    files = ("--index", pipeline.index, "--train", pipeline.train)
    assert resmem("tune", pipeline.test, *files, *grid, "-o", tuning).status == 0
    done = resmem("analyze", pipeline.predictions, "--tuning", tuning, "--json")
    assert only_run(done)["n"] == N_TEST
    assert "the gain is optimistic" in done.json["notices"][0]


# --- several files


def test_several_files_are_averaged(
    tmp_path: Path, pipeline: Pipeline, compared: Path, resmem: Resmem
) -> None:
    paths = [compared]
    for k in (5, 50):
        memory = ("--index", pipeline.index, "--residuals", pipeline.residuals, "-k", k, "--compare")
        paths.append(tmp_path / f"{k}.h5")
        assert resmem("predict", pipeline.test, *memory, "-o", paths[-1]).status == 0
    done = resmem("analyze", *paths, "--json")
    runs, averaged = done.result["runs"], done.result["aggregate"]
    for name in ("base_accuracy", "accuracy", "gain", "tpr", "fpr"):
        values = [run[name] for run in runs]
        expected = {"mean": np.mean(values), "std": np.std(values, ddof=1), "n": 3}
        assert averaged[name] == pytest.approx(expected)
    values = [next(one["nll"] for one in run["methods"] if one["name"] == "kNN") for run in runs]
    assert averaged["kNN: nll"]["mean"] == pytest.approx(np.mean(values))
    assert averaged["kNN: nll"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert "mean ± std" in resmem("analyze", *paths).stdout
    assert resmem("analyze", compared, "--json").result["aggregate"] is None


def test_of_several_files_every_table_and_section_names_its_own(
    tmp_path: Path, pipeline: Pipeline, compared: Path, resmem: Resmem
) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("".join(f"{name},{group}\n" for name, group in GROUPS.items()))
    paths = (compared, pipeline.predictions)
    options = ("--compare", "--where", "--explain", "3", "--groups", table)
    assert resmem("analyze", *paths, *options).status == 65
    shown = resmem("analyze", *paths, *options[1:]).stdout
    lines = shown.splitlines()
    for path in paths:
        assert lines.count(f"{path}:") == 1
        for start in (f"query 3 in {path}, class ", f"coarse to fine in {path}, ", f"corrected in {path}, "):
            assert len([line for line in lines if line.startswith(start)]) == 1
    alone = resmem("analyze", compared, *options).stdout
    assert str(compared) not in "\n".join(alone.splitlines()[1:])


# --- figures and the page


class Page(HTMLParser):
    """Collects what a page loads, and whether its tags are closed in order."""

    VOID = ("meta", "br", "img", "link", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data") or (name.endswith("href") and tag != "a"):
                self.loads.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_parses_and_loads_nothing(
    tmp_path: Path, pipeline: Pipeline, compared: Path, resmem: Resmem
) -> None:
    page = tmp_path / "page.html"
    done = resmem("analyze", compared, "--tuning", pipeline.tuning, "--explain", "2", "--html", page)
    assert done.status == 0, done.stderr
    assert f"wrote {page}" in done.stderr
    parsed = Page()
    parsed.feed(page.read_text(encoding="utf-8"))
    parsed.close()
    assert parsed.open == []
    assert not parsed.tags & {"script", "link", "iframe", "object", "embed"}
    assert all(load.startswith(("data:", "#")) for load in parsed.loads)
    for words in ("kNN-LM 0.4", "Tuning", "points of the grid", "Notices", "dog"):
        assert words in parsed.text
    assert "svg" in parsed.tags


def test_every_figure_is_written_as_svg_and_png(
    tmp_path: Path, pipeline: Pipeline, compared: Path, resmem: Resmem
) -> None:
    folder = tmp_path / "new" / "figures"
    done = resmem("analyze", compared, "--tuning", pipeline.tuning, "--figures", folder)
    assert done.status == 0, done.stderr
    names = {path.stem for path in folder.glob("*.svg")}
    assert names == {path.stem for path in folder.glob("*.png")}
    assert len(names) >= 4
    assert len(list(folder.iterdir())) == 2 * len(names)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))
    assert all("<svg" in path.read_text() for path in folder.glob("*.svg"))


def test_the_same_files_give_the_same_bytes_twice(
    tmp_path: Path, pipeline: Pipeline, compared: Path, resmem: Resmem
) -> None:
    for turn in ("1", "2"):
        (tmp_path / turn).mkdir()
        outputs = ("-o", tmp_path / turn / "r.h5", "--html", tmp_path / turn / "p.html")
        more = ("--figures", tmp_path / turn / "f", "--tuning", pipeline.tuning)
        assert resmem("analyze", compared, pipeline.predictions, *outputs, *more).status == 0
    first = [path for path in sorted((tmp_path / "1").rglob("*")) if path.is_file()]
    assert len(first) > 6
    for path in first:
        other = tmp_path / "2" / path.relative_to(tmp_path / "1")
        assert path.read_bytes() == other.read_bytes(), path


# --- the report artifact


def test_the_document_is_the_report_without_folders(
    tmp_path: Path, pipeline: Pipeline, compared: Path, resmem: Resmem
) -> None:
    output = tmp_path / "r.h5"
    options = ("--tuning", pipeline.tuning, "--explain", "1", "-o", output, "--json")
    done = resmem("analyze", compared, pipeline.predictions, *options)
    [document] = columns(output, "document")
    text = document.tobytes().decode()
    told = json.loads(text)
    assert set(told) == {"runs", "aggregate", "tuning", "notices"}
    assert told["aggregate"] == done.result["aggregate"]
    for ours, theirs, path in zip(
        told["runs"], done.result["runs"], (compared, pipeline.predictions), strict=True
    ):
        assert ours == {**theirs, "predictions": path.name}
    assert told["tuning"]["path"] == pipeline.tuning.name
    [k] = columns(pipeline.tuning, "grid/k")
    assert told["tuning"]["grid"]["k"] == k.tolist()
    assert len(told["notices"]) == len(done.json["notices"]) == 2
    for folder in (compared.parent, pipeline.test.parent, tmp_path):
        assert str(folder) not in text
        assert str(folder).encode() not in output.read_bytes()


def test_the_report_holds_every_method_and_its_lineage(
    tmp_path: Path, pipeline: Pipeline, compared: Path, resmem: Resmem
) -> None:
    output = tmp_path / "r.h5"
    options = ("--tuning", pipeline.tuning, "-o", output, "--json")
    result = resmem("analyze", pipeline.predictions, compared, *options).result
    methods = result["runs"][1]["methods"]
    runs, names, quality = columns(output, "methods/runs", "methods/names", "methods/quality")
    assert runs.tolist() == [1] * len(methods)
    assert [name.decode() for name in names] == [one["name"] for one in methods]
    expected = [[one[name] for name in (*QUALITIES, "gain", "p_value")] for one in methods]
    assert quality.tolist() == expected
    with open_artifact(output) as file:
        made_from = [(record.role, record.file) for record in file.header.inputs]
    assert made_from == [
        ("predictions", pipeline.predictions.name),
        ("predictions", compared.name),
        ("tuning", pipeline.tuning.name),
    ]


# --- outputs that can't be


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("option", ["-o", "--html"])
@pytest.mark.parametrize("read", ["predictions", "tuning", "residuals", "groups"])
def test_no_output_replaces_an_input(
    read: str, option: str, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    files = {name: tmp_path / f"{name}.h5" for name in ("predictions", "tuning", "residuals")}
    for name, path in files.items():
        path.write_bytes(getattr(pipeline, name).read_bytes())
    files["groups"] = tmp_path / "groups.csv"
    files["groups"].write_text("".join(f"{name},{group}\n" for name, group in GROUPS.items()))
    before = snapshot(tmp_path)
    given = [part for name in ("tuning", "residuals", "groups") for part in (f"--{name}", files[name])]
    done = resmem("analyze", files["predictions"], *given, option, files[read])
    assert_refused(done, 2, files[read], "the output is also an input")
    assert snapshot(tmp_path) == before


def test_nothing_is_written_where_one_of_the_outputs_can_not_be(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    (tmp_path / "old.html").write_text("old")
    report, old = tmp_path / "r.h5", tmp_path / "old.html"
    call = ("analyze", pipeline.predictions, "-o", report)
    assert_refused(resmem(*call, "--html", old, "--no-clobber"), 74, old, "--no-clobber")
    assert_refused(resmem(*call, "--html", tmp_path / "no" / "p.html"), 74, "p.html")
    assert_refused(resmem(*call, "--html", report), 2, "--output and --html are one file")
    assert_refused(resmem(*call, "--figures", old), 74, old)
    assert snapshot(tmp_path) == {str(old): b"old"}


# --- JSON


def test_json_tells_all_whatever_is_shown(pipeline: Pipeline, compared: Path, resmem: Resmem) -> None:
    shown = resmem("analyze", compared, "--compare", "--where", "--influence", "--json").json
    plain = resmem("analyze", compared, "--json").json
    assert shown == plain
    assert set(plain) == {"resmem", "command", "output", "result", "notices"}
    assert set(plain["result"]) == {"runs", "aggregate"}
    run = plain["result"]["runs"][0]
    sections = {"methods", "where", "coarse", "corrected", "broken", "influence", "explained"}
    assert sections <= set(run)
