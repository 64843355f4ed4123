"""How figures are written for people."""

from __future__ import annotations

import json
import re

import pytest

from resmem_cli.cli import console
from resmem_cli.cli.console import show_value
from resmem_cli.errors import DataError
from resmem_cli.types import StageResult


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


def test_what_steers_a_terminal_is_written_as_json_writes_it(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[31mb\x9bc\u202ed\r\u200de\tf"
    shown = r"a\u001b[31mb\u009bc\u202ed\u000d" + "\u200de\tf"
    console.emit(name)
    console.emit_table(("name", "n"), [(name, "1")])
    console.notice(name)
    told = capsys.readouterr()
    assert told.out.startswith(f"{shown}\n")
    assert told.out.count(r"a\u001b[31mb\u009bc") == 2
    assert told.err == f"resmem: {shown}\n"
    assert str(DataError("no such key", found=name)) == (
        "no such key (found " + r"a\u001b[31mb\u009bc\u202ed" + " \u200de f)"
    )
    console.emit_json(StageResult("info", None, {"name": name}))
    document = capsys.readouterr().out
    assert json.loads(document)["result"]["name"] == name
    assert not re.search("[\x1b\x9b\u202e]", document)
