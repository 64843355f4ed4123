"""Every artifact format the tool reads and writes, and the README's table of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum

FLOATS = ("<f2", "<f4")
STRING = "S"


class Layout(StrEnum):
    """How a dataset lies in its file."""

    SEQUENTIAL = "sequential"
    """Read in order: chunks of about 1 MiB, each with HDF5's fletcher32 checksum."""

    RANDOM = "random"
    """Read at random rows: contiguous and page-aligned, so that it can be memory-mapped."""


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of a format.

    Attributes
    ----------
    path : str
        Its place in the file.
    dims : tuple of str
        The names of its axes. A name stands for one length in the whole file.
    dtypes : tuple of str
        The types it may have, little-endian, as numpy writes them; ``S`` is any fixed-length string.
    doc : str
        What it holds.
    """

    path: str
    dims: tuple[str, ...]
    dtypes: tuple[str, ...]
    doc: str
    required: bool = True
    layout: Layout = Layout.SEQUENTIAL


@dataclass(frozen=True)
class Format:
    """One kind of artifact.

    Attributes
    ----------
    name : str
        The value of the file's attribute `format`.
    version : int
        The newest `format_version` this tool reads, and the one it writes.
    doc : str
        What such a file is.
    datasets : tuple of DatasetSpec
        Everything that may be in it.
    one_of : tuple of groups of paths
        Alternatives: of all datasets named here, a file holds those of exactly one group.
    parameters : tuple of str
        The keys that the attribute `parameters` must have.
    """

    name: str
    version: int
    doc: str
    datasets: tuple[DatasetSpec, ...]
    one_of: tuple[tuple[str, ...], ...] = ()
    parameters: tuple[str, ...] = ()

    def spec(self, path: str) -> DatasetSpec:
        """Find a dataset's declaration by its path.

        Raises
        ------
        KeyError
            If the format has none of that path.
        """
        for spec in self.datasets:
            if spec.path == path:
                return spec
        raise KeyError(f"{self.name} has no dataset {path}")


def _dataset(
    path: str, dims: str, dtypes: tuple[str, ...], doc: str, *, optional: bool = False, random: bool = False
) -> DatasetSpec:
    return DatasetSpec(
        path=path,
        dims=tuple(dims.split()),
        dtypes=dtypes,
        doc=doc,
        required=not optional,
        layout=Layout.RANDOM if random else Layout.SEQUENTIAL,
    )


_CLASS_NAMES = _dataset("class_names", "C", (STRING,), "name of each class, UTF-8", optional=True)

_SPARSE_LOGITS = ("logits_top/classes", "logits_top/values", "logsumexp")

EMBEDDINGS = Format(
    name="resmem.embeddings",
    version=2,
    doc="what the network made of each example",
    datasets=(
        _dataset("embeddings", "n d", FLOATS, "φ(x), one row an example"),
        _dataset("logits", "n C", FLOATS, "f(x)", optional=True),
        _dataset(
            "logits_top/classes",
            "n m",
            ("<u2", "<i4"),
            "instead of f(x): the classes of its m largest entries, largest first",
            optional=True,
        ),
        _dataset("logits_top/values", "n m", ("<f4",), "those entries", optional=True),
        _dataset(
            "logsumexp", "n", ("<f8",), "log Σ exp f(x) over all classes, with logits_top", optional=True
        ),
        _dataset("label_logit", "n", ("<f4",), "f(x) at the label, with logits_top", optional=True),
        _dataset("labels", "n", ("<i4",), "class of each example", optional=True),
        _dataset("ids", "n", ("<i8", STRING), "the user's own name of each row", optional=True),
        _dataset(
            "documents/starts", "D", ("<i8",), "first token of each document in the input", optional=True
        ),
        _dataset("documents/lengths", "D", ("<i8",), "how many tokens it has", optional=True),
        _dataset("documents/names", "D", (STRING,), "its name", optional=True),
        _CLASS_NAMES,
    ),
    one_of=(("logits",), _SPARSE_LOGITS, (*_SPARSE_LOGITS, "label_logit"), ()),
    parameters=("sources",),
)

RESIDUALS = Format(
    name="resmem.residuals",
    version=2,
    doc="what the network got wrong: onehot(y) − softmax(f(x)/T)",
    datasets=(
        _dataset("residuals", "n C", ("<f4",), "all C entries of each row", optional=True, random=True),
        _dataset(
            "top/classes",
            "n m",
            ("<u2", "<i4"),
            "the label, then the m − 1 most probable other classes",
            optional=True,
            random=True,
        ),
        _dataset(
            "top/values",
            "n m",
            ("<u2",),
            "their absolute residuals × 65535; positive for the label, negative for the rest",
            optional=True,
            random=True,
        ),
        _dataset("labels", "n", ("<i4",), "class of each example"),
        _dataset("ids", "n", ("<i8", STRING), "the user's own name of each row", optional=True),
        _CLASS_NAMES,
    ),
    one_of=(("residuals",), ("top/classes", "top/values")),
    parameters=("temperature", "top", "n_classes", "embeddings_digest"),
)

_CURVE = ("curve/probes", "curve/rerank", "curve/recall", "curve/compared")
_LISTS = ("lists/centroids", "lists/sizes", "lists/entries")
_GRAPH = ("graph/levels", "graph/neighbors", "graph/rows")


def _with_and_without(group: tuple[str, ...], *optional: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Give a group of datasets with every choice of the optional ones."""
    groups = [group]
    for more in optional:
        groups += [(*one, *more) for one in groups]
    return tuple(groups)


INDEX = Format(
    name="resmem.index",
    version=2,
    doc="what is needed to search the memory",
    datasets=(
        _dataset("vectors", "n d", FLOATS, "the embeddings, as they were", random=True),
        _dataset("mean", "d", ("<f8",), "mean row, subtracted for the search"),
        _dataset(
            "axes",
            "d r",
            ("<f8",),
            "orthonormal columns, in whose coordinates the centred rows are searched",
            optional=True,
        ),
        _dataset(
            "reduced",
            "n e",
            ("<f4",),
            "exact: coordinates of each row on the axes, then the norm of what is left of it",
            optional=True,
            random=True,
        ),
        _dataset("lists/centroids", "l d", ("<f4",), "ivf: centre of each list", optional=True),
        _dataset("lists/sizes", "l", ("<i8",), "ivf: rows of each list", optional=True),
        _dataset(
            "lists/entries",
            "b",
            ("|u1",),
            "ivf: for each list its codes, then its row numbers (int64), with room for a multiple of 8 rows; "
            "of 32 where codes of 4-bit parts lie in blocks of 32 rows",
            optional=True,
            random=True,
        ),
        _dataset("lists/codebook", "p c s", ("<f4",), "ivf-pq: the code words", optional=True),
        _dataset("graph/levels", "n", ("<i4",), "hnsw: levels of each node", optional=True),
        _dataset(
            "graph/neighbors", "g", ("<i4",), "hnsw: neighbours of all nodes", optional=True, random=True
        ),
        _dataset(
            "graph/rows", "n", ("<i8",), "hnsw and factory: the row each node stands for", optional=True
        ),
        _dataset("engine", "f", ("|u1",), "factory: the index as faiss writes it", optional=True),
        _dataset("curve/probes", "v", ("<i4",), "measured settings: nprobe or efSearch", optional=True),
        _dataset("curve/rerank", "v", ("<i4",), "candidates re-ranked for each neighbour", optional=True),
        _dataset("curve/recall", "v", ("<f8",), "share of the true neighbours found", optional=True),
        _dataset("curve/compared", "v", ("<f8",), "codes compared with a query", optional=True),
        _dataset("ids", "n", ("<i8", STRING), "the user's own name of each row", optional=True),
    ),
    one_of=(
        (),
        ("axes", "reduced"),
        *_with_and_without(_LISTS, ("axes",), ("lists/codebook",), _CURVE),
        *_with_and_without(_GRAPH, _CURVE),
        *_with_and_without(("engine", "graph/rows"), _CURVE),
    ),
    parameters=("kind", "metric", "distance_scale", "embeddings_digest"),
)

PREDICTIONS = Format(
    name="resmem.predictions",
    version=2,
    doc="the answer for each query, and the memory rows it came from",
    datasets=(
        _dataset("predicted", "q", ("<i4",), "argmax of the scores; ties go to the lower class"),
        _dataset("base_predicted", "q", ("<i4",), "argmax of the network's own logits"),
        _dataset("knn_predicted", "q", ("<i4",), "argmax of the weighted vote of the neighbours' labels"),
        _dataset("labels", "q", ("<i4",), "true class, where known", optional=True),
        _dataset("scores", "q C", ("<f4",), "the scores of all classes", optional=True),
        _dataset("top_scores/classes", "q m", ("<i4",), "the m best classes, best first", optional=True),
        _dataset("top_scores/values", "q m", ("<f4",), "their scores", optional=True),
        _dataset("neighbors/rows", "q k", ("<i8",), "memory rows by (distance, row)"),
        _dataset(
            "neighbors/distances", "q k", ("<f8",), "Euclidean, not squared; 1 − cos with the cosine metric"
        ),
        _dataset("neighbors/weights", "q k", ("<f4",), "normalised, sum 1"),
        _dataset("neighbors/labels", "q k", ("<i4",), "the classes of those rows"),
        _dataset(
            "truncation/bound",
            "q",
            ("<f4",),
            "with top residuals: how much less than stored a score may be, for what was not kept",
            optional=True,
        ),
        _dataset(
            "truncation/proved",
            "q",
            ("|u1",),
            "1 where whole residuals are proved to give the same predicted class",
            optional=True,
        ),
        _dataset("ids", "q", ("<i8", STRING), "the user's own name of each query", optional=True),
        _CLASS_NAMES,
    ),
    one_of=_with_and_without(("scores",), ("truncation/bound", "truncation/proved"))
    + _with_and_without(
        ("top_scores/classes", "top_scores/values"), ("truncation/bound", "truncation/proved")
    ),
    parameters=("method", "k", "sigma", "temperature", "n_classes", "n_memory"),
)

REPORT = Format(
    name="resmem.report",
    version=1,
    doc="accuracies, gain, and the examples that memory changed",
    datasets=(
        _dataset("runs/names", "r", (STRING,), "file name of each predictions artifact"),
        _dataset("runs/methods", "r", (STRING,), "its method"),
        _dataset("runs/n_queries", "r", ("<i8",), "labelled queries"),
        _dataset("runs/accuracies", "r a", ("<f8",), "base, kNN on labels, the method; shares of 1"),
        _dataset("runs/n_corrected", "r", ("<i8",), "wrong in the base network, right with memory"),
        _dataset("runs/n_broken", "r", ("<i8",), "right in the base network, wrong with memory"),
        _dataset("runs/gain", "r", ("<f8",), "accuracy of the method − accuracy of the base network"),
        _dataset("runs/gain_interval", "r b", ("<f8",), "95 % confidence interval of the gain"),
        _dataset("runs/p_values", "r", ("<f8",), "McNemar's exact test, two-sided"),
        _dataset("changed/runs", "e", ("<i4",), "which run the example is of", optional=True),
        _dataset("changed/queries", "e", ("<i8",), "query row", optional=True),
        _dataset("changed/labels", "e", ("<i4",), "true class", optional=True),
        _dataset("changed/base_predicted", "e", ("<i4",), "what the network said", optional=True),
        _dataset("changed/predicted", "e", ("<i4",), "what it says with memory", optional=True),
        _dataset("changed/neighbors/rows", "e h", ("<i8",), "rows that weighed most", optional=True),
        _dataset("changed/neighbors/labels", "e h", ("<i4",), "their classes", optional=True),
        _dataset("changed/neighbors/distances", "e h", ("<f8",), "their distances", optional=True),
        _dataset("changed/neighbors/weights", "e h", ("<f4",), "their weights", optional=True),
        _CLASS_NAMES,
    ),
)

FORMATS = {fmt.name: fmt for fmt in (EMBEDDINGS, RESIDUALS, INDEX, PREDICTIONS, REPORT)}


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
