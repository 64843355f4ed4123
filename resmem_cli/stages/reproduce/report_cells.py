"""What `analyze` tells of one run, as cells of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resmem_cli.results import Cell, Column, Estimate, Unit

SETTINGS = (Column("k", Unit.COUNT), Column("sigma"), Column("T"))
OUTCOMES = (
    Column("base", Unit.SHARE),
    Column("ResMem", Unit.SHARE),
    Column("gain [95 %]", Unit.GAIN),
    Column("TPR", Unit.SHARE),
    Column("FPR", Unit.SHARE),
    Column("p", Unit.PROBABILITY),
)


def settings_cells(told: Mapping[str, Any]) -> tuple[Cell, ...]:
    """Give the cells of `SETTINGS`."""
    return told["k"], told["sigma"], told["temperature"]


def outcome_cells(told: Mapping[str, Any]) -> tuple[Cell, ...]:
    """Give the cells of `OUTCOMES`; the p value is McNemar's exact test's."""
    shares = (told["base_accuracy"], told["accuracy"])
    return *shares, gain_of(told), told["tpr"], told["fpr"], told["p_value"]


def gain_of(told: Mapping[str, Any]) -> Estimate:
    """Give a run's gain with its 95 % interval."""
    low, high = told["interval"]
    return Estimate(told["gain"], low, high)
