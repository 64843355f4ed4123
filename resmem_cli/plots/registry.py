"""The figures known by name, each with its title, its caption and the part of a report it is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Draw = Callable[[Mapping[str, Any]], Figure | None]


class Part(StrEnum):
    """What a figure is drawn from."""

    REPORT = "report"
    RUN = "run"
    TUNING = "tuning"
    STUDY = "study"
    """Of `theory` or `reproduce`; each of its figures belongs to one study."""


@dataclass(frozen=True)
class Recipe:
    """How to draw one figure.

    Attributes
    ----------
    name : str
        Also the file's name.
    title, caption : str
        One line, and what the reader should know to read the figure.
    part : Part
        What `draw` is given.
    draw : callable
        Gives the figure, or None if the part lacks the numbers for it.
    study : str
        Which study it belongs to, such as `theory`; empty for other parts.
    """

    name: str
    title: str
    caption: str
    part: Part
    draw: Draw
    study: str = ""


RECIPES: dict[str, Recipe] = {}


def recipe(name: str, *, part: Part, title: str, caption: str, study: str = "") -> Callable[[Draw], Draw]:
    """Register a drawing function; figures appear in the order in which they are registered."""

    def register(draw: Draw) -> Draw:
        RECIPES[name] = Recipe(name, title, caption, part, draw, study)
        return draw

    return register


def names_of(part: Part) -> list[str]:
    """Name the figures drawn from one part, in order."""
    return [name for name, one in RECIPES.items() if one.part is part]
