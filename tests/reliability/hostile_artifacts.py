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
    REPORT,
    RESIDUALS,
    TUNING,
    Collection,
)

ARTIFACTS = Collection()
_DEEP = "[" * 100_000 + "]" * 100_000
_ESCAPES = b"\x1b[31m\x1b]0;x\x07"


def _forged(
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


def _put(name: str, place: object, value: object) -> Callable[[Arrays], object]:
    """Set one value of a dataset."""

    def change(arrays: Arrays) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name][place] = value  # type: ignore[index]

    return change


def _all(*changes: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda content: [change(content) for change in changes]


def _cut(count: int, *names: str) -> Callable[[Arrays], object]:
    """Keep the first rows of some datasets, or of all."""
    return lambda arrays: arrays.update({name: arrays[name][:count] for name in names or [*arrays]})


def _told(key: str, value: object) -> Callable[[dict[str, Any]], object]:
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
    _forged("JSON 100,000 deep", _source, (*ANY_ARTIFACT, *_refused), may=(),
            text=lambda text: text[:-1] + f', "more": {_DEEP}}}')  # fmt: skip
    _forged("a list for its parameters", _source, (*ANY_ARTIFACT, *_refused), may=(), text=lambda text: "[]")
    _forged("JSON with NaN", _source, (*ANY_ARTIFACT, *_refused), may=(),
            text=lambda text: text[:-1] + ', "more": NaN}')  # fmt: skip
    _forged("an integer of 100,000 digits", _source, (*ANY_ARTIFACT, *_refused), may=(),
            text=lambda text: text[:-1] + ', "more": ' + "9" * 100_000 + "}")  # fmt: skip
    _forged("a key given twice", _source, (*ANY_ARTIFACT, *_refused), may=(),
            text=lambda text: text[:-1] + ', ' + text[1:])  # fmt: skip
    _forged("a lone surrogate", _source, (), may=(*ANY_ARTIFACT, *_refused),
            text=lambda text: text[:-1] + ', "\\ud800": "\\udfff"}')  # fmt: skip

# --- embeddings

_forged("no rows", "train.h5", EMBEDDINGS, arrays=_cut(0, "embeddings", "logits", "labels", "ids"))
_forged(
    "no classes",
    "train.h5",
    EMBEDDINGS[1:2],
    may=(*ANY_ARTIFACT, *EMBEDDINGS[:1], *EMBEDDINGS[2:]),
    arrays=lambda arrays: arrays.update(
        logits=arrays["logits"][:, :0], class_names=arrays["class_names"][:0]
    ),
)
_forged(
    "no dimensions",
    "train.h5",
    EMBEDDINGS[:1] + EMBEDDINGS[2:],
    may=(*ANY_ARTIFACT, *EMBEDDINGS[1:2]),
    arrays=lambda arrays: arrays.update(embeddings=arrays["embeddings"][:, :0]),
)
_forged(
    "NaN among the embeddings",
    "train.h5",
    EMBEDDINGS[:1] + EMBEDDINGS[2:],
    may=(*ANY_ARTIFACT, *EMBEDDINGS[1:2]),
    arrays=_put("embeddings", (7, 3), np.nan),
)
_forged(
    "infinite logits",
    "train.h5",
    EMBEDDINGS[1:5],
    may=(*ANY_ARTIFACT, EMBEDDINGS[0], EMBEDDINGS[5]),
    arrays=_put("logits", (7, 3), np.inf),
)
_forged(
    "a label beyond the classes",
    "train.h5",
    EMBEDDINGS[1:5],
    may=(*ANY_ARTIFACT, EMBEDDINGS[0], EMBEDDINGS[5]),
    arrays=_put("labels", 7, 5),
)
_forged(
    "a negative label",
    "train.h5",
    EMBEDDINGS[1:5],
    may=(*ANY_ARTIFACT, EMBEDDINGS[0], EMBEDDINGS[5]),
    arrays=_put("labels", 7, -(2**31)),
)
_forged(
    "names that steer a terminal",
    "train.h5",
    (),
    may=(*ANY_ARTIFACT, *EMBEDDINGS),
    arrays=lambda arrays: arrays.update(class_names=np.array([_ESCAPES] * 5), ids=np.array([_ESCAPES] * 120)),
    parameters=_told("sources", {"\x1b[31m": "\x9b2J", "ids": "\u202e"}),
)
_forged(
    "sources that are no mapping",
    "train.h5",
    (),
    may=(*ANY_ARTIFACT, *EMBEDDINGS),
    parameters=_told("sources", [[1]]),
)

# --- residuals

_forged("no rows", "residuals.h5", RESIDUALS, arrays=_cut(0, "residuals", "labels", "ids"))
_forged(
    "NaN among the residuals",
    "residuals.h5",
    RESIDUALS[:1],
    may=(*ANY_ARTIFACT, *RESIDUALS[1:]),
    arrays=_put("residuals", (slice(None), 3), np.nan),
)
_forged(
    "residuals near infinity",
    "residuals.h5",
    (),
    may=(*ANY_ARTIFACT, *RESIDUALS),
    arrays=_put("residuals", (slice(None), 3), 3e38),
)
_forged("a label beyond the classes", "residuals.h5", RESIDUALS, arrays=_put("labels", 7, 5))
_forged("classes that are not there", "residuals.h5", RESIDUALS, parameters=_told("n_classes", 10**15))
_forged("a negative number of classes", "residuals.h5", RESIDUALS, parameters=_told("n_classes", -5))
_forged("half a class", "residuals.h5", RESIDUALS, parameters=_told("n_classes", 5.5))
_forged("temperature 0", "residuals.h5", RESIDUALS, parameters=_told("temperature", 0))
_forged("temperature as text", "residuals.h5", RESIDUALS, parameters=_told("temperature", "1.4"))
_forged("temperature of 400 digits", "residuals.h5", RESIDUALS, parameters=_told("temperature", 10**400))
_forged("a space that is a list", "residuals.h5", RESIDUALS, parameters=_told("space", [[]]))
_forged(
    "the digest of a mapping",
    "residuals.h5",
    RESIDUALS[:1],
    may=(*ANY_ARTIFACT, *RESIDUALS[1:]),
    parameters=_told("embeddings_digest", {"a": 1}),
)
_forged(
    "a class beyond the classes",
    "top.h5",
    RESIDUALS[:1],
    may=(*ANY_ARTIFACT, *RESIDUALS[1:]),
    arrays=_put("top/classes", slice(None), 65535),
)
_forged(
    "the same class twice",
    "top.h5",
    (),
    may=(*ANY_ARTIFACT, *RESIDUALS),
    arrays=_put("top/classes", slice(None), 2),
)
_forged(
    "no entries",
    "top.h5",
    RESIDUALS,
    arrays=lambda arrays: arrays.update(
        {name: arrays[name][:, :0] for name in ("top/classes", "top/values")}
    ),
)

# --- index

_forged("no rows", "index-exact.h5", INDEX, arrays=_cut(0, "vectors", "ids"))
_forged("NaN among the vectors", "index-exact.h5", INDEX, arrays=_put("vectors", (7, 3), np.nan))
_forged("NaN in the mean", "index-exact.h5", INDEX, arrays=_put("mean", 3, np.nan))
_forged(
    "a mean beyond float32", "index-exact.h5", (), may=(*ANY_ARTIFACT, *INDEX), arrays=_put("mean", 3, 1e300)
)
_forged(
    "a norm that is too small",
    "index-exact.h5",
    (),
    may=(*ANY_ARTIFACT, *INDEX),
    parameters=_told("search.largest_norm", 0),
)
_forged("a kind that is a list", "index-exact.h5", INDEX, parameters=_told("kind", ["exact"]))
_forged("a metric that is a mapping", "index-exact.h5", INDEX, parameters=_told("search.metric", {}))
_forged(
    "a scale of 0",
    "index-exact.h5",
    INDEX[:1],
    statuses=(2,),
    may=(*ANY_ARTIFACT, *INDEX[1:]),
    parameters=_told("distance_scale.median", 0),
)
_forged(
    "a scale that is text",
    "index-exact.h5",
    INDEX[:1],
    may=(*ANY_ARTIFACT, *INDEX[1:]),
    parameters=_told("distance_scale", "wide"),
)
_forged(
    "axes that are not there",
    "index-exact.h5",
    (),
    may=(*ANY_ARTIFACT, *INDEX),
    parameters=_told("search.axes", 4),
)
_forged("another kind's datasets", "index-exact.h5", INDEX, parameters=_told("kind", "ivf"))
for _kind in ("ivf", "ivf-pq", "ivf-rabitq"):
    _file = f"index-{_kind}.h5"
    _forged("a negative list", _file, INDEX, arrays=_put("lists/sizes", slice(2), (-1, 40)))
    _forged("lists whose sizes overflow", _file, INDEX, arrays=_put("lists/sizes", slice(2), 2**62))
    _forged("a list of 2**63 - 1 rows", _file, INDEX, arrays=_put("lists/sizes", 0, 2**63 - 1))
    _forged("rows that are not there", _file, INDEX, arrays=_put("lists/entries", slice(None), 1))
    _forged("NaN in the centres", _file, INDEX, arrays=_put("lists/centroids", 3, np.nan))
    _forged("a million lists", _file, INDEX, parameters=_told("search.lists", 10**6))
    _forged(
        "an effort of a billion",
        _file,
        (),
        may=(*ANY_ARTIFACT, *INDEX),
        parameters=_told("search.effort", {"probe": 10**9, "rerank": 10**9}),
    )
    _forged(
        "a curve of nonsense",
        _file,
        (),
        may=(*ANY_ARTIFACT, *INDEX),
        arrays=_all(_put("curve/probes", slice(None), -1), _put("curve/recall", slice(None), np.nan)),
    )
_forged("code words of NaN", "index-ivf-pq.h5", INDEX, arrays=_put("lists/codebook", slice(None), np.nan))
_forged("parts that do not fit", "index-ivf-pq.h5", INDEX, parameters=_told("search.subquantizers", 2**31))
_forged("links out of the graph", "index-hnsw.h5", INDEX, arrays=_put("graph/neighbors", slice(None), 120))
_forged("negative links", "index-hnsw.h5", INDEX, arrays=_put("graph/neighbors", slice(None), -(2**31)))
_forged("levels of a tower", "index-hnsw.h5", INDEX, arrays=_put("graph/levels", 5, 2**31 - 1))
_forged("no levels", "index-hnsw.h5", INDEX, arrays=_put("graph/levels", slice(None), 0))
_forged("nodes of one row", "index-hnsw.h5", INDEX, arrays=_put("graph/rows", slice(None), 1))
_forged("an entry beside the graph", "index-hnsw.h5", INDEX, parameters=_told("search.entry", 2**40))
_forged("links in the thousands", "index-hnsw.h5", INDEX, parameters=_told("search.links", 2**31))

# --- tuning

_ANY_TUNING = (*ANY_ARTIFACT, *TUNING[1:])
for _key, _value in (
    ("best.sigma", 0), ("best.k", 0), ("best.k", 2.5), ("best.k", 10**30), ("best.temperature", -1),
    ("best.strength", "much"), ("best", []), ("gate", []), ("space", {}), ("data", 7), ("top", -1),
):  # fmt: skip
    _refused = TUNING if _key in ("best", "gate", "space", "data", "top") else TUNING[:2]
    _forged(f"{_key} {_value!r}", "tuning.h5", _refused,
            may=(*ANY_ARTIFACT, *(line for line in TUNING if line not in _refused)),
            parameters=_told(_key, _value))  # fmt: skip
_forged(
    "rows that are not there",
    "tuning.h5",
    (),
    may=(*ANY_ARTIFACT, *TUNING),
    arrays=_put("rows", slice(None), -(2**62)),
    parameters=_told("data.kind", "queries"),
)
_forged(
    "NaN in the grid",
    "tuning.h5",
    (),
    may=(*ANY_ARTIFACT, *TUNING),
    arrays=_put("grid/accuracy", slice(None), np.nan),
)
_forged("no points", "tuning.h5", (), may=(*ANY_ARTIFACT, *TUNING), arrays=_cut(0))

# --- predictions

_forged(
    "no queries",
    "predictions-exact.h5",
    PREDICTIONS,
    arrays=lambda arrays: _cut(0, *(name for name in arrays if name not in ("class_names", "class_counts")))(
        arrays
    ),
)
for _name in ("labels", "predicted", "base_predicted", "knn_predicted"):
    _forged(f"{_name} beyond the classes", "predictions-exact.h5", PREDICTIONS, arrays=_put(_name, 7, 5))
_forged(
    "a runner-up beyond the classes",
    "predictions-exact.h5",
    PREDICTIONS,
    arrays=_put("runner_up", slice(None), 2**31 - 1),
)
_forged(
    "neighbours of classes that are not there",
    "predictions-exact.h5",
    PREDICTIONS,
    arrays=_put("neighbors/labels", slice(None), 2**31 - 1),
)
_forged(
    "neighbours that are not there",
    "predictions-exact.h5",
    PREDICTIONS,
    arrays=_put("neighbors/rows", slice(None), 2**62),
)
_forged(
    "NaN among scores",
    "predictions-exact.h5",
    (),
    may=(*ANY_ARTIFACT, *PREDICTIONS),
    arrays=_all(_put("scores", slice(None), np.nan), _put("base_confidence", slice(None), np.nan)),
)
_forged(
    "weights and distances of NaN",
    "predictions-exact.h5",
    (),
    may=(*ANY_ARTIFACT, *PREDICTIONS),
    arrays=_all(
        _put("neighbors/weights", slice(None), np.nan), _put("neighbors/distances", slice(None), np.nan)
    ),
)
_forged(
    "no neighbours",
    "predictions-exact.h5",
    PREDICTIONS,
    arrays=lambda arrays: arrays.update(
        {name: arrays[name][:, :0] for name in arrays if name.startswith("neighbors/")}
    ),
)
_forged(
    "more classes than there are",
    "predictions-exact.h5",
    PREDICTIONS,
    parameters=_told("n_classes", 10**12),
    arrays=_put("predicted", 7, 2**31 - 1),
)
_forged(
    "fewer names than classes",
    "predictions-exact.h5",
    PREDICTIONS,
    parameters=_told("n_classes", 10),
    arrays=_put("labels", slice(None), 9),
)
_forged("k as text", "predictions-exact.h5", PREDICTIONS, parameters=_told("k", "20"))
_forged(
    "a method that is a list",
    "predictions-exact.h5",
    (),
    may=(*ANY_ARTIFACT, *PREDICTIONS),
    parameters=_told("method", ["\x1b[31m"]),
)
_forged(
    "names that steer a terminal",
    "predictions-exact.h5",
    (),
    may=(*ANY_ARTIFACT, *PREDICTIONS),
    arrays=lambda arrays: arrays.update(class_names=np.array([_ESCAPES] * 5), ids=np.array([_ESCAPES] * 30)),
)
_forged(
    "names that are a page's script",
    "predictions-exact.h5",
    (),
    may=(*ANY_ARTIFACT, *PREDICTIONS),
    arrays=lambda arrays: arrays.update(class_names=np.array([b"<script>$x_{\\frac{$"] * 5)),
)
_forged(
    "names that are not UTF-8",
    "predictions-exact.h5",
    (),
    may=(*ANY_ARTIFACT, *PREDICTIONS),
    arrays=lambda arrays: arrays.update(
        class_names=np.array([b"\xff\xfe"] * 5), ids=np.array([b"\xff"] * 30)
    ),
)

# --- report


def _document(content: bytes) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.update(document=np.frombuffer(content, np.uint8))


_forged(
    "a document that is no JSON",
    "report.h5",
    (),
    may=(*ANY_ARTIFACT, *REPORT),
    arrays=_document(b"\xff{"),
)
_forged(
    "a document 100,000 deep",
    "report.h5",
    (),
    may=(*ANY_ARTIFACT, *REPORT),
    arrays=_document(_DEEP.encode()),
)
_forged(
    "a document of NaN",
    "report.h5",
    (),
    may=(*ANY_ARTIFACT, *REPORT),
    arrays=_document(b'{"a": NaN}'),
)
_forged(
    "runs that are not there",
    "report.h5",
    (),
    may=(*ANY_ARTIFACT, *REPORT),
    arrays=_put("changed/runs", slice(None), 2**31 - 1),
)
