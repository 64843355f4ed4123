"""The formats of what is concluded from predictions: reports, tunings and studies."""

from __future__ import annotations

from resmem_cli.artifacts.declaring import STRING, DatasetSpec, Format, dataset

REPORT = Format(
    name="resmem.report",
    version=2,
    doc="accuracies, gain, and the examples that memory changed",
    datasets=(
        dataset("runs/names", "r", (STRING,), "file name of each predictions artifact"),
        dataset("runs/methods", "r", (STRING,), "its method"),
        dataset("runs/n_queries", "r", ("<i8",), "labelled queries"),
        dataset(
            "runs/accuracies",
            "r a",
            ("<f8",),
            "base, kNN on labels, the method; shares of 1",
            columns="base_accuracy knn_accuracy accuracy",
        ),
        dataset("runs/n_corrected", "r", ("<i8",), "wrong in the base network, right with memory"),
        dataset("runs/n_broken", "r", ("<i8",), "right in the base network, wrong with memory"),
        dataset("runs/gain", "r", ("<f8",), "accuracy of the method − accuracy of the base network"),
        dataset("runs/gain_interval", "r b", ("<f8",), "its 95 % interval", columns="gain_low gain_high"),
        dataset("runs/p_values", "r", ("<f8",), "McNemar's exact test, two-sided"),
        dataset("methods/runs", "y", ("<i4",), "which run the method is compared in", optional=True),
        dataset("methods/names", "y", (STRING,), "the method", optional=True),
        dataset(
            "methods/quality",
            "y z",
            ("<f8",),
            "accuracy, top-5, NLL, Brier, ECE, gain, p",
            optional=True,
            columns="accuracy top5_accuracy nll brier ece gain p_value",
        ),
        dataset("document", "x", ("|u1",), "the whole report as JSON, UTF-8", optional=True),
        dataset("changed/runs", "e", ("<i4",), "which run the example is of", optional=True),
        dataset("changed/queries", "e", ("<i8",), "query row", optional=True),
        dataset("changed/labels", "e", ("<i4",), "true class", optional=True),
        dataset("changed/base_predicted", "e", ("<i4",), "what the network said", optional=True),
        dataset("changed/predicted", "e", ("<i4",), "what it says with memory", optional=True),
        dataset(
            "changed/neighbors/rows",
            "e h",
            ("<i8",),
            "the rows that did most, by contribution",
            optional=True,
        ),
        dataset("changed/neighbors/labels", "e h", ("<i4",), "their classes", optional=True),
        dataset("changed/neighbors/distances", "e h", ("<f8",), "their distances", optional=True),
        dataset("changed/neighbors/weights", "e h", ("<f4",), "their weights", optional=True),
        dataset(
            "changed/neighbors/contributions", "e h", ("<f4",), "what each added to the lead", optional=True
        ),
        dataset("class_names", "C", (STRING,), "name of each class, UTF-8", optional=True),
    ),
)


def _grid(name: str, more: str, *, optional: bool) -> tuple[DatasetSpec, ...]:
    """Declare the points of a grid, one a row, with what each of them gives."""
    docs = {
        "k": ("<i4", "neighbours"),
        "sigma": ("<f8", "unit of distance of the weights"),
        "temperature": ("<f8", "T of softmax and residuals"),
        "strength": ("<f8", more),
        "accuracy": ("<f8", "share of right answers"),
        "tpr": ("<f8", "share of the queries that were corrected"),
        "fpr": ("<f8", "share of the queries that were broken"),
    }
    axis = {"grid": "g", "knn": "v", "knn_lm": "w"}[name]
    return tuple(
        dataset(f"{name}/{part}", axis, (dtype,), doc, optional=optional)
        for part, (dtype, doc) in docs.items()
    )


TUNING = Format(
    name="resmem.tuning",
    version=1,
    doc="every setting that was tried, with what it gives, and the one chosen",
    datasets=(
        *_grid("grid", "factor of the memory's prediction", optional=False),
        dataset(
            "grid/nll", "g", ("<f8",), "negative log-likelihood, where it was the objective", optional=True
        ),
        *_grid("knn", "always 1", optional=True),
        *_grid("knn_lm", "the weight of the neighbours' vote", optional=True),
        dataset("rows", "t", ("<i8",), "the rows tuned on, where not all were", optional=True),
    ),
    parameters=("objective", "best", "data", "n_queries", "space"),
)

STUDY = Format(
    name="resmem.study",
    version=1,
    doc="the tables of `theory` and `reproduce`, cell by cell",
    datasets=(
        dataset("cells/tables", "c", (STRING,), "the table a number is in"),
        dataset("cells/positions", "c", ("<i4",), "its row, from 0"),
        dataset("cells/settings", "c", (STRING,), "what the row is about"),
        dataset("cells/columns", "c", (STRING,), "its column"),
        dataset("cells/values", "c", ("<f8",), "the number; shares and gains of 1"),
        dataset("cells/low", "c", ("<f8",), "where its interval begins, or one standard deviation below"),
        dataset("cells/high", "c", ("<f8",), "where it ends"),
        dataset("document", "x", ("|u1",), "all tables, with their texts and notes, as JSON, UTF-8"),
    ),
    parameters=("study",),
)
