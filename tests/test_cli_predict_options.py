"""Strength, gates, probabilities, baselines and logit space on the command line of `predict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import N_TEST, Finished, Pipeline, Resmem, classifier_arrays
from numpy.typing import NDArray

from resmem_cli import Softening, open_artifact, to_probabilities
from resmem_cli.artifacts.formats import PREDICTIONS
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.memory import neighbor_votes
from resmem_cli.quality import Outcomes, outcomes
from resmem_cli.residuals import softmax
from resmem_cli.stages.comparison import VOTE_WEIGHTS
from resmem_cli.types import ProbabilityMethod
from resmem_cli.weights import neighbor_weights

K, SIGMA = 20, 0.9
SETTINGS = ("-k", K, "--sigma", SIGMA)
COLUMNS = ("predicted", "label_probability", "confidence", "squares", "label_rank")
METHODS = list(ProbabilityMethod)


@dataclass(frozen=True)
class Predict:
    """`resmem predict` on the test queries."""

    resmem: Resmem
    pipeline: Pipeline
    folder: Path

    def run(self, *options: object, residuals: Path | None = None, name: str = "p.h5") -> Finished:
        memory = ("--index", self.pipeline.index, "--residuals", residuals or self.pipeline.residuals)
        output = self.folder / name
        return self.resmem("predict", self.pipeline.test, *memory, *options, "-o", output, "--json")

    def __call__(self, *options: object, residuals: Path | None = None, name: str = "p.h5") -> Path:
        done = self.run(*options, residuals=residuals, name=name)
        assert done.status == 0, done.stderr
        return self.folder / name


@pytest.fixture
def predict(tmp_path: Path, pipeline: Pipeline, resmem: Resmem) -> Predict:
    return Predict(resmem, pipeline, tmp_path)


@pytest.fixture(scope="module")
def logit(tmp_path_factory: pytest.TempPathFactory, pipeline: Pipeline) -> Path:
    """Residuals in logit space."""
    from resmem_cli import ResidualizeConfig, ResidualSpace, residualize

    output = tmp_path_factory.mktemp("logit") / "residuals.h5"
    residualize(pipeline.train, output=output, config=ResidualizeConfig(space=ResidualSpace.LOGIT))
    return output


def contents(path: Path) -> dict[str, NDArray[Any]]:
    with open_artifact(path) as file:
        return {name: file.read(name) for name in file.shapes}


def parameters_of(path: Path) -> dict[str, Any]:
    with open_artifact(path) as file:
        return dict(file.parameters)


def assert_refused(done: Finished, status: int, *parts: object) -> None:
    assert done.status == status, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    for part in ("resmem: error: ", *parts):
        assert str(part) in line


def oracle_scores(strength: float, *, in_logits: bool = False) -> NDArray[np.float64]:
    """Scores in float64, straight from the formulas."""
    arrays: dict[str, Any] = classifier_arrays()
    train, test = (arrays[f"{split}_embeddings"].astype(np.float64) for split in ("train", "test"))
    distances = np.linalg.norm(test[:, None] - train[None], axis=2)
    rows = np.argsort(distances, axis=1, kind="stable")[:, :K]
    weights = np.exp(-np.take_along_axis(distances, rows, axis=1) / SIGMA)
    weights /= weights.sum(axis=1, keepdims=True)
    labels = arrays["train_labels"]
    f, queries = arrays["train_logits"].astype(np.float64), arrays["test_logits"].astype(np.float64)

    def probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled = np.exp(logits / 1.4)
        normalised: NDArray[np.float64] = scaled / scaled.sum(axis=1, keepdims=True)
        return normalised

    if in_logits:
        means = np.array([f[labels == c].mean(axis=0) for c in range(5)])
        memory = np.einsum("qk,qkc->qc", weights, (means[labels] - f)[rows])
        return probabilities(queries + strength * memory)
    memory = np.einsum("qk,qkc->qc", weights, (np.eye(5)[labels] - probabilities(f))[rows])
    scores: NDArray[np.float64] = probabilities(queries) + strength * memory
    return scores


# --- strength


@pytest.mark.parametrize("strength", [0.25, 0.5, 2.0])
def test_strength_is_a_factor_of_the_memory_s_share(strength: float, predict: Predict) -> None:
    path = predict(*SETTINGS, "--strength", strength)
    found, expected = contents(path), oracle_scores(strength)
    assert np.abs(found["scores"] - expected).max() < 2e-6
    assert np.array_equal(found["predicted"], expected.argmax(axis=1))
    assert parameters_of(path)["strength"] == strength


def test_strength_one_is_what_there_is_without(predict: Predict, pipeline: Pipeline) -> None:
    assert predict("-k", K, "--strength", "1").read_bytes() == pipeline.predictions.read_bytes()


def test_no_strength_is_the_network_alone(predict: Predict) -> None:
    done = predict.run(*SETTINGS, "--strength", "0")
    assert done.result["accuracy"] == done.result["base_accuracy"]
    assert (done.result["gain"], done.result["share_fixed"]) == (0, 1)
    found = contents(predict.folder / "p.h5")
    expected = softmax(classifier_arrays()["test_logits"], temperature=1.4)
    assert found["scores"].tobytes() == expected.tobytes()
    assert not found["neighbors/contributions"].any()


def test_fixed_answers_are_told_and_are_the_network_s(predict: Predict) -> None:
    done = predict.run(*SETTINGS, "--strength", "0.2")
    found = contents(predict.folder / "p.h5")
    fixed = found["gate/fixed"] == 1
    assert 0 < fixed.mean() < 1
    assert done.result["share_fixed"] == fixed.mean()
    assert done.result["share_open"] == found["gate/open"].mean() == 1
    assert np.array_equal(found["predicted"][fixed], found["base_predicted"][fixed])


# --- gates


def test_a_gate_by_hand_lets_the_network_answer_where_it_is_closed(predict: Predict) -> None:
    whole = contents(predict(*SETTINGS))
    nearest = float(np.median(whole["neighbors/distances"][:, 0]))
    path = predict(*SETTINGS, "--gate-distance", nearest, "--gate-confidence", "0.6", name="g.h5")
    found = contents(path)
    opened = (whole["neighbors/distances"][:, 0] <= nearest) & (whole["base_confidence"] <= 0.6)
    assert 0 < opened.sum() < N_TEST
    assert np.array_equal(found["gate/open"], opened)
    assert np.array_equal(found["predicted"], np.where(opened, whole["predicted"], whole["base_predicted"]))
    base = softmax(classifier_arrays()["test_logits"], temperature=1.4)
    assert np.array_equal(found["scores"], np.where(opened[:, None], whole["scores"], base))
    assert np.array_equal(found["gate/fixed"], whole["base_confidence"] > 0.6)
    assert not found["neighbors/contributions"][~opened].any()
    assert parameters_of(path)["gate"] == {"distance": nearest, "confidence": 0.6}


def test_the_tuned_gate_is_used_only_if_asked_for(
    predict: Predict, pipeline: Pipeline, resmem: Resmem, tmp_path: Path
) -> None:
    tuned = with_gate(pipeline.tuning, tmp_path / "gate.h5", distance=None, confidence=0.55)
    plain = contents(predict("--tuning", tuned, name="plain.h5"))
    found = contents(predict("--tuning", tuned, "--gate", name="gated.h5"))
    assert not any(name.startswith("gate/") for name in plain)
    closed = plain["base_confidence"] > 0.55
    assert 0 < closed.sum() < N_TEST
    assert np.array_equal(found["gate/open"] == 0, closed)
    assert np.array_equal(found["gate/fixed"] == 1, closed)


def with_gate(tuning: Path, output: Path, **limits: float | None) -> Path:
    return rewritten(tuning, output, parameters=lambda old: {**old, "gate": {**old["gate"], **limits}})


def rewritten(path: Path, output: Path, *, without: tuple[str, ...] = (), parameters: Any = dict) -> Path:
    """Copy an artifact through a writer, without some datasets and with other parameters."""
    with open_artifact(path) as file:
        inputs, fmt = file.header.inputs, file.header.format
        with ArtifactWriter(output, fmt, inputs=inputs, parameters=parameters(dict(file.parameters))) as new:
            for name in file.shapes:
                if name not in without:
                    new.write(name, file.read(name))
    return output


# --- probabilities


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_are_those_of_the_scores(method: str, predict: Predict) -> None:
    more = ("--probability-temperature", "0.8", "--probability-floor", "0.01")
    more = more if method == "temperature" else ()
    path = predict(*SETTINGS, "--probabilities", method, *more)
    found = contents(path)
    expected = to_probabilities(found["scores"], ProbabilityMethod(method), softening=Softening(0.8, 0.01))
    assert found["probabilities"].tobytes() == expected.tobytes()
    assert found["probabilities"].min() >= 0
    assert np.abs(found["probabilities"].sum(axis=1) - 1).max() < 1e-6
    assert found["scores"].min() < 0
    softening = {"temperature": 0.8, "floor": 0.01} if method == "temperature" else None
    assert parameters_of(path)["probabilities"] == {"method": method, "softening": softening}


@pytest.mark.parametrize("method", METHODS)
def test_the_best_scores_have_the_probabilities_that_all_of_them_give(method: str, predict: Predict) -> None:
    more = ("--probability-temperature", "0.8") if method == "temperature" else ()
    whole = contents(predict(*SETTINGS, "--probabilities", method, *more, name="whole.h5"))
    best = contents(predict(*SETTINGS, "--probabilities", method, *more, "--top-scores", "2", name="b.h5"))
    picked = np.take_along_axis(whole["probabilities"], best["top_scores/classes"], axis=1)
    assert picked.tobytes() == best["top_scores/probabilities"].tobytes()
    assert "probabilities" not in best


def test_both_spellings_of_the_option_are_one(predict: Predict) -> None:
    one = predict(*SETTINGS, "--probabilities", "clip", name="1.h5")
    other = predict(*SETTINGS, "--as-probabilities", "clip", name="2.h5")
    assert one.read_bytes() == other.read_bytes()


def test_the_tuned_temperature_makes_probabilities(predict: Predict, pipeline: Pipeline) -> None:
    path = predict("--tuning", pipeline.tuning, "--probabilities", "temperature")
    tuned = parameters_of(pipeline.tuning)["softening"]
    assert parameters_of(path)["probabilities"] == {"method": "temperature", "softening": tuned}
    found = contents(path)
    expected = to_probabilities(found["scores"], ProbabilityMethod.TEMPERATURE, softening=Softening(**tuned))
    assert np.array_equal(found["probabilities"], expected)


# --- what does not go together


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--strength", "-1"], "strength out of range"),
        (["--strength", "nan"], "strength out of range"),
        (["--gate"], "--gate without a gate"),
        (["--gate-distance", "-1"], "--gate-distance out of range"),
        (["--gate-distance", "inf"], "--gate-distance out of range"),
        (["--gate-distance", "nan"], "--gate-distance out of range"),
        (["--gate-confidence", "1.1"], "--gate-confidence out of range"),
        (["--gate-confidence", "nan"], "--gate-confidence out of range"),
        (["--gate", "--gate-distance", "1"], "--gate and a gate by hand"),
        (["--method", "knn", "--gate-distance", "1"], "--gate is for --method resmem"),
        (["--method", "base", "--probabilities", "clip"], "--probabilities is for --method resmem"),
        (["--method", "knn", "--compare"], "--compare is for --method resmem"),
        (["--probabilities", "temperature"], "--probabilities temperature without a temperature"),
        (["--as-probabilities", "none"], "--as-probabilities (expected simplex or clip or temperature"),
        (
            ["--probabilities", "clip", "--probability-temperature", "1"],
            "--probability-temperature is for --probabilities temperature",
        ),
        (["--probability-temperature", "1"], "--probability-temperature is for --probabilities temperature"),
        (
            ["--probabilities", "temperature", "--probability-temperature", "0"],
            "--probability-temperature out of range",
        ),
        (
            ["--probabilities", "temperature", "--probability-temperature", "1", "--probability-floor", "-1"],
            "--probability-floor out of range",
        ),
        (["--top-scores", "6"], "--top-scores out of range"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], words: str, predict: Predict
) -> None:
    assert_refused(predict.run(*options), 2, words)
    assert list(predict.folder.iterdir()) == []


def test_the_method_temperature_is_refused_in_logit_space(predict: Predict, logit: Path) -> None:
    options = ("--probabilities", "temperature", "--probability-temperature", "1")
    assert_refused(predict.run(*options, residuals=logit), 2, "probabilities already")


# --- baselines


def compared(path: Path) -> dict[str, Outcomes]:
    found = contents(path)
    return {
        method["name"]: Outcomes(*(found[f"compared/{name}"][:, i] for name in COLUMNS))
        for i, method in enumerate(parameters_of(path)["compared"])
    }


def assert_same(found: Outcomes, expected: Outcomes) -> None:
    for name in COLUMNS:
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_every_method_of_the_comparison_is_that_of_its_formula(predict: Predict) -> None:
    path = predict(*SETTINGS, "--strength", "0.8", "--compare", "--gate-confidence", "0.6")
    methods, found = compared(path), contents(path)
    names = ["base", "kNN", *(f"kNN-LM {weight:g}" for weight in VOTE_WEIGHTS)]
    assert list(methods) == [*names, "ResMem, clip", "ResMem, simplex", "ResMem, gate"]
    logits, labels = classifier_arrays()["test_logits"], found["labels"]
    network = softmax(logits, temperature=1)
    assert_same(methods["base"], outcomes(network, labels, predicted=found["base_predicted"]))
    votes = neighbor_votes(
        found["neighbors/labels"], neighbor_weights(found["neighbors/distances"], sigma=SIGMA), n_classes=5
    )
    assert_same(methods["kNN"], outcomes(votes, labels))
    for weight in VOTE_WEIGHTS:
        direct = weight * votes.astype(np.float64) + (1 - weight) * network.astype(np.float64)
        one = methods[f"kNN-LM {weight:g}"]
        assert np.array_equal(one.predicted, direct.argmax(axis=1))
        places = np.arange(N_TEST)
        assert np.abs(one.label_probability - direct[places, labels]).max() < 1e-6
        assert np.abs(one.squares - (direct**2).sum(axis=1)).max() < 1e-5
        assert np.array_equal(one.label_rank == 0, one.predicted == labels)
    ungated = contents(predict(*SETTINGS, "--strength", "0.8", name="ungated.h5"))
    for name in ("clip", "simplex"):
        probabilities = to_probabilities(ungated["scores"], ProbabilityMethod(name))
        expected = outcomes(probabilities, labels, predicted=ungated["predicted"])
        assert_same(methods[f"ResMem, {name}"], expected)
    gated = to_probabilities(found["scores"], ProbabilityMethod.CLIP)
    assert_same(methods["ResMem, gate"], outcomes(gated, labels, predicted=found["predicted"]))


def test_the_comparison_records_what_each_method_was_run_with(predict: Predict) -> None:
    told = {one["name"]: one for one in parameters_of(predict(*SETTINGS, "--compare"))["compared"]}
    assert told["base"] == {"name": "base", "family": "base", "settings": {"temperature": 1}}
    assert told["kNN"] == {"name": "kNN", "family": "knn", "settings": {"k": K, "sigma": SIGMA}}
    assert told["kNN-LM 0.4"]["settings"] == {"k": K, "sigma": SIGMA, "temperature": 1, "weight": 0.4}
    settings = {"k": K, "sigma": SIGMA, "temperature": 1.4, "strength": 1}
    assert told["ResMem, clip"] == {"name": "ResMem, clip", "family": "resmem", "settings": settings}


def test_a_comparison_of_tuned_methods_has_their_settings(predict: Predict, pipeline: Pipeline) -> None:
    path = predict("--tuning", pipeline.tuning, "--compare")
    told = {one["name"]: one["settings"] for one in parameters_of(path)["compared"]}
    tuned = parameters_of(pipeline.tuning)
    assert told["kNN, tuned"] == {name: tuned["knn"][name] for name in ("k", "sigma")}
    assert told["kNN-LM, tuned"]["weight"] == tuned["knn_lm"]["strength"]
    assert told["base, tuned temperature"]["temperature"] == tuned["base_temperature"]
    assert told["ResMem, temperature"]["softening"] == tuned["softening"]
    assert_same(
        compared(path)["base, tuned temperature"],
        outcomes(
            softmax(classifier_arrays()["test_logits"], temperature=tuned["base_temperature"]),
            contents(path)["labels"],
            predicted=contents(path)["base_predicted"],
        ),
    )


def test_without_labels_there_is_nothing_to_compare(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    arrays = classifier_arrays()
    np.savez(tmp_path / "q.npz", embeddings=arrays["test_embeddings"], logits=arrays["test_logits"])
    memory = ("--index", pipeline.index, "--residuals", pipeline.residuals)
    done = resmem("predict", tmp_path / "q.npz", *memory, "--compare", "-o", tmp_path / "p.h5")
    assert_refused(done, 65, "q.npz", "labels")
    assert not (tmp_path / "p.h5").exists()


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw"])
def test_a_comparison_with_more_neighbours_changes_no_bit_of_the_answer(
    kind: str, tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    index = tmp_path / "index.h5"
    cheap = () if kind == "exact" else ("--no-measure",)
    assert resmem("index", pipeline.train, "--kind", kind, *cheap, "-o", index).status == 0
    tuned = rewritten(
        pipeline.tuning,
        tmp_path / "tuning.h5",
        parameters=lambda old: {
            **old,
            "best": {**old["best"], "k": 5},
            "knn": {**old["knn"], "k": 150},
        },
    )
    search: dict[str, tuple[object, ...]] = {"ivf": ("--nprobe", 1), "hnsw": ("--ef-search", 8)}
    found = []
    for more in ((), ("--compare",)):
        output = tmp_path / f"{len(more)}.h5"
        memory = ("--index", index, "--residuals", pipeline.residuals, "--tuning", tuned)
        options = (*search.get(kind, ()), *more, "-o", output)
        done = resmem("predict", pipeline.test, *memory, *options)
        assert done.status == 0, done.stderr
        found.append(contents(output))
    plain, compare = found
    assert plain["neighbors/rows"].shape[1] == 5
    for name, values in plain.items():
        assert values.tobytes() == compare[name].tobytes(), name
    assert {name for name in compare if name not in plain} == {f"compared/{name}" for name in COLUMNS}
    if kind == "exact":
        arrays = classifier_arrays()
        train, test = (arrays[f"{split}_embeddings"].astype(np.float64) for split in ("train", "test"))
        distances = np.linalg.norm(test[:, None] - train[None], axis=2)
        rows = np.argsort(distances, axis=1, kind="stable")[:, :150]
        sigma = parameters_of(tuned)["knn"]["sigma"]
        weights = np.exp(-np.take_along_axis(distances, rows, axis=1) / sigma)
        weights /= weights.sum(axis=1, keepdims=True)
        votes = np.einsum("qk,qkc->qc", weights, np.eye(5)[arrays["train_labels"][rows]])
        assert np.array_equal(compared(tmp_path / "1.h5")["kNN, tuned"].predicted, votes.argmax(axis=1))


# --- logit space


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_logit_space_predicts_and_analyzes(
    strength: float, predict: Predict, logit: Path, resmem: Resmem
) -> None:
    path = predict(*SETTINGS, "--strength", strength, residuals=logit)
    found, expected = contents(path), oracle_scores(strength, in_logits=True)
    assert np.abs(found["scores"] - expected).max() < 2e-6
    assert np.array_equal(found["predicted"], expected.argmax(axis=1))
    assert parameters_of(path)["space"] == "logit"
    done = resmem("analyze", path, "--json")
    [run] = done.result["runs"]
    assert run["space"] == "logit"
    assert run["accuracy"] == np.mean(expected.argmax(axis=1) == classifier_arrays()["test_labels"])
    assert "logit" in resmem("analyze", path).stdout


def test_in_logit_space_probabilities_are_the_scores(predict: Predict, logit: Path) -> None:
    found = contents(predict(*SETTINGS, "--probabilities", "simplex", residuals=logit))
    assert found["probabilities"].tobytes() == found["scores"].tobytes()


def test_logit_space_is_one_method_of_the_comparison(predict: Predict, logit: Path) -> None:
    path = predict(*SETTINGS, "--compare", residuals=logit)
    methods, found = compared(path), contents(path)
    assert list(methods)[-1] == "ResMem in logit space"
    expected = outcomes(found["scores"], found["labels"], predicted=found["predicted"])
    assert_same(methods["ResMem in logit space"], expected)


def test_the_residuals_in_logit_space_are_the_same_in_any_blocks(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    made = []
    for rows in (1, 7, 300):
        output = tmp_path / f"{rows}.h5"
        options = ("--space", "logit", "--block-rows", rows, "-o", output)
        assert resmem("residualize", pipeline.train, *options).status == 0
        made.append(output.read_bytes())
    assert made[0] == made[1] == made[2]
    labels, residuals = (contents(output)[name] for name in ("labels", "residuals"))
    f = classifier_arrays()["train_logits"].astype(np.float64)
    means = np.array([f[labels == c].mean(axis=0) for c in range(5)])
    assert np.abs(residuals - (means[labels] - f)).max() < 1e-6


def test_truncated_residuals_in_logit_space_are_refused(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    options = ("--space", "logit", "--top", "3", "-o", tmp_path / "r.h5")
    assert_refused(resmem("residualize", pipeline.train, *options), 2, "--top")
    assert list(tmp_path.iterdir()) == []


def test_residuals_in_logit_space_can_not_be_updated(
    tmp_path: Path, pipeline: Pipeline, logit: Path, resmem: Resmem
) -> None:
    (tmp_path / "gone.txt").write_text("3\n")
    before = logit.read_bytes()
    done = resmem("update", "--residuals", logit, "--remove", tmp_path / "gone.txt")
    assert_refused(done, 65, logit, "residualize --space logit")
    assert logit.read_bytes() == before


# --- blocks, and older files


@pytest.mark.parametrize("space", ["probability", "logit"])
def test_a_stream_of_queries_is_answered_as_all_at_once(space: str, predict: Predict, logit: Path) -> None:
    residuals = logit if space == "logit" else None
    options = ("--strength", "0.6", "--gate-confidence", "0.7", "--probabilities", "clip", "--compare")
    made = [
        predict(*SETTINGS, *options, "--block-rows", rows, residuals=residuals, name=f"{rows}.h5")
        for rows in (1, 7, N_TEST)
    ]
    assert made[0].read_bytes() == made[1].read_bytes() == made[2].read_bytes()


OPTIONAL = ("base_confidence", "runner_up", "neighbors/contributions", "class_counts")


def test_predictions_of_before_version_3_still_analyze(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    old = rewritten(
        pipeline.predictions,
        tmp_path / "old.h5",
        without=OPTIONAL,
        parameters=lambda new: {
            name: new[name] for name in ("method", "k", "sigma", "temperature", "n_classes", "n_memory")
        },
    )
    with open_artifact(old, PREDICTIONS) as file:
        assert not set(OPTIONAL) & set(file.shapes)
    done = resmem("analyze", old, "--explain", "0", "--where", "--influence", "-o", tmp_path / "r.h5")
    assert done.status == 0, done.stderr
    assert "adds" not in done.stdout
    [run] = resmem("analyze", old, "--explain", "0", "--json").result["runs"]
    [now] = resmem("analyze", pipeline.predictions, "--json").result["runs"]
    for name in ("accuracy", "base_accuracy", "gain", "interval", "n_corrected", "strength", "space"):
        assert run[name] == now[name]
    assert run["where"]["confidence"] == run["where"]["frequency"] == []
    assert run["where"]["distance"] == now["where"]["distance"]
    assert run["influence"] == {"corrected": [], "broken": []}
    [told] = run["explained"]
    assert told["margin"] is told["base_margin"] is None
    weights = [near["weight"] for near in told["neighbors"]]
    assert weights == sorted(weights, reverse=True)
    assert {near["contribution"] for near in told["neighbors"]} == {None}
    with open_artifact(tmp_path / "r.h5") as report:
        assert np.isnan(report.read("changed/neighbors/contributions")).all()


def test_predictions_of_before_version_3_can_be_drawn(
    tmp_path: Path, pipeline: Pipeline, resmem: Resmem
) -> None:
    old = rewritten(pipeline.predictions, tmp_path / "old.h5", without=OPTIONAL)
    done = resmem("analyze", old, "--html", tmp_path / "page.html", "--figures", tmp_path / "figures")
    assert done.status == 0, done.stderr
    assert list((tmp_path / "figures").glob("*.svg"))
