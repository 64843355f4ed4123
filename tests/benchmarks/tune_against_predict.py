"""How long `resmem tune` takes for a grid of 2,000 points, beside one `resmem predict` with the largest k.

    python tests/benchmarks/tune_against_predict.py [ARRAYS.npz | MEMORY.h5 QUERIES.h5] [--rounds 5]

Both are whole processes on the same arrays. Then some points of the grid, drawn at random, are held against
`resmem residualize` and `resmem predict` with the same settings: how many queries each corrects and breaks.
Without arrays, random ones of CIFAR100's size are made.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from example_arrays import add_arguments, given_sources
from measuring import Run, in_turn, print_runs, print_setting, print_table, resmem

from resmem_cli import open_artifact

LARGEST_K = 500
GRID = ("-k", f"25:{LARGEST_K}:20", "--sigma", "0.1:2:20log", "-T", "0.7:3:5log", "--strength", "1")
COLUMNS = ("k", "sigma", "temperature", "strength", "accuracy", "tpr", "fpr")


def count_changes(predictions: Path) -> tuple[int, int]:
    """Count the queries that were corrected, and those that were broken."""
    with open_artifact(predictions) as file:
        labels, base, predicted = (file.read(name) for name in ("labels", "base_predicted", "predicted"))
    right, base_right = predicted == labels, base == labels
    return int((right & ~base_right).sum()), int((base_right & ~right).sum())


def main() -> None:
    """Measure, check and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checked", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        memory, queries = given_sources(given, folder)
        made = {kind: folder / f"{kind}.h5" for kind in ("index", "residuals", "predictions", "tuning")}
        resmem("index", *memory.arguments, "--kind", "exact", "-o", made["index"])
        train: list[str | Path] = ["--train", memory.path]
        if memory.split:
            train += ["--train-split", memory.split]
        tune: list[str | Path] = ["tune", *queries.arguments, "--index", made["index"], *train, *GRID]

        def predict(settings: dict[str, Any]) -> Run:
            options = ["-k", str(settings["k"]), "--sigma", repr(settings["sigma"])]
            return resmem(
                "predict",
                *queries.arguments,
                "--index",
                made["index"],
                "--residuals",
                made["residuals"],
                *options,
                "-o",
                made["predictions"],
            )

        resmem("residualize", *memory.arguments, "-o", made["residuals"])
        works = {
            "tune": partial(resmem, *tune, "--no-baselines", "-o", made["tuning"]),
            "tune, with kNN and kNN-LM": partial(resmem, *tune, "-o", folder / "all.h5"),
            f"predict, k = {LARGEST_K}": partial(predict, {"k": LARGEST_K, "sigma": 0.7}),
        }
        runs = in_turn(works, given.rounds)
        best = runs["tune"][0].summary
        print_setting(points=f"{best['points']:,}", memory=memory.path, queries=queries.path)
        print_runs(runs, ours="tune")
        print(f"\nbest: {', '.join(f'{name} {best[name]:.6g}' for name in COLUMNS)}")

        with open_artifact(made["tuning"]) as file:
            grid = {name: file.read(f"grid/{name}") for name in COLUMNS}
            n_queries = int(file.number("n_queries"))
        rows, n_equal = [], 0
        for i in sorted(np.random.default_rng(0).choice(len(grid["k"]), given.checked, replace=False)):
            settings = {column: grid[column][i].item() for column in COLUMNS}
            temperature = repr(settings["temperature"])
            resmem("residualize", *memory.arguments, "-T", temperature, "-o", made["residuals"])
            predict(settings)
            found = count_changes(made["predictions"])
            told = (round(settings["tpr"] * n_queries), round(settings["fpr"] * n_queries))
            n_equal += found == told
            values = [f"{settings[column]:.6g}" for column in COLUMNS[1:3]]
            rows.append([str(settings["k"]), *values, *map(str, told), *map(str, found)])
        print()
        print_table(["k", "sigma", "T", "corrected", "broken", "predict:", "broken"], rows)
        print(f"\n{n_equal} of {given.checked} points equal")


if __name__ == "__main__":
    main()
