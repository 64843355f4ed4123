"""The figures known by name, each with its title, its caption and the part of a report it is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from resmem_cli.registry import import_modules

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


_RECIPES: dict[str, Recipe] = {}


def recipe(name: str, *, part: Part, title: str, caption: str, study: str = "") -> Callable[[Draw], Draw]:
    """Register a drawing function; figures appear by module, then in the order of registration."""

    def register(draw: Draw) -> Draw:
        _RECIPES[name] = Recipe(name, title, caption, part, draw, study)
        return draw

    return register


@cache
def recipes() -> tuple[Recipe, ...]:
    """Give every figure, by module and then in the module's order; importing the modules registers them."""
    import_modules(__name__.rpartition(".")[0])
    # Whatever was imported first. A `partial` has no module, its function has.
    return tuple(sorted(_RECIPES.values(), key=lambda one: getattr(one.draw, "func", one.draw).__module__))


def names_of(part: Part) -> list[str]:
    """Name the figures drawn from one part, in order."""
    return [one.name for one in recipes() if one.part is part]
