"""Hostile artifacts whose digests hold: values, sizes and parameters that no command would write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reliability.forging import Arrays, forge
from reliability.hostile_files import (
    ANY_ARTIFACT,
    EMBEDDINGS,
    INDEX,
    PREDICTIONS,
    RESIDUALS,
    TUNING,
    Collection,
)

ARTIFACTS = Collection()
DEEP = "[" * 100_000 + "]" * 100_000
ESCAPES = b"\x1b[31m\x1b]0;x\x07"


def forged(
    what: str,
    source: str,
    refused: tuple[str, ...],
    *,
    may: tuple[str, ...] = ANY_ARTIFACT,
    statuses: tuple[int, ...] = (65,),
    arrays: Callable[[Arrays], object] | None = None,
    parameters: Callable[[dict[str, Any]], object] | None = None,
    text: Callable[[str], str] | None = None,
) -> None:
    """Put a forgery of one of the workload's artifacts into the collection."""

    def make(path: Path, canary: Path, inputs: Path) -> None:
        forge(path, inputs / source, arrays=arrays, parameters=parameters, text=text)

    make.__name__ = f"{source.removesuffix('.h5')}: {what}"
    ARTIFACTS("forged.h5", *refused, may=may, statuses=statuses)(make)


def put(name: str, place: object, value: object) -> Callable[[Arrays], object]:
    """Set one value of a dataset."""

    def change(arrays: Arrays) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name][place] = value  # type: ignore[index]

    return change


def together(*changes: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda content: [change(content) for change in changes]


def cut(count: int, *names: str) -> Callable[[Arrays], object]:
    """Keep the first rows of some datasets, or of all."""
    return lambda arrays: arrays.update({name: arrays[name][:count] for name in names or [*arrays]})


def told(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    """Set a parameter; the key of an inner one has a dot."""

    def change(parameters: dict[str, Any]) -> None:
        *outer, last = key.split(".")
        for part in outer:
            inner = dict(parameters[part])
            parameters[part] = inner
            parameters = inner
        parameters[last] = value

    return change


# --- what JSON can say

for _source, _refused in (("train.h5", EMBEDDINGS), ("residuals.h5", RESIDUALS), ("index-exact.h5", INDEX),
                          ("tuning.h5", TUNING), ("predictions-exact.h5", PREDICTIONS)):  # fmt: skip
    forged("JSON 100,000 deep", _source, (*ANY_ARTIFACT, *_refused), may=(),
            text=lambda text: text[:-1] + f', "more": {DEEP}}}')  # fmt: skip
    forged("a list for its parameters", _source, (*ANY_ARTIFACT, *_refused), may=(), text=lambda text: "[]")
    forged("JSON with NaN", _source, (*ANY_ARTIFACT, *_refused), may=(),
            text=lambda text: text[:-1] + ', "more": NaN}')  # fmt: skip
    forged("an integer of 100,000 digits", _source, (*ANY_ARTIFACT, *_refused), may=(),
            text=lambda text: text[:-1] + ', "more": ' + "9" * 100_000 + "}")  # fmt: skip
    forged("a key given twice", _source, (*ANY_ARTIFACT, *_refused), may=(),
            text=lambda text: text[:-1] + ', ' + text[1:])  # fmt: skip
    forged("a lone surrogate", _source, (), may=(*ANY_ARTIFACT, *_refused),
            text=lambda text: text[:-1] + ', "\\ud800": "\\udfff"}')  # fmt: skip

# --- embeddings

forged("no rows", "train.h5", EMBEDDINGS, arrays=cut(0, "embeddings", "logits", "labels", "ids"))
forged(
    "no classes",
    "train.h5",
    EMBEDDINGS[1:2],
    may=(*ANY_ARTIFACT, *EMBEDDINGS[:1], *EMBEDDINGS[2:]),
    arrays=lambda arrays: arrays.update(
        logits=arrays["logits"][:, :0], class_names=arrays["class_names"][:0]
    ),
)
forged(
    "no dimensions",
    "train.h5",
    EMBEDDINGS[:1] + EMBEDDINGS[2:],
    may=(*ANY_ARTIFACT, *EMBEDDINGS[1:2]),
    arrays=lambda arrays: arrays.update(embeddings=arrays["embeddings"][:, :0]),
)
forged(
    "NaN among the embeddings",
    "train.h5",
    EMBEDDINGS[:1] + EMBEDDINGS[2:],
    may=(*ANY_ARTIFACT, *EMBEDDINGS[1:2]),
    arrays=put("embeddings", (7, 3), np.nan),
)
forged(
    "infinite logits",
    "train.h5",
    EMBEDDINGS[1:5],
    may=(*ANY_ARTIFACT, EMBEDDINGS[0], EMBEDDINGS[5]),
    arrays=put("logits", (7, 3), np.inf),
)
forged(
    "a label beyond the classes",
    "train.h5",
    EMBEDDINGS[1:5],
    may=(*ANY_ARTIFACT, EMBEDDINGS[0], EMBEDDINGS[5]),
    arrays=put("labels", 7, 5),
)
forged(
    "a negative label",
    "train.h5",
    EMBEDDINGS[1:5],
    may=(*ANY_ARTIFACT, EMBEDDINGS[0], EMBEDDINGS[5]),
    arrays=put("labels", 7, -(2**31)),
)
forged(
    "names that steer a terminal",
    "train.h5",
    (),
    may=(*ANY_ARTIFACT, *EMBEDDINGS),
    arrays=lambda arrays: arrays.update(class_names=np.array([ESCAPES] * 5), ids=np.array([ESCAPES] * 120)),
    parameters=told("sources", {"\x1b[31m": "\x9b2J", "ids": "\u202e"}),
)
forged(
    "sources that are no mapping",
    "train.h5",
    (),
    may=(*ANY_ARTIFACT, *EMBEDDINGS),
    parameters=told("sources", [[1]]),
)

# --- residuals

forged("no rows", "residuals.h5", RESIDUALS, arrays=cut(0, "residuals", "labels", "ids"))
forged(
    "NaN among the residuals",
    "residuals.h5",
    RESIDUALS[:1],
    may=(*ANY_ARTIFACT, *RESIDUALS[1:]),
    arrays=put("residuals", (slice(None), 3), np.nan),
)
forged(
    "residuals near infinity",
    "residuals.h5",
    (),
    may=(*ANY_ARTIFACT, *RESIDUALS),
    arrays=put("residuals", (slice(None), 3), 3e38),
)
forged("a label beyond the classes", "residuals.h5", RESIDUALS, arrays=put("labels", 7, 5))
forged("classes that are not there", "residuals.h5", RESIDUALS, parameters=told("n_classes", 10**15))
forged("a negative number of classes", "residuals.h5", RESIDUALS, parameters=told("n_classes", -5))
forged("half a class", "residuals.h5", RESIDUALS, parameters=told("n_classes", 5.5))
forged("temperature 0", "residuals.h5", RESIDUALS, parameters=told("temperature", 0))
forged("temperature as text", "residuals.h5", RESIDUALS, parameters=told("temperature", "1.4"))
forged("temperature of 400 digits", "residuals.h5", RESIDUALS, parameters=told("temperature", 10**400))
forged("a space that is a list", "residuals.h5", RESIDUALS, parameters=told("space", [[]]))
forged(
    "the digest of a mapping",
    "residuals.h5",
    RESIDUALS[:1],
    may=(*ANY_ARTIFACT, *RESIDUALS[1:]),
    parameters=told("embeddings_digest", {"a": 1}),
)
forged(
    "a class beyond the classes",
    "top.h5",
    RESIDUALS[:1],
    may=(*ANY_ARTIFACT, *RESIDUALS[1:]),
    arrays=put("top/classes", slice(None), 65535),
)
forged(
    "the same class twice",
    "top.h5",
    (),
    may=(*ANY_ARTIFACT, *RESIDUALS),
    arrays=put("top/classes", slice(None), 2),
)
forged(
    "no entries",
    "top.h5",
    RESIDUALS,
    arrays=lambda arrays: arrays.update(
        {name: arrays[name][:, :0] for name in ("top/classes", "top/values")}
    ),
)

# --- index

forged("no rows", "index-exact.h5", INDEX, arrays=cut(0, "vectors", "ids"))
forged("NaN among the vectors", "index-exact.h5", INDEX, arrays=put("vectors", (7, 3), np.nan))
forged("NaN in the mean", "index-exact.h5", INDEX, arrays=put("mean", 3, np.nan))
forged(
    "a mean beyond float32", "index-exact.h5", (), may=(*ANY_ARTIFACT, *INDEX), arrays=put("mean", 3, 1e300)
)
forged(
    "a norm that is too small",
    "index-exact.h5",
    (),
    may=(*ANY_ARTIFACT, *INDEX),
    parameters=told("search.largest_norm", 0),
)
forged("a kind that is a list", "index-exact.h5", INDEX, parameters=told("kind", ["exact"]))
forged("a metric that is a mapping", "index-exact.h5", INDEX, parameters=told("search.metric", {}))
forged(
    "a scale of 0",
    "index-exact.h5",
    INDEX[:1],
    statuses=(2,),
    may=(*ANY_ARTIFACT, *INDEX[1:]),
    parameters=told("distance_scale.median", 0),
)
forged(
    "a scale that is text",
    "index-exact.h5",
    INDEX[:1],
    may=(*ANY_ARTIFACT, *INDEX[1:]),
    parameters=told("distance_scale", "wide"),
)
forged(
    "axes that are not there",
    "index-exact.h5",
    (),
    may=(*ANY_ARTIFACT, *INDEX),
    parameters=told("search.axes", 4),
)
forged("another kind's datasets", "index-exact.h5", INDEX, parameters=told("kind", "ivf"))
for _kind in ("ivf", "ivf-pq", "ivf-rabitq"):
    _file = f"index-{_kind}.h5"
    forged("a negative list", _file, INDEX, arrays=put("lists/sizes", slice(2), (-1, 40)))
    forged("lists whose sizes overflow", _file, INDEX, arrays=put("lists/sizes", slice(2), 2**62))
    forged("a list of 2**63 - 1 rows", _file, INDEX, arrays=put("lists/sizes", 0, 2**63 - 1))
    forged("rows that are not there", _file, INDEX, arrays=put("lists/entries", slice(None), 1))
    forged("NaN in the centres", _file, INDEX, arrays=put("lists/centroids", 3, np.nan))
    forged("a million lists", _file, INDEX, parameters=told("search.lists", 10**6))
    forged(
        "an effort of a billion",
        _file,
        (),
        may=(*ANY_ARTIFACT, *INDEX),
        parameters=told("search.effort", {"probe": 10**9, "rerank": 10**9}),
    )
    forged(
        "a curve of nonsense",
        _file,
        (),
        may=(*ANY_ARTIFACT, *INDEX),
        arrays=together(put("curve/probes", slice(None), -1), put("curve/recall", slice(None), np.nan)),
    )
forged("code words of NaN", "index-ivf-pq.h5", INDEX, arrays=put("lists/codebook", slice(None), np.nan))
forged("parts that do not fit", "index-ivf-pq.h5", INDEX, parameters=told("search.subquantizers", 2**31))
forged("links out of the graph", "index-hnsw.h5", INDEX, arrays=put("graph/neighbors", slice(None), 120))
forged("negative links", "index-hnsw.h5", INDEX, arrays=put("graph/neighbors", slice(None), -(2**31)))
forged("levels of a tower", "index-hnsw.h5", INDEX, arrays=put("graph/levels", 5, 2**31 - 1))
forged("no levels", "index-hnsw.h5", INDEX, arrays=put("graph/levels", slice(None), 0))
forged("nodes of one row", "index-hnsw.h5", INDEX, arrays=put("graph/rows", slice(None), 1))
forged("an entry beside the graph", "index-hnsw.h5", INDEX, parameters=told("search.entry", 2**40))
forged("links in the thousands", "index-hnsw.h5", INDEX, parameters=told("search.links", 2**31))
