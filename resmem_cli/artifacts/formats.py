"""Every artifact format the tool reads and writes, and the README's table of them."""

from __future__ import annotations

import sys

from resmem_cli.artifacts.declaring import FLOATS, STRING, Format, dataset, with_and_without
from resmem_cli.artifacts.result_formats import REPORT, STUDY, TUNING

_CLASS_NAMES = dataset("class_names", "C", (STRING,), "name of each class, UTF-8", optional=True)

_SPARSE_LOGITS = ("logits_top/classes", "logits_top/values", "logsumexp")

EMBEDDINGS = Format(
    name="resmem.embeddings",
    version=2,
    doc="what the network made of each example",
    datasets=(
        dataset("embeddings", "n d", FLOATS, "φ(x), one row an example"),
        dataset("logits", "n C", FLOATS, "f(x)", optional=True),
        dataset(
            "logits_top/classes",
            "n m",
            ("<u2", "<i4"),
            "instead of f(x): the classes of its m largest entries, largest first",
            optional=True,
        ),
        dataset("logits_top/values", "n m", ("<f4",), "those entries", optional=True),
        dataset(
            "logsumexp", "n", ("<f8",), "log Σ exp f(x) over all classes, with logits_top", optional=True
        ),
        dataset("label_logit", "n", ("<f4",), "f(x) at the label, with logits_top", optional=True),
        dataset("labels", "n", ("<i4",), "class of each example", optional=True),
        dataset("ids", "n", ("<i8", STRING), "the user's own name of each row", optional=True),
        dataset(
            "documents/starts", "D", ("<i8",), "first token of each document in the input", optional=True
        ),
        dataset("documents/lengths", "D", ("<i8",), "how many tokens it has", optional=True),
        dataset("documents/names", "D", (STRING,), "its name", optional=True),
        _CLASS_NAMES,
    ),
    one_of=(("logits",), _SPARSE_LOGITS, (*_SPARSE_LOGITS, "label_logit"), ()),
    parameters=("sources",),
)

RESIDUALS = Format(
    name="resmem.residuals",
    version=3,
    doc="what the network got wrong: onehot(y) − softmax(f(x)/T), or in logit space mean f of class y − f(x)",
    datasets=(
        dataset("residuals", "n C", ("<f4",), "all C entries of each row", optional=True, random=True),
        dataset(
            "top/classes",
            "n m",
            ("<u2", "<i4"),
            "the label, then the m − 1 most probable other classes",
            optional=True,
            random=True,
        ),
        dataset(
            "top/values",
            "n m",
            ("<u2",),
            "their absolute residuals × 65535; positive for the label, negative for the rest",
            optional=True,
            random=True,
        ),
        dataset("labels", "n", ("<i4",), "class of each example", below="n_classes"),
        dataset("ids", "n", ("<i8", STRING), "the user's own name of each row", optional=True),
        _CLASS_NAMES,
    ),
    one_of=(("residuals",), ("top/classes", "top/values")),
    parameters=("temperature", "top", "n_classes", "embeddings_digest"),
)

_CURVE = ("curve/probes", "curve/rerank", "curve/recall", "curve/compared")
_LISTS = ("lists/centroids", "lists/sizes", "lists/entries")
_GRAPH = ("graph/levels", "graph/neighbors", "graph/rows")


INDEX = Format(
    name="resmem.index",
    version=2,
    doc="what is needed to search the memory",
    datasets=(
        dataset("vectors", "n d", FLOATS, "the embeddings, as they were", random=True),
        dataset("mean", "d", ("<f8",), "mean row, subtracted for the search"),
        dataset(
            "axes",
            "d r",
            ("<f8",),
            "orthonormal columns, in whose coordinates the centred rows are searched",
            optional=True,
        ),
        dataset(
            "reduced",
            "n e",
            ("<f4",),
            "exact: coordinates of each row on the axes, then the norm of what is left of it",
            optional=True,
            random=True,
        ),
        dataset("lists/centroids", "l d", ("<f4",), "ivf: centre of each list", optional=True),
        dataset("lists/sizes", "l", ("<i8",), "ivf: rows of each list", optional=True),
        dataset(
            "lists/entries",
            "b",
            ("|u1",),
            "ivf: for each list its codes, then its row numbers (int64), with room for a multiple of 8 rows; "
            "of 32 where codes of 4-bit parts lie in blocks of 32 rows",
            optional=True,
            random=True,
        ),
        dataset("lists/codebook", "p c s", ("<f4",), "ivf-pq: the code words", optional=True),
        dataset("graph/levels", "n", ("<i4",), "hnsw: levels of each node", optional=True),
        dataset(
            "graph/neighbors", "g", ("<i4",), "hnsw: neighbours of all nodes", optional=True, random=True
        ),
        dataset("graph/rows", "n", ("<i8",), "hnsw and factory: the row each node stands for", optional=True),
        dataset("engine", "f", ("|u1",), "factory: the index as faiss writes it", optional=True),
        dataset("curve/probes", "v", ("<i4",), "measured settings: nprobe or efSearch", optional=True),
        dataset("curve/rerank", "v", ("<i4",), "candidates re-ranked for each neighbour", optional=True),
        dataset("curve/recall", "v", ("<f8",), "share of the true neighbours found", optional=True),
        dataset("curve/compared", "v", ("<f8",), "codes compared with a query", optional=True),
        dataset("ids", "n", ("<i8", STRING), "the user's own name of each row", optional=True),
    ),
    one_of=(
        (),
        ("axes", "reduced"),
        *with_and_without(_LISTS, ("axes",), ("lists/codebook",), _CURVE),
        *with_and_without(_GRAPH, _CURVE),
        *with_and_without(("engine", "graph/rows"), _CURVE),
    ),
    parameters=("kind", "metric", "distance_scale", "embeddings_digest"),
)

_TRUNCATION = ("truncation/bound", "truncation/proved")
_EXPLAINED = ("base_confidence", "runner_up", "neighbors/contributions")
_GATE = ("gate/open", "gate/fixed")
_COMPARED = (
    "compared/predicted",
    "compared/label_probability",
    "compared/confidence",
    "compared/squares",
    "compared/label_rank",
)

PREDICTIONS = Format(
    name="resmem.predictions",
    version=3,
    doc="the answer for each query, and the memory rows it came from",
    datasets=(
        dataset(
            "predicted", "q", ("<i4",), "argmax of the scores; ties go to the lower class", below="n_classes"
        ),
        dataset("base_predicted", "q", ("<i4",), "argmax of the network's own logits", below="n_classes"),
        dataset(
            "knn_predicted",
            "q",
            ("<i4",),
            "argmax of the weighted vote of the neighbours' labels",
            below="n_classes",
        ),
        dataset(
            "base_confidence",
            "q",
            ("<f4",),
            "the network's largest probability, softmax(f(x)/T)",
            optional=True,
        ),
        dataset(
            "runner_up",
            "q",
            ("<i4",),
            "what `predicted` is compared with: the network's class where memory changed it, else the second",
            optional=True,
            below="n_classes",
        ),
        dataset("labels", "q", ("<i4",), "true class, where known", optional=True, below="n_classes"),
        dataset("class_counts", "C", ("<i8",), "rows of the memory of each class", optional=True),
        dataset("tuned_on", "q", ("|u1",), "1 where settings were tuned on this query", optional=True),
        dataset("scores", "q C", ("<f4",), "the scores of all classes", optional=True),
        dataset(
            "top_scores/classes",
            "q m",
            ("<i4",),
            "the m best classes, best first",
            optional=True,
            below="n_classes",
        ),
        dataset("top_scores/values", "q m", ("<f4",), "their scores", optional=True),
        dataset("probabilities", "q C", ("<f4",), "the scores made probabilities", optional=True),
        dataset(
            "top_scores/probabilities", "q m", ("<f4",), "probabilities of the m best classes", optional=True
        ),
        dataset("neighbors/rows", "q k", ("<i8",), "memory rows by (distance, row)", below="n_memory"),
        dataset(
            "neighbors/distances", "q k", ("<f8",), "Euclidean, not squared; 1 − cos with the cosine metric"
        ),
        dataset("neighbors/weights", "q k", ("<f4",), "normalised, sum 1"),
        dataset("neighbors/labels", "q k", ("<i4",), "the classes of those rows", below="n_classes"),
        dataset(
            "neighbors/contributions",
            "q k",
            ("<f4",),
            "what each adds to the lead of `predicted` over `runner_up`",
            optional=True,
        ),
        dataset(
            "gate/open",
            "q",
            ("|u1",),
            "1 where memory was used; 0 where the network answers alone",
            optional=True,
        ),
        dataset(
            "gate/fixed",
            "q",
            ("|u1",),
            "1 where no residuals whatever could change the answer",
            optional=True,
        ),
        dataset(
            "compared/predicted",
            "q b",
            ("<i4",),
            "what each method answers",
            optional=True,
            below="n_classes",
        ),
        dataset(
            "compared/label_probability", "q b", ("<f4",), "its probability of the true class", optional=True
        ),
        dataset("compared/confidence", "q b", ("<f4",), "its largest probability", optional=True),
        dataset("compared/squares", "q b", ("<f4",), "its sum of squared probabilities", optional=True),
        dataset("compared/label_rank", "q b", ("<i4",), "classes it ranks above the true one", optional=True),
        dataset(
            "truncation/bound",
            "q",
            ("<f4",),
            "with top residuals: how much less than stored a score may be, for what was not kept",
            optional=True,
        ),
        dataset(
            "truncation/proved",
            "q",
            ("|u1",),
            "1 where whole residuals are proved to give the same predicted class",
            optional=True,
        ),
        dataset("ids", "q", ("<i8", STRING), "the user's own name of each query", optional=True),
        _CLASS_NAMES,
    ),
    one_of=with_and_without(("scores",), _TRUNCATION, _EXPLAINED, _GATE, _COMPARED, ("probabilities",))
    + with_and_without(
        ("top_scores/classes", "top_scores/values"),
        _TRUNCATION,
        _EXPLAINED,
        _GATE,
        _COMPARED,
        ("top_scores/probabilities",),
    ),
    parameters=("method", "k", "sigma", "temperature", "n_classes", "n_memory"),
    finite=True,
)

FORMATS = {fmt.name: fmt for fmt in (EMBEDDINGS, RESIDUALS, INDEX, PREDICTIONS, TUNING, REPORT, STUDY)}


def markdown_table() -> str:
    """Write all formats as the table the README shows; a test holds the two together."""
    lines = ["| format | dataset | shape | type | holds |", "| --- | --- | --- | --- | --- |"]
    for fmt in FORMATS.values():
        lines.append(f"| **{fmt.name}** {fmt.version} | | | | {fmt.doc} |")
        for spec in fmt.datasets:
            types = " or ".join(dtype.lstrip("<|") for dtype in spec.dtypes)
            shape = ", ".join(spec.dims) + ("," if len(spec.dims) == 1 else "")
            needed = "" if spec.required else " (optional)"
            lines.append(f"| | `{spec.path}` | ({shape}) | {types} | {spec.doc}{needed} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown_table())
