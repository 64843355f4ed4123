"""Where the gain comes from in `reproduce language`: the folders of the test texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resmem_cli.artifacts.formats import PREDICTIONS
from resmem_cli.artifacts.reader import open_artifact
from resmem_cli.metrics import compare
from resmem_cli.results import Cell, Column, Estimate, ResultTable, Unit
from resmem_cli.stages.reproduce.language_memory import SETTINGS, Steps
from resmem_cli.stages.reproduce.language_tables import WORDS
from resmem_cli.stages.reproduce.language_texts import TokenDocuments

_MOST_FOLDERS = 6
_TOP, _OTHERS = "(no folder)", "(others)"


def where_table(models: Sequence[Steps], test: Path) -> ResultTable:
    """Tell the gain for the tokens of each folder, those of most test tokens first.

    Parameters
    ----------
    models : sequence of Steps
    test : pathlib.Path
        The token ids of the test texts.
    """
    documents = TokenDocuments.read(test)
    folders = folders_of(documents)
    files = np.repeat(documents.names, np.maximum(np.diff(documents.offsets) - 1, 0))
    counts = Counter(folders)
    shown = [name for name, _ in counts.most_common(_MOST_FOLDERS)]
    groups = {name: folders == name for name in shown}
    if len(counts) > len(shown):
        groups[_OTHERS] = ~np.isin(folders, shown)
    if len(counts) > 1:
        most = _gains_most(models[0].folder.path / "tuned.h5", {name: groups[name] for name in shown})
        groups[f"all but {most}"] = ~groups[most]
    columns = [Column("folder", Unit.TEXT), Column("tokens", Unit.COUNT), Column("files", Unit.COUNT)]
    cells: dict[str, list[Cell]] = {
        name: [int(group.sum()), len(np.unique(files[group]))] for name, group in groups.items()
    }
    for steps in models:
        columns.append(Column(f"{steps.size.name} base", Unit.SHARE))
        for settings in SETTINGS:
            columns.append(Column(f"{steps.size.name} gain, {WORDS[settings]}", Unit.GAIN))
            with open_artifact(steps.folder.path / f"{settings}.h5", PREDICTIONS) as file:
                told = [file.read(name) for name in ("labels", "base_predicted", "predicted")]
            for name, group in groups.items():
                gain = compare(*(column[group] for column in told))
                if settings == SETTINGS[0]:
                    cells[name].append(gain.base_accuracy)
                cells[name].append(Estimate(gain.gain, *gain.interval))
    return ResultTable(
        "where",
        "Where the gain comes from: the test texts by folder",
        tuple(columns),
        tuple((name, *row) for name, row in cells.items()),
        (
            "Texts of one folder may be near copies of each other, as the tables of `encodings` in Python's "
            "library are; split by file, such a test text has its likes in memory, and gains most.",
        ),
    )


def _gains_most(predictions: Path, groups: Mapping[str, NDArray[np.bool_]]) -> str:
    with open_artifact(predictions, PREDICTIONS) as file:
        told = [file.read(name) for name in ("labels", "base_predicted", "predicted")]
    gains = {name: compare(*(column[group] for column in told)).gain for name, group in groups.items()}
    return max(gains, key=lambda name: gains[name])


def folders_of(documents: TokenDocuments) -> NDArray[np.str_]:
    """Give the first folder of the text of each token that has a next one."""
    names = [name.decode(errors="replace").split("/") for name in documents.names]
    first = np.array([parts[0] if len(parts) > 1 else _TOP for parts in names])
    return np.repeat(first, np.maximum(np.diff(documents.offsets) - 1, 0))
