"""`resmem plan`: its contract, its tables, and the figure of its simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Resmem

from resmem_cli import MemorySize, PlanConfig, SimulationConfig, plan_memory
from resmem_cli.plots import study_figures
from resmem_cli.scaling.costs import planned_steps
from resmem_cli.scaling.sizes import Machines
from resmem_cli.scaling.task_times import TaskTime, append_task_times

OWN = ("plan", "--rows", "100M", "--dimensions", "512", "--classes", "32128")
TABLES = ["artifacts", "steps", "query", "limits"]
SIMULATED = ("--simulate", "--workers", "2,8", "--repetitions", 20)


def rows_of(table: dict[str, Any]) -> list[dict[str, Any]]:
    names = [column["name"] for column in table["columns"]]
    return [dict(zip(names, row, strict=True)) for row in table["rows"]]


@pytest.mark.parametrize("name", ["cifar100", "imagenet", "10m", "100m", "1.6g"])
def test_a_size_known_by_name(name: str, tmp_path: Path, resmem: Resmem) -> None:
    done = resmem("plan", name, cwd=tmp_path)
    assert done.status == 0, done.stderr
    assert done.stderr == ""
    for title in ("Artifacts of", "Steps on", "One query of"):
        assert any(line.startswith(title) for line in done.stdout.splitlines())
    assert list(tmp_path.iterdir()) == []


def test_json_has_the_promised_keys(resmem: Resmem) -> None:
    document = resmem(*OWN, "-k", 50, "--machines", 4, "--machine-memory", "64G", "--json").json
    assert document["command"] == "plan"
    assert document["output"] is None
    result = document["result"]
    assert list(result) == ["size", "machines", "shards", "fits", "tables", "figures"]
    assert [table["name"] for table in result["tables"]] == TABLES
    assert result["size"]["rows"] == 10**8
    assert (result["size"]["top"], result["size"]["kind"]) == (128, "ivf-pq")
    assert (result["machines"]["count"], result["machines"]["memory"]) == (4, 64 << 30)
    artifacts = {row["artifact"]: row["size"] for row in rows_of(result["tables"][0])}
    assert artifacts["residuals, 128 entries"] == pytest.approx(10**8 * 516, rel=0.01)
    assert artifacts["or residuals, all entries"] == pytest.approx(10**8 * 4 * 32_128, rel=0.01)
    steps = rows_of(result["tables"][1])
    assert [row["step"] for row in steps] == [
        "residualize", "index-learn", "index-add", "index-measure", "predict", "all",
    ]  # fmt: skip
    assert steps[-1]["time"] == pytest.approx(sum(row["time"] for row in steps[:-1]))
    assert result["shards"] == max(row["tasks"] or 0 for row in steps)


def test_embed_is_planned_where_its_operations_are_given(resmem: Resmem) -> None:
    without, given, fast = (
        resmem("plan", "10m", *more, "--json").result["tables"][1]
        for more in ((), ("--flops-per-row", "120M"), ("--flops-per-row", "120M", "--embed-rate", "100T"))
    )
    assert any("--flops-per-row" in note for note in without["notes"])
    assert not any("--flops-per-row" in note for note in given["notes"])
    embed = rows_of(given)[0]
    assert (embed["step"], embed["FLOP"]) == ("embed", 120e6 * 1e7)
    assert embed["time"] > rows_of(fast)[0]["time"]


def test_how_far_the_exact_index_may_be_larger_is_told(resmem: Resmem) -> None:
    note = "from none (3.1 GiB in all) to 512 (5.5 GiB)"
    half = " ".join(resmem("plan", "imagenet", "--storage", "float16").stdout.split())
    assert note in half
    assert "coordinates" not in resmem("plan", "cifar100").stdout


def test_where_the_budget_breaks_is_told(resmem: Resmem) -> None:
    arguments = ("plan", "1.6g", "--machines", 1, "--machine-memory", "64G", "--top", "all")
    result = resmem(*arguments, "--json").result
    assert result["fits"] is False
    broken = {row["what"]: row["remedy"] for row in rows_of(result["tables"][3])}
    assert "--top 128" in broken["all artifacts"]
    assert {"codes that a search reads", "index-add"} <= set(broken)
    text = resmem(*arguments).stdout
    assert "Where the budget breaks" in text
    assert "Everything fits" in resmem("plan", "cifar100").stdout


def test_a_simulation_has_its_tables_and_its_figure(tmp_path: Path, resmem: Resmem) -> None:
    arguments = (*OWN, *SIMULATED, "--figures", "figures")
    result = resmem(*arguments, "--json", cwd=tmp_path).result
    assert [table["name"] for table in result["tables"]] == [*TABLES, "simulation", "simulation_steps"]
    whole, by_step = (rows_of(table) for table in result["tables"][4:])
    assert [row["workers"] for row in whole] == [2, 8]
    for row in whole:
        assert row["5 %"] <= row["median"] <= row["95 %"]
        assert row["efficiency"] == pytest.approx(row["ideal"] / row["median"])
        assert 0 < row["busy"] <= 1
    assert whole[0]["median"] > whole[1]["median"]
    assert [row["step"] for row in by_step] == [
        "residualize", "index-learn", "index-add", "index-measure", "predict",
    ]  # fmt: skip
    assert all(row["2 workers"] >= row["8 workers"] * 0.9 > 0 for row in by_step)
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["plan_simulation.png", "plan_simulation.svg"]
    assert result["figures"] == ["figures/plan_simulation.svg", "figures/plan_simulation.png"]
    assert resmem(*arguments, "--json", cwd=tmp_path).result == result
    other = resmem(*arguments, "--seed", 1, "--json", cwd=tmp_path).result
    assert other["tables"][4] != result["tables"][4]
    assert resmem(*arguments, "--no-clobber", cwd=tmp_path).status == 74


def test_the_figure_shows_the_table(resmem: Resmem) -> None:
    result = resmem(*OWN, *SIMULATED, "--json").result
    tables = {table["name"]: table for table in result["tables"]}
    [drawn] = study_figures("plan", {"tables": tables}).values()
    top, bottom = drawn.figure.axes
    lines = {line.get_label(): line for line in top.lines}
    for name in ("ideal", "median"):
        hours = [row[name] / 3600 for row in rows_of(tables["simulation"])]
        assert lines[name].get_ydata() == pytest.approx(hours)
    assert len(bottom.patches) == 2 * 5
    assert study_figures("plan", {"tables": {}}) == {}


def test_measured_seconds_of_a_task_replace_the_estimate(resmem: Resmem) -> None:
    calm = ("--spread", 0, "--slow-share", 0, "--hours-to-failure", "inf")
    more = ("--task-seconds", "residualize=100,index-learn=0", "--disk-bandwidth", "1000T")
    result = resmem(*OWN, *SIMULATED, *calm, *more, "--shared-bandwidth", "1000T", "--json").result
    residualize, learn = rows_of(result["tables"][5])[:2]
    for count in (2, 8):
        rounds = -(-residualize["tasks"] // count)
        assert residualize[f"{count} workers"] == pytest.approx(100 * rounds, rel=0.01)
        assert learn[f"{count} workers"] == pytest.approx(0, abs=0.1)


def test_times_of_real_tasks_replace_estimates(tmp_path: Path, resmem: Resmem) -> None:
    part = MemorySize(10**5, 512, 32_128, 50, 1_000, top=128, kind="ivf-pq")
    planned = next(one for one in planned_steps(part, Machines(cores=1)) if one.name == "index-add")
    seconds = [factor * planned.machine_seconds for factor in (3.8, 3.9, 4.0, 4.1, 4.2)]
    times = [TaskTime("index-add", own, 1, part) for own in seconds]
    append_task_times(tmp_path / "times.jsonl", times)
    given = (*OWN, *SIMULATED, "--task-times", "times.jsonl", "--json")
    tables = {table["name"]: table for table in resmem(*given, cwd=tmp_path).result["tables"]}
    assert list(tables) == [*TABLES, "simulation", "simulation_steps", "task_times"]
    told = {row["step"]: row for row in rows_of(tables["task_times"])}
    add = told["index-add"]
    assert (add["measured"], add["fixed"]) == (5, 0)
    assert add["factor"] == pytest.approx(4)
    assert add["simulated"] == pytest.approx(4 * add["planned"])
    assert all(row["measured"] == 0 for name, row in told.items() if name != "index-add")
    used = {row["step"]: row["computes a task"] for row in rows_of(tables["simulation_steps"])}
    assert used == {name: row["simulated"] for name, row in told.items()}
    # They took unequally long, by 4 %; what the user says is taken before that.
    assert "exp(0.0354 z)" in tables["simulation"]["notes"][0]
    own = resmem(*given, "--spread", 0.5, "--task-seconds", "index-add=1", cwd=tmp_path).result["tables"]
    assert "exp(0.5 z)" in own[4]["notes"][0]
    assert {row["step"]: row for row in rows_of(own[5])}["index-add"]["computes a task"] == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--rows", "0"), "--rows: no number of things"),
        (("--rows", "many"), "--rows: no number of things"),
        (("--machines", "0"), "--machines out of range"),
        (("--cores", "0"), "--cores out of range"),
        (("--machine-memory", "x"), "no size of memory"),
        (("--top", "0"), "--top: no number"),
        (("--top", "40000"), "--top out of range"),
        (("--kind", "factory"), "no kind of index that can be planned"),
        (("--kind", "exact", "--lists", "5"), "found lists"),
        (("--hours", "nan"), "--hours out of range"),
        (("--figures", "f"), "give --simulate too"),
        (("--simulate", "--workers", "0"), "--workers out of range"),
        (("--simulate", "--workers", "x"), "--workers: no list of numbers"),
        (("--simulate", "--workers", "1:1000:900"), "--workers: too many values"),
        (("--simulate", "--repetitions", "0"), "--repetitions out of range"),
        (("--simulate", "--seed", "-1"), "--seed out of range"),
        (("--task-times", "t.jsonl"), "--task-times is for a simulation"),
        (("--task-seconds", "predict=1"), "--task-seconds is for a simulation"),
        (("--simulate", "--task-seconds", "x"), "--task-seconds: no seconds of steps"),
        (("--simulate", "--task-seconds", "x=3"), "--task-seconds: no such step"),
        (("--simulate", "--task-seconds", "predict=-1"), "--task-seconds out of range"),
        (("--simulate", "--hours-to-failure", "1e-6"), "tasks are lost faster than they are done"),
        (("--simulate", "--task-minutes", "1e-9"), "too much to simulate"),
    ],
)
def test_bad_options_end_in_one_line_and_leave_no_file(
    more: tuple[str, ...], words: str, tmp_path: Path, resmem: Resmem
) -> None:
    done = resmem(*OWN, *more, cwd=tmp_path)
    assert done.status == 2, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert words in line
    assert list(tmp_path.iterdir()) == []


def test_times_that_are_missing(tmp_path: Path, resmem: Resmem) -> None:
    done = resmem(*OWN, "--simulate", "--task-times", "none.jsonl", cwd=tmp_path)
    assert done.status == 66
    assert done.stderr.startswith("resmem: error: none.jsonl: no such file")


def test_a_file_is_no_folder_for_figures(tmp_path: Path, resmem: Resmem) -> None:
    (tmp_path / "f").write_text("mine")
    done = resmem(*OWN, "--simulate", "--figures", "f", cwd=tmp_path)
    assert done.status == 74
    assert (tmp_path / "f").read_text() == "mine"


def test_from_python() -> None:
    size = MemorySize(10**6, 64, 100, kind="ivf-pq")
    config = PlanConfig(size, simulation=SimulationConfig(workers=(1, 3), repetitions=5))
    result = plan_memory(config)
    assert result.summary["fits"]
    assert [row[0] for row in result.summary["tables"][4]["rows"]] == [1, 3]
