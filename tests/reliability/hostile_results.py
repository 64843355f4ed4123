"""Hostile artifacts of what is concluded from a memory, their digests made to hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from reliability.forging import Arrays
from reliability.hostile_artifacts import ARTIFACTS, DEEP, ESCAPES, cut, forged, put, together, told
from reliability.hostile_files import ANY_ARTIFACT, PREDICTIONS, REPORT, TUNING

__all__ = ["ARTIFACTS"]

# --- tuning

_ANY_TUNING = (*ANY_ARTIFACT, *TUNING[1:])
for _key, _value in (
    ("best.sigma", 0), ("best.k", 0), ("best.k", 2.5), ("best.k", 10**30), ("best.temperature", -1),
    ("best.strength", "much"), ("best", []), ("gate", []), ("space", {}), ("data", 7), ("top", -1),
):  # fmt: skip
    _refused = TUNING if _key in ("best", "gate", "space", "data", "top") else TUNING[:2]
    forged(f"{_key} {_value!r}", "tuning.h5", _refused,
            may=(*ANY_ARTIFACT, *(line for line in TUNING if line not in _refused)),
            parameters=told(_key, _value))  # fmt: skip
forged(
    "rows that are not there",
    "tuning.h5",
    (),
    may=(*ANY_ARTIFACT, *TUNING),
    arrays=put("rows", slice(None), -(2**62)),
    parameters=told("data.kind", "queries"),
)
forged(
    "NaN in the grid",
    "tuning.h5",
    (),
    may=(*ANY_ARTIFACT, *TUNING),
    arrays=put("grid/accuracy", slice(None), np.nan),
)
forged("no points", "tuning.h5", (), may=(*ANY_ARTIFACT, *TUNING), arrays=cut(0))

# --- predictions

forged(
    "no queries",
    "predictions-exact.h5",
    PREDICTIONS,
    arrays=lambda arrays: cut(0, *(name for name in arrays if name not in ("class_names", "class_counts")))(
        arrays
    ),
)
for _name in ("labels", "predicted", "base_predicted", "knn_predicted"):
    forged(f"{_name} beyond the classes", "predictions-exact.h5", PREDICTIONS, arrays=put(_name, 7, 5))
forged(
    "a runner-up beyond the classes",
    "predictions-exact.h5",
    PREDICTIONS,
    arrays=put("runner_up", slice(None), 2**31 - 1),
)
forged(
    "neighbours of classes that are not there",
    "predictions-exact.h5",
    PREDICTIONS,
    arrays=put("neighbors/labels", slice(None), 2**31 - 1),
)
forged(
    "neighbours that are not there",
    "predictions-exact.h5",
    PREDICTIONS,
    arrays=put("neighbors/rows", slice(None), 2**62),
)
forged(
    "NaN among scores",
    "predictions-exact.h5",
    (),
    may=(*ANY_ARTIFACT, *PREDICTIONS),
    arrays=together(put("scores", slice(None), np.nan), put("base_confidence", slice(None), np.nan)),
)
forged(
    "weights and distances of NaN",
    "predictions-exact.h5",
    (),
    may=(*ANY_ARTIFACT, *PREDICTIONS),
    arrays=together(
        put("neighbors/weights", slice(None), np.nan), put("neighbors/distances", slice(None), np.nan)
    ),
)
forged(
    "no neighbours",
    "predictions-exact.h5",
    PREDICTIONS,
    arrays=lambda arrays: arrays.update(
        {name: arrays[name][:, :0] for name in arrays if name.startswith("neighbors/")}
    ),
)
forged(
    "more classes than there are",
    "predictions-exact.h5",
    PREDICTIONS,
    parameters=told("n_classes", 10**12),
    arrays=put("predicted", 7, 2**31 - 1),
)
forged(
    "fewer names than classes",
    "predictions-exact.h5",
    PREDICTIONS,
    parameters=told("n_classes", 10),
    arrays=put("labels", slice(None), 9),
)
forged("k as text", "predictions-exact.h5", PREDICTIONS, parameters=told("k", "20"))
forged(
    "a method that is a list",
    "predictions-exact.h5",
    (),
    may=(*ANY_ARTIFACT, *PREDICTIONS),
    parameters=told("method", ["\x1b[31m"]),
)
forged(
    "names that steer a terminal",
    "predictions-exact.h5",
    (),
    may=(*ANY_ARTIFACT, *PREDICTIONS),
    arrays=lambda arrays: arrays.update(class_names=np.array([ESCAPES] * 5), ids=np.array([ESCAPES] * 30)),
)
forged(
    "names that are a page's script",
    "predictions-exact.h5",
    (),
    may=(*ANY_ARTIFACT, *PREDICTIONS),
    arrays=lambda arrays: arrays.update(class_names=np.array([b"<script>$x_{\\frac{$"] * 5)),
)
forged(
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


forged(
    "a document that is no JSON",
    "report.h5",
    (),
    may=(*ANY_ARTIFACT, *REPORT),
    arrays=_document(b"\xff{"),
)
forged(
    "a document 100,000 deep",
    "report.h5",
    (),
    may=(*ANY_ARTIFACT, *REPORT),
    arrays=_document(DEEP.encode()),
)
forged(
    "a document of NaN",
    "report.h5",
    (),
    may=(*ANY_ARTIFACT, *REPORT),
    arrays=_document(b'{"a": NaN}'),
)
forged(
    "runs that are not there",
    "report.h5",
    (),
    may=(*ANY_ARTIFACT, *REPORT),
    arrays=put("changed/runs", slice(None), 2**31 - 1),
)
