"""`resmem tune`: the grid in its file, the choice, and the commands that take it."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished, Pipeline, Resmem, classifier_arrays
from numpy.typing import NDArray

from resmem_cli import open_artifact
from resmem_cli.calibration import FLOOR, clip_and_renormalise
from resmem_cli.tuning.grid import Grid, refined_grid
from resmem_cli.weights import neighbor_weights

N_TRAIN, N_TEST, C = 240, 90, 4
GRID = ("-k", "1,5,30", "--sigma", "0.2,0.8,3", "-T", "0.7,1.4", "--strength", "0,0.5,1")
SETTINGS = ("k", "sigma", "temperature", "strength")


@dataclass(frozen=True)
class Hard:
    """A memory that helps some queries and harms others, so that settings differ."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / f"{name}.h5"

    @property
    def memory(self) -> list[object]:
        return ["--index", self.index, "--train", self.train]


def hard_arrays() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(C, 4)) * 0.8
    arrays: dict[str, NDArray[Any]] = {}
    for split, n in (("train", N_TRAIN), ("test", N_TEST)):
        # Not alike many of each class, for the weights of classes.
        labels = np.minimum(rng.geometric(0.4, size=n) - 1, C - 1)
        arrays[f"{split}_embeddings"] = (centres[labels] + rng.normal(size=(n, 4))).astype(np.float32)
        logits = rng.normal(size=(n, C)) + 1.2 * np.eye(C)[labels]
        arrays[f"{split}_logits"] = logits.astype(np.float32)
        arrays[f"{split}_labels"] = labels
    return arrays


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Hard:
    from resmem_cli import ArraySelection, ImportConfig, import_arrays, index

    made = Hard(tmp_path_factory.mktemp("hard"))
    arrays = made.folder / "arrays.npz"
    np.savez(arrays, **hard_arrays())
    for split in ("train", "test"):
        config = ImportConfig(arrays=ArraySelection(split=split))
        import_arrays(arrays, output=made.folder / f"{split}.h5", config=config)
    index(made.train, output=made.index)
    return made


def grid_of(path: Path, group: str = "grid") -> dict[str, NDArray[Any]]:
    with open_artifact(path) as file:
        return {
            name.removeprefix(f"{group}/"): file.read(name)
            for name in file.shapes
            if name.startswith(f"{group}/")
        }


def parameters_of(path: Path) -> dict[str, Any]:
    with open_artifact(path) as file:
        return dict(file.parameters)


def rows_of(path: Path) -> NDArray[np.int64]:
    with open_artifact(path) as file:
        rows: NDArray[np.int64] = file.read("rows")
        return rows


def point(grid: dict[str, NDArray[Any]], i: int) -> dict[str, Any]:
    return {name: values[i].item() for name, values in grid.items()}


def assert_refused(done: Finished, status: int, *parts: object) -> None:
    assert done.status == status, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    for part in ("resmem: error: ", *parts):
        assert str(part) in line


# --- the grid


def test_the_file_holds_the_grid_that_was_asked_for_and_no_more(
    tmp_path: Path, hard: Hard, resmem: Resmem
) -> None:
    done = resmem("tune", hard.test, *hard.memory, *GRID, "-o", tmp_path / "t.h5", "--json")
    assert done.status == 0, done.stderr
    grid = grid_of(tmp_path / "t.h5")
    assert "nll" not in grid
    tried = {tuple(point(grid, i)[name] for name in SETTINGS) for i in range(len(grid["k"]))}
    product = [
        (k, s, t, a) for k in (1, 5, 30) for s in (0.2, 0.8, 3) for t in (0.7, 1.4) for a in (0, 0.5, 1)
    ]
    assert tried == set(product)
    assert len(grid["k"]) == len(product) == done.result["points"]
    best = parameters_of(tmp_path / "t.h5")["best"]
    assert best in [point(grid, i) for i in range(len(product))]
    assert best["accuracy"] == grid["accuracy"].max()
    assert {name: done.result[name] for name in SETTINGS} == {name: best[name] for name in SETTINGS}
    assert done.result["gain"] == best["accuracy"] - done.result["base_accuracy"]
    assert len(set(grid["accuracy"])) > 5


def test_strength_0_is_the_network_alone(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    done = resmem("tune", hard.test, *hard.memory, *GRID, "-o", tmp_path / "t.h5", "--json")
    grid = grid_of(tmp_path / "t.h5")
    alone = grid["strength"] == 0
    arrays = hard_arrays()
    base = (arrays["test_logits"].argmax(axis=1) == arrays["test_labels"]).mean()
    assert done.result["base_accuracy"] == base
    assert set(grid["accuracy"][alone]) == {base}
    assert not grid["tpr"][alone].any()
    assert not grid["fpr"][alone].any()


def test_without_a_strength_that_of_the_paper_is_tried(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    options = ["-k", "20:30:3", "--sigma", "0.1:10:3log", "-T", "1", "-o", tmp_path / "t.h5"]
    assert resmem("tune", hard.test, *hard.memory, *options).status == 0
    grid = grid_of(tmp_path / "t.h5")
    assert {name: sorted(set(grid[name])) for name in SETTINGS} == {
        "k": [20, 25, 30], "sigma": [0.1, 1, 10], "temperature": [1], "strength": [1],
    }  # fmt: skip


@pytest.mark.parametrize("space", ["probability", "logit"])
def test_every_point_counts_as_residualize_and_predict_do(
    space: str, tmp_path: Path, hard: Hard, resmem: Resmem
) -> None:
    options = [*GRID, "--space", space, "-o", tmp_path / "t.h5"]
    assert resmem("tune", hard.test, *hard.memory, *options).status == 0
    grid = grid_of(tmp_path / "t.h5")
    for i in np.random.default_rng(0).choice(len(grid["k"]), size=10, replace=False):
        one = point(grid, i)
        residuals = ["-T", one["temperature"], "--space", space, "-o", tmp_path / "r.h5"]
        assert resmem("residualize", hard.train, *residuals).status == 0
        files = ["--index", hard.index, "--residuals", tmp_path / "r.h5", "-o", tmp_path / "p.h5"]
        settings = ["-k", one["k"], "--sigma", one["sigma"], "--strength", one["strength"]]
        done = resmem("predict", hard.test, *files, *settings, "--json")
        assert done.result["accuracy"] == one["accuracy"], one
        with open_artifact(tmp_path / "p.h5") as file:
            labels, base, predicted = (file.read(n) for n in ("labels", "base_predicted", "predicted"))
        assert ((predicted == labels) & (base != labels)).sum() / N_TEST == one["tpr"]
        assert ((predicted != labels) & (base == labels)).sum() / N_TEST == one["fpr"]


def test_every_point_of_truncated_residuals_counts_as_predict_does(
    tmp_path: Path, hard: Hard, resmem: Resmem
) -> None:
    grid_file = tmp_path / "t.h5"
    assert resmem("tune", hard.test, *hard.memory, *GRID, "--top", "2", "-o", grid_file).status == 0
    assert parameters_of(grid_file)["top"] == 2
    grid = grid_of(grid_file)
    for i in np.random.default_rng(1).choice(len(grid["k"]), size=6, replace=False):
        one = point(grid, i)
        residuals = ["-T", one["temperature"], "--top", "2", "-o", tmp_path / "r.h5"]
        assert resmem("residualize", hard.train, *residuals).status == 0
        files = ["--index", hard.index, "--residuals", tmp_path / "r.h5", "-o", tmp_path / "p.h5"]
        settings = ["-k", one["k"], "--sigma", one["sigma"], "--strength", one["strength"]]
        assert resmem("predict", hard.test, *files, *settings, "--json").result["accuracy"] == one["accuracy"]


def test_an_automatic_grid_is_refined_around_its_best_point(
    tmp_path: Path, hard: Hard, resmem: Resmem
) -> None:
    for refine in ("--refine", "--no-refine"):
        done = resmem("tune", hard.test, *hard.memory, refine, "-o", tmp_path / f"{refine}.h5")
        assert done.status == 0, done.stderr
    assert resmem("tune", hard.test, *hard.memory, "-o", tmp_path / "t.h5").status == 0
    assert (tmp_path / "t.h5").read_bytes() == (tmp_path / "--refine.h5").read_bytes()
    coarse, fine = grid_of(tmp_path / "--no-refine.h5"), grid_of(tmp_path / "--refine.h5")
    n = len(coarse["k"])
    assert len(fine["k"]) > n
    for name, values in coarse.items():
        assert np.array_equal(fine[name][:n], values)
    best = parameters_of(tmp_path / "--no-refine.h5")["best"]
    whole = Grid(*(tuple(np.unique(coarse[name]).tolist()) for name in SETTINGS))
    assert len(whole) == n
    finer = refined_grid(whole, best)
    tried = {tuple(point(fine, i)[name] for name in SETTINGS) for i in range(n, n + len(finer))}
    assert tried == set(itertools.product(*(getattr(finer, name) for name in SETTINGS)))
    for name in SETTINGS:
        assert fine[name].min() == coarse[name].min()
        assert fine[name].max() == coarse[name].max()
    finest = parameters_of(tmp_path / "--refine.h5")["best"]
    assert finest["accuracy"] == fine["accuracy"].max() >= best["accuracy"]


def test_a_given_grid_is_refined_if_asked(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    options = ["-k", "5,30", "--sigma", "0.123456789", "--refine", "-o", tmp_path / "t.h5"]
    assert resmem("tune", hard.test, *hard.memory, *options).status == 0
    grid = grid_of(tmp_path / "t.h5")
    assert set(grid["k"]) > {5, 30}
    assert set(grid["sigma"]) == {0.123456789}


def test_values_of_the_library_need_not_rise(tmp_path: Path, hard: Hard) -> None:
    from resmem_cli import TuneConfig, tune

    files = {"index": hard.index, "train": hard.train}
    for name, ks in (("rising", (1, 5, 30)), ("mixed", (30, 1, 5, 30))):
        config = TuneConfig(k=ks, sigma=(0.8,), temperature=(1.4,))
        tune(hard.test, output=tmp_path / f"{name}.h5", config=config, **files)
    assert (tmp_path / "rising.h5").read_bytes() == (tmp_path / "mixed.h5").read_bytes()


def test_the_best_at_the_edge_of_the_grid_is_told(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    options = ["-k", "30", "--sigma", "1e-5,1e-4", "-T", "1.4", "-o", tmp_path / "t.h5"]
    done = resmem("tune", hard.test, *hard.memory, *options)
    assert "the best point lies at the edge of the grid in sigma" in done.stderr


# --- objectives


def test_nll_is_that_of_predict_s_clipped_scores(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    options = [*GRID, "--objective", "nll", "-o", tmp_path / "t.h5", "--json"]
    done = resmem("tune", hard.test, *hard.memory, *options)
    grid, best = grid_of(tmp_path / "t.h5"), parameters_of(tmp_path / "t.h5")["best"]
    assert best["nll"] == grid["nll"].min() == done.result["nll"]
    assert best["nll"] < grid["nll"][grid["strength"] == 0].min()
    tuning = ["--tuning", tmp_path / "t.h5"]
    assert resmem("residualize", hard.train, *tuning, "-o", tmp_path / "r.h5").status == 0
    files = ["--index", hard.index, "--residuals", tmp_path / "r.h5", "-o", tmp_path / "p.h5"]
    assert resmem("predict", hard.test, *files, *tuning).status == 0
    with open_artifact(tmp_path / "p.h5") as file:
        labels = file.read("labels")
        own = clip_and_renormalise(file.read("scores"))[np.arange(N_TEST), labels]
    assert best["nll"] == pytest.approx(-np.log(np.maximum(own, FLOOR)).mean(), rel=1e-5)


def test_tpr_is_the_most_corrected_below_the_bound(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    for bound in (0.02, 0.2):
        options = [*GRID, "--objective", "tpr", "--max-fpr", bound, "-o", tmp_path / "t.h5"]
        done = resmem("tune", hard.test, *hard.memory, *options)
        assert "no point" not in done.stderr
        grid, parameters = grid_of(tmp_path / "t.h5"), parameters_of(tmp_path / "t.h5")
        assert parameters["best"]["tpr"] == grid["tpr"][grid["fpr"] < bound].max()
        assert parameters["best"]["fpr"] < bound
        assert parameters["max_fpr"] == bound


def test_a_bound_that_no_point_keeps_is_told(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    options = ["-k", "1", "--sigma", "1", "-T", "0.7,1.4", "--objective", "tpr", "--max-fpr", "1e-9"]
    done = resmem("tune", hard.test, *hard.memory, *options, "-o", tmp_path / "t.h5")
    assert done.status == 0
    assert "no point keeps FPR below 1e-09; this one comes nearest" in done.stderr
    assert parameters_of(tmp_path / "t.h5")["best"]["fpr"] == grid_of(tmp_path / "t.h5")["fpr"].min()


# --- weights of classes


def test_balanced_weights_make_classes_count_alike(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    labels = hard_arrays()["test_labels"]
    np.save(tmp_path / "w.npy", 1 / np.bincount(labels, minlength=C))
    results = {}
    for name, value in (("balanced", "balanced"), ("file", tmp_path / "w.npy")):
        options = [*GRID, "--class-weights", value, "-o", tmp_path / f"{name}.h5", "--json"]
        results[name] = resmem("tune", hard.test, *hard.memory, *options).result
    for name in ("accuracy", "base_accuracy", "tpr", "fpr"):
        assert results["balanced"][name] == results["file"][name]
    base_right = hard_arrays()["test_logits"].argmax(axis=1) == labels
    recalls = [base_right[labels == c].mean() for c in range(C)]
    assert results["balanced"]["base_accuracy"] == pytest.approx(np.mean(recalls))
    grid = grid_of(tmp_path / "balanced.h5")
    assert np.allclose(grid["accuracy"], np.mean(recalls) + grid["tpr"] - grid["fpr"])
    assert parameters_of(tmp_path / "file.h5")["class_weights"] == "w.npy"


def test_a_class_that_alone_counts_is_all_that_is_measured(
    tmp_path: Path, hard: Hard, resmem: Resmem
) -> None:
    np.save(tmp_path / "w.npy", np.array([0, 0, 5, 0]))
    options = [*GRID, "--class-weights", tmp_path / "w.npy", "-o", tmp_path / "t.h5", "--json"]
    done = resmem("tune", hard.test, *hard.memory, *options)
    arrays = hard_arrays()
    own = arrays["test_labels"] == 2
    base_right = arrays["test_logits"][own].argmax(axis=1) == 2
    assert done.result["base_accuracy"] == pytest.approx(base_right.mean())
    counts = grid_of(tmp_path / "t.h5")["accuracy"] * own.sum()
    assert np.allclose(counts, np.round(counts))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (np.ones(3), "expected (4,) numbers, found (3,) float64"),
        (np.ones((4, 1)), "found (4, 1) float64"),
        (np.array([1, 2, -1, 1.0]), "weight of class 2 out of range"),
        (np.array([1, np.nan, 1, 1]), "weight of class 1 out of range"),
        (np.array([1, np.inf, 1, 1]), "weight of class 1 out of range"),
        (np.zeros(4), "all class weights are 0"),
        (np.array(["a", "b", "c", "d"]), "expected (4,) numbers"),
        (b"not an array", "damaged, or of another kind than its suffix says"),
        (b"", "damaged, or of another kind than its suffix says"),
    ],
)
def test_bad_class_weights_are_refused(
    weights: Any, words: str, tmp_path: Path, hard: Hard, resmem: Resmem
) -> None:
    path = tmp_path / "w.npy"
    if isinstance(weights, bytes):
        path.write_bytes(weights)
    else:
        np.save(path, weights)
    done = resmem("tune", hard.test, *hard.memory, "--class-weights", path, "-o", tmp_path / "t.h5")
    assert_refused(done, 65, path, words)
    assert list(tmp_path.iterdir()) == [path]


def test_weights_under_which_no_query_counts_are_refused(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    with open_artifact(pipeline.test) as file:
        labels = file.read("labels")
        rows = {name: file.read(name)[labels > 0] for name in ("embeddings", "logits", "labels")}
    np.savez(tmp_path / "q.npz", **rows)
    np.save(tmp_path / "w.npy", np.array([1.0, 0, 0, 0, 0]))
    files = ["--index", pipeline.index, "--train", pipeline.train, "--class-weights", tmp_path / "w.npy"]
    done = resmem("tune", tmp_path / "q.npz", *files, "-k", "5", "-o", tmp_path / "t.h5")
    assert_refused(done, 65, "no query counts")
    assert not (tmp_path / "t.h5").exists()


# --- what it is tuned on


def test_a_fraction_of_the_queries_is_drawn_by_the_seed(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    drawn = {}
    for name, seed in (("a", 0), ("again", 0), ("b", 1)):
        options = [*GRID, "--fraction", "0.3", "--seed", seed, "-o", tmp_path / f"{name}.h5"]
        assert resmem("tune", hard.test, *hard.memory, *options).status == 0
        drawn[name] = rows_of(tmp_path / f"{name}.h5")
    assert len(drawn["a"]) == 27
    assert (np.diff(drawn["a"]) > 0).all()
    assert drawn["a"][0] >= 0
    assert drawn["a"][-1] < N_TEST
    assert not np.array_equal(drawn["a"], drawn["b"])
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "again.h5").read_bytes()
    data = parameters_of(tmp_path / "b.h5")["data"]
    assert (data["kind"], data["file"], data["rows"], data["of"], data["seed"]) == (
        "queries",
        "test.h5",
        27,
        90,
        1,
    )


def test_tuning_on_some_rows_is_tuning_on_a_file_of_these(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    options = [*GRID, "--fraction", "0.4", "--seed", "3", "-o", tmp_path / "t.h5"]
    assert resmem("tune", hard.test, *hard.memory, *options).status == 0
    rows, arrays = rows_of(tmp_path / "t.h5"), hard_arrays()
    some = {name: arrays[f"test_{name}"][rows] for name in ("embeddings", "logits", "labels")}
    np.savez(tmp_path / "some.npz", **some)
    assert resmem("tune", tmp_path / "some.npz", *hard.memory, *GRID, "-o", tmp_path / "s.h5").status == 0
    for group in ("grid", "knn", "knn_lm"):
        one, other = grid_of(tmp_path / "t.h5", group), grid_of(tmp_path / "s.h5", group)
        for name, values in one.items():
            assert np.array_equal(values, other[name])
    of_rows, of_file = (parameters_of(tmp_path / name) for name in ("t.h5", "s.h5"))
    for name in ("best", "softening", "gate", "base_temperature", "knn", "knn_lm"):
        assert of_rows[name] == of_file[name]


def test_all_queries_leave_no_list_of_rows(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    assert resmem("tune", hard.test, *hard.memory, *GRID, "-o", tmp_path / "t.h5").status == 0
    with open_artifact(tmp_path / "t.h5") as file:
        assert "rows" not in file
        assert file.parameters["data"]["seed"] is None


def test_exported_arrays_and_their_artifacts_are_tuned_alike(
    tmp_path: Path, hard: Hard, resmem: Resmem
) -> None:
    arrays = hard.folder / "arrays.npz"
    memory = ["--index", hard.index, "--train", arrays, "--train-split", "train"]
    for queries, options in ((arrays, [*memory, "--split", "test"]), (hard.test, hard.memory)):
        done = resmem("tune", queries, *options, *GRID, "-o", tmp_path / f"{queries.stem}.h5")
        assert done.status == 0, done.stderr
    one, other = grid_of(tmp_path / "arrays.h5"), grid_of(tmp_path / "test.h5")
    for name, values in one.items():
        assert np.array_equal(values, other[name])
    digests = {
        parameters_of(tmp_path / f"{queries.stem}.h5")["data"]["embeddings_digest"]
        for queries in (arrays, hard.test)
    }
    assert len(digests) == 1


def leave_one_out_by_hand(arrays: dict[str, NDArray[Any]], one: dict[str, Any]) -> float:
    """Accuracy of the rows, each from all others, in float64."""
    embeddings, logits, labels = (arrays[name] for name in ("embeddings", "logits", "labels"))
    distances = np.linalg.norm(embeddings[:, None].astype(np.float64) - embeddings[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    rows = np.argsort(distances, axis=1, kind="stable")[:, : one["k"]]
    weights = neighbor_weights(np.take_along_axis(distances, rows, axis=1), sigma=one["sigma"])
    shares = np.exp(logits.astype(np.float64) / one["temperature"])
    shares /= shares.sum(axis=1, keepdims=True)
    residuals = np.eye(logits.shape[1])[labels] - shares
    scores = shares + one["strength"] * np.einsum("qk,qkc->qc", weights, residuals[rows])
    return float((scores.argmax(axis=1) == labels).mean())


def test_leave_one_out_takes_every_row_but_the_own(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    done = resmem("tune", *hard.memory, *GRID, "--leave-one-out", "-o", tmp_path / "t.h5")
    assert done.status == 0, done.stderr
    assert "tuned on the memory's own rows" in done.stderr
    assert "tune QUERIES --leave-one-out` measures the difference" in done.stderr
    grid = grid_of(tmp_path / "t.h5")
    arrays = {name.removeprefix("train_"): array for name, array in hard_arrays().items() if "train" in name}
    for i in range(len(grid["k"])):
        one = point(grid, i)
        assert one["accuracy"] == pytest.approx(leave_one_out_by_hand(arrays, one), abs=1e-12)
    data = parameters_of(tmp_path / "t.h5")["data"]
    assert (data["kind"], data["file"], data["rows"]) == ("leave-one-out", "train.h5", N_TRAIN)


def test_leave_one_out_keeps_duplicates_of_the_own_row(tmp_path: Path, resmem: Resmem) -> None:
    rng = np.random.default_rng(0)
    half = {
        "embeddings": rng.normal(size=(40, 3)).astype(np.float32),
        "logits": rng.normal(size=(40, 3)).astype(np.float32),
        "labels": rng.integers(0, 3, 40),
    }
    # Each row twice: for a small sigma its twin tells the label, which nothing else does.
    np.savez(tmp_path / "twins.npz", **{name: np.concatenate([a, a]) for name, a in half.items()})
    np.savez(tmp_path / "single.npz", **half)
    accuracy = {}
    for name in ("twins", "single"):
        memory = ["--index", f"{name}.index.h5", "--train", f"{name}.npz"]
        options = ["--leave-one-out", "-k", "1,3", "--sigma", "1e-6", "-T", "1", "-o", f"{name}.h5"]
        assert resmem("index", f"{name}.npz", "-o", f"{name}.index.h5", cwd=tmp_path).status == 0
        assert resmem("tune", *memory, *options, cwd=tmp_path).status == 0
        accuracy[name] = set(grid_of(tmp_path / f"{name}.h5")["accuracy"])
        assert set(grid_of(tmp_path / f"{name}.h5", "knn")["accuracy"]) == accuracy[name] or name == "single"
    assert accuracy["twins"] == {1}
    assert max(accuracy["single"]) < 0.7


def test_a_sample_of_the_memory_is_drawn_by_the_seed(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    drawn = {}
    for seed in (0, 1):
        options = [*GRID, "--leave-one-out", "--sample", "50", "--seed", seed, "-o", tmp_path / f"{seed}.h5"]
        assert resmem("tune", *hard.memory, *options).status == 0
        drawn[seed] = rows_of(tmp_path / f"{seed}.h5")
        assert len(set(drawn[seed])) == 50
        assert parameters_of(tmp_path / f"{seed}.h5")["n_queries"] == 50
    assert not np.array_equal(drawn[0], drawn[1])


@pytest.mark.parametrize("weights", [[], ["--class-weights", "balanced"]])
def test_leave_one_out_with_queries_measures_what_it_promises_too_much(
    weights: list[str], tmp_path: Path, hard: Hard, resmem: Resmem
) -> None:
    options = [*GRID, *weights, "--leave-one-out", "-o", tmp_path / "t.h5", "--json"]
    done = resmem("tune", hard.test, *hard.memory, *options)
    assert done.status == 0, done.stderr
    plain = resmem("tune", hard.test, *hard.memory, *GRID, *weights, "-o", tmp_path / "p.h5", "--json")
    result, elsewhere = done.result, done.result["elsewhere"]
    grid = grid_of(tmp_path / "p.h5")
    [same] = [
        one
        for i in range(len(grid["k"]))
        if all((one := point(grid, i))[name] == result[name] for name in SETTINGS)
    ]
    assert elsewhere["base_accuracy"] == plain.result["base_accuracy"]
    assert elsewhere["accuracy"] == same["accuracy"]
    assert elsewhere["gain"] == same["accuracy"] - plain.result["base_accuracy"]
    assert elsewhere["optimism"] == pytest.approx(result["gain"] - elsewhere["gain"])
    written = parameters_of(tmp_path / "t.h5")["elsewhere"]
    assert written["best"] == parameters_of(tmp_path / "p.h5")["best"]
    assert {name: written[name] for name in elsewhere} == elsewhere
    assert f"{100 * elsewhere['gain']:+.2f} on the queries" in done.stderr


def test_tuned_on_the_memory_marks_no_queries(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    tuning = ["--tuning", tmp_path / "t.h5"]
    options = [*GRID, "--leave-one-out", "-o", tmp_path / "t.h5"]
    assert resmem("tune", hard.test, *hard.memory, *options).status == 0
    assert resmem("residualize", hard.train, *tuning, "-o", tmp_path / "r.h5").status == 0
    files = ["--index", hard.index, "--residuals", tmp_path / "r.h5", "-o", tmp_path / "p.h5"]
    assert resmem("predict", hard.test, *files, *tuning).status == 0
    with open_artifact(tmp_path / "p.h5") as file:
        assert "tuned_on" not in file


# --- other options


def test_baselines_are_tuned_alike_or_left_out(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    done = resmem("tune", hard.test, *hard.memory, *GRID, "-o", tmp_path / "t.h5", "--json")
    knn, lm = (grid_of(tmp_path / "t.h5", group) for group in ("knn", "knn_lm"))
    assert len(knn["k"]) == 9
    assert done.result["knn"]["accuracy"] == knn["accuracy"].max()
    assert done.result["knn_lm"]["accuracy"] == lm["accuracy"].max()
    assert set(lm["strength"]) == {round(0.1 * i, 1) for i in range(1, 10)}
    assert set(lm["temperature"]) == {0.7, 1, 1.4}
    without = resmem(
        "tune", hard.test, *hard.memory, *GRID, "--no-baselines", "-o", tmp_path / "n.h5", "--json"
    )
    assert "knn" not in without.result
    assert grid_of(tmp_path / "n.h5", "knn") == {}
    assert parameters_of(tmp_path / "n.h5")["knn_lm"] is None
    assert parameters_of(tmp_path / "n.h5")["best"] == parameters_of(tmp_path / "t.h5")["best"]


def test_knn_counts_as_predict_s_votes_do(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    done = resmem("tune", hard.test, *hard.memory, *GRID, "-o", tmp_path / "t.h5", "--json")
    assert resmem("residualize", hard.train, "-o", tmp_path / "r.h5").status == 0
    best = done.result["knn"]
    files = ["--index", hard.index, "--residuals", tmp_path / "r.h5", "-o", tmp_path / "p.h5"]
    options = ["-k", best["k"], "--sigma", best["sigma"], "--method", "knn", "--json"]
    assert resmem("predict", hard.test, *files, *options).result["accuracy"] == best["accuracy"]


def test_in_logit_space_the_temperature_is_fitted_as_it_changes_no_answer(
    tmp_path: Path, hard: Hard, resmem: Resmem
) -> None:
    options = ["-k", "5,30", "--sigma", "0.8,3", "--space", "logit"]
    assert resmem("tune", hard.test, *hard.memory, *options, "-o", tmp_path / "t.h5").status == 0
    grid, parameters = grid_of(tmp_path / "t.h5"), parameters_of(tmp_path / "t.h5")
    assert set(grid["temperature"]) == {1}
    assert parameters["space"] == "logit"
    assert parameters["softening"] is None
    assert parameters["best"]["accuracy"] == grid["accuracy"].max()
    tuning = ["--tuning", tmp_path / "t.h5"]
    assert resmem("residualize", hard.train, *tuning, "-o", tmp_path / "r.h5").status == 0
    assert parameters_of(tmp_path / "r.h5")["space"] == "logit"
    files = ["--index", hard.index, "--residuals", tmp_path / "r.h5", "-o", tmp_path / "p.h5"]
    done = resmem("predict", hard.test, *files, *tuning, "--json")
    assert done.result["accuracy"] == grid["accuracy"].max()
    with open_artifact(tmp_path / "p.h5") as file:
        scores, labels = file.read("scores").astype(np.float64), file.read("labels")

    def nll(power: float) -> float:
        powers = scores**power
        return float(-np.log((powers / powers.sum(axis=1, keepdims=True))[np.arange(N_TEST), labels]).mean())

    assert nll(1) <= min(nll(0.95), nll(1.05))


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_approximate_index_is_tuned_on_what_it_finds(
    kind: str, tmp_path: Path, hard: Hard, resmem: Resmem
) -> None:
    index = tmp_path / "index.h5"
    assert resmem("index", hard.train, "--kind", kind, "-o", index).status == 0
    memory = ["--index", index, "--train", hard.train]
    done = resmem("tune", hard.test, *memory, *GRID, "-o", tmp_path / "t.h5", "--json")
    assert done.status == 0, done.stderr
    assert parameters_of(tmp_path / "t.h5")["search"] is not None
    tuning = ["--tuning", tmp_path / "t.h5"]
    assert resmem("residualize", hard.train, *tuning, "-o", tmp_path / "r.h5").status == 0
    files = ["--index", index, "--residuals", tmp_path / "r.h5", "-o", tmp_path / "p.h5"]
    predicted = resmem("predict", hard.test, *files, *tuning, "--json").result
    assert predicted["accuracy"] == pytest.approx(done.result["accuracy"], abs=2 / N_TEST)


@pytest.mark.parametrize("options", [[], ["--leave-one-out"], ["--space", "logit"], ["--top", "2"]])
def test_the_same_command_gives_the_same_bytes_with_little_memory_too(
    options: list[str], tmp_path: Path, hard: Hard, resmem: Resmem
) -> None:
    for name, more in (("a", []), ("b", []), ("small", ["--memory", "16M"])):
        output = ["-o", tmp_path / f"{name}.h5", *options, *more]
        assert resmem("tune", hard.test, *hard.memory, *output).status == 0
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "small.h5").read_bytes()


def test_the_number_of_threads_changes_nothing(tmp_path: Path, hard: Hard, resmem_process: Resmem) -> None:
    for threads in ("1", "2"):
        options = ["--objective", "nll", "-o", tmp_path / f"{threads}.h5"]
        done = resmem_process(
            "tune", hard.test, *hard.memory, *GRID, *options, env={"OMP_NUM_THREADS": threads}
        )
        assert done.status == 0, done.stderr
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()


def test_the_output_lies_beside_what_it_was_tuned_on(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    for name in ("test", "train", "index"):
        shutil.copy(hard.folder / f"{name}.h5", tmp_path)
    memory = ["--index", "index.h5", "--train", "train.h5"]
    assert resmem("tune", "test.h5", *memory, *GRID, cwd=tmp_path).status == 0
    assert resmem("tune", *memory, *GRID, "--leave-one-out", cwd=tmp_path).status == 0
    made = {path.name for path in tmp_path.iterdir()} - {"test.h5", "train.h5", "index.h5"}
    assert made == {"test.tuning.h5", "train.tuning.h5"}


# --- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-k", "10,241"], "k out of range (expected 1 to 240, found 241)"),
        (["-k", "240", "--leave-one-out"], "k out of range (expected 1 to 239, found 240)"),
        (["-k", "0"], "k out of range"),
        (["-k", "1.5"], "-k: not a whole number"),
        (["-k", "a"], "-k: no list of numbers"),
        (["--sigma", "0,1"], "sigma out of range"),
        (["--sigma", "1:2"], "--sigma: no list of numbers"),
        (["-T", "0,1"], "temperature out of range"),
        (["-T", "x"], "--temperature: no list of numbers"),
        (["--strength", "-1,1"], "strength out of range"),
        (["--strength", "1,"], "--strength: no list of numbers"),
        (["--objective", "f1"], "--objective (expected accuracy or tpr or nll, found f1)"),
        (["--objective", "tpr", "--max-fpr", "0"], "--max-fpr out of range"),
        (["--objective", "tpr", "--max-fpr", "nan"], "--max-fpr out of range"),
        (["--fraction", "0"], "--fraction out of range"),
        (["--fraction", "1"], "--fraction out of range"),
        (["--fraction", "nan"], "--fraction out of range"),
        (["--fraction", "0.5", "--leave-one-out"], "--fraction is for queries"),
        (["--fraction", "0.5", "--seed", "-1"], "--seed out of range (expected at least 0, found -1)"),
        (["--leave-one-out", "--sample", "0"], "--sample out of range"),
        (["--sample", "5"], "--sample is for --leave-one-out"),
        (["--max-fpr", "0.1"], "--max-fpr is for --objective tpr"),
        (["--top", "0"], "top out of range (expected 1 to 4 (the classes), found 0)"),
        (["--top", "5"], "top out of range"),
        (["--top", "-1"], "top out of range"),
        (
            ["--top", "2", "--space", "logit"],
            "--top keeps entries that sum to 0 (expected --space probability)",
        ),
        (["--recall", "0.9"], "an exact index finds all neighbours"),
        (["--memory", "1"], "too little memory"),
    ],
)
def test_options_out_of_range_are_refused(
    options: list[str], words: str, tmp_path: Path, hard: Hard, resmem: Resmem
) -> None:
    done = resmem("tune", hard.test, *hard.memory, *options, "-o", tmp_path / "t.h5")
    assert_refused(done, 2, words)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_tune_on_is_refused(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    done = resmem("tune", *hard.memory, "-o", tmp_path / "t.h5")
    assert_refused(done, 2, "nothing to tune on", "--leave-one-out")


@pytest.mark.parametrize("missing", ["labels", "logits"])
@pytest.mark.parametrize("role", ["queries", "train", "memory alone"])
def test_rows_without_labels_or_logits_are_refused(
    missing: str, role: str, tmp_path: Path, hard: Hard, resmem: Resmem
) -> None:
    arrays = hard_arrays()
    split = "test" if role == "queries" else "train"
    names = {"embeddings", "logits", "labels"} - {missing}
    np.savez(tmp_path / "rows.npz", **{name: arrays[f"{split}_{name}"] for name in names})
    rows = tmp_path / "rows.npz"
    if role == "queries":
        given: list[object] = [rows, *hard.memory]
    else:
        given = ["--index", hard.index, "--train", rows]
        given.insert(0, hard.test) if role == "train" else given.append("--leave-one-out")
    assert_refused(resmem("tune", *given, "-o", tmp_path / "t.h5"), 65, "rows.npz", f"has no {missing}")
    assert list(tmp_path.iterdir()) == [rows]


def test_embeddings_that_the_index_was_not_made_from_are_refused(
    tmp_path: Path, hard: Hard, pipeline: Pipeline, resmem: Resmem
) -> None:
    arrays = hard_arrays()
    other = {name: arrays[f"train_{name}"].copy() for name in ("embeddings", "logits", "labels")}
    other["embeddings"][0, 0] += 1
    np.savez(tmp_path / "other.npz", **other)
    for train in (hard.test, tmp_path / "other.npz"):
        done = resmem("tune", hard.test, "--index", hard.index, "--train", train, "-o", tmp_path / "t.h5")
        assert_refused(done, 65, hard.index, train)
    done = resmem("tune", pipeline.test, *hard.memory, "-o", tmp_path / "t.h5")
    assert_refused(done, 65, pipeline.test, hard.index, "dimension")
    assert not (tmp_path / "t.h5").exists()


@pytest.mark.parametrize("role", ["queries", "--index", "--train", "--class-weights"])
def test_a_missing_file_is_refused(role: str, tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    files = {"queries": hard.test, "--index": hard.index, "--train": hard.train}
    files[role] = tmp_path / "nowhere.h5"
    queries = files.pop("queries")
    options = [part for pair in files.items() for part in pair]
    done = resmem("tune", queries, *options, "-o", tmp_path / "t.h5")
    assert_refused(done, 66, "nowhere.h5", "no such file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("role", ["queries", "--index", "--train", "--class-weights"])
def test_an_output_that_is_an_input_is_refused(role: str, tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    np.save(tmp_path / "w.npy", np.ones(C))
    files: dict[str, Path] = {"--class-weights": tmp_path / "w.npy"}
    for option, name in (("queries", "test"), ("--index", "index"), ("--train", "train")):
        files[option] = Path(shutil.copy(hard.folder / f"{name}.h5", tmp_path))
    target = files[role]
    before = target.read_bytes()
    queries = files.pop("queries")
    done = resmem("tune", queries, *(part for pair in files.items() for part in pair), "-o", target)
    assert_refused(done, 2, target, "also an input")
    assert target.read_bytes() == before


def test_no_clobber_keeps_an_existing_tuning(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    (tmp_path / "t.h5").write_text("precious")
    done = resmem("tune", hard.test, *hard.memory, *GRID, "-o", tmp_path / "t.h5", "--no-clobber")
    assert_refused(done, 74, "--no-clobber")
    assert (tmp_path / "t.h5").read_text() == "precious"


def test_identical_rows_need_a_sigma(tmp_path: Path, resmem: Resmem) -> None:
    same = {
        "embeddings": np.ones((60, 2), np.float32),
        "logits": np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32),
        "labels": np.arange(60) % 2,
    }
    np.savez(tmp_path / "same.npz", **same)
    assert resmem("index", "same.npz", "-o", "i.h5", cwd=tmp_path).status == 0
    files = ["same.npz", "--index", "i.h5", "--train", "same.npz", "-o", "t.h5"]
    assert_refused(resmem("tune", *files, cwd=tmp_path), 2, "no automatic sigma", "--sigma")
    assert resmem("tune", *files, "--sigma", "1", cwd=tmp_path).status == 0


# --- the commands that take the choice


@pytest.fixture
def tuned(tmp_path: Path, hard: Hard, resmem: Resmem) -> Path:
    """A tuning on 0.4 of the test rows, with its residuals in `r.h5`."""
    options = [*GRID, "--fraction", "0.4", "-o", tmp_path / "t.h5"]
    assert resmem("tune", hard.test, *hard.memory, *options).status == 0
    tuning = ["--tuning", tmp_path / "t.h5", "-o", tmp_path / "r.h5"]
    assert resmem("residualize", hard.train, *tuning).status == 0
    return tmp_path / "t.h5"


def test_residualize_takes_temperature_space_and_top(tmp_path: Path, hard: Hard, resmem: Resmem) -> None:
    for options in (["--top", "3"], ["--space", "logit"]):
        assert resmem("tune", hard.test, *hard.memory, *GRID, *options, "-o", tmp_path / "t.h5").status == 0
        tuning = ["--tuning", tmp_path / "t.h5", "-o", tmp_path / "r.h5"]
        assert resmem("residualize", hard.train, *tuning).status == 0
        made, chosen = parameters_of(tmp_path / "r.h5"), parameters_of(tmp_path / "t.h5")
        assert made["temperature"] == chosen["best"]["temperature"]
        assert (made["top"], made["space"]) == (chosen["top"], chosen["space"])
        with open_artifact(tmp_path / "r.h5") as file:
            assert "tuning" in {record.role for record in file.header.inputs}


def test_a_temperature_beside_a_tuning_is_refused(
    tmp_path: Path, hard: Hard, tuned: Path, resmem: Resmem
) -> None:
    done = resmem("residualize", hard.train, "--tuning", tuned, "-T", "1", "-o", tmp_path / "x.h5")
    assert_refused(done, 2, "--temperature and --tuning", "give one of them")


def test_predict_takes_k_sigma_and_strength_unless_they_are_given(
    tmp_path: Path, hard: Hard, tuned: Path, resmem: Resmem
) -> None:
    files = ["--index", hard.index, "--residuals", tmp_path / "r.h5", "--tuning", tuned]
    best = parameters_of(tuned)["best"]
    done = resmem("predict", hard.test, *files, "-o", tmp_path / "p.h5", "--json")
    assert done.status == 0, done.stderr
    made = parameters_of(tmp_path / "p.h5")
    assert {name: made[name] for name in SETTINGS} == {name: best[name] for name in SETTINGS}
    assert done.result["sigma_from"] == str(tuned)
    with open_artifact(tmp_path / "p.h5") as file:
        assert "tuning" in {record.role for record in file.header.inputs}
        marked = file.read("tuned_on") == 1
        assert np.array_equal(np.flatnonzero(marked), rows_of(tuned))
        right = file.read("predicted") == file.read("labels")
    assert right[marked].mean() == best["accuracy"]
    given = ["-k", "7", "--sigma", "0.4", "--strength", "0.25", "-o", tmp_path / "p.h5"]
    assert resmem("predict", hard.test, *files, *given).status == 0
    made = parameters_of(tmp_path / "p.h5")
    assert (made["k"], made["sigma"], made["strength"]) == (7, 0.4, 0.25)


def test_other_queries_are_not_marked(tmp_path: Path, hard: Hard, tuned: Path, resmem: Resmem) -> None:
    files = ["--index", hard.index, "--residuals", tmp_path / "r.h5", "--tuning", tuned]
    assert resmem("predict", hard.train, *files, "-o", tmp_path / "p.h5").status == 0
    with open_artifact(tmp_path / "p.h5") as file:
        assert "tuned_on" not in file


def test_a_tuning_of_another_memory_is_refused(
    tmp_path: Path, pipeline: Pipeline, tuned: Path, resmem: Resmem
) -> None:
    memory = ["--index", pipeline.index, "--residuals", pipeline.residuals]
    done = resmem("predict", pipeline.test, *memory, "--tuning", tuned, "-o", tmp_path / "p.h5")
    assert_refused(done, 65, tuned, pipeline.index, "tuned on another memory")
    assert not (tmp_path / "p.h5").exists()


@pytest.mark.parametrize("options", [["-T", "1.1"], ["--space", "logit", "-T", "SAME"]])
def test_residuals_of_another_temperature_or_space_are_refused(
    options: list[str], tmp_path: Path, hard: Hard, tuned: Path, resmem: Resmem
) -> None:
    temperature = str(parameters_of(tuned)["best"]["temperature"])
    options = [temperature if option == "SAME" else option for option in options]
    assert resmem("residualize", hard.train, *options, "-o", tmp_path / "other.h5").status == 0
    files = ["--index", hard.index, "--residuals", tmp_path / "other.h5", "--tuning", tuned]
    done = resmem("predict", hard.test, *files, "-o", tmp_path / "p.h5")
    assert_refused(done, 65, tuned, "another temperature or space", f"--tuning {tuned}")
    assert not (tmp_path / "p.h5").exists()


@pytest.mark.parametrize(("make", "status"), [("missing", 66), ("index", 65), ("text", 65)])
@pytest.mark.parametrize("command", ["residualize", "predict"])
def test_a_bad_tuning_is_refused(
    command: str, make: str, status: int, tmp_path: Path, hard: Hard, resmem: Resmem
) -> None:
    bad = {"missing": tmp_path / "bad.h5", "index": hard.index, "text": tmp_path / "bad.h5"}[make]
    if make == "text":
        bad.write_text("no tuning")
    more: list[object] = []
    source = hard.train
    if command == "predict":
        assert resmem("residualize", hard.train, "-o", tmp_path / "r.h5").status == 0
        source, more = hard.test, ["--index", hard.index, "--residuals", tmp_path / "r.h5"]
    done = resmem(command, source, *more, "--tuning", bad, "-o", tmp_path / "out.h5")
    assert_refused(done, status, bad)
    assert not (tmp_path / "out.h5").exists()


def test_a_tuning_is_no_output_of_a_command_that_reads_it(
    tmp_path: Path, hard: Hard, tuned: Path, resmem: Resmem
) -> None:
    before = tuned.read_bytes()
    assert_refused(resmem("residualize", hard.train, "--tuning", tuned, "-o", tuned), 2, "also an input")
    files = ["--index", hard.index, "--residuals", tmp_path / "r.h5", "--tuning", tuned]
    assert_refused(resmem("predict", hard.test, *files, "-o", tuned), 2, "also an input")
    assert tuned.read_bytes() == before


def test_analyze_leaves_out_what_was_tuned_on(
    tmp_path: Path, hard: Hard, tuned: Path, resmem: Resmem
) -> None:
    files = ["--index", hard.index, "--residuals", tmp_path / "r.h5", "-o", tmp_path / "p.h5"]
    assert resmem("predict", hard.test, *files, "--tuning", tuned).status == 0
    done = resmem("analyze", tmp_path / "p.h5", "--json")
    [run] = done.result["runs"]
    others = np.setdiff1d(np.arange(N_TEST), rows_of(tuned))
    with open_artifact(tmp_path / "p.h5") as file:
        right = (file.read("predicted") == file.read("labels"))[others]
    assert run["n"] == len(others) == 54
    assert run["accuracy"] == right.mean()
    assert "36 of 90 queries, on which settings were tuned, are left out" in done.stderr


def test_analyze_with_the_tuning_leaves_its_rows_out_of_predictions_made_without_it(
    tmp_path: Path, hard: Hard, tuned: Path, resmem: Resmem
) -> None:
    best = parameters_of(tuned)["best"]
    settings = ["-k", best["k"], "--sigma", best["sigma"], "--strength", best["strength"]]
    files = ["--index", hard.index, "--residuals", tmp_path / "r.h5", "-o", tmp_path / "p.h5"]
    assert resmem("predict", hard.test, *files, *settings).status == 0
    [alone] = resmem("analyze", tmp_path / "p.h5", "--json").result["runs"]
    done = resmem("analyze", tmp_path / "p.h5", "--tuning", tuned, "--json")
    [run] = done.result["runs"]
    assert (alone["n"], run["n"]) == (90, 54)
    assert "are left out" in done.stderr


def test_analyze_flags_predictions_of_which_all_were_tuned_on(
    tmp_path: Path, hard: Hard, resmem: Resmem
) -> None:
    tuning = ["--tuning", tmp_path / "t.h5"]
    assert resmem("tune", hard.test, *hard.memory, *GRID, "-o", tmp_path / "t.h5").status == 0
    assert resmem("residualize", hard.train, *tuning, "-o", tmp_path / "r.h5").status == 0
    files = ["--index", hard.index, "--residuals", tmp_path / "r.h5", "-o", tmp_path / "p.h5"]
    assert resmem("predict", hard.test, *files, *tuning).status == 0
    done = resmem("analyze", tmp_path / "p.h5", "--json")
    [run] = done.result["runs"]
    assert run["n"] == N_TEST
    assert "the settings were tuned on these same queries, so the gain is optimistic" in done.stderr


def test_queries_of_the_fixture_are_tuned_on_by_half(pipeline: Pipeline) -> None:
    rows = rows_of(pipeline.tuning)
    assert len(rows) == 40
    assert len(classifier_arrays()["test_labels"]) == 80
