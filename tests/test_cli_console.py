"""How figures are written for people."""

from __future__ import annotations

import pytest

from resmem_cli.cli.console import show_value


@pytest.mark.parametrize(
    ("share", "shown"), [(1.0, "100.00 %"), (0.99996, "99.99 %"), (0.5, "50.00 %"), (0.0, "0.00 %")]
)
def test_a_share_that_is_proved_is_never_rounded_up(share: float, shown: str) -> None:
    assert show_value("proved_untouched_by_truncation", share) == shown


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("residual", True, "yes"),
        ("search", {"bits": 4, "residual": False}, "bits: 4, residual: no"),
        ("base_accuracy", 0.5236, "52.36 %"),
        ("gain", 0.0303, "+3.03 points"),
        ("rows", 50_000, "50,000"),
        ("sigma", 0.70674, "0.70674"),
        (
            "answered_by",
            {"all columns": 10_000, "scan": 0},
            "all columns: 10,000 (100.00 %); scan: 0 (0.00 %)",
        ),
    ],
)
def test_a_figure_is_written_in_the_unit_its_name_stands_for(name: str, value: object, shown: str) -> None:
    assert show_value(name, value) == shown
