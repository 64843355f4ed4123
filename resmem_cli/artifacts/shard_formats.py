"""The formats of work in shards: a manifest of them, and what was found in one."""

from __future__ import annotations

from resmem_cli.artifacts.declaring import STRING, Format, dataset

MANIFEST = Format(
    name="resmem.manifest",
    version=1,
    doc="shards of an artifact, which are used in its place without being copied",
    datasets=(
        dataset("shards/files", "s", (STRING,), "path of each, from this file's folder, UTF-8"),
        dataset("shards/rows", "s", ("<i8",), "rows of each, which follow those of the one before"),
        dataset("shards/digests", "s", (STRING,), "content digest of each"),
        dataset("curve/probes", "v", ("<i4",), "index: measured settings of nprobe", optional=True),
        dataset("curve/rerank", "v", ("<i4",), "candidates re-ranked for each neighbour", optional=True),
        dataset("curve/recall", "v", ("<f8",), "share of the true neighbours found", optional=True),
        dataset("curve/compared", "v", ("<f8",), "codes compared with a query", optional=True),
    ),
    one_of=((), ("curve/probes", "curve/rerank", "curve/recall", "curve/compared")),
    parameters=("of",),
)

NEIGHBORS = Format(
    name="resmem.neighbors",
    version=1,
    doc="what a search found: for predict and tune, in place of a search of their own",
    datasets=(
        dataset("rows", "q c", ("<i8",), "memory rows; −1 for none"),
        dataset("distances", "q c", ("<f8",), "true distances; infinite for none"),
        dataset(
            "squares",
            "q c",
            ("<f4",),
            "squared distances of the rows' codes, by which the candidates of several shards are chosen",
            optional=True,
        ),
    ),
    parameters=("k", "queries_digest", "embeddings_digest", "memory_rows"),
)

TRAINED = Format(
    name="resmem.trained",
    version=1,
    doc="what the lists of all shards of an index have in common: learnt once, from a sample of all rows",
    datasets=(
        dataset("mean", "d", ("<f8",), "mean row, subtracted for the search"),
        dataset("axes", "d r", ("<f8",), "orthonormal columns, in which rows are coded", optional=True),
        dataset("lists/centroids", "l r", ("<f4",), "centre of each list"),
        dataset("lists/codebook", "p c s", ("<f4",), "ivf-pq: the code words", optional=True),
    ),
    parameters=("kind", "metric", "search", "seed", "quality", "embeddings_digest"),
)
