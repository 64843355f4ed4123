"""Registries are filled, or it is said why not."""

from __future__ import annotations

import os
import pkgutil

import pytest

from resmem_cli.registry import import_modules


def test_a_folder_that_can_not_be_read_is_not_taken_for_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> list[str]:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(pkgutil, "iter_modules", lambda path: iter(()))
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(OSError, match="Cannot allocate"):
        import_modules("resmem_cli.indexes")
