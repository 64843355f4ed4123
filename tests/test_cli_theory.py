"""`resmem theory`: its contract, its tables, and figures that show the tables' numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Resmem

from resmem_cli import TheoryConfig, open_artifact, theory
from resmem_cli.linear_regression import rates
from resmem_cli.linear_regression.illustration import illustrate
from resmem_cli.plots import study_figures, svg_text
from resmem_cli.plots.theory import power_of_ten

SMALL = (
    "--dimensions", "1,3", "--norm-bounds", "0,0.6,1.5", "--rows", "1,2,8,64",
    "--repetitions", 4, "--test-points", 30,
)  # fmt: skip
FIGURES = ["theory_risk", "theory_terms", "theory_distance", "theory_illustration"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    config = TheoryConfig((2, 5), (0.3, 0.9), (1, 2, 4, 8, 16, 32, 64, 128), 12, 100)
    result = theory(output=tmp_path_factory.mktemp("theory") / "theory.h5", config=config)
    return {table["name"]: table for table in result.summary["tables"]}


def rows_of(table: Mapping[str, Any], **chosen: Any) -> list[dict[str, Any]]:
    names = [column["name"] for column in table["columns"]]
    rows = [dict(zip(names, row, strict=True)) for row in table["rows"]]
    return [row for row in rows if all(row[name] == value for name, value in chosen.items())]


def test_it_writes_its_files_and_shows_its_tables(tmp_path: Path, resmem: Resmem) -> None:
    done = resmem("theory", *SMALL, "--markdown", "t.md", "--figures", "figures", cwd=tmp_path)
    assert done.status == 0, done.stderr
    assert done.stderr == ""
    for title in ("Test risk", "Distance to", "Crossings", "Slopes of"):
        assert any(line.startswith(title) for line in done.stdout.splitlines())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "t.md", "theory.h5"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(
        f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")
    )
    assert (tmp_path / "t.md").read_text().count("### ") == 4
    assert resmem("verify", tmp_path / "theory.h5").status == 0
    info = resmem("info", tmp_path / "theory.h5", "--json").result
    assert info["format"] == "resmem.study"
    assert info["parameters"] == {
        "study": "theory", "dimensions": [1, 3], "norm_bounds": [0.0, 0.6, 1.5], "rows": [1, 2, 8, 64],
        "repetitions": 4, "test_points": 30, "seed": 0,
    }  # fmt: skip


def test_json_has_the_tables_the_artifact_holds(tmp_path: Path, resmem: Resmem) -> None:
    document = resmem("theory", *SMALL, "-o", tmp_path / "a.h5", "--json").json
    assert document["command"] == "theory"
    result = document["result"]
    assert list(result) == ["seconds", "tables", "figures"]
    assert [table["name"] for table in result["tables"]] == ["risk", "distance", "crossings", "slopes"]
    risk = result["tables"][0]
    assert [column["name"] for column in risk["columns"]] == [
        "d", "L", "n", "floor (1 − L)²", "ERM", "1-NN", "ResMem", "T1", "T2", "3 (T1 + T2) / ResMem",
    ]  # fmt: skip
    assert len(risk["rows"]) == 2 * 3 * 4
    [row] = rows_of(risk, d=3, L=0.6, n=64)
    with open_artifact(tmp_path / "a.h5") as artifact:
        chosen = artifact.read("cells/tables") == b"risk"
        columns, values = artifact.read("cells/columns")[chosen], artifact.read("cells/values")[chosen]
    assert row["ResMem"]["mean"] in values[columns == b"ResMem"]
    assert row["ResMem"]["n"] == 4


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, resmem: Resmem) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert resmem("theory", *SMALL, "--seed", seed, "-o", tmp_path / f"{name}.h5").status == 0
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert (tmp_path / "a.h5").read_bytes() != (tmp_path / "c.h5").read_bytes()


def test_figures_of_the_same_tables_are_the_same(tables: Mapping[str, Any]) -> None:
    first, second = (
        {name: svg_text(one.figure) for name, one in study_figures("theory", {"tables": tables}).items()}
        for _ in range(2)
    )
    assert first == second
    assert len(first) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--dimensions", "0"), "--dimensions out of range"),
        (("--dimensions", "2.5"), "--dimensions: not a whole number"),
        (("--norm-bounds", "-0.1"), "--norm-bounds out of range"),
        (("--norm-bounds", "big"), "--norm-bounds: no list of numbers"),
        (("--rows", "0,8"), "--rows out of range"),
        (("--repetitions", "0"), "--repetitions out of range"),
        (("--test-points", "0"), "--test-points out of range"),
        (("--seed", "-1"), "--seed out of range"),
    ],
)
def test_bad_options_end_in_one_line_and_leave_no_file(
    options: tuple[str, ...], words: str, tmp_path: Path, resmem: Resmem
) -> None:
    done = resmem("theory", *options, cwd=tmp_path)
    assert done.status == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert words in line
    assert list(tmp_path.iterdir()) == []


def test_what_can_t_be_written_is_refused_before_anything_is_computed(tmp_path: Path, resmem: Resmem) -> None:
    (tmp_path / "theory.h5").write_text("mine")
    (tmp_path / "file").write_text("no folder")
    for options in (["--no-clobber"], ["-o", "missing/t.h5"], ["-o", "t.h5", "--figures", "file"]):
        done = resmem("theory", *options, cwd=tmp_path)  # the default run, which would take half a minute
        assert done.status == 74
        assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "theory.h5"]
    assert (tmp_path / "theory.h5").read_text() == "mine"


@pytest.mark.parametrize(
    "config",
    [
        TheoryConfig((2,), (0.5,), (8,), repetitions=1, test_points=5),
        TheoryConfig((4,), (0.0,), (1, 2), repetitions=2, test_points=5),
        TheoryConfig((1,), (1.0, 2.0), (1, 4, 16), repetitions=3, test_points=5),
        TheoryConfig((1, 2), (0, 0.1, 0.2, 0.5, 0.9, 1.5), (3, 9), repetitions=2, test_points=5),
    ],
)
def test_small_and_odd_grids_have_tables_and_figures(config: TheoryConfig, tmp_path: Path) -> None:
    result = theory(output=tmp_path / "t.h5", config=config)
    tables = {table["name"]: table for table in result.summary["tables"]}
    drawn = study_figures("theory", {"tables": tables})
    assert {"theory_risk", "theory_distance"} <= set(drawn) <= set(FIGURES)


def test_repeated_values_count_once(tmp_path: Path) -> None:
    config = TheoryConfig((2, 2), (0.5, 0.5), (8, 4, 8), repetitions=2, test_points=5)
    risk = theory(output=tmp_path / "t.h5", config=config).summary["tables"][0]
    assert [row[:3] for row in risk["rows"]] == [[2, 0.5, 4], [2, 0.5, 8]]


# --- the tables


def test_slopes_stand_beside_the_theorem_s_and_the_true_exponents(tables: Mapping[str, Any]) -> None:
    table = tables["slopes"]
    [distance] = rows_of(table, what="E[Z_n]", d=5)
    assert (distance["theorem"], distance["true"]) == (-1 / 5, -2 / 5)
    assert distance["slope, large n"]["value"] == pytest.approx(-0.43, abs=0.05)
    n = np.array([8.0, 16, 32, 64, 128])
    slope = np.polyfit(np.log(n), np.log(rates.resmem_bound(n, 2, 0.9)), 1)[0]
    [resmem_row] = rows_of(table, what="ResMem", d=2, L=0.9)
    assert resmem_row["its bound, large n"] == pytest.approx(slope)
    assert resmem_row["slope, large n"]["low"] < resmem_row["slope, large n"]["value"] < -0.8
    [t1] = rows_of(table, what="T1", d=5, L=0.3)
    assert (t1["theorem"], t1["true"]) == (-2 / 3, -1)
    assert "1 to 8; large n: 8 to 128" in table["notes"][0]


def test_crossings_say_plainly_where_there_is_none(tables: Mapping[str, Any]) -> None:
    table = tables["crossings"]
    for row in rows_of(table, what="ResMem below 1-NN"):
        assert row["n"] is None
        assert row["in this range"] == "below from n = 1 on"
    assert any("do not cross" in note for note in table["notes"])
    [far] = rows_of(table, what="1-NN below ERM", d=5, L=0.9)
    assert far["n"] is None
    assert far["in this range"] == "not below at n = 128"
    assert far["n by the limits"] == pytest.approx(172_000, rel=0.01)
    [near] = rows_of(table, what="1-NN below ERM", d=2, L=0.3)
    assert 2 < near["n"]["value"] < 8


def test_risks_and_terms_agree_with_one_another(tables: Mapping[str, Any]) -> None:
    for row in rows_of(tables["risk"]):
        assert row["T2"]["mean"] == pytest.approx((1 - row["L"]) ** 2 * row["1-NN"]["mean"])
        ratio = 3 * (row["T1"]["mean"] + row["T2"]["mean"]) / row["ResMem"]["mean"]
        assert row["3 (T1 + T2) / ResMem"] == pytest.approx(ratio)
        assert ratio >= 1
        assert row["floor (1 − L)²"] == pytest.approx((1 - row["L"]) ** 2)


def test_with_no_norm_allowed_resmem_and_the_nearest_neighbour_are_one(tmp_path: Path) -> None:
    result = theory(output=tmp_path / "t.h5", config=TheoryConfig((2,), (0.0,), (4, 16), 3, 20))
    risk, _, crossings, slopes = result.summary["tables"]
    assert all(row["ResMem"] == row["1-NN"] for row in rows_of(risk))
    [same] = rows_of(crossings, what="ResMem below 1-NN")
    assert same["in this range"] == "the same"
    assert {row["what"] for row in rows_of(slopes)} == {"E[Z_n]", "1-NN, T2", "ResMem"}


# --- the figures


def test_figures_show_the_tables_numbers(tables: Mapping[str, Any]) -> None:
    numbers = illustrate(seed=0)
    drawn = study_figures("theory", {"tables": tables, "illustration": numbers})
    assert list(drawn) == FIGURES
    panels = drawn["theory_risk"].figure.axes
    assert [axes.get_title() for axes in panels] == [
        "d = 2, L = 0.3", "d = 2, L = 0.9", "d = 5, L = 0.3", "d = 5, L = 0.9",
    ]  # fmt: skip
    lines = {line.get_label(): line for line in panels[3].lines}
    for name in ("ERM", "1-NN", "ResMem"):
        expected = [(row["n"], row[name]["mean"]) for row in rows_of(tables["risk"], d=5, L=0.9)]
        np.testing.assert_allclose(lines[name].get_xydata(), expected)
    assert lines["floor"].get_ydata()[0] == pytest.approx(0.01)
    circles = [line for line in panels[0].lines if line.get_markersize() == 7]
    crossings = [
        row["n"]["value"]
        for row in rows_of(tables["crossings"], d=2, L=0.3)
        if row["what"].endswith("ERM") and row["n"] is not None
    ]
    np.testing.assert_allclose([circle.get_xdata()[0] for circle in circles], crossings)
    [axes] = drawn["theory_distance"].figure.axes
    points = [line for line in axes.lines if line.get_label() == "d = 5"]
    means = [row["E[Z_n]"]["mean"] for row in rows_of(tables["distance"], d=5)]
    np.testing.assert_allclose(points[0].get_ydata(), means)
    bottom = drawn["theory_illustration"].figure.axes[2]
    np.testing.assert_array_equal(bottom.lines[0].get_ydata(), numbers["grid_memory"])


def test_the_theorem_s_slope_passes_through_the_middle(tables: Mapping[str, Any]) -> None:
    drawn = study_figures("theory", {"tables": tables})
    assert "theory_illustration" not in drawn
    lines = {line.get_label(): line for line in drawn["theory_terms"].figure.axes[0].lines}
    rows = rows_of(tables["risk"], d=2, L=0.3)
    bound = dict(lines["T1, theorem's slope"].get_xydata().tolist())
    assert bound[16] == pytest.approx(rows[4]["T1"]["mean"])
    assert bound[128] / bound[16] == pytest.approx(8 ** (-2 / 3))
    limit = dict(lines["T2, limit"].get_xydata().tolist())
    assert limit[64] == pytest.approx(0.49 * rates.nearest_limit(np.array(64.0), 2) / 2)


def test_powers_of_ten_are_written_without_formulas() -> None:
    assert [power_of_ten(10.0**e) for e in (-12, -1, 0, 1, 4)] == ["10⁻¹²", "10⁻¹", "1", "10", "10⁴"]
