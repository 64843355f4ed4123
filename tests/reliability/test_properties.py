"""No public numeric function without a property: each is covered, or exempt for a reason.

The properties are in the modules `test_properties_*`. They have been seen to fail: `test_softmax` where the
maximum was not subtracted, `test_neighbor_weights` where the smallest distance was not, `test_distances`
with squared distances, `test_top_memory_and_its_bound` with the bound halved, `test_quality` with bins of
unequal size counted alike; and the test below ("no property for quality.bootstrap_interval") where one
was taken away.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import resmem_cli
from reliability import (
    test_properties_metrics,  # noqa: F401
    test_properties_probabilities,  # noqa: F401
    test_properties_search,  # noqa: F401
    test_properties_theory,  # noqa: F401
)
from reliability.properties import COVERED

PURE = (
    "calibration", "columns", "exponential", "gate", "largest", "logit_space", "memory", "memory_size",
    "metrics", "prediction", "quality", "residual_memory", "residuals", "results", "rows", "settings",
    "threads", "truncation", "types", "weights",
    "analysis.coarse_to_fine", "analysis.groups", "analysis.influence",
    "tuning.grid", "tuning.methods", "tuning.sweep", "tuning.tables",
    "linear_regression.erm", "linear_regression.experiment", "linear_regression.illustration",
    "linear_regression.rates", "linear_regression.risk", "linear_regression.sampling",
    "linear_regression.tables",
    "indexes.base", "indexes.distances", "indexes.exact", "indexes.proof", "indexes.scale", "indexes.space",
)  # fmt: skip

EXEMPT = {
    "illustration.illustrate": "has no arguments but a seed; `test_the_illustration_adds_up` holds it",
    "types.Closing.close": "releases what a context holds, and computes nothing",
    "rows.RowRange.read": "test_shards holds it to numpy",
    "rows.ConcatenatedRows.read": "as `RowRange.read`",
    "rows.ConcatenatedRandomRows.at": "as `RowRange.read`",
    "rows.PickedRows.take": "as `RowRange.read`",
    "base.without_own": "the second half of `search_others`, whose property holds it",
    "base.index_kind": "registers a class",
    "base.index_kinds": "gives the registered classes",
    "scale.search_rows": "how many queries go together; test_determinism holds that it changes nothing",
    "exact.ExactIndex.load": "reads what was stored; test_mutations and test_indexes_contract hold it",
    "exact.ExactIndex.datasets": "as `load`",
    "exact.ExactIndex.parameters": "as `load`",
    "exact.ExactIndex.updated": "test_cli_update and test_indexes_contract hold it to a memory built anew",
    "exact.ExactIndex.check_parameters": "checks options; test_arguments holds them",
}
# Of which every kind is held to float64 by test_distances.
PROTOCOLS = ("Index", "Residuals", "RandomRows", "RowSource", "Progress", "Table", "Engine", "SearchedRows")


def public_functions(module: ModuleType) -> list[str]:
    """Give the functions of a module, and the methods of its classes, as `holds` names them."""
    short = module.__name__.rpartition(".")[2]
    found = []
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            if name in PROTOCOLS or issubclass(value, enum.Enum):
                continue
            found += [
                f"{short}.{name}.{method}"
                for method, of in vars(value).items()
                # Others are defaults of fields.
                if not method.startswith("_") and getattr(of, "__qualname__", "") == f"{name}.{method}"
            ]
        elif callable(value) and not dataclasses.is_dataclass(value):
            found.append(f"{short}.{name}")
    return found


@pytest.mark.parametrize("name", PURE)
def test_every_public_function_has_a_property(name: str) -> None:
    wanted = set(public_functions(importlib.import_module(f"resmem_cli.{name}")))
    missing = wanted - set(COVERED) - set(EXEMPT)
    assert not missing, f"no property for {', '.join(sorted(missing))}"


def test_no_property_of_what_is_not_there() -> None:
    there = {
        function
        for name in PURE
        for function in public_functions(importlib.import_module(f"resmem_cli.{name}"))
    }
    assert set(COVERED) <= there, sorted(set(COVERED) - there)
    assert set(EXEMPT) <= there, sorted(set(EXEMPT) - there)


def test_no_module_of_formulas_is_left_out() -> None:
    """Those that compute with numpy, directly in the package and in the packages of formulas."""
    apart = {"scratch"}  # makes room for arrays
    for package in ("", "analysis", "tuning", "linear_regression"):
        folder = importlib.import_module(f"resmem_cli.{package}".rstrip("."))
        names = {
            f"{package}.{path.stem}".lstrip(".")
            for path in Path(folder.__path__[0]).glob("[!_]*.py")
            if "numpy" in path.read_text()
        }
        assert names - apart <= set(PURE), sorted(names - apart - set(PURE))


def test_what_the_package_exports_is_covered() -> None:
    """Of functions on arrays; stages, which take paths, are held by the other tests of the programme."""
    for name in resmem_cli.__all__:
        value = getattr(resmem_cli, name)
        home = getattr(value, "__module__", "").removeprefix("resmem_cli.")
        if inspect.isfunction(value) and not home.startswith(("stages", "artifacts")):
            assert home in PURE, f"{name} of {home}"
