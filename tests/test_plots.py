"""Figures and page of a report: the plotted numbers are the report's, whatever it lacks or is named."""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.text import Text

from resmem_cli.errors import UsageError
from resmem_cli.plots import figure_files, figures, html_page, style, svg_text
from resmem_cli.plots.comparison import reliability_methods
from resmem_cli.plots.labels import clean, interval, known, number, percent, points, probability, shorten
from resmem_cli.plots.tuning import cell_edges, complete_product, line_through_best

RUN_FIGURES = [
    "methods", "reliability", "coarse",
    "where_distance", "where_confidence", "where_frequency", "where_class",
]  # fmt: skip
TUNING_FIGURES = ["sensitivity", "heat_map", "grid_cloud"]
PARAMETERS = ("k", "sigma", "temperature", "strength")


def make_group(rng, label):
    n = int(rng.integers(40, 400))
    base, up, down = (
        int(n * rng.uniform(0.4, 0.7)),
        int(n * rng.uniform(0, 0.12)),
        int(n * rng.uniform(0, 0.08)),
    )
    return {
        "group": label, "n": n, "base_accuracy": base / n, "accuracy": (base + up - down) / n,
        "gain": (up - down) / n, "tpr": up / n, "fpr": down / n,
    }  # fmt: skip


def make_methods(rng, base):
    names = [("base", "base"), ("kNN", "knn")]
    names += [(f"kNN-LM {weight}", "knn-lm") for weight in (0.2, 0.4, 0.5, 0.6, 0.8)]
    names += [
        (name, "resmem") for name in ("ResMem", "ResMem, simplex", "ResMem, logits", "ResMem, strength 0.8")
    ]
    methods = []
    for name, family in names:
        gain = 0.0 if family == "base" else float(rng.normal(0.015 if family == "resmem" else 0, 0.012))
        confidences = np.sort(rng.uniform(0.2, 1, 10))
        methods.append({
            "name": name, "family": family, "settings": {"k": 53, "sigma": 0.7}, "accuracy": base + gain,
            "top5_accuracy": 0.84 + gain, "nll": float(rng.uniform(1.4, 2)),
            "brier": float(rng.uniform(0.4, 0.6)), "ece": float(rng.uniform(0.02, 0.2)),
            "gain": gain, "interval": [gain - 0.006, gain + 0.007],
            "bootstrap_interval": [gain - 0.0055, gain + 0.0065], "p_value": float(10 ** rng.uniform(-30, 0)),
            "reliability": [
                {"confidence": float(c), "accuracy": float(max(0, c - rng.uniform(0, 0.15))), "n": 1000}
                for c in confidences
            ],
        })  # fmt: skip
    return methods


def make_example(rng, query, classes):
    weights = np.sort(rng.dirichlet(np.ones(3)))[::-1]
    return {
        "query": query, "id": f"test/{query:05d}.png", "label": str(rng.choice(classes)),
        "base_predicted": str(rng.choice(classes)), "predicted": str(rng.choice(classes)),
        "base_margin": float(rng.normal()), "margin": float(rng.normal()),
        "neighbors": [
            {"row": int(rng.integers(50_000)), "id": None, "label": str(rng.choice(classes)),
             "distance": float(rng.uniform(1, 5)), "weight": float(weight),
             "contribution": float(rng.normal())}
            for weight in weights
        ],
    }  # fmt: skip


def make_run(seed=0, n_classes=100, names=None):
    rng = np.random.default_rng(seed)
    classes = names or [f"class {c}" for c in range(n_classes)]
    bounds = np.round(np.linspace(0.5, 6, 11), 2)
    base = 0.5646 + 0.008 * float(rng.normal())
    influential = [
        {"row": int(row), "label": str(rng.choice(classes)), "n_corrected": 7, "n_broken": 2, "credit": 3.25}
        for row in rng.integers(50_000, size=5)
    ]
    return {
        "predictions": f"runs/seed-{seed}/predictions.h5", "method": "resmem", "space": "probability",
        "k": 53, "sigma": 0.7, "temperature": 1.4, "strength": 1.0, "n": 10_000, "base_accuracy": base,
        "knn_accuracy": base - 0.02, "accuracy": base + 0.0319, "gain": 0.0319, "interval": [0.0262, 0.0377],
        "bootstrap_interval": [0.0263, 0.0375], "p_value": 3.1e-27, "tpr": 0.0589, "fpr": 0.027,
        "n_corrected": 589, "n_broken": 270, "methods": make_methods(rng, base),
        "where": {
            "class": [make_group(rng, name) for name in classes],
            "distance": [make_group(rng, f"{a:g}–{b:g}") for a, b in itertools.pairwise(bounds)],
            "confidence": [make_group(rng, f"{10 * i}–{10 * i + 10} %") for i in range(10)],
            "frequency": [make_group(rng, name) for name in ("1–9", "10–99", "100–499", "500 or more")],
        },
        "coarse": {
            "groups": 20, "n_corrected": 589, "n_base_errors": 4354, "corrected_in_group": 0.4125,
            "errors_in_group": 0.2987, "difference": 0.1138, "interval": [0.0721, 0.1555],
        },
        "corrected": [make_example(rng, int(q), classes) for q in rng.integers(10_000, size=3)],
        "broken": [make_example(rng, int(q), classes) for q in rng.integers(10_000, size=2)],
        "influence": {"corrected": influential, "broken": influential[:2]},
    }  # fmt: skip


def accuracy_at(k, sigma, temperature, strength):
    off = (math.log(k / 50) / 3) ** 2 + (math.log(sigma / 0.7) / 2) ** 2
    return 0.60 - 0.02 * off - 0.01 * (temperature - 1.4) ** 2 - 0.03 * (strength - 1) ** 2


def make_tuning(*products):
    given = products or (
        (
            [10, 20, 50, 100, 200, 500],
            [0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 4.0],
            [0.7, 1.0, 1.4, 2.0],
            [0.5, 1.0, 1.5],
        ),
        ([40, 45, 50, 55, 60], [0.5, 0.6, 0.7, 0.8, 0.9], [1.2, 1.4, 1.6], [0.9, 1.0, 1.1]),
    )
    rows = [point for product in given for point in itertools.product(*product)]
    rng = np.random.default_rng(1)
    accuracies = [accuracy_at(*row) for row in rows]
    fpr = rng.uniform(0.01, 0.06, len(rows))
    columns = dict(zip(PARAMETERS, map(list, zip(*rows, strict=True)), strict=True))
    columns |= {
        "accuracy": accuracies,
        "fpr": fpr.tolist(),
        "tpr": (fpr + np.array(accuracies) - 0.56).tolist(),
    }
    best = int(np.argmax(accuracies))
    return {
        "path": "tuning.h5", "objective": "gain", "data": "held-out queries", "n": 5000,
        "base_accuracy": 0.56,
        "best": {name: column[best] for name, column in columns.items()}, "grid": columns,
    }  # fmt: skip


def make_report(n_runs=1, **parts):
    runs = [make_run(seed, **parts) for seed in range(n_runs)]
    aggregate = None
    if n_runs > 1:
        aggregate = {
            name: {
                "mean": float(np.mean([run[name] for run in runs])),
                "std": float(np.std([run[name] for run in runs], ddof=1)),
                "n": n_runs,
            }
            for name in ("base_accuracy", "knn_accuracy", "accuracy", "gain")
        }
    notices = ["12 labels of queries occur in no training row."]
    return {"runs": runs, "aggregate": aggregate, "tuning": make_tuning(), "notices": notices}


@pytest.fixture(scope="module")
def report():
    return make_report()


@pytest.fixture(scope="module")
def drawn(report):
    return figures(report)


def labels_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


class TestPlottedNumbers:
    def test_methods(self, report, drawn):
        run = report["runs"][0]
        axes = drawn["methods"].figure.axes[0]
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert [line.get_xdata()[0] for line in dots] == [method["accuracy"] for method in run["methods"]]
        assert [line.get_ydata()[0] for line in dots] == list(range(len(run["methods"])))
        assert labels_of(axes.yaxis) == [method["name"] for method in run["methods"]]
        whiskers = [line for line in axes.lines if line.get_linewidth() == 2]
        expected = [[run["base_accuracy"] + end for end in m["interval"]] for m in run["methods"][1:]]
        np.testing.assert_allclose([line.get_xdata() for line in whiskers], expected)
        assert to_hex(dots[1].get_color()).upper() == style.GREEN

    @pytest.mark.parametrize("by", ["distance", "confidence", "frequency"])
    def test_groups_along_an_axis(self, report, drawn, by):
        groups = report["runs"][0]["where"][by]
        axes = drawn[f"where_{by}"].figure.axes[0]
        up, down = axes.containers
        assert [bar.get_height() for bar in up] == [group["tpr"] for group in groups]
        assert [bar.get_height() for bar in down] == [-group["fpr"] for group in groups]
        gains = next(line for line in axes.lines if line.get_label() == "gain")
        assert gains.get_ydata().tolist() == [group["gain"] for group in groups]
        assert labels_of(axes.xaxis) == [group["group"] for group in groups]
        assert labels_of(axes.child_axes[0].xaxis) == [str(group["n"]) for group in groups]

    def test_classes_of_both_ends(self, report, drawn):
        groups = sorted(report["runs"][0]["where"]["class"], key=lambda group: -group["gain"])
        above, axes = drawn["where_class"].figure.axes
        ends = groups[:15] + groups[-15:]
        assert [bar.get_width() for bar in axes.containers[0]] == [group["tpr"] for group in ends]
        assert [bar.get_width() for bar in axes.containers[1]] == [-group["fpr"] for group in ends]
        assert labels_of(axes.yaxis) == [f"{group['group']} ({group['n']})" for group in ends]
        gains, losses = (steps.get_data().values for steps in above.patches)
        np.testing.assert_array_equal(gains + losses, [group["gain"] for group in groups])

    def test_few_classes_are_all_shown_without_a_strip(self):
        drawn = figures({"runs": [make_run(n_classes=30)]})
        (axes,) = drawn["where_class"].figure.axes
        assert len(axes.containers[0]) == 30

    def test_reliability(self, report, drawn):
        axes = drawn["reliability"].figure.axes[0]
        assert axes.lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]
        chosen = reliability_methods(report["runs"][0]["methods"])
        assert [line.get_label() for line in axes.lines[1:]] == [method["name"] for method in chosen]
        assert len({to_hex(line.get_color()) for line in axes.lines}) == len(axes.lines)
        for line, method in zip(axes.lines[1:], chosen, strict=True):
            assert list(line.get_xdata()) == [part["confidence"] for part in method["reliability"]]
            assert list(line.get_ydata()) == [part["accuracy"] for part in method["reliability"]]

    def test_coarse(self, report, drawn):
        coarse = report["runs"][0]["coarse"]
        axes = drawn["coarse"].figure.axes[0]
        widths = [bar.get_width() for bar in axes.containers[0]]
        assert widths == [coarse["corrected_in_group"], coarse["errors_in_group"]]
        assert list(axes.lines[0].get_xdata()) == coarse["interval"]
        assert list(axes.lines[1].get_xdata()) == [coarse["difference"]]
        assert [text.get_text() for text in axes.texts] == ["41.25", "29.87", "+11.38 [+7.21, +15.55]"]

    def test_sensitivity(self, report, drawn):
        tuning = report["tuning"]
        panels = drawn["sensitivity"].figure.axes
        assert [axes.get_xlabel() for axes in panels] == [
            "neighbours k",
            "width σ",
            "temperature T",
            "strength",
        ]
        assert [axes.get_xscale() for axes in panels] == ["log", "log", "linear", "linear"]
        for axes, name in zip(panels, PARAMETERS, strict=True):
            base, line, star = axes.lines
            assert base.get_ydata()[0] == tuning["base_accuracy"]
            others = {other: tuning["best"][other] for other in PARAMETERS}
            expected = [accuracy_at(**(others | {name: value})) for value in line.get_xdata()]
            np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-12)
            grid = {
                value
                for *rest, value in zip(
                    *(tuning["grid"][other] for other in PARAMETERS if other != name),
                    tuning["grid"][name],
                    strict=True,
                )
                if rest == [others[other] for other in PARAMETERS if other != name]
            }
            assert list(line.get_xdata()) == sorted(grid)
            assert (star.get_xdata()[0], star.get_ydata()[0]) == (others[name], tuning["best"]["accuracy"])

    def test_heat_map_of_a_coarse_and_a_finer_grid(self, report, drawn):
        axes = drawn["heat_map"].figure.axes[0]
        mesh = next(part for part in axes.collections if isinstance(part, QuadMesh))
        sigmas, ks = [0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 4.0], [10, 20, 50, 100, 200, 500]
        expected = [[accuracy_at(k, sigma, 1.4, 1.0) for k in ks] for sigma in sigmas]
        np.testing.assert_allclose(mesh.get_array(), expected)
        squares = next(part for part in axes.collections if isinstance(part, PathCollection))
        finer = {(k, s) for k in (40, 45, 50, 55, 60) for s in (0.5, 0.6, 0.7, 0.8, 0.9)} - {(50, 0.7)}
        assert {(k, s) for k, s in squares.get_offsets().tolist()} == finer
        (star,) = axes.lines
        assert (star.get_xdata()[0], star.get_ydata()[0]) == (50, 0.7)

    def test_grid_cloud_with_lines_of_equal_gain(self, report, drawn):
        grid = report["tuning"]["grid"]
        axes = drawn["grid_cloud"].figure.axes[0]
        np.testing.assert_array_equal(
            axes.collections[0].get_offsets(), np.transpose([grid["fpr"], grid["tpr"]])
        )
        star, *lines = axes.lines
        assert star.get_xydata().tolist() == [[report["tuning"]["best"][rate] for rate in ("fpr", "tpr")]]
        assert len(lines) == len(axes.texts) >= 3
        assert all(line.get_slope() == 1 for line in lines)
        marked = [float(text.get_text().replace("−", "-")) for text in axes.texts]
        np.testing.assert_allclose([100 * line.get_xy1()[1] for line in lines], marked, atol=1e-9)
        assert not axes.collections[0].get_rasterized()

    def test_many_points_become_an_image_within_the_svg(self):
        tuning = make_tuning(
            (list(range(1, 24)), np.linspace(0.1, 2, 10).tolist(), [1.0, 1.4, 2.0], [0.5, 1, 1.5])
        )
        drawing = figures({"tuning": tuning})["grid_cloud"]
        assert drawing.figure.axes[0].collections[0].get_rasterized()
        assert 'href="data:image/png;base64,' in svg_text(drawing.figure)

    def test_runs_with_mean_and_deviation(self):
        report = make_report(3)
        axes = figures(report)["runs"].figure.axes[0]
        for metric, color in (("base_accuracy", style.INK), ("accuracy", style.BLUE)):
            own = [line for line in axes.lines if to_hex(line.get_color()).upper() == color.upper()]
            assert list(own[0].get_ydata()) == [run[metric] for run in report["runs"]]
            over = report["aggregate"][metric]
            assert own[1].get_ydata()[0] == over["mean"]
            bands = [patch.get_y() for patch in axes.patches]
            assert any(low == pytest.approx(over["mean"] - over["std"]) for low in bands)


class TestWhichFigures:
    def test_all_of_one_run_in_order(self, drawn):
        assert list(drawn) == RUN_FIGURES + TUNING_FIGURES
        for title, caption, _ in drawn.values():
            assert title
            assert caption.endswith(".")

    def test_three_runs_are_numbered(self):
        report = make_report(3) | {"tuning": None}
        drawn = figures(report)
        assert list(drawn) == ["runs"] + [f"{name}_{run}" for run in (1, 2, 3) for name in RUN_FIGURES]
        assert drawn["methods_2"].title == "Accuracy of each method, run 2"

    @pytest.mark.parametrize(
        ("missing", "names"),
        [
            ("methods", {"methods", "reliability"}),
            ("where", {n for n in RUN_FIGURES if "where" in n}),
            ("coarse", {"coarse"}),
        ],
    )
    def test_a_part_without_numbers_has_no_figure(self, report, missing, names):
        run = report["runs"][0] | {
            missing: type(report["runs"][0][missing])() if missing != "coarse" else None
        }
        drawn = figures({"runs": [run], "aggregate": None, "tuning": None, "notices": []})
        assert set(drawn) == set(RUN_FIGURES) - names
        assert html_page({"runs": [run]}, title="t").count("<svg") == len(drawn)

    def test_methods_without_reliability(self, report):
        run = copy.deepcopy(report["runs"][0])
        for method in run["methods"]:
            del method["reliability"]
        assert "reliability" not in figures({"runs": [run]})

    def test_groups_of_labels_without_any_error(self):
        run = make_run(n_classes=2)
        lacking = dict.fromkeys(("corrected_in_group", "errors_in_group", "difference", "interval"))
        run["coarse"] = {"groups": 2, "n_corrected": 0, "n_base_errors": 0} | lacking
        axes = figures({"runs": [run]})["coarse"].figure.axes[0]
        assert all(math.isnan(bar.get_width()) for bar in axes.containers[0])
        assert not axes.texts

    def test_an_empty_report(self):
        assert figures({"runs": [], "aggregate": None, "tuning": None, "notices": []}) == {}
        assert "<svg" not in html_page({"runs": []}, title="Nothing")

    def test_a_tuning_of_one_point_has_neither_lines_nor_cells(self):
        assert list(figures({"tuning": make_tuning(([10], [0.7], [1.0], [1.0]))})) == ["grid_cloud"]

    def test_a_tuning_along_k_only(self):
        drawn = figures({"tuning": make_tuning(([10, 20, 30], [0.7], [1.0], [1.0]))})
        assert list(drawn) == ["sensitivity", "grid_cloud"]
        assert len(drawn["sensitivity"].figure.axes) == 1

    def test_empty_groups_and_missing_numbers_are_left_out(self):
        run = make_run(n_classes=3)
        empty = {"group": "none", "n": 0} | dict.fromkeys(("base_accuracy", "accuracy", "gain", "tpr", "fpr"))
        run["where"]["class"].append(empty)
        run["where"]["distance"].append(empty)
        drawn = figures({"runs": [run]})
        assert len(drawn["where_class"].figure.axes[0].containers[0]) == 3
        assert math.isnan(drawn["where_distance"].figure.axes[0].containers[0][-1].get_height())
        assert "–" in html_page({"runs": [run]}, title="t")


def test_reliability_chooses_the_best_mixture_and_six_at_most(report):
    methods = report["runs"][0]["methods"]
    chosen = reliability_methods(methods)
    assert [method["family"] for method in chosen] == ["base", "knn", "knn-lm", "resmem", "resmem", "resmem"]
    assert chosen[2]["accuracy"] == max(m["accuracy"] for m in methods if m["family"] == "knn-lm")


class TestGrids:
    def test_the_complete_part_by_hand(self):
        x, y = np.array([1.0, 1, 2, 2, 2, 3]), np.array([1.0, 2, 1, 2, 3, 3])
        xs, ys = complete_product(x, y)
        assert (xs.tolist(), ys.tolist()) == ([1, 2], [1, 2])

    @settings(max_examples=100, deadline=None)
    @given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1))
    def test_every_pair_of_the_complete_part_is_a_point(self, pairs):
        x, y = np.array(sorted(pairs), float).T
        xs, ys = complete_product(x, y)
        assert set(itertools.product(xs.tolist(), ys.tolist())) <= pairs
        assert len(xs) * len(ys) >= 1

    def test_edges_lie_midway_as_the_axis_shows_them(self):
        assert cell_edges(np.array([1.0, 2, 4])).tolist() == [0.5, 1.5, 3, 5]
        np.testing.assert_allclose(
            cell_edges(np.array([1.0, 10, 100])), 10 ** np.array([-0.5, 0.5, 1.5, 2.5])
        )

    def test_a_point_of_two_grids_counts_once(self):
        tuning = make_tuning(([10, 50], [0.7], [1.4], [1.0]), ([50, 60], [0.7], [1.4], [1.0]))
        values, accuracies = line_through_best(tuning, "k")
        assert values.tolist() == [10, 50, 60]
        np.testing.assert_allclose(accuracies, [accuracy_at(k, 0.7, 1.4, 1.0) for k in values])


class TestFiles:
    def test_each_figure_in_each_format(self, drawn):
        files = dict(figure_files(drawn))
        assert list(files) == [
            f"{name}.{kind}" for name in RUN_FIGURES + TUNING_FIGURES for kind in ("svg", "png")
        ]
        for name, content in files.items():
            start = content[:8]
            assert start == b"\x89PNG\r\n\x1a\n" if name.endswith(".png") else start.startswith(b"<?xml")

    def test_the_same_report_gives_the_same_bytes(self, report, drawn):
        again = figures(copy.deepcopy(report))
        assert dict(figure_files(drawn)) == dict(figure_files(again, formats=("png", "svg")))
        page = html_page(report, title="t")
        assert (
            page == html_page(copy.deepcopy(report), title="t") == html_page(report, title="t", drawn=drawn)
        )

    def test_another_process_gives_the_same_svg(self, drawn):
        script = (
            "from test_plots import *\n"
            "texts = [svg_text(one.figure) for one in figures(make_report()).values()]\n"
            "print(hashlib.sha256(''.join(texts).encode()).hexdigest())\n"
        )
        environment = os.environ | {
            "PYTHONHASHSEED": "5",
            "SOURCE_DATE_EPOCH": "1",
            "PYTHONPATH": str(Path(__file__).parent),
        }
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
        )
        texts = "".join(svg_text(one.figure) for one in drawn.values())
        assert done.stdout.strip() == hashlib.sha256(texts.encode()).hexdigest()

    def test_files_hold_no_date_and_no_version(self, drawn):
        svg = svg_text(drawn["methods"].figure)
        assert "metadata" not in svg
        assert matplotlib.__version__ not in svg

    def test_an_unknown_format_is_refused(self, drawn):
        with pytest.raises(UsageError, match="expected svg or png, found pdf"):
            next(figure_files(drawn, formats=("svg", "pdf")))


def test_the_users_settings_of_matplotlib_neither_change_figures_nor_are_changed(drawn):
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.grid": False}):
        before = dict(matplotlib.rcParams)
        again = figures(make_report())
        assert svg_text(again["methods"].figure) == svg_text(drawn["methods"].figure)
        assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_loaded_and_matplotlib_only_when_drawing():
    script = (
        "import sys\nfrom resmem_cli.plots import figures\nassert 'matplotlib' not in sys.modules\n"
        "figures({'tuning': None})\nassert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


HOSTILE = [
    "<script>alert(1)</script>", "$x_1$", "$\\frac{", "😀 emoji", "a" * 300, 'quote" onload="x', "& < >",
    "]]>", "-->", "line\nbreak\x00\x1b", "\ud800", "漢" * 40, 'id="axes_1" url(#p) href="#x"',
    "</style></svg>", "%s {} $",
    "\N{RIGHT-TO-LEFT OVERRIDE}evil", "", " ",
]  # fmt: skip


class Page(HTMLParser):
    """Checks that tags are balanced, and collects ids, references and text."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.stack: list[str] = []
        self.ids: Counter[str] = Counter()
        self.references: set[str] = set()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags[tag] += 1
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        for name, value in attrs:
            self.attributes.append((tag, name, value))
            if name == "id":
                self.ids[value] += 1
            if name in ("href", "xlink:href") and value.startswith("#"):
                self.references.add(value[1:])
            self.references.update(re.findall(r"url\(#([^)]*)\)", value or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def hostile():
    report = make_report(names=HOSTILE)
    run = report["runs"][0]
    for name, method in zip(HOSTILE, run["methods"], strict=False):
        method["name"] = name
    for by in ("distance", "confidence", "frequency"):
        for name, group in zip(HOSTILE, run["where"][by], strict=False):
            group["group"] = name
    run["predictions"] = report["tuning"]["path"] = HOSTILE[0]
    report["notices"] = HOSTILE
    return report


class TestHostileNames:
    def test_figures_show_names_as_they_are(self, hostile):
        drawn = figures(hostile)
        axes = drawn["methods"].figure.axes[0]
        labels = labels_of(axes.yaxis)
        assert labels[1:4] == ["$x_1$", "$\\frac{", "😀 emoji"]
        assert labels[4] == "a" * 25 + "…"
        for drawing in drawn.values():
            assert not any(text.get_parse_math() for text in drawing.figure.findobj(Text))
        assert len(dict(figure_files(drawn))) == 2 * len(drawn)

    def test_svg_is_well_formed(self, hostile):
        for drawing in figures(hostile).values():
            root = ElementTree.fromstring(svg_text(drawing.figure))
            assert root.tag == "{http://www.w3.org/2000/svg}svg"

    def test_page_holds_no_foreign_tag(self, hostile):
        text = html_page(hostile, title="<script>alert(2)</script>")
        page = Page(text)
        assert "script" not in page.tags
        assert page.tags["style"] == 1
        assert not [name for _, name, _ in page.attributes if name.startswith("on")]
        assert "<script>alert(1)</script>" in page.text
        assert 'id="axes_1" url(#p) href="#x"' in page.text
        assert "a" * 300 in text
        assert not re.search("[\x00\x1b\ud800-\udfff\u202a-\u202e]", text)
        text.encode()

    @settings(max_examples=12, deadline=None)
    @given(st.text(min_size=1, max_size=40))
    def test_any_name_is_drawn_and_escaped(self, name):
        run = make_run(n_classes=2, names=[name, "other"])
        run["methods"], run["where"]["distance"], run["coarse"] = [], [], None
        page = Page(html_page({"runs": [run]}, title=name))
        assert clean(name).strip() in page.text or not clean(name).strip()


@pytest.fixture(scope="module", params=[1, 3])
def given_report(request):
    return make_report(request.param)


@pytest.fixture(scope="module")
def page(given_report):
    return Page(html_page(given_report, title="Report of tests"))


class TestPage:
    def test_ids_are_unique_and_references_lead_somewhere(self, page):
        assert max(page.ids.values()) == 1
        assert page.references
        assert page.references <= set(page.ids)

    def test_nothing_is_loaded_from_elsewhere(self, page):
        text = page.source
        assert "http" not in text.replace("http-equiv", "")
        assert "@import" not in text
        assert "<script" not in text
        for tag, name, value in page.attributes:
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("#", "data:image/png;base64,")), tag

    def test_it_says_its_language_width_and_title(self, page):
        text = page.source
        assert text.startswith('<!DOCTYPE html>\n<html lang="en">\n')
        assert ("meta", "content", "width=device-width, initial-scale=1") in page.attributes
        assert page.text.startswith("Report of tests Report of tests")

    def test_each_figure_is_an_image_with_a_name(self, page, given_report):
        drawn = figures(given_report)
        assert page.tags["svg"] == page.tags["figcaption"] == len(drawn)
        names = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
        assert sorted(names) == sorted(f"{one.title}. {one.caption}" for one in drawn.values())
        assert ("svg", "role", "img") in page.attributes
        assert not [value for tag, name, value in page.attributes if tag == "svg" and name == "width"]

    def test_every_number_is_told(self, page, given_report):
        told: list[str] = list(given_report["notices"])
        for run in given_report["runs"]:
            told += [
                f"{percent(run['base_accuracy'])} → {percent(run['accuracy'])} %",
                percent(run["knn_accuracy"]), points(run["gain"]), interval(run["interval"]),
                interval(run["bootstrap_interval"]), "3.1e-27", "589 and 270",
                "TPR 5.89 %, FPR 2.70 %", "10,000 queries", run["predictions"],
            ]  # fmt: skip
            for method in run["methods"]:
                told += [method["name"], percent(method["accuracy"]), percent(method["top5_accuracy"])]
                told += [f"{method[name]:.4f}" for name in ("nll", "brier", "ece")]
                if method["family"] != "base":
                    told += [points(method["gain"]), interval(method["interval"])]
                    told += [interval(method["bootstrap_interval"]), probability(method["p_value"])]
            for group in itertools.chain(*run["where"].values()):
                told += [group["group"], number(group["n"]), points(group["gain"])]
                told += [percent(group[name]) for name in ("base_accuracy", "accuracy", "tpr", "fpr")]
            for example in run["corrected"] + run["broken"]:
                told += [f"Query {example['query']} ({example['id']}): {example['label']}"]
                told += [example["predicted"], example["base_predicted"], number(example["margin"])]
                for one in example["neighbors"]:
                    told += [str(one["row"]), one["label"], number(one["distance"]), number(one["weight"])]
                    told += [number(one["contribution"])]
            for row in run["influence"]["corrected"] + run["influence"]["broken"]:
                told += [str(row["row"]), row["label"], "+3.25"]
        best = given_report["tuning"]["best"]
        told += [f"chosen {name}{number(best[name])}" for name in PARAMETERS]
        told += [f"accuracy at the choice{percent(best['accuracy'])} %", "objectivegain", "tuning.h5"]
        for over in (given_report["aggregate"] or {}).values():
            told += [percent(over["mean"]), percent(over["std"])]
        assert [one for one in told if one not in page.text] == []

    def test_a_thousand_classes_are_told_by_their_ends(self):
        run = make_run(n_classes=1000)
        page = Page(html_page({"runs": [run]}, title="t"))
        assert "the 15 of the largest and the 15 of the smallest gain of 1,000" in page.text
        ordered = sorted(run["where"]["class"], key=lambda group: -group["gain"])
        assert page.text.count(f"{ordered[0]['group']} ") >= 1
        assert len(page.text) < 50_000


class TestWords:
    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (None, "–"),
            (0.7, "0.7"),
            (53, "53"),
            (50_000, "50,000"),
            (-1.23456, "−1.235"),
            (math.nan, "–"),
            (1e-9, "1e−09"),
        ],
    )
    def test_numbers(self, value, shown):
        assert number(value) == shown

    def test_shares_and_their_differences(self):
        assert (percent(0.5646), percent(None)) == ("56.46", "–")
        assert (points(0.0319), points(-0.002), points(None)) == ("+3.19", "−0.20", "–")
        assert (interval([-0.01, 0.02]), interval(None)) == ("[−1.00, +2.00]", "–")

    @pytest.mark.parametrize(
        ("p", "shown"),
        [(1.0, "1.000"), (0.04, "0.040"), (3.1e-27, "3.1e-27"), (0.0, "< 1e-300"), (None, "–")],
    )
    def test_p_values(self, p, shown):
        assert probability(p) == shown

    def test_names_are_cut_by_the_room_they_take(self):
        assert shorten("abcdef", 6) == "abcdef"
        assert shorten("abcdefg", 6) == "abcde…"
        assert shorten("漢字漢字", 6) == "漢字…"
        assert math.isnan(known(None))

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=50), st.integers(2, 30))
    def test_any_name_becomes_one_short_line(self, name, width):
        shown = shorten(name, width)
        assert len(shown) <= width
        assert "\n" not in shown
        shown.encode()
