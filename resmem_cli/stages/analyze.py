"""`resmem analyze`: what memory changed, where, and the training rows that did it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resmem_cli.arrays.class_groups import read_class_groups
from resmem_cli.artifacts.formats import RESIDUALS
from resmem_cli.artifacts.provenance import InputRecord
from resmem_cli.artifacts.reader import Artifact, open_artifact
from resmem_cli.artifacts.result_formats import REPORT, TUNING
from resmem_cli.artifacts.structure import DAMAGED
from resmem_cli.artifacts.temporary import make_folder, new_files, refuse_input, resolve_target
from resmem_cli.artifacts.writer import ArtifactWriter
from resmem_cli.errors import DataError, OutputError, UsageError, naming_file
from resmem_cli.stages.analysis_data import RunColumns, read_run
from resmem_cli.stages.analysis_report import HEAVIEST, aggregate, report_run
from resmem_cli.stages.tuning_file import read_tuning
from resmem_cli.types import ResidualSpace, StageResult

_NEIGHBOR_FIELDS = ("rows", "labels", "distances", "weights", "contributions")
_QUALITY = ("accuracy", "top5_accuracy", "nll", "brier", "ece", "gain", "p_value")


@dataclass(frozen=True)
class AnalyzeConfig:
    """What to tell.

    Attributes
    ----------
    n_examples : int
        How many corrected and how many broken examples of each file.
    explain : tuple of int
        Queries to tell with all their neighbours.
    groups : pathlib.Path, str or None
        The superclass of each class, for the claim that memory works from coarse to fine.
    tuning : pathlib.Path, str or None
        A tuning artifact, to show; the queries it was tuned on are left out.
    residuals : pathlib.Path, str or None
        The memory's residuals, for the ids of its rows.
    compare : bool
        Refuse files without the baselines of `predict --compare`.
    figures : pathlib.Path, str or None
        A folder for every figure as SVG and PNG.
    html : pathlib.Path, str or None
        A page with all of it to write.
    """

    n_examples: int = 3
    explain: tuple[int, ...] = ()
    groups: Path | str | None = None
    tuning: Path | str | None = None
    residuals: Path | str | None = None
    compare: bool = False
    figures: Path | str | None = None
    html: Path | str | None = None


def analyze(
    predictions: Sequence[Path | str],
    *,
    output: Path | str | None = None,
    config: AnalyzeConfig | None = None,
    clobber: bool = True,
) -> StageResult:
    """Set predictions against the base network's.

    Parameters
    ----------
    predictions : sequence of pathlib.Path or str
        Predictions artifacts with labels, one or more.
    output : pathlib.Path, optional
        A report artifact to write, with every changed example.
    config : AnalyzeConfig, optional
        What to tell, and where to.
    clobber : bool
        Whether existing outputs may be replaced.

    Returns
    -------
    StageResult
        `summary["runs"]` has one entry a file.

    Raises
    ------
    UsageError, MissingInputError, DataError, OutputError
        As the message says; nothing is written then.
    """
    if not predictions or isinstance(predictions, Path | str):
        raise UsageError("no list of predictions given", expected="one file or more")
    config = config or AnalyzeConfig()
    if config.n_examples < 0:
        raise UsageError("--examples out of range", expected="at least 0", found=config.n_examples)
    tuning = None if config.tuning is None else read_tuning(config.tuning)
    runs, told = [], []
    for path in map(Path, predictions):
        same = tuning is not None and _same_queries(path, tuning.data)
        run = read_run(
            path,
            tuned_rows=tuning.rows if tuning is not None and same else None,
            all_tuned_on=same and tuning is not None and tuning.rows is None,
            explain=config.explain,
        )
        if config.compare and not run.compared:
            raise DataError("has no baselines to compare with", file=path, remedy="predict with --compare")
        runs.append(run)
        with naming_file(path):
            told.append(
                report_run(
                    run,
                    n_examples=config.n_examples,
                    groups=_groups(config, run),
                    ids=_memory_ids(config, run),
                )
            )
    notices = [text for run in runs for text in _notices(run)]
    report: dict[str, Any] = {
        "runs": told,
        "aggregate": aggregate(told),
        "tuning": None if config.tuning is None else _tuning_report(Path(config.tuning)),
        "notices": notices,
    }
    output = None if output is None else Path(output)
    html = None if config.html is None else Path(config.html)
    others = (config.tuning, config.residuals, config.groups)
    reads = [
        *(file for run in runs for file in run.files),
        *(Path(path) for path in others if path is not None),
    ]
    figures = None if config.figures is None else Path(config.figures)
    _check_outputs(output, html, figures, reads, clobber=clobber)
    files = _draw(report, config, runs, clobber=clobber)
    with new_files(files, reads=reads, clobber=clobber):
        if output is not None:
            inputs = [*(run.record for run in runs), *(() if tuning is None else (tuning.record,))]
            _write_report(runs, report, output, inputs=inputs, reads=reads, clobber=clobber)
    summary = {name: report[name] for name in ("runs", "aggregate")}
    return StageResult("analyze", output, summary, tuple(notices))


def _same_queries(path: Path, data: Any) -> bool:
    with open_artifact(path) as file:
        digest = data.get("embeddings_digest") if data.get("kind") == "queries" else None
        return digest is not None and file.parameters.get("queries_digest") == digest


def _groups(config: AnalyzeConfig, run: RunColumns) -> NDArray[np.int32] | None:
    if config.groups is None:
        return None
    n_classes = int(run.parameters["n_classes"])
    names = None if run.class_names is None else [run.name(i) for i in range(n_classes)]
    groups: NDArray[np.int32] = read_class_groups(Path(config.groups), n_classes, names)[0]
    return groups


def _memory_ids(config: AnalyzeConfig, run: RunColumns) -> NDArray[Any] | None:
    if config.residuals is None:
        return None
    with open_artifact(config.residuals, RESIDUALS) as file:
        digest = file.header.content_digest
        if run.residuals_digest != digest:
            raise DataError(
                f"not the residuals that {run.path} was predicted with",
                file=file.path,
                expected=str(run.residuals_digest)[:12],
                found=digest[:12],
            )
        return file.read_optional("ids")


def _notices(run: RunColumns) -> list[str]:
    if run.all_tuned_on:
        return [
            f"{run.path}: the settings were tuned on these same queries, so the gain is optimistic; report "
            "on others (tune --fraction)"
        ]
    if run.n_left_out:
        n = len(run.kept) + run.n_left_out
        return [
            f"{run.path}: {run.n_left_out:,} of {n:,} queries, on which settings were tuned, are left out"
        ]
    return []


def _grid_values(file: Artifact, name: str, best: dict[str, Any]) -> list[Any]:
    stored = file.read(f"grid/{name}")
    if not np.isfinite(stored).all():
        raise DataError("not finite", file=file.path, field=f"grid/{name}", remedy=DAMAGED)
    values: list[Any] = stored.tolist()
    if name == "temperature" and file.parameters["space"] == ResidualSpace.LOGIT and len(set(values)) == 1:
        # It was fitted, and changes no answer: all points are of that temperature too.
        return [best["temperature"]] * len(values)
    return values


def _tuning_report(path: Path) -> dict[str, Any]:
    with open_artifact(path, TUNING) as file:
        parameters = file.parameters
        best = dict(parameters["best"])
        data = parameters["data"]
        return {
            "path": str(path),
            "objective": str(parameters["objective"]),
            "data": f"{data.get('kind')}: {data.get('rows')} of {data.get('of')} rows of {data.get('file')}",
            "n": file.number("n_queries"),
            "base_accuracy": file.number("base_accuracy"),
            "best": best,
            "grid": {
                name: _grid_values(file, name, best)
                for name in ("k", "sigma", "temperature", "strength", "accuracy", "tpr", "fpr")
            },
        }


def _check_outputs(
    output: Path | None, html: Path | None, figures: Path | None, reads: list[Path], *, clobber: bool
) -> None:
    """Refuse what can't be written, before anything is."""
    targets = [path for path in (output, html) if path is not None]
    for path in targets:
        refuse_input(path, reads)
    if figures is not None and figures.exists() and not figures.is_dir():
        raise OutputError("not a folder", file=figures)
    if len({resolve_target(path, clobber=clobber) for path in targets}) < len(targets):
        raise UsageError("--output and --html are one file", file=html, remedy="name another file")


def _draw(
    report: dict[str, Any], config: AnalyzeConfig, runs: Sequence[RunColumns], *, clobber: bool
) -> dict[Path, bytes]:
    """Make the files of figures and the page, where they are asked for, and refuse those that can't be."""
    if config.figures is None and config.html is None:
        return {}
    from resmem_cli.plots import figure_files, figures, html_page  # matplotlib, which most runs need not

    drawn, files = figures(report), {}
    if config.figures is not None:
        folder = Path(config.figures)
        make_folder(folder)
        files = {folder / name: content for name, content in figure_files(drawn)}
        for path in files:
            resolve_target(path, clobber=clobber)
    if config.html is not None:
        page = html_page(report, title=", ".join(run.path.name for run in runs), drawn=drawn)
        files[Path(config.html)] = page.encode(errors="replace")
    return files


def _write_report(
    runs: Sequence[RunColumns],
    report: dict[str, Any],
    output: Path,
    *,
    inputs: Sequence[InputRecord],
    reads: Sequence[Path],
    clobber: bool,
) -> None:
    told = report["runs"]
    with ArtifactWriter(
        output,
        REPORT,
        inputs=inputs,
        parameters={"runs": [dict(run.parameters) for run in runs]},
        reads=reads,
        clobber=clobber,
    ) as writer:
        table: dict[str, NDArray[Any]] = {
            "names": np.array([run.path.name.encode() for run in runs]),
            "methods": np.array([one["method"].encode() for one in told]),
            "n_queries": np.array([one["n"] for one in told], np.int64),
            "accuracies": np.array(
                [(one["base_accuracy"], one["knn_accuracy"], one["accuracy"]) for one in told]
            ),
            "n_corrected": np.array([one["n_corrected"] for one in told], np.int64),
            "n_broken": np.array([one["n_broken"] for one in told], np.int64),
            "gain": np.array([one["gain"] for one in told]),
            "gain_interval": np.array([one["interval"] for one in told]),
            "p_values": np.array([one["p_value"] for one in told]),
        }
        for name, values in table.items():
            writer.write(f"runs/{name}", values)
        methods = [(i, method) for i, one in enumerate(told) for method in one["methods"]]
        if methods:
            writer.write("methods/runs", np.array([i for i, _ in methods], np.int32))
            writer.write("methods/names", np.array([method["name"].encode() for _, method in methods]))
            quality = [[method[name] for name in _QUALITY] for _, method in methods]
            writer.write("methods/quality", np.array(quality, np.float64))
        _write_changed(writer, runs)
        document = json.dumps(_without_folders(report), ensure_ascii=False, allow_nan=False, sort_keys=True)
        writer.write("document", np.frombuffer(document.encode(errors="replace"), np.uint8))
        names = runs[0].class_names
        if names is not None and all(
            run.class_names is not None and np.array_equal(run.class_names, names) for run in runs
        ):
            writer.write("class_names", names)


def _without_folders(report: dict[str, Any]) -> dict[str, Any]:
    """Leave out where files lay: an artifact's bytes do not depend on it."""
    runs = [{**run, "predictions": Path(run["predictions"]).name} for run in report["runs"]]
    tuning = report["tuning"]
    if tuning is not None:
        tuning = {**tuning, "path": Path(tuning["path"]).name}
    notices = report["notices"]
    for run in report["runs"]:
        notices = [text.replace(run["predictions"], Path(run["predictions"]).name) for text in notices]
    return {"runs": runs, "aggregate": report["aggregate"], "tuning": tuning, "notices": notices}


def _write_changed(writer: ArtifactWriter, runs: Sequence[RunColumns]) -> None:
    changed = [run.changed for run in runs]
    counts = [len(near.queries) for near in changed]
    if not sum(counts):
        return
    # Files predicted with fewer neighbours than others set how many all of them show.
    h = min(HEAVIEST, *(near.rows.shape[1] for near in changed))
    places = [
        np.array([near.heaviest(i, h) for i in range(len(near.queries))], np.int64).reshape(-1, h)
        for near in changed
    ]
    writer.write("changed/runs", np.repeat(np.arange(len(runs), dtype=np.int32), counts))
    writer.write("changed/queries", np.concatenate([near.queries for near in changed]))
    for name in ("labels", "base_predicted", "predicted"):
        columns = [run.whole[name][run.changed.queries] for run in runs]
        writer.write(f"changed/{name}", np.concatenate(columns))
    for name in _NEIGHBOR_FIELDS:
        rows = [
            np.take_along_axis(getattr(near, name), at, axis=1)
            for near, at in zip(changed, places, strict=True)
        ]
        writer.write(f"changed/neighbors/{name}", np.ascontiguousarray(np.concatenate(rows)))
